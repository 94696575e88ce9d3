//! Manifests and indexes: which configuration and which layers make an image.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::digest::Digest;

/// Every kind of manifest there is, for `Accept`. Schema 1 is among them so
/// that a registry answers with it and not with "not found".
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.1, \
     application/vnd.docker.distribution.manifest.v1+json;q=0.1";

/// Largest manifest or index (the distribution specification asks registries
/// to take at least 4 MiB, and clients expect no more).
pub(super) const MANIFEST_LIMIT: u64 = 4 << 20;
/// Largest configuration.
pub(super) const CONFIG_LIMIT: u64 = 8 << 20;
/// Most layers of an image; the kernel takes 500 in one overlay.
pub const LAYERS_LIMIT: usize = 500;
/// The name that an OCI layout's index gives to an image.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Points at content.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: Option<String>,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// The tag that an OCI layout's index gives it.
    pub(super) fn tag(&self) -> Option<&str> {
        self.annotations.as_ref()?.get(REF_NAME).map(String::as_str)
    }
}

impl Descriptor {
    /// The whole name of an image in a layout: containerd's, or the tag where
    /// that is one.
    pub(super) fn name(&self) -> Option<String> {
        let annotations = self.annotations.as_ref()?;
        let name = annotations.get("io.containerd.image.name").or_else(|| {
            let name = annotations.get(REF_NAME)?;
            // A bare tag names no image.
            name.contains([':', '/']).then_some(name)
        });
        name.cloned()
    }
}

/// Operating system and processor, as Go names them.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Platform {
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) variant: Option<String>,
}

impl Platform {
    /// This machine's.
    pub(super) fn own() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Reads `os/architecture[/variant]`, or an architecture for Linux, in the
    /// names of Go or of uname(2).
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts.as_slice() {
            ["linux"] => return Some(Self::own()),
            [architecture] => ("linux", *architecture, None),
            [os, architecture] => (*os, *architecture, None),
            [os, architecture, variant] => (*os, *architecture, Some(*variant)),
            _ => return None,
        };
        let plain = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        };
        if !plain(os) || !plain(architecture) || !variant.is_none_or(plain) {
            return None;
        }
        let (architecture, usual) = match architecture {
            "x86_64" | "x86-64" | "amd64" => ("amd64", None),
            "i386" | "i686" | "386" => ("386", None),
            "aarch64" | "arm64" => ("arm64", Some("v8")),
            "armhf" | "arm" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            other => (other, None),
        };
        Some(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.or(usual).map(str::to_owned),
        })
    }

    /// Whether something for `offered` will do where this is asked for.
    pub(super) fn takes(&self, offered: &Self) -> bool {
        self.rank(offered).is_some()
    }

    /// How well something for `offered` runs here: lower is better, `None` not at all.
    fn rank(&self, offered: &Self) -> Option<u32> {
        // What uname(2) says where Go's names belong.
        let architecture = match offered.architecture.as_str() {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            "armhf" => "arm",
            other => other,
        };
        if offered.os != self.os || architecture != self.architecture {
            return None;
        }
        let level = |variant: &str| {
            variant
                .strip_prefix('v')
                .and_then(|level| level.parse::<u32>().ok())
        };
        let offered = offered.variant.as_deref().filter(|variant| !variant.is_empty());
        match (self.variant.as_deref().and_then(level), offered.map(level)) {
            (_, None) => Some(1),
            // Without a variant of our own only the baseline is safe.
            (None, Some(Some(1))) => Some(0),
            (Some(own), Some(Some(level))) if level <= own => Some(own - level),
            _ => None,
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref().filter(|variant| !variant.is_empty()) {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// What a registry or layout answers to the question for an image.
#[derive(Clone, Debug)]
pub(super) enum Document {
    /// Several images to choose from.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest {
        config: Descriptor,
        layers: Vec<Descriptor>,
    },
}

/// Reads an index or a manifest. The error says what is wrong with it.
pub(super) fn parse(bytes: &[u8]) -> Result<Document, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Raw {
        #[serde(default)]
        schema_version: u32,
        #[serde(default)]
        manifests: Option<Vec<Descriptor>>,
        #[serde(default)]
        config: Option<Descriptor>,
        #[serde(default)]
        layers: Option<Vec<Descriptor>>,
    }
    let raw: Raw = serde_json::from_slice(bytes).map_err(|error| format!("is malformed: {error}"))?;
    if raw.schema_version == 1 {
        return Err("has the old schema 1, which this program does not read".to_owned());
    }
    match (raw.manifests, raw.config) {
        // A document that is both would mean different things to different readers
        // (CVE-2021-41190).
        (Some(_), Some(_)) => Err("is both an index and a manifest".to_owned()),
        (Some(_), None) if raw.layers.is_some() => Err("is both an index and a manifest".to_owned()),
        (Some(manifests), None) => Ok(Document::Index(manifests)),
        (None, Some(config)) => {
            let kind = config.media_type.as_deref().unwrap_or_default();
            let image = matches!(
                kind,
                "" | "application/vnd.oci.image.config.v1+json"
                    | "application/vnd.docker.container.image.v1+json"
                    | "application/octet-stream"
            );
            if !image {
                return Err(format!("is not a container image but {kind}"));
            }
            let layers = raw.layers.ok_or_else(|| "has no layers".to_owned())?;
            if layers.len() > LAYERS_LIMIT {
                return Err(format!("has more than {LAYERS_LIMIT} layers"));
            }
            Ok(Document::Manifest { config, layers })
        }
        (None, None) => Err("is neither a manifest nor an index".to_owned()),
    }
}

/// The entry of an index that runs here: the best platform, the first of equals.
/// The error lists what there is.
pub(super) fn choose(own: &Platform, manifests: &[Descriptor]) -> Result<Descriptor, String> {
    let rank = |descriptor: &&Descriptor| match &descriptor.platform {
        Some(platform) => own.rank(platform),
        // A layout's index often leaves it out; the configuration is checked later.
        None => Some(2),
    };
    let best = manifests
        .iter()
        .filter(|descriptor| rank(descriptor).is_some())
        .min_by_key(|descriptor| rank(descriptor));
    best.cloned().ok_or_else(|| {
        let mut names: Vec<_> = manifests
            .iter()
            .filter_map(|descriptor| descriptor.platform.as_ref())
            // Attestations stand in an index as unknown/unknown.
            .filter(|platform| platform.os != "unknown")
            .map(Platform::to_string)
            .collect();
        names.sort();
        names.dedup();
        if names.is_empty() {
            names.push("nothing".to_owned());
        }
        names.join(", ")
    })
}

/// Whether an image for this platform runs here.
pub(super) fn runs_here(own: &Platform, os: &str, architecture: &str, variant: &str) -> bool {
    let offered = Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: Some(variant.to_owned()),
    };
    own.rank(&offered).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(platforms: &[&str]) -> Vec<Descriptor> {
        let descriptor = |(at, text): (usize, &&str)| {
            let mut parts = text.split('/').map(str::to_owned);
            Descriptor {
                media_type: None,
                digest: Digest::of(text.as_bytes()),
                size: at as u64,
                platform: Some(Platform {
                    os: parts.next().unwrap(),
                    architecture: parts.next().unwrap(),
                    variant: parts.next(),
                }),
                annotations: None,
            }
        };
        platforms.iter().enumerate().map(descriptor).collect()
    }

    fn own(architecture: &str, variant: Option<&str>) -> Platform {
        Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.map(str::to_owned),
        }
    }

    #[test]
    fn the_best_platform_is_chosen() {
        let chosen = |own: &Platform, list: &[&str]| {
            choose(own, &offered(list)).map(|descriptor| list[descriptor.size as usize].to_owned())
        };
        let amd64 = own("amd64", None);
        assert_eq!(
            chosen(&amd64, &["linux/arm64/v8", "windows/amd64", "linux/amd64"]).unwrap(),
            "linux/amd64"
        );
        assert_eq!(
            chosen(&amd64, &["linux/amd64/v3", "linux/amd64"]).unwrap(),
            "linux/amd64"
        );
        assert_eq!(
            chosen(&amd64, &["linux/arm/v7", "linux/amd64/v3", "unknown/unknown"]).unwrap_err(),
            "linux/amd64/v3, linux/arm/v7"
        );
        let arm = own("arm", Some("v7"));
        assert_eq!(
            chosen(&arm, &["linux/arm/v5", "linux/arm/v6", "linux/arm64"]).unwrap(),
            "linux/arm/v6"
        );
        assert_eq!(chosen(&amd64, &["unknown/unknown"]).unwrap_err(), "nothing");
    }

    #[test]
    fn documents() {
        let blob = format!(r#"{{"digest":"{}","size":1}}"#, Digest::of(b""));
        assert!(matches!(
            parse(format!(r#"{{"schemaVersion":2,"manifests":[{blob}]}}"#).as_bytes()),
            Ok(Document::Index(list)) if list.len() == 1
        ));
        assert!(matches!(
            parse(format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[{blob}]}}"#).as_bytes()),
            Ok(Document::Manifest { layers, .. }) if layers.len() == 1
        ));
        for (text, reason) in [
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), "schema 1"),
            (
                format!(r#"{{"manifests":[],"config":{blob},"layers":[]}}"#),
                "both",
            ),
            (r#"{"manifests":[],"layers":[]}"#.to_owned(), "both"),
            ("{}".to_owned(), "neither"),
            ("7".to_owned(), "malformed"),
            (format!(r#"{{"config":{blob}}}"#), "no layers"),
            (
                format!(
                    r#"{{"config":{},"layers":[]}}"#,
                    blob.replace('{', r#"{"mediaType":"application/vnd.cncf.helm.config.v1+json","#)
                ),
                "helm",
            ),
        ] {
            assert!(parse(text.as_bytes()).unwrap_err().contains(reason), "{text}");
        }
    }
}

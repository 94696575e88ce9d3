//! What an `image:` value names: a repository in a registry, or a place on
//! this machine.

use std::fmt;
use std::path::{Path, PathBuf};

use super::digest::Digest;

/// The registry of a reference that names none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// Where [`DEFAULT_REGISTRY`] really answers.
const DEFAULT_HOST: &str = "registry-1.docker.io";
/// Longest `registry/repository`, as the reference grammar of docker has it.
const NAME_LIMIT: usize = 255;
/// Longest tag, as the distribution specification has it.
const TAG_LIMIT: usize = 128;

/// A reference that does not follow the grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("image reference {text:?}: {reason}")]
pub struct ReferenceError {
    /// The reference as written.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A registry.
    Registry(Reference),
    /// `oci:PATH[:TAG]`: an OCI image layout in a directory.
    Layout {
        /// The directory.
        path: PathBuf,
        /// `org.opencontainers.image.ref.name` of the wanted image.
        tag: Option<String>,
    },
    /// `oci-archive:PATH[:TAG]`: an OCI image layout in a tar file, compressed or not.
    LayoutArchive {
        /// The file.
        path: PathBuf,
        /// `org.opencontainers.image.ref.name` of the wanted image.
        tag: Option<String>,
    },
    /// `docker-archive:PATH[:REFERENCE]`: what `docker save` writes, compressed or not.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// Which image of several.
        reference: Option<Reference>,
    },
    /// `rootfs:PATH`: a root file system as it lies there.
    Rootfs {
        /// The directory.
        path: PathBuf,
    },
}

impl Source {
    /// Reads an `image:` value.
    ///
    /// A path ends at the first colon, as it does for the container tools whose
    /// transport names these are; `rootfs:` has nothing after the path, so its
    /// path may hold colons.
    ///
    /// # Errors
    /// [`ReferenceError`] when a path or reference is empty or malformed.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let wrong = |reason| ReferenceError {
            text: text.to_owned(),
            reason,
        };
        let split = |rest: &str| {
            let (path, tag) = match rest.split_once(':') {
                Some((path, tag)) => (path, Some(tag.to_owned())),
                None => (rest, None),
            };
            if path.is_empty() {
                return Err(wrong("the path is empty"));
            }
            if tag.as_deref() == Some("") {
                return Err(wrong("nothing follows the colon after the path"));
            }
            if path.contains('\0') || tag.as_deref().is_some_and(|tag| tag.contains('\0')) {
                return Err(wrong("a path cannot hold a NUL byte"));
            }
            Ok((PathBuf::from(path), tag))
        };
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, tag) = split(rest)?;
            return Ok(Self::Layout { path, tag });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (path, tag) = split(rest)?;
            return Ok(Self::LayoutArchive { path, tag });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (path, reference) = split(rest)?;
            let reference = match reference {
                Some(reference) => Some(Reference::parse(&reference)?),
                None => None,
            };
            return Ok(Self::DockerArchive { path, reference });
        }
        if let Some(path) = text.strip_prefix("rootfs:") {
            if path.is_empty() {
                return Err(wrong("the path is empty"));
            }
            if path.contains('\0') {
                return Err(wrong("a path cannot hold a NUL byte"));
            }
            return Ok(Self::Rootfs { path: path.into() });
        }
        Reference::parse(text).map(Self::Registry)
    }

    /// The file or directory of a source on this machine.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Registry(_) => None,
            Self::Layout { path, .. }
            | Self::LayoutArchive { path, .. }
            | Self::DockerArchive { path, .. }
            | Self::Rootfs { path } => Some(path),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = |tag: &Option<String>| tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Layout { path, tag } => write!(f, "oci:{}{}", path.display(), tail(tag)),
            Self::LayoutArchive { path, tag } => write!(f, "oci-archive:{}{}", path.display(), tail(tag)),
            Self::DockerArchive { path, reference } => {
                let reference = reference
                    .as_ref()
                    .map(|one| format!(":{one}"))
                    .unwrap_or_default();
                write!(f, "docker-archive:{}{reference}", path.display())
            }
            Self::Rootfs { path } => write!(f, "rootfs:{}", path.display()),
        }
    }
}

/// An image in a registry: `[registry[:port]/]path[:tag][@digest]`, with
/// docker's defaults filled in (`docker.io`, `library/`, `latest`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a reference.
    ///
    /// # Errors
    /// [`ReferenceError`] when it does not follow docker's grammar.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        let wrong = |reason| ReferenceError {
            text: text.to_owned(),
            reason,
        };
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        let (name, digest) = match text.split_once('@') {
            None => (text, None),
            Some((name, digest)) => {
                let digest = Digest::parse(digest)
                    .ok_or_else(|| wrong("the part after @ must be sha256: and 64 hexadecimal digits"))?;
                (name, Some(digest))
            }
        };
        // A colon after the last slash starts a tag; one before it belongs to the port.
        let start = name.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match name[start..].find(':') {
            None => (name, None),
            Some(colon) => (&name[..start + colon], Some(&name[start + colon + 1..])),
        };
        if let Some(tag) = tag {
            let mut bytes = tag.bytes();
            let first = bytes.next().ok_or_else(|| wrong("the tag is empty"))?;
            if !(first.is_ascii_alphanumeric() || first == b'_') {
                return Err(wrong("a tag starts with a letter, a digit or _"));
            }
            if !bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
                return Err(wrong("a tag is made of letters, digits, _, . and -"));
            }
            if tag.len() > TAG_LIMIT {
                return Err(wrong("a tag has at most 128 characters"));
            }
        }
        let (registry, path) = match name.split_once('/') {
            Some((host, path)) if is_host(host) => (host, path),
            _ => (DEFAULT_REGISTRY, name),
        };
        if path.is_empty() {
            return Err(wrong("the name of the image is missing"));
        }
        // A host that only upper case tells from a repository keeps it.
        let lower = registry.to_ascii_lowercase();
        let registry = match lower.as_str() {
            "index.docker.io" => DEFAULT_REGISTRY.to_owned(),
            host if is_host(host) => lower,
            _ => registry.to_owned(),
        };
        check_registry(&registry).map_err(wrong)?;
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        for component in repository.split('/') {
            check_component(component).map_err(wrong)?;
        }
        if registry.len() + 1 + repository.len() > NAME_LIMIT {
            return Err(wrong("the name has more than 255 characters"));
        }
        if tag.is_none() && digest.is_none() && is_hex_id(path) && registry == DEFAULT_REGISTRY {
            return Err(wrong("64 hexadecimal digits are an image id, not a name"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some("latest".to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self {
            registry,
            repository,
            tag,
            digest,
        })
    }

    /// `docker.io`, `localhost:5000`: the name of the registry, lower case.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Host and port that answer for the registry.
    pub fn host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY {
            DEFAULT_HOST
        } else {
            &self.registry
        }
    }

    /// The path inside the registry: `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Whether a text can be a tag.
    pub fn is_tag(text: &str) -> bool {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        text.len() <= TAG_LIMIT
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
    }

    /// The tag; `None` when only a digest is given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest; it decides when there is also a tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What a manifest is asked for by: the digest, or else the tag.
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// As people write it: without `docker.io/` and `library/`, where it still
    /// means the same.
    pub fn familiar(&self) -> String {
        let tail = self.tail();
        if self.registry != DEFAULT_REGISTRY {
            return format!("{}/{}{tail}", self.registry, self.repository);
        }
        let short = match self.repository.strip_prefix("library/") {
            Some(rest) if !rest.contains('/') => rest,
            _ => &self.repository,
        };
        // What would be taken for a registry, or for an id, keeps its own.
        let ambiguous = short.split_once('/').is_some_and(|(first, _)| is_host(first))
            || (is_hex_id(short) && tail.is_empty())
            || ["oci", "oci-archive", "docker-archive", "rootfs"].contains(&short);
        if ambiguous {
            return format!("{DEFAULT_REGISTRY}/{short}{tail}");
        }
        format!("{short}{tail}")
    }

    fn tail(&self) -> String {
        let mut text = String::new();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

/// The whole reference: `docker.io/library/nginx:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.tail())
    }
}

/// docker's rule: the part before the first slash is a host when it has a dot
/// or a colon, is `localhost`, or has upper case (which no repository may have).
fn is_host(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':']) || text.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_hex_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn check_registry(text: &str) -> Result<(), &'static str> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest
            .split_once(']')
            .ok_or("the address of the registry lacks its closing bracket")?;
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return Err("the registry is not an IPv6 address");
        }
        match port.strip_prefix(':') {
            None if port.is_empty() => (None, None),
            Some(port) => (None, Some(port)),
            None => return Err("something follows the address of the registry"),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        }
    };
    if let Some(host) = host {
        let label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !host.split('.').all(label) {
            return Err("the name of the registry is not a host name");
        }
    }
    match port.map(str::parse::<u16>) {
        Some(Err(_) | Ok(0)) => Err("the port of the registry is not a number from 1 to 65535"),
        _ if port.is_some_and(|port| port.starts_with('+')) => {
            Err("the port of the registry is not a number from 1 to 65535")
        }
        _ => Ok(()),
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn check_component(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("a part between slashes is empty");
    }
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("the name of an image is lower case");
    }
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !text.bytes().all(|byte| plain(byte) || b"._-".contains(&byte)) {
        return Err("a name is made of lower case letters, digits, ., _, - and /");
    }
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(|&byte| plain(byte));
    if !ends(bytes.first()) || !ends(bytes.last()) {
        return Err("each part of a name starts and ends with a letter or a digit");
    }
    for separator in text.split(|c: char| c.is_ascii_alphanumeric()) {
        let valid = matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-');
        if !valid {
            return Err("letters and digits are separated by one ., one or two _, or some -");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parsed(text: &str) -> String {
        Reference::parse(text).map_or_else(|error| error.to_string(), |reference| reference.to_string())
    }

    #[test]
    fn defaults_are_filled_in_as_docker_does() {
        for (text, whole) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("127.0.0.1:5000/pyapp", "127.0.0.1:5000/pyapp:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("ghcr.io/o/n:v1.0_x-y", "ghcr.io/o/n:v1.0_x-y"),
            ("LOCAL/a", "LOCAL/a:latest"),
            ("a__b/c---d.e_f", "docker.io/a__b/c---d.e_f:latest"),
            ("my-registry:80/a", "my-registry:80/a:latest"),
        ] {
            assert_eq!(parsed(text), whole, "{text}");
        }
        assert_eq!(
            parsed(&format!("nginx@{DIGEST}")),
            format!("docker.io/library/nginx@{DIGEST}")
        );
        let both = Reference::parse(&format!("nginx:1@{DIGEST}")).unwrap();
        assert_eq!((both.tag(), both.version().as_str()), (Some("1"), DIGEST));
        assert_eq!(both.familiar(), format!("nginx:1@{DIGEST}"));
        assert_eq!(Reference::parse("nginx").unwrap().host(), "registry-1.docker.io");
        assert_eq!(Reference::parse("x.io/a").unwrap().familiar(), "x.io/a:latest");
    }

    #[test]
    fn what_breaks_the_grammar_is_refused_with_its_reason() {
        let long = "a".repeat(256);
        let long_tag = format!("a:{}", "t".repeat(129));
        for (text, reason) in [
            ("", "empty"),
            ("Nginx", "lower case"),
            ("nginx:", "tag is empty"),
            ("nginx:-a", "starts with"),
            ("nginx:a b", "made of"),
            (long_tag.as_str(), "128"),
            (long.as_str(), "255"),
            ("a//b", "empty"),
            ("/a", "empty"),
            ("a/", "empty"),
            ("localhost/", "missing"),
            ("a___b", "separated"),
            ("a._b", "separated"),
            ("-a", "starts and ends"),
            ("a@sha256:abc", "64"),
            ("a@md5:abc", "64"),
            ("host:99999/a", "port"),
            ("host:+80/a", "port"),
            ("host:/a", "port"),
            ("ho_st.com/a", "host name"),
            ("[::1/a", "bracket"),
            ("[xyz]:80/a", "IPv6"),
            ("ä", "made of"),
            (
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "image id",
            ),
        ] {
            let message = parsed(text);
            assert!(
                message.starts_with("image reference ") && message.contains(reason),
                "{text:?}: {message}"
            );
        }
    }

    #[test]
    fn local_sources() {
        for text in [
            "oci:/a/b",
            "oci:/a/b:latest",
            "oci-archive:/a.tar",
            "oci-archive:/a.tar:x:y",
            "docker-archive:/a.tar",
            "rootfs:/",
            "rootfs:/with:colon",
        ] {
            assert_eq!(Source::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            Source::parse("docker-archive:/a.tar:busybox")
                .unwrap()
                .to_string(),
            "docker-archive:/a.tar:docker.io/library/busybox:latest"
        );
        for text in [
            "oci:",
            "oci::tag",
            "oci:/a:",
            "rootfs:",
            "docker-archive:/a:B",
            "oci:/a\0b",
        ] {
            assert!(Source::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _ = Source::parse(&text);
        }

        #[test]
        fn what_is_printed_reads_back_the_same(
            text in "([a-z0-9]{1,5}(\\.[a-z]{1,3})?(:[1-9][0-9]{0,3})?/)?[a-z0-9]{1,4}([._-][a-z0-9]{1,3})?(:[a-zA-Z0-9_][a-z.-]{0,5})?"
        ) {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }
    }
}

//! What an image says about how its containers run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::digest::Digest;

/// How containers of an image run: the `config` object of the OCI image
/// configuration with Docker's extensions (`Healthcheck`, `Shell`), and the
/// platform. A field that is missing or `null` is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    /// Program.
    #[serde(deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Arguments, or program and arguments when there is no entry point.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// `NAME=value`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers; empty is root.
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    /// Empty is `/`.
    #[serde(deserialize_with = "or_default")]
    pub working_dir: String,
    /// Paths that want a volume of their own.
    #[serde(deserialize_with = "keys")]
    pub volumes: BTreeSet<String>,
    /// `port/protocol`.
    #[serde(deserialize_with = "keys")]
    pub exposed_ports: BTreeSet<String>,
    /// Labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// `SIGQUIT`, or a number.
    #[serde(deserialize_with = "non_empty")]
    pub stop_signal: Option<String>,
    /// Docker's extension.
    pub healthcheck: Option<ImageHealthcheck>,
    /// Docker's extension: what `CMD-SHELL` runs by; empty is `/bin/sh -c`.
    #[serde(deserialize_with = "or_default")]
    pub shell: Vec<String>,
    /// As Go names it: `amd64`.
    #[serde(skip)]
    pub architecture: String,
    /// `linux`.
    #[serde(skip)]
    pub os: String,
    /// `v8`; often empty.
    #[serde(skip)]
    pub variant: String,
}

/// A health check as the image has it. `None` is Docker's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageHealthcheck {
    /// Empty: inherit; `["NONE"]`: off; `["CMD", …]`; `["CMD-SHELL", "…"]`.
    #[serde(deserialize_with = "or_default")]
    pub test: Vec<String>,
    /// Time between probes.
    #[serde(deserialize_with = "nanoseconds")]
    pub interval: Option<Duration>,
    /// Time after which a probe counts as failed.
    #[serde(deserialize_with = "nanoseconds")]
    pub timeout: Option<Duration>,
    /// Failures do not count for this long after the start.
    #[serde(deserialize_with = "nanoseconds")]
    pub start_period: Option<Duration>,
    /// Time between probes in the start period.
    #[serde(deserialize_with = "nanoseconds")]
    pub start_interval: Option<Duration>,
    /// Consecutive failures before *unhealthy*.
    #[serde(deserialize_with = "positive")]
    pub retries: Option<u32>,
}

/// The whole configuration document, as far as it is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    #[serde(deserialize_with = "or_default")]
    architecture: String,
    #[serde(deserialize_with = "or_default")]
    os: String,
    #[serde(deserialize_with = "or_default")]
    variant: String,
    #[serde(deserialize_with = "or_default")]
    config: ImageConfig,
    #[serde(deserialize_with = "or_default")]
    rootfs: Rootfs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rootfs {
    #[serde(deserialize_with = "or_default")]
    diff_ids: Vec<Digest>,
}

/// Reads a configuration document: what containers need, and the digests of the
/// decompressed layers, base first. The error says what is wrong with it.
pub(super) fn parse(bytes: &[u8]) -> Result<(ImageConfig, Vec<Digest>), String> {
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| format!("is malformed: {error}"))?;
    let config = ImageConfig {
        architecture: document.architecture,
        os: document.os,
        variant: document.variant,
        ..document.config
    };
    Ok((config, document.rootfs.diff_ids))
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn non_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// Go writes a set as an object of empty objects.
fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    let map = Option::<BTreeMap<String, serde::de::IgnoredAny>>::deserialize(deserializer)?;
    Ok(map.unwrap_or_default().into_keys().collect())
}

/// Nanoseconds; 0 is Docker's default.
fn nanoseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let value = Option::<u64>::deserialize(deserializer)?;
    Ok(value.filter(|&value| value > 0).map(Duration::from_nanos))
}

fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Ok(Option::<u32>::deserialize(deserializer)?.filter(|&value| value > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_writes() {
        let (config, layers) = parse(
            br#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"Entrypoint":["/e"],
                "Env":["A=b"],"User":"","Volumes":{"/data":{}},"ExposedPorts":{"80/tcp":{}},"Labels":null,
                "StopSignal":"SIGQUIT","Healthcheck":{"Test":["CMD","x"],"Interval":2000000000,"Retries":0},
                "OnBuild":null,"WorkingDir":"/w"},
                "rootfs":{"type":"layers","diff_ids":
                ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"history":[]}"#,
        )
        .unwrap();
        assert_eq!(layers, [Digest::of(b"")]);
        assert_eq!(config.entrypoint, ["/e"]);
        assert!(config.cmd.is_empty() && config.labels.is_empty());
        assert_eq!(config.volumes, BTreeSet::from(["/data".to_owned()]));
        assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(
            config.healthcheck.unwrap(),
            ImageHealthcheck {
                test: vec!["CMD".into(), "x".into()],
                interval: Some(Duration::from_secs(2)),
                ..ImageHealthcheck::default()
            }
        );
        assert_eq!(
            (config.architecture.as_str(), config.os.as_str()),
            ("amd64", "linux")
        );
    }

    #[test]
    fn a_damaged_document_is_an_error() {
        assert!(parse(b"{").unwrap_err().starts_with("is malformed"));
        assert!(parse(br#"{"rootfs":{"diff_ids":["sha256:1"]}}"#).is_err());
        assert!(parse(br#"{"config":{"Env":"A=b"}}"#).is_err());
        assert!(parse(b"{}").unwrap().1.is_empty());
    }
}

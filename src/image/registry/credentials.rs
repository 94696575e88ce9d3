//! Who we are to a registry: `config.json` as `docker login` writes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::super::reference::DEFAULT_REGISTRY;

/// What Docker files its own registry under.
const DEFAULT_KEY: &str = "https://index.docker.io/v1/";

/// What is known about one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) login: Option<Login>,
    /// The helper program that is configured for it; this program does not call any.
    pub(super) helper: Option<String>,
}

/// A secret to be shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    /// Base64 of `user:password`, as Basic authorization wants it.
    Basic(String),
    /// A token that only the token server takes (`identitytoken`).
    Identity(String),
    /// A token for the registry itself (`registrytoken`).
    Bearer(String),
}

/// Secrets are not printed.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Basic(_) => "Basic(…)",
            Self::Identity(_) => "Identity(…)",
            Self::Bearer(_) => "Bearer(…)",
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: Option<BTreeMap<String, Entry>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// Where the file is when nothing else is said.
pub(super) fn default_file() -> Option<PathBuf> {
    let folder = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let folder = folder("DOCKER_CONFIG").or_else(|| Some(folder("HOME")?.join(".docker")));
    Some(folder?.join("config.json"))
}

/// Reads what a file says about a registry; nothing when there is no file. The
/// error is a sentence about the file.
pub(super) fn read(file: &Path, registry: &str) -> Result<Credentials, String> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Credentials::default()),
        Err(error) => {
            return Err(format!(
                "registry credentials in {} cannot be read: {error}",
                file.display()
            ));
        }
    };
    parse(&bytes, registry).map_err(|error| format!("registry credentials in {}: {error}", file.display()))
}

fn parse(bytes: &[u8], registry: &str) -> Result<Credentials, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let named = |key: &str| {
        key == registry
            || (registry == DEFAULT_REGISTRY && key == DEFAULT_KEY)
            || bare(key) == bare_registry(registry)
    };
    let helpers = file.cred_helpers.unwrap_or_default();
    let helper = helpers
        .into_iter()
        .find(|(key, _)| named(key))
        .map(|(_, helper)| helper)
        .or(file.creds_store)
        .filter(|helper| !helper.is_empty());
    let auths = file.auths.unwrap_or_default();
    // The exact key first: stripped ones may name several paths of one host.
    let entry = auths
        .iter()
        .find(|(key, _)| *key == registry || (registry == DEFAULT_REGISTRY && *key == DEFAULT_KEY))
        .or_else(|| auths.iter().find(|(key, _)| named(key)))
        .map(|(_, entry)| entry);
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let login = match entry {
        None => None,
        Some(entry) => {
            if let Some(token) = filled(&entry.registrytoken) {
                Some(Login::Bearer(token))
            } else if let Some(token) = filled(&entry.identitytoken) {
                Some(Login::Identity(token))
            } else if let Some(auth) = filled(&entry.auth) {
                let plain = base64_decode(auth.trim()).ok_or("auth is not base64")?;
                // Docker ends passwords of old with zeros.
                let plain = plain.strip_suffix(b"\0").unwrap_or(&plain);
                if !plain.contains(&b':') {
                    return Err("auth is not user:password".to_owned());
                }
                Some(Login::Basic(base64_encode(plain)))
            } else {
                match (filled(&entry.username), filled(&entry.password)) {
                    (Some(user), Some(password)) => Some(Login::Basic(base64_encode(
                        format!("{user}:{password}").as_bytes(),
                    ))),
                    _ => None,
                }
            }
        }
    };
    Ok(Credentials { login, helper })
}

/// A key without scheme and path.
fn bare(key: &str) -> &str {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    key.split('/').next().unwrap_or_default()
}

fn bare_registry(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY {
        "index.docker.io"
    } else {
        registry
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, section 4.
pub(super) fn base64_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0u8; 3];
        for (place, byte) in group.iter_mut().zip(chunk) {
            *place = *byte;
        }
        let value = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for at in 0..4 {
            if at <= chunk.len() {
                let digit = (value >> (18 - 6 * at)) & 63;
                text.push(char::from(DIGITS.get(digit as usize).copied().unwrap_or(b'=')));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// RFC 4648, section 4; missing padding is fine.
fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    if digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let mut value = 0u32;
    let mut bits = 0;
    for digit in digits {
        let digit = DIGITS.iter().position(|known| known == digit)?;
        value = value << 6 | u32::try_from(digit).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((value >> bits & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(text: &str) -> Option<Login> {
        Some(Login::Basic(base64_encode(text.as_bytes())))
    }

    #[test]
    fn base64() {
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64_encode(plain.as_bytes()), text);
            assert_eq!(base64_decode(text).unwrap(), plain.as_bytes());
        }
        assert_eq!(base64_decode("Zg").unwrap(), b"f");
        assert_eq!(base64_decode("Z"), None);
        assert_eq!(base64_decode("Zm9*"), None);
    }

    #[test]
    fn keys_are_found_as_docker_finds_them() {
        let file = br#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"aHViOnB3"},
            "https://old.example/v1/":{"username":"a","password":"b:c"},
            "127.0.0.1:5000":{"auth":"dGVzdDpzZWNyZXQ="},
            "token.example":{"auth":"eDp5","identitytoken":"idt"},
            "raw.example":{"registrytoken":"rt"},
            "helped.example":{}},
            "credHelpers":{"helped.example":"gcloud"}}"#;
        let of = |registry| parse(file, registry).unwrap();
        assert_eq!(of("docker.io").login, basic("hub:pw"));
        assert_eq!(of("old.example").login, basic("a:b:c"));
        assert_eq!(of("127.0.0.1:5000").login, basic("test:secret"));
        assert_eq!(of("token.example").login, Some(Login::Identity("idt".into())));
        assert_eq!(of("raw.example").login, Some(Login::Bearer("rt".into())));
        assert_eq!(of("helped.example").helper.as_deref(), Some("gcloud"));
        assert_eq!(of("127.0.0.1"), Credentials::default());
        assert_eq!(
            parse(br#"{"credsStore":"desktop"}"#, "x.y")
                .unwrap()
                .helper
                .as_deref(),
            Some("desktop")
        );
        assert!(
            parse(br#"{"auths":{"x.y":{"auth":"!"}}}"#, "x.y")
                .unwrap_err()
                .contains("base64")
        );
        assert!(parse(b"{", "x.y").is_err());
        assert_eq!(format!("{:?}", of("docker.io").login), "Some(Basic(…))");
    }
}

//! Who we are to a registry: what `docker login` and `podman login` keep, and
//! credential helpers by their protocol.
//!
//! Files are looked through in this order, and the first that knows the
//! registry counts: `$REGISTRY_AUTH_FILE`, docker's `config.json` (in
//! `$DOCKER_CONFIG` or `~/.docker`), `$XDG_RUNTIME_DIR/containers/auth.json`,
//! `/run/containers/UID/auth.json`, `~/.config/containers/auth.json`. In a file
//! `credHelpers` comes before `credsStore`, and that before `auths`; keys with a
//! path (`quay.io/team`) before the bare registry, the longest first.
//!
//! A helper is the program `docker-credential-NAME` with `get`, `store` or
//! `erase` as its argument and JSON on its standard streams
//! (docker/docker-credential-helpers).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::reference::DEFAULT_REGISTRY;

/// What Docker files its own registry under.
const DEFAULT_KEY: &str = "https://index.docker.io/v1/";
/// The user name by which a helper says that its secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// What is known about one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) login: Option<Login>,
    /// Why there is none although one is configured.
    pub(super) problems: Vec<String>,
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

impl Login {
    /// Of a user and a password.
    pub(super) fn basic(user: &str, password: &str) -> Self {
        Self::Basic(base64_encode(format!("{user}:{password}").as_bytes()))
    }
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

fn folder(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// The file that a login is written to when nothing else is said.
pub(super) fn docker_file() -> Option<PathBuf> {
    let folder = folder("DOCKER_CONFIG").or_else(|| Some(folder("HOME")?.join(".docker")));
    Some(folder?.join("config.json"))
}

/// Every file that may know a registry, in order.
fn files() -> Vec<PathBuf> {
    let mut files: Vec<_> = folder("REGISTRY_AUTH_FILE").into_iter().collect();
    files.extend(docker_file());
    files.extend(folder("XDG_RUNTIME_DIR").map(|at| at.join("containers/auth.json")));
    let own = rustix::process::geteuid().as_raw();
    files.push(format!("/run/containers/{own}/auth.json").into());
    files.extend(folder("HOME").map(|at| at.join(".config/containers/auth.json")));
    files
}

/// What is known about a repository of a registry. Calls helper programs, and
/// so may take a while. `only` is the one file to look into.
pub(super) fn find(only: Option<&Path>, registry: &str, repository: &str) -> Credentials {
    let files = only.map_or_else(files, |only| vec![only.to_owned()]);
    let mut problems = Vec::new();
    for file in files {
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if is_absent(&error) => continue,
            Err(error) => {
                problems.push(format!(
                    "registry credentials in {} cannot be read: {error}",
                    file.display()
                ));
                continue;
            }
        };
        let say = |error: String| format!("registry credentials in {}: {error}", file.display());
        let found = match parse(&bytes, registry, repository) {
            Ok(found) => found,
            Err(error) => {
                problems.push(say(error));
                continue;
            }
        };
        if let Some(helper) = &found.helper {
            match get(helper, server(registry)) {
                Ok(Some(login)) => {
                    return Credentials {
                        login: Some(login),
                        problems,
                    };
                }
                Ok(None) => {}
                Err(error) => problems.push(say(error)),
            }
        }
        if found.login.is_some() {
            return Credentials {
                login: found.login,
                problems,
            };
        }
    }
    Credentials {
        login: None,
        problems,
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
    )
}

/// What one file says about a registry.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    login: Option<Login>,
    helper: Option<String>,
}

fn parse(bytes: &[u8], registry: &str, repository: &str) -> Result<Found, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let helper = file
        .cred_helpers
        .unwrap_or_default()
        .into_iter()
        .find(|(key, _)| named(key, registry))
        .map(|(_, helper)| helper)
        .or(file.creds_store)
        .filter(|helper| !helper.is_empty());
    let auths = file.auths.unwrap_or_default();
    let whole = format!("{registry}/{repository}");
    // A key with a path is for what is below it.
    let below = |key: &str| {
        key.contains('/')
            && !key.contains("://")
            && whole
                .strip_prefix(key)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let entry = auths
        .iter()
        .filter(|(key, _)| below(key))
        .max_by_key(|(key, _)| key.len())
        // The exact key first: stripped ones may name several paths of one host.
        .or_else(|| {
            auths
                .iter()
                .find(|(key, _)| *key == registry || (registry == DEFAULT_REGISTRY && *key == DEFAULT_KEY))
        })
        .or_else(|| auths.iter().find(|(key, _)| named(key, registry)))
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
                    (Some(user), Some(password)) => Some(Login::basic(&user, &password)),
                    _ => None,
                }
            }
        }
    };
    Ok(Found { login, helper })
}

/// Whether a key of a file is for a registry.
fn named(key: &str, registry: &str) -> bool {
    let whole = if registry == DEFAULT_REGISTRY {
        "index.docker.io"
    } else {
        registry
    };
    // Paths are for what is below them, but those of the first protocol.
    let path = key.split_once("://").map_or(key, |(_, rest)| rest);
    let plain = path
        .split_once('/')
        .is_none_or(|(_, rest)| matches!(rest, "" | "v1" | "v1/" | "v2" | "v2/"));
    key == registry || plain && path.split('/').next().is_some_and(|host| host == whole)
}

/// What a registry is called by helpers, and in docker's file.
fn server(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY {
        DEFAULT_KEY
    } else {
        registry
    }
}

/// Asks a helper; `None` when it knows nothing of the server.
fn get(helper: &str, server: &str) -> Result<Option<Login>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Secret {
        #[serde(default)]
        username: String,
        #[serde(default)]
        secret: String,
    }
    let output = match call(helper, "get", server.as_bytes()) {
        Ok(output) => output,
        Err(Refused::Says(text)) if text.contains("credentials not found") => return Ok(None),
        Err(Refused::Says(text)) => return Err(format!("docker-credential-{helper} fails: {text}")),
        Err(Refused::Cannot(text)) => return Err(text),
    };
    let secret: Secret = serde_json::from_slice(&output)
        .map_err(|error| format!("docker-credential-{helper} answers what cannot be read: {error}"))?;
    Ok(match secret {
        Secret { secret, .. } if secret.is_empty() => None,
        Secret { username, secret } if username == TOKEN_USER => Some(Login::Identity(secret)),
        Secret { username, secret } => Some(Login::basic(&username, &secret)),
    })
}

/// Why a helper gave no answer.
enum Refused {
    /// It could not be run.
    Cannot(String),
    /// It ended with an error, and said this.
    Says(String),
}

fn call(helper: &str, verb: &str, input: &[u8]) -> Result<Vec<u8>, Refused> {
    let program = format!("docker-credential-{helper}");
    // A name, not a path: it comes from a file.
    if helper.contains('/') {
        return Err(Refused::Cannot(format!("{program} is no name of a program")));
    }
    let cannot = |error: std::io::Error| {
        Refused::Cannot(if is_absent(&error) {
            format!("the credential helper {program} is not installed")
        } else {
            format!("run {program}: {error}")
        })
    };
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input says why when it ends.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(cannot)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    // Helpers say what is wrong on standard output.
    let says = [output.stdout, output.stderr].concat();
    let says: String = String::from_utf8_lossy(&says)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect();
    Err(Refused::Says(says.trim().to_owned()))
}

/// What to keep of a login.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep<'a> {
    /// A user name and a password.
    Password(&'a str, &'a str),
    /// A user name and an identity token.
    Token(&'a str, &'a str),
}

/// Keeps a login in a file, or with the helper that the file names for the
/// registry. Says in one sentence where it went.
pub(super) fn keep(file: &Path, registry: &str, what: Keep<'_>) -> Result<String, String> {
    change(file, |document| {
        let server = server(registry);
        let helper = helper_of(document, registry);
        let mut entry = Map::new();
        if let Some(helper) = &helper {
            let (user, secret) = match what {
                Keep::Password(user, password) => (user, password),
                Keep::Token(_, token) => (TOKEN_USER, token),
            };
            let secret = serde_json::json!({"ServerURL": server, "Username": user, "Secret": secret});
            call(helper, "store", secret.to_string().as_bytes()).map_err(|error| match error {
                Refused::Cannot(text) => text,
                Refused::Says(text) => format!("docker-credential-{helper} fails: {text}"),
            })?;
        } else {
            let (user, password) = match what {
                Keep::Password(user, password) => (user, password),
                Keep::Token(user, token) => {
                    entry.insert("identitytoken".to_owned(), token.into());
                    (user, "")
                }
            };
            let auth = base64_encode(format!("{user}:{password}").as_bytes());
            entry.insert("auth".to_owned(), auth.into());
        }
        auths(document)?.insert(server.to_owned(), Value::Object(entry));
        Ok(match helper {
            Some(helper) => format!("the login is kept by docker-credential-{helper}"),
            None => format!("the password is kept unencrypted in {}", file.display()),
        })
    })
}

/// Forgets a login; `false` when there was none.
pub(super) fn forget(file: &Path, registry: &str) -> Result<bool, String> {
    if !file.exists() {
        return Ok(false);
    }
    change(file, |document| {
        let mut known = false;
        if let Some(helper) = helper_of(document, registry) {
            match call(&helper, "erase", server(registry).as_bytes()) {
                Ok(_) => known = true,
                Err(Refused::Says(text)) if text.contains("credentials not found") => {}
                Err(Refused::Says(text)) => return Err(format!("docker-credential-{helper} fails: {text}")),
                Err(Refused::Cannot(text)) => return Err(text),
            }
        }
        let auths = auths(document)?;
        let before = auths.len();
        auths.retain(|key, _| !named(key, registry) && key != server(registry));
        Ok(known || auths.len() < before)
    })
}

fn helper_of(document: &Map<String, Value>, registry: &str) -> Option<String> {
    let own = document.get("credHelpers").and_then(Value::as_object);
    let own = own.and_then(|helpers| helpers.iter().find(|(key, _)| named(key, registry)));
    let helper = own
        .map(|(_, helper)| helper)
        .or_else(|| document.get("credsStore"));
    helper
        .and_then(Value::as_str)
        .filter(|helper| !helper.is_empty())
        .map(str::to_owned)
}

fn auths(document: &mut Map<String, Value>) -> Result<&mut Map<String, Value>, String> {
    document
        .entry("auths")
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
        .ok_or_else(|| "auths is not an object".to_owned())
}

/// Changes a file, leaving alone what is not ours; nobody ever reads a half of it.
fn change<T>(
    file: &Path,
    edit: impl FnOnce(&mut Map<String, Value>) -> Result<T, String>,
) -> Result<T, String> {
    let say = |error: &dyn std::fmt::Display| format!("registry credentials in {}: {error}", file.display());
    // Where a link leads is what is replaced.
    let file = &std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let mut document: Map<String, Value> = match std::fs::read(file) {
        Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => Map::new(),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| say(&error))?,
        Err(error) if is_absent(&error) => Map::new(),
        Err(error) => return Err(say(&error)),
    };
    let result = edit(&mut document).map_err(|error| say(&error))?;
    let mut text = serde_json::to_vec_pretty(&document).map_err(|error| say(&error))?;
    text.push(b'\n');
    let fresh = file.with_extension(format!("json.{}", std::process::id()));
    let write = || {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let _ = std::fs::remove_file(&fresh);
        let mut options = std::fs::File::options();
        let mut new = options.write(true).create_new(true).mode(0o600).open(&fresh)?;
        new.write_all(&text)?;
        new.sync_all()?;
        std::fs::rename(&fresh, file)
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&fresh);
        say(&error)
    })?;
    Ok(result)
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, section 4.
fn base64_encode(bytes: &[u8]) -> String {
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
    fn keys_are_found_as_docker_and_podman_find_them() {
        let file = br#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"aHViOnB3"},
            "https://old.example/v1/":{"username":"a","password":"b:c"},
            "127.0.0.1:5000":{"auth":"dGVzdDpzZWNyZXQ="},
            "token.example":{"auth":"eDp5","identitytoken":"idt"},
            "raw.example":{"registrytoken":"rt"},
            "quay.io":{"username":"all","password":"1"},
            "quay.io/team":{"username":"team","password":"2"},
            "quay.io/team/app":{"username":"app","password":"3"},
            "only.example/team":{"username":"team","password":"4"},
            "helped.example":{}},
            "credHelpers":{"helped.example":"gcloud"}}"#;
        let of = |registry, repository| parse(file, registry, repository).unwrap();
        assert_eq!(of("docker.io", "library/x").login, basic("hub:pw"));
        assert_eq!(of("old.example", "x").login, basic("a:b:c"));
        assert_eq!(of("127.0.0.1:5000", "x").login, basic("test:secret"));
        assert_eq!(
            of("token.example", "x").login,
            Some(Login::Identity("idt".into()))
        );
        assert_eq!(of("raw.example", "x").login, Some(Login::Bearer("rt".into())));
        assert_eq!(of("quay.io", "x").login, basic("all:1"));
        assert_eq!(of("quay.io", "team/x").login, basic("team:2"));
        assert_eq!(of("quay.io", "team/app").login, basic("app:3"));
        assert_eq!(of("quay.io", "teams/app").login, basic("all:1"));
        assert_eq!(of("only.example", "other").login, None);
        assert_eq!(of("helped.example", "x").helper.as_deref(), Some("gcloud"));
        assert_eq!(of("127.0.0.1", "x"), Found::default());
        let stored = parse(br#"{"credsStore":"desktop"}"#, "x.y", "z").unwrap();
        assert_eq!(stored.helper.as_deref(), Some("desktop"));
        let error = parse(br#"{"auths":{"x.y":{"auth":"!"}}}"#, "x.y", "z").unwrap_err();
        assert!(error.contains("base64"));
        assert!(parse(b"{", "x.y", "z").is_err());
        assert_eq!(format!("{:?}", of("docker.io", "x").login), "Some(Basic(…))");
    }

    #[test]
    fn a_login_leaves_the_rest_of_the_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/config.json");
        keep(&file, "r.test:5000", Keep::Password("u", "p:q")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replacen('{', r#"{"detachKeys":"ctrl-q","#, 1)).unwrap();
        keep(&file, "docker.io", Keep::Token("u", "idt")).unwrap();
        assert_eq!(find(Some(&file), "r.test:5000", "x").login, basic("u:p:q"));
        assert_eq!(
            find(Some(&file), "docker.io", "library/x").login,
            Some(Login::Identity("idt".into()))
        );
        assert!(forget(&file, "r.test:5000").unwrap());
        assert!(!forget(&file, "r.test:5000").unwrap());
        assert_eq!(find(Some(&file), "r.test:5000", "x").login, None);
        assert!(std::fs::read_to_string(&file).unwrap().contains("ctrl-q"));
    }

    #[test]
    fn a_missing_helper_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, r#"{"credsStore":"no-such-helper-here"}"#).unwrap();
        let found = find(Some(&file), "r.test", "x");
        assert_eq!(found.login, None);
        assert!(found.problems[0].contains("not installed"), "{found:?}");
    }
}

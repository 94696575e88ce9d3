//! Which hosts answer for a repository, and how they are trusted: what docker's
//! `daemon.json` (`registry-mirrors`, `insecure-registries`), containers'
//! `registries.conf` (version 2: `[[registry]]` with `prefix`, `location`,
//! `insecure`, `blocked` and `[[registry.mirror]]`) and the `certs.d` folders say.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::super::reference::{DEFAULT_REGISTRY, Reference};
use super::transport::Trust;
use super::uri::{host_of, is_loopback};

/// How a host is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    /// By HTTPS.
    Checked,
    /// On this machine: plain HTTP, or HTTPS when it wants that.
    Loopback,
    /// Said to be insecure: HTTPS with any certificate, or else plain HTTP.
    Insecure,
}

/// A host that answers for a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Host and port.
    pub(super) host: String,
    /// The path of the repository there.
    pub(super) repository: String,
    pub(super) security: Security,
    /// Another answers when this one cannot.
    pub(super) mirror: bool,
}

/// What the machine's configuration says of registries.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    docker: Daemon,
    registries: Vec<Entry>,
    certificates: Vec<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Daemon {
    registry_mirrors: Vec<String>,
    insecure_registries: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Registries {
    registry: Vec<Entry>,
    registries: Option<toml::Table>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    #[serde(rename = "mirror-by-digest-only")]
    by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Mirror {
    location: String,
    insecure: bool,
    #[serde(rename = "pull-from-mirror")]
    pull: String,
}

impl Settings {
    /// Reads what is below `root` (`/` but in tests) and what the environment
    /// names. The error is a sentence that names the file.
    pub(super) fn read(root: &Path) -> Result<Self, String> {
        let daemon = root.join("etc/docker/daemon.json");
        let docker = match read(&daemon)? {
            None => Daemon::default(),
            Some(text) => serde_json::from_str(&text).map_err(|error| wrong(&daemon, &error))?,
        };
        let machine = root == Path::new("/");
        let variable = |name| {
            machine
                .then(|| std::env::var_os(name))
                .flatten()
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let home = variable("HOME");
        let own = variable("XDG_CONFIG_HOME").or_else(|| Some(home.clone()?.join(".config")));
        // The first that is there is the only one, as containers-registries.conf(5) has it.
        let mut files: Vec<_> = variable("CONTAINERS_REGISTRIES_CONF").into_iter().collect();
        files.extend(own.as_ref().map(|own| own.join("containers/registries.conf")));
        files.push(root.join("etc/containers/registries.conf"));
        let mut registries = Vec::new();
        for file in files {
            let Some(text) = read(&file)? else { continue };
            let read: Registries = toml::from_str(&text).map_err(|error| wrong(&file, &error.message()))?;
            if read.registries.is_some() && !read.registry.is_empty() {
                return Err(wrong(&file, &"mixes version 1 and version 2 of its format"));
            }
            for entry in &read.registry {
                if entry.prefix.is_empty() && entry.location.is_empty() {
                    return Err(wrong(&file, &"a [[registry]] has neither prefix nor location"));
                }
            }
            registries = read.registry;
            break;
        }
        let mut certificates = vec![
            root.join("etc/docker/certs.d"),
            root.join("etc/containers/certs.d"),
        ];
        certificates.extend(own.map(|own| own.join("containers/certs.d")));
        certificates.extend(home.map(|home| home.join(".docker/certs.d")));
        Ok(Self {
            docker,
            registries,
            certificates,
        })
    }

    /// Who is asked for a repository, in order: mirrors, then the registry.
    pub(super) fn endpoints(&self, reference: &Reference, push: bool) -> Result<Vec<Endpoint>, String> {
        let name = format!("{}/{}", reference.registry(), reference.repository());
        let mut list = Vec::new();
        let entry = self
            .registries
            .iter()
            .filter(|entry| matches(entry.prefix(), &name))
            .max_by_key(|entry| entry.prefix().len());
        if let Some(entry) = entry
            && entry.blocked
        {
            return Err(format!(
                "registry {} is blocked by registries.conf on this machine",
                reference.registry()
            ));
        }
        if !push {
            for mirror in entry.map(|entry| entry.mirror.as_slice()).unwrap_or_default() {
                let digest = reference.digest().is_some();
                let use_it = match mirror.pull.as_str() {
                    "digest-only" => digest,
                    "tag-only" => !digest,
                    _ => digest || !entry.is_some_and(|entry| entry.by_digest_only),
                };
                if use_it {
                    let rest = name
                        .strip_prefix(entry.map_or("", Entry::prefix))
                        .unwrap_or_default();
                    list.extend(self.at(&format!("{}{rest}", mirror.location), mirror.insecure, true));
                }
            }
            if reference.registry() == DEFAULT_REGISTRY {
                for mirror in &self.docker.registry_mirrors {
                    let place = mirror.trim_end_matches('/');
                    let plain = place.strip_prefix("http://");
                    let host = plain.or_else(|| place.strip_prefix("https://")).unwrap_or(place);
                    list.extend(self.at(
                        &format!("{host}/{}", reference.repository()),
                        plain.is_some(),
                        true,
                    ));
                }
            }
        }
        let moved = entry
            .filter(|entry| !entry.location.is_empty() && entry.location != entry.prefix())
            .and_then(|entry| {
                let rest = name.strip_prefix(entry.prefix())?;
                self.at(&format!("{}{rest}", entry.location), entry.insecure, false)
            });
        let insecure = entry.is_some_and(|entry| entry.insecure);
        list.push(moved.unwrap_or_else(|| Endpoint {
            host: reference.host().to_owned(),
            repository: reference.repository().to_owned(),
            security: self.security(reference.host(), insecure),
            mirror: false,
        }));
        Ok(list)
    }

    fn at(&self, place: &str, insecure: bool, mirror: bool) -> Option<Endpoint> {
        let (host, repository) = place.split_once('/')?;
        let host = if host == DEFAULT_REGISTRY {
            "registry-1.docker.io"
        } else {
            host
        };
        Some(Endpoint {
            host: host.to_owned(),
            repository: repository.to_owned(),
            security: self.security(host, insecure),
            mirror,
        })
    }

    /// How a host is to be spoken to.
    pub(super) fn security(&self, host: &str, insecure: bool) -> Security {
        let name = host_of(host);
        if is_loopback(name) {
            return Security::Loopback;
        }
        let listed = self
            .docker
            .insecure_registries
            .iter()
            .any(|entry| entry == host || entry == name || network_has(entry, name));
        let said = self
            .registries
            .iter()
            .any(|entry| entry.insecure && (entry.prefix() == host || entry.location == host));
        if insecure || listed || said {
            Security::Insecure
        } else {
            Security::Checked
        }
    }

    /// How a host is to be trusted.
    pub(super) fn trust(&self, host: &str, insecure: bool) -> Trust {
        let folders = self.certificates.iter().map(|folder| folder.join(host));
        Trust {
            folders: folders.filter(|folder| folder.is_dir()).collect(),
            anybody: self.security(host, insecure) == Security::Insecure,
        }
    }
}

impl Entry {
    fn prefix(&self) -> &str {
        if self.prefix.is_empty() {
            &self.location
        } else {
            &self.prefix
        }
    }
}

/// Whether a repository is below a prefix: a host, a path, or `*.domain`.
fn matches(prefix: &str, name: &str) -> bool {
    if let Some(domain) = prefix.strip_prefix('*') {
        return name.split('/').next().is_some_and(|host| host.ends_with(domain));
    }
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether an address is in a network in CIDR form.
fn network_has(network: &str, address: &str) -> bool {
    use std::net::IpAddr;
    let Some((base, bits)) = network.split_once('/') else {
        return false;
    };
    let address = address.trim_start_matches('[').trim_end_matches(']');
    match (base.parse(), bits.parse::<u32>(), address.parse()) {
        (Ok(IpAddr::V4(base)), Ok(bits @ 0..=32), Ok(IpAddr::V4(address))) => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(base) & mask == u32::from(address) & mask
        }
        (Ok(IpAddr::V6(base)), Ok(bits @ 0..=128), Ok(IpAddr::V6(address))) => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(base) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

fn read(path: &Path) -> Result<Option<String>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(wrong(path, &error)),
    }
}

fn wrong(path: &Path, reason: &dyn std::fmt::Display) -> String {
    format!("registry settings in {}: {reason}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(daemon: &str, registries: &str) -> Settings {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc/docker/certs.d/r.test:444")).unwrap();
        std::fs::create_dir_all(root.path().join("etc/containers")).unwrap();
        std::fs::write(root.path().join("etc/docker/daemon.json"), daemon).unwrap();
        std::fs::write(root.path().join("etc/containers/registries.conf"), registries).unwrap();
        Settings::read(root.path()).unwrap()
    }

    fn endpoints(settings: &Settings, reference: &str) -> Vec<String> {
        let list = settings.endpoints(&Reference::parse(reference).unwrap(), false);
        list.unwrap()
            .into_iter()
            .map(|one| format!("{}/{} {:?}", one.host, one.repository, one.security))
            .collect()
    }

    #[test]
    fn docker_mirrors_are_for_docker_hub() {
        let settings = settings(
            r#"{"registry-mirrors":["http://m.test:5000/","https://n.test"],"insecure-registries":["10.0.0.0/8","i.test:5000"]}"#,
            "",
        );
        assert_eq!(
            endpoints(&settings, "nginx"),
            [
                "m.test:5000/library/nginx Insecure",
                "n.test/library/nginx Checked",
                "registry-1.docker.io/library/nginx Checked"
            ]
        );
        assert_eq!(endpoints(&settings, "i.test:5000/a"), ["i.test:5000/a Insecure"]);
        assert_eq!(endpoints(&settings, "i.test:5001/a"), ["i.test:5001/a Checked"]);
        assert_eq!(endpoints(&settings, "10.1.2.3:80/a"), ["10.1.2.3:80/a Insecure"]);
        assert_eq!(endpoints(&settings, "11.1.2.3:80/a"), ["11.1.2.3:80/a Checked"]);
        assert_eq!(
            endpoints(&settings, "localhost:80/a"),
            ["localhost:80/a Loopback"]
        );
        let push = settings
            .endpoints(&Reference::parse("nginx").unwrap(), true)
            .unwrap();
        assert_eq!(push.len(), 1, "nothing is pushed to a mirror");
    }

    #[test]
    fn containers_registries() {
        let settings = settings(
            "{}",
            r#"
            unqualified-search-registries = ["docker.io"]
            [[registry]]
            prefix = "docker.io"
            location = "cache.test/hub"
            [[registry]]
            location = "r.test:444/team"
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "m.test/x"
            insecure = true
            [[registry]]
            prefix = "*.bad.test"
            blocked = true
            "#,
        );
        assert_eq!(
            endpoints(&settings, "nginx"),
            ["cache.test/hub/library/nginx Checked"]
        );
        assert_eq!(
            endpoints(&settings, "r.test:444/team/a"),
            ["r.test:444/team/a Checked"]
        );
        let digest = format!(
            "r.test:444/team/a@{}",
            super::super::super::digest::Digest::of(b"")
        );
        assert_eq!(
            endpoints(&settings, &digest),
            ["m.test/x/a Insecure", "r.test:444/team/a Checked"]
        );
        assert_eq!(
            endpoints(&settings, "r.test:444/teams"),
            ["r.test:444/teams Checked"]
        );
        let blocked = Reference::parse("x.bad.test/a").unwrap();
        assert!(
            settings
                .endpoints(&blocked, false)
                .unwrap_err()
                .contains("blocked")
        );
    }

    #[test]
    fn a_damaged_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc/docker")).unwrap();
        std::fs::write(root.path().join("etc/docker/daemon.json"), "{").unwrap();
        assert!(Settings::read(root.path()).unwrap_err().contains("daemon.json"));
    }
}

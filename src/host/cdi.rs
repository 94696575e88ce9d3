//! Devices of the Container Device Interface: what vendors write down about the
//! devices of this machine, and what a container needs to use one.
//!
//! Specifications are files in `/etc/cdi` and `/var/run/cdi` (of the same device,
//! the latter's counts), or in the folders that `CDI_SPEC_DIRS` names, one in
//! JSON or YAML each: github.com/cncf-tags/container-device-interface, SPEC.md. A
//! device is called `vendor.com/class=name`. Its edits and those of its file are
//! made to the settings of a container.
//!
//! `gpus` and device reservations ask for devices by what they can do: those of
//! drivers `nvidia` and none are of a class `gpu`, as Docker has it since 28.3;
//! driver `cdi` names devices.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Hooks, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Mount};
use serde::Deserialize;

use super::HostError;
use crate::project::{Device, DeviceCount, DeviceRequest, Service};
use crate::runtime::{Settings, describe_device};

/// Where specifications are, the last first.
const FOLDERS: &str = "/etc/cdi:/var/run/cdi";

/// A file of specifications is no larger.
const LARGEST: u64 = 16 << 20;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Specification {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    devices: Vec<Named>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Bind>,
    hooks: Vec<NamedHook>,
    additional_gids: Vec<u32>,
    intel_rdt: Option<serde_json::Value>,
    net_devices: Vec<serde_json::Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: PathBuf,
    host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<i64>,
    minor: Option<i64>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bind {
    host_path: String,
    container_path: PathBuf,
    #[serde(rename = "type")]
    kind: Option<String>,
    options: Option<Vec<String>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamedHook {
    hook_name: String,
    #[serde(flatten)]
    hook: Hook,
}

/// The devices there are: kind (`vendor.com/class`) and name to what is edited.
#[derive(Debug, Default)]
struct Devices {
    known: BTreeMap<(String, String), Found>,
    /// Files that could not be read, for the message about a missing device.
    wrong: Vec<String>,
}

#[derive(Clone, Debug)]
struct Found {
    file: PathBuf,
    own: Edits,
    of_all: Edits,
    /// Two files of the same folder have it.
    twice: Option<PathBuf>,
}

/// Whether a service asks for devices of the interface.
fn wanted(service: &Service) -> bool {
    let reserved = !service.gpus.is_empty() || !reservations(service).is_empty();
    reserved
        || service
            .devices
            .iter()
            .any(|device| matches!(device, Device::Cdi(_)))
}

fn reservations(service: &Service) -> &[DeviceRequest] {
    let deploy = service.deploy.as_ref();
    deploy.map_or(&[], |deploy| &deploy.reservations.devices)
}

/// Makes what the devices of a service need part of a container's settings; the
/// hooks that are to be run.
///
/// # Errors
/// [`HostError::Device`] for a device that is not there or whose specification
/// cannot be followed.
pub(super) fn apply(
    service: &Service,
    settings: &mut Settings,
    group_add: &mut Vec<String>,
) -> Result<Option<Hooks>, HostError> {
    if !wanted(service) {
        return Ok(None);
    }
    let folders = std::env::var("CDI_SPEC_DIRS").unwrap_or_else(|_| FOLDERS.to_owned());
    let folders: Vec<&Path> = folders
        .split(':')
        .filter(|path| !path.is_empty())
        .map(Path::new)
        .collect();
    let devices = Devices::read(&folders);
    let mut names = Vec::new();
    for device in &service.devices {
        if let Device::Cdi(name) = device {
            names.push(name.clone());
        }
    }
    for request in &service.gpus {
        // What they are need not be said.
        let mut request = request.clone();
        request.capabilities.push("gpu".into());
        names.extend(devices.choose(&request)?);
    }
    for request in reservations(service) {
        names.extend(devices.choose(request)?);
    }
    let mut hooks = Hooks::default();
    let mut files: Vec<PathBuf> = Vec::new();
    let mut done: Vec<String> = Vec::new();
    for name in names {
        if done.contains(&name) {
            continue;
        }
        let found = devices.get(&name)?;
        // What holds for all devices of a file is done once.
        if !files.contains(&found.file) {
            found.of_all.apply(&name, settings, group_add, &mut hooks)?;
            files.push(found.file.clone());
        }
        found.own.apply(&name, settings, group_add, &mut hooks)?;
        done.push(name);
    }
    Ok((hooks != Hooks::default()).then_some(hooks))
}

fn refuse(device: &str, reason: impl Into<String>) -> HostError {
    HostError::Device {
        device: device.to_owned(),
        reason: reason.into(),
    }
}

impl Devices {
    /// Reads all specifications of these folders; what is wrong with one is told
    /// when a device is missing.
    fn read(folders: &[&Path]) -> Self {
        let mut all = Self::default();
        for folder in folders {
            let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| {
                    path.extension()
                        .is_some_and(|end| end == "json" || end == "yaml" || end == "yml")
                })
                .collect();
            files.sort();
            let mut here = BTreeMap::new();
            for file in files {
                match read(&file) {
                    Ok(specification) => enter(&mut here, &file, specification),
                    Err(reason) => all.wrong.push(format!("{}: {reason}", file.display())),
                }
            }
            all.known.extend(here);
        }
        all
    }

    fn get(&self, name: &str) -> Result<&Found, HostError> {
        let known = name
            .split_once('=')
            .and_then(|(kind, device)| self.known.get(&(kind.to_owned(), device.to_owned())));
        match known {
            Some(Found {
                file,
                twice: Some(other),
                ..
            }) => Err(refuse(
                name,
                format!("both {} and {} have it", file.display(), other.display()),
            )),
            Some(found) => Ok(found),
            None if self.wrong.is_empty() => Err(refuse(
                name,
                "no specification in /etc/cdi or /var/run/cdi has it",
            )),
            None => Err(refuse(
                name,
                format!("no specification has it; {}", self.wrong.join("; ")),
            )),
        }
    }

    /// The names of the devices that a request means.
    fn choose(&self, request: &DeviceRequest) -> Result<Vec<String>, HostError> {
        let driver = request.driver.as_deref().unwrap_or_default();
        let what = format!("driver {driver:?} with capabilities {:?}", request.capabilities);
        if driver == "cdi" {
            return Ok(request.device_ids.clone());
        }
        let gpu = request
            .capabilities
            .iter()
            .any(|name| name == "gpu" || name == "nvidia");
        if !matches!(driver, "" | "nvidia") || !(gpu || driver == "nvidia") {
            let reason =
                "could not select device driver: use `gpu`, or driver `cdi` with the names of devices";
            return Err(refuse(&what, reason));
        }
        // Of one vendor; without a driver, NVIDIA's first.
        let mut kinds: Vec<&str> = self.known.keys().map(|(kind, _)| kind.as_str()).collect();
        kinds.dedup();
        let nvidia = kinds.iter().copied().find(|kind| *kind == "nvidia.com/gpu");
        let other = kinds
            .iter()
            .copied()
            .find(|kind| driver.is_empty() && kind.ends_with("/gpu"));
        let Some(kind) = nvidia.or(other) else {
            let reason =
                "could not select device driver: no specification in /etc/cdi or /var/run/cdi has a gpu";
            return Err(refuse(&what, reason));
        };
        let named = |name: &str| format!("{kind}={name}");
        if !request.device_ids.is_empty() {
            return Ok(request.device_ids.iter().map(|name| named(name)).collect());
        }
        let mut names: Vec<&str> = self
            .known
            .keys()
            .filter(|(known, _)| known == kind)
            .map(|(_, name)| name.as_str())
            .collect();
        let all = names.contains(&"all");
        // Those with a number are devices; others are names of the same.
        names.sort_by_key(|name| name.parse::<u64>().unwrap_or(u64::MAX));
        if names.iter().any(|name| name.parse::<u64>().is_ok()) {
            names.retain(|name| name.parse::<u64>().is_ok());
        } else {
            names.retain(|name| *name != "all");
        }
        match request.count {
            None | Some(DeviceCount::All) if all => Ok(vec![named("all")]),
            None | Some(DeviceCount::All) => Ok(names.into_iter().map(named).collect()),
            Some(DeviceCount::Number(count)) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                match names.get(..count) {
                    Some(names) => Ok(names.iter().map(|name| named(name)).collect()),
                    None => Err(refuse(
                        &what,
                        format!("{count} are asked for, and there are {}", names.len()),
                    )),
                }
            }
        }
    }
}

fn enter(here: &mut BTreeMap<(String, String), Found>, file: &Path, specification: Specification) {
    for device in specification.devices {
        let key = (specification.kind.clone(), device.name);
        let found = Found {
            file: file.to_owned(),
            own: device.container_edits,
            of_all: specification.container_edits.clone(),
            twice: None,
        };
        here.entry(key)
            .and_modify(|known: &mut Found| known.twice = Some(file.to_owned()))
            .or_insert(found);
    }
}

/// A specification from a file.
fn read(file: &Path) -> Result<Specification, String> {
    let metadata = std::fs::metadata(file).map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Err("not a file of a reasonable size".into());
    }
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    parse(&text)
}

/// A specification from its text: JSON is YAML.
fn parse(text: &str) -> Result<Specification, String> {
    let specification: Specification = match serde_json::from_str(text) {
        Ok(found) => found,
        Err(error) if text.trim_start().starts_with('{') => return Err(error.to_string()),
        Err(_) => serde_yaml::from_str(text).map_err(|error| error.to_string())?,
    };
    let version = &specification.cdi_version;
    let numbers: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    if numbers.len() != 3 || !matches!(numbers.first(), Some(0 | 1)) {
        return Err(format!("version {version:?} is not understood"));
    }
    match specification.kind.split_once('/') {
        Some((vendor, class)) if !vendor.is_empty() && !class.is_empty() => Ok(specification),
        _ => Err(format!(
            "kind {:?} is not like vendor.com/class",
            specification.kind
        )),
    }
}

impl Edits {
    fn apply(
        &self,
        device: &str,
        settings: &mut Settings,
        group_add: &mut Vec<String>,
        hooks: &mut Hooks,
    ) -> Result<(), HostError> {
        if self.intel_rdt.is_some() || !self.net_devices.is_empty() {
            return Err(refuse(
                device,
                "its specification has intelRdt or netDevices, which are not supported",
            ));
        }
        for entry in &self.env {
            let Some((name, _)) = entry.split_once('=') else {
                return Err(refuse(
                    device,
                    format!("{entry:?} is not an environment variable"),
                ));
            };
            let prefix = format!("{name}=");
            settings.env.retain(|known| !known.starts_with(&prefix));
            settings.env.push(entry.clone());
        }
        for node in &self.device_nodes {
            let (node, rule) = node.made(device)?;
            settings.nodes.retain(|known| known.path() != node.path());
            settings.nodes.push(node);
            settings.device_rules.push(rule);
        }
        for bind in &self.mounts {
            settings
                .mounts
                .retain(|known| known.destination() != &bind.container_path);
            settings.mounts.push(bind.made());
        }
        for one in &self.hooks {
            let list = match one.hook_name.as_str() {
                "prestart" => hooks.prestart_mut(),
                "createRuntime" => hooks.create_runtime_mut(),
                "createContainer" => hooks.create_container_mut(),
                "startContainer" => hooks.start_container_mut(),
                "poststart" => hooks.poststart_mut(),
                "poststop" => hooks.poststop_mut(),
                other => return Err(refuse(device, format!("there are no hooks called {other:?}"))),
            };
            list.get_or_insert_with(Vec::new).push(one.hook.clone());
        }
        for gid in self.additional_gids.iter().filter(|gid| **gid != 0) {
            let gid = gid.to_string();
            if !group_add.contains(&gid) {
                group_add.push(gid);
            }
        }
        Ok(())
    }
}

impl Node {
    /// The node, and the rule that lets it be used. What is not said is as on
    /// the host.
    fn made(&self, device: &str) -> Result<(LinuxDevice, LinuxDeviceCgroup), HostError> {
        let host = self.host_path.as_deref().unwrap_or(&self.path);
        let kind = match self.kind.as_deref() {
            None | Some("") => None,
            Some("b") => Some(LinuxDeviceType::B),
            Some("c" | "u") => Some(LinuxDeviceType::C),
            Some(other) => return Err(refuse(device, format!("device type {other:?} is not b, c or u"))),
        };
        let mut node = match (kind, self.major, self.minor) {
            (Some(kind), Some(major), Some(minor)) => {
                let mut node = LinuxDevice::default();
                node.set_typ(kind);
                node.set_major(major);
                node.set_minor(minor);
                node.set_file_mode(Some(0o666));
                node
            }
            _ => describe_device(host).ok_or_else(|| {
                refuse(
                    device,
                    format!("{} is not a device of this machine", host.display()),
                )
            })?,
        };
        node.set_path(self.path.clone());
        let typ = node.typ();
        if self.file_mode.is_some() {
            node.set_file_mode(self.file_mode.map(|mode| mode & 0o7777));
        }
        if self.uid.is_some() {
            node.set_uid(self.uid);
        }
        if self.gid.is_some() {
            node.set_gid(self.gid);
        }
        let access = self
            .permissions
            .as_deref()
            .filter(|access| !access.is_empty())
            .unwrap_or("rwm");
        if access.chars().any(|letter| !"rwm".contains(letter)) {
            return Err(refuse(
                device,
                format!("permissions {access:?} are not made of r, w and m"),
            ));
        }
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true);
        rule.set_typ(Some(typ));
        rule.set_major(Some(node.major()));
        rule.set_minor(Some(node.minor()));
        rule.set_access(Some(access.to_owned()));
        Ok((node, rule))
    }
}

impl Bind {
    fn made(&self) -> Mount {
        let kind = self.kind.as_deref().unwrap_or("bind");
        let mut options = self.options.clone().unwrap_or_default();
        let bind = options.iter().any(|option| option == "bind" || option == "rbind");
        if kind == "bind" && !bind {
            options.insert(0, "rbind".into());
        }
        let mut mount = Mount::default();
        mount.set_destination(self.container_path.clone());
        mount.set_typ(Some(kind.to_owned()));
        mount.set_source(Some(PathBuf::from(&self.host_path)));
        mount.set_options(Some(options));
        mount
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(files: &[(&str, &str)]) -> (tempfile::TempDir, Devices) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let (low, high) = (folder.path().join("etc"), folder.path().join("run"));
        let devices = Devices::read(&[&low, &high]);
        (folder, devices)
    }

    const GPUS: &str = "cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ndevices:\n- name: all\n- name: '1'\n- name: '0'\n- name: GPU-x\n";

    #[test]
    fn requests_are_names() {
        let (_folder, known) = devices(&[("etc/a.yaml", GPUS)]);
        let request = |text: &str| {
            let request: DeviceRequest = serde_json::from_str(text).unwrap();
            known.choose(&request).map_err(|error| error.to_string())
        };
        assert_eq!(
            request(r#"{"capabilities": ["gpu"]}"#),
            Ok(vec!["nvidia.com/gpu=all".into()])
        );
        assert_eq!(
            request(r#"{"capabilities": ["gpu"], "count": {"number": 1}}"#),
            Ok(vec!["nvidia.com/gpu=0".into()])
        );
        assert_eq!(
            request(r#"{"capabilities": ["gpu"], "device_ids": ["GPU-x"]}"#),
            Ok(vec!["nvidia.com/gpu=GPU-x".into()])
        );
        assert_eq!(
            request(r#"{"driver": "cdi", "device_ids": ["a.b/c=d"]}"#),
            Ok(vec!["a.b/c=d".into()])
        );
        assert!(
            request(r#"{"capabilities": ["gpu"], "count": {"number": 3}}"#)
                .unwrap_err()
                .contains("there are 2")
        );
        assert!(
            request(r#"{"capabilities": ["tpu"]}"#)
                .unwrap_err()
                .contains("could not select device driver")
        );
        let none = Devices::default().choose(&DeviceRequest {
            capabilities: vec!["gpu".into()],
            ..DeviceRequest::default()
        });
        assert!(
            none.unwrap_err()
                .to_string()
                .contains("could not select device driver")
        );
    }

    #[test]
    fn the_later_folder_counts_and_a_device_is_in_one_file() {
        let one = r#"{"cdiVersion": "0.5.0", "kind": "a.b/c", "devices": [{"name": "x", "containerEdits": {"env": ["A=1"]}}]}"#;
        let two = one.replace("A=1", "A=2");
        let (_folder, known) = devices(&[("etc/a.json", one), ("run/b.json", &two), ("run/bad.json", "{")]);
        assert_eq!(known.get("a.b/c=x").unwrap().own.env, ["A=2"]);
        let error = known.get("a.b/c=y").unwrap_err().to_string();
        assert!(error.contains("bad.json"), "{error}");
        let (_folder, known) = devices(&[("etc/a.json", one), ("etc/b.json", &two)]);
        let error = known.get("a.b/c=x").unwrap_err().to_string();
        assert!(error.contains("both"), "{error}");
        for wrong in [
            "{}",
            "cdiVersion: x\nkind: a/b",
            "cdiVersion: 0.3.0\nkind: a",
            "- 1",
            "",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

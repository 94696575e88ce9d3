//! The devices of a container: nodes, and what the device controller lets it use.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::{Settings, SpecError};
use crate::runtime::error::describe;

/// A device of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Path on the host: a device, or a folder, which stands for all devices
    /// below it.
    pub host: PathBuf,
    /// Path in the container.
    pub container: PathBuf,
    /// `r`, `w`, `m` in any combination.
    pub access: String,
}

/// The device nodes beside the usual ones, and the rules of the device controller.
pub(super) fn devices(settings: &Settings) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>), SpecError> {
    let rule = |allow, kind, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow);
        rule.set_typ(Some(kind));
        rule.set_major(major);
        rule.set_minor(minor);
        rule.set_access(Some(access.to_owned()));
        rule
    };
    let mut nodes = Vec::new();
    if settings.privileged {
        host_devices(Path::new("/dev"), &mut nodes);
        for device in &settings.devices {
            nodes.extend(nodes_of(device)?);
        }
        nodes.retain(|known: &LinuxDevice| settings.nodes.iter().all(|own| own.path() != known.path()));
        nodes.extend(settings.nodes.iter().cloned());
        return Ok((nodes, vec![rule(true, LinuxDeviceType::A, None, None, "rwm")]));
    }
    let c = LinuxDeviceType::C;
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm"),
        rule(true, c, None, None, "m"),
        rule(true, LinuxDeviceType::B, None, None, "m"),
    ];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule(true, c, Some(major), Some(minor), "rwm"));
    }
    rules.push(rule(true, c, Some(136), None, "rwm"));
    for device in &settings.devices {
        if device.access.is_empty() || device.access.chars().any(|letter| !"rwm".contains(letter)) {
            let reason = format!("access {:?} is not made of r, w and m", device.access);
            return Err(SpecError::Device {
                path: device.host.clone(),
                reason,
            });
        }
        for made in nodes_of(device)? {
            rules.push(rule(
                true,
                made.typ(),
                Some(made.major()),
                Some(made.minor()),
                &device.access,
            ));
            nodes.push(made);
        }
    }
    rules.extend(settings.device_rules.iter().cloned());
    nodes.extend(settings.nodes.iter().cloned());
    Ok((nodes, rules))
}

/// A device, or all below a folder.
fn nodes_of(device: &Device) -> Result<Vec<LinuxDevice>, SpecError> {
    let wrong = |reason: String| SpecError::Device {
        path: device.host.clone(),
        reason,
    };
    let metadata = fs::metadata(&device.host).map_err(|error| wrong(describe(&error)))?;
    if metadata.is_dir() {
        let mut found = Vec::new();
        host_devices(&device.host, &mut found);
        for node in &mut found {
            let below = node.path().strip_prefix(&device.host).map(Path::to_owned);
            if let Ok(below) = below {
                node.set_path(device.container.join(below));
            }
        }
        return if found.is_empty() {
            Err(wrong("there is no device below it".into()))
        } else {
            Ok(found)
        };
    }
    match describe_node(&device.container, &metadata) {
        Some(node) => Ok(vec![node]),
        None => Err(wrong("not a device".into())),
    }
}

/// The device that a path of the host is, as the OCI spec describes it; `None`
/// when it is none.
pub fn describe_device(path: &Path) -> Option<LinuxDevice> {
    describe_node(path, &fs::metadata(path).ok()?)
}

fn describe_node(path: &Path, metadata: &fs::Metadata) -> Option<LinuxDevice> {
    let kind = if metadata.file_type().is_block_device() {
        LinuxDeviceType::B
    } else if metadata.file_type().is_char_device() {
        LinuxDeviceType::C
    } else {
        return None;
    };
    let number = metadata.rdev();
    let mut device = LinuxDevice::default();
    device.set_path(path.to_owned());
    device.set_typ(kind);
    device.set_major(rustix::fs::major(number).into());
    device.set_minor(rustix::fs::minor(number).into());
    device.set_file_mode(Some(metadata.mode() & 0o7777));
    device.set_uid(Some(metadata.uid()));
    device.set_gid(Some(metadata.gid()));
    Some(device)
}

/// The device nodes of the host but for those a container has of its own.
fn host_devices(folder: &Path, nodes: &mut Vec<LinuxDevice>) {
    const OWN: [&str; 12] = [
        "pts", "shm", "mqueue", "fd", "console", "ptmx", "null", "zero", "full", "random", "urandom", "tty",
    ];
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let own = folder == Path::new("/dev") && OWN.iter().any(|name| entry.file_name() == *name);
        let Ok(metadata) = entry.metadata() else { continue };
        if own {
            continue;
        }
        if metadata.is_dir() {
            host_devices(&entry.path(), nodes);
        } else {
            nodes.extend(describe_node(&entry.path(), &metadata));
        }
    }
}

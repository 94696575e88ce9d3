//! Devices, block device limits and namespaces of a service.

use std::path::{Path, PathBuf};

use super::known;
use super::reader::Reader;
use crate::project::model::{
    BlkioConfig, CgroupMode, CredentialSpec, Device, DeviceCount, DeviceKind, DeviceRate, DeviceRequest,
    DeviceRule, DeviceWeight, IpcMode, PidMode, UsernsMode, UtsMode,
};
use crate::stack::{Code, Node};

pub(super) fn devices(reader: &mut Reader<'_>) -> Vec<Device> {
    let mut devices = Vec::new();
    for (index, node) in reader
        .get("devices")
        .into_iter()
        .flat_map(Node::items)
        .enumerate()
    {
        let mut reader = reader.below(&format!("devices.{index}"), node);
        let source = reader.text("source").unwrap_or_default();
        let permissions = reader.text("permissions").unwrap_or_else(|| "rwm".to_owned());
        if source.starts_with('/') {
            let target = reader.text("target").unwrap_or_else(|| source.clone());
            if !target.starts_with('/') {
                let message = format!("invalid path {target:?}: it must be absolute");
                reader.fail(node.place, Code::Schema, "target", &message, None);
                continue;
            }
            devices.push(Device::File {
                source: PathBuf::from(source),
                target: PathBuf::from(target),
                permissions,
            });
        } else if known::is_cdi_device(&source) {
            devices.push(Device::Cdi(source));
        } else {
            let message = format!("invalid device {source:?}");
            let hint = "write an absolute path, or VENDOR/CLASS=NAME";
            reader.fail(node.place, Code::Schema, "source", &message, Some(hint));
        }
    }
    devices
}

pub(super) fn device_rules(reader: &mut Reader<'_>) -> Vec<DeviceRule> {
    let mut rules = Vec::new();
    for item in reader
        .get("device_cgroup_rules")
        .into_iter()
        .flat_map(Node::items)
    {
        let text = item.as_text().unwrap_or_default();
        match device_rule(text) {
            Some(rule) => rules.push(rule),
            None => {
                let message = format!("invalid device cgroup rule {text:?}");
                let hint = "write it as `c 1:3 rwm`: a, b or c; MAJOR:MINOR with * for any; letters of rwm";
                reader.fail(
                    item.place,
                    Code::Schema,
                    "device_cgroup_rules",
                    &message,
                    Some(hint),
                );
            }
        }
    }
    rules
}

/// Reads `c 1:3 mr`.
fn device_rule(text: &str) -> Option<DeviceRule> {
    let mut words = text.split_ascii_whitespace();
    let (kind, numbers, permissions) = (words.next()?, words.next()?, words.next()?);
    let kind = match kind {
        "a" => DeviceKind::All,
        "b" => DeviceKind::Block,
        "c" => DeviceKind::Character,
        _ => return None,
    };
    let (major, minor) = numbers.split_once(':')?;
    let number = |text: &str| match text {
        "*" => Some(None),
        digits => digits.parse().ok().map(Some),
    };
    if words.next().is_some() || !known::is_device_permissions(permissions) {
        return None;
    }
    Some(DeviceRule {
        kind,
        major: number(major)?,
        minor: number(minor)?,
        permissions: permissions.to_owned(),
    })
}

/// `gpus`, and the devices of `deploy.resources.reservations`.
pub(super) fn device_requests(field: &str, reader: &mut Reader<'_>) -> Vec<DeviceRequest> {
    let mut requests = Vec::new();
    for (index, node) in reader.get(field).into_iter().flat_map(Node::items).enumerate() {
        let mut reader = reader.below(&format!("{field}.{index}"), node);
        let count: Option<i64> = reader.number("count");
        let count = match count {
            Some(-1) => Some(DeviceCount::All),
            Some(number) => match u64::try_from(number) {
                Ok(number) => Some(DeviceCount::Number(number)),
                Err(_) => {
                    let message = "must not be negative; `all` is all";
                    reader.fail(node.place, Code::Schema, "count", message, None);
                    None
                }
            },
            None => None,
        };
        requests.push(DeviceRequest {
            capabilities: reader.texts("capabilities"),
            driver: reader.text("driver"),
            count,
            device_ids: reader.texts("device_ids"),
            options: reader.table("options"),
        });
    }
    requests
}

pub(super) fn blkio_config(reader: &mut Reader<'_>) -> Option<BlkioConfig> {
    let node = reader.get("blkio_config")?;
    let mut reader = reader.below("blkio_config", node);
    let mut weight_device = Vec::new();
    for (index, node) in reader
        .get("weight_device")
        .into_iter()
        .flat_map(Node::items)
        .enumerate()
    {
        let mut reader = reader.below(&format!("weight_device.{index}"), node);
        weight_device.push(DeviceWeight {
            path: device_path(&mut reader),
            weight: weight(&mut reader).unwrap_or_default(),
        });
    }
    let blkio = BlkioConfig {
        weight: weight(&mut reader),
        weight_device,
        device_read_bps: rates("device_read_bps", &mut reader),
        device_read_iops: rates("device_read_iops", &mut reader),
        device_write_bps: rates("device_write_bps", &mut reader),
        device_write_iops: rates("device_write_iops", &mut reader),
    };
    (blkio != BlkioConfig::default()).then_some(blkio)
}

fn device_path(reader: &mut Reader<'_>) -> PathBuf {
    let path = reader.path("path").unwrap_or_default();
    if !path.starts_with(Path::new("/")) {
        let message = "an absolute path of a block device is needed";
        reader.fail(reader.node.place, Code::Schema, "path", message, None);
    }
    path
}

fn weight(reader: &mut Reader<'_>) -> Option<u16> {
    let weight: u16 = reader.number("weight")?;
    // Zero is the default weight.
    if weight != 0 && !(10..=1000).contains(&weight) {
        let place = reader.node.place;
        reader.fail(place, Code::Schema, "weight", "must be from 10 to 1000", None);
    }
    Some(weight).filter(|weight| *weight > 0)
}

fn rates(field: &str, reader: &mut Reader<'_>) -> Vec<DeviceRate> {
    let mut rates = Vec::new();
    for (index, node) in reader.get(field).into_iter().flat_map(Node::items).enumerate() {
        let mut reader = reader.below(&format!("{field}.{index}"), node);
        rates.push(DeviceRate {
            path: device_path(&mut reader),
            rate: reader.number("rate").unwrap_or_default(),
        });
    }
    rates
}

/// What follows `service:` or `container:`.
fn owner<'t>(text: &'t str, kind: &str) -> Option<&'t str> {
    text.strip_prefix(kind)?
        .strip_prefix(':')
        .filter(|name| !name.is_empty())
}

/// The text of a namespace field, unless it is empty.
fn mode<'n>(field: &str, reader: &Reader<'n>) -> Option<(&'n Node, &'n str)> {
    let node = reader.get(field)?;
    Some((node, node.as_text().filter(|text| !text.is_empty())?))
}

fn unknown(field: &str, node: &Node, text: &str, hint: &str, reader: &mut Reader<'_>) {
    let message = format!("invalid mode {text:?}");
    reader.fail(node.place, Code::Schema, field, &message, Some(hint));
}

pub(super) fn ipc(reader: &mut Reader<'_>) -> Option<IpcMode> {
    let (node, text) = mode("ipc", reader)?;
    Some(match text {
        "none" => IpcMode::None,
        "private" => return None,
        "shareable" => IpcMode::Shareable,
        "host" => IpcMode::Host,
        text => {
            if let Some(service) = owner(text, "service") {
                IpcMode::Service(service.to_owned())
            } else if let Some(container) = owner(text, "container") {
                IpcMode::Container(container.to_owned())
            } else {
                let hint = "use private, shareable, host, none, service:NAME or container:NAME";
                unknown("ipc", node, text, hint, reader);
                return None;
            }
        }
    })
}

pub(super) fn pid(reader: &mut Reader<'_>) -> Option<PidMode> {
    let (node, text) = mode("pid", reader)?;
    Some(match text {
        "private" => return None,
        "host" => PidMode::Host,
        text => {
            if let Some(service) = owner(text, "service") {
                PidMode::Service(service.to_owned())
            } else if let Some(container) = owner(text, "container") {
                PidMode::Container(container.to_owned())
            } else {
                unknown(
                    "pid",
                    node,
                    text,
                    "use host, service:NAME or container:NAME",
                    reader,
                );
                return None;
            }
        }
    })
}

pub(super) fn uts(reader: &mut Reader<'_>) -> Option<UtsMode> {
    let (node, text) = mode("uts", reader)?;
    match text {
        "host" => Some(UtsMode::Host),
        "private" => None,
        text => {
            unknown("uts", node, text, "use host, or leave it out", reader);
            None
        }
    }
}

pub(super) fn cgroup(reader: &mut Reader<'_>) -> Option<CgroupMode> {
    reader
        .choice(
            "cgroup",
            &[("host", CgroupMode::Host), ("private", CgroupMode::Private)],
        )
        .filter(|mode| *mode != CgroupMode::Private)
}

pub(super) fn userns(reader: &mut Reader<'_>) -> Option<UsernsMode> {
    Some(match reader.text("userns_mode")?.as_str() {
        "host" => UsernsMode::Host,
        other => UsernsMode::Other(other.to_owned()),
    })
}

pub(super) fn credential_spec(reader: &mut Reader<'_>) -> Option<CredentialSpec> {
    let node = reader.get("credential_spec")?;
    let reader = reader.below("credential_spec", node);
    let credentials = CredentialSpec {
        config: reader.text("config"),
        file: reader.text("file"),
        registry: reader.text("registry"),
    };
    (credentials != CredentialSpec::default()).then_some(credentials)
}

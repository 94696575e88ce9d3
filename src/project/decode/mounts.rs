//! The mounts of a service: `volumes` and `tmpfs`.

use std::path::PathBuf;

use super::build::{mode, owner};
use super::reader::Reader;
use crate::project::model::{
    BindRecursive, Consistency, Grant, Mount, MountSource, Propagation, Selinux, VolumesFrom, VolumesOf,
};
use crate::stack::{Code, Node, clean_path, parse_amount};

/// Everything mounted, in the order it is written, `tmpfs` last.
pub(super) fn mounts(reader: &mut Reader<'_>) -> Vec<Mount> {
    let mut mounts = Vec::new();
    let volumes: Vec<&Node> = reader.get("volumes").into_iter().flat_map(Node::items).collect();
    for (index, node) in volumes.into_iter().enumerate() {
        mounts.extend(mount(node, &format!("volumes.{index}"), reader));
    }
    let tmpfs: Vec<&Node> = reader.get("tmpfs").into_iter().flat_map(Node::items).collect();
    for node in tmpfs {
        mounts.extend(short_tmpfs(node, reader));
    }
    mounts
}

fn target(node: &Node, text: Option<&str>, path: &str, reader: &mut Reader<'_>) -> Option<String> {
    match text {
        Some(text) if text.starts_with('/') && clean_path(text) != "/" => Some(clean_path(text)),
        _ => {
            let message = format!(
                "invalid mount path {:?}: it must be an absolute path, and not /",
                text.unwrap_or_default()
            );
            let drive = text.is_some_and(|text| text.get(1..3) == Some(":/"));
            let hint = drive.then_some(
                "a lone letter before a colon is a drive of Windows: give the volume a longer name",
            );
            reader.fail(node.place, Code::Schema, path, &message, hint);
            None
        }
    }
}

fn mount(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Mount> {
    let kind = node.text_of("type").unwrap_or_default();
    let target = match (kind, node.text_of("target")) {
        // A pipe of Windows has no path of ours.
        ("npipe", Some(target)) => target.to_owned(),
        (_, text) => target(node, text, path, reader)?,
    };
    let read_only = node.get("read_only").and_then(Node::as_bool) == Some(true);
    let source = node.text_of("source").filter(|source| !source.is_empty());
    for other in ["bind", "volume", "tmpfs", "image"] {
        if other != kind
            && let Some(options) = node.get(other)
            && options.entries().any(|(key, _)| key != "selinux")
        {
            let message = format!("`{other}` options are of no use to a mount of type `{kind}`");
            reader.fail(options.place, Code::Conflict, path, &message, None);
        }
    }
    let source = match kind {
        "bind" => {
            let options = node.get("bind");
            let option = |key: &str| options?.get(key).filter(|node| !node.is_null());
            let propagation = option("propagation").filter(|node| node.as_text() != Some(""));
            let known = propagation.and_then(|node| {
                let mut all = Propagation::ALL.into_iter();
                all.find(|known| node.as_text() == Some(known.as_str()))
            });
            if let (Some(node), None) = (propagation, known) {
                let message = "propagation must be rprivate, private, rshared, shared, rslave or slave";
                reader.fail(node.place, Code::Schema, path, message, None);
            }
            MountSource::Bind {
                path: PathBuf::from(clean_path(source?)),
                create_host_path: option("create_host_path").and_then(Node::as_bool) != Some(false),
                propagation: known,
                recursive: match option("recursive").and_then(Node::as_text) {
                    Some("disabled") => BindRecursive::Disabled,
                    Some("writable") => BindRecursive::Writable,
                    Some("readonly") => BindRecursive::Readonly,
                    _ => BindRecursive::Enabled,
                },
                selinux: match option("selinux").and_then(Node::as_text) {
                    Some("z") => Some(Selinux::Shared),
                    Some("Z") => Some(Selinux::Private),
                    _ => None,
                },
            }
        }
        "volume" => {
            let options = node.get("volume");
            let nocopy = options.and_then(|options| options.get("nocopy")?.as_bool()) == Some(true);
            let subpath = options
                .and_then(|options| options.text_of("subpath"))
                .filter(|text| !text.is_empty())
                .map(str::to_owned);
            if let Some(path_inside) = &subpath
                && (path_inside.starts_with('/') || path_inside.split('/').any(|part| part == ".."))
            {
                let message = "volume.subpath must be a relative path inside the volume";
                reader.fail(node.place, Code::Schema, path, message, None);
            }
            match source {
                Some(volume) => MountSource::Volume {
                    volume: volume.to_owned(),
                    nocopy,
                    subpath,
                },
                None => {
                    if let Some(options) = options.filter(|_| subpath.is_some()) {
                        let message = "volume.subpath needs a named volume";
                        reader.fail(options.place, Code::Conflict, path, message, None);
                    }
                    MountSource::Anonymous
                }
            }
        }
        "image" => MountSource::Image {
            image: source.unwrap_or_default().to_owned(),
            subpath: node
                .get("image")
                .and_then(|options| options.text_of("subpath"))
                .filter(|text| !text.is_empty())
                .map(str::to_owned),
        },
        "npipe" => MountSource::NamedPipe {
            path: source.unwrap_or_default().to_owned(),
        },
        "cluster" => MountSource::Cluster {
            volume: source.unwrap_or_default().to_owned(),
        },
        _ => {
            if source.is_some() {
                let message = "a tmpfs has no source";
                reader.fail(node.place, Code::Schema, path, message, None);
            }
            let options = node.get("tmpfs");
            MountSource::Tmpfs {
                size: options
                    .and_then(|options| options.text_of("size")?.parse().ok())
                    .filter(|size| *size > 0),
                mode: options.and_then(|options| u32::try_from(options.get("mode")?.as_int()?).ok()),
                options: Vec::new(),
            }
        }
    };
    if matches!(kind, "image" | "npipe" | "cluster") && node.text_of("source").is_none_or(str::is_empty) {
        let message = format!("a mount of type `{kind}` needs a source");
        reader.fail(node.place, Code::Schema, path, &message, None);
    }
    // A named volume has it in its source.
    let volume_nocopy = source == MountSource::Anonymous
        && node
            .get("volume")
            .and_then(|options| options.get("nocopy")?.as_bool())
            == Some(true);
    let volume_labels = node.get("volume").and_then(|options| options.get("labels"));
    Some(Mount {
        target,
        source,
        read_only,
        consistency: consistency(node, path, reader),
        volume_labels: volume_labels
            .into_iter()
            .flat_map(Node::entries)
            .filter_map(|(key, node)| Some((key.to_owned(), node.scalar_text()?)))
            .collect(),
        volume_nocopy,
    })
}

fn consistency(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Consistency> {
    let field = node.get("consistency")?;
    match field.as_text().unwrap_or_default() {
        "" | "default" => None,
        "consistent" => Some(Consistency::Consistent),
        "cached" => Some(Consistency::Cached),
        "delegated" => Some(Consistency::Delegated),
        other => {
            let message = format!("consistency {other:?} is none of consistent, cached, delegated");
            reader.fail(field.place, Code::Schema, path, &message, None);
            None
        }
    }
}

/// What a service is given below a folder: `configs` or `secrets`.
pub(super) fn grants(field: &str, folder: &str, reader: &mut Reader<'_>) -> Vec<Grant> {
    let mut grants = Vec::new();
    for (index, node) in reader.get(field).into_iter().flat_map(Node::items).enumerate() {
        let mut reader = reader.below(&format!("{field}.{index}"), node);
        let source = reader.text("source").unwrap_or_default();
        let target = reader.text("target").unwrap_or_else(|| source.clone());
        let target = clean_path(&format!(
            "{}{target}",
            if target.starts_with('/') { "" } else { folder }
        ));
        if source.is_empty() || target == "/" {
            let message = "a source and a path inside the container are needed";
            reader.fail(node.place, Code::Schema, "target", message, None);
            continue;
        }
        grants.push(Grant {
            source,
            target,
            uid: owner(&mut reader, "uid"),
            gid: owner(&mut reader, "gid"),
            mode: mode(&mut reader),
        });
    }
    grants
}

/// `SERVICE[:ro|rw]`, `container:NAME[:ro|rw]`
pub(super) fn volumes_from(reader: &mut Reader<'_>) -> Vec<VolumesFrom> {
    let mut all = Vec::new();
    for item in reader.get("volumes_from").into_iter().flat_map(Node::items) {
        let text = item.as_text().unwrap_or_default();
        let (container, rest) = match text.strip_prefix("container:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (name, access) = rest.split_once(':').unwrap_or((rest, "rw"));
        if name.is_empty() || !matches!(access, "rw" | "ro") {
            let message = format!("invalid source of mounts {text:?}");
            let hint = "write [container:]NAME[:ro|:rw]";
            reader.fail(item.place, Code::Schema, "volumes_from", &message, Some(hint));
            continue;
        }
        let name = name.to_owned();
        all.push(VolumesFrom {
            source: if container {
                VolumesOf::Container(name)
            } else {
                VolumesOf::Service(name)
            },
            read_only: access == "ro",
        });
    }
    all
}

/// Mount options of a tmpfs that are passed on as they are.
const TMPFS_FLAGS: [&str; 14] = [
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "strictatime",
    "sync",
    "async",
];

/// `PATH[:OPTION,…]`
fn short_tmpfs(node: &Node, reader: &mut Reader<'_>) -> Option<Mount> {
    let text = node.as_text()?;
    let (path, given) = text.split_once(':').unwrap_or((text, ""));
    let target = target(node, Some(path), "tmpfs", reader)?;
    let (mut size, mut mode, mut options, mut read_only) = (None, None, Vec::new(), false);
    for option in given.split(',').filter(|option| !option.is_empty()) {
        let known = match option.split_once('=') {
            Some(("size", value)) => {
                size = parse_amount(value)
                    .ok()
                    .and_then(|bytes| u64::try_from(bytes).ok());
                size.is_some()
            }
            Some(("mode", value)) => {
                mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
                mode.is_some()
            }
            Some(("uid" | "gid" | "nr_inodes" | "nr_blocks", value)) => {
                options.push(option.to_owned());
                value.parse::<u64>().is_ok()
            }
            Some(_) => false,
            None if option == "ro" || option == "rw" => {
                read_only = option == "ro";
                true
            }
            None => {
                options.push(option.to_owned());
                TMPFS_FLAGS.contains(&option)
            }
        };
        if !known {
            let message = format!("invalid tmpfs option {option:?}");
            let hint = "such as size=64m, mode=1777, uid=, gid=, noexec";
            reader.fail(node.place, Code::Schema, "tmpfs", &message, Some(hint));
        }
    }
    Some(Mount {
        target,
        source: MountSource::Tmpfs {
            size: size.filter(|size| *size > 0),
            mode,
            options,
        },
        read_only,
        ..Mount::default()
    })
}

//! The mounts of a service: `volumes` and `tmpfs`.

use std::path::PathBuf;

use super::reader::Reader;
use crate::project::model::{Mount, MountSource};
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
            reader.fail(node.place, Code::Schema, path, &message, None);
            None
        }
    }
}

fn mount(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Mount> {
    let kind = node.text_of("type").unwrap_or_default();
    if !matches!(kind, "bind" | "volume" | "tmpfs") {
        let message = format!("mounts of type {kind:?} are not supported");
        reader.fail(
            node.place,
            Code::Unsupported,
            path,
            &message,
            Some("use bind, volume or tmpfs"),
        );
        return None;
    }
    let target = target(node, node.text_of("target"), path, reader)?;
    let read_only = node.get("read_only").and_then(Node::as_bool) == Some(true);
    let source = node.text_of("source").filter(|source| !source.is_empty());
    for other in ["bind", "volume", "tmpfs"] {
        if other != kind
            && let Some(options) = node.get(other)
            && options.as_map().is_some_and(|map| !map.is_empty())
        {
            let message = format!("`{other}` options are of no use to a mount of type `{kind}`");
            reader.fail(options.place, Code::Conflict, path, &message, None);
        }
    }
    let source = match kind {
        "bind" => {
            let options = node.get("bind");
            let option = |key: &str| options?.get(key).filter(|node| !node.is_null());
            if let Some(propagation) = option("propagation")
                && !matches!(
                    propagation.as_text(),
                    Some("" | "rprivate" | "private" | "rshared" | "shared" | "rslave" | "slave")
                )
            {
                let message = "propagation must be rprivate, private, rshared, shared, rslave or slave";
                reader.fail(propagation.place, Code::Schema, path, message, None);
            }
            MountSource::Bind {
                path: PathBuf::from(clean_path(source?)),
                create_host_path: option("create_host_path").and_then(Node::as_bool) != Some(false),
                propagation: option("propagation")
                    .and_then(Node::as_text)
                    .filter(|text| !text.is_empty())
                    .map(str::to_owned),
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
                    if nocopy || subpath.is_some() {
                        let message = "nocopy and subpath need a named volume";
                        reader.fail(node.place, Code::Unsupported, path, message, None);
                    }
                    MountSource::Anonymous
                }
            }
        }
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
    Some(Mount {
        target,
        source,
        read_only,
    })
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
    })
}

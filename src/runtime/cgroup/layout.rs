//! Which hierarchies this machine has mounted, and where in them our folders go.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::CgroupError;
use crate::sys::kernel_file;

/// The version of a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// Version 1.
    V1,
    /// Version 2.
    V2,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its version.
    pub version: Version,
    /// Version 1: the controllers. Version 2: those it offers at the base.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The folder that containers' cgroups are made below.
    pub base: PathBuf,
}

/// The hierarchies of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// All with a controller, and the version 2 one in any case.
    pub hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// Reads the layout of this machine.
    ///
    /// # Errors
    /// [`CgroupError::Io`] when `/proc` cannot be read, [`CgroupError::None`]
    /// without any hierarchy.
    pub fn detect() -> Result<Self, CgroupError> {
        let read =
            |path: &'static str| kernel_file::read(path).map_err(CgroupError::io("read", Path::new(path)));
        let mut layout = Self::parse(
            &read("/proc/self/mountinfo")?,
            &read("/proc/self/cgroup")?,
            &|path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok(),
        );
        for hierarchy in &mut layout.hierarchies {
            if hierarchy.version == Version::V2 {
                let controllers =
                    kernel_file::read(hierarchy.base.join("cgroup.controllers")).unwrap_or_default();
                hierarchy.controllers = controllers.split_whitespace().map(str::to_owned).collect();
            }
        }
        if layout.hierarchies.is_empty() {
            return Err(CgroupError::None);
        }
        Ok(layout)
    }

    /// The layout in `/proc/self/mountinfo` and `/proc/self/cgroup`.
    fn parse(mountinfo: &str, own: &str, writable: &dyn Fn(&Path) -> bool) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.lines() {
            let Some((place, kind)) = line.split_once(" - ") else {
                continue;
            };
            let (mut place, mut kind) = (place.split(' '), kind.split(' '));
            let (Some(root), Some(mountpoint)) = (place.nth(3), place.next()) else {
                continue;
            };
            let version = match kind.next() {
                Some("cgroup") => Version::V1,
                Some("cgroup2") => Version::V2,
                _ => continue,
            };
            let options = kind.nth(1).unwrap_or_default();
            let controllers: Vec<String> = match version {
                // The rest are mount flags, and `name=` of hierarchies without controllers.
                Version::V1 => options
                    .split(',')
                    .filter(|option| CONTROLLERS.contains(option))
                    .map(str::to_owned)
                    .collect(),
                Version::V2 => Vec::new(),
            };
            let seen = |known: &Hierarchy| known.version == version && known.controllers == controllers;
            if (version == Version::V1 && controllers.is_empty()) || hierarchies.iter().any(seen) {
                continue;
            }
            let mountpoint = PathBuf::from(unescape(mountpoint));
            let whole = writable(&mountpoint);
            let base = if whole {
                mountpoint.clone()
            } else {
                let own = own_path(own, &controllers);
                let below = own
                    .strip_prefix(&unescape(root))
                    .unwrap_or(&own)
                    .trim_start_matches('/')
                    .to_owned();
                mountpoint.join(below)
            };
            if whole || writable(&base) {
                hierarchies.push(Hierarchy {
                    version,
                    controllers,
                    mountpoint,
                    base,
                });
            }
        }
        Self { hierarchies }
    }
}

/// The controllers of version 1 that we know.
const CONTROLLERS: [&str; 14] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "net_cls",
    "net_prio",
    "perf_event",
    "hugetlb",
    "rdma",
    "misc",
];

/// Our own cgroup in the hierarchy of these controllers (none: version 2).
fn own_path(own: &str, controllers: &[String]) -> String {
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(named), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let same = match controllers.first() {
            Some(first) => named.split(',').any(|name| name == first),
            None => named.is_empty(),
        };
        if same {
            return path.to_owned();
        }
    }
    "/".into()
}

/// Undoes the octal escapes of mountinfo (`\040` is a space).
fn unescape(field: &str) -> String {
    let mut text = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        match after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        {
            Some(byte) => {
                text.push(char::from(byte));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                text.push('\\');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /with\\040space rw,relatime - cgroup cgroup rw,devices
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:38 / /elsewhere rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_layout_is_read() {
        let layout = Layout::parse(HYBRID, "4:memory:/a\n1:cpu,cpuacct:/\n0::/\n", &|_| true);
        let found: Vec<_> = layout
            .hierarchies
            .iter()
            .map(|each| {
                (
                    each.version,
                    each.controllers.join(","),
                    each.base.to_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                (Version::V1, "cpu,cpuacct".into(), "/sys/fs/cgroup/cpu,cpuacct"),
                (Version::V1, "memory".into(), "/sys/fs/cgroup/memory"),
                (Version::V1, "devices".into(), "/with space"),
                (Version::V2, String::new(), "/sys/fs/cgroup/unified"),
            ]
        );
    }

    #[test]
    fn a_delegated_subtree_is_the_base_when_the_root_is_not_ours() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate\n";
        let own = "0::/user.slice/user-1000.slice\n";
        let layout = Layout::parse(mountinfo, own, &|path| path.ends_with("user-1000.slice"));
        assert_eq!(
            layout.hierarchies[0].base,
            Path::new("/sys/fs/cgroup/user.slice/user-1000.slice")
        );
    }

    #[test]
    fn a_subtree_mounted_into_a_container_is_stripped_from_our_path() {
        let mountinfo = "30 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let layout = Layout::parse(mountinfo, "0::/docker/abc/me\n", &|path| path.ends_with("me"));
        assert_eq!(layout.hierarchies[0].base, Path::new("/sys/fs/cgroup/me"));
    }
}

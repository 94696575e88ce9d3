//! Mounts: options to attributes.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, Mount};

use super::{Mappings, MountAttributes, MountSource, MountStep, clean};
use crate::runtime::spec::SpecError;
use crate::sys::mount as attribute;

/// What may be mounted over inside `/proc`: files that tell a container about
/// its own limits (as lxcfs makes them). Anything else there would let a mount
/// stand between a runtime and the kernel.
const PROC_FILES: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "net/dev",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "uptime",
];

/// Options of a whole file system that a bind mount of it cannot change: the
/// kernel ignores them there.
const FILE_SYSTEM_FLAGS: [&str; 8] = [
    "async",
    "dirsync",
    "lazytime",
    "mand",
    "nolazytime",
    "nomand",
    "sync",
    "nodirsync",
];

/// One mount of the spec. `user_namespace` is whether the container has one of its
/// own, `foreign_network` whether its network is not that one's.
pub(super) fn step(
    mount: &Mount,
    confined: &BTreeMap<PathBuf, PathBuf>,
    user_namespace: bool,
    foreign_network: bool,
) -> Result<MountStep, SpecError> {
    let target = clean(mount.destination())?;
    let wrong = |reason: String| SpecError::Mount {
        target: target.clone(),
        reason,
    };
    let mappings = Mappings {
        uid: mapping(mount.uid_mappings().as_ref()),
        gid: mapping(mount.gid_mappings().as_ref()),
    };
    let mut attributes = MountAttributes::default();
    let mut bind = None;
    let (mut remount, mut copy_up) = (false, false);
    let mut links = Links::default();
    // Mappings alone ask for it too.
    let mut mapped = (mappings != Mappings::default()).then_some(false);
    let mut options = Vec::new();
    for option in mount.options().iter().flatten() {
        match option.as_str() {
            "bind" => bind = bind.or(Some(false)),
            "rbind" => bind = Some(true),
            "defaults" | "nofail" | "silent" | "loud" | "iversion" | "noiversion" => {}
            name if attributes.take(name) => {}
            "remount" => remount = true,
            "tmpcopyup" => copy_up = true,
            name if links.take(name) => {}
            "idmap" => mapped = mapped.or(Some(false)),
            "ridmap" => mapped = Some(true),
            _ => options.push(match option.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (option.clone(), None),
            }),
        }
    }
    let kind = mount.typ().as_deref().unwrap_or_default();
    let is_bind = !remount && (bind.is_some() || kind == "bind");
    if target == Path::new("/") && (!is_bind || links != Links::default()) {
        return Err(wrong("only a bind mount can take the place of the root".into()));
    }
    if links != Links::default() && (!is_bind || confined.contains_key(mount.destination())) {
        return Err(wrong("options about links are for bind mounts of paths".into()));
    }
    if user_namespace && foreign_network && bind.is_none() && !remount && kind == "sysfs" {
        return Ok(host_sysfs(target, attributes));
    }
    if mapped.is_some() {
        if bind.is_none() && kind != "bind" {
            return Err(wrong("only bind mounts can be idmapped".into()));
        }
        if mappings.uid.is_empty() != mappings.gid.is_empty() {
            return Err(wrong("uidMappings and gidMappings must be given together".into()));
        }
        if mappings.uid.is_empty() && !user_namespace {
            return Err(wrong(
                "an idmapped mount needs mappings, or a user namespace".into(),
            ));
        }
    }
    if copy_up && kind != "tmpfs" {
        return Err(wrong("option tmpcopyup is for tmpfs".into()));
    }
    let source = match (bind, kind) {
        _ if remount => {
            if let Some((name, _)) = options.first() {
                return Err(wrong(format!("option {name} makes no sense for a remount")));
            }
            MountSource::Remount
        }
        (Some(_), _) | (None, "bind") => {
            // What has a value is for a file system too, and means nothing to mount(2) here;
            // a bare word may have been meant for the mount (`readonly`).
            let odd = |(name, value): &&(String, Option<String>)| {
                value.is_none() && !FILE_SYSTEM_FLAGS.contains(&name.as_str())
            };
            if let Some((name, _)) = options.iter().find(odd) {
                return Err(wrong(format!("option {name} makes no sense for a bind mount")));
            }
            let path = mount.source().clone().ok_or_else(|| wrong("no source".into()))?;
            let confined = confined.get(mount.destination()).cloned();
            if confined.is_none() && !path.is_absolute() {
                return Err(wrong(format!(
                    "source {} is not an absolute path",
                    path.display()
                )));
            }
            match std::fs::read_link(&path) {
                Ok(text) if links.copy => MountSource::Link(text),
                _ => MountSource::Bind {
                    path,
                    recursive: bind != Some(false),
                    confined,
                    itself: links.source,
                },
            }
        }
        (None, "cgroup" | "cgroup2") => MountSource::Cgroup,
        (None, "" | "none") => return Err(wrong("no type".into())),
        (None, kind) => MountSource::FileSystem {
            kind: kind.into(),
            source: mount
                .source()
                .as_ref()
                .map_or_else(|| kind.into(), |path| path.to_string_lossy().into_owned()),
            options,
        },
    };
    if let Ok(below) = target.strip_prefix("/proc") {
        // That a bind mount there is of procfs is checked when it is opened.
        let proc = match &source {
            MountSource::FileSystem { kind, .. } => kind == "proc",
            MountSource::Bind { confined, .. } => confined.is_none(),
            MountSource::Inside { .. } | MountSource::Layers { .. } | MountSource::Link(_) => false,
            MountSource::Remount => true,
            MountSource::Cgroup => false,
        };
        let file = PROC_FILES.iter().any(|name| below == Path::new(name));
        if !(proc && below.as_os_str().is_empty() || file) {
            return Err(wrong("nothing can be mounted inside /proc".into()));
        }
    }
    Ok(MountStep {
        target,
        source,
        attributes,
        copy_up,
        on_link: links.target,
        mapped: mapped.map(|below| ((!mappings.uid.is_empty()).then_some(mappings), below)),
    })
}

/// A bind mount that names attributes has those and no others of its source, as
/// with the runtimes before us, whatever the source is mounted with; one that names
/// none has all of them. With a user namespace those that keep the container from
/// something stay, as if its root had mounted it.
pub(super) fn imply(steps: &mut [MountStep], user_namespace: bool) {
    use attribute::{NODEV, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY};
    let all = match user_namespace {
        true => NOSYMFOLLOW,
        false => RDONLY | NOSUID | NODEV | NOEXEC | NOSYMFOLLOW,
    };
    for step in steps {
        let own = &mut step.attributes;
        if matches!(step.source, MountSource::Bind { .. }) && own.set | own.clear != 0 {
            own.implied = all & !own.set & !own.clear;
        }
    }
}

/// Turns sources below one of the names of the container's root into paths of the
/// container, where an earlier mount is at, above or (for who takes what is below)
/// below them. Others are looked up as ever, before anything is mounted.
pub(super) fn look_inside(steps: &mut [MountStep], roots: &[&Path]) {
    for number in 0..steps.len() {
        let (before, rest) = steps.split_at_mut(number);
        let Some(step) = rest.first_mut() else { return };
        let MountSource::Bind {
            path,
            recursive,
            confined: None,
            itself: false,
        } = &step.source
        else {
            continue;
        };
        let Some(inside) = roots.iter().find_map(|root| path.strip_prefix(root).ok()) else {
            continue;
        };
        // Where a link is on the way, that is not the place above it by name.
        if inside.components().any(|part| part == Component::ParentDir) {
            continue;
        }
        let Ok(inside) = clean(&Path::new("/").join(inside)) else {
            continue;
        };
        let concerns = |earlier: &MountStep| {
            inside.starts_with(&earlier.target) || *recursive && earlier.target.starts_with(&inside)
        };
        if before.iter().any(concerns) {
            step.source = MountSource::Inside {
                path: inside,
                recursive: *recursive,
            };
        }
    }
}

/// Options of bind mounts that are about links, in the words of the runtime that
/// has them first; podman's `no-dereference` is one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Links {
    /// A source that is a link is made again, not mounted.
    copy: bool,
    /// A source that is a link is itself mounted.
    source: bool,
    /// A target that is a link is itself mounted on.
    target: bool,
}

impl Links {
    /// Takes an option of these; whether it was one.
    fn take(&mut self, option: &str) -> bool {
        let flag = match option {
            "copy-symlink" => &mut self.copy,
            "src-nofollow" => &mut self.source,
            "dest-nofollow" => &mut self.target,
            _ => return false,
        };
        *flag = true;
        true
    }
}

/// The host's sysfs for a container in a user namespace that does not own its
/// network: the kernel gives it none of its own. What is mounted below comes
/// along, and is no more writable than asked for.
fn host_sysfs(target: PathBuf, mut attributes: MountAttributes) -> MountStep {
    attributes.set_below |= attributes.set;
    MountStep {
        target,
        source: MountSource::Bind {
            path: "/sys".into(),
            recursive: true,
            confined: None,
            itself: false,
        },
        attributes,
        copy_up: false,
        on_link: false,
        mapped: None,
    }
}

/// Mappings of the spec: inside, outside, length.
pub(super) fn mapping(list: Option<&Vec<LinuxIdMapping>>) -> Vec<(u32, u32, u32)> {
    list.into_iter()
        .flatten()
        .map(|one| (one.container_id(), one.host_id(), one.size()))
        .collect()
}

/// A propagation by name: `MS_*`, and whether for everything below too.
pub(super) fn propagation(name: &str) -> Option<(u64, bool)> {
    Some(match name {
        "private" => (libc::MS_PRIVATE, false),
        "rprivate" => (libc::MS_PRIVATE, true),
        "slave" => (libc::MS_SLAVE, false),
        "rslave" => (libc::MS_SLAVE, true),
        "shared" => (libc::MS_SHARED, false),
        "rshared" => (libc::MS_SHARED, true),
        "unbindable" => (libc::MS_UNBINDABLE, false),
        "runbindable" => (libc::MS_UNBINDABLE, true),
        _ => return None,
    })
}

impl MountAttributes {
    /// Takes an option that is an attribute of mounts; whether it was one.
    fn take(&mut self, option: &str) -> bool {
        use attribute::{
            ATIME, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY, STRICTATIME,
        };
        let below = option.strip_prefix('r').filter(|name| is_attribute(name));
        let (set, clear) = match below.unwrap_or(option) {
            "ro" => (RDONLY, 0),
            "rw" => (0, RDONLY),
            "nosuid" => (NOSUID, 0),
            "suid" => (0, NOSUID),
            "nodev" => (NODEV, 0),
            "dev" => (0, NODEV),
            "noexec" => (NOEXEC, 0),
            "exec" => (0, NOEXEC),
            "nodiratime" => (NODIRATIME, 0),
            "diratime" => (0, NODIRATIME),
            "nosymfollow" => (NOSYMFOLLOW, 0),
            "symfollow" => (0, NOSYMFOLLOW),
            // The access time mode is a number, not bits: the old one is cleared.
            "noatime" => (NOATIME, ATIME),
            "strictatime" => (STRICTATIME, ATIME),
            // Without a mode that a source may not even have it is what it was.
            "norelatime" | "nostrictatime" if below.is_none() => (0, 0),
            "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, ATIME),
            _ => {
                let Some((propagation, below)) = propagation(option) else {
                    return false;
                };
                (self.propagation, self.propagation_below) = (propagation, below);
                return true;
            }
        };
        let (sets, clears) = if below.is_some() {
            (&mut self.set_below, &mut self.clear_below)
        } else {
            (&mut self.set, &mut self.clear)
        };
        *sets = *sets & !clear | set;
        *clears = *clears & !set | clear;
        true
    }
}

/// Whether `r` before this name makes the attribute recursive.
fn is_attribute(name: &str) -> bool {
    matches!(
        name,
        "ro" | "rw"
            | "nosuid"
            | "suid"
            | "nodev"
            | "dev"
            | "noexec"
            | "exec"
            | "nodiratime"
            | "diratime"
            | "nosymfollow"
            | "symfollow"
            | "noatime"
            | "strictatime"
            | "relatime"
            | "atime"
            | "norelatime"
            | "nostrictatime"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(options: &[&str]) -> MountAttributes {
        let mut attributes = MountAttributes::default();
        for option in options {
            assert!(attributes.take(option), "{option}");
        }
        attributes
    }

    #[test]
    fn what_a_bind_mount_does_not_name_is_cleared() {
        let implied = |options: &[&str], user_namespace| {
            let mount: Mount = serde_json::from_value(
                serde_json::json!({"destination": "/x", "source": "/y", "options": options}),
            )
            .unwrap();
            let mut steps = [step(&mount, &BTreeMap::new(), user_namespace, false).unwrap()];
            imply(&mut steps, user_namespace);
            steps[0].attributes.implied
        };
        use attribute::{NODEV, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY};
        assert_eq!(implied(&["bind"], false), 0);
        assert_eq!(implied(&["rbind", "rro", "rslave"], false), 0);
        assert_eq!(
            implied(&["bind", "ro"], false),
            NOSUID | NODEV | NOEXEC | NOSYMFOLLOW
        );
        assert_eq!(
            implied(&["bind", "dev", "nosuid"], false),
            RDONLY | NOEXEC | NOSYMFOLLOW
        );
        assert_eq!(implied(&["bind", "ro"], true), NOSYMFOLLOW);
    }

    #[test]
    fn sources_in_the_root_are_looked_up_where_a_mount_comes_before() {
        let step = |target: &str, source: &str, how: &str| {
            let mount: Mount = serde_json::from_value(
                serde_json::json!({"destination": target, "source": source, "options": [how]}),
            )
            .unwrap();
            step(&mount, &BTreeMap::new(), false, false).unwrap()
        };
        let mut steps = [
            step("/z", "/root/a/b", "bind"),
            step("/a/b", "/elsewhere", "bind"),
            step("/c", "/root/a/b/../x", "bind"),
            step("/d", "/root/a/b/x", "bind"),
            step("/e", "/real/a", "rbind"),
            step("/f", "/root/a", "bind"),
            step("/g", "/rootfs/a/b", "bind"),
        ];
        look_inside(&mut steps, &[Path::new("/root"), Path::new("/real")]);
        let found: Vec<_> = steps
            .iter()
            .map(|step| match &step.source {
                MountSource::Inside { path, .. } => path.to_str(),
                _ => None,
            })
            .collect();
        assert_eq!(found, [None, None, None, Some("/a/b/x"), Some("/a"), None, None]);
    }

    #[test]
    fn mount_options_become_attributes_and_the_last_wins() {
        let found = attributes(&["nosuid", "noexec", "ro", "exec", "rw"]);
        assert_eq!(
            (found.set, found.clear),
            (attribute::NOSUID, attribute::NOEXEC | attribute::RDONLY)
        );
        let found = attributes(&["noatime", "strictatime"]);
        assert_eq!(found.set, attribute::STRICTATIME);
        assert_eq!(found.clear, attribute::ATIME);
        let found = attributes(&["strictatime", "norelatime"]);
        assert_eq!(found.set, attribute::STRICTATIME);
        assert_eq!(attributes(&["nostrictatime"]).clear, 0);
        assert_eq!(attributes(&["atime"]).clear, attribute::ATIME);
        let found = attributes(&["rro", "rslave"]);
        assert_eq!((found.set, found.set_below), (0, attribute::RDONLY));
        assert_eq!(
            (found.propagation, found.propagation_below),
            (libc::MS_SLAVE, true)
        );
        // `relatime` begins with an r of its own.
        assert_eq!(attributes(&["relatime"]).set_below, 0);
        assert!(!MountAttributes::default().take("size=5"));
    }

    #[test]
    fn a_user_namespace_without_its_own_network_sees_the_hosts_sysfs() {
        let mount: Mount = serde_json::from_value(serde_json::json!(
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "ro"]}
        ))
        .unwrap();
        let planned = |user, foreign| step(&mount, &BTreeMap::new(), user, foreign).unwrap();
        let bound = planned(true, true);
        assert!(
            matches!(&bound.source, MountSource::Bind { path, recursive: true, .. }
            if path == Path::new("/sys"))
        );
        assert_eq!(bound.attributes.set_below, attribute::NOSUID | attribute::RDONLY);
        for (user, foreign) in [(true, false), (false, true)] {
            let fresh = planned(user, foreign).source;
            assert!(matches!(fresh, MountSource::FileSystem { .. }), "{fresh:?}");
        }
    }
}

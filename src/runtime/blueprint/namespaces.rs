//! Namespaces: which are made, which are entered, and when.

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::mounts::mapping;
use super::{Mappings, Namespaces};
use crate::runtime::spec::SpecError;
use crate::sys::clone::NEWTIME;

/// What the spec says of namespaces.
pub(super) fn plan(linux: &Linux, given_network: bool) -> Result<Namespaces, SpecError> {
    let mut found = Namespaces::default();
    let unsupported = |what: &str| Err(SpecError::Unsupported(what.into()));
    let mut seen = 0;
    for namespace in linux.namespaces().iter().flatten() {
        let kind = match namespace.typ() {
            LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
            LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
            LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
            LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
            LinuxNamespaceType::Network => libc::CLONE_NEWNET,
            LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
            LinuxNamespaceType::User => libc::CLONE_NEWUSER,
            LinuxNamespaceType::Time => NEWTIME,
        };
        if seen & kind != 0 {
            return unsupported("the same namespace twice");
        }
        seen |= kind;
        match namespace
            .path()
            .as_ref()
            .filter(|path| !path.as_os_str().is_empty())
        {
            Some(path) if !path.is_absolute() => {
                return Err(SpecError::Unsupported(format!(
                    "a namespace path that is not absolute ({})",
                    path.display()
                )));
            }
            Some(path) if matches!(kind, libc::CLONE_NEWPID | libc::CLONE_NEWUSER) => {
                found.join_first.push((kind, path.clone()));
            }
            Some(path) => found.join.push((kind, path.clone())),
            None if kind == libc::CLONE_NEWCGROUP => found.cgroup = true,
            None if kind == NEWTIME => found.time = Some(Vec::new()),
            None if kind == libc::CLONE_NEWNET && given_network => {}
            None => found.clone |= kind,
        }
    }
    found.host_mounts = seen & libc::CLONE_NEWNS == 0;
    if found.host_mounts && found.has_user() | (found.clone & libc::CLONE_NEWUSER != 0) {
        // Nobody in a user namespace may enter the host's again.
        return unsupported("a user namespace in the mount namespace of the host");
    }
    let joins_network = found.join.iter().any(|(kind, _)| *kind == libc::CLONE_NEWNET);
    if joins_network && given_network {
        return unsupported("a network namespace by path and by descriptor");
    }
    found.fresh_network = found.clone & libc::CLONE_NEWNET != 0;
    users(linux, &mut found)?;
    clocks(linux, &mut found)?;
    Ok(found)
}

fn users(linux: &Linux, found: &mut Namespaces) -> Result<(), SpecError> {
    let mut mappings = Mappings {
        uid: mapping(linux.uid_mappings().as_ref()),
        gid: mapping(linux.gid_mappings().as_ref()),
    };
    let given = mappings != Mappings::default();
    if found.clone & libc::CLONE_NEWUSER == 0 {
        // A namespace that is entered has its mappings; they may be repeated.
        if given && !found.has_user() {
            return Err(SpecError::Unsupported(
                "id mappings without a user namespace".into(),
            ));
        }
        return Ok(());
    }
    if !given {
        // As one of the runtimes before us has it: its root is whoever calls.
        mappings.uid = vec![(0, rustix::process::geteuid().as_raw(), 1)];
        mappings.gid = vec![(0, rustix::process::getegid().as_raw(), 1)];
    }
    for list in [&mappings.uid, &mappings.gid] {
        if list.is_empty() {
            return Err(SpecError::Missing("linux.uidMappings or linux.gidMappings"));
        }
        if list.iter().any(|(inside, outside, size)| {
            inside.checked_add(*size).is_none() || outside.checked_add(*size).is_none()
        }) {
            return Err(SpecError::Unsupported(
                "an id mapping that ends above the largest id".into(),
            ));
        }
        if !list.iter().any(|(inside, _, size)| *inside == 0 && *size > 0) {
            return Err(SpecError::Unsupported("a user namespace without an id 0".into()));
        }
    }
    found.mappings = Some(mappings);
    Ok(())
}

fn clocks(linux: &Linux, found: &mut Namespaces) -> Result<(), SpecError> {
    let offsets = linux.time_offsets().iter().flatten();
    match &mut found.time {
        Some(time) => {
            for (clock, offset) in offsets {
                if !matches!(clock.as_str(), "monotonic" | "boottime") {
                    return Err(SpecError::Unsupported(format!("linux.timeOffsets {clock}")));
                }
                time.push((
                    clock.clone(),
                    offset.secs().unwrap_or(0),
                    offset.nanosecs().unwrap_or(0),
                ));
            }
            time.sort();
            Ok(())
        }
        None if offsets.count() > 0 => Err(SpecError::Unsupported(
            "linux.timeOffsets without a new time namespace".into(),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(linux: serde_json::Value) -> Result<Namespaces, String> {
        let linux: Linux = serde_json::from_value(linux).map_err(|error| error.to_string())?;
        plan(&linux, false).map_err(|error| error.to_string())
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (linux, expected) in [
            (
                serde_json::json!({"namespaces": [{"type": "user"}]}),
                "mount namespace of the host",
            ),
            (
                serde_json::json!({"namespaces": [{"type": "mount"}, {"type": "mount"}]}),
                "twice",
            ),
            (
                serde_json::json!({"namespaces": [{"type": "mount"}, {"type": "uts", "path": "x"}]}),
                "not absolute",
            ),
            (
                serde_json::json!({"namespaces": [{"type": "mount"}, {"type": "user"}],
                    "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}),
                "gidMappings is missing",
            ),
            (
                serde_json::json!({"namespaces": [{"type": "mount"}],
                    "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}),
                "without a user namespace",
            ),
            (
                serde_json::json!({"namespaces": [{"type": "mount"}], "timeOffsets": {"monotonic": {"secs": 1}}}),
                "without a new time namespace",
            ),
        ] {
            let error = planned(linux.clone()).unwrap_err();
            assert!(error.contains(expected), "{linux}: {error}");
        }
    }

    #[test]
    fn namespaces_are_sorted_by_when_they_are_entered() {
        let found = planned(serde_json::json!({"namespaces": [
            {"type": "mount"}, {"type": "pid", "path": "/p"}, {"type": "network", "path": "/n"},
            {"type": "time"}, {"type": "cgroup"}],
            "timeOffsets": {"boottime": {"secs": -5, "nanosecs": 7}}}))
        .unwrap();
        assert_eq!(found.clone, libc::CLONE_NEWNS);
        assert_eq!(found.join_first, [(libc::CLONE_NEWPID, "/p".into())]);
        assert_eq!(found.join, [(libc::CLONE_NEWNET, "/n".into())]);
        assert_eq!(found.time, Some(vec![("boottime".into(), -5, 7)]));
        assert!(found.cgroup);
    }
}

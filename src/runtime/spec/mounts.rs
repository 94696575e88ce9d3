//! What is mounted in a container.

use std::path::Path;

use oci_spec::runtime::Mount;

use super::{DEFAULT_SHM_SIZE, Settings, Share};

pub(super) fn mounts(settings: &Settings) -> Vec<Mount> {
    let ro = if settings.privileged { "rw" } else { "ro" };
    let shm_size = format!("size={}", settings.shm_size.unwrap_or(DEFAULT_SHM_SIZE));
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", ro]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", ro],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &shm_size],
        ),
    ];
    if settings.ipc != Share::Own || settings.no_shm {
        list.retain(|own| own.destination() != Path::new("/dev/shm"));
        if !settings.no_shm {
            let shm = Path::new("/dev/shm");
            list.push(bind_mount(
                shm,
                "/dev/shm",
                &["rprivate", "nosuid", "noexec", "nodev"],
            ));
        }
    }
    let mut further: Vec<&Mount> = settings.mounts.iter().collect();
    further.sort_by_key(|mount| mount.destination().components().count());
    for mount in further {
        // A mount of one's own takes the place of ours.
        list.retain(|own| own.destination() != mount.destination());
        list.push(mount.clone());
    }
    list
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(destination.into());
    mount.set_typ(Some(kind.into()));
    mount.set_source(Some(source.into()));
    mount.set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

/// A bind mount of `source` at `destination` with `options` beside `rbind`
/// (`ro`, `rro`, `rslave`, …).
pub fn bind_mount(source: &Path, destination: &str, options: &[&str]) -> Mount {
    let mut all = vec!["rbind"];
    all.extend(options);
    let mut bind = mount(destination, "bind", "", &all);
    bind.set_source(Some(source.to_owned()));
    bind
}

/// A tmpfs at `destination` with Docker's options and `options` after them
/// (`size=1000`, `mode=700`, `uid=5`, `exec`, …).
pub fn tmpfs_mount(destination: &str, options: &[&str]) -> Mount {
    let mut all = vec!["nosuid", "nodev", "noexec"];
    all.extend(options);
    mount(destination, "tmpfs", "tmpfs", &all)
}

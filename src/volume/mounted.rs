//! Volumes with driver options: something else is mounted where their content
//! would be, as Docker's `local` driver does it.
//!
//! It is mounted on `data` when the first container that uses the volume is
//! started, and unmounted when the last one has ended. Who uses it is said by a
//! shared lock on a file in the volume's folder: the starter takes it, and the
//! container's monitor inherits it, so it goes with the monitor however that
//! ends. Only under a second lock, which nobody keeps, is anything mounted or
//! unmounted. What is left mounted when everything was killed is unmounted by
//! the next supervisor, which asks all volumes, and before a volume is removed.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree,
};

use super::{Volume, VolumeError, Volumes};
use crate::store::Lock;
use crate::sys::mount::{self as attributes, Attributes, set_attributes};

/// In the folder of a volume: shared by all who use it.
const USERS: &str = "users.lock";
/// In the folder of a volume: held while it is mounted or unmounted.
const CHANGE: &str = "mount.lock";

/// The use of a mounted volume: it stays mounted as long as this, or a process
/// that has inherited the descriptor, is there.
#[derive(Debug)]
pub struct Hold {
    volumes: Volumes,
    name: String,
    /// `None` while it is dropped.
    lock: Option<Lock>,
}

impl Hold {
    /// The volume.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What another process has to inherit; `None` never happens.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.lock.as_ref().map(Lock::as_fd)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        drop(self.lock.take());
        self.volumes.try_let_go(&self.name);
    }
}

impl Volumes {
    /// Begins to use a volume: mounts what its options say, unless that is
    /// mounted already. `None` for one without options.
    ///
    /// # Errors
    /// [`VolumeError::Missing`], [`VolumeError::Mount`] with what the kernel said,
    /// [`VolumeError::Store`] or [`VolumeError::Io`].
    pub fn hold(&self, name: &str) -> Result<Option<Hold>, VolumeError> {
        let missing = || VolumeError::Missing {
            name: name.to_owned(),
        };
        if self.get(name)?.ok_or_else(missing)?.options.is_empty() {
            return Ok(None);
        }
        let folder = self.root.join(name);
        let _change = Lock::take(&folder.join(CHANGE))?;
        // It may have been removed, and made again, while we waited.
        let volume = self.get(name)?.ok_or_else(missing)?;
        // Dropped on an error, it wants the lock that is taken now.
        let lock = Lock::share(&folder.join(USERS))?;
        let data = self.data_dir(name)?;
        if !is_mounted(&data).map_err(Self::io(name, "look at", &data))? {
            // Filled again from the image if this is empty, whatever was before.
            let marker = self.populated_marker(name)?;
            match fs::remove_file(&marker) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Self::io(name, "remove", &marker)(error));
                }
                _ => {}
            }
            mount(&volume, &data)?;
        }
        Ok(Some(Hold {
            volumes: self.clone(),
            name: name.to_owned(),
            lock: Some(lock),
        }))
    }

    /// [`Volumes::let_go`]; what cannot be unmounted now is left to the next
    /// supervisor.
    pub fn try_let_go(&self, name: &str) {
        if let Err(error) = self.let_go(name) {
            tracing::warn!(volume = name, %error, "could not be unmounted");
        }
    }

    /// [`Volumes::hold`] for several volumes; those without options are left out.
    ///
    /// # Errors
    /// As [`Volumes::hold`], of the first that fails.
    pub fn hold_all(&self, names: &BTreeSet<String>) -> Result<Vec<Hold>, VolumeError> {
        names
            .iter()
            .filter_map(|name| self.hold(name).transpose())
            .collect()
    }

    /// Unmounts a volume that nobody uses any more; fine when it is not mounted,
    /// or gone.
    ///
    /// # Errors
    /// [`VolumeError::Name`], [`VolumeError::Store`], or [`VolumeError::Io`].
    pub fn let_go(&self, name: &str) -> Result<(), VolumeError> {
        let data = self.data_dir(name)?;
        if !is_mounted(&data).map_err(Self::io(name, "look at", &data))? {
            return Ok(());
        }
        let folder = self.root.join(name);
        let _change = Lock::take(&folder.join(CHANGE))?;
        self.unmount(name).map(|_| ())
    }

    /// [`Volumes::let_go`] for all volumes: for who comes after processes that
    /// were killed.
    ///
    /// # Errors
    /// As [`Volumes::let_go`].
    pub fn let_go_all(&self) -> Result<(), VolumeError> {
        for name in self.names()? {
            if super::check_name(&name).is_ok() {
                self.let_go(&name)?;
            }
        }
        Ok(())
    }

    /// Unmounts a volume that nobody uses; whether nothing is mounted now. The
    /// caller holds [`CHANGE`].
    fn unmount(&self, name: &str) -> Result<bool, VolumeError> {
        let Some(_alone) = Lock::try_take(&self.root.join(name).join(USERS))? else {
            return Ok(false);
        };
        let data = self.data_dir(name)?;
        detach(&data).map_err(Self::io(name, "unmount", &data))?;
        Ok(true)
    }

    /// Takes the right to remove a volume: nothing is mounted in it, and nothing
    /// will be as long as the answer is kept. `None` for one without options.
    ///
    /// # Errors
    /// [`VolumeError::InUse`], and as [`Volumes::let_go`].
    pub(super) fn take_down(&self, name: &str) -> Result<Option<Lock>, VolumeError> {
        let with_options = self.get(name)?.is_some_and(|volume| !volume.options.is_empty());
        if !with_options {
            return Ok(None);
        }
        let change = Lock::take(&self.root.join(name).join(CHANGE))?;
        if !self.unmount(name)? {
            return Err(VolumeError::InUse {
                name: name.to_owned(),
            });
        }
        Ok(Some(change))
    }
}

/// Whether something is mounted at a path; not when there is nothing at all.
fn is_mounted(path: &Path) -> io::Result<bool> {
    match rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()) {
        Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        // A server that has gone away: mounted it is.
        Err(rustix::io::Errno::STALE | rustix::io::Errno::HOSTDOWN | rustix::io::Errno::IO) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Unmounts all that is mounted at a path, however often.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    while is_mounted(path)? {
        rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    Ok(())
}

/// What mount(8) calls options, as mount(2) wants them.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    flags: MountFlags,
    propagation: MountPropagationFlags,
    bind: bool,
    recursive: bool,
    /// What is left for the file system.
    data: Vec<String>,
}

/// Reads a comma-separated list of mount options, by mount(8).
fn parse(options: &str) -> Parsed {
    let mut parsed = Parsed {
        flags: MountFlags::empty(),
        propagation: MountPropagationFlags::empty(),
        bind: false,
        recursive: false,
        data: Vec::new(),
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (flag, on) = match option {
            "ro" => (MountFlags::RDONLY, true),
            "rw" => (MountFlags::RDONLY, false),
            "nosuid" => (MountFlags::NOSUID, true),
            "suid" => (MountFlags::NOSUID, false),
            "nodev" => (MountFlags::NODEV, true),
            "dev" => (MountFlags::NODEV, false),
            "noexec" => (MountFlags::NOEXEC, true),
            "exec" => (MountFlags::NOEXEC, false),
            "sync" => (MountFlags::SYNCHRONOUS, true),
            "async" => (MountFlags::SYNCHRONOUS, false),
            "dirsync" => (MountFlags::DIRSYNC, true),
            "noatime" => (MountFlags::NOATIME, true),
            "atime" => (MountFlags::NOATIME, false),
            "nodiratime" => (MountFlags::NODIRATIME, true),
            "diratime" => (MountFlags::NODIRATIME, false),
            "relatime" => (MountFlags::RELATIME, true),
            "norelatime" => (MountFlags::RELATIME, false),
            "strictatime" => (MountFlags::STRICTATIME, true),
            "nostrictatime" => (MountFlags::STRICTATIME, false),
            "mand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, true),
            "nomand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, false),
            "defaults" => (MountFlags::empty(), true),
            "bind" | "rbind" => {
                parsed.bind = true;
                parsed.recursive |= option == "rbind";
                continue;
            }
            _ => {
                match option {
                    "private" => parsed.propagation = MountPropagationFlags::PRIVATE,
                    "rprivate" => {
                        parsed.propagation = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                    }
                    "shared" => parsed.propagation = MountPropagationFlags::SHARED,
                    "rshared" => {
                        parsed.propagation = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
                    }
                    "slave" => parsed.propagation = MountPropagationFlags::DOWNSTREAM,
                    "rslave" => {
                        parsed.propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
                    }
                    "unbindable" => parsed.propagation = MountPropagationFlags::UNBINDABLE,
                    "runbindable" => {
                        parsed.propagation = MountPropagationFlags::UNBINDABLE | MountPropagationFlags::REC;
                    }
                    other => parsed.data.push(other.to_owned()),
                }
                continue;
            }
        };
        parsed.flags.set(flag, on);
    }
    parsed
}

/// Network file systems want addresses where people write names.
fn with_address(kind: &str, device: &str, data: &mut Vec<String>) -> Result<(), String> {
    if !matches!(kind, "nfs" | "nfs4" | "cifs" | "smb3") {
        return Ok(());
    }
    let resolve = |host: &str| -> Result<IpAddr, String> {
        if let Ok(address) = host.trim_matches(['[', ']']).parse() {
            return Ok(address);
        }
        let found = (host, 0)
            .to_socket_addrs()
            .map_err(|error| format!("resolve {host}: {error}"))?;
        let found = found.map(|address| address.ip()).next();
        found.ok_or_else(|| format!("resolve {host}: it has no address"))
    };
    let is_address = |option: &&mut String| option.starts_with("addr=") || option.starts_with("ip=");
    if let Some(option) = data.iter_mut().find(is_address) {
        let (name, host) = option.split_once('=').unwrap_or(("addr", ""));
        let resolved = format!("{name}={}", resolve(host)?);
        *option = resolved;
    } else if matches!(kind, "cifs" | "smb3") {
        let host = device.trim_start_matches(['/', '\\']);
        let host = host.split(['/', '\\']).next().unwrap_or_default();
        data.push(format!("ip={}", resolve(host)?));
    }
    Ok(())
}

/// Mounts what a volume's options say.
fn mount(volume: &Volume, place: &Path) -> Result<(), VolumeError> {
    let option = |name: &str| volume.options.get(name).map_or("", String::as_str);
    let (kind, device) = (option("type"), option("device"));
    let failed = |reason: String| VolumeError::Mount {
        name: volume.name.clone(),
        device: device.to_owned(),
        kind: if kind.is_empty() { "none" } else { kind }.to_owned(),
        reason,
    };
    if device.is_empty() {
        return Err(failed("there is no device in its options".to_owned()));
    }
    let mut parsed = parse(option("o"));
    let os = |error: rustix::io::Errno| failed(io::Error::from(error).to_string());
    if parsed.bind {
        if !Path::new(device).is_absolute() {
            return Err(failed("the device of a bind is an absolute path".to_owned()));
        }
        return bind(device, place, &parsed).map_err(|error| failed(error.to_string()));
    }
    with_address(kind, device, &mut parsed.data).map_err(failed)?;
    let data = CString::new(parsed.data.join(","))
        .map_err(|_| failed("an option has a zero byte in it".to_owned()))?;
    rustix::mount::mount(device, place, kind, parsed.flags, data.as_c_str()).map_err(os)?;
    if !parsed.propagation.is_empty()
        && let Err(error) = rustix::mount::mount_change(place, parsed.propagation)
    {
        let _ = detach(place);
        return Err(os(error));
    }
    Ok(())
}

/// Mounts a copy of what is at `device`, which is as it is to be before anybody
/// sees it: whoever is killed half way has mounted nothing.
fn bind(device: &str, place: &Path, parsed: &Parsed) -> io::Result<()> {
    let mut clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if parsed.recursive {
        clone |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, device, clone)?;
    let mut set = 0;
    for (flag, attribute) in [
        (MountFlags::RDONLY, attributes::RDONLY),
        (MountFlags::NOSUID, attributes::NOSUID),
        (MountFlags::NODEV, attributes::NODEV),
        (MountFlags::NOEXEC, attributes::NOEXEC),
        (MountFlags::NOATIME, attributes::NOATIME),
        (MountFlags::STRICTATIME, attributes::STRICTATIME),
        (MountFlags::NODIRATIME, attributes::NODIRATIME),
    ] {
        if parsed.flags.contains(flag) {
            set |= attribute;
        }
    }
    let how = Attributes {
        set,
        // The kernel wants the old mode of access times cleared for a new one.
        clear: if set & attributes::ATIME == 0 {
            0
        } else {
            attributes::ATIME
        },
        propagation: u64::from((parsed.propagation - MountPropagationFlags::REC).bits()),
        ..Attributes::default()
    };
    if how != Attributes::default() {
        set_attributes(tree.as_fd(), c"", how, false)?;
    }
    Ok(move_mount(
        &tree,
        "",
        CWD,
        place,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_propagation_and_the_rest() {
        let parsed = parse("rbind,ro,nosuid,suid,rslave,size=1m,uid=1000");
        assert!(parsed.bind && parsed.recursive);
        assert_eq!(parsed.flags, MountFlags::RDONLY);
        assert_eq!(
            parsed.propagation,
            MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC
        );
        assert_eq!(parsed.data, ["size=1m", "uid=1000"]);
        assert!(parse("defaults").data.is_empty());
    }

    #[test]
    fn addresses_are_written_for_network_file_systems() {
        let with = |kind: &str, device: &str, data: &[&str]| {
            let mut data: Vec<String> = data.iter().map(|&text| text.to_owned()).collect();
            with_address(kind, device, &mut data).unwrap();
            data.join(",")
        };
        assert_eq!(
            with("nfs", ":/export", &["addr=127.0.0.1", "rw"]),
            "addr=127.0.0.1,rw"
        );
        assert_eq!(with("nfs", ":/export", &["addr=::1"]), "addr=::1");
        assert_eq!(
            with("cifs", "//127.0.0.7/share", &["user=a"]),
            "user=a,ip=127.0.0.7"
        );
        assert_eq!(with("ext4", "/dev/x", &["addr=kept"]), "addr=kept");
        let wrong = with_address("nfs", ":/x", &mut vec!["addr=no.such.host.invalid".to_owned()]);
        assert!(wrong.unwrap_err().starts_with("resolve no.such.host.invalid: "));
    }
}

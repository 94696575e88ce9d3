//! `NOTIFY_SOCKET`: a program that tells systemd when it is ready (sd_notify(3)).
//!
//! As with runc, the program gets a socket of the container's own at
//! [`INSIDE`], and whoever starts it passes on that it is ready: `start` and
//! `run --detach` wait for that, or for its end. Then the manager is told which
//! process the service is. Nothing else is passed on.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use super::error::OciError;
use crate::runtime::Process;
use crate::sys::fd;

/// The folder in the container that the socket is in.
const INSIDE: &str = "/run/notify";
const NAME: &str = "notify.sock";
/// How long a manager may take to read what it was told, in seconds.
const HEARD: i64 = 30;

/// The folder of the socket, below that of the container.
pub(super) fn folder(container: &Path) -> PathBuf {
    container.join("notify")
}

/// The manager's socket, if we were given one.
fn manager() -> Option<PathBuf> {
    let path = std::env::var_os("NOTIFY_SOCKET")?;
    (!path.is_empty()).then(|| path.into())
}

/// Adds the folder of the socket to a container, if there is a manager to be told;
/// whether there is.
pub(super) fn prepare(spec: &mut Spec, container: &Path) -> bool {
    if manager().is_none() {
        return false;
    }
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"];
    let mut mount = Mount::default();
    mount.set_destination(INSIDE.into());
    mount.set_typ(Some("bind".into()));
    mount.set_source(Some(folder(container)));
    mount.set_options(Some(options.map(str::to_owned).into()));
    spec.mounts_mut().get_or_insert_default().push(mount);
    if let Some(process) = spec.process_mut() {
        let env = process.env_mut().get_or_insert_default();
        env.push(format!("NOTIFY_SOCKET={INSIDE}/{NAME}"));
    }
    true
}

/// Makes the folder that [`prepare`] has promised.
pub(super) fn make_folder(container: &Path) -> Result<(), OciError> {
    let path = folder(container);
    fs::DirBuilder::new()
        .mode(0o755)
        .create(&path)
        .map_err(OciError::io("make", path.display().to_string()))
}

/// A socket the program writes to.
#[derive(Debug)]
pub(super) struct Ready {
    socket: OwnedFd,
    manager: PathBuf,
}

impl Ready {
    /// Listens, if the container has the folder and there is a manager. Before the
    /// program runs: it may say so at once.
    pub(super) fn listen(container: &Path) -> Result<Option<Self>, OciError> {
        let folder = folder(container);
        let Some(manager) = manager().filter(|_| folder.is_dir()) else {
            return Ok(None);
        };
        let path = folder.join(NAME);
        let listen = || -> io::Result<OwnedFd> {
            let socket = datagrams()?;
            // A command before us was killed.
            let _ = fs::remove_file(&path);
            rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
            // Whoever the program is.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
            Ok(socket)
        };
        let socket = listen().map_err(OciError::io("make socket", path.display().to_string()))?;
        Ok(Some(Self { socket, manager }))
    }

    fn connect(&self) -> io::Result<OwnedFd> {
        let socket = datagrams()?;
        let address = match self.manager.as_os_str().as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddrUnix::new_abstract_name(name)?,
            None => SocketAddrUnix::new(&self.manager)?,
        };
        rustix::net::connect(&socket, &address)?;
        Ok(socket)
    }

    /// Reads one message; passes on that the program is ready and that `pid` is the
    /// service, and if that is not us, waits until it is heard. Whether it was said.
    pub(super) fn pass_on(&self, pid: u32) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&self.socket, &mut buffer))?;
        let message = buffer.get(..length).unwrap_or_default();
        let Some(line) = message
            .split(|byte| *byte == b'\n')
            .find(|line| line.starts_with(b"READY="))
        else {
            return Ok(false);
        };
        let manager = self.connect()?;
        let manager = manager.as_fd();
        fd::send(manager, line, None)?;
        fd::send(manager, format!("MAINPID={pid}").as_bytes(), None)?;
        if pid == std::process::id() {
            return Ok(true);
        }
        // It looks up who we are; we may end when it has (sd_notify_barrier(3)).
        let (heard, held) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        fd::send(manager, b"BARRIER=1", Some(held.as_fd()))?;
        drop(held);
        let mut fds = [PollFd::new(&heard, PollFlags::IN)];
        let time = Timespec {
            tv_sec: HEARD,
            tv_nsec: 0,
        };
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&time)))?;
        Ok(true)
    }

    /// Waits until the program is ready or has ended.
    pub(super) fn wait(&self, process: &Process) -> io::Result<()> {
        loop {
            let mut fds = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN),
            ];
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None))?;
            let [said, ended] = fds.map(|fd| !fd.revents().is_empty());
            // What it said last counts.
            if said && self.pass_on(process.id().pid)? || ended && !said {
                return Ok(());
            }
        }
    }
}

impl AsFd for Ready {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn datagrams() -> io::Result<OwnedFd> {
    let kind = SocketType::DGRAM;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

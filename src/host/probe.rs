//! Health probes: a command inside the container, or one of our own that needs
//! no tool in the image.
//!
//! Ours are made from outside. Sockets are made in the container's network
//! namespace, so that what listens on its loopback interface is reached; paths
//! are resolved within its root, so that no link of it leads anywhere else; and
//! its output is read where it is kept.
//!
//! Weak: `log` reads what the present run has printed from its beginning at
//! each probe until the text is there; with a log driver that keeps nothing it
//! never is.

use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::machine::blocking;
use super::record::{Check, ContainerRecord};
use super::start::ended_process;
use super::{HostError, files};
use crate::monitor::log::{From, Reader};
use crate::project::Probe;
use crate::runtime::{self, ExecRequest, ExecStdio, RunningRecord};
use crate::store::World;
use crate::sys::netns;

/// The most of an HTTP answer that is read: its first line.
const LINE: usize = 1024;

/// Whether a container passes its health check within the check's time.
pub(super) async fn passes(
    world: &World,
    record: &ContainerRecord,
    running: &RunningRecord,
    check: &Check,
) -> bool {
    let timeout = check.policy.timeout;
    match &check.built_in {
        None => command(running, &check.test, timeout).await,
        Some(probe) => {
            let answer = tokio::time::timeout(timeout, built_in(world, record, running, probe));
            matches!(answer.await, Ok(Ok(true)))
        }
    }
}

/// Runs a command in a container: whether it ended with 0 in time.
async fn command(running: &RunningRecord, test: &[String], timeout: Duration) -> bool {
    let (running, request) = (
        running.clone(),
        ExecRequest {
            args: test.to_vec(),
            ..ExecRequest::default()
        },
    );
    let begun = blocking(move || Ok(runtime::exec(&running, &request, ExecStdio::default())?)).await;
    let Ok(exec) = begun else { return false };
    let in_time = tokio::time::timeout(timeout, ended_process(&exec.process)).await;
    if in_time.is_err() {
        let _ = exec.process.signal(libc::SIGKILL);
        ended_process(&exec.process).await;
    }
    matches!(exec.process.wait(), Ok(0)) && in_time.is_ok()
}

async fn built_in(
    world: &World,
    record: &ContainerRecord,
    running: &RunningRecord,
    probe: &Probe,
) -> io::Result<bool> {
    match probe {
        Probe::Tcp(address) => connect(running, *address).await.map(|_| true),
        Probe::Http { address, path } => {
            let mut stream = connect(running, *address).await?;
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: rcompose\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            while answer.len() < LINE && !answer.contains(&b'\n') {
                if stream.read_buf(&mut answer).await? == 0 {
                    break;
                }
            }
            Ok(is_good(&answer))
        }
        Probe::Unix(path) => {
            let (folder, name) = within(world, record, path).await?;
            // By way of the folder's descriptor: a path of ours would follow links of theirs.
            let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
            is_socket(&folder, &name)?;
            UnixStream::connect(path).await.map(|_| true)
        }
        Probe::File(path) => {
            let (folder, name) = within(world, record, path).await?;
            let found = rustix::fs::openat2(
                &folder,
                name,
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::BENEATH,
            );
            Ok(found.is_ok())
        }
        Probe::Log(text) => {
            let log = world.container(&record.project, &record.id).log();
            let (text, since) = (text.clone(), running.started_at);
            let found = blocking(move || Ok(has_printed(&log, since, text.as_bytes())));
            found.await.map_err(io::Error::other)?
        }
    }
}

/// A connection that is made inside a container's network.
async fn connect(running: &RunningRecord, address: SocketAddr) -> io::Result<TcpStream> {
    let pid = running.init.pid;
    let socket = blocking(move || {
        let made = || -> io::Result<OwnedFd> {
            let netns = netns::of_process(pid)?;
            let family = if address.is_ipv4() {
                AddressFamily::INET
            } else {
                AddressFamily::INET6
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            netns::within(netns.as_fd(), || {
                rustix::net::socket_with(family, SocketType::STREAM, flags, None)
            })?
            .map_err(io::Error::from)
        };
        made().map_err(HostError::io(
            "make a socket in",
            Path::new("the container's network"),
        ))
    });
    let socket = socket.await.map_err(io::Error::other)?;
    if runtime::is_running(running).unwrap_or_default() {
        TcpSocket::from_std_stream(StdTcpStream::from(socket))
            .connect(address)
            .await
    } else {
        // The number may have passed to another process meanwhile.
        Err(io::ErrorKind::NotFound.into())
    }
}

/// The folder of a path inside a container, and the path's last name.
async fn within(world: &World, record: &ContainerRecord, path: &str) -> io::Result<(OwnedFd, String)> {
    let (world, record, path) = (world.clone(), record.clone(), path.to_owned());
    let opened = blocking(move || {
        let root = files(&world, &record)?;
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let folder = if folder.is_empty() { "/" } else { folder };
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
        let opened = rustix::fs::openat2(root.as_fd(), folder, flags, Mode::empty(), ResolveFlags::IN_ROOT)
            .map_err(io::Error::from)
            .map_err(HostError::io("open", Path::new(folder)))?;
        Ok((opened, name.to_owned()))
    });
    opened.await.map_err(io::Error::other)
}

/// Fails when a name in a folder is a link, or no socket.
fn is_socket(folder: &OwnedFd, name: &str) -> io::Result<()> {
    let stat = rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Socket {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// Whether an HTTP answer begins with a status that is no error: 200 to 399.
fn is_good(answer: &[u8]) -> bool {
    let line = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let version = words.next().unwrap_or_default();
    let status = words.next().and_then(|status| std::str::from_utf8(status).ok());
    version.starts_with(b"HTTP/1.")
        && status
            .and_then(|status| status.trim().parse::<u16>().ok())
            .is_some_and(|status| (200..400).contains(&status))
}

/// Whether a text is in a line that was printed since then, in nanoseconds since 1970.
fn has_printed(log: &Path, since: u64, text: &[u8]) -> io::Result<bool> {
    let Some(mut reader) = Reader::open(log, From::Since(since))? else {
        return Ok(false);
    };
    // A line may come in pieces.
    let mut line = Vec::new();
    while let Some(entry) = reader.next()? {
        if entry.time < since {
            continue;
        }
        line.extend_from_slice(&entry.text);
        if line.windows(text.len().max(1)).any(|part| part == text) {
            return Ok(true);
        }
        if !entry.partial {
            line.clear();
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_their_status() {
        for good in [
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.0 204\r\n",
            "HTTP/1.1 302 Found\r\nx",
        ] {
            assert!(is_good(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "HTTP/1.1 404 No\r\n",
            "HTTP/1.1 503\r\n",
            "200 OK",
            "HTTP/2 200\r\n",
            "HTTP/1.1 2x0",
        ] {
            assert!(!is_good(bad.as_bytes()), "{bad}");
        }
    }
}

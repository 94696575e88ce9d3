//! Health probes: a command inside the container, or one of our own that needs
//! no tool in the image.
//!
//! Ours are made from outside. Sockets are made in the container's network
//! namespace, so that what listens on its loopback interface is reached; paths
//! are resolved within its root, so that no link of it leads anywhere else; and
//! its output is read where it is kept.
//!
//! What a command prints is read as it comes, and kept to a length; a process
//! that it leaves behind loses its output when the command has ended, as with
//! Docker.
//!
//! Weak: `log` reads what the present run has printed from its beginning at
//! each probe until the text is there; with a log driver that keeps nothing it
//! never is.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::create::now;
use super::health::Probed;
use super::machine::blocking;
use super::record::{Check, ContainerRecord};
use super::start::ended_process;
use super::{HostError, files};
use crate::monitor::log::{From, Reader};
use crate::project::Probe;
use crate::runtime::{self, ExecRequest, ExecStdio, RunningRecord, describe};
use crate::store::World;
use crate::sys::netns;

/// The most of an HTTP answer that is read: its first line.
const LINE: usize = 1024;

/// The status of a probe that has none; Docker's.
const NONE: i32 = -1;

/// Asks a container whether it is well, for as long as its check gives it.
pub(super) async fn run(
    world: &World,
    record: &ContainerRecord,
    running: &RunningRecord,
    check: &Check,
) -> Probed {
    let begun = now();
    let timeout = check.policy.timeout;
    let (code, output) = match &check.built_in {
        None => command(running, &check.test, timeout).await,
        Some(probe) => match tokio::time::timeout(timeout, built_in(world, record, running, probe)).await {
            Ok(Ok(())) => (0, String::new()),
            Ok(Err(error)) => (NONE, format!("{probe}: {}", describe(&error))),
            Err(_) => (NONE, late(timeout)),
        },
    };
    Probed {
        begun,
        ended: now(),
        code,
        output,
    }
}

/// In Docker's words.
fn late(timeout: Duration) -> String {
    format!("Health check exceeded timeout ({timeout:?})")
}

/// Runs a command in a container: its status, and what it printed.
async fn command(running: &RunningRecord, test: &[String], timeout: Duration) -> (i32, String) {
    let (running, request) = (
        running.clone(),
        ExecRequest {
            args: test.to_vec(),
            ..ExecRequest::default()
        },
    );
    let begun = blocking(move || {
        let (ours, theirs) = io::pipe().map_err(HostError::io("make", Path::new("a pipe")))?;
        let stdio = ExecStdio {
            stdin: None,
            stdout: Some(theirs.as_fd()),
            stderr: Some(theirs.as_fd()),
        };
        Ok((runtime::exec(&running, &request, stdio)?, OwnedFd::from(ours)))
    });
    let (exec, pipe) = match begun.await {
        Ok(begun) => begun,
        Err(error) => return (NONE, error.to_string()),
    };
    let mut said = Said::default();
    let mut pipe = pipe::Receiver::from_owned_fd(pipe).ok();
    let in_time = tokio::select! {
        biased;
        () = ended_process(&exec.process) => true,
        never = said.listen(&mut pipe) => match never {},
        () = tokio::time::sleep(timeout) => false,
    };
    if !in_time {
        let _ = exec.process.signal(libc::SIGKILL);
        ended_process(&exec.process).await;
    }
    let code = exec.process.wait();
    said.finish(&pipe);
    match (in_time, code) {
        (true, Ok(code)) => (code, said.text()),
        (true, Err(error)) => (NONE, error.to_string()),
        (false, _) if said.bytes.is_empty() => (NONE, late(timeout)),
        (false, _) => (NONE, format!("{}: {}", late(timeout), said.text())),
    }
}

/// What a command has printed, to a length.
#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    /// There was more.
    cut: bool,
}

impl Said {
    /// Takes in what comes, until dropped: the end of the output is not the end
    /// of the command.
    async fn listen(&mut self, pipe: &mut Option<pipe::Receiver>) -> Infallible {
        let mut buffer = [0; 1024];
        if let Some(pipe) = pipe {
            while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
                self.add(buffer.get(..length).unwrap_or_default());
            }
        }
        std::future::pending().await
    }

    /// Takes in what is there already.
    fn finish(&mut self, pipe: &Option<pipe::Receiver>) {
        let mut buffer = [0; 1024];
        // To the length only: what was left behind may print for ever.
        while let Some(pipe) = pipe.as_ref().filter(|_| !self.cut)
            && let Ok(length @ 1..) = pipe.try_read(&mut buffer)
        {
            self.add(buffer.get(..length).unwrap_or_default());
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = Probed::LONGEST.saturating_sub(self.bytes.len());
        self.cut |= bytes.len() > room;
        self.bytes.extend(bytes.iter().take(room));
    }

    fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.cut {
            text.push_str("...");
        }
        text
    }
}

/// Asks a question of ours.
///
/// # Errors
/// Why the answer is no.
async fn built_in(
    world: &World,
    record: &ContainerRecord,
    running: &RunningRecord,
    probe: &Probe,
) -> io::Result<()> {
    match probe {
        Probe::Tcp(address) => connect(running, *address).await.map(drop),
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
            match is_good(&answer) {
                true => Ok(()),
                false => {
                    let line = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
                    let line = String::from_utf8_lossy(line);
                    Err(io::Error::other(format!("answers {:?}", line.trim_end())))
                }
            }
        }
        Probe::Unix(path) => {
            let (folder, name) = within(world, record, path).await?;
            // By way of the folder's descriptor: a path of ours would follow links of theirs.
            let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
            is_socket(&folder, &name)?;
            UnixStream::connect(path).await.map(drop)
        }
        Probe::File(path) => {
            let (folder, name) = within(world, record, path).await?;
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            rustix::fs::openat2(&folder, name, flags, Mode::empty(), ResolveFlags::BENEATH)?;
            Ok(())
        }
        Probe::Log(text) => {
            let log = world.container(&record.project, &record.id).log();
            let (text, since) = (text.clone(), running.started_at);
            let found = blocking(move || Ok(has_printed(&log, since, text.as_bytes())));
            match found.await.map_err(io::Error::other)?? {
                true => Ok(()),
                false => Err(io::Error::other("was not printed so far")),
            }
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

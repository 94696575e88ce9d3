//! The client's end: finds the supervisor of a stack, or starts one.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::protocol::{Reply, Request};
use super::{ROLE, socket_path};
use crate::store::World;

/// How long a client tries to reach a supervisor that is just starting or
/// just ending.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the supervisor cannot be talked to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It could not be started.
    #[error("start the supervisor of {project}: {source}")]
    Start {
        /// The stack.
        project: String,
        /// Why.
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("the supervisor of {project} does not answer at {}", socket.display())]
    Silent {
        /// The stack.
        project: String,
        /// Its socket.
        socket: PathBuf,
    },
    /// The connection broke.
    #[error("the supervisor of {project} went away: {reason}")]
    Gone {
        /// The stack.
        project: String,
        /// How.
        reason: String,
    },
}

/// A connection to the supervisor of one stack.
#[derive(Debug)]
pub struct Client {
    project: String,
    socket: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the supervisor of a stack, starting one when there is none.
    ///
    /// # Errors
    /// [`ClientError::Start`] when it cannot be started,
    /// [`ClientError::Silent`] when it does not answer within ten seconds.
    pub fn connect(world: &World, project: &str) -> Result<Self, ClientError> {
        let path = socket_path(world, project);
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(1);
        loop {
            let socket = match UnixStream::connect(&path) {
                Ok(socket) => Ok(socket),
                Err(_) => spawn(world, project),
            };
            let socket = match socket {
                // The one before has just removed the stack's empty folder.
                Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => None,
                other => Some(other.map_err(|source| ClientError::Start {
                    project: project.to_owned(),
                    source,
                })?),
            };
            // No greeting: it was on its way out, or another one holds the
            // stack and its socket is not there yet.
            if let Some(client) = socket.and_then(|socket| Self::greeted(project, socket)) {
                return Ok(client);
            }
            if Instant::now() > deadline {
                return Err(ClientError::Silent {
                    project: project.to_owned(),
                    socket: path,
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn greeted(project: &str, socket: UnixStream) -> Option<Self> {
        let lines = BufReader::new(socket.try_clone().ok()?);
        let mut client = Self {
            project: project.to_owned(),
            socket,
            lines,
        };
        client.socket.set_read_timeout(Some(PATIENCE)).ok()?;
        match client.next() {
            Ok(Some(Reply::Hello { .. })) => {
                client.socket.set_read_timeout(None).ok()?;
                Some(client)
            }
            _ => None,
        }
    }

    /// Asks something.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when the supervisor is no longer there.
    pub fn ask(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|error| self.gone(&error))?;
        line.push(b'\n');
        self.socket.write_all(&line).map_err(|error| self.gone(&error))
    }

    /// The next thing it tells; `None` when it closed the connection.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when the connection broke or made no sense.
    #[expect(clippy::should_implement_trait, reason = "it fails, and blocks")]
    pub fn next(&mut self) -> Result<Option<Reply>, ClientError> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => Ok(None),
            Ok(_) => serde_json::from_str(&line)
                .map(Some)
                .map_err(|error| self.gone(&error)),
            Err(error) => Err(self.gone(&error)),
        }
    }

    /// The bare connection, non-blocking, for a caller with a loop of its own.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when the connection cannot be set to that.
    pub fn into_stream(self) -> Result<UnixStream, ClientError> {
        self.socket
            .set_nonblocking(true)
            .map_err(|error| self.gone(&error))?;
        Ok(self.socket)
    }

    fn gone(&self, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::Gone {
            project: self.project.clone(),
            reason: reason.to_string(),
        }
    }
}

/// Starts a supervisor, whose first client is the socket returned. It is a
/// process of its own session, and goes on when the caller ends.
fn spawn(world: &World, project: &str) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    world.prepare().map_err(std::io::Error::other)?;
    let state = world.stack(project);
    std::fs::create_dir_all(&state)?;
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(state.join("supervisor.log"))?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("rcompose")
        .args([ROLE, project])
        .arg(world.state())
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    // It outlives most clients; one that does not is reaped here.
    std::thread::spawn(move || child.wait());
    Ok(ours)
}

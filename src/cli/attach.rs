//! `attach`: joins a running container, by way of its monitor; no supervisor
//! takes part.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::termios::tcgetwinsize;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::choose::container;
use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use super::relay::{Raw, print};
use crate::host::{View, last_exit, running};
use crate::monitor::attach::{ENDED, INPUT, LONGEST_INPUT, SIZE, STDERR};
use crate::runtime;
use crate::sys::readiness::watch;

/// Output that may wait for us before we count as slow, in bytes.
const PATIENCE: usize = 4 << 20;
/// How long the monitor may take to write how the container ended.
const END: Duration = Duration::from_secs(5);
/// Signals that are passed on to the container when it has no terminal.
const PASSED: [i32; 6] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// `attach`.
#[derive(Debug, Args)]
pub(super) struct Attach {
    /// Service
    service: String,
    /// Number of the container
    #[arg(long, default_value_t = 0, value_name = "NUMBER", hide_default_value = true)]
    index: u32,
    #[command(flatten)]
    how: How,
}

/// How a container is joined.
#[derive(Debug, Args)]
pub(super) struct How {
    /// Keys that leave the container alone again
    #[arg(long, default_value = "ctrl-p,ctrl-q", value_name = "KEYS", value_parser = keys)]
    detach_keys: Keys,
    /// Do not connect standard input
    #[arg(long)]
    no_stdin: bool,
    /// Whether signals are passed on
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true,
          action = clap::ArgAction::Set, value_parser = clap::builder::BoolishValueParser::new(), value_name = "BOOL")]
    sig_proxy: bool,
}

/// A sequence of keys, as the bytes that a terminal sends for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keys(Vec<u8>);

impl Default for Keys {
    /// Docker's: Ctrl-P, Ctrl-Q.
    fn default() -> Self {
        Self(vec![16, 17])
    }
}

/// `ctrl-p,ctrl-q`, `a,b`.
fn keys(text: &str) -> Result<Keys, String> {
    let key = |word: &str| -> Result<u8, String> {
        let wrong = || format!("'{word}' is no key: use a character, or ctrl- and one of a-z @ [ \\ ] ^ _");
        let name = word
            .strip_prefix("ctrl-")
            .or_else(|| word.strip_prefix("CTRL-"))
            .or_else(|| word.strip_prefix("Ctrl-"));
        match (name.map(str::as_bytes), word.as_bytes()) {
            (Some([letter]), _) if letter.is_ascii_alphabetic() => Ok(letter.to_ascii_lowercase() - b'a' + 1),
            (Some(b"@"), _) => Ok(0),
            (Some([sign @ b'['..=b'_']), _) => Ok(sign - b'@'),
            (None, [byte]) => Ok(*byte),
            _ => Err(wrong()),
        }
    };
    text.split(',').map(key).collect::<Result<_, _>>().map(Keys)
}

/// Finds the keys in what is typed; holds back what may be their beginning.
#[derive(Debug)]
struct Detach {
    keys: Vec<u8>,
    matched: usize,
}

impl Detach {
    /// What is to be passed on of `typed`, and whether the keys were there.
    fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for &byte in typed {
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(self.keys.get(..self.matched).unwrap_or_default());
            self.matched = 0;
            if self.keys.first() == Some(&byte) {
                self.matched = 1;
            } else {
                passed.push(byte);
            }
        }
        (passed, false)
    }
}

pub(super) fn attach(context: &Context, typed: &Attach) -> Outcome {
    let services = std::slice::from_ref(&typed.service);
    let loaded = context.load_or_recall(services)?;
    known_services(&loaded.project, services)?;
    let view = container(context, &loaded.project.name, &typed.service, typed.index, true)?;
    attach_to(context, &view, &typed.how)
}

/// Joins a container; ends with its status when it ends.
pub(super) fn attach_to(context: &Context, view: &View, typed: &How) -> Outcome {
    let record = running(&context.world, &view.record)?
        .ok_or_else(|| Failure::new(format!("container {} has just ended", view.record.name)))?;
    let failed =
        |operation: &'static str| move |error: io::Error| Failure::new(format!("{operation}: {error}"));
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| failed("make a socket")(error.into()))?;
    // Without the right to, it has the usual room.
    let _ = setsockopt(&theirs, sockopt::SndBufForce, &PATIENCE);
    runtime::attach(&record, theirs.as_fd()).map_err(Failure::new)?;
    drop(theirs);
    let session = Session {
        detach_keys: typed.detach_keys.clone(),
        input: view.record.config.stdin_open && !typed.no_stdin,
        ends_input: false,
        terminal: view.record.config.tty,
        tty: view.record.config.tty && io::stdin().is_terminal() && io::stdout().is_terminal(),
        sig_proxy: typed.sig_proxy,
        signal: |number| {
            // It has just ended: the connection closes next.
            let _ = runtime::signal(&record, number);
        },
    };
    let left = super::block_on(async { session.run(ours).await.map_err(failed("attach")) })?;
    if left == Left::Detached {
        return Ok(ExitCode::SUCCESS);
    }
    let ended = match record.monitor.open() {
        Ok(Some(monitor)) => monitor.ends_within(Some(END)),
        _ => true,
    };
    if !ended {
        return Err(Failure::new(format!(
            "container {} printed faster than its output was read",
            view.record.name
        ))
        .hint("it goes on, and nothing is lost: 'rcompose logs' has it all"));
    }
    let code = last_exit(&context.world, &view.record)?.map_or(137, |exit| exit.code);
    Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)))
}

/// Why a session has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The user has left.
    Detached,
    /// The monitor has closed the connection.
    Closed,
    /// The container has ended, with this status.
    Ended(i32),
}

/// Our standard streams, connected to a container's.
pub(super) struct Session<S> {
    pub(super) detach_keys: Keys,
    /// Standard input is passed on.
    pub(super) input: bool,
    /// And so is its end.
    pub(super) ends_input: bool,
    /// The container has a terminal.
    pub(super) terminal: bool,
    /// And so have we.
    pub(super) tty: bool,
    /// Signals are passed on, when it has none.
    pub(super) sig_proxy: bool,
    /// Sends one to process 1 of the container.
    pub(super) signal: S,
}

impl<S: Fn(i32)> Session<S> {
    /// Relays until the user leaves or the other end is closed.
    pub(super) async fn run(&self, socket: OwnedFd) -> io::Result<Left> {
        let stdin = io::stdin();
        let _raw = (self.tty && self.input)
            .then(|| Raw::new(stdin.as_fd()))
            .transpose()?;
        let socket = watch(socket, Interest::READABLE | Interest::WRITABLE)?;
        let mut typed = self.input.then(read_stdin);
        let mut detach = Detach {
            keys: self.detach_keys.0.clone(),
            matched: 0,
        };
        let (sender, mut signals) = mpsc::channel(8);
        if self.sig_proxy && !self.terminal {
            for number in PASSED {
                let mut stream = signal(SignalKind::from_raw(number))?;
                let sender = sender.clone();
                tokio::spawn(async move {
                    while stream.recv().await.is_some() && sender.send(number).await.is_ok() {}
                });
            }
        }
        let mut resized = signal(SignalKind::window_change())?;
        if self.tty {
            // Another size first, so that the program draws its screen again.
            self.fit(&socket, 1).await?;
            self.fit(&socket, 0).await?;
        }
        let mut packet = vec![0; 64 << 10];
        // What has no room yet: while the container does not read its input, its
        // output is read all the same, or neither would ever go on.
        let mut outgoing: VecDeque<Vec<u8>> = VecDeque::new();
        loop {
            tokio::select! {
                ready = socket.writable(), if !outgoing.is_empty() => {
                    let Some(first) = outgoing.front() else { continue };
                    match try_send(&mut ready?, first)? {
                        Sent::All => { outgoing.pop_front(); }
                        Sent::Later => {}
                        Sent::Gone => return Ok(Left::Closed),
                    }
                }
                ready = socket.readable() => {
                    let received = ready?.try_io(|socket| {
                        let received = rustix::net::recv(socket, packet.as_mut_slice(), RecvFlags::DONTWAIT);
                        Ok(received.map(|(length, _)| length)?)
                    });
                    match received {
                        Ok(Ok(0)) => return Ok(Left::Closed),
                        Ok(Ok(length)) => match packet.get(..length) {
                            Some([ENDED, code @ ..]) => {
                                let code = code.try_into().map(i32::from_le_bytes);
                                return Ok(code.map_or(Left::Closed, Left::Ended));
                            }
                            packet => show(packet.unwrap_or_default())?,
                        },
                        Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Left::Closed),
                        Ok(Err(error)) => return Err(error),
                        Err(_would_block) => {}
                    }
                }
                bytes = next(&mut typed), if outgoing.is_empty() => {
                    let Some(bytes) = bytes else {
                        typed = None;
                        if self.ends_input {
                            outgoing.push_back(vec![INPUT]);
                        }
                        continue;
                    };
                    let (bytes, left) = if self.tty { detach.filter(&bytes) } else { (bytes, false) };
                    for piece in bytes.chunks(LONGEST_INPUT - 1) {
                        let mut packet = vec![INPUT];
                        packet.extend_from_slice(piece);
                        outgoing.push_back(packet);
                    }
                    if left {
                        // What was typed before the keys is the container's.
                        for packet in outgoing {
                            send(&socket, &packet).await?;
                        }
                        return Ok(Left::Detached);
                    }
                }
                Some(number) = signals.recv() => (self.signal)(number),
                _ = resized.recv(), if self.tty => self.fit(&socket, 0).await?,
            }
        }
    }

    /// Gives the container's terminal the size of ours, and so many rows more.
    async fn fit(&self, socket: &AsyncFd<OwnedFd>, more: u16) -> io::Result<()> {
        if let Ok(size) = tcgetwinsize(io::stdout().as_fd()) {
            let rows = size.ws_row.saturating_add(more).to_le_bytes();
            let columns = size.ws_col.to_le_bytes();
            send(socket, &[SIZE, rows[0], rows[1], columns[0], columns[1]]).await?;
        }
        Ok(())
    }
}

/// What is typed, read on a thread: whatever standard input is, a file too.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = [0; LONGEST_INPUT];
        let mut stdin = io::stdin().lock();
        while let Ok(count @ 1..) = stdin.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default().to_vec();
            if sender.blocking_send(bytes).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn next(typed: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match typed {
        Some(typed) => typed.recv().await,
        None => std::future::pending().await,
    }
}

/// What became of a packet.
enum Sent {
    All,
    /// There is no room.
    Later,
    /// Nobody is there any more.
    Gone,
}

/// Sends a packet if there is room.
fn try_send(ready: &mut AsyncFdReadyGuard<'_, OwnedFd>, packet: &[u8]) -> io::Result<Sent> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match ready.try_io(|socket| Ok(rustix::net::send(socket, packet, flags)?)) {
        Ok(Ok(_)) => Ok(Sent::All),
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::Interrupted => Ok(Sent::Later),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(Sent::Gone),
            _ => Err(error),
        },
        Err(_would_block) => Ok(Sent::Later),
    }
}

/// Sends a packet when there is room; whether anybody is still there.
async fn send(socket: &AsyncFd<OwnedFd>, packet: &[u8]) -> io::Result<bool> {
    loop {
        match try_send(&mut socket.writable().await?, packet)? {
            Sent::All => return Ok(true),
            Sent::Gone => return Ok(false),
            Sent::Later => {}
        }
    }
}

fn show(packet: &[u8]) -> io::Result<()> {
    match packet {
        [STDERR, bytes @ ..] => print(io::stderr().as_fd(), bytes),
        [_, bytes @ ..] => print(io::stdout().as_fd(), bytes),
        [] => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_docker_does() {
        assert_eq!(keys("ctrl-p,ctrl-q"), Ok(Keys(vec![16, 17])));
        assert_eq!(keys("a,ctrl-@,ctrl-["), Ok(Keys(vec![b'a', 0, 27])));
        for wrong in ["", "ctrl-", "ctrl-1", "ab", "a,"] {
            assert!(keys(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_keys_are_found_and_nothing_else_is_lost() {
        let mut detach = Detach {
            keys: vec![16, 17],
            matched: 0,
        };
        assert_eq!(detach.filter(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(detach.filter(&[b'c', 16]), (b"c".to_vec(), false));
        assert_eq!(detach.filter(b"d"), (vec![16, b'd'], false));
        assert_eq!(detach.filter(&[16, 16]), (vec![16], false));
        assert_eq!(detach.filter(&[17, b'x']), (vec![], true));
    }
}

//! One client's connection: lines in, lines out.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::protocol::{Reply, Request};

/// Tells connections apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClientId(u64);

/// What comes in from clients.
#[derive(Debug)]
pub(super) enum Incoming {
    Asked(ClientId, Box<Request>),
    Gone(ClientId),
}

/// The way to a client. Lines queue when it is slow to read: they are few and
/// small, and a client that is stopped must not stop the stack.
#[derive(Debug)]
pub(super) struct Sender(mpsc::UnboundedSender<Vec<u8>>);

impl Sender {
    pub(super) fn tell(&self, reply: &Reply) {
        if let Ok(mut line) = serde_json::to_vec(reply) {
            line.push(b'\n');
            // A client that is gone is noticed by its reader.
            let _ = self.0.send(line);
        }
    }
}

/// The first client, when standard input is a socket; standard input is the
/// null device afterwards, so that the connection can end.
pub(super) fn from_stdin() -> Option<std::os::unix::net::UnixStream> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
    rustix::net::sockopt::socket_type(&stdin).ok()?;
    let null: OwnedFd = std::fs::File::open("/dev/null").ok()?.into();
    rustix::stdio::dup2_stdin(null).ok()?;
    rustix::io::ioctl_fionbio(&stdin, true).ok()?;
    Some(stdin.into())
}

/// Serves one connection: what it asks goes to `incoming`, until it is gone.
pub(super) fn serve(
    stream: UnixStream,
    incoming: mpsc::UnboundedSender<Incoming>,
) -> Option<(ClientId, Sender)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = ClientId(NEXT.fetch_add(1, Ordering::Relaxed));
    let owner = stream.peer_cred().ok()?.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return None;
    }
    let (reader, mut writer) = stream.into_split();
    let (sender, mut lines) = mpsc::unbounded_channel::<Vec<u8>>();
    tokio::spawn(async move {
        while let Some(line) = lines.recv().await {
            if writer.write_all(&line).await.is_err() {
                break;
            }
        }
    });
    tokio::spawn(async move {
        let mut lines = BufReader::new(reader).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            match serde_json::from_str(&line) {
                Ok(request) => {
                    if incoming.send(Incoming::Asked(id, request)).is_err() {
                        break;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a client asked something that makes no sense");
                    break;
                }
            }
        }
        let _ = incoming.send(Incoming::Gone(id));
    });
    Some((id, Sender(sender)))
}

//! The TCP side of a published port.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::Shutdown;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::{BUFFER, CONNECTIONS};

/// How long the container may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Pause after an error that is not the listener's end (no descriptors, no memory).
const PAUSE: Duration = Duration::from_millis(100);

type Target = watch::Receiver<Option<SocketAddr>>;

/// Accepts connections for as long as the target's sender is there.
pub(super) async fn serve(fd: OwnedFd, mut target: Target) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(TcpListener::from(fd))?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // Not accepted while there is nowhere to go: the client waits connected.
        if target.wait_for(Option::is_some).await.is_err() {
            return Ok(());
        }
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return Ok(());
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            changed = target.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return Ok(()),
            },
        };
        match accepted {
            Ok((client, _)) => {
                let target = target.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    relay(client, target).await;
                });
            }
            // The client went before we looked.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections of a published port");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Connects a client with the container and moves bytes until both are done.
async fn relay(client: TcpStream, target: Target) {
    let done = match connect(target).await {
        Some(server) => {
            // A proxy has no reason to hold small packets back.
            let _ = client.set_nodelay(true);
            let _ = server.set_nodelay(true);
            let done = tokio::try_join!(pump(&client, &server), pump(&server, &client)).is_ok();
            if !done {
                let _ = server.set_zero_linger();
            }
            done
        }
        None => false,
    };
    if !done {
        // The client learns that it was cut off, not that all was said.
        let _ = client.set_zero_linger();
    }
}

/// Connects to the container: to where it is now, and when that changes while
/// we try, to where it is then.
async fn connect(mut target: Target) -> Option<TcpStream> {
    loop {
        let address = (*target.wait_for(Option::is_some).await.ok()?)?;
        target.mark_unchanged();
        tokio::select! {
            connected = tokio::time::timeout(CONNECT, TcpStream::connect(address)) => match connected {
                Ok(Ok(server)) => return Some(server),
                _ if target.has_changed().ok()? => {}
                _ => return None,
            },
            changed = target.changed() => changed.ok()?,
        }
    }
}

/// Moves bytes one way until the end, which it passes on. Holds no buffer while
/// there is nothing to move.
async fn pump(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    loop {
        from.readable().await?;
        let moved = BUFFER.with_borrow_mut(|buffer| {
            let length = from.try_read(buffer)?;
            let read = buffer.get(..length).unwrap_or_default();
            let written = match to.try_write(read) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                other => other?,
            };
            let rest = read.get(written..).unwrap_or_default();
            Ok::<_, io::Error>((length, rest.to_vec()))
        });
        let (length, rest) = match moved {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            other => other?,
        };
        if length == 0 {
            return rustix::net::shutdown(to, Shutdown::Write).map_err(Into::into);
        }
        let mut rest = rest.as_slice();
        while !rest.is_empty() {
            to.writable().await?;
            match to.try_write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::{Transport, bind, serve};
    use super::*;

    fn published() -> (super::super::BoundSocket, SocketAddr) {
        let mut bound = bind(Some([127, 0, 0, 1].into()), None, Transport::Tcp).unwrap();
        let socket = bound.sockets.remove(0);
        let address = socket.address;
        (socket, address)
    }

    #[tokio::test]
    async fn a_connection_waits_for_its_target_and_half_closes_both_ways() {
        let (socket, address) = published();
        let (sender, target) = watch::channel(None);
        let serving = tokio::spawn(serve(socket, target));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        sender.send_replace(Some(server.local_addr().unwrap()));
        let (mut inner, _) = server.accept().await.unwrap();
        let mut question = String::new();
        inner.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        inner.write_all(b"answer").await.unwrap();
        drop(inner);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        drop(sender);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn much_data_passes_a_slow_reader_unharmed() {
        let (socket, address) = published();
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_sender, target) = watch::channel(Some(server.local_addr().unwrap()));
        let serving = tokio::spawn(serve(socket, target));
        let sent: Vec<u8> = (0..8_000_000u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let copy = sent.clone();
        let writer = tokio::spawn(async move {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(&copy).await.unwrap();
        });
        let (mut inner, _) = server.accept().await.unwrap();
        let mut received = Vec::new();
        let mut part = vec![0; 10_007];
        loop {
            let length = inner.read(&mut part).await.unwrap();
            if length == 0 {
                break;
            }
            received.extend_from_slice(&part[..length]);
            tokio::task::yield_now().await;
        }
        assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
        writer.await.unwrap();
        serving.abort();
    }

    #[tokio::test]
    async fn a_refused_connection_is_reset_and_the_next_one_goes_through() {
        let (socket, address) = published();
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = gone.local_addr().unwrap();
        drop(gone);
        let (sender, target) = watch::channel(Some(nobody));
        let serving = tokio::spawn(serve(socket, target));
        let mut client = TcpStream::connect(address).await.unwrap();
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        sender.send_replace(Some(server.local_addr().unwrap()));
        let _client = TcpStream::connect(address).await.unwrap();
        server.accept().await.unwrap();
        serving.abort();
    }
}

//! Clients that are attached to a running container.
//!
//! A client hands one end of a packet socket in through the monitor's door and
//! then gets what the container prints from now on, a packet for what was read
//! in one go; the first byte says which stream it is. Packets to the monitor
//! begin with [`INPUT`] (bytes for the container's standard input) or [`SIZE`]
//! (rows and columns of the terminal, two bytes each, little-endian).
//!
//! Nobody waits for a client: one whose socket is full is dropped. Input waits
//! for the container, and holds up the clients that would add more of it.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::net::{RecvFlags, SendFlags};
use rustix::termios::Winsize;

use super::log::Stream;

/// The first byte of a packet with standard output.
pub const STDOUT: u8 = 1;
/// The first byte of a packet with standard error.
pub const STDERR: u8 = 2;
/// The first byte of a packet with bytes for standard input.
pub const INPUT: u8 = 0;
/// The first byte of a packet with the size of the terminal.
pub const SIZE: u8 = 1;

/// The longest packet to the monitor.
pub const LONGEST_INPUT: usize = 4096;

/// The clients of one container.
#[derive(Debug, Default)]
pub(super) struct Clients {
    list: Vec<OwnedFd>,
    packet: Vec<u8>,
}

/// What a client has to say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Input(Vec<u8>),
    Size(Winsize),
    Nothing,
    Gone,
}

impl Clients {
    pub(super) fn add(&mut self, client: OwnedFd) {
        self.list.push(client);
    }

    pub(super) fn count(&self) -> usize {
        self.list.len()
    }

    /// What to wait for: nothing but their end while input is held up.
    pub(super) fn descriptors(&self, held_up: bool) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let wanted = if held_up {
            PollFlags::empty()
        } else {
            PollFlags::IN
        };
        self.list.iter().map(move |fd| (fd.as_fd(), wanted))
    }

    /// Passes on what the container has printed.
    pub(super) fn tell(&mut self, stream: Stream, bytes: &[u8]) {
        if self.list.is_empty() {
            return;
        }
        self.packet.clear();
        self.packet.push(match stream {
            Stream::Stdout => STDOUT,
            Stream::Stderr => STDERR,
        });
        self.packet.extend_from_slice(bytes);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let packet = &self.packet;
        self.list
            .retain(|client| rustix::io::retry_on_intr(|| rustix::net::send(client, packet, flags)).is_ok());
    }

    /// Hears the client of that number.
    pub(super) fn hear(&self, number: usize) -> Heard {
        let Some(client) = self.list.get(number) else {
            return Heard::Nothing;
        };
        let mut packet = vec![0; LONGEST_INPUT];
        let length = match rustix::net::recv(client, packet.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Heard::Gone,
            Ok((length, _)) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Heard::Nothing,
            Err(_) => return Heard::Gone,
        };
        match packet.get(..length) {
            Some([INPUT, bytes @ ..]) => Heard::Input(bytes.to_vec()),
            Some([SIZE, r0, r1, c0, c1]) => Heard::Size(Winsize {
                ws_row: u16::from_le_bytes([*r0, *r1]),
                ws_col: u16::from_le_bytes([*c0, *c1]),
                ws_xpixel: 0,
                ws_ypixel: 0,
            }),
            // Of a newer version.
            _ => Heard::Nothing,
        }
    }

    /// Forgets the clients of these numbers.
    pub(super) fn forget(&mut self, mut gone: Vec<usize>) {
        gone.sort_unstable();
        for number in gone.into_iter().rev() {
            if number < self.list.len() {
                self.list.remove(number);
            }
        }
    }
}

/// A container's standard input, as far as clients reach it.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// Write end of its input, or the terminal's master side.
    fd: Option<OwnedFd>,
    /// Written as soon as the container reads.
    pending: Vec<u8>,
}

impl Input {
    /// `fd` must not block.
    pub(super) fn new(fd: Option<OwnedFd>) -> Self {
        Self {
            fd,
            pending: Vec::new(),
        }
    }

    /// What to wait for while something is pending.
    pub(super) fn waits(&self) -> Option<BorrowedFd<'_>> {
        self.fd
            .as_ref()
            .filter(|_| !self.pending.is_empty())
            .map(|fd| fd.as_fd())
    }

    /// Gives the container these bytes, now or later.
    pub(super) fn give(&mut self, bytes: &[u8]) {
        if self.fd.is_some() {
            self.pending.extend_from_slice(bytes);
            self.flush();
        }
    }

    /// Writes what can be written.
    pub(super) fn flush(&mut self) {
        while let Some(fd) = self.fd.as_ref().filter(|_| !self.pending.is_empty()) {
            match rustix::io::write(fd, &self.pending) {
                Ok(count) => {
                    self.pending.drain(..count);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                // Nobody reads it any more.
                Err(_) => self.pending.clear(),
            }
        }
    }

    /// Sets the size of the terminal; nothing happens without one.
    pub(super) fn resize(&self, size: Winsize) {
        if let Some(fd) = &self.fd {
            let _: Result<(), io::Error> = rustix::termios::tcsetwinsize(fd, size).map_err(io::Error::from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    fn pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    fn receive(client: &OwnedFd) -> Vec<u8> {
        let mut packet = vec![0; 64 << 10];
        let (length, _) = rustix::net::recv(client, packet.as_mut_slice(), RecvFlags::empty()).unwrap();
        packet.truncate(length);
        packet
    }

    #[test]
    fn a_slow_client_is_dropped_and_the_others_go_on() {
        let mut clients = Clients::default();
        let ((slow, slow_end), (quick, quick_end)) = (pair(), pair());
        clients.add(slow_end);
        clients.add(quick_end);
        let block = vec![b'x'; 32 << 10];
        for _ in 0..200 {
            clients.tell(Stream::Stderr, &block);
            let packet = receive(&quick);
            assert_eq!((packet.len(), packet[0]), (block.len() + 1, STDERR));
        }
        assert_eq!(clients.count(), 1);
        drop(slow);
    }

    #[test]
    fn clients_are_heard() {
        let mut clients = Clients::default();
        let (client, end) = pair();
        clients.add(end);
        assert_eq!(clients.hear(0), Heard::Nothing);
        assert_eq!(clients.hear(7), Heard::Nothing);
        let send = |bytes: &[u8]| rustix::net::send(&client, bytes, SendFlags::empty()).unwrap();
        send(&[INPUT, b'a', b'b']);
        send(&[SIZE, 24, 0, 80, 1]);
        send(&[9, 9]);
        assert_eq!(clients.hear(0), Heard::Input(b"ab".to_vec()));
        assert!(matches!(clients.hear(0), Heard::Size(size) if (size.ws_row, size.ws_col) == (24, 336)));
        assert_eq!(clients.hear(0), Heard::Nothing);
        drop(client);
        assert_eq!(clients.hear(0), Heard::Gone);
        clients.forget(vec![0, 5]);
        assert_eq!(clients.count(), 0);
    }

    #[test]
    fn input_waits_for_its_reader() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        let mut input = Input::new(Some(write));
        let bytes = vec![b'y'; 200_000];
        input.give(&bytes);
        assert!(input.waits().is_some());
        let mut got = 0;
        let mut buffer = vec![0; 64 << 10];
        while got < bytes.len() {
            got += rustix::io::read(&read, buffer.as_mut_slice()).unwrap();
            input.flush();
        }
        assert!(input.waits().is_none());
        drop(read);
        input.give(b"more");
        assert!(input.waits().is_none(), "nobody reads: it is given up");
    }
}

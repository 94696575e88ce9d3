//! Clients that are attached to a running container.
//!
//! A client hands one end of a packet socket in through the monitor's door and
//! then gets what the container prints from now on, a packet for what was read
//! in one go; the first byte says which stream it is. Packets to the monitor
//! begin with [`INPUT`] (bytes for the container's standard input; none at all:
//! that was the last of it) or [`SIZE`] (rows and columns of the terminal, two
//! bytes each, little-endian).
//!
//! Nobody waits for a client: one whose socket is full is dropped. The exception
//! is the client that was there from the beginning (`run`): the container's
//! output is not read while that one's socket is full, and its input ends with
//! it. Its last packet says how the container ended ([`ENDED`]). Input waits for the container, and holds up the clients that would add
//! more of it.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendFlags};
use rustix::termios::Winsize;

use super::log::Stream;

/// The first byte of a packet with standard output.
pub const STDOUT: u8 = 1;
/// The first byte of a packet with standard error.
pub const STDERR: u8 = 2;
/// The first byte of the packet that tells the first client the exit status,
/// in four bytes, little-endian.
pub const ENDED: u8 = 3;
/// The first byte of a packet with bytes for standard input.
pub const INPUT: u8 = 0;
/// The first byte of a packet with the size of the terminal.
pub const SIZE: u8 = 1;

/// The longest packet to the monitor.
pub const LONGEST_INPUT: usize = 4096;

/// How long the end of a container waits for its first client to take the rest
/// of what it printed; begins anew with each packet that is taken.
const PATIENCE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// The clients of one container.
#[derive(Debug, Default)]
pub(super) struct Clients {
    list: Vec<Client>,
    packet: Vec<u8>,
}

#[derive(Debug)]
struct Client {
    fd: OwnedFd,
    /// It was there from the beginning: the container waits for it.
    first: bool,
    /// A packet that its socket had no room for.
    held: Option<Vec<u8>>,
}

impl Client {
    /// Sends a packet; whether the client is still there.
    fn send(&mut self, packet: &[u8]) -> bool {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, packet, flags)) {
            Ok(_) => true,
            Err(rustix::io::Errno::AGAIN) if self.first => {
                self.held = Some(packet.to_vec());
                true
            }
            Err(_) => false,
        }
    }
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
    /// The client that is there from the beginning, if there is one.
    pub(super) fn beginning_with(first: Option<OwnedFd>) -> Self {
        let first = first.map(|fd| Client {
            fd,
            first: true,
            held: None,
        });
        Self {
            list: first.into_iter().collect(),
            packet: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, client: OwnedFd) {
        self.list.push(Client {
            fd: client,
            first: false,
            held: None,
        });
    }

    /// Whether the client of that number was there from the beginning.
    pub(super) fn is_first(&self, number: usize) -> bool {
        self.list.get(number).is_some_and(|client| client.first)
    }

    /// Whether the container's output has to wait.
    pub(super) fn are_full(&self) -> bool {
        self.list.iter().any(|client| client.held.is_some())
    }

    /// Sends what had no room before, as far as there is some now.
    pub(super) fn send_held(&mut self) {
        self.list.retain_mut(|client| match client.held.take() {
            Some(packet) => client.send(&packet),
            None => true,
        });
    }

    /// Sends what had no room before, waiting for it; a client that does not
    /// take it in time is dropped.
    pub(super) fn wait_for_room(&mut self) {
        while let Some(number) = self.list.iter().position(|client| client.held.is_some()) {
            let room = self.list.get(number).is_some_and(|client| {
                let mut fds = [PollFd::new(&client.fd, PollFlags::OUT)];
                let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&PATIENCE)));
                matches!(ready, Ok(1..))
            });
            if room {
                self.send_held();
            } else {
                self.list.remove(number);
            }
        }
    }

    pub(super) fn count(&self) -> usize {
        self.list.len()
    }

    /// What to wait for: nothing but their end while input is held up.
    pub(super) fn descriptors(&self, held_up: bool) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.list.iter().map(move |client| {
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::IN, !held_up);
            wanted.set(PollFlags::OUT, client.held.is_some());
            (client.fd.as_fd(), wanted)
        })
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
        let packet = &self.packet;
        self.list.retain_mut(|client| client.send(packet));
    }

    /// Tells the first client how the container ended.
    pub(super) fn tell_end(&mut self, code: i32) {
        let mut packet = vec![ENDED];
        packet.extend(code.to_le_bytes());
        for client in self.list.iter_mut().filter(|client| client.first) {
            client.send(&packet);
        }
        self.wait_for_room();
    }

    /// Hears the client of that number.
    pub(super) fn hear(&self, number: usize) -> Heard {
        let Some(client) = self.list.get(number) else {
            return Heard::Nothing;
        };
        let mut packet = vec![0; LONGEST_INPUT];
        let length = match rustix::net::recv(&client.fd, packet.as_mut_slice(), RecvFlags::DONTWAIT) {
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
    /// Nothing comes after that.
    ending: bool,
}

impl Input {
    /// `fd` must not block.
    pub(super) fn new(fd: Option<OwnedFd>) -> Self {
        Self {
            fd,
            ..Self::default()
        }
    }

    /// Lets the container see the end of its input when it has read the rest.
    pub(super) fn end(&mut self) {
        self.ending = true;
        self.flush();
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
        if self.ending {
            self.fd = None;
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

    #[test]
    fn the_end_of_input_comes_after_the_rest_of_it() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        let mut input = Input::new(Some(write));
        input.give(&vec![b'y'; 100_000]);
        input.end();
        let (mut got, mut buffer) = (0, vec![0; 64 << 10]);
        loop {
            match rustix::io::read(&read, buffer.as_mut_slice()).unwrap() {
                0 => break,
                count => got += count,
            }
            input.flush();
        }
        assert_eq!(got, 100_000);
    }

    #[test]
    fn the_first_client_is_waited_for_and_loses_nothing() {
        let (first, end) = pair();
        let mut clients = Clients::beginning_with(Some(end));
        let block = vec![b'x'; 32 << 10];
        let mut told = 0;
        while !clients.are_full() {
            clients.tell(Stream::Stdout, &block);
            told += 1;
        }
        clients.send_held();
        assert!(clients.are_full(), "there is no room still");
        for _ in 0..told {
            assert_eq!(receive(&first).len(), block.len() + 1);
            clients.send_held();
        }
        assert!(!clients.are_full());
        assert_eq!(clients.count(), 1);
        while !clients.are_full() {
            clients.tell(Stream::Stdout, &block);
        }
        drop(first);
        clients.wait_for_room();
        assert_eq!(clients.count(), 0, "one that is gone is not waited for");
    }
}

//! Netlink (netlink(7)): messages, attributes and the socket they go through.
//!
//! Nothing here knows what a message means. A [`Socket`] belongs to the network
//! namespace of the thread that opened it, for good. The kernel works through
//! everything that one `send` carries before the call returns, so a batch is
//! never left half sent by a killed process, and the answers are waiting when
//! [`Socket::transact`] reads them.

#![allow(unsafe_code)]

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `NLM_F_REQUEST`: every message to the kernel.
const REQUEST: u16 = 0x1;
/// `NLM_F_MULTI`: part of a dump.
const MULTI: u16 = 0x2;
/// `NLM_F_ACK`: answer even when all is well.
pub const ACK: u16 = 0x4;
/// `NLM_F_REPLACE`: override an existing object.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`: fail when the object exists.
pub const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`: make the object when it is missing.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: add at the end of a list.
pub const APPEND: u16 = 0x800;
/// `NLM_F_DUMP`: every object of a kind.
const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`: the dump is not one moment's picture.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED`: an error does not repeat the request.
const CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: an error carries attributes.
const ACK_TLVS: u16 = 0x200;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `NLMSGERR_ATTR_MSG`: what was wrong, in words.
const ERROR_TEXT: u16 = 1;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// Size of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Room for one datagram from the kernel, which cuts dumps to fit into it.
const RECEIVE: usize = 32 * 1024;
/// Messages a transaction sends at once: their acknowledgements must fit into
/// the receive buffer of the socket (212,992 bytes unless root changed it).
const AT_ONCE: usize = 100;

/// Which part of the kernel a socket talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes (rtnetlink(7)).
    Route,
    /// Firewall and connection tracking.
    Netfilter,
}

/// A request the kernel refused, or that could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}{}", hint(.text))]
pub struct NetlinkError {
    /// What was asked for.
    pub operation: String,
    /// Why it failed.
    pub source: io::Error,
    /// What the kernel said beside the error number (extended acknowledgement).
    pub text: Option<String>,
}

fn hint(text: &Option<String>) -> String {
    text.as_ref().map(|text| format!(" ({text})")).unwrap_or_default()
}

impl NetlinkError {
    fn new(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self {
            operation: operation.into(),
            source: source.into(),
            text: None,
        }
    }

    /// Whether the error number is this one.
    pub fn is(&self, errno: rustix::io::Errno) -> bool {
        self.source.raw_os_error() == Some(errno.raw_os_error())
    }
}

/// A list of attributes being written.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    bytes: Vec<u8>,
    overflow: bool,
}

impl Attributes {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends a fixed structure or a list of attributes as it is.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad()
    }

    /// Appends a finished list.
    pub fn list(&mut self, other: &Self) -> &mut Self {
        self.overflow |= other.overflow;
        self.raw(&other.bytes)
    }

    /// Appends an attribute. A value that does not fit into its 16-bit length
    /// makes the message unsendable rather than shorter.
    pub fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or_else(|_| {
            self.overflow = true;
            4
        });
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value)
    }

    /// Appends a string with its terminating zero.
    pub fn string(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Appends one byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.put(kind, &[value])
    }

    /// Appends a 32-bit number in the machine's byte order (rtnetlink).
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Appends a 32-bit number in network byte order (netfilter).
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Appends a nested list.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::new();
        fill(&mut inner);
        self.overflow |= inner.overflow;
        self.put(kind | NESTED, &inner.bytes)
    }

    fn pad(&mut self) -> &mut Self {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
        self
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Message {
    kind: u16,
    flags: u16,
    operation: Cow<'static, str>,
    /// What follows the header: a fixed structure, then attributes.
    pub body: Attributes,
}

impl Message {
    /// A request of a kind (`RTM_NEWLINK`) with flags (without
    /// `NLM_F_REQUEST`) and the words an error will use for it.
    pub fn new(kind: u16, flags: u16, operation: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            flags,
            operation: operation.into(),
            body: Attributes::new(),
        }
    }

    fn write(&self, sequence: u32, to: &mut Vec<u8>) -> Result<(), NetlinkError> {
        let length = u32::try_from(HEADER + self.body.bytes.len());
        let Some(length) = length.ok().filter(|_| !self.body.overflow) else {
            return Err(NetlinkError::new(
                self.operation.clone(),
                rustix::io::Errno::MSGSIZE,
            ));
        };
        to.extend_from_slice(&length.to_ne_bytes());
        to.extend_from_slice(&self.kind.to_ne_bytes());
        to.extend_from_slice(&(self.flags | REQUEST).to_ne_bytes());
        to.extend_from_slice(&sequence.to_ne_bytes());
        to.extend_from_slice(&0u32.to_ne_bytes());
        to.extend_from_slice(&self.body.bytes);
        Ok(())
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Kind of message (`RTM_NEWLINK`).
    pub kind: u16,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Reply {
    /// The fixed structure at the front (`size` bytes) and the attributes after
    /// it; `None` when the answer is shorter than that.
    pub fn split(&self, size: usize) -> Option<(&[u8], &[u8])> {
        let attributes = self.payload.get(size.next_multiple_of(4)..)?;
        Some((self.payload.get(..size)?, attributes))
    }
}

/// The attributes of an answer: kind (without flags) and value. Stops at the
/// first malformed one.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A 16-bit number in the machine's byte order.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A 32-bit number in the machine's byte order.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A string up to its terminating zero; `None` when it is not UTF-8.
pub fn string(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()
}

/// A connection to one part of the kernel, in the network namespace of the
/// thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One message as it came, cut out of a datagram.
struct Received<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Socket {
    /// Opens a connection.
    ///
    /// # Errors
    /// What socket(2) says: `EPROTONOSUPPORT` when the kernel has no such part.
    pub fn open(protocol: Protocol) -> Result<Self, NetlinkError> {
        let number = match protocol {
            Protocol::Route => None,
            Protocol::Netfilter => Some(rustix::net::netlink::NETFILTER),
        };
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            number,
        )
        .map_err(|error| NetlinkError::new("open a netlink socket", error))?;
        // Errors come back with the kernel's words and without our own request.
        // Kernels before 4.12 lack these; the number alone does then.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            let on: libc::c_int = 1;
            // SAFETY: the descriptor is open, and the option value is a c_int
            // that outlives the call and whose size is passed with it.
            let _ = unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_NETLINK,
                    option,
                    (&raw const on).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                )
            };
        }
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; RECEIVE],
        })
    }

    /// Joins multicast groups (a set of bits, `RTMGRP_*` of rtnetlink(7)), whose
    /// announcements [`Socket::announced`] then reads. Such a socket asks
    /// nothing itself.
    ///
    /// # Errors
    /// What bind(2) says.
    pub fn join(&self, groups: u32) -> Result<(), NetlinkError> {
        let address = rustix::net::netlink::SocketAddrNetlink::new(0, groups);
        rustix::net::bind(&self.fd, &address)
            .map_err(|error| NetlinkError::new("listen to the kernel's announcements", error))
    }

    /// Announcements of the groups joined that wait to be read; none is no
    /// error.
    ///
    /// # Errors
    /// What recv(2) says: `ENOBUFS` when some were lost.
    pub fn announced(&mut self) -> Result<Vec<Reply>, NetlinkError> {
        let mut replies = Vec::new();
        loop {
            match self.receive(RecvFlags::DONTWAIT, "read the kernel's announcements") {
                Ok(datagram) => each(datagram, |received| {
                    replies.push(Reply {
                        kind: received.kind,
                        payload: received.payload.to_vec(),
                    });
                }),
                Err(error) if error.is(rustix::io::Errno::AGAIN) => return Ok(replies),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends requests, in order, and returns what the kernel answered beside
    /// acknowledgements. All of them are carried out even when one fails.
    ///
    /// # Errors
    /// The first refusal.
    pub fn transact(&mut self, messages: &[Message]) -> Result<Vec<Reply>, NetlinkError> {
        let mut replies = Vec::new();
        let mut failure = None;
        for part in messages.chunks(AT_ONCE) {
            let first = self.send(part)?;
            self.collect(part, first, &mut replies, &mut failure)?;
        }
        failure.map_or(Ok(replies), Err)
    }

    /// Sends requests in one piece: the kernel takes all or none of a
    /// netfilter transaction. Only the requests that ask for it are acknowledged.
    ///
    /// # Errors
    /// The first refusal.
    pub fn transact_whole(&mut self, messages: &[Message]) -> Result<Vec<Reply>, NetlinkError> {
        let mut replies = Vec::new();
        let mut failure = None;
        let first = self.send(messages)?;
        self.collect(messages, first, &mut replies, &mut failure)?;
        failure.map_or(Ok(replies), Err)
    }

    /// Asks for every object of a kind.
    ///
    /// # Errors
    /// The refusal, or `EINTR` when the objects changed in every one of several
    /// attempts at reading them.
    pub fn dump(&mut self, message: &Message) -> Result<Vec<Reply>, NetlinkError> {
        let mut request = message.clone();
        request.flags |= DUMP;
        for _ in 0..16 {
            if let Some(replies) = self.dump_once(&request)? {
                return Ok(replies);
            }
        }
        Err(NetlinkError::new(
            message.operation.clone(),
            rustix::io::Errno::INTR,
        ))
    }

    fn dump_once(&mut self, request: &Message) -> Result<Option<Vec<Reply>>, NetlinkError> {
        let sequence = self.send(std::slice::from_ref(request))?;
        let mut replies = Vec::new();
        let mut whole = true;
        loop {
            let datagram = self.receive(RecvFlags::empty(), &request.operation)?;
            let mut failure = None;
            let mut done = false;
            each(datagram, |received| {
                if received.sequence != sequence {
                    return;
                }
                whole &= received.flags & DUMP_INTERRUPTED == 0;
                match received.kind {
                    ERROR => failure = refusal(&request.operation, &received).or(failure.take()),
                    DONE => done = true,
                    kind => replies.push(Reply {
                        kind,
                        payload: received.payload.to_vec(),
                    }),
                }
                done |= received.kind == ERROR || received.flags & MULTI == 0;
            });
            if let Some(failure) = failure {
                return Err(failure);
            }
            if done {
                return Ok(whole.then_some(replies));
            }
        }
    }

    /// Sends messages and returns the sequence number of the first.
    fn send(&mut self, messages: &[Message]) -> Result<u32, NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(messages.len() * 256);
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            message.write(self.sequence, &mut bytes)?;
        }
        let operation = || {
            messages
                .first()
                .map(|message| message.operation.clone().into_owned())
                .unwrap_or_default()
        };
        if bytes.len() > 128 * 1024 {
            // Larger than the default send buffer; root may go beyond the limit.
            rustix::net::sockopt::set_socket_send_buffer_size_force(&self.fd, bytes.len() * 2)
                .map_err(|error| NetlinkError::new(operation(), error))?;
        }
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, &bytes, SendFlags::empty()))
            .map_err(|error| NetlinkError::new(operation(), error))?;
        if sent == bytes.len() {
            Ok(first)
        } else {
            Err(NetlinkError::new(operation(), io::ErrorKind::WriteZero))
        }
    }

    fn receive(&mut self, flags: RecvFlags, operation: &str) -> Result<&[u8], NetlinkError> {
        let (_, length) = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.fd, self.buffer.as_mut_slice(), flags | RecvFlags::TRUNC)
        })
        .map_err(|error| NetlinkError::new(operation, error))?;
        self.buffer
            .get(..length)
            .ok_or_else(|| NetlinkError::new(operation, rustix::io::Errno::MSGSIZE))
    }

    /// Reads the answers to messages that were just sent. The kernel queued
    /// them before `send` returned, so an empty queue is the end.
    fn collect(
        &mut self,
        messages: &[Message],
        first: u32,
        replies: &mut Vec<Reply>,
        failure: &mut Option<NetlinkError>,
    ) -> Result<(), NetlinkError> {
        loop {
            let datagram = match self.receive(RecvFlags::DONTWAIT, "read the kernel's answer") {
                Ok(datagram) => datagram,
                Err(error) if error.is(rustix::io::Errno::AGAIN) => return Ok(()),
                // More refusals than the queue holds: the first one is there.
                Err(error) if error.is(rustix::io::Errno::NOBUFS) && failure.is_some() => continue,
                Err(error) => return Err(error),
            };
            each(datagram, |received| {
                let at = received.sequence.wrapping_sub(first) as usize;
                let Some(message) = messages.get(at) else { return };
                match received.kind {
                    ERROR => {
                        let refused = refusal(&message.operation, &received);
                        *failure = failure.take().or(refused);
                    }
                    DONE => {}
                    kind => replies.push(Reply {
                        kind,
                        payload: received.payload.to_vec(),
                    }),
                }
            });
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Calls `visit` with every message of a datagram.
fn each<'a>(datagram: &'a [u8], mut visit: impl FnMut(Received<'a>)) {
    let mut rest = datagram;
    while let Some(received) = cut(rest) {
        let length = HEADER + received.payload.len();
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        visit(received);
    }
}

fn cut(bytes: &[u8]) -> Option<Received<'_>> {
    let length = u32_at(bytes, 0)? as usize;
    Some(Received {
        kind: u16_at(bytes, 4)?,
        flags: u16_at(bytes, 6)?,
        sequence: u32_at(bytes, 8)?,
        payload: bytes.get(HEADER..length)?,
    })
}

/// The error an `NLMSG_ERROR` carries; `None` for an acknowledgement.
fn refusal(operation: &str, received: &Received<'_>) -> Option<NetlinkError> {
    let number = u32_at(received.payload, 0)?.cast_signed();
    if number == 0 {
        return None;
    }
    let mut error = NetlinkError::new(operation, io::Error::from_raw_os_error(number.wrapping_neg()));
    if received.flags & ACK_TLVS != 0 {
        // The header of our request follows, and the whole request unless capped.
        let request = u32_at(received.payload, 4)? as usize;
        let skip = if received.flags & CAPPED == 0 {
            request
        } else {
            HEADER
        };
        let tail = received.payload.get(4 + skip.next_multiple_of(4)..)?;
        error.text = attributes(tail)
            .find(|(kind, _)| *kind == ERROR_TEXT)
            .and_then(|(_, text)| string(text))
            .map(str::to_owned);
    }
    Some(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let mut list = Attributes::new();
        list.string(1, "eth0").u8(2, 7).nest(3, |inner| {
            inner.be32(1, 0x0102_0304);
        });
        assert_eq!(list.len(), 12 + 8 + 12);
        let read: Vec<_> = attributes(&list.bytes).collect();
        assert_eq!(read[0], (1, &b"eth0\0"[..]));
        assert_eq!(read[1], (2, &[7u8][..]));
        assert_eq!(read[2].0, 3, "the nested flag is not part of the kind");
        assert_eq!(attributes(read[2].1).next(), Some((1, &[1u8, 2, 3, 4][..])));
    }

    #[test]
    fn a_value_that_does_not_fit_is_an_error_and_never_a_shorter_message() {
        let mut message = Message::new(16, 0, "make link x");
        message.body.put(1, &vec![0; 65_532]);
        let error = message.write(1, &mut Vec::new()).unwrap_err();
        assert!(error.is(rustix::io::Errno::MSGSIZE), "{error}");
        let mut nested = Message::new(16, 0, "make link x");
        nested.body.nest(1, |inner| {
            inner.nest(2, |inner| {
                inner.put(1, &vec![0; 65_532]);
            });
        });
        assert!(nested.write(1, &mut Vec::new()).is_err());
    }

    #[test]
    fn malformed_input_ends_the_list() {
        for bytes in [&[][..], &[1], &[3, 0, 1, 0], &[200, 0, 1, 0, 1], &[0, 0, 0, 0]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
            assert!(cut(bytes).is_none());
        }
    }

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        // RTM_NEWLINK for a link that cannot exist: refused for everyone.
        let mut message = Message::new(16, ACK, "change link 2147483647");
        message
            .body
            .raw(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0]);
        let error = socket.transact(&[message]).unwrap_err();
        assert!(
            error.to_string().starts_with("change link 2147483647: "),
            "{error}"
        );
    }
}

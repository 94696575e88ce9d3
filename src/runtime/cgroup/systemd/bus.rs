//! The little of the D-Bus wire protocol that asking systemd takes: method
//! calls over its private socket, their answers, and one signal. Blocking.
//!
//! Source: the D-Bus specification, "Message Protocol" and "Authentication
//! Protocol" (EXTERNAL).

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long systemd may take to answer, and to do what it was asked for.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest message that is read; those that concern us are short.
const LONGEST: usize = 1 << 20;

const DESTINATION: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";

/// A value of a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Flag(bool),
    Number(u64),
    /// Process numbers.
    Numbers(Vec<u32>),
    /// A set of small numbers, a bit each.
    Bytes(Vec<u8>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Self::Text(_) => "s",
            Self::Flag(_) => "b",
            Self::Number(_) => "t",
            Self::Numbers(_) => "au",
            Self::Bytes(_) => "ay",
        }
    }
}

/// A message's bytes while it is put together, in little endian order.
#[derive(Debug, Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn length(&mut self, length: usize) {
        self.number(u32::try_from(length).unwrap_or(u32::MAX));
    }

    /// A text, or the path of an object.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.length(text.len());
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self
    }

    pub(super) fn flag(&mut self, flag: bool) -> &mut Self {
        self.number(flag.into());
        self
    }

    fn signature(&mut self, signature: &str) {
        self.0.extend(u8::try_from(signature.len()));
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    fn value(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Text(text) => {
                self.text(text);
            }
            Value::Flag(flag) => {
                self.flag(*flag);
            }
            Value::Number(number) => {
                self.align(8);
                self.0.extend(number.to_le_bytes());
            }
            Value::Numbers(list) => {
                self.length(4 * list.len());
                list.iter().for_each(|number| self.number(*number));
            }
            Value::Bytes(bytes) => {
                self.length(bytes.len());
                self.0.extend(bytes);
            }
        }
    }

    /// An array of structures, whose length is known when they are there.
    fn array(&mut self, fill: impl FnOnce(&mut Self)) {
        self.number(0);
        let at = self.0.len();
        self.align(8);
        let from = self.0.len();
        fill(self);
        let length = u32::try_from(self.0.len() - from).unwrap_or(u32::MAX);
        if let Some(place) = self.0.get_mut(at - 4..at) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }

    /// `a(sv)`: names and values.
    pub(super) fn properties(&mut self, list: &[(&str, Value)]) -> &mut Self {
        self.array(|body| {
            for (name, value) in list {
                body.align(8);
                body.text(name);
                body.value(value);
            }
        });
        self
    }

    /// An array of structures that is empty.
    pub(super) fn nothing(&mut self) -> &mut Self {
        self.array(|_| {});
        self
    }
}

/// Why a call did not do what it should.
#[derive(Debug)]
pub(super) enum CallError {
    /// The connection.
    Io(io::Error),
    /// An answer that is an error: its name and its words.
    Refused(String, String),
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A message that was read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    kind: u8,
    answers: u32,
    member: String,
    error: String,
    body: Vec<u8>,
}

const ANSWER: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// A connection to systemd.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    serial: u32,
    /// Jobs that have ended: the paths of their objects, and how.
    ended: BTreeMap<String, String>,
}

impl Connection {
    /// Connects as who we are.
    pub(super) fn open(socket: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let own = rustix::process::geteuid().as_raw().to_string();
        let own: String = own.bytes().map(|digit| format!("{digit:02x}")).collect();
        // All at once, and the first call only when this is answered: what comes
        // in the same packet as BEGIN would lie unread until the next packet.
        stream.write_all(format!("\0AUTH EXTERNAL {own}\r\nBEGIN\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 1024 {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            line.extend(byte);
        }
        if !line.starts_with(b"OK ") {
            let said = String::from_utf8_lossy(&line).trim().to_owned();
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, said));
        }
        Ok(Self {
            stream,
            serial: 0,
            ended: BTreeMap::new(),
        })
    }

    /// Calls a method of systemd's manager; the body of the answer.
    pub(super) fn call(&mut self, member: &str, signature: &str, body: &Body) -> Result<Vec<u8>, CallError> {
        self.serial += 1;
        self.stream
            .write_all(&request(self.serial, member, signature, body))?;
        loop {
            let message = self.read()?;
            match message.kind {
                ANSWER if message.answers == self.serial => return Ok(message.body),
                ERROR if message.answers == self.serial => {
                    let words = text_at(&message.body, &mut 0).unwrap_or_default();
                    return Err(CallError::Refused(message.error, words));
                }
                _ => self.note(&message),
            }
        }
    }

    /// Waits until a job has ended, whose path is in the body of an answer: its
    /// result, `done` when it did what it should.
    pub(super) fn wait_for_job(&mut self, answer: &[u8]) -> io::Result<String> {
        let job = text_at(answer, &mut 0).ok_or(io::ErrorKind::InvalidData)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(result) = self.ended.remove(&job) {
                return Ok(result);
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let message = self.read()?;
            self.note(&message);
        }
    }

    /// Keeps what a signal says of a job: number, path, unit, result.
    fn note(&mut self, message: &Message) {
        if message.kind != SIGNAL || message.member != "JobRemoved" {
            return;
        }
        let mut at = 4;
        let mut next = || text_at(&message.body, &mut at);
        if let (Some(path), Some(_), Some(result)) = (next(), next(), next()) {
            self.ended.insert(path, result);
        }
    }

    fn read(&mut self) -> io::Result<Message> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        let (fields, body) = lengths(&head).ok_or(io::ErrorKind::InvalidData)?;
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        self.stream.read_exact(&mut rest)?;
        Ok(parse(head[1], &rest, fields).ok_or(io::ErrorKind::InvalidData)?)
    }
}

/// A method call.
fn request(serial: u32, member: &str, signature: &str, body: &Body) -> Vec<u8> {
    let mut all = Body(vec![b'l', 1, 0, 1]);
    all.length(body.0.len());
    all.number(serial);
    all.array(|all| {
        let texts = [
            (1, "o", OBJECT),
            (2, "s", INTERFACE),
            (3, "s", member),
            (6, "s", DESTINATION),
        ];
        for (code, kind, text) in texts {
            all.align(8);
            all.0.push(code);
            all.signature(kind);
            all.text(text);
        }
        all.align(8);
        all.0.push(8);
        all.signature("g");
        all.signature(signature);
    });
    all.align(8);
    all.0.extend(&body.0);
    all.0
}

/// The lengths of the header's fields and of the body.
fn lengths(head: &[u8; 16]) -> Option<(usize, usize)> {
    if head.first() != Some(&b'l') {
        return None;
    }
    let fields = usize::try_from(number_at(head, &mut 12)?).ok()?;
    let body = usize::try_from(number_at(head, &mut 4)?).ok()?;
    (fields <= LONGEST && body <= LONGEST).then_some((fields, body))
}

/// What follows the first sixteen bytes.
fn parse(kind: u8, rest: &[u8], fields: usize) -> Option<Message> {
    let mut message = Message {
        kind,
        body: rest.get(fields.next_multiple_of(8)..)?.to_owned(),
        ..Message::default()
    };
    let header = rest.get(..fields)?;
    let mut at = 0;
    while at < header.len() {
        at = at.next_multiple_of(8);
        let code = *header.get(at)?;
        at += 1;
        match signature_at(header, &mut at)?.as_str() {
            "u" => {
                let number = number_at(header, &mut at)?;
                if code == 5 {
                    message.answers = number;
                }
            }
            "s" | "o" => {
                let text = text_at(header, &mut at)?;
                match code {
                    3 => message.member = text,
                    4 => message.error = text,
                    _ => {}
                }
            }
            "g" => {
                signature_at(header, &mut at)?;
            }
            _ => return None,
        }
    }
    Some(message)
}

fn number_at(bytes: &[u8], at: &mut usize) -> Option<u32> {
    let from = at.next_multiple_of(4);
    *at = from.checked_add(4)?;
    let number = bytes.get(from..*at)?;
    Some(u32::from_le_bytes(number.try_into().ok()?))
}

fn text_at(bytes: &[u8], at: &mut usize) -> Option<String> {
    let length = usize::try_from(number_at(bytes, at)?).ok()?;
    let end = at.checked_add(length)?;
    let text = String::from_utf8(bytes.get(*at..end)?.to_owned()).ok()?;
    *at = end + 1;
    Some(text)
}

fn signature_at(bytes: &[u8], at: &mut usize) -> Option<String> {
    let length = usize::from(*bytes.get(*at)?);
    let text = String::from_utf8(bytes.get(*at + 1..*at + 1 + length)?.to_owned()).ok()?;
    *at += length + 2;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_written_as_the_specification_has_it() {
        let mut body = Body::default();
        body.text("a.scope").text("fail").properties(&[
            ("Delegate", Value::Flag(true)),
            ("PIDs", Value::Numbers(vec![7])),
            ("TasksMax", Value::Number(9)),
        ]);
        body.nothing();
        let bytes = request(3, "StartTransientUnit", "ssa(sv)a(sa(sv))", &body);
        let head: [u8; 16] = bytes[..16].try_into().unwrap();
        assert_eq!(head[..4], [b'l', 1, 0, 1]);
        let (fields, length) = lengths(&head).unwrap();
        assert_eq!(bytes.len(), 16 + fields.next_multiple_of(8) + length);
        let message = parse(1, &bytes[16..], fields).unwrap();
        assert_eq!(message.member, "StartTransientUnit");
        let mut at = 0;
        assert_eq!(text_at(&message.body, &mut at).unwrap(), "a.scope");
        assert_eq!(text_at(&message.body, &mut at).unwrap(), "fail");
        let array = number_at(&message.body, &mut at).unwrap();
        at = at.next_multiple_of(8);
        let end = at + usize::try_from(array).unwrap();
        assert_eq!(text_at(&message.body, &mut at).unwrap(), "Delegate");
        assert_eq!(signature_at(&message.body, &mut at).unwrap(), "b");
        assert_eq!(number_at(&message.body, &mut at), Some(1));
        at = at.next_multiple_of(8);
        assert_eq!(text_at(&message.body, &mut at).unwrap(), "PIDs");
        assert_eq!(signature_at(&message.body, &mut at).unwrap(), "au");
        assert_eq!(number_at(&message.body, &mut at), Some(4));
        assert_eq!(number_at(&message.body, &mut at), Some(7));
        at = at.next_multiple_of(8);
        assert_eq!(text_at(&message.body, &mut at).unwrap(), "TasksMax");
        assert_eq!(signature_at(&message.body, &mut at).unwrap(), "t");
        at = at.next_multiple_of(8);
        assert_eq!(message.body[at..at + 8], 9_u64.to_le_bytes());
        assert_eq!(at + 8, end);
        // The empty array has its length and what aligns its first element.
        assert_eq!(message.body[end..], [0; 8][..]);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert!(lengths(b"B\x01\0\x01\0\0\0\0\0\0\0\0\0\0\0\0").is_none());
        assert!(lengths(b"l\x01\0\x01\xff\xff\xff\xff\0\0\0\0\0\0\0\0").is_none());
        for rest in [
            &[5_u8, 1, b'u', 0][..],
            &[3, 1, b's', 0, 255, 0, 0, 0],
            &[9, 1, b'x', 0],
            &[9, 200],
        ] {
            assert!(parse(ANSWER, rest, rest.len()).is_none(), "{rest:?}");
        }
        assert!(parse(ANSWER, &[], 8).is_none());
    }
}

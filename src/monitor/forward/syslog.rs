//! A syslog server, as Docker's driver `syslog` speaks to one.

use std::io::{self, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::PATIENCE;
use crate::monitor::log::Stream;
use crate::runtime::{SyslogAddress, SyslogFormat};

/// Severities of RFC 5424, 6.2.1: standard error is an error.
const ERROR: u8 = 3;
const INFORMATIONAL: u8 = 6;

#[derive(Debug)]
pub(super) struct Syslog {
    address: SyslogAddress,
    connection: Option<Connection>,
    facility: u8,
    format: SyslogFormat,
    tag: String,
    hostname: String,
    zone: TimeZone,
}

#[derive(Debug)]
enum Connection {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Datagram(UnixDatagram),
    Stream(UnixStream),
}

impl Syslog {
    pub(super) fn open(
        address: SyslogAddress,
        facility: u8,
        format: SyslogFormat,
        tag: String,
    ) -> io::Result<Self> {
        let name = rustix::system::uname();
        let mut syslog = Self {
            address,
            connection: None,
            facility,
            format,
            tag,
            hostname: name.nodename().to_string_lossy().into_owned(),
            zone: TimeZone::system(),
        };
        syslog.connect()?;
        Ok(syslog)
    }

    pub(super) fn connect(&mut self) -> io::Result<()> {
        self.connection = None;
        self.connection = Some(match &self.address {
            SyslogAddress::Udp(address) => {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                Connection::Udp(socket)
            }
            SyslogAddress::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Connection::Tcp(stream)
            }
            SyslogAddress::Unix(path) => of_machine(path)?,
        });
        Ok(())
    }

    pub(super) fn send(&mut self, stream: Stream, text: &[u8]) -> io::Result<()> {
        let now = Timestamp::now();
        let message = self.message(stream, text, now);
        match self.connection.as_mut().ok_or(io::ErrorKind::NotConnected)? {
            // What nobody listens to is known with the next datagram: no line is
            // sent twice for it.
            Connection::Udp(socket) => match socket.send(&message) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    socket.send(&message).map(|_| ())
                }
                other => other.map(|_| ()),
            },
            Connection::Datagram(socket) => socket.send(&message).map(|_| ()),
            // A part of a message is never gone on with: the connection is ended.
            Connection::Tcp(stream) => stream.write_all(&message),
            Connection::Stream(stream) => stream.write_all(&message),
        }
    }

    /// A message with its end of line.
    fn message(&self, stream: Stream, text: &[u8], now: Timestamp) -> Vec<u8> {
        let severity = match stream {
            Stream::Stdout => INFORMATIONAL,
            Stream::Stderr => ERROR,
        };
        let priority = u32::from(self.facility) * 8 + u32::from(severity);
        let now = now.to_zoned(self.zone.clone());
        let (host, tag, pid) = (&self.hostname, &self.tag, std::process::id());
        let stamp = |format: &str| now.strftime(format).to_string();
        let head = match self.format {
            SyslogFormat::Unix => format!("<{priority}>{} {tag}[{pid}]: ", stamp("%b %e %H:%M:%S")),
            SyslogFormat::Rfc3164 => {
                format!("<{priority}>{} {host} {tag}[{pid}]: ", stamp("%b %e %H:%M:%S"))
            }
            SyslogFormat::Rfc5424 => {
                let time = stamp("%Y-%m-%dT%H:%M:%S%:z");
                format!("<{priority}>1 {time} {host} {tag} {pid} {tag} - ")
            }
            SyslogFormat::Rfc5424Micro => {
                let time = stamp("%Y-%m-%dT%H:%M:%S%.6f%:z");
                format!("<{priority}>1 {time} {host} {tag} {pid} {tag} - ")
            }
        };
        let mut message = head.into_bytes();
        message.extend_from_slice(text);
        message.push(b'\n');
        message
    }
}

/// A socket of this machine takes datagrams, seldom a stream.
fn of_machine(path: &Path) -> io::Result<Connection> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    match socket.connect(path) {
        Ok(()) => Ok(Connection::Datagram(socket)),
        Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => {
            let stream = UnixStream::connect(path)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(Connection::Stream(stream))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syslog(format: SyslogFormat, address: SyslogAddress) -> Syslog {
        Syslog {
            address,
            connection: None,
            facility: 3,
            format,
            tag: "web".into(),
            hostname: "box".into(),
            zone: TimeZone::UTC,
        }
    }

    #[test]
    fn messages_are_as_the_formats_say() {
        let time: Timestamp = "2026-11-05T06:07:08.123456789Z".parse().unwrap();
        let pid = std::process::id();
        let address = SyslogAddress::Unix("/nowhere".into());
        for (format, stream, expected) in [
            (
                SyslogFormat::Unix,
                Stream::Stdout,
                format!("<30>Nov  5 06:07:08 web[{pid}]: hi\n"),
            ),
            (
                SyslogFormat::Rfc3164,
                Stream::Stderr,
                format!("<27>Nov  5 06:07:08 box web[{pid}]: hi\n"),
            ),
            (
                SyslogFormat::Rfc5424,
                Stream::Stdout,
                format!("<30>1 2026-11-05T06:07:08+00:00 box web {pid} web - hi\n"),
            ),
            (
                SyslogFormat::Rfc5424Micro,
                Stream::Stdout,
                format!("<30>1 2026-11-05T06:07:08.123456+00:00 box web {pid} web - hi\n"),
            ),
        ] {
            let message = syslog(format, address.clone()).message(stream, b"hi", time);
            assert_eq!(String::from_utf8(message).unwrap(), expected);
        }
    }

    #[test]
    fn a_server_that_was_started_anew_gets_the_next_line() {
        use std::io::{BufRead as _, BufReader};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut forward = super::super::Forward {
            kind: super::super::Kind::Syslog(syslog(SyslogFormat::Unix, SyslogAddress::Unix(path))),
            lost: 0,
            later: None,
        };
        forward.send(Stream::Stdout, false, b"one");
        let (first, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&first).read_line(&mut line).unwrap();
        assert!(line.ends_with(": one\n"), "{line}");
        drop(first);
        forward.send(Stream::Stdout, false, b"two");
        let (second, _) = listener.accept().unwrap();
        line.clear();
        BufReader::new(&second).read_line(&mut line).unwrap();
        assert!(line.ends_with(": two\n"), "{line}");
        drop((second, listener));
        // Gone for good: lines are counted, and nobody waits.
        for _ in 0..3 {
            forward.send(Stream::Stdout, false, b"three");
        }
        assert_eq!(forward.lost, 3);
    }
}

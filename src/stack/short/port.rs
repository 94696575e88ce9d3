//! Published ports: `[[IP:][HOST[-HOST]]:]CONTAINER[-CONTAINER][/PROTOCOL]`.

use std::net::IpAddr;

/// One port of a short form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortPort {
    /// Address of the host, as written, without brackets.
    pub host_ip: Option<String>,
    /// Port of the host, or a range of it.
    pub published: Option<String>,
    /// Port inside the container.
    pub target: u16,
    /// Protocol, lower case.
    pub protocol: String,
}

/// A text that does not name ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Nothing where the container's port should be.
    #[error("no port specified: {0}")]
    Missing(String),
    /// The container's port.
    #[error("invalid containerPort: {0}")]
    Container(String),
    /// The host's port.
    #[error("invalid hostPort: {0}")]
    Host(String),
    /// The host's address.
    #[error("invalid IP address: {0}")]
    Address(String),
    /// The protocol.
    #[error("invalid proto: {0}")]
    Protocol(String),
    /// Ranges of different lengths.
    #[error("invalid ranges specified for container and host Ports: {0} and {1}")]
    Ranges(String, String),
}

/// A port, or an inclusive range of ports.
pub fn parse_port_range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

/// The ports of a short form, a range as one a port; in the order of their
/// text, as docker compose lists them.
///
/// # Errors
/// [`PortError`], as said there.
pub fn parse_ports(text: &str) -> Result<Vec<ShortPort>, PortError> {
    let (numbers, protocol) = match text.split_once('/') {
        Some((numbers, protocol)) if !protocol.is_empty() => (numbers, protocol.to_ascii_lowercase()),
        Some((numbers, _)) => (numbers, "tcp".to_owned()),
        None => (text, "tcp".to_owned()),
    };
    let (rest, container) = numbers.rsplit_once(':').unwrap_or(("", numbers));
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    let host_ip = if address.is_empty() {
        None
    } else {
        let bracketed = address
            .strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'));
        let bare = bracketed.unwrap_or(address);
        bare.parse::<IpAddr>()
            .ok()
            // An address with colons of its own has to be in brackets.
            .filter(|found| found.is_ipv4() || bracketed.is_some())
            .ok_or_else(|| PortError::Address(address.to_owned()))?;
        Some(bare.to_owned())
    };
    if container.is_empty() {
        return Err(PortError::Missing(text.to_owned()));
    }
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(PortError::Protocol(protocol));
    }
    let (first, last) = parse_port_range(container)
        .filter(|(first, _)| *first > 0)
        .ok_or_else(|| PortError::Container(container.to_owned()))?;
    let published = if host.is_empty() {
        None
    } else {
        Some(parse_port_range(host).ok_or_else(|| PortError::Host(host.to_owned()))?)
    };
    if let Some((host_first, host_last)) = published
        && host_last - host_first != last - first
        && first != last
    {
        return Err(PortError::Ranges(container.to_owned(), host.to_owned()));
    }
    let mut ports: Vec<_> = (first..=last)
        .map(|target| ShortPort {
            host_ip: host_ip.clone(),
            published: published.map(|(host_first, host_last)| {
                if first == last && host_first != host_last {
                    format!("{host_first}-{host_last}")
                } else {
                    (host_first + (target - first)).to_string()
                }
            }),
            target,
            protocol: protocol.clone(),
        })
        .collect();
    ports.sort_by_cached_key(|port| port.target.to_string());
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn show(text: &str) -> String {
        match parse_ports(text) {
            Ok(ports) => ports
                .iter()
                .map(|port| {
                    format!(
                        "{}|{}|{}|{}",
                        port.host_ip.as_deref().unwrap_or_default(),
                        port.published.as_deref().unwrap_or_default(),
                        port.target,
                        port.protocol
                    )
                })
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn forms() {
        for (text, ports) in [
            ("80", "||80|tcp"),
            ("80/udp", "||80|udp"),
            ("8080:80", "|8080|80|tcp"),
            ("8080:80/UDP", "|8080|80|udp"),
            ("127.0.0.1:8080:80", "127.0.0.1|8080|80|tcp"),
            ("127.0.0.1::80", "127.0.0.1||80|tcp"),
            ("[::1]:6001:6001", "::1|6001|6001|tcp"),
            ("::1:6000:6000", "invalid IP address: ::1"),
            ("80:80/", "|80|80|tcp"),
            ("8000-8010:80", "|8000-8010|80|tcp"),
            ("80-82:8080-8082", "|80|8080|tcp |81|8081|tcp |82|8082|tcp"),
            ("9-10", "||10|tcp ||9|tcp"),
            (":80", "||80|tcp"),
            ("0:80", "|0|80|tcp"),
            ("", "no port specified: "),
            ("8080:", "no port specified: 8080:"),
            ("x", "invalid containerPort: x"),
            ("0", "invalid containerPort: 0"),
            ("70000", "invalid containerPort: 70000"),
            ("81-80", "invalid containerPort: 81-80"),
            ("x:80", "invalid hostPort: x"),
            ("1.2.3:1:80", "invalid IP address: 1.2.3"),
            ("80/sctp6", "invalid proto: sctp6"),
            (
                "1-3:80-81",
                "invalid ranges specified for container and host Ports: 80-81 and 1-3",
            ),
            ("+80", "invalid containerPort: +80"),
        ] {
            assert_eq!(show(text), ports, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = parse_ports(&text);
        }

        #[test]
        fn almost_ports_do_not_panic(text in "[0-9:./\\[\\]-]{0,30}") {
            let _ = parse_ports(&text);
        }
    }
}

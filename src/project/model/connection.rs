//! How containers are reached.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{as_text, unset};

/// How a container is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Attached to the service's `networks`.
    #[default]
    Networks,
    /// Only a loopback interface.
    None,
    /// The host's network namespace.
    Host,
    /// The network namespace of another service's first container.
    Service(String),
    /// The network namespace of a container outside of the stack, by name or id.
    Container(String),
    /// A network of the engine by its name (`bridge`, `default`).
    Other(String),
}

/// One attachment of a service to a network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// Further names on this network, beside the service's and the container's.
    pub aliases: Vec<String>,
    /// A fixed IPv4 address.
    pub ipv4_address: Option<Ipv4Addr>,
    /// A fixed IPv6 address.
    pub ipv6_address: Option<Ipv6Addr>,
    /// A fixed MAC address.
    pub mac_address: Option<String>,
    /// Attachment order: the highest comes first (`eth0`).
    pub priority: i64,
    /// The highest provides the default route.
    pub gw_priority: i64,
    /// Name of the interface inside the container; default `eth0`, `eth1`, ….
    #[serde(skip_serializing_if = "unset")]
    pub interface_name: Option<String>,
    /// Further link-local addresses.
    #[serde(skip_serializing_if = "unset")]
    pub link_local_ips: Vec<IpAddr>,
    /// Options for the network's driver.
    #[serde(skip_serializing_if = "unset")]
    pub driver_opts: BTreeMap<String, String>,
}

/// A published port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Port {
    /// The port inside the container.
    pub target: u16,
    /// Host port or inclusive range (`(8000, 8010)`: the first free one);
    /// `None` is any free port.
    pub published: Option<(u16, u16)>,
    /// The host address listened on; `None` is every address.
    pub host_ip: Option<IpAddr>,
    /// Transport.
    pub protocol: Protocol,
    /// What the port is called.
    #[serde(skip_serializing_if = "unset")]
    pub name: Option<String>,
    /// How it is published; on one machine both are the same.
    #[serde(skip_serializing_if = "unset")]
    pub mode: PortMode,
    /// What is spoken on it (`http`), a hint for proxies.
    #[serde(skip_serializing_if = "unset")]
    pub app_protocol: Option<String>,
}

/// How a port is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortMode {
    /// For the service as a whole.
    #[default]
    Ingress,
    /// For each container.
    Host,
}

/// Transport protocols of published ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// What a static name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostAddress {
    /// An address.
    Address(IpAddr),
    /// `host-gateway`: the address under which containers reach the host.
    HostGateway,
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::HostGateway => f.write_str("host-gateway"),
        }
    }
}

impl FromStr for HostAddress {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "host-gateway" => Ok(Self::HostGateway),
            _ => text.parse().map(Self::Address),
        }
    }
}

as_text!(HostAddress);

/// A link to another service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    /// Key of the service.
    pub service: String,
    /// The name it is reached by; the service's own when none was written.
    pub alias: String,
}

/// A link to a container outside of the stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExternalLink {
    /// Name of the container.
    pub container: String,
    /// The name it is reached by; the container's own when none was written.
    pub alias: String,
}

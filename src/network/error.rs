//! What can go wrong with a network.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use super::pool::Subnet;
use crate::store::StoreError;
use crate::sys::netlink::NetlinkError;

/// What can go wrong with networks, their addresses and their namespaces.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refuses us the administration of its network.
    #[error("{operation}: not permitted: networks need root, or CAP_NET_ADMIN and CAP_SYS_ADMIN")]
    Privilege {
        /// What was tried.
        operation: String,
    },
    /// The kernel refused a request about a link, an address or a route.
    #[error(transparent)]
    Netlink(NetlinkError),
    /// A system call or a file of /proc failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried, on what.
        operation: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A record could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not a subnet in CIDR form.
    #[error("subnet {text}: {reason}")]
    MalformedSubnet {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A subnet, range or gateway that does not go with the rest.
    #[error("network {network}: {reason}")]
    Unfit {
        /// Name of the network.
        network: String,
        /// What is wrong.
        reason: String,
    },
    /// A subnet that is in use already.
    #[error("network {network}: subnet {subnet} overlaps {with}")]
    Overlap {
        /// Name of the network.
        network: String,
        /// The subnet asked for.
        subnet: Subnet,
        /// Who has it: `network other_default (172.18.0.0/16)`, `interface eth0 (10.0.0.0/24)`.
        with: String,
    },
    /// Every default subnet is in use.
    #[error(
        "network {network}: all default subnets (172.17.0.0/16 to 172.31.0.0/16, 192.168.0.0/20 to \
         192.168.240.0/20) are in use by networks or by routes of this machine; remove networks that are \
         not needed, or give this one a subnet under ipam"
    )]
    SubnetsExhausted {
        /// Name of the network.
        network: String,
    },
    /// Every address of a network is in use.
    #[error("network {network}: no address is free in {range}")]
    AddressesExhausted {
        /// Name of the network.
        network: String,
        /// Where one was looked for.
        range: Subnet,
    },
    /// A fixed address that somebody else has.
    #[error("network {network}: address {address} for {container} is taken by {holder}")]
    AddressTaken {
        /// Name of the network.
        network: String,
        /// The address.
        address: IpAddr,
        /// Who wants it.
        container: String,
        /// Who has it.
        holder: String,
    },
    /// A fixed address that a container cannot have on this network.
    #[error("network {network}: address {address} for {container} {reason}")]
    AddressUnfit {
        /// Name of the network.
        network: String,
        /// The address.
        address: IpAddr,
        /// Who wants it.
        container: String,
        /// Why not: `is not in 172.18.0.0/16`.
        reason: String,
    },
    /// A network of that name belongs to somebody else, or is another one.
    #[error("network {name} exists already{}", of_project(.owner))]
    Exists {
        /// Name on the host.
        name: String,
        /// The project that owns it.
        owner: Option<String>,
    },
    /// There is no such network.
    #[error("network {id} does not exist")]
    Missing {
        /// Its id.
        id: String,
    },
    /// Containers hold addresses of it.
    #[error("network {network} is in use by {}", holders.join(", "))]
    InUse {
        /// Name of the network.
        network: String,
        /// Who uses it.
        holders: Vec<String>,
    },
    /// A record of a later version of this program.
    #[error("read record {}: written by a newer version (format {found})", path.display())]
    Version {
        /// The record.
        path: PathBuf,
        /// The format it says it has.
        found: u32,
    },
    /// The kernel connects no more containers to one bridge.
    #[error("{operation}: the network is full: a bridge has at most 1023 ports; use more than one network")]
    BridgeFull {
        /// What was tried.
        operation: String,
    },
    /// Not a MAC address that an interface may have.
    #[error("MAC address {text}: expected six hexadecimal pairs (02:42:ac:12:00:02) of a single station")]
    Mac {
        /// What was given.
        text: String,
    },
}

fn of_project(owner: &Option<String>) -> String {
    owner
        .as_ref()
        .map(|project| format!(" (project {project})"))
        .unwrap_or_default()
}

impl NetworkError {
    /// Wraps a failed system call; `EPERM` becomes [`NetworkError::Privilege`].
    pub(super) fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| {
            if source.raw_os_error() == Some(libc::EPERM) {
                Self::Privilege { operation }
            } else {
                Self::Io { operation, source }
            }
        }
    }
}

impl From<NetlinkError> for NetworkError {
    fn from(error: NetlinkError) -> Self {
        if error.is(rustix::io::Errno::PERM) {
            Self::Privilege {
                operation: error.operation,
            }
        } else {
            Self::Netlink(error)
        }
    }
}

/// Something that does not work here and that the rest does without.
#[derive(Debug, thiserror::Error)]
pub enum NetworkWarning {
    /// The kernel has no usable nf_tables.
    #[error(
        "the firewall (nf_tables) is not available: networks are not isolated from each other, containers \
         reach the outside only if it routes back to them, and published ports go through a proxy ({reason})"
    )]
    NoFirewall {
        /// What the kernel said.
        reason: String,
    },
    /// Packets cannot be forwarded.
    #[error("containers have no way out of this machine: {path} cannot be set: {source}")]
    NoForwarding {
        /// The kernel parameter.
        path: String,
        /// Why it cannot be set.
        source: io::Error,
    },
}

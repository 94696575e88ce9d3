//! Bridges, veth pairs, addresses, names, published ports, firewall.
//!
//! ```text
//!            record   what networks are, who has which address     (files, one lock)
//!              │
//!   pool ──────┤ decides subnets and addresses                     (pure)
//!              ▼
//!   bridge     one Linux bridge a network, the gateway's address on it
//!   endpoint   a container's network namespace: one veth pair a network
//!   firewall   one nf_tables table a world: isolation, way out, published ports
//!   ports      the sockets of published ports, and the proxy behind them
//!   names      the name service of each container, at 127.0.0.11
//! ```
//!
//! # The life of a network
//!
//! [`bridge::create`] decides, writes the record, makes the bridge, lets it
//! through the firewall. [`record::lease`] gives a container an address under a
//! key that outlives it; [`record::NetworkRecord::endpoint`] and
//! [`endpoint::create_namespace`] make its namespace. [`ports::bind`] and
//! [`ports::serve`] keep its published ports, [`firewall::add_published`] gives
//! them the short way through the kernel. [`names::Names`] and [`names::serve`]
//! answer it. [`endpoint::change_namespace`] brings a container that runs to other
//! networks. When the container ends, the namespace goes by itself once the
//! supervisor lets go of its sockets. When the container is removed,
//! [`record::release`]; when the network is, [`bridge::remove`].
//!
//! What is special about a network is in [`record::Settings`]. Containers that are
//! kept apart are so twice: ports of the bridge pass nothing to each other, and
//! the firewall drops what would come back by way of the gateway. A bridge that
//! is there already may be borrowed: it gets the gateway's address and no mark,
//! and is left, without the address.
//!
//! # Killed at any time
//!
//! A record is written before what it names is made and removed after that is
//! gone; every link carries the world, the network and the lease's key as its
//! alias; the firewall's table is changed in transactions and can be made again
//! from the records at any time. [`bridge::create`], [`bridge::ensure`] and
//! [`bridge::remove`] may be repeated from any half-way point, and
//! [`bridge::sweep`] removes what no record names, after
//! [`record::release_all_but`] has taken back the addresses of containers that
//! are no more. Locks are flock(2): the world's network lock is taken before the
//! firewall's.
//!
//! # What it costs
//!
//! On two busy cores: a namespace with one interface 1.6 ms, of which 0.5 ms are
//! the namespace and 0.6 ms the veth pair; a lease 0.1 ms; a published port
//! 0.3 ms; a name 30 µs, the whole way. Removing bridges waits for the kernel
//! once for all of them, 15 ms and more, so remove networks together.
//!
//! # Known to be weak
//!
//! Two worlds in one network namespace that make a network in the same
//! millisecond may choose the same subnet: they share no lock. Forwarding is
//! switched on for the whole machine and stays on. A bridge has at most 1023
//! ports, and the kernel's neighbour table 1024 entries unless `gc_thresh3` is
//! raised. IPv6 goes through the proxy where IPv4 is rewritten by the kernel.
//! Every network has IPv4. A borrowed bridge that is gone is not made again. See
//! also [`firewall`] and [`names`].

pub mod bridge;
pub mod endpoint;
mod error;
pub mod firewall;
mod link;
pub mod names;
mod nftables;
pub mod pool;
pub mod ports;
pub mod record;

pub use error::{NetworkError, NetworkWarning};

use crate::store::World;

/// What the alias of every link of a world starts with.
fn alias_prefix(world: &World) -> String {
    format!("rcompose/{}/", world.id())
}

/// The mark on a link: world, network and, for a veth pair, whose it is.
fn alias(world: &World, network: &str, holder: &str) -> String {
    use sha2::Digest as _;
    let prefix = alias_prefix(world);
    // The kernel takes 255 bytes.
    match holder {
        "" => format!("{prefix}{network}"),
        holder if holder.len() <= 150 => format!("{prefix}{network}/{holder}"),
        holder => {
            let digest = sha2::Sha256::digest(holder.as_bytes());
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{prefix}{network}/{digest}")
        }
    }
}

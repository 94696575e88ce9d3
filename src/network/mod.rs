//! Bridges, veth pairs, addresses, names, published ports, firewall.

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

//! Subnets and addresses: which are free, which fit. Pure.
//!
//! A network that names no subnet gets the first free one of Docker's default
//! pools. Free means: no route and no address of this machine lies in it, and
//! no record has it. A subnet that the user names may be inside a wider route
//! (a company's 10.0.0.0/8 through a tunnel), since the narrower one wins, but
//! not overlap an address range that is attached to an interface.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::NetworkError;

/// A range of addresses with a common prefix, IPv4 or IPv6: `172.18.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    first: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The subnet that an address with a prefix length lies in; `None` when the
    /// length is more than the address has.
    pub fn around(address: IpAddr, prefix: u8) -> Option<Self> {
        let width = width(address);
        if prefix > width {
            return None;
        }
        Some(Self {
            first: from_bits(address, bits(address) & !host_mask(width, prefix)),
            prefix,
        })
    }

    /// The first address, which names the subnet.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The last address: the broadcast address of an IPv4 subnet.
    pub fn last(&self) -> IpAddr {
        from_bits(self.first, bits(self.first) | self.host_mask())
    }

    /// The length of the common prefix.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the addresses are IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && self.first <= address && address <= self.last()
    }

    /// Whether the two have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    fn covers(&self, other: &Self) -> bool {
        self.contains(other.first) && self.contains(other.last())
    }

    fn host_mask(&self) -> u128 {
        host_mask(width(self.first), self.prefix)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn host_mask(width: u8, prefix: u8) -> u128 {
    1u128
        .checked_shl(u32::from(width - prefix))
        .map_or(u128::MAX, |size| size - 1)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of the family of `like` with these bits.
fn from_bits(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from_bits((bits & u128::from(u32::MAX)) as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let malformed = |reason: String| NetworkError::MalformedSubnet {
            text: text.to_owned(),
            reason,
        };
        let (address, prefix) = text.split_once('/').ok_or_else(|| {
            malformed("expected an address and a prefix length, as 172.28.0.0/16".to_owned())
        })?;
        let address: IpAddr = address
            .parse()
            .map_err(|_| malformed(format!("{address} is not an IP address")))?;
        let subnet = prefix
            .parse()
            .ok()
            .filter(|_| prefix.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|prefix| Self::around(address, prefix))
            .ok_or_else(|| malformed(format!("{prefix} is not a prefix length")))?;
        if subnet.first == address {
            Ok(subnet)
        } else {
            Err(malformed(format!(
                "bits after the prefix are set; it should be {subnet}"
            )))
        }
    }
}

impl TryFrom<String> for Subnet {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

/// One address pool as a network asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRequest {
    /// The subnet in CIDR form.
    pub subnet: Option<String>,
    /// The part of it that containers without a fixed address get theirs from.
    pub ip_range: Option<String>,
    /// The bridge's own address; default: the first of the subnet.
    pub gateway: Option<IpAddr>,
}

/// One address pool of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// All addresses.
    pub subnet: Subnet,
    /// Those that are given out without being asked for.
    pub range: Subnet,
    /// The bridge's own.
    pub gateway: IpAddr,
}

/// A subnet that is in use, and by whom (`network front`, `interface eth0`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The subnet.
    pub subnet: Subnet,
    /// Who uses it.
    pub by: String,
    /// Only a route: it keeps us from choosing the subnet, not the user.
    pub route: bool,
}

/// Docker's default IPv4 subnets, in order.
fn defaults() -> impl Iterator<Item = Subnet> {
    let large = (17..=31).map(|second| (Ipv4Addr::new(172, second, 0, 0), 16));
    let small = (0..=240)
        .step_by(16)
        .map(|third| (Ipv4Addr::new(192, 168, third, 0), 20));
    large
        .chain(small)
        .filter_map(|(first, prefix)| Subnet::around(first.into(), prefix))
}

/// Decides the pools of a network: IPv4 always, IPv6 when `ipv6`. `id` (at least
/// ten hexadecimal digits) makes the IPv6 subnet when none is asked for: a
/// unique local one (RFC 4193) of its own.
///
/// # Errors
/// [`NetworkError::MalformedSubnet`], [`NetworkError::Unfit`],
/// [`NetworkError::Overlap`] or [`NetworkError::SubnetsExhausted`].
pub fn decide(
    network: &str,
    id: &str,
    requests: &[PoolRequest],
    ipv6: bool,
    taken: &[Taken],
) -> Result<(Pool, Option<Pool>), NetworkError> {
    let unfit = |reason: String| NetworkError::Unfit {
        network: network.to_owned(),
        reason,
    };
    let mut v4 = None;
    let mut v6 = None;
    for request in requests {
        let subnet: Option<Subnet> = request.subnet.as_deref().map(str::parse).transpose()?;
        let is_v4 = subnet
            .map(|subnet| subnet.is_ipv4())
            .or(request.gateway.map(|gateway| gateway.is_ipv4()))
            .unwrap_or(true);
        if subnet.is_none() && request.ip_range.is_some() {
            return Err(unfit("ip_range needs a subnet".to_owned()));
        }
        if subnet.is_none() && request.gateway.is_some() {
            return Err(unfit("gateway needs a subnet".to_owned()));
        }
        if !is_v4 && !ipv6 {
            let subnet = request.subnet.as_deref().unwrap_or_default();
            return Err(unfit(format!(
                "subnet {subnet} is IPv6, and enable_ipv6 is not set"
            )));
        }
        let slot = if is_v4 { &mut v4 } else { &mut v6 };
        if slot.is_some() {
            let family = if is_v4 { "IPv4" } else { "IPv6" };
            return Err(unfit(format!(
                "more than one {family} subnet; a bridge network has one"
            )));
        }
        *slot = Some((subnet, request));
    }

    let none = PoolRequest::default();
    let (subnet, request) = v4.unwrap_or((None, &none));
    let subnet = match subnet {
        Some(subnet) => available(network, subnet, taken)?,
        None => defaults()
            .find(|subnet| !taken.iter().any(|taken| taken.subnet.overlaps(subnet)))
            .ok_or_else(|| NetworkError::SubnetsExhausted {
                network: network.to_owned(),
            })?,
    };
    let v4 = pool(subnet, request).map_err(unfit)?;
    if !ipv6 {
        return Ok((v4, None));
    }
    let (subnet, request) = v6.unwrap_or((None, &none));
    let subnet = match subnet {
        Some(subnet) => available(network, subnet, taken)?,
        None => {
            let global = u64::from_str_radix(id.get(..10).unwrap_or(id), 16)
                .map_err(|_| unfit(format!("id {id} is not hexadecimal")))?;
            let first = (0xfd << 120) | (u128::from(global) << 80);
            let subnet = Subnet::around(Ipv6Addr::from_bits(first).into(), 64);
            subnet.ok_or_else(|| unfit("no IPv6 subnet".to_owned()))?
        }
    };
    Ok((v4, Some(pool(subnet, request).map_err(unfit)?)))
}

/// `subnet`, when a network may have it.
fn available(network: &str, subnet: Subnet, taken: &[Taken]) -> Result<Subnet, NetworkError> {
    let unfit = |reason: &str| NetworkError::Unfit {
        network: network.to_owned(),
        reason: format!("subnet {subnet} {reason}"),
    };
    let first = subnet.first;
    if first.is_loopback() || first.is_multicast() || first.is_unspecified() {
        return Err(unfit("is not for networks"));
    }
    if width(first) - subnet.prefix < 2 {
        return Err(unfit("has no room for a gateway and a container"));
    }
    match taken
        .iter()
        .find(|taken| !taken.route && taken.subnet.overlaps(&subnet))
    {
        Some(taken) => Err(NetworkError::Overlap {
            network: network.to_owned(),
            subnet,
            with: format!("{} ({})", taken.by, taken.subnet),
        }),
        None => Ok(subnet),
    }
}

/// The pool of a subnet.
fn pool(subnet: Subnet, request: &PoolRequest) -> Result<Pool, String> {
    let range = match &request.ip_range {
        None => subnet,
        Some(text) => {
            let range: Subnet = text
                .parse()
                .map_err(|error: NetworkError| format!("ip_range: {error}"))?;
            if !subnet.covers(&range) {
                return Err(format!("ip_range {range} is not inside {subnet}"));
            }
            range
        }
    };
    let gateway = match request.gateway {
        None => from_bits(subnet.first, bits(subnet.first) + 1),
        Some(gateway) if !subnet.contains(gateway) => {
            return Err(format!("gateway {gateway} is not in {subnet}"));
        }
        Some(gateway) if is_reserved(subnet, gateway) => {
            return Err(format!(
                "gateway {gateway} is the first or the last address of {subnet}"
            ));
        }
        Some(gateway) => gateway,
    };
    Ok(Pool {
        subnet,
        range,
        gateway,
    })
}

/// Whether no host may have the address: the first (and, for IPv4, the last) of
/// the subnet.
fn is_reserved(subnet: Subnet, address: IpAddr) -> bool {
    address == subnet.first || (subnet.is_ipv4() && address == subnet.last())
}

impl Pool {
    /// The lowest address that is in nobody's use; `None` when there is none.
    pub fn free(&self, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let mut at = bits(self.range.first);
        let last = bits(self.range.last());
        // Each step passes one taken or reserved address: at most `taken` + 3.
        while at <= last {
            let address = from_bits(self.range.first, at);
            if address != self.gateway && !is_reserved(self.subnet, address) && !taken.contains(&address) {
                return Some(address);
            }
            at = at.checked_add(1)?;
        }
        None
    }

    /// Why a container cannot have this address; `None` when it can.
    pub fn unfit(&self, address: IpAddr) -> Option<String> {
        if !self.subnet.contains(address) {
            Some(format!("is not in {}", self.subnet))
        } else if address == self.gateway {
            Some("is the gateway".to_owned())
        } else if is_reserved(self.subnet, address) {
            Some(format!("is the first or the last address of {}", self.subnet))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn taken(text: &str, route: bool) -> Taken {
        Taken {
            subnet: subnet(text),
            by: "network other".to_owned(),
            route,
        }
    }

    fn request(subnet: &str, range: Option<&str>, gateway: Option<&str>) -> PoolRequest {
        PoolRequest {
            subnet: Some(subnet.to_owned()),
            ip_range: range.map(str::to_owned),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        }
    }

    const ID: &str = "0123456789ab";

    fn refusal(requests: &[PoolRequest], ipv6: bool, taken: &[Taken]) -> String {
        decide("front", ID, requests, ipv6, taken)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn subnets_are_read_and_printed() {
        for text in [
            "172.18.0.0/16",
            "10.0.0.0/8",
            "0.0.0.0/0",
            "1.2.3.4/32",
            "fd00::/8",
            "::/0",
        ] {
            assert_eq!(subnet(text).to_string(), text);
        }
        assert_eq!(subnet("172.18.0.0/16").last().to_string(), "172.18.255.255");
        assert_eq!(
            subnet("::/0").last(),
            IpAddr::from(Ipv6Addr::from_bits(u128::MAX))
        );
        for (text, reason) in [
            (
                "172.18.0.0",
                "expected an address and a prefix length, as 172.28.0.0/16",
            ),
            ("172.18.0/16", "172.18.0 is not an IP address"),
            ("172.18.0.0/33", "33 is not a prefix length"),
            ("172.18.0.0/+8", "+8 is not a prefix length"),
            ("fd00::/129", "129 is not a prefix length"),
            (
                "172.18.0.5/16",
                "bits after the prefix are set; it should be 172.18.0.0/16",
            ),
        ] {
            let error = text.parse::<Subnet>().unwrap_err().to_string();
            assert_eq!(error, format!("subnet {text}: {reason}"));
        }
    }

    #[test]
    fn overlap_is_symmetric_and_stays_in_the_family() {
        let cases = [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.0.0.0/9", "10.128.0.0/9", false),
            ("0.0.0.0/0", "fd00::/8", false),
            ("fd00::/8", "fd12::/64", true),
        ];
        for (one, other, expected) in cases {
            assert_eq!(subnet(one).overlaps(&subnet(other)), expected, "{one} {other}");
            assert_eq!(subnet(other).overlaps(&subnet(one)), expected, "{other} {one}");
        }
    }

    #[test]
    fn the_first_free_default_subnet_is_chosen() {
        let (v4, v6) = decide("front", ID, &[], false, &[]).unwrap();
        assert_eq!(v4.subnet, subnet("172.17.0.0/16"));
        assert_eq!(v4.gateway.to_string(), "172.17.0.1");
        assert_eq!(v6, None);
        let used = [taken("172.17.0.0/16", false), taken("172.18.5.0/24", true)];
        assert_eq!(
            decide("front", ID, &[], false, &used).unwrap().0.subnet,
            subnet("172.19.0.0/16")
        );
        let used = [taken("172.16.0.0/12", true)];
        assert_eq!(
            decide("front", ID, &[], false, &used).unwrap().0.subnet,
            subnet("192.168.0.0/20")
        );
        let used = [taken("172.16.0.0/12", true), taken("192.168.0.0/16", true)];
        assert!(refusal(&[], false, &used).contains("all default subnets"));
        assert_eq!(defaults().count(), 31);
    }

    #[test]
    fn a_users_subnet_may_be_inside_a_route_but_not_overlap_a_network() {
        let asked = [request("10.7.0.0/24", None, None)];
        let route = [taken("10.0.0.0/8", true)];
        assert_eq!(
            decide("front", ID, &asked, false, &route).unwrap().0.subnet,
            subnet("10.7.0.0/24")
        );
        assert_eq!(
            refusal(&asked, false, &[taken("10.7.0.128/25", false)]),
            "network front: subnet 10.7.0.0/24 overlaps network other (10.7.0.128/25)"
        );
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let cases = [
            (
                request("10.7.0.0/31", None, None),
                "has no room for a gateway and a container",
            ),
            (request("127.1.0.0/16", None, None), "is not for networks"),
            (
                request("10.7.0.0/24", Some("10.8.0.0/25"), None),
                "ip_range 10.8.0.0/25 is not inside 10.7.0.0/24",
            ),
            (
                request("10.7.0.0/24", None, Some("10.8.0.1")),
                "gateway 10.8.0.1 is not in 10.7.0.0/24",
            ),
            (
                request("10.7.0.0/24", None, Some("10.7.0.255")),
                "is the first or the last address",
            ),
            (
                request("fd00::/64", None, None),
                "is IPv6, and enable_ipv6 is not set",
            ),
            (
                PoolRequest {
                    ip_range: Some("10.7.0.0/24".to_owned()),
                    ..PoolRequest::default()
                },
                "ip_range needs a subnet",
            ),
            (
                PoolRequest {
                    gateway: Some([10, 7, 0, 1].into()),
                    ..PoolRequest::default()
                },
                "gateway needs a subnet",
            ),
        ];
        for (asked, expected) in cases {
            let message = refusal(&[asked], false, &[]);
            assert!(message.contains(expected), "{message}");
        }
        let twice = [
            request("10.7.0.0/24", None, None),
            request("10.8.0.0/24", None, None),
        ];
        assert!(refusal(&twice, false, &[]).contains("more than one IPv4 subnet"));
    }

    #[test]
    fn ipv6_gets_a_subnet_of_its_own() {
        let (_, v6) = decide("front", ID, &[], true, &[]).unwrap();
        let v6 = v6.unwrap();
        assert_eq!(v6.subnet, subnet("fd01:2345:6789::/64"));
        assert_eq!(v6.gateway.to_string(), "fd01:2345:6789::1");
        assert_eq!(
            v6.free(&BTreeSet::new()).unwrap().to_string(),
            "fd01:2345:6789::2"
        );
    }

    #[test]
    fn addresses_are_given_out_from_the_bottom_and_never_a_reserved_one() {
        let asked = [request("10.7.0.0/29", None, Some("10.7.0.3"))];
        let (pool, _) = decide("front", ID, &asked, false, &[]).unwrap();
        let mut used = BTreeSet::new();
        while let Some(address) = pool.free(&used) {
            assert_eq!(pool.unfit(address), None);
            assert!(used.insert(address));
        }
        let used: Vec<_> = used.iter().map(ToString::to_string).collect();
        assert_eq!(used, ["10.7.0.1", "10.7.0.2", "10.7.0.4", "10.7.0.5", "10.7.0.6"]);
        for (address, reason) in [
            ("10.8.0.1", "is not in 10.7.0.0/29"),
            ("10.7.0.3", "is the gateway"),
            ("10.7.0.7", "is the first or the last address of 10.7.0.0/29"),
            ("fd00::1", "is not in 10.7.0.0/29"),
        ] {
            assert_eq!(pool.unfit(address.parse().unwrap()).as_deref(), Some(reason));
        }
    }

    #[test]
    fn a_range_limits_what_is_given_out_and_not_what_may_be_asked_for() {
        let asked = [request("10.7.0.0/24", Some("10.7.0.252/30"), None)];
        let (pool, _) = decide("front", ID, &asked, false, &[]).unwrap();
        assert_eq!(pool.gateway.to_string(), "10.7.0.1");
        assert_eq!(pool.free(&BTreeSet::new()).unwrap().to_string(), "10.7.0.252");
        let used = ["10.7.0.252", "10.7.0.253", "10.7.0.254"].map(|a| a.parse().unwrap());
        assert_eq!(pool.free(&used.into()), None, "the last is the broadcast address");
        assert_eq!(pool.unfit("10.7.0.9".parse().unwrap()), None);
    }
}

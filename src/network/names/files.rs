//! The generated files of a container that are about names: `/etc/hosts` and
//! `/etc/resolv.conf`. Pure.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use crate::network::endpoint::NAMES_ADDRESS;

/// The port of resolvers.
const PORT: u16 = 53;
/// resolv.conf(5): more are not looked at.
const SERVERS_MAX: usize = 3;

/// What a resolv.conf(5) says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Resolvers, in order.
    pub servers: Vec<SocketAddr>,
    /// Domains that are searched.
    pub search: Vec<String>,
    /// Options, as written.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads the text of such a file; what it does not understand it passes over,
    /// as the C library does.
    pub fn parse(text: &str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") if parsed.servers.len() < SERVERS_MAX => {
                    parsed.servers.extend(words.next().and_then(server));
                }
                // The last of these lines counts.
                Some("search") => parsed.search = words.map(str::to_owned).collect(),
                Some("domain") => parsed.search = words.take(1).map(str::to_owned).collect(),
                Some("options") => parsed.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        parsed
    }

    /// The resolvers; without any, the one on this machine (resolv.conf(5)).
    pub fn servers_or_default(&self) -> Vec<SocketAddr> {
        if self.servers.is_empty() {
            vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)]
        } else {
            self.servers.clone()
        }
    }
}

/// A resolver's address; an IPv6 one may name its interface (`fe80::1%eth0`).
fn server(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, PORT));
    }
    let (address, interface) = text.split_once('%')?;
    let scope = interface
        .parse()
        .ok()
        .or_else(|| nix::net::if_::if_nametoindex(interface).ok())?;
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
}

/// A container's `/etc/resolv.conf`: our name service alone, and the domains and
/// options of the machine. A name is asked for as it is first (`ndots:0`),
/// whatever the machine has: a service is never taken for one of a search domain.
pub fn resolv_conf(host: &ResolvConf) -> String {
    let mut text = format!("nameserver {NAMES_ADDRESS}\n");
    if !host.search.is_empty() {
        let _ = writeln!(text, "search {}", host.search.join(" "));
    }
    let options = host.options.iter().map(String::as_str);
    let options: Vec<&str> = options
        .filter(|option| !option.starts_with("ndots:"))
        .chain(["ndots:0"])
        .collect();
    let _ = writeln!(text, "options {}", options.join(" "));
    text
}

/// What cannot stand in `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("host name {name:?}: a name in /etc/hosts has no blanks, control characters or number signs")]
pub struct HostsError {
    /// The name.
    pub name: String,
}

/// A container's `/etc/hosts`: the loopback names, its own names (host name, then
/// host name with domain) at each of its addresses, and static names
/// (`extra_hosts`, with `host-gateway` replaced by an address already).
///
/// # Errors
/// [`HostsError`] for a name that would break the file.
pub fn hosts_file(
    own_names: &[String],
    addresses: &[IpAddr],
    extra: &[(String, IpAddr)],
) -> Result<String, HostsError> {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for name in own_names.iter().chain(extra.iter().map(|(name, _)| name)) {
        let breaks = |letter: char| letter.is_whitespace() || letter.is_control() || letter == '#';
        if name.is_empty() || name.contains(breaks) {
            return Err(HostsError { name: name.clone() });
        }
    }
    for (name, address) in extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    if !own_names.is_empty() {
        for address in addresses {
            let _ = writeln!(text, "{address}\t{}", own_names.join(" "));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_read_as_the_c_library_does() {
        let parsed = ResolvConf::parse(
            "# made by hand\ndomain old.example\nnameserver 192.0.2.1 # first\nnameserver nonsense\n\
             nameserver 2001:db8::1\nsearch a.example b.example\noptions edns0 ndots:5\n;x\noptions rotate\n\
             nameserver fe80::1%7\nnameserver 192.0.2.4\n",
        );
        let servers: Vec<_> = parsed.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%7]:53"]);
        assert_eq!(parsed.search, ["a.example", "b.example"]);
        assert_eq!(parsed.options, ["edns0", "ndots:5", "rotate"]);
        assert_eq!(
            resolv_conf(&parsed),
            "nameserver 127.0.0.11\nsearch a.example b.example\noptions edns0 rotate ndots:0\n"
        );
        let none = ResolvConf::parse("");
        assert_eq!(none.servers_or_default(), ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(resolv_conf(&none), "nameserver 127.0.0.11\noptions ndots:0\n");
    }

    #[test]
    fn a_hosts_file_has_own_and_extra_names_and_nothing_smuggled_in() {
        let names = |list: &[&str]| -> Vec<String> { list.iter().map(|name| (*name).to_owned()).collect() };
        let address: IpAddr = [172, 18, 0, 2].into();
        let extra = [("gate".to_owned(), IpAddr::from([172, 18, 0, 1]))];
        let text = hosts_file(&names(&["web", "web.example"]), &[address], &extra).unwrap();
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(
            text.ends_with("172.18.0.1\tgate\n172.18.0.2\tweb web.example\n"),
            "{text}"
        );
        for bad in ["a\n1.2.3.4 bank.example", "a b", "", "a#b"] {
            let extra = [(bad.to_owned(), address)];
            assert!(hosts_file(&[], &[], &extra).is_err(), "{bad:?}");
        }
    }
}

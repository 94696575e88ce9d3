//! The generated files of a container that are about names: `/etc/hosts` and
//! `/etc/resolv.conf`. Pure.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use crate::network::endpoint::NAMES_ADDRESS;

/// The port of resolvers.
pub const PORT: u16 = 53;
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
/// What `own` says comes in place of the machine's; its resolvers are asked by
/// the name service.
pub fn resolv_conf(host: &ResolvConf, own: &ResolvConf) -> String {
    let mut text = format!("nameserver {NAMES_ADDRESS}\n");
    write_search(host, own, &mut text);
    let mut options: Vec<&str> = if own.options.is_empty() {
        let options = host.options.iter().map(String::as_str);
        options.filter(|option| !option.starts_with("ndots:")).collect()
    } else {
        own.options.iter().map(String::as_str).collect()
    };
    if !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0");
    }
    let _ = writeln!(text, "options {}", options.join(" "));
    text
}

/// The `/etc/resolv.conf` of a container that our name service does not serve:
/// the machine's, where `own` says nothing else.
pub fn plain_resolv_conf(host: &str, own: &ResolvConf) -> String {
    if *own == ResolvConf::default() {
        return host.to_owned();
    }
    let machine = ResolvConf::parse(host);
    let mut text = String::new();
    let servers = if own.servers.is_empty() {
        &machine.servers
    } else {
        &own.servers
    };
    for server in servers {
        let _ = match server {
            SocketAddr::V6(server) if server.scope_id() != 0 => {
                writeln!(text, "nameserver {}%{}", server.ip(), server.scope_id())
            }
            server => writeln!(text, "nameserver {}", server.ip()),
        };
    }
    write_search(&machine, own, &mut text);
    let options = if own.options.is_empty() {
        &machine.options
    } else {
        &own.options
    };
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

/// The domains that are searched; a lone `.` of one's own is none.
fn write_search(host: &ResolvConf, own: &ResolvConf, text: &mut String) {
    let search = if own.search.is_empty() {
        &host.search
    } else {
        &own.search
    };
    if !search.is_empty() && !matches!(search.as_slice(), [only] if only == ".") {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
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
            resolv_conf(&parsed, &ResolvConf::default()),
            "nameserver 127.0.0.11\nsearch a.example b.example\noptions edns0 rotate ndots:0\n"
        );
        let none = ResolvConf::parse("");
        assert_eq!(none.servers_or_default(), ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(
            resolv_conf(&none, &none),
            "nameserver 127.0.0.11\noptions ndots:0\n"
        );
        let own = ResolvConf {
            servers: vec!["192.0.2.9:53".parse().unwrap()],
            search: vec![".".to_owned()],
            options: vec!["ndots:2".to_owned()],
        };
        assert_eq!(
            resolv_conf(&parsed, &own),
            "nameserver 127.0.0.11\noptions ndots:2\n"
        );
        let host = "nameserver 192.0.2.1\nsearch a.example\n";
        assert_eq!(
            plain_resolv_conf(host, &own),
            "nameserver 192.0.2.9\noptions ndots:2\n"
        );
        assert_eq!(plain_resolv_conf(host, &none), host);
        let only_search = ResolvConf {
            search: vec!["b.example".to_owned()],
            ..ResolvConf::default()
        };
        assert_eq!(
            plain_resolv_conf(host, &only_search),
            "nameserver 192.0.2.1\nsearch b.example\n"
        );
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

//! The name service: who answers when a container asks for a name.
//!
//! ```text
//! container ─▶ 127.0.0.11:53 ─▶ serve ─▶ answer: a name on its networks? ─▶ addresses, TTL 0
//!                                  └──▶ forward: its `dns`, or the machine's own resolvers; answer passed on as it is
//! ```
//!
//! [`Names`] is one table for the whole supervisor; a [`View`] says which part
//! of it one container sees: its networks, in order. The first of them that has
//! a name answers for it. Addresses of a name rotate from answer to answer, and
//! live zero seconds, so a replaced replica is gone at once. A name that is ours
//! is never asked for outside: there is no IPv6 address of it if it has none
//! here (an empty answer, not an error).
//!
//! Another stack on a shared network has a supervisor of its own: a name that is
//! not in the table is looked for in that stack's records ([`Elsewhere`]), each
//! time. A name of the own stack comes first.
//!
//! A container that is on internal networks only has no resolver but us: what
//! we do not know does not exist (CVE-2024-29018: names asked for outside carry
//! data out).
//!
//! Known to be weak: nothing is cached (upstream resolvers do); names beyond
//! ASCII must be given in their encoded form; an address of another stack's
//! container has no name.

mod answer;
mod files;
mod forward;
mod serve;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

pub use files::{HostsError, PORT, ResolvConf, hosts_file, plain_resolv_conf, resolv_conf};
pub use forward::{Forwarder, Upstreams};
pub use serve::serve;

/// Who knows names on a network that are not in the table: by the network's id
/// and the lower-case name, their addresses.
pub type Elsewhere = Arc<dyn Fn(&str, &str) -> Vec<IpAddr> + Send + Sync>;

/// Names and addresses of all networks; clones share one table.
#[derive(Clone, Default)]
pub struct Names {
    table: Arc<RwLock<HashMap<String, Network>>>,
    /// Where the next answer with several addresses starts.
    turn: Arc<AtomicUsize>,
    elsewhere: Option<Elsewhere>,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

/// The names of one network.
#[derive(Debug, Default)]
struct Network {
    /// What the network itself is called.
    label: String,
    /// Addresses by lower-case name, with the owner of each.
    names: HashMap<String, Vec<(String, IpAddr)>>,
    /// The names of each owner, as given, the first for reverse lookups.
    owners: HashMap<String, Owner>,
}

#[derive(Debug, Default)]
struct Owner {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
}

/// What one container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Ids of its networks, the first one asked first.
    pub networks: Vec<String>,
    /// Whether other names are asked for outside: not when all of its networks
    /// are internal.
    pub forward: bool,
    /// Names of its own for others: lower-case alias to lower-case name.
    pub links: HashMap<String, String>,
}

/// The longest name that can be asked for, without its final dot (RFC 1035).
const NAME_MAX: usize = 253;
/// The longest part of a name between dots.
const LABEL_MAX: usize = 63;

impl Names {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty table; what is not in it is asked for elsewhere.
    pub fn with(elsewhere: Elsewhere) -> Self {
        Self {
            elsewhere: Some(elsewhere),
            ..Self::default()
        }
    }

    /// Makes a network known by its id, with the name it has for people: names
    /// on it can be asked for as `name.network` too, and reverse lookups answer so.
    pub fn set_network(&self, id: &str, name: &str) {
        self.change(|table| table.entry(id.to_owned()).or_default().label = name.to_lowercase());
    }

    /// Forgets a network with all names on it.
    pub fn remove_network(&self, id: &str) {
        self.change(|table| drop(table.remove(id)));
    }

    /// Gives an owner (one container) its names and addresses on a network, in
    /// place of those that it had there. Returns the names that nobody can ask
    /// for: longer than 253 bytes, with a part that is empty or longer than 63
    /// bytes, or not ASCII.
    #[must_use = "names that cannot be asked for are worth a warning"]
    pub fn attach(&self, network: &str, owner: &str, names: &[String], addresses: &[IpAddr]) -> Vec<String> {
        let (good, bad): (Vec<_>, Vec<_>) = names.iter().cloned().partition(|name| can_be_asked(name));
        self.change(|table| {
            let network = table.entry(network.to_owned()).or_default();
            network.detach(owner);
            for name in &good {
                let found = network.names.entry(name.to_ascii_lowercase()).or_default();
                for address in addresses {
                    // A name given twice is one name.
                    if !found.iter().any(|(who, what)| who == owner && what == address) {
                        found.push((owner.to_owned(), *address));
                    }
                }
            }
            network.owners.insert(
                owner.to_owned(),
                Owner {
                    names: good,
                    addresses: addresses.to_vec(),
                },
            );
        });
        bad
    }

    /// Takes an owner's names on a network away.
    pub fn detach(&self, network: &str, owner: &str) {
        self.change(|table| {
            if let Some(network) = table.get_mut(network) {
                network.detach(owner);
            }
        });
    }

    /// The addresses of a lower-case name as a container sees it, each time
    /// starting with another one; `None` when there is no such name.
    pub fn look_up(&self, view: &View, name: &str) -> Option<Vec<IpAddr>> {
        let name = view.links.get(name).map_or(name, String::as_str);
        let mut addresses = self
            .in_table(view, name)
            .or_else(|| self.found_elsewhere(view, name))?;
        if addresses.len() > 1 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(turn);
        }
        Some(addresses)
    }

    fn in_table(&self, view: &View, name: &str) -> Option<Vec<IpAddr>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let networks = || view.networks.iter().filter_map(|id| table.get(id));
        let found = networks()
            .find_map(|network| network.names.get(name))
            .or_else(|| {
                networks().find_map(|network| {
                    let short = name.strip_suffix(network.label.as_str())?.strip_suffix('.')?;
                    network.names.get(short)
                })
            })?;
        Some(found.iter().map(|(_, address)| *address).collect())
    }

    fn found_elsewhere(&self, view: &View, name: &str) -> Option<Vec<IpAddr>> {
        let elsewhere = self.elsewhere.as_ref()?;
        let labels: Vec<(&String, String)> = {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            let label = |id: &String| table.get(id).map(|network| network.label.clone());
            let networks = view.networks.iter();
            networks.map(|id| (id, label(id).unwrap_or_default())).collect()
        };
        labels.into_iter().find_map(|(id, label)| {
            let short = name
                .strip_suffix(label.as_str())
                .and_then(|name| name.strip_suffix('.'));
            let found = [Some(name), short].into_iter().flatten();
            found
                .map(|name| elsewhere(id, name))
                .find(|found| !found.is_empty())
        })
    }

    /// `name.network` of an address as a container sees it.
    pub fn look_up_address(&self, view: &View, address: IpAddr) -> Option<String> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        view.networks
            .iter()
            .filter_map(|id| table.get(id))
            .find_map(|network| {
                let owner = network
                    .owners
                    .values()
                    .find(|owner| owner.addresses.contains(&address))?;
                let name = owner.names.first()?;
                Some(if network.label.is_empty() {
                    name.clone()
                } else {
                    format!("{name}.{}", network.label)
                })
            })
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<String, Network>)) {
        change(&mut self.table.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Network {
    fn detach(&mut self, owner: &str) {
        let Some(gone) = self.owners.remove(owner) else {
            return;
        };
        for name in gone.names {
            let name = name.to_ascii_lowercase();
            if let Some(found) = self.names.get_mut(&name) {
                found.retain(|(who, _)| who != owner);
                if found.is_empty() {
                    self.names.remove(&name);
                }
            }
        }
    }
}

/// Whether a name can be part of a question.
fn can_be_asked(name: &str) -> bool {
    name.len() <= NAME_MAX
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && name
            .split('.')
            .all(|label| !label.is_empty() && label.len() <= LABEL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn view(networks: &[&str]) -> View {
        View {
            networks: names(networks),
            forward: true,
            links: HashMap::new(),
        }
    }

    #[test]
    fn a_container_sees_the_names_of_its_networks() {
        let table = Names::new();
        table.set_network("n1", "shop_front");
        assert!(
            table
                .attach("n1", "c1", &names(&["shop-web-1", "Web"]), &[address(2)])
                .is_empty()
        );
        assert!(
            table
                .attach("n2", "c2", &names(&["shop-db-1", "db"]), &[address(3)])
                .is_empty()
        );
        let seen = |view: &View, name: &str| table.look_up(view, name);
        assert_eq!(seen(&view(&["n1"]), "web"), Some(vec![address(2)]));
        assert_eq!(seen(&view(&["n1"]), "web.shop_front"), Some(vec![address(2)]));
        assert_eq!(seen(&view(&["n1"]), "webshop_front"), None);
        assert_eq!(seen(&view(&["n1"]), "db"), None);
        assert_eq!(seen(&view(&["n1", "n2"]), "db"), Some(vec![address(3)]));
        let back = |view: &View, last| table.look_up_address(view, address(last));
        assert_eq!(back(&view(&["n1"]), 2).as_deref(), Some("shop-web-1.shop_front"));
        assert_eq!(back(&view(&["n2"]), 3).as_deref(), Some("shop-db-1"));
        assert_eq!(back(&view(&["n2"]), 2), None);
    }

    #[test]
    fn links_are_names_for_one_container_alone() {
        let table = Names::new();
        let _ = table.attach("n1", "c1", &names(&["db"]), &[address(3)]);
        let linked = View {
            links: [("database".to_owned(), "db".to_owned())].into(),
            ..view(&["n1"])
        };
        assert_eq!(table.look_up(&linked, "database"), Some(vec![address(3)]));
        assert_eq!(table.look_up(&linked, "db"), Some(vec![address(3)]));
        assert_eq!(table.look_up(&view(&["n1"]), "database"), None);
    }

    #[test]
    fn replicas_share_a_name_and_take_turns() {
        let table = Names::new();
        for number in 2..5 {
            let owner = format!("c{number}");
            let _ = table.attach("n1", &owner, &names(&["web", "web"]), &[address(number)]);
        }
        let ask = || table.look_up(&view(&["n1"]), "web").unwrap();
        let firsts: std::collections::BTreeSet<_> = (0..3).map(|_| ask()[0]).collect();
        assert_eq!(firsts.len(), 3);
        assert_eq!(ask().len(), 3);
        table.detach("n1", "c3");
        let mut left = ask();
        left.sort();
        assert_eq!(left, [address(2), address(4)]);
        let _ = table.attach("n1", "c2", &names(&["other"]), &[address(9)]);
        assert_eq!(ask(), [address(4)]);
        table.remove_network("n1");
        assert_eq!(table.look_up(&view(&["n1"]), "web"), None);
    }

    #[test]
    fn names_that_nobody_can_ask_for_are_told() {
        let long = "x".repeat(64);
        let list = names(&["ok", &long, "a..b", "", "bücher", "a b", "_srv._tcp"]);
        let bad = Names::new().attach("n1", "c1", &list, &[address(2)]);
        assert_eq!(bad, [long.as_str(), "a..b", "", "bücher", "a b"]);
        assert!(can_be_asked(&[["x"; 63].concat(), ["y"; 63].concat()].join(".")));
        assert!(!can_be_asked(&vec!["x"; 128].join(".")));
    }
}

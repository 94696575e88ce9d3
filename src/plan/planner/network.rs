//! What is to become of each network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::{Cause, Change, Observed, ObservedNetwork, PlanError, diff};
use crate::project::{Network, Project};

/// What is to become of a network of the project.
#[derive(Clone, Debug)]
pub(super) enum Fate<'a> {
    /// It is there, as it should be.
    Keep(&'a ObservedNetwork),
    /// It is not there.
    Create,
    /// Its record is there, its bridge is not: made again with the same id.
    Repair(&'a ObservedNetwork),
    /// It is there with another definition, or under another name.
    Replace(&'a ObservedNetwork, Cause),
}

impl Fate<'_> {
    /// The id that containers on it have recorded, if it stays the same.
    pub(super) fn id(&self) -> Option<&str> {
        match self {
            Self::Keep(network) | Self::Repair(network) => Some(&network.id),
            Self::Create | Self::Replace(..) => None,
        }
    }
}

/// Decides about networks of a project, each once.
#[derive(Debug)]
pub(super) struct Networks<'a> {
    project: &'a Project,
    by_name: BTreeMap<&'a str, &'a ObservedNetwork>,
    by_key: BTreeMap<&'a str, Vec<&'a ObservedNetwork>>,
    fates: BTreeMap<&'a str, Fate<'a>>,
    /// Networks that the project made twice, or under two keys: they go.
    pub(super) duplicates: Vec<&'a ObservedNetwork>,
}

impl<'a> Networks<'a> {
    pub(super) fn new(project: &'a Project, observed: &'a Observed) -> Self {
        let mut by_name: BTreeMap<&str, &ObservedNetwork> = BTreeMap::new();
        let mut by_key: BTreeMap<&str, Vec<&ObservedNetwork>> = BTreeMap::new();
        for network in &observed.networks {
            let named = by_name.entry(&network.name).or_insert(network);
            // Of several with one name, one that is alive is the network.
            if (network.alive, &named.id) > (named.alive, &network.id) {
                *named = network;
            }
            if let Some(owner) = network
                .owner
                .as_ref()
                .filter(|owner| owner.project == project.name)
            {
                by_key.entry(&owner.key).or_default().push(network);
            }
        }
        Self {
            project,
            by_name,
            by_key,
            fates: BTreeMap::new(),
            duplicates: Vec::new(),
        }
    }

    /// Decides about a network. One with another definition is kept as it is,
    /// unless [`Networks::replace`] says otherwise. The first decision stands.
    ///
    /// # Errors
    /// An external network that is not there or is down, and a network of that
    /// name that somebody else made.
    pub(super) fn decide(&mut self, key: &'a str) -> Result<Fate<'a>, PlanError> {
        if let Some(fate) = self.fates.get(key) {
            return Ok(fate.clone());
        }
        // The graph has checked that services name only networks of the project.
        let Some(network) = self.project.networks.get(key) else {
            return Ok(Fate::Create);
        };
        let fate = if network.external {
            self.external(key, network)?
        } else {
            self.owned(key, network)?
        };
        self.fates.insert(key, fate.clone());
        Ok(fate)
    }

    /// Decides that a network is replaced, for this cause.
    pub(super) fn replace(&mut self, key: &'a str, network: &'a ObservedNetwork, cause: Cause) {
        self.fates.insert(key, Fate::Replace(network, cause));
    }

    /// The decisions so far.
    pub(super) fn fates(&self) -> &BTreeMap<&'a str, Fate<'a>> {
        &self.fates
    }

    fn external(&self, key: &str, network: &Network) -> Result<Fate<'a>, PlanError> {
        let name = network.name.clone();
        let origin = || self.project.origin(&format!("networks.{key}")).cloned();
        match self.by_name.get(network.name.as_str()) {
            None => Err(PlanError::ExternalNetworkMissing {
                name,
                origin: origin(),
            }),
            Some(found) if !found.alive => Err(PlanError::ExternalNetworkDown {
                name,
                origin: origin(),
            }),
            Some(found) => Ok(Fate::Keep(found)),
        }
    }

    fn owned(&mut self, key: &'a str, network: &Network) -> Result<Fate<'a>, PlanError> {
        let changes =
            |found: &ObservedNetwork| diff::network_changes(self.project, key, network, &found.config);
        let mut candidates = self.by_key.get(key).cloned().unwrap_or_default();
        candidates.sort_by_cached_key(|found| (!changes(found).is_empty(), !found.alive, found.id.clone()));
        let mut candidates = candidates.into_iter();
        let Some(best) = candidates.next() else {
            return match self.by_name.get(network.name.as_str()) {
                None => Ok(Fate::Create),
                Some(found) => self.renamed(key, found),
            };
        };
        let foreign = self
            .by_name
            .get(network.name.as_str())
            .filter(|found| !self.is_ours(found));
        if let Some(found) = foreign {
            return Err(self.foreign(key, found));
        }
        self.duplicates.extend(candidates);
        Ok(if best.alive {
            Fate::Keep(best)
        } else {
            Fate::Repair(best)
        })
    }

    /// There is a network with the right name under another key: it is made
    /// anew when that key is no longer in the project.
    fn renamed(&self, key: &str, found: &'a ObservedNetwork) -> Result<Fate<'a>, PlanError> {
        match &found.owner {
            Some(owner) if self.is_ours(found) && !self.project.networks.contains_key(&owner.key) => {
                let changes = vec![Change {
                    field: "key".into(),
                    old: Some(owner.key.as_str().into()),
                    new: Some(key.into()),
                    origin: self.project.origin(&format!("networks.{key}")).cloned(),
                }];
                Ok(Fate::Replace(
                    found,
                    Cause::Changed {
                        changes: changes.into(),
                    },
                ))
            }
            _ => Err(self.foreign(key, found)),
        }
    }

    fn is_ours(&self, found: &ObservedNetwork) -> bool {
        found
            .owner
            .as_ref()
            .is_some_and(|owner| owner.project == self.project.name)
    }

    fn foreign(&self, key: &str, found: &ObservedNetwork) -> PlanError {
        PlanError::ForeignNetwork {
            network: key.to_owned(),
            name: found.name.clone(),
            owner: found.owner.as_ref().map(|owner| owner.project.clone()),
            origin: self.project.origin(&format!("networks.{key}")).cloned(),
        }
    }

    /// Networks that this project made and does not have any more, by id.
    pub(super) fn surplus(&self) -> Vec<&'a ObservedNetwork> {
        let replaced: BTreeSet<&str> = self
            .fates
            .values()
            .filter_map(|fate| match fate {
                Fate::Replace(network, _) => Some(network.id.as_str()),
                _ => None,
            })
            .collect();
        self.by_key
            .iter()
            .filter(|(key, _)| !self.project.networks.contains_key(**key))
            .flat_map(|(_, networks)| networks.iter().copied())
            .filter(|network| !replaced.contains(network.id.as_str()))
            .collect()
    }
}

/// Whether a new network may need addresses that an existing one has. One with
/// a subnet of the host's choice may have any.
pub(super) fn may_overlap(new: &Network, existing: &ObservedNetwork) -> bool {
    let wanted: Vec<_> = subnets(new).collect();
    let recorded: Option<Network> = existing.config.read().ok();
    let taken: Vec<_> = recorded.iter().flat_map(subnets).collect();
    wanted
        .iter()
        .any(|wanted| taken.is_empty() || taken.iter().any(|taken| overlap(*wanted, *taken)))
}

fn subnets(network: &Network) -> impl Iterator<Item = (IpAddr, u32)> {
    network.ipam.iter().filter_map(|pool| {
        let (address, bits) = pool.subnet.as_deref()?.split_once('/')?;
        Some((address.parse().ok()?, bits.parse().ok()?))
    })
}

fn overlap((a, a_bits): (IpAddr, u32), (b, b_bits): (IpAddr, u32)) -> bool {
    let common = a_bits.min(b_bits);
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= common,
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= common,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_overlap_when_one_holds_the_other() {
        let parse = |text: &str| {
            let (address, bits) = text.split_once('/').unwrap();
            (address.parse().unwrap(), bits.parse().unwrap())
        };
        for (a, b, expected) in [
            ("10.0.0.0/8", "10.1.2.0/24", true),
            ("10.0.0.0/24", "10.0.1.0/24", false),
            ("0.0.0.0/0", "192.168.0.0/16", true),
            ("fd00::/64", "fd00::1:0:0:0/48", true),
            ("fd00::/64", "10.0.0.0/8", false),
        ] {
            assert_eq!(overlap(parse(a), parse(b)), expected, "{a} {b}");
            assert_eq!(overlap(parse(b), parse(a)), expected, "{b} {a}");
        }
    }
}

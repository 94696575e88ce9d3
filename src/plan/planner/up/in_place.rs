//! What can change of a container while it runs, besides what its field alone
//! says ([`diff::in_place`](crate::plan::diff::in_place)).

use std::collections::HashMap;
use std::net::IpAddr;

use super::Decider;
use crate::plan::diff::Movable;
use crate::plan::planner::network::{Fate as NetworkFate, may_overlap};
use crate::plan::planner::recorded;
use crate::plan::{Change, ObservedContainer, ObservedNetwork};
use crate::project::{Attachment, BlkioConfig, DeviceRate, DeviceWeight, NetworkMode, Port, Service, Ulimit};

/// Who publishes a port.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holder<'a> {
    /// A service of the project, by name.
    Service(&'a str),
    /// A container that is there, by id.
    Container(&'a str),
}

impl<'a> Decider<'a> {
    /// What can change of a container while it runs, as far as it has changed.
    pub(super) fn movable(&self, service: &Service, old: &ObservedContainer, changes: &[Change]) -> Movable {
        let changed = |field: &str| changes.iter().any(|change| change.field.starts_with(field));
        let (ports, networks, disks) = (changed("ports"), changed("networks"), changed("blkio_config"));
        let processes = changed("ulimits") || changed("oom_score_adj");
        if !(ports || networks || disks || processes) {
            return Movable::default();
        }
        let Some(before) = recorded(old) else {
            return Movable::default();
        };
        Movable {
            ports: ports && self.moves_ports_in_place(service, old, &before),
            networks: networks && self.moves_networks_in_place(service, old, &before),
            disks: disks && keeps_disks(before.blkio_config.as_ref(), service.blkio_config.as_ref()),
            processes: processes && can_be_limited(&before, service, !self.observed.limits_only_fall),
        }
    }

    /// Whether the published ports of a container can change while it runs: none
    /// may go from one container to another, which takes its turn.
    fn moves_ports_in_place(&self, service: &Service, old: &ObservedContainer, before: &Service) -> bool {
        let mine = |holder: &Holder<'_>| match holder {
            Holder::Service(name) => *name == service.name,
            Holder::Container(id) => *id == old.id,
        };
        let holders = self.holders.get_or_init(|| self.port_holders());
        let contested = before
            .ports
            .iter()
            .chain(&service.ports)
            .filter_map(|port| port.published)
            .flat_map(|(first, last)| first..=last)
            .any(|port| {
                let holders = holders.get(&port);
                holders.is_some_and(|holders| !holders.iter().all(mine))
            });
        !contested
    }

    /// Whether a container can join and leave networks while it runs. Where it
    /// stays, only its names and which way is the default may change; an address
    /// that is asked for may not go from one container to another, which takes
    /// its turn, and no network that is joined may have to wait for one that
    /// goes, which may be the one that is left. Names of interfaces and the MAC
    /// address of the service belong to networks by their order: they are given
    /// out anew with a new container.
    fn moves_networks_in_place(&self, service: &Service, old: &ObservedContainer, before: &Service) -> bool {
        let joined = || {
            let all = service.networks.iter();
            all.filter(|(key, _)| !before.networks.contains_key(*key))
        };
        let left = || {
            let all = before.networks.iter();
            all.filter(|(key, _)| !service.networks.contains_key(*key))
        };
        let stays_alike = before.networks.iter().all(|(key, there)| {
            service.networks.get(key).is_none_or(|here| {
                let there = Attachment {
                    aliases: here.aliases.clone(),
                    gw_priority: here.gw_priority,
                    ..there.clone()
                };
                there == *here
            })
        });
        let on_networks = |service: &Service| service.network_mode == NetworkMode::Networks;
        let named = |attachment: &Attachment| {
            attachment.interface_name.is_some() || !attachment.driver_opts.is_empty()
        };
        on_networks(before)
            && on_networks(service)
            && stays_alike
            && service.mac_address.is_none()
            && !joined().any(|(_, attachment)| named(attachment))
            && joined().all(|(key, _)| self.can_be_joined(key))
            && joined()
                .chain(left())
                .all(|(key, attachment)| self.has_address_alone(&service.name, &old.id, key, attachment))
    }

    /// Whether a network is there, or can be made before anything else goes.
    fn can_be_joined(&self, key: &str) -> bool {
        let Some(network) = self.project.networks.get(key) else {
            return false;
        };
        match self.networks.fates().get(key) {
            Some(NetworkFate::Keep(_) | NetworkFate::Repair(_)) => true,
            Some(NetworkFate::Create) => {
                let of_project = |other: &&ObservedNetwork| {
                    let owner = other.owner.as_ref();
                    owner.is_some_and(|owner| owner.project == self.project.name)
                };
                let others = self.observed.networks.iter().filter(of_project);
                let in_the_way = |other: &ObservedNetwork| {
                    other.name == network.name || !network.ipam.is_empty() && may_overlap(network, other)
                };
                !others.into_iter().any(in_the_way)
            }
            Some(NetworkFate::Replace(..)) | None => false,
        }
    }

    /// Whether nobody else has, or is to have, the addresses that an attachment
    /// asks for.
    fn has_address_alone(&self, service: &str, id: &str, key: &str, attachment: &Attachment) -> bool {
        let asks = |other: &Attachment| {
            let same = |a: Option<IpAddr>, b: Option<IpAddr>| a.is_some() && a == b;
            same(
                attachment.ipv4_address.map(IpAddr::V4),
                other.ipv4_address.map(IpAddr::V4),
            ) || same(
                attachment.ipv6_address.map(IpAddr::V6),
                other.ipv6_address.map(IpAddr::V6),
            )
        };
        if attachment.ipv4_address.is_none() && attachment.ipv6_address.is_none() {
            return true;
        }
        let wants = |other: &Service| other.networks.get(key).is_some_and(asks);
        let mut services = self.project.services.values();
        let mut containers = self.observed.containers.iter();
        !services.any(|other| other.name != service && wants(other))
            && !containers.any(|other| other.id != id && recorded(other).is_some_and(|config| wants(&config)))
    }

    /// Who has each published port, or is to have it.
    fn port_holders(&self) -> HashMap<u16, Vec<Holder<'a>>> {
        let mut holders: HashMap<u16, Vec<Holder<'a>>> = HashMap::new();
        let mut note = |ports: &[Port], holder: Holder<'a>| {
            let published = ports.iter().filter_map(|port| port.published);
            for port in published.flat_map(|(first, last)| first..=last) {
                holders.entry(port).or_default().push(holder);
            }
        };
        for service in self.project.services.values() {
            note(&service.ports, Holder::Service(&service.name));
        }
        for container in &self.observed.containers {
            if let Some(service) = recorded(container) {
                note(&service.ports, Holder::Container(&container.id));
            }
        }
        holders
    }
}

/// Whether no disk limit is taken away: what was there without it is not known.
fn keeps_disks(before: Option<&BlkioConfig>, after: Option<&BlkioConfig>) -> bool {
    let nothing = BlkioConfig::default();
    let (before, after) = (before.unwrap_or(&nothing), after.unwrap_or(&nothing));
    let rates = |before: &[DeviceRate], after: &[DeviceRate]| {
        let still = |rate: &DeviceRate| after.iter().any(|other| other.path == rate.path);
        before.iter().all(still)
    };
    let weighed = |weight: &DeviceWeight| {
        let mut after = after.weight_device.iter();
        after.any(|other| other.path == weight.path)
    };
    (before.weight.is_none() || after.weight.is_some())
        && before.weight_device.iter().all(weighed)
        && rates(&before.device_read_bps, &after.device_read_bps)
        && rates(&before.device_read_iops, &after.device_read_iops)
        && rates(&before.device_write_bps, &after.device_write_bps)
        && rates(&before.device_write_iops, &after.device_write_iops)
}

/// Whether the processes of a container can have the limits of its service as it
/// is now: none is taken away (what was there without it is not known), and none
/// is raised where nobody may.
fn can_be_limited(before: &Service, after: &Service, may_rise: bool) -> bool {
    let hard = |limit: &Ulimit| limit.hard.cast_unsigned();
    let fits = |(name, limit): (&String, &Ulimit)| {
        let before = before.ulimits.get(name);
        may_rise || before.is_some_and(|before| hard(limit) <= hard(before))
    };
    let spared = match (before.oom_score_adj, after.oom_score_adj) {
        (Some(_), None) => false,
        // To be killed more readily is always allowed.
        (before, Some(after)) => may_rise || after >= before.unwrap_or(0),
        (None, None) => true,
    };
    spared
        && before.ulimits.keys().all(|name| after.ulimits.contains_key(name))
        && after.ulimits.iter().all(fits)
}

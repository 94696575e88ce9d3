//! From decisions to actions in their order. The folder's page says which
//! action waits for which, and why no cycle can arise.

mod order;
mod resources;
mod waits;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::super::draft::{Draft, Step};
use super::super::{Hold, Observed, Plan, PlanError, Up};
use super::network::Networks;
use super::volume::Volumes;
use super::{ByName, Names, Slot};
use crate::graph::{Graph, Link};
use crate::project::{Project, Service};

/// Up to this many pairs of (fetch or make, stop), every stop waits for every
/// fetch, so that nothing is touched when an image cannot be had. Beyond, a
/// plan of that form would grow with the square of the project.
pub(super) const BARRIER: usize = 100_000;

/// What differs between the commands that start containers.
pub(super) struct Options<'a> {
    /// Services the command is about.
    pub(super) selected: Names,
    /// Those without which it has failed; the others are optional dependencies.
    pub(super) required: Names,
    /// The options of `up`; `None` for commands that make nothing.
    pub(super) up: Option<&'a Up>,
    /// In place of each service's `stop_grace_period`.
    pub(super) timeout: Option<Duration>,
    /// In place of each container's stop signal.
    pub(super) signal: Option<String>,
    /// Along which links a start waits for dependencies.
    pub(super) starts_after: fn(&Link) -> bool,
    /// The user waits for all that the command is about.
    pub(super) wait: bool,
    /// Whether dependents with `depends_on.restart` stop before their dependency.
    pub(super) follow_restart: bool,
}

/// The actions of one slot.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Steps {
    pub(super) stop: Option<Step>,
    pub(super) remove: Option<Step>,
    pub(super) create: Option<Step>,
    update: Option<Step>,
    pub(super) start: Option<Step>,
}

impl Steps {
    fn is_empty(&self) -> bool {
        let Self {
            stop,
            remove,
            create,
            update,
            start,
        } = self;
        stop.or(*remove).or(*create).or(*update).or(*start).is_none()
    }
}

/// Turns slots into a plan.
pub(super) struct Schedule<'a> {
    pub(super) project: &'a Project,
    services: ByName<'a, &'a Service>,
    graph: &'a Graph,
    observed: &'a Observed,
    options: Options<'a>,
    pub(super) slots: Rc<[Slot<'a>]>,
    networks: Networks<'a>,
    volumes: Volumes<'a>,
    pub(super) draft: Draft,
    steps: Vec<Steps>,
    /// Slots of each service.
    of: ByName<'a, Vec<usize>>,
    /// Slots of the existing containers on each network, by its id.
    on: ByName<'a, Vec<usize>>,
    pulls: ByName<'a, Step>,
    /// Creations of networks by key, of volumes by name.
    made_networks: BTreeMap<&'a str, Step>,
    made_volumes: ByName<'a, Step>,
    /// Removals of networks by id.
    gone_networks: BTreeMap<&'a str, Step>,
    /// What is there before anything is stopped.
    base: Vec<Step>,
    /// What each service's starts wait for.
    gates: ByName<'a, Rc<[Step]>>,
    early: Vec<bool>,
    holds: Vec<Hold>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Schedule<'a> {
    pub(super) fn new(
        project: &'a Project,
        graph: &'a Graph,
        observed: &'a Observed,
        options: Options<'a>,
        slots: Vec<Slot<'a>>,
        networks: Networks<'a>,
        volumes: Volumes<'a>,
    ) -> Self {
        let mut of: ByName<'a, Vec<usize>> = ByName::default();
        let mut on: ByName<'a, Vec<usize>> = ByName::default();
        let services = project.services.iter();
        for (index, slot) in slots.iter().enumerate() {
            of.entry(slot.service).or_default().push(index);
            for id in slot.old.iter().flat_map(|old| old.networks.values()) {
                on.entry(id).or_default().push(index);
            }
        }
        Self {
            project,
            services: services.map(|(name, service)| (name.as_str(), service)).collect(),
            graph,
            observed,
            options,
            networks,
            volumes,
            draft: Draft::default(),
            steps: vec![Steps::default(); slots.len()],
            early: vec![false; slots.len()],
            slots: slots.into(),
            of,
            on,
            pulls: ByName::default(),
            made_networks: BTreeMap::new(),
            made_volumes: ByName::default(),
            gone_networks: BTreeMap::new(),
            base: Vec::new(),
            gates: ByName::default(),
            holds: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The plan.
    ///
    /// # Errors
    /// When an image, network or volume cannot be had, and when something waits
    /// for what cannot run.
    pub(super) fn finish(mut self) -> Result<Plan, PlanError> {
        if let Some(up) = self.options.up {
            self.add_pulls(up)?;
        }
        self.add_networks()?;
        self.add_volumes()?;
        self.add_containers()?;
        self.order_networks();
        self.find_early();
        self.order_containers();
        self.order_rollouts();
        self.add_waits();
        self.add_holds();
        self.warnings.sort_unstable();
        self.warnings.dedup();
        Ok(Plan {
            actions: self.draft.finish()?,
            holds: self.holds,
            warnings: self.warnings,
        })
    }

    /// The slots of a service with their indices.
    pub(super) fn numbered(&self, service: &str) -> impl Iterator<Item = (usize, &Slot<'a>)> {
        let indices = self.of.get(service).map(Vec::as_slice).unwrap_or_default();
        indices
            .iter()
            .filter_map(|&index| Some((index, self.slots.get(index)?)))
    }

    /// The actions of a slot.
    pub(super) fn steps_of(&self, slot: usize) -> Steps {
        self.steps.get(slot).copied().unwrap_or_default()
    }

    /// Whether a slot's container is stopped early.
    pub(super) fn is_early(&self, slot: usize) -> bool {
        self.early.get(slot).copied().unwrap_or_default()
    }

    fn slots_of(&self, service: &str) -> impl Iterator<Item = (&Slot<'a>, Steps)> {
        let indices = self.of.get(service).map(Vec::as_slice).unwrap_or_default();
        indices
            .iter()
            .filter_map(|&index| Some((self.slots.get(index)?, *self.steps.get(index)?)))
    }

    /// Whether a container that goes on leaves a network, by its id.
    fn leaves(&self, slot: &Slot<'a>, network: &str) -> bool {
        let service = self.services.get(slot.service);
        let wants = |key: &str| service.is_some_and(|service| service.networks.contains_key(key));
        let mut on = slot.old.iter().flat_map(|old| &old.networks);
        slot.update.is_some() && on.any(|(key, id)| id == network && !wants(key))
    }

    /// Services that get a new container, or have one to be brought up.
    fn is_made(&self, service: &str) -> bool {
        self.slots_of(service).any(|(slot, _)| slot.makes())
    }

    fn is_up(&self, service: &str) -> bool {
        let selected = self.options.selected.contains(service);
        self.slots_of(service)
            .any(|(slot, _)| slot.one_off.is_some() || selected && slot.survives())
    }
}

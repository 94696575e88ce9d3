//! Does a plan contradict itself? Knows nothing of how plans are made: only
//! what each operation needs to find, and what it leaves behind.
//!
//! A plan is run with all the parallelism it has, so *before* always means: by
//! way of [`Action::after`](super::Action::after), not by place in the list.
//!
//! Each question costs a walk over the plan, so the whole grows with its
//! square: for tests and for debugging, not for every command.

use std::collections::{BTreeMap, BTreeSet};

use super::{ContainerState, Observed, Operation, Plan, Target};
use crate::graph::{attached, mounted};
use crate::project::{Condition, NetworkMode, Project, Restart};

/// A contradiction in a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Index of the action that cannot work.
    pub action: usize,
    /// What is wrong with it.
    pub problem: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "action {}: {}", self.action + 1, self.problem)
    }
}

/// The contradictions of a plan that was made for `project` and `observed`;
/// none for a sound one.
pub fn check(project: &Project, observed: &Observed, plan: &Plan) -> Vec<Fault> {
    let mut checker = Checker::new(project, observed, plan);
    checker.check_order();
    if checker.faults.is_empty() {
        for (at, action) in plan.actions.iter().enumerate() {
            checker.check_action(at, &action.operation);
        }
    }
    checker.faults
}

/// A container within a plan: an existing one by id, one to be made by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    Id(&'a str),
    New(&'a str),
}

impl<'a> From<&'a Target> for Key<'a> {
    fn from(target: &'a Target) -> Self {
        match &target.id {
            Some(id) => Key::Id(id),
            None => Key::New(&target.name),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verb {
    Create,
    Update,
    Start,
    Stop,
    Remove,
}

struct Checker<'a> {
    project: &'a Project,
    observed: &'a Observed,
    plan: &'a Plan,
    /// What happens to each container, in list order.
    containers: BTreeMap<Key<'a>, Vec<(Verb, usize)>>,
    faults: Vec<Fault>,
}

impl<'a> Checker<'a> {
    fn new(project: &'a Project, observed: &'a Observed, plan: &'a Plan) -> Self {
        let mut containers: BTreeMap<Key<'a>, Vec<(Verb, usize)>> = BTreeMap::new();
        for (at, action) in plan.actions.iter().enumerate() {
            let (key, verb) = match &action.operation {
                Operation::CreateContainer {
                    one_off: Some(one_off),
                    ..
                } => (Key::Id(&one_off.id), Verb::Create),
                Operation::CreateContainer { name, .. } => (Key::New(name), Verb::Create),
                Operation::UpdateContainer { container, .. } => (container.into(), Verb::Update),
                Operation::StartContainer { container } => (container.into(), Verb::Start),
                Operation::StopContainer { container, .. } => (container.into(), Verb::Stop),
                Operation::RemoveContainer { container, .. } => (container.into(), Verb::Remove),
                _ => continue,
            };
            containers.entry(key).or_default().push((verb, at));
        }
        Self {
            project,
            observed,
            plan,
            containers,
            faults: Vec::new(),
        }
    }

    fn fault(&mut self, action: usize, problem: impl Into<String>) {
        self.faults.push(Fault {
            action,
            problem: problem.into(),
        });
    }

    fn check_order(&mut self) {
        for (at, action) in self.plan.actions.iter().enumerate() {
            if action.after.iter().any(|&other| other >= at) {
                self.fault(at, "comes after a later action, or after itself");
            }
            if !action.after.is_sorted_by(|a, b| a < b) {
                self.fault(at, "its prerequisites are not in order, or one is there twice");
            }
        }
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for (at, action) in self.plan.actions.iter().enumerate() {
            if let Some(first) = seen.insert(format!("{:?}", action.operation), at) {
                self.fault(at, format!("does the same as action {}", first + 1));
            }
        }
    }

    /// Whether `first` has succeeded whenever `then` is begun.
    fn before(&self, first: usize, then: usize) -> bool {
        let mut seen = BTreeSet::new();
        let mut stack = vec![then];
        while let Some(at) = stack.pop() {
            for &other in self
                .plan
                .actions
                .get(at)
                .map(|action| action.after.as_slice())
                .unwrap_or_default()
            {
                if other == first {
                    return true;
                }
                if other > first && seen.insert(other) {
                    stack.push(other);
                }
            }
        }
        false
    }

    fn find(&self, key: &Key<'_>, verb: Verb) -> Option<usize> {
        let found = self.containers.iter().find(|(other, _)| *other == key)?.1;
        found.iter().find(|(other, _)| *other == verb).map(|(_, at)| *at)
    }

    fn has(&self, key: &Key<'_>, verb: Verb, before: usize) -> bool {
        self.find(key, verb).is_some_and(|at| self.before(at, before))
    }

    fn is_running(&self, id: &str) -> Option<bool> {
        let found = self
            .observed
            .containers
            .iter()
            .find(|container| container.id == id)?;
        Some(found.state.is_running())
    }

    fn check_action(&mut self, at: usize, operation: &'a Operation) {
        match operation {
            Operation::PullImage { .. } => {}
            Operation::CreateNetwork { network, name } => self.check_network_creation(at, network, name),
            Operation::RemoveNetwork { id, .. } => self.check_network_removal(at, id),
            Operation::CreateVolume { name, .. } => {
                if self.observed.volumes.iter().any(|volume| volume.name == *name) {
                    self.fault(at, "the volume is there already");
                }
            }
            Operation::RemoveVolume { name } => self.check_volume_removal(at, name),
            Operation::CreateContainer { service, name, .. } => self.check_creation(at, service, name),
            Operation::UpdateContainer { container, .. } => {
                self.check_exists(at, container);
                let project = self.project;
                let service = project.services.get(&container.service);
                for key in service.into_iter().flat_map(attached) {
                    self.check_attachment(at, key);
                }
            }
            Operation::SignalContainer { container, .. }
            | Operation::PauseContainer { container }
            | Operation::UnpauseContainer { container } => self.check_exists(at, container),
            Operation::StartContainer { container } => self.check_start(at, container),
            Operation::StopContainer { container, again, .. } => {
                self.check_exists(at, container);
                let started = self.find(&container.into(), Verb::Start);
                if *again != started.is_some_and(|start| self.before(at, start)) {
                    self.fault(at, "says wrongly whether the container is started again");
                }
            }
            Operation::RemoveContainer { container, .. } => {
                self.check_exists(at, container);
                let key = container.into();
                let running = container
                    .id
                    .as_deref()
                    .and_then(|id| self.is_running(id))
                    .unwrap_or_default();
                if running && !self.has(&key, Verb::Stop, at) {
                    self.fault(at, "removes a running container that was not stopped before");
                }
                let uses = self.containers.get(&key).cloned().unwrap_or_default();
                for (verb, other) in uses {
                    if verb != Verb::Remove && !self.before(other, at) {
                        self.fault(other, "uses a container that may be removed already");
                    }
                }
            }
            Operation::Prepare { service, .. } => match self.project.services.get(service) {
                Some(service) => {
                    for key in attached(service) {
                        self.check_attachment(at, key);
                    }
                }
                None => self.fault(at, format!("the project has no service {service}")),
            },
            Operation::Settle { containers, .. } => {
                for container in containers {
                    self.check_exists(at, container);
                }
            }
            Operation::Await {
                service,
                containers,
                condition,
                by,
                ..
            } => {
                if service == by {
                    self.fault(at, "waits for itself");
                }
                for container in containers {
                    self.check_exists(at, container);
                    if *condition == Condition::ServiceHealthy {
                        self.check_runs(at, container);
                    }
                }
            }
        }
    }

    fn check_exists(&mut self, at: usize, container: &Target) {
        let exists = match &container.id {
            Some(id) => self.is_running(id).is_some() || self.has(&container.into(), Verb::Create, at),
            None => self.has(&container.into(), Verb::Create, at),
        };
        if !exists {
            self.fault(at, "the container is not there");
        }
    }

    /// Somebody waits for the health of a container: it must run by then, or
    /// be about to, by its restart policy.
    fn check_runs(&mut self, at: usize, container: &Target) {
        let started = self.has(&container.into(), Verb::Start, at);
        let found = self
            .observed
            .containers
            .iter()
            .find(|found| Some(&found.id) == container.id.as_ref());
        let runs = found.is_some_and(|found| match found.state {
            ContainerState::Running { .. } => true,
            ContainerState::Created | ContainerState::Exited { stopped: true, .. } => false,
            ContainerState::Exited { .. } => found
                .config
                .field::<Restart>("restart")
                .is_some_and(|policy| policy != Restart::No),
        });
        let stopped = self.find(&container.into(), Verb::Stop).is_some();
        if !started && (!runs || stopped) {
            self.fault(
                at,
                format!("waits for the health of {}, which may not run", container.name),
            );
        }
    }

    fn check_start(&mut self, at: usize, container: &'a Target) {
        self.check_exists(at, container);
        let key = container.into();
        if let Some(id) = &container.id {
            if self.is_running(id) == Some(true) && !self.has(&key, Verb::Stop, at) {
                self.fault(at, "starts a container that runs");
            }
            let observed = self.observed;
            let found = observed.containers.iter().find(|container| container.id == *id);
            for (network, id) in found.iter().flat_map(|container| &container.networks) {
                match observed.networks.iter().find(|network| network.id == *id) {
                    None => self.fault(at, format!("network {network} is gone")),
                    Some(there) if !there.alive && !self.makes_network(network, at) => {
                        self.fault(at, format!("network {network} is down"));
                    }
                    Some(_) => {}
                }
            }
        }
        let provider = self
            .project
            .services
            .get(&container.service)
            .map(|service| &service.network_mode);
        if let Some(NetworkMode::Service(provider)) = provider {
            self.check_provider(at, provider);
        }
    }

    /// The first container of a service runs whenever this action is begun.
    fn check_provider(&mut self, at: usize, provider: &str) {
        let starts = self.plan.actions.iter().enumerate().any(|(other, action)| {
            matches!(&action.operation, Operation::StartContainer { container } if container.service == provider)
                && self.before(other, at)
        });
        let runs = self.observed.containers.iter().any(|container| {
            container.service == provider
                && container.state.is_running()
                && self.find(&Key::Id(&container.id), Verb::Stop).is_none()
        });
        if !starts && !runs {
            self.fault(
                at,
                format!("service {provider}, whose network it shares, may not run"),
            );
        }
    }

    fn makes_network(&self, key: &str, before: usize) -> bool {
        self.plan.actions.iter().enumerate().any(|(at, action)| {
            matches!(&action.operation, Operation::CreateNetwork { network, .. } if network == key)
                && self.before(at, before)
        })
    }

    fn check_creation(&mut self, at: usize, service: &str, name: &'a str) {
        let holders: Vec<&str> = self
            .observed
            .containers
            .iter()
            .filter(|container| container.name == name)
            .map(|container| container.id.as_str())
            .collect();
        for id in holders {
            if !self.has(&Key::Id(id), Verb::Remove, at) {
                self.fault(at, format!("container {name} is there already"));
            }
        }
        let Some(service) = self.project.services.get(service) else {
            return self.fault(at, format!("the project has no service {service}"));
        };
        if !self.observed.images.contains_key(&service.image) {
            let pulled = self.plan.actions.iter().enumerate().any(|(other, action)| {
                matches!(&action.operation, Operation::PullImage { image, .. } if *image == service.image)
                    && self.before(other, at)
            });
            if !pulled {
                self.fault(at, format!("image {} is not there", service.image));
            }
        }
        for key in attached(service) {
            self.check_attachment(at, key);
        }
        for key in mounted(service) {
            let Some(volume) = self.project.volumes.get(key) else {
                continue;
            };
            let there = self
                .observed
                .volumes
                .iter()
                .any(|there| there.name == volume.name);
            let made = self.plan.actions.iter().enumerate().any(|(other, action)| {
                matches!(&action.operation, Operation::CreateVolume { name, .. } if *name == volume.name)
                    && self.before(other, at)
            });
            if !there && !made {
                self.fault(at, format!("volume {} is not there", volume.name));
            }
        }
    }

    fn check_attachment(&mut self, at: usize, key: &str) {
        let Some(network) = self.project.networks.get(key) else {
            return;
        };
        let stays = self.observed.networks.iter().any(|there| {
            there.name == network.name && there.alive && self.network_removal(&there.id).is_none()
        });
        let kept = self.observed.networks.iter().any(|there| {
            let ours = there
                .owner
                .as_ref()
                .is_some_and(|owner| owner.project == self.project.name && owner.key == key);
            ours && there.alive && self.network_removal(&there.id).is_none()
        });
        if !stays && !kept && !self.makes_network(key, at) {
            self.fault(at, format!("network {} is not there", network.name));
        }
    }

    fn network_removal(&self, id: &str) -> Option<usize> {
        self.plan.actions.iter().position(
            |action| matches!(&action.operation, Operation::RemoveNetwork { id: removed, .. } if removed == id),
        )
    }

    fn check_network_creation(&mut self, at: usize, key: &str, name: &str) {
        let observed = self.observed;
        let ours = |owner: &super::Owner| owner.project == self.project.name && owner.key == key;
        for network in &observed.networks {
            let same = network.owner.as_ref().is_some_and(ours);
            if network.name != name && !same {
                continue;
            }
            let removed = self
                .network_removal(&network.id)
                .is_some_and(|removal| self.before(removal, at));
            if !removed && (network.alive || !same) {
                self.fault(at, format!("network {} is there already", network.name));
            }
        }
    }

    fn check_network_removal(&mut self, at: usize, id: &str) {
        let observed = self.observed;
        let Some(network) = observed.networks.iter().find(|network| network.id == id) else {
            return self.fault(at, "the network is not there");
        };
        if network
            .owner
            .as_ref()
            .is_none_or(|owner| owner.project != self.project.name)
        {
            self.fault(at, "removes a network that is not the project's");
        }
        for container in &observed.containers {
            let on_it = container.networks.iter().find(|(_, other)| *other == id);
            // An update takes it off a network that its service has no more.
            let service = self.project.services.get(&container.service);
            let leaves = |key: &String| {
                service.is_some_and(|service| !service.networks.contains_key(key))
                    && self.has(&Key::Id(&container.id), Verb::Update, at)
            };
            if on_it.is_some_and(|(key, _)| !leaves(key))
                && !self.has(&Key::Id(&container.id), Verb::Remove, at)
            {
                self.fault(
                    at,
                    format!("container {} may still be on the network", container.name),
                );
            }
        }
    }

    fn check_volume_removal(&mut self, at: usize, name: &str) {
        let observed = self.observed;
        let Some(volume) = observed.volumes.iter().find(|volume| volume.name == name) else {
            return self.fault(at, "the volume is not there");
        };
        if volume
            .owner
            .as_ref()
            .is_none_or(|owner| owner.project != self.project.name)
        {
            self.fault(at, "removes a volume that is not the project's");
        }
        for container in &observed.containers {
            let mounts = container.volumes.values().any(|other| other == name);
            if mounts && !self.has(&Key::Id(&container.id), Verb::Remove, at) {
                self.fault(
                    at,
                    format!("container {} may still use the volume", container.name),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Action, Cause, ObservedContainer, ObservedNetwork, Owner, Recorded};
    use crate::project::{Attachment, Network, Service};

    fn project() -> Project {
        let mut web = Service {
            name: "web".into(),
            image: "nginx".into(),
            replicas: 1,
            ..Service::default()
        };
        web.networks.insert("front".into(), Attachment::default());
        let mut project = Project {
            name: "shop".into(),
            ..Project::default()
        };
        project.services.insert("web".into(), web);
        project.networks.insert(
            "front".into(),
            Network {
                name: "shop_front".into(),
                ..Network::default()
            },
        );
        project
    }

    fn observed() -> Observed {
        Observed {
            containers: vec![ObservedContainer {
                id: "a".into(),
                name: "shop-web-1".into(),
                service: "web".into(),
                number: 1,
                config: Recorded::default(),
                image: "i".into(),
                state: ContainerState::Running {
                    started: 1,
                    paused: false,
                },
                health: None,
                networks: BTreeMap::from([("front".into(), "n".into())]),
                volumes: BTreeMap::new(),
                contents: BTreeMap::new(),
                created: 1,
                one_off: false,
            }],
            networks: vec![ObservedNetwork {
                id: "n".into(),
                name: "shop_front".into(),
                owner: Some(Owner {
                    project: "shop".into(),
                    key: "front".into(),
                }),
                config: Recorded::default(),
                alive: true,
            }],
            volumes: Vec::new(),
            contents: BTreeMap::new(),
            prepared: BTreeMap::new(),
            stale: BTreeSet::new(),
            limits_only_fall: false,
            images: BTreeMap::from([("nginx".into(), "i".into())]),
        }
    }

    fn old() -> Target {
        Target {
            id: Some("a".into()),
            service: "web".into(),
            number: 1,
            name: "shop-web-1".into(),
        }
    }

    fn new() -> Target {
        Target { id: None, ..old() }
    }

    fn replacement() -> Vec<(Operation, Vec<usize>)> {
        vec![
            (
                Operation::StopContainer {
                    container: old(),
                    timeout: None,
                    signal: None,
                    again: false,
                },
                vec![],
            ),
            (
                Operation::RemoveContainer {
                    container: old(),
                    volumes: false,
                    replaced: false,
                },
                vec![0],
            ),
            (
                Operation::RemoveNetwork {
                    id: "n".into(),
                    name: "shop_front".into(),
                },
                vec![1],
            ),
            (
                Operation::CreateNetwork {
                    network: "front".into(),
                    name: "shop_front".into(),
                },
                vec![2],
            ),
            (
                Operation::CreateContainer {
                    service: "web".into(),
                    number: 1,
                    name: "shop-web-1".into(),
                    inherit: Some("a".into()),
                    one_off: None,
                },
                vec![1, 3],
            ),
            (Operation::StartContainer { container: new() }, vec![4]),
        ]
    }

    fn faults(actions: Vec<(Operation, Vec<usize>)>) -> Vec<String> {
        let actions = actions.into_iter().map(|(operation, after)| Action {
            operation,
            cause: Cause::Requested,
            after,
        });
        let plan = Plan {
            actions: actions.collect(),
            ..Plan::default()
        };
        check(&project(), &observed(), &plan)
            .iter()
            .map(Fault::to_string)
            .collect()
    }

    #[test]
    fn a_sound_plan_has_no_fault() {
        assert_eq!(faults(replacement()), [] as [&str; 0]);
    }

    /// Each arrow of a sound plan is needed: without it something is wrong.
    #[test]
    fn every_missing_arrow_is_found() {
        for (action, arrow, expected) in [
            (
                1,
                0,
                "action 2: removes a running container that was not stopped before",
            ),
            (2, 1, "action 3: container shop-web-1 may still be on the network"),
            (3, 2, "action 4: network shop_front is there already"),
            (4, 3, "action 5: network shop_front is not there"),
            (5, 4, "action 6: the container is not there"),
        ] {
            let mut actions = replacement();
            actions[action].1.retain(|other| *other != arrow);
            let found = faults(actions);
            assert!(
                found.iter().any(|fault| fault == expected),
                "{expected}: {found:?}"
            );
        }
    }

    #[test]
    fn order_and_repetition_are_checked() {
        let mut actions = replacement();
        actions[0].1 = vec![0];
        assert_eq!(
            faults(actions),
            ["action 1: comes after a later action, or after itself"]
        );
        let mut actions = replacement();
        actions[4].1 = vec![3, 1];
        assert_eq!(
            faults(actions),
            ["action 5: its prerequisites are not in order, or one is there twice"]
        );
        let mut actions = replacement();
        actions.push(actions[0].clone());
        assert_eq!(faults(actions), ["action 7: does the same as action 1"]);
    }

    #[test]
    fn what_is_there_is_not_made_again() {
        let create = |name: &str| Operation::CreateContainer {
            service: "web".into(),
            number: 2,
            name: name.into(),
            inherit: None,
            one_off: None,
        };
        assert_eq!(
            faults(vec![(create("shop-web-1"), vec![])]),
            ["action 1: container shop-web-1 is there already"]
        );
        assert_eq!(faults(vec![(create("shop-web-2"), vec![])]), [] as [&str; 0]);
        assert_eq!(
            faults(vec![(Operation::StartContainer { container: old() }, vec![])]),
            ["action 1: starts a container that runs"]
        );
        let again = Operation::StopContainer {
            container: old(),
            timeout: None,
            signal: None,
            again: true,
        };
        assert_eq!(
            faults(vec![(again, vec![])]),
            ["action 1: says wrongly whether the container is started again"]
        );
    }

    #[test]
    fn nothing_is_used_after_its_removal() {
        let mut actions = replacement();
        actions.push((
            Operation::UpdateContainer {
                container: old(),
                fields: vec![],
            },
            vec![],
        ));
        assert_eq!(
            faults(actions),
            [
                "action 7: uses a container that may be removed already",
                "action 7: network shop_front is not there"
            ]
        );
    }
}

//! How a plan comes about.
//!
//! *Decide, then order.* A command first decides, container by container, what
//! is to become of it: a [`Slot`] with its [`Fate`], its cause, or the reason
//! why it is left alone (`up`, `running`). What one decision means for others
//! (a shared namespace, a replaced network, `depends_on.restart`) is settled
//! there too. Then [`schedule`] turns the slots into actions and says which
//! comes after which. `down` and `stop` need no such decisions: [`teardown`].
//!
//! # Order
//!
//! What the actions of a plan wait for:
//!
//! * *create*: its image, networks and volumes; the removal of the container
//!   it replaces and of any other that has its name or its fixed address.
//! * *start*: its creation; for each dependency the start of its containers,
//!   or the [`Await`](super::Operation::Await) of the condition; the stop of whoever had its
//!   published port.
//! * *stop*, when a start follows: all that the start waits for, so that the
//!   old container serves until its successor can start; with all images
//!   fetched and all new networks and volumes made. Dependents that are
//!   stopped because of it (`depends_on.restart`, a shared namespace) go first.
//!
//! Such a late stop would be a deadlock when the successor of a *dependency*
//! waits for something this container still has: its network, its port, its
//! address, its namespace. Those containers are stopped *early*: they wait for
//! images and for other early stops only. So early stops come before every
//! creation, and late ones follow the dependency order: no cycle can arise.
//!
//! A service that says how it wants to be updated is replaced in groups, each of
//! which waits for the one before: [`rollout`].
//!
//! # In place
//!
//! A change of a service is made on the container that is there when that can
//! be: [`super::diff::in_place`] says so by the field, and the decider by what
//! else there is (nobody else has the port or address, the network that is
//! joined need not wait for one that is left). An update waits for the networks
//! that it joins; the removal of a network, for the updates that leave it.
//!
//! # Known to be weak
//!
//! * A fixed address on a network where a container stays is not changed in
//!   place, nor is the order of its interfaces.
//! * A reload that has to replace a container because its network changed
//!   starts it, also when it had ended or been stopped by hand.
//! * A stopped dependent that was to be started again by a plan that was cut
//!   off is found by `up`; a reload finds it only when its dependency moved.
//! * In plans with more than `BARRIER` pairs of (fetch, end of a container) a
//!   stop waits for its own image only.
//! * When a service and what it depends on both have many replicas, the arrows
//!   of `down` and `stop` grow with the product.

mod network;
mod replicas;
mod rollout;
mod running;
mod schedule;
mod signal;
mod single;
mod teardown;
mod up;
mod volume;

use std::collections::{BTreeMap, HashMap, HashSet};

use foldhash::fast::RandomState;

use super::{
    Cause, ContainerState, Hold, Intent, Observed, ObservedContainer, OneOff, Plan, PlanError, Run, Target,
};
use crate::graph::Graph;
use crate::project::{Attachment, Port, Project, Restart, Service};

/// Plans a command: what has to happen so that `observed` becomes what
/// `intent` asks of `project`, in which order, and why the rest is left alone.
///
/// The same input gives the same plan. `down` and `stop` also work with a
/// project whose dependencies are at fault.
///
/// # Errors
/// [`PlanError`] when the command cannot be done as a whole; nothing should be
/// done then.
pub fn plan(project: &Project, observed: &Observed, intent: &Intent) -> Result<Plan, PlanError> {
    match intent {
        Intent::Up(up) => up::plan(project, &Graph::new(project)?, observed, up),
        Intent::Run(run) => up::run(project, &Graph::new(project)?, observed, run),
        Intent::Start { services, wait } => {
            running::start(project, &Graph::new(project)?, observed, services, *wait)
        }
        Intent::Resume { containers, wait } => {
            running::resume(project, &Graph::new(project)?, observed, containers, *wait)
        }
        Intent::Restart {
            services,
            timeout,
            no_deps,
        } => running::restart(
            project,
            &Graph::new(project)?,
            observed,
            services,
            *timeout,
            *no_deps,
        ),
        Intent::Down(down) => teardown::down(project, observed, down),
        Intent::Stop { services, timeout } => teardown::stop(project, observed, services, *timeout),
        Intent::Kill {
            services,
            signal,
            remove_orphans,
        } => signal::kill(project, observed, services, signal, *remove_orphans),
        Intent::Containers { ids, verb } => single::plan(project, observed, ids, verb),
        Intent::Pause { services } => signal::pause(project, observed, services, true),
        Intent::Unpause { services } => signal::pause(project, observed, services, false),
        Intent::Remove {
            services,
            stop,
            volumes,
        } => teardown::remove(project, observed, services, *stop, *volumes),
    }
}

/// What is looked up by name, and never walked through: that has no order.
type ByName<'a, T> = HashMap<&'a str, T, RandomState>;

/// Names to look up, as above.
type Names = HashSet<String, RandomState>;

/// What is to become of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// It is left as it is.
    Keep,
    /// It exists and is started.
    Start,
    /// It is stopped and started.
    Restart,
    /// It is replaced.
    Recreate,
    /// It is made.
    Create,
    /// It is removed.
    Remove,
}

/// One container, existing or to be made, and the decision about it.
#[derive(Clone, Debug)]
struct Slot<'a> {
    service: &'a str,
    number: u32,
    /// Its name after the plan.
    name: String,
    /// The container as it is; `None` when it is to be made.
    old: Option<&'a ObservedContainer>,
    fate: Fate,
    /// Why, unless kept.
    cause: Cause,
    /// Whether it is started once it is made.
    start: bool,
    /// Changes to make in place, with their cause, unless replaced.
    update: Option<(Vec<String>, Cause)>,
    /// Why it is left alone, when it is.
    hold: String,
    /// It is made beside the replicas of its service.
    one_off: Option<&'a OneOff>,
    /// A container that is no more, whose anonymous volumes it is to have.
    inherits: Option<&'a str>,
    /// The number of the container that takes its place, having been started
    /// before it is stopped.
    successor: Option<u32>,
}

impl<'a> Slot<'a> {
    /// A container that stays as it is, for this reason.
    fn keep(old: &'a ObservedContainer, hold: impl Into<String>) -> Self {
        Self {
            service: &old.service,
            number: old.number,
            name: old.name.clone(),
            old: Some(old),
            fate: Fate::Keep,
            cause: Cause::Requested,
            start: false,
            update: None,
            hold: hold.into(),
            one_off: None,
            inherits: None,
            successor: None,
        }
    }

    /// The container that `run` makes beside those of a service.
    fn one_off(service: &'a Service, run: &'a Run) -> Self {
        Self {
            service: &service.name,
            number: 1,
            name: run.name.clone(),
            old: None,
            fate: Fate::Create,
            cause: Cause::Requested,
            start: true,
            update: None,
            hold: String::new(),
            one_off: Some(&run.one_off),
            inherits: None,
            successor: None,
        }
    }

    fn with(mut self, fate: Fate, cause: Cause) -> Self {
        self.decide(fate, cause);
        self
    }

    fn decide(&mut self, fate: Fate, cause: Cause) {
        self.fate = fate;
        self.cause = cause;
        self.start = matches!(fate, Fate::Start | Fate::Restart | Fate::Recreate | Fate::Create);
    }

    /// The container as it is after the plan.
    fn target(&self) -> Target {
        Target {
            id: match self.one_off {
                Some(one_off) => Some(one_off.id.clone()),
                None => self.old.filter(|_| !self.makes()).map(|old| old.id.clone()),
            },
            service: self.service.to_owned(),
            number: self.number,
            name: self.name.clone(),
        }
    }

    fn is_running(&self) -> bool {
        self.old.is_some_and(|old| old.state.is_running())
    }

    /// Whether it runs when the plan is done.
    fn will_run(&self) -> bool {
        match self.fate {
            Fate::Keep => self.is_running(),
            Fate::Remove => false,
            _ => self.start,
        }
    }

    fn makes(&self) -> bool {
        matches!(self.fate, Fate::Create | Fate::Recreate)
    }

    fn survives(&self) -> bool {
        self.fate != Fate::Remove
    }

    /// Whether it is stopped by the plan.
    fn stops(&self) -> bool {
        matches!(self.fate, Fate::Restart | Fate::Recreate | Fate::Remove) && self.old.is_some_and(needs_stop)
    }
}

/// The replicas of each service, each list sorted by number and age.
fn by_service(observed: &Observed) -> BTreeMap<&str, Vec<&ObservedContainer>> {
    grouped(observed.containers.iter().filter(|container| !container.one_off))
}

/// Containers by service, each list sorted by number and age.
fn grouped<'a>(
    containers: impl Iterator<Item = &'a ObservedContainer>,
) -> BTreeMap<&'a str, Vec<&'a ObservedContainer>> {
    let mut services: BTreeMap<&str, Vec<&ObservedContainer>> = BTreeMap::new();
    for container in containers {
        services.entry(&container.service).or_default().push(container);
    }
    for containers in services.values_mut() {
        containers.sort_by_key(|container| (container.number, container.created, &container.id));
    }
    services
}

fn target(container: &ObservedContainer) -> Target {
    Target {
        id: Some(container.id.clone()),
        service: container.service.clone(),
        number: container.number,
        name: container.name.clone(),
    }
}

fn hold(kind: &str, name: &str, reason: impl Into<String>) -> Hold {
    Hold {
        resource: format!("{kind} {name}"),
        reason: reason.into(),
    }
}

/// The container's service as it was made, as far as the record can be read.
fn recorded(container: &ObservedContainer) -> Option<Service> {
    container.config.read().ok()
}

/// The ports and networks of a container's service as it was made, as far as the
/// record can be read; nothing else of it.
fn recorded_places(container: &ObservedContainer) -> Option<Service> {
    #[derive(serde::Deserialize)]
    struct Places {
        #[serde(default)]
        networks: BTreeMap<String, Attachment>,
        #[serde(default)]
        ports: Vec<Port>,
    }
    let Places { networks, ports } = container.config.read().ok()?;
    Some(Service {
        networks,
        ports,
        ..Service::default()
    })
}

/// Whether a container has to be stopped before it can be removed or counted
/// as stopped: it runs, or it has ended and its restart policy is about to
/// start it again.
fn needs_stop(container: &ObservedContainer) -> bool {
    match container.state {
        ContainerState::Running { .. } => true,
        ContainerState::Created | ContainerState::Exited { stopped: true, .. } => false,
        ContainerState::Exited {
            code, stopped: false, ..
        } => match container.config.field("restart") {
            Some(Restart::Always | Restart::UnlessStopped) => true,
            Some(Restart::OnFailure { .. }) => code != 0,
            Some(Restart::No) | None => false,
        },
    }
}

/// Whether a service is unknown to the project: neither in it nor switched off
/// by its profiles.
fn is_orphan(project: &Project, service: &str) -> bool {
    !project.services.contains_key(service) && !project.disabled_services.contains_key(service)
}

/// Docker compose's words about containers of unknown services.
fn orphan_warning(names: &[&str]) -> String {
    format!(
        "Found orphan containers ([{}]) for this project. If you removed or renamed this service in your \
         compose file, you can run this command with the --remove-orphans flag to clean it up.",
        names.join(", ")
    )
}

/// The container name of a replica.
fn container_name(project: &Project, service: &Service, number: u32) -> String {
    match &service.container_name {
        Some(name) => name.clone(),
        None => format!("{}-{}-{number}", project.name, service.name),
    }
}

//! A simulated host: does what the actions of a plan say, and refuses, loudly,
//! what a real one could not do.

use std::collections::BTreeMap;

use rcompose::graph::{attached, mounted};
use rcompose::lifecycle::Health;
use rcompose::plan::{
    Action, ContainerState, Observed, ObservedContainer, ObservedNetwork, ObservedVolume, Operation, Owner,
    Plan, Recorded, Target, preparation, prepared,
};
use rcompose::project::{Condition, MountSource, NetworkMode, Project, Service, UpdateOrder};

#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) observed: Observed,
    /// Newer images in the registry; all others have an id made from their name.
    pub(crate) registry: BTreeMap<String, String>,
    pub(crate) clock: u64,
    pub(crate) ids: u64,
    /// Waits ignore containers that do not run (a reload leaves some alone).
    pub(crate) lenient: bool,
    /// Starts are refused when a dependency does not hold.
    pub(crate) strict: bool,
    /// Order of starts and stops, by service.
    pub(crate) log: Vec<(&'static str, String)>,
}

impl World {
    fn id(&mut self, digits: usize) -> String {
        self.ids += 1;
        format!("{:0digits$x}", self.ids)
    }

    pub(crate) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Does the first `count` actions of a plan, in list order.
    pub(crate) fn apply(&mut self, project: &Project, plan: &Plan, count: usize) {
        for action in plan.actions.iter().take(count) {
            self.perform(project, action);
        }
    }

    /// Does the actions picked by `choose` from those that may come next.
    pub(crate) fn apply_in_any_order(
        &mut self,
        project: &Project,
        plan: &Plan,
        count: usize,
        mut choose: impl FnMut(usize) -> usize,
    ) {
        let mut done = vec![false; plan.actions.len()];
        for _ in 0..count.min(plan.actions.len()) {
            let ready: Vec<usize> = plan
                .actions
                .iter()
                .enumerate()
                .filter(|(at, action)| !done[*at] && action.after.iter().all(|other| done[*other]))
                .map(|(at, _)| at)
                .collect();
            let at = ready[choose(ready.len()) % ready.len()];
            self.perform(project, &plan.actions[at]);
            done[at] = true;
        }
    }

    fn freeze(&mut self, container: &Target, freeze: bool) {
        match &mut self.find(container).state {
            ContainerState::Running { paused, .. } => {
                assert_ne!(*paused, freeze);
                *paused = freeze;
            }
            other => panic!("{other:?} is paused"),
        }
    }

    fn perform(&mut self, project: &Project, action: &Action) {
        match &action.operation {
            Operation::PullImage { image, .. } => {
                let id = self
                    .registry
                    .get(image)
                    .cloned()
                    .unwrap_or_else(|| format!("sha256:{image}-1"));
                self.observed.images.insert(image.clone(), id);
            }
            Operation::CreateNetwork { network, name } => self.create_network(project, network, name),
            Operation::RemoveNetwork { id, .. } => self.remove_network(id),
            Operation::CreateVolume { volume, name } => {
                assert!(
                    !self.observed.volumes.iter().any(|there| there.name == *name),
                    "volume {name} exists"
                );
                self.observed.volumes.push(ObservedVolume {
                    name: name.clone(),
                    owner: Some(Owner {
                        project: project.name.clone(),
                        key: volume.clone(),
                    }),
                    options: project.volumes[volume].driver_opts.clone(),
                    ..ObservedVolume::default()
                });
            }
            Operation::RemoveVolume { name } => {
                let used = self
                    .observed
                    .containers
                    .iter()
                    .any(|c| c.volumes.values().any(|v| v == name));
                assert!(!used, "volume {name} is in use");
                self.observed.volumes.retain(|volume| volume.name != *name);
            }
            Operation::CreateContainer {
                service,
                number,
                name,
                inherit,
                one_off,
            } => {
                self.create_container(project, service, *number, name, inherit.as_deref());
                if let (Some(one_off), Some(made)) = (one_off, self.observed.containers.last_mut()) {
                    made.id.clone_from(&one_off.id);
                    made.one_off = true;
                }
            }
            Operation::UpdateContainer { container, fields } => {
                assert!(!fields.is_empty());
                let service = &project.services[&container.service];
                let contents = self.observed.contents.clone();
                let on = self.networks_of(project, service);
                self.require_address(service, Some(container));
                let found = self.find(container);
                found.config = Recorded::of(service);
                found.networks = on;
                for (from, digest) in &mut found.contents {
                    digest.clone_from(&contents[from]);
                }
            }
            Operation::StartContainer { container } => self.start(project, container),
            Operation::StopContainer { container, again, .. } => {
                let finished = self.tick();
                let found = self.find(container);
                let code = match found.state {
                    ContainerState::Exited { code, .. } => code,
                    _ => 143,
                };
                found.state = ContainerState::Exited {
                    code,
                    finished,
                    stopped: !again,
                };
                found.health = None;
                self.log.push(("stop", container.service.clone()));
            }
            Operation::SignalContainer { container, signal } => {
                let finished = self.tick();
                let found = self.find(container);
                assert!(found.state.is_running());
                if signal == "SIGKILL" {
                    found.state = ContainerState::Exited {
                        code: 137,
                        finished,
                        stopped: true,
                    };
                }
            }
            Operation::PauseContainer { container } => self.freeze(container, true),
            Operation::UnpauseContainer { container } => self.freeze(container, false),
            Operation::RemoveContainer {
                container,
                volumes,
                replaced,
            } => {
                let found = self.find(container).clone();
                assert!(
                    !found.state.is_running(),
                    "{} is removed while it runs",
                    found.name
                );
                self.observed.containers.retain(|other| other.id != found.id);
                for volume in &mut self.observed.volumes {
                    if *replaced && volume.container.as_ref() == Some(&found.id) {
                        volume.awaits = Some((found.service.clone(), found.number));
                    }
                }
                if *volumes {
                    self.observed
                        .volumes
                        .retain(|volume| volume.container.as_ref() != Some(&found.id));
                }
            }
            Operation::Prepare { service, number } => {
                let service = &project.services[service];
                let what = prepared(service, number.is_some(), &self.observed.images).unwrap();
                let key = preparation(&service.name, *number);
                self.observed.prepared.insert(key, what);
            }
            Operation::Settle { containers, .. } => {
                for container in containers {
                    self.wait(project, container, Condition::ServiceStarted);
                }
            }
            Operation::Await {
                containers,
                condition,
                ..
            } => {
                for container in containers {
                    self.wait(project, container, *condition);
                }
            }
        }
    }

    fn create_network(&mut self, project: &Project, key: &str, name: &str) {
        let owner = Some(Owner {
            project: project.name.clone(),
            key: key.to_owned(),
        });
        if let Some(down) = self
            .observed
            .networks
            .iter_mut()
            .find(|network| network.owner == owner && !network.alive)
        {
            down.alive = true;
            return;
        }
        assert!(
            !self.observed.networks.iter().any(|there| there.name == name),
            "network {name} exists"
        );
        let id = self.id(12);
        self.observed.networks.push(ObservedNetwork {
            id,
            name: name.to_owned(),
            owner,
            config: Recorded::of(&project.networks[key]),
            alive: true,
        });
    }

    fn remove_network(&mut self, id: &str) {
        for container in &self.observed.containers {
            assert!(
                !container.networks.values().any(|on| on == id),
                "{} is on network {id}",
                container.name
            );
        }
        let before = self.observed.networks.len();
        self.observed.networks.retain(|network| network.id != id);
        assert_eq!(
            self.observed.networks.len() + 1,
            before,
            "network {id} is not there"
        );
    }

    fn create_container(
        &mut self,
        project: &Project,
        service: &str,
        number: u32,
        name: &str,
        inherit: Option<&str>,
    ) {
        assert!(
            !self.observed.containers.iter().any(|there| there.name == name),
            "container {name} exists"
        );
        let service: &Service = &project.services[service];
        let image = self.observed.images.get(&service.image);
        let image = image
            .unwrap_or_else(|| panic!("image {} is not there", service.image))
            .clone();
        let networks = self.networks_of(project, service);
        let volumes: BTreeMap<String, String> = mounted(service)
            .map(|key| (key.to_owned(), project.volumes[key].name.clone()))
            .collect();
        for name in volumes.values() {
            assert!(
                self.observed.volumes.iter().any(|there| there.name == *name),
                "volume {name} is not there"
            );
        }
        self.require_address(service, None);
        let id = self.id(64);
        let mut anonymous = service
            .volumes
            .iter()
            .filter(|mount| mount.source == MountSource::Anonymous)
            .count();
        for volume in &mut self.observed.volumes {
            if inherit.is_some() && volume.container.as_deref() == inherit && anonymous > 0 {
                volume.container = Some(id.clone());
                volume.awaits = None;
                anonymous -= 1;
            }
        }
        for _ in 0..anonymous {
            let name = self.id(64);
            self.observed.volumes.push(ObservedVolume {
                name,
                owner: Some(Owner {
                    project: project.name.clone(),
                    key: String::new(),
                }),
                anonymous: true,
                container: Some(id.clone()),
                ..ObservedVolume::default()
            });
        }
        let created = self.tick();
        self.observed.containers.push(ObservedContainer {
            id,
            name: name.to_owned(),
            service: service.name.clone(),
            number,
            config: Recorded::of(service),
            image,
            state: ContainerState::Created,
            health: None,
            networks,
            volumes,
            contents: BTreeMap::new(),
            created,
            one_off: false,
        });
    }

    /// The ids of the networks that a service is on, by their keys.
    fn networks_of(&self, project: &Project, service: &Service) -> BTreeMap<String, String> {
        attached(service)
            .map(|key| {
                let name = &project.networks[key].name;
                let by_key = |network: &&ObservedNetwork| {
                    network
                        .owner
                        .as_ref()
                        .is_some_and(|owner| owner.project == project.name && owner.key == key)
                };
                let all = &self.observed.networks;
                let found = all
                    .iter()
                    .find(by_key)
                    .or_else(|| all.iter().find(|network| network.name == *name));
                let found = found.unwrap_or_else(|| panic!("network {name} is not there"));
                assert!(found.alive, "network {name} is down");
                (key.to_owned(), found.id.clone())
            })
            .collect()
    }

    /// The addresses that a service asks for are no other container's than `own`.
    fn require_address(&self, service: &Service, own: Option<&Target>) {
        let own = own.and_then(|own| own.id.as_ref());
        let fixed = service.networks.iter();
        for (key, attachment) in fixed.filter(|(_, attachment)| attachment.ipv4_address.is_some()) {
            for other in self
                .observed
                .containers
                .iter()
                .filter(|other| Some(&other.id) != own)
            {
                let config: Service = other.config.read().unwrap();
                let theirs = config.networks.get(key).and_then(|there| there.ipv4_address);
                assert_ne!(
                    theirs, attachment.ipv4_address,
                    "{} has the address of {}",
                    other.name, service.name
                );
            }
        }
    }

    fn start(&mut self, project: &Project, target: &Target) {
        let started = self.tick();
        if let Some(service) = project.services.get(&target.service)
            && let NetworkMode::Service(provider) = &service.network_mode
        {
            let runs = self
                .observed
                .containers
                .iter()
                .any(|c| c.service == *provider && c.state.is_running());
            assert!(runs, "{} is started before {provider}", target.name);
        }
        if self.strict {
            self.require_dependencies(project, target);
        }
        let wanted = project
            .services
            .get(&target.service)
            .map(published)
            .unwrap_or_default();
        // A successor that is started first is handed its ports over.
        let update = |service: &Service| service.deploy.clone()?.update_config?.order;
        let first = project.services.get(&target.service).and_then(update) == Some(UpdateOrder::StartFirst);
        for other in self
            .observed
            .containers
            .iter()
            .filter(|other| other.state.is_running() && !(first && other.service == target.service))
        {
            let config: Service = other.config.read().unwrap();
            let clash = published(&config).into_iter().find(|port| wanted.contains(port));
            assert_eq!(
                clash, None,
                "{} has the port that {} needs",
                other.name, target.name
            );
        }
        let networks = self.observed.networks.clone();
        let found = self.find(target);
        assert!(!found.state.is_running(), "{} runs already", found.name);
        for (key, id) in &found.networks {
            let network = networks.iter().find(|network| network.id == *id);
            assert!(
                network.is_some_and(|network| network.alive),
                "{}: network {key} is not up",
                found.name
            );
        }
        found.state = ContainerState::Running {
            started,
            paused: false,
        };
        let checked = found
            .config
            .field::<serde_json::Value>("healthcheck")
            .is_some_and(|check| !check.is_null());
        found.health = checked.then_some(Health::Starting);
        self.log.push(("start", target.service.clone()));
    }

    fn require_dependencies(&self, project: &Project, target: &Target) {
        let Some(service) = project.services.get(&target.service) else {
            return;
        };
        for (name, dependency) in service
            .depends_on
            .iter()
            .filter(|(_, dependency)| dependency.required)
        {
            if project
                .services
                .get(name)
                .is_none_or(|service| service.replicas == 0)
            {
                continue;
            }
            let mut theirs = self
                .observed
                .containers
                .iter()
                .filter(|container| container.service == *name);
            let holds = theirs.any(|container| match dependency.condition {
                Condition::ServiceStarted => container.state != ContainerState::Created,
                Condition::ServiceHealthy => container.health == Some(Health::Healthy),
                Condition::ServiceCompletedSuccessfully => {
                    matches!(container.state, ContainerState::Exited { code: 0, .. })
                }
            });
            assert!(
                holds,
                "{} is started although {name} is not {:?}",
                target.name, dependency.condition
            );
        }
    }

    /// What is waited for comes to pass; that it can is required.
    fn wait(&mut self, project: &Project, target: &Target, condition: Condition) {
        let finished = self.tick();
        let lenient = self.lenient;
        let container = self.find(target);
        match condition {
            Condition::ServiceStarted => {
                assert_ne!(
                    container.state,
                    ContainerState::Created,
                    "{} never started",
                    container.name
                );
            }
            Condition::ServiceHealthy if lenient && !container.state.is_running() => {}
            Condition::ServiceHealthy => {
                assert!(container.state.is_running(), "{} does not run", container.name);
                assert!(project.services[&target.service].healthcheck.is_some());
                container.health = Some(Health::Healthy);
            }
            Condition::ServiceCompletedSuccessfully => {
                if container.state.is_running() {
                    container.state = ContainerState::Exited {
                        code: 0,
                        finished,
                        stopped: false,
                    };
                }
                let ended = matches!(container.state, ContainerState::Exited { code: 0, .. });
                assert!(ended || lenient, "{} has not completed", container.name);
            }
        }
    }

    fn find(&mut self, target: &Target) -> &mut ObservedContainer {
        let found = self
            .observed
            .containers
            .iter_mut()
            .find(|container| match &target.id {
                Some(id) => container.id == *id,
                None => container.name == target.name,
            });
        found.unwrap_or_else(|| panic!("container {} is not there", target.name))
    }

    pub(crate) fn named(&mut self, name: &str) -> &mut ObservedContainer {
        let found = self
            .observed
            .containers
            .iter_mut()
            .find(|container| container.name == name);
        found.unwrap_or_else(|| panic!("container {name} is not there"))
    }

    /// The machine was switched off and on.
    pub(crate) fn reboot(&mut self) {
        let finished = self.tick();
        for container in &mut self.observed.containers {
            if container.state.is_running() {
                container.state = ContainerState::Exited {
                    code: 137,
                    finished,
                    stopped: false,
                };
                container.health = None;
            }
        }
        for network in &mut self.observed.networks {
            network.alive = false;
        }
    }

    /// A crash of the host left a second container beside this one.
    pub(crate) fn duplicate(&mut self, name: &str) {
        let mut twin = self.named(name).clone();
        twin.id = self.id(64);
        twin.created = self.tick();
        twin.state = ContainerState::Created;
        self.observed.containers.push(twin);
    }

    pub(crate) fn foreign_network(&mut self, name: &str, project: Option<&str>) {
        let id = self.id(12);
        self.observed.networks.push(ObservedNetwork {
            id,
            name: name.to_owned(),
            owner: project.map(|project| Owner {
                project: project.to_owned(),
                key: name.to_owned(),
            }),
            config: Recorded::default(),
            alive: true,
        });
    }

    pub(crate) fn foreign_volume(&mut self, name: &str, project: Option<&str>) {
        self.observed.volumes.push(ObservedVolume {
            name: name.to_owned(),
            owner: project.map(|project| Owner {
                project: project.to_owned(),
                key: name.to_owned(),
            }),
            ..ObservedVolume::default()
        });
    }
}

fn published(service: &Service) -> Vec<(u16, u16)> {
    service.ports.iter().filter_map(|port| port.published).collect()
}

impl World {
    /// The state after a first `up`, without the checks of [`World::apply`],
    /// whose time grows with the square of the number of containers.
    pub(crate) fn adopt(&mut self, project: &Project, plan: &Plan) {
        let started = self.tick();
        for action in &plan.actions {
            match &action.operation {
                Operation::CreateContainer {
                    service,
                    number,
                    name,
                    ..
                } => {
                    let id = self.id(64);
                    let service = &project.services[service];
                    let networks = self.observed.networks.iter();
                    self.observed.containers.push(ObservedContainer {
                        id,
                        name: name.clone(),
                        service: service.name.clone(),
                        number: *number,
                        config: Recorded::of(service),
                        image: self.observed.images[&service.image].clone(),
                        state: ContainerState::Running {
                            started,
                            paused: false,
                        },
                        health: None,
                        networks: networks
                            .map(|network| (network.owner.clone().unwrap().key, network.id.clone()))
                            .collect(),
                        volumes: BTreeMap::new(),
                        contents: BTreeMap::new(),
                        created: started,
                        one_off: false,
                    });
                }
                Operation::StartContainer { .. } => {}
                _ => self.perform(project, action),
            }
        }
    }
}

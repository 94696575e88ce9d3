//! Properties of plans for random projects on a simulated host: they are
//! sound, they can be done in any order that their arrows allow, they lead to
//! where nothing is left to do, and so does what follows after they were cut
//! off anywhere.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rcompose::graph::Graph;
use rcompose::plan::{ContainerState, Down, Intent, Operation, Plan, Up, check, plan};
use rcompose::project::{
    Attachment, Condition, Dependency, Deploy, HealthTest, Healthcheck, Mount, MountSource, Network,
    NetworkMode, Port, Project, Protocol, Restart, Service, Ulimit, UpdateConfig, UpdateOrder, Volume,
};

use crate::world::World;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// The random choices behind one service.
#[derive(Clone, Debug)]
struct Choices {
    present: bool,
    image: u8,
    version: u8,
    replicas: u32,
    /// How many at a time, and whether the new one is started first.
    update: Option<(u64, bool)>,
    healthcheck: bool,
    always: bool,
    /// For each service before it: kind of dependency, `restart`, `required`.
    links: Vec<(u8, bool, bool)>,
    shares: Option<usize>,
    networks: u8,
    volumes: u8,
    anonymous: bool,
    port: bool,
    address: bool,
    /// What changes in place.
    limit: Option<i64>,
}

fn choices() -> impl Strategy<Value = Choices> {
    let what = (
        prop::bool::weighted(0.8),
        0..3_u8,
        0..3_u8,
        0..4_u32,
        any::<bool>(),
        any::<bool>(),
    );
    let links = prop::collection::vec((0..6_u8, any::<bool>(), prop::bool::weighted(0.8)), NAMES.len());
    let rest = (
        prop::option::weighted(0.15, 0..NAMES.len()),
        0..8_u8,
        0..4_u8,
        any::<bool>(),
        prop::bool::weighted(0.6),
        prop::bool::weighted(0.3),
        prop::option::weighted(0.4, (0..3_u64, any::<bool>())),
        prop::option::weighted(0.7, 0..3_i64),
    );
    (what, links, rest).prop_map(
        |((present, image, version, replicas, healthcheck, always), links, rest)| Choices {
            present,
            image,
            version,
            replicas,
            healthcheck,
            always,
            links,
            shares: rest.0,
            networks: rest.1,
            volumes: rest.2,
            anonymous: rest.3,
            port: rest.4,
            address: rest.5,
            update: rest.6,
            limit: rest.7,
        },
    )
}

/// A project; `completes` allows dependencies on the end of a service.
fn project(completes: bool) -> impl Strategy<Value = Project> {
    (
        prop::collection::vec(choices(), NAMES.len()),
        0..NAMES.len(),
        0..8_u8,
    )
        .prop_map(move |(choices, shift, internal)| build(&choices, shift, internal, completes))
}

fn build(choices: &[Choices], shift: usize, internal: u8, completes: bool) -> Project {
    let mut project = Project {
        name: "shop".into(),
        ..Project::default()
    };
    for (at, choice) in choices.iter().enumerate().filter(|(_, choice)| choice.present) {
        let service = service(&project, choices, at, choice, shift, completes);
        project.services.insert(service.name.clone(), service);
    }
    for bit in 0..3 {
        let key = format!("n{bit}");
        let network = Network {
            name: format!("shop_{key}"),
            internal: internal & (1 << bit) != 0,
            ..Network::default()
        };
        if project
            .services
            .values()
            .any(|service| service.networks.contains_key(&key))
        {
            project.networks.insert(key, network);
        }
    }
    for key in ["v0", "v1"] {
        project.volumes.insert(
            key.into(),
            Volume {
                name: format!("shop_{key}"),
                ..Volume::default()
            },
        );
    }
    project
}

fn service(
    project: &Project,
    choices: &[Choices],
    at: usize,
    choice: &Choices,
    shift: usize,
    completes: bool,
) -> Service {
    let single = choice.replicas <= 1;
    let earlier = |index: usize| index < at && choices[index].present;
    let mut depends_on = BTreeMap::new();
    for (index, (kind, restart, required)) in choice.links.iter().enumerate() {
        if !earlier(index) || *kind > 2 {
            continue;
        }
        let condition = match kind {
            1 if choices[index].healthcheck => Condition::ServiceHealthy,
            2 if completes && !choices[index].healthcheck => Condition::ServiceCompletedSuccessfully,
            _ => Condition::ServiceStarted,
        };
        let dependency = Dependency {
            condition,
            restart: *restart,
            required: *required,
        };
        depends_on.insert(NAMES[index].to_owned(), dependency);
    }
    // Only a service that runs, and goes on running, can share its network.
    let shares = choice.shares.filter(|&index| {
        earlier(index)
            && choices[index].replicas > 0
            && !completes
            && project.services.contains_key(NAMES[index])
    });
    let network_mode = shares.map_or(NetworkMode::Networks, |index| {
        NetworkMode::Service(NAMES[index].to_owned())
    });
    let mut networks = BTreeMap::new();
    if network_mode == NetworkMode::Networks {
        for bit in (0..3).filter(|bit| choice.networks & (1 << bit) != 0) {
            let last = u8::try_from((at + shift) % NAMES.len()).unwrap() + 10;
            let address = std::net::Ipv4Addr::new(10, 0, bit, last);
            let attachment = Attachment {
                ipv4_address: (single && choice.address).then_some(address),
                gw_priority: choice.limit.unwrap_or_default(),
                ..Attachment::default()
            };
            networks.insert(format!("n{bit}"), attachment);
        }
    }
    let mut volumes: Vec<Mount> = (0..2)
        .filter(|bit| choice.volumes & (1 << bit) != 0)
        .map(|bit| Mount {
            target: format!("/v{bit}"),
            source: MountSource::Volume {
                volume: format!("v{bit}"),
                nocopy: false,
                subpath: None,
            },
            read_only: false,
            ..Mount::default()
        })
        .collect();
    if choice.anonymous {
        volumes.push(Mount {
            target: "/anon".into(),
            source: MountSource::Anonymous,
            read_only: false,
            ..Mount::default()
        });
    }
    let port = u16::try_from(8000 + (at + shift) % NAMES.len()).unwrap();
    Service {
        name: NAMES[at].into(),
        image: format!("image{}", choice.image),
        environment: BTreeMap::from([("VERSION".into(), choice.version.to_string())]),
        replicas: choice.replicas,
        depends_on,
        network_mode,
        networks,
        volumes,
        ports: (single && choice.port)
            .then_some(Port {
                target: 80,
                published: Some((port, port)),
                host_ip: None,
                protocol: Protocol::Tcp,
                ..Port::default()
            })
            .into_iter()
            .collect(),
        healthcheck: choice.healthcheck.then(|| Healthcheck {
            test: Some(HealthTest::CmdShell("true".into())),
            ..Healthcheck::default()
        }),
        ulimits: choice
            .limit
            .map(|limit| ("nofile".to_owned(), Ulimit { soft: limit, hard: 9 }))
            .into_iter()
            .collect(),
        deploy: choice.update.map(|(parallelism, start_first)| Deploy {
            update_config: Some(UpdateConfig {
                parallelism: Some(parallelism),
                order: start_first.then_some(UpdateOrder::StartFirst),
                ..UpdateConfig::default()
            }),
            ..Deploy::default()
        }),
        restart: if choice.always {
            Restart::Always
        } else {
            Restart::No
        },
        ..Service::default()
    }
}

/// What happens between two commands: a container, and whether it ends by
/// itself or is stopped by hand; or the machine is restarted.
#[derive(Clone, Debug)]
enum Event {
    Exit(prop::sample::Index),
    StopByHand(prop::sample::Index),
    Reboot,
    Duplicate(prop::sample::Index),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => any::<prop::sample::Index>().prop_map(Event::Exit),
        4 => any::<prop::sample::Index>().prop_map(Event::StopByHand),
        1 => Just(Event::Reboot),
        1 => any::<prop::sample::Index>().prop_map(Event::Duplicate),
    ];
    prop::collection::vec(event, 0..4)
}

fn happen(world: &mut World, events: &[Event]) {
    for event in events {
        let finished = world.tick();
        let containers = &mut world.observed.containers;
        match event {
            Event::Reboot => world.reboot(),
            _ if containers.is_empty() => {}
            Event::Exit(index) | Event::StopByHand(index) => {
                let container = index.index(containers.len());
                if containers[container].state.is_running() {
                    let stopped = matches!(event, Event::StopByHand(_));
                    containers[container].state = ContainerState::Exited {
                        code: 0,
                        finished,
                        stopped,
                    };
                    containers[container].health = None;
                }
            }
            Event::Duplicate(index) => {
                let name = containers[index.index(containers.len())].name.clone();
                world.duplicate(&name);
            }
        }
    }
}

fn up(reload: bool) -> Intent {
    Intent::Up(Up {
        remove_orphans: true,
        reload,
        ..Up::default()
    })
}

fn down() -> Intent {
    Intent::Down(Down {
        volumes: true,
        remove_orphans: true,
        ..Down::default()
    })
}

/// Plans, and checks what was planned.
fn sound(project: &Project, world: &World, intent: &Intent) -> Plan {
    let plan = plan(project, &world.observed, intent).unwrap_or_else(|error| panic!("{error}"));
    let faults = check(project, &world.observed, &plan);
    assert!(
        faults.is_empty(),
        "{faults:#?}\n{:#?}",
        rcompose::plan::render::steps(&plan)
    );
    plan
}

/// Does a plan, or its beginning, in a random order.
fn act(world: &mut World, project: &Project, plan: &Plan, part: f64, order: &[prop::sample::Index]) {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let count = (plan.actions.len() as f64 * part).round() as usize;
    let mut picks = order.iter().cycle();
    world.apply_in_any_order(project, plan, count, |ready| {
        picks.next().map_or(0, |pick| pick.index(ready))
    });
}

fn order() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 1..20)
}

/// 120 cases, or as many as `PROPTEST_CASES` in the environment says.
fn config() -> ProptestConfig {
    let default = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default,
        None => ProptestConfig {
            cases: 120,
            ..default
        },
    }
}

proptest! {
    #![proptest_config(config())]

    /// From anything to a project: after one plan nothing is left to do, also
    /// when the plan before was cut off anywhere.
    #[test]
    fn up_converges(
        before in project(false),
        after in project(false),
        events in events(),
        part in 0.0..=1.0_f64,
        cut in 0.0..=1.0_f64,
        order in order(),
    ) {
        let mut world = World { strict: true, ..World::default() };
        let plan = sound(&before, &world, &up(false));
        act(&mut world, &before, &plan, part, &order);
        happen(&mut world, &events);
        let plan = sound(&after, &world, &up(false));
        act(&mut world, &after, &plan, cut, &order);
        let plan = sound(&after, &world, &up(false));
        act(&mut world, &after, &plan, 1.0, &order);
        let plan = sound(&after, &world, &up(false));
        prop_assert!(plan.is_empty(), "{:#?}", rcompose::plan::render::steps(&plan));
        for (name, service) in &after.services {
            let theirs = world.observed.containers.iter().filter(|container| container.service == *name);
            let running = theirs.filter(|container| container.state.is_running()).count();
            prop_assert_eq!(running, usize::try_from(service.replicas).unwrap());
        }
    }

    /// The same for reloads, with services that end; and nobody starts what
    /// the user stopped and the new file did not change.
    #[test]
    fn reload_converges(
        before in project(true),
        after in project(true),
        events in events(),
        cut in 0.0..=1.0_f64,
        order in order(),
    ) {
        let mut world = World { lenient: true, ..World::default() };
        let plan = sound(&before, &world, &up(false));
        act(&mut world, &before, &plan, 1.0, &order);
        happen(&mut world, &events);
        let stopped: Vec<String> = world
            .observed
            .containers
            .iter()
            .filter(|container| matches!(container.state, ContainerState::Exited { stopped: true, .. }))
            .map(|container| container.id.clone())
            .collect();
        let plan = sound(&after, &world, &up(true));
        act(&mut world, &after, &plan, cut, &order);
        let plan = sound(&after, &world, &up(true));
        act(&mut world, &after, &plan, 1.0, &order);
        let plan = sound(&after, &world, &up(true));
        prop_assert!(plan.is_empty(), "{:#?}", rcompose::plan::render::steps(&plan));
        for container in world.observed.containers.iter().filter(|container| stopped.contains(&container.id)) {
            prop_assert!(!container.state.is_running(), "{} was stopped by hand", container.name);
        }
    }

    /// A reload of some services starts nothing but those, what they depend on, and
    /// what else was made; and comes to an end, whatever the file says of them now.
    #[test]
    fn a_reload_of_some_is_about_those(
        before in project(true),
        after in project(true),
        events in events(),
        chosen in any::<prop::sample::Index>(),
        no_deps in any::<bool>(),
        cut in 0.0..=1.0_f64,
        order in order(),
    ) {
        let mut world = World { lenient: true, ..World::default() };
        let names: Vec<&String> = before.services.keys().collect();
        prop_assume!(!names.is_empty());
        let service = names[chosen.index(names.len())].clone();
        let some = |reload| Intent::Up(Up {
            services: vec![service.clone()],
            no_deps,
            remove_orphans: true,
            reload,
            ..Up::default()
        });
        let plan = sound(&before, &world, &some(false));
        act(&mut world, &before, &plan, 1.0, &order);
        happen(&mut world, &events);
        let mut may: BTreeSet<String> = world
            .observed
            .containers
            .iter()
            .map(|container| container.service.clone())
            .chain([service.clone()])
            .filter(|name| after.services.contains_key(name))
            .collect();
        if !no_deps && !may.is_empty() {
            let named: Vec<String> = may.into_iter().collect();
            may = Graph::new(&after).unwrap().closure(&named).unwrap();
        }
        let plan = sound(&after, &world, &some(true));
        act(&mut world, &after, &plan, cut, &order);
        let plan = sound(&after, &world, &some(true));
        act(&mut world, &after, &plan, 1.0, &order);
        for container in &world.observed.containers {
            prop_assert!(may.contains(&container.service), "{}", container.name);
        }
        let plan = sound(&after, &world, &some(true));
        prop_assert!(plan.is_empty(), "{:#?}", rcompose::plan::render::steps(&plan));
    }

    /// Down leaves nothing, wherever it and what was before were cut off.
    #[test]
    fn down_leaves_nothing(
        before in project(true),
        after in project(true),
        events in events(),
        part in 0.0..=1.0_f64,
        cut in 0.0..=1.0_f64,
        order in order(),
    ) {
        let mut world = World { lenient: true, ..World::default() };
        let plan = sound(&before, &world, &up(false));
        act(&mut world, &before, &plan, part, &order);
        happen(&mut world, &events);
        let plan = sound(&after, &world, &down());
        act(&mut world, &after, &plan, cut, &order);
        let plan = sound(&after, &world, &down());
        act(&mut world, &after, &plan, 1.0, &order);
        prop_assert!(sound(&after, &world, &down()).is_empty());
        prop_assert!(world.observed.containers.is_empty());
        prop_assert!(world.observed.networks.is_empty());
        prop_assert!(world.observed.volumes.is_empty());
    }

    /// Stop, start and restart converge too, and what is stopped is what ran.
    #[test]
    fn stop_and_start_converge(
        project in project(false),
        events in events(),
        cut in 0.0..=1.0_f64,
        order in order(),
    ) {
        let mut world = World { strict: true, ..World::default() };
        let plan = sound(&project, &world, &up(false));
        act(&mut world, &project, &plan, 1.0, &order);
        happen(&mut world, &events);
        let stop = Intent::Stop { services: Vec::new(), timeout: None };
        let start = Intent::Start { services: Vec::new(), wait: false };
        let restart = Intent::Restart { services: Vec::new(), timeout: None, no_deps: false };
        let plan = sound(&project, &world, &stop);
        act(&mut world, &project, &plan, cut, &order);
        let plan = sound(&project, &world, &stop);
        act(&mut world, &project, &plan, 1.0, &order);
        prop_assert!(sound(&project, &world, &stop).is_empty());
        prop_assert!(world.observed.containers.iter().all(|container| !container.state.is_running()));
        if world.observed.containers.is_empty() {
            return Ok(());
        }
        let plan = sound(&project, &world, &start);
        act(&mut world, &project, &plan, cut, &order);
        let plan = sound(&project, &world, &start);
        act(&mut world, &project, &plan, 1.0, &order);
        prop_assert!(sound(&project, &world, &start).is_empty());
        world.strict = false;
        let plan = sound(&project, &world, &restart);
        act(&mut world, &project, &plan, 1.0, &order);
        prop_assert!(sound(&project, &world, &start).is_empty());
    }

    /// With all other options a plan is sound as well.
    #[test]
    fn options_keep_plans_sound(
        before in project(false),
        after in project(false),
        events in events(),
        flags in prop::collection::vec(prop::bool::weighted(0.3), 9),
        chosen in prop::collection::vec(prop::bool::weighted(0.3), NAMES.len()),
        order in order(),
    ) {
        let mut world = World::default();
        let plan = sound(&before, &world, &up(false));
        act(&mut world, &before, &plan, 1.0, &order);
        happen(&mut world, &events);
        let services: Vec<String> = NAMES
            .iter()
            .zip(&chosen)
            .filter(|(name, chosen)| **chosen && after.services.contains_key(**name))
            .map(|(name, _)| (*name).to_owned())
            .collect();
        let intent = Intent::Up(Up {
            services,
            no_deps: flags[0],
            no_start: flags[1],
            force_recreate: flags[2],
            no_recreate: flags[3],
            always_recreate_deps: flags[4],
            renew_anon_volumes: flags[5],
            remove_orphans: flags[6],
            wait: flags[7],
            reload: flags[8],
            ..Up::default()
        });
        // With parts of a project an error is a good answer: a network that
        // is shared with what does not run, one that is still in use.
        if let Ok(plan) = rcompose::plan::plan(&after, &world.observed, &intent) {
            let faults = check(&after, &world.observed, &plan);
            prop_assert!(faults.is_empty(), "{:#?}\n{:#?}", faults, rcompose::plan::render::steps(&plan));
        }
    }

    /// Dependents start after, and stop before, what they depend on.
    #[test]
    fn stop_order_is_the_reverse_of_start_order(project in project(false), order in order()) {
        let mut world = World { strict: true, ..World::default() };
        let plan = sound(&project, &world, &up(false));
        act(&mut world, &project, &plan, 1.0, &order);
        let plan = sound(&project, &world, &down());
        act(&mut world, &project, &plan, 1.0, &order);
        let graph = Graph::new(&project).unwrap();
        let place = |what: &'static str, service: &str, last: bool| {
            let mut places = world.log.iter().enumerate().filter(|(_, entry)| **entry == (what, service.to_owned()));
            if last { places.next_back() } else { places.next() }.map(|(at, _)| at)
        };
        for name in graph.order() {
            for (dependency, _) in graph.dependencies(name) {
                if let (Some(theirs), Some(ours)) = (place("start", dependency, true), place("start", name, false)) {
                    prop_assert!(theirs < ours, "{name} starts before {dependency}");
                }
                if let (Some(theirs), Some(ours)) = (place("stop", dependency, false), place("stop", name, true)) {
                    prop_assert!(ours < theirs, "{dependency} stops before {name}");
                }
            }
        }
    }

    /// The same question gets the same answer, and the answer survives JSON.
    #[test]
    fn plans_are_stable(before in project(true), after in project(true), order in order()) {
        let mut world = World { lenient: true, ..World::default() };
        let plan = sound(&before, &world, &up(false));
        act(&mut world, &before, &plan, 0.7, &order);
        let plan = sound(&after, &world, &up(false));
        world.observed.containers.reverse();
        world.observed.networks.reverse();
        world.observed.volumes.reverse();
        let again = sound(&after, &world, &up(false));
        prop_assert_eq!(&plan, &again);
        let json = serde_json::to_string(&plan).unwrap();
        prop_assert_eq!(&plan, &serde_json::from_str::<Plan>(&json).unwrap());
        let images = plan.actions.iter().filter_map(|action| match &action.operation {
            Operation::PullImage { image, .. } => Some(image),
            _ => None,
        });
        let mut images: Vec<_> = images.collect();
        let count = images.len();
        images.dedup();
        prop_assert_eq!(images.len(), count, "an image is fetched twice");
    }
}

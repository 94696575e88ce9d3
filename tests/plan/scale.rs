//! The size of plans, and the time they take.

use std::collections::BTreeMap;
use std::time::Instant;

use rcompose::plan::{Down, Intent, Observed, Operation, Up, plan};
use rcompose::project::{Attachment, Condition, Dependency, Network, Project, Service};

use crate::world::World;

/// `count` services in chains of ten, on one network, each with its own image.
fn project(count: usize, version: &str) -> Project {
    let mut project = Project {
        name: "shop".into(),
        ..Project::default()
    };
    project.networks.insert(
        "default".into(),
        Network {
            name: "shop_default".into(),
            ..Network::default()
        },
    );
    for at in 0..count {
        let name = format!("s{at:05}");
        let mut service = Service {
            name: name.clone(),
            image: format!("image{at}"),
            replicas: 1,
            environment: BTreeMap::from([("VERSION".into(), version.into())]),
            networks: BTreeMap::from([("default".into(), Attachment::default())]),
            ..Service::default()
        };
        if at % 10 > 0 {
            let dependency = Dependency {
                condition: Condition::ServiceStarted,
                restart: false,
                required: true,
            };
            service.depends_on.insert(format!("s{:05}", at - 1), dependency);
        }
        project.services.insert(name, service);
    }
    project
}

fn edges(plan: &rcompose::plan::Plan) -> usize {
    plan.actions.iter().map(|action| action.after.len()).sum()
}

/// Everything from the first up to the last down, for 10,000 services: the
/// arrows grow with the number of services, not with its square.
#[test]
fn plans_grow_with_the_project_and_no_faster() {
    const COUNT: usize = 10_000;
    let up = Intent::Up(Up::default());
    let down = Intent::Down(Down {
        volumes: true,
        ..Down::default()
    });
    let stop = Intent::Stop {
        services: Vec::new(),
        timeout: None,
    };
    let first = project(COUNT, "1");
    let second = project(COUNT, "2");

    let clock = Instant::now();
    let plan_first = plan(&first, &Observed::default(), &up).unwrap();
    println!(
        "first up: {} actions, {} arrows, {:?}",
        plan_first.actions.len(),
        edges(&plan_first),
        clock.elapsed()
    );
    assert_eq!(plan_first.actions.len(), 3 * COUNT + 1);
    assert!(edges(&plan_first) <= 5 * COUNT);

    let mut world = World::default();
    world.adopt(&first, &plan_first);
    for (what, project, intent, actions) in [
        ("up, nothing to do", &first, &up, 0),
        ("up, everything replaced", &second, &up, 4 * COUNT),
        ("stop", &first, &stop, COUNT),
        ("down", &first, &down, 2 * COUNT + 1),
    ] {
        let clock = Instant::now();
        let plan = plan(project, &world.observed, intent).unwrap();
        println!(
            "{what}: {} actions, {} arrows, {:?}",
            plan.actions.len(),
            edges(&plan),
            clock.elapsed()
        );
        assert_eq!(plan.actions.len(), actions, "{what}");
        assert!(edges(&plan) <= 6 * COUNT, "{what}: {} arrows", edges(&plan));
    }
}

/// A thousand replicas that all wait for a thousand others.
#[test]
fn a_thousand_replicas_wait_for_one_another_through_one_action() {
    for condition in [Condition::ServiceStarted, Condition::ServiceHealthy] {
        let mut project = project(2, "1");
        for service in project.services.values_mut() {
            service.replicas = 1000;
            for dependency in service.depends_on.values_mut() {
                dependency.condition = condition;
            }
        }
        let plan = plan(&project, &Observed::default(), &Intent::Up(Up::default())).unwrap();
        let waits = plan
            .actions
            .iter()
            .filter(|action| matches!(action.operation, Operation::Await { .. }));
        assert_eq!(waits.count(), 1, "{condition:?}");
        assert!(edges(&plan) <= 10_000, "{condition:?}: {} arrows", edges(&plan));
    }
}

use std::path::PathBuf;

use super::*;
use crate::project::{Attachment, Mount, Network};

fn service(name: &str, depends_on: &[&str]) -> Service {
    Service {
        name: name.into(),
        image: "scratch".into(),
        replicas: 1,
        depends_on: depends_on
            .iter()
            .map(|dependency| {
                let (required, dependency) = match dependency.strip_suffix('?') {
                    Some(dependency) => (false, dependency),
                    None => (true, *dependency),
                };
                (
                    dependency.to_owned(),
                    Dependency {
                        condition: Condition::ServiceStarted,
                        restart: false,
                        required,
                    },
                )
            })
            .collect(),
        ..Service::default()
    }
}

fn project(services: &[(&str, &[&str])]) -> Project {
    Project {
        name: "shop".into(),
        services: services
            .iter()
            .map(|(name, on)| ((*name).to_owned(), service(name, on)))
            .collect(),
        ..Project::default()
    }
}

fn at(line: u32) -> Origin {
    Origin {
        file: PathBuf::from("compose.yaml"),
        line,
        column: 7,
        by: None,
    }
}

#[test]
fn dependencies_come_first_and_ties_go_by_name() {
    let graph = Graph::new(&project(&[
        ("web", &["api", "cache"]),
        ("api", &["db"]),
        ("db", &[]),
        ("cache", &[]),
        ("admin", &["db"]),
    ]))
    .unwrap();
    assert_eq!(graph.order(), ["cache", "db", "admin", "api", "web"]);
    assert_eq!(
        graph.reverse_order().collect::<Vec<_>>(),
        ["web", "api", "admin", "db", "cache"]
    );
    let names = |links: Vec<(&str, &Link)>| {
        links
            .into_iter()
            .map(|(name, _)| name.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(graph.dependencies("web")), ["api", "cache"]);
    assert_eq!(names(graph.dependents("db")), ["admin", "api"]);
}

#[test]
fn a_cycle_is_told_with_its_path_and_places() {
    let mut project = project(&[
        ("z", &["c"]),
        ("c", &["a"]),
        ("a", &["b"]),
        ("b", &["c"]),
        ("x", &[]),
    ]);
    project.origins.insert("services.a.depends_on.b".into(), at(4));
    project.origins.insert("services.b.depends_on".into(), at(8));
    let error = Graph::new(&project).unwrap_err();
    assert_eq!(error.to_string(), "dependency cycle detected: a -> b -> c -> a");
    assert_eq!(error.origins(), [&at(4), &at(8)]);
}

#[test]
fn a_service_that_waits_for_itself_is_a_cycle() {
    let error = Graph::new(&project(&[("a", &["a"])])).unwrap_err();
    assert_eq!(error.to_string(), "dependency cycle detected: a -> a");
}

#[test]
fn sharing_a_namespace_is_a_dependency() {
    let mut project = project(&[("a", &[]), ("b", &["a"])]);
    if let Some(a) = project.services.get_mut("a") {
        a.network_mode = NetworkMode::Service("b".into());
    }
    project.origins.insert("services.a.network_mode".into(), at(3));
    let error = Graph::new(&project).unwrap_err();
    assert_eq!(error.to_string(), "dependency cycle detected: a -> b -> a");
    assert_eq!(error.origins(), [&at(3)]);
}

#[test]
fn a_namespace_makes_an_optional_dependency_required() {
    let mut project = project(&[("a", &["b?"]), ("b", &[])]);
    if let Some(a) = project.services.get_mut("a") {
        a.network_mode = NetworkMode::Service("b".into());
    }
    let graph = Graph::new(&project).unwrap();
    assert!(
        graph
            .dependencies("a")
            .iter()
            .all(|(_, link)| link.required && link.namespace)
    );
}

#[test]
fn names_that_are_not_there_get_a_suggestion() {
    let graph = Graph::new(&project(&[("web", &[]), ("worker", &[])])).unwrap();
    let message = |name: &str| graph.select(&[name.to_owned()]).unwrap_err().to_string();
    assert_eq!(message("wbe"), "no such service: wbe, did you mean \"web\"?");
    assert_eq!(message("database"), "no such service: database");

    let error = Graph::new(&project(&[("web", &["databse"]), ("database", &[])])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "service \"web\" depends on undefined service \"databse\", did you mean \"database\"?"
    );
}

#[test]
fn networks_and_volumes_must_be_defined() {
    let mut project = project(&[("web", &[])]);
    project.networks.insert("front".into(), Network::default());
    if let Some(web) = project.services.get_mut("web") {
        web.networks.insert("fornt".into(), Attachment::default());
    }
    assert_eq!(
        Graph::new(&project).unwrap_err().to_string(),
        "service \"web\" refers to undefined network fornt, did you mean \"front\"?"
    );
    if let Some(web) = project.services.get_mut("web") {
        web.networks.clear();
        web.volumes.push(Mount {
            target: "/data".into(),
            source: MountSource::Volume {
                volume: "data".into(),
                nocopy: false,
                subpath: None,
            },
            read_only: false,
            ..Mount::default()
        });
    }
    assert_eq!(
        Graph::new(&project).unwrap_err().to_string(),
        "service \"web\" refers to undefined volume data"
    );
}

#[test]
fn a_closure_takes_dependencies_along() {
    let graph = Graph::new(&project(&[
        ("web", &["api"]),
        ("api", &["db"]),
        ("db", &[]),
        ("mail", &[]),
    ]))
    .unwrap();
    let closure = graph.closure(&["api".to_owned()]).unwrap();
    assert_eq!(closure.into_iter().collect::<Vec<_>>(), ["api", "db"]);
    assert_eq!(graph.closure(&[]).unwrap().len(), 4);
    let back = graph.reach_back(BTreeSet::from(["db".to_owned()]), |_| true);
    assert_eq!(back.into_iter().collect::<Vec<_>>(), ["api", "db", "web"]);
}

#[test]
fn a_disabled_service_matters_only_to_who_requires_it() {
    let mut project = project(&[("web", &["debug"]), ("api", &["debug?", "gone?"])]);
    project
        .disabled_services
        .insert("debug".into(), vec!["dev".into(), "test".into()]);
    let graph = Graph::new(&project).unwrap();
    assert!(graph.dependencies("api").is_empty());
    assert!(graph.closure(&["api".to_owned()]).is_ok());
    assert_eq!(
        graph.closure(&["web".to_owned()]).unwrap_err().to_string(),
        "service \"debug\" is required by \"web\" but is disabled. Can be enabled by profiles [dev test]"
    );
    assert_eq!(
        graph.select(&["debug".to_owned()]).unwrap_err().to_string(),
        "service \"debug\" is disabled. Can be enabled by profiles [dev test]"
    );
}

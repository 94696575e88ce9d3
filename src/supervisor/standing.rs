//! What is written down for the supervisor that comes after one that was killed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::graph::Graph;
use crate::plan::Up;
use crate::project::{LoadRequest, Project};
use crate::store::World;

/// What a new supervisor must know to go on where a killed one stopped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// How the project was loaded last.
    pub(super) load: Option<LoadRequest>,
    /// The stack file is watched though nobody is connected.
    pub(super) watch: bool,
    /// What of it is followed then.
    #[serde(default)]
    pub(super) scope: Scope,
    /// How many containers of services commands have asked for, where they did.
    #[serde(default)]
    pub(super) scale: BTreeMap<String, u32>,
    /// The services whose sources are followed though nobody is connected; none
    /// of them is all.
    #[serde(default)]
    pub(super) sources: Option<Vec<String>>,
    /// What the stack file said when the stack was last brought to it: the
    /// digest of the model.
    #[serde(default)]
    pub(super) said: Option<String>,
    /// The stack was brought back to this generation since, and stays there
    /// until the stack file says something else than that.
    #[serde(default)]
    pub(super) pinned: Option<u64>,
}

/// What of the stack file is followed: what the `up` was about that asked for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Scope {
    /// Services; none is all.
    pub(super) services: Vec<String>,
    /// Without what they depend on.
    pub(super) no_deps: bool,
}

impl Scope {
    /// That of an `up`.
    pub(super) fn of(up: &Up) -> Self {
        Self {
            services: up.services.clone(),
            no_deps: up.no_deps,
        }
    }

    /// What several are about; all, when there are none.
    pub(super) fn join<'a>(scopes: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let all = scopes.clone().any(|scope| scope.services.is_empty());
        Self {
            no_deps: scopes.clone().count() > 0 && scopes.clone().all(|scope| scope.no_deps),
            services: match all {
                true => vec![],
                false => scopes.flat_map(|scope| scope.services.clone()).collect(),
            },
        }
    }
}

/// How many containers of services are asked for by commands after an `up` of
/// `project`, where they were asked for `scale` before. An `up` asks for what the
/// file says, but for what it is told; a reload leaves them, but for services whose
/// number the file has changed since it said `before`.
pub(super) fn scale_after(
    scale: &BTreeMap<String, u32>,
    up: &Up,
    before: Option<&Project>,
    project: &Project,
) -> BTreeMap<String, u32> {
    let mut scale = scale.clone();
    if up.reload {
        let count = |project: &Project, service: &str| Some(project.services.get(service)?.replicas);
        scale.retain(|service, _| {
            let now = count(project, service);
            now.is_some() && before.is_none_or(|before| count(before, service) == now)
        });
        return scale;
    }
    if !scale.is_empty() {
        let about = Graph::new(project).and_then(|graph| match up.no_deps {
            true => graph.select(&up.services),
            false => graph.closure(&up.services),
        });
        scale.retain(|service, _| about.as_ref().is_ok_and(|about| !about.contains(service)));
    }
    scale.extend(up.scale.clone());
    scale
}

/// Where it is.
pub(super) fn path(world: &World, project: &str) -> PathBuf {
    world.stack(project).join("supervisor.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Service;

    fn project(counts: &[(&str, u32)]) -> Project {
        let service = |(name, replicas): &(&str, u32)| {
            let service = Service {
                name: (*name).to_owned(),
                replicas: *replicas,
                ..Service::default()
            };
            ((*name).to_owned(), service)
        };
        Project {
            services: counts.iter().map(service).collect(),
            ..Project::default()
        }
    }

    fn scale(counts: &[(&str, u32)]) -> BTreeMap<String, u32> {
        counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    #[test]
    fn a_reload_leaves_a_number_until_the_file_has_another_one() {
        let reload = Up {
            reload: true,
            ..Up::default()
        };
        let asked = scale(&[("a", 3), ("b", 4), ("gone", 5)]);
        let (before, now) = (project(&[("a", 1), ("b", 1)]), project(&[("a", 1), ("b", 2)]));
        assert_eq!(
            scale_after(&asked, &reload, Some(&before), &now),
            scale(&[("a", 3)])
        );
        let known = scale(&[("a", 3), ("b", 4)]);
        assert_eq!(scale_after(&asked, &reload, None, &now), known);
    }

    #[test]
    fn an_up_asks_for_what_the_file_says_of_what_it_is_about() {
        let asked = scale(&[("a", 3), ("b", 4)]);
        let now = project(&[("a", 1), ("b", 1)]);
        let of = |services: &[&str], counts| Up {
            services: services.iter().map(|name| (*name).to_owned()).collect(),
            scale: scale(counts),
            ..Up::default()
        };
        let after = |up: Up| scale_after(&asked, &up, None, &now);
        assert_eq!(after(of(&[], &[])), scale(&[]));
        assert_eq!(after(of(&["a"], &[])), scale(&[("b", 4)]));
        assert_eq!(after(of(&["b"], &[("b", 2)])), scale(&[("a", 3), ("b", 2)]));
    }

    #[test]
    fn what_several_are_about_is_all_of_it() {
        let of = |services: &[&str], no_deps| Scope {
            services: services.iter().map(|name| (*name).to_owned()).collect(),
            no_deps,
        };
        let join = |scopes: &[Scope]| Scope::join(scopes.iter());
        assert_eq!(join(&[]), of(&[], false));
        assert_eq!(join(&[of(&["a"], true)]), of(&["a"], true));
        assert_eq!(
            join(&[of(&["a"], true), of(&["b"], false)]),
            of(&["a", "b"], false)
        );
        assert_eq!(join(&[of(&["a"], false), of(&[], false)]), of(&[], false));
    }
}

//! Project to dependency graph.
//!
//! [`Graph::new`] reads a [`Project`] once and makes a directed graph
//! (petgraph) of its services, networks, volumes and images. An edge points
//! from who needs to what is needed; one between services carries a [`Link`]:
//! the condition, and whether a namespace is shared. The planner asks for three
//! things: the order ([`Graph::order`], dependencies first, ties by name, so
//! that the same project always gives the same order), what a selection pulls
//! in ([`Graph::closure`]) and the neighbours of a service.
//!
//! What cannot work for any command is an error of [`Graph::new`]: a cycle, or
//! a name that is not defined. A required service that is switched off by its
//! profile is an error of [`Graph::closure`] only, so that it does not stand in
//! the way of commands that do not touch the service requiring it.
//!
//! Known to be weak: only the first fault found is reported.

mod error;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};

use foldhash::fast::RandomState;
use petgraph::Direction;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef as _;

use crate::project::{Condition, Dependency, MountSource, NetworkMode, Origin, Project, Service};

pub use error::GraphError;
pub(crate) use error::nearest;

/// A thing that services need, or a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// A service, by key.
    Service(String),
    /// A network, by key.
    Network(String),
    /// A named volume, by key.
    Volume(String),
    /// An image, by the reference the project writes.
    Image(String),
}

/// Why one node needs another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edge {
    /// A service comes after another.
    Service(Link),
    /// A service is attached to a network.
    Network,
    /// A service mounts a volume.
    Volume,
    /// A service is made from an image.
    Image,
}

/// How a service depends on another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What must hold before the dependent starts.
    pub condition: Condition,
    /// Restart the dependent when the dependency is restarted or replaced by a command.
    pub restart: bool,
    /// `false`: a failure of the dependency is only a warning.
    pub required: bool,
    /// The dependent lives in the network namespace of the dependency's first
    /// container (`network_mode: service:…`), and cannot outlive it.
    pub namespace: bool,
}

/// A service that is required and switched off by its profiles.
#[derive(Clone, Debug)]
struct Disabled {
    service: String,
    by: String,
    profiles: Vec<String>,
    origin: Option<Origin>,
}

/// Nodes by name, to look them up.
type Index<K> = HashMap<K, NodeIndex, RandomState>;

/// What services need beside each other, by its name.
#[derive(Default)]
struct Resources<'a> {
    networks: Index<&'a str>,
    volumes: Index<&'a str>,
    images: Index<&'a str>,
}

/// The dependency graph of one project.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The services come first, in the order of their names.
    graph: DiGraph<Node, Edge>,
    services: Index<String>,
    order: Vec<String>,
    disabled: BTreeMap<String, Vec<Disabled>>,
    off: BTreeMap<String, Vec<String>>,
}

impl Graph {
    /// Reads the dependencies of a project. A dependency with `required: false`
    /// that is undefined or switched off is left out.
    ///
    /// # Errors
    /// [`GraphError::Cycle`] when services wait for each other, and
    /// [`GraphError::UndefinedService`], [`GraphError::UndefinedNetwork`],
    /// [`GraphError::UndefinedVolume`] when a service names what is not there.
    pub fn new(project: &Project) -> Result<Self, GraphError> {
        let mut graph = DiGraph::with_capacity(project.services.len(), project.services.len());
        let services: Index<String> = project
            .services
            .keys()
            .map(|name| (name.clone(), graph.add_node(Node::Service(name.clone()))))
            .collect();
        let mut this = Self {
            graph,
            services,
            order: Vec::new(),
            disabled: BTreeMap::new(),
            off: project.disabled_services.clone(),
        };
        let mut others = Resources::default();
        for (from, (name, service)) in project.services.iter().enumerate() {
            let from = NodeIndex::new(from);
            this.add_links(project, name, service, from)?;
            this.add_resources(project, name, service, from, &mut others)?;
        }
        this.order = this.sort(project)?;
        Ok(this)
    }

    fn add_links(
        &mut self,
        project: &Project,
        name: &str,
        service: &Service,
        from: NodeIndex,
    ) -> Result<(), GraphError> {
        for (dependency, link) in links(service) {
            if let Some(&to) = self.services.get(dependency) {
                self.graph.add_edge(from, to, Edge::Service(link));
                continue;
            }
            if !link.required {
                continue;
            }
            let origin = link_origin(project, name, dependency);
            if let Some(profiles) = project.disabled_services.get(dependency) {
                self.disabled.entry(name.to_owned()).or_default().push(Disabled {
                    service: dependency.to_owned(),
                    by: name.to_owned(),
                    profiles: profiles.clone(),
                    origin,
                });
                continue;
            }
            return Err(GraphError::UndefinedService {
                service: name.to_owned(),
                dependency: dependency.to_owned(),
                suggestion: nearest(dependency, project.services.keys().filter(|key| *key != name)),
                origin,
            });
        }
        Ok(())
    }

    fn add_resources<'a>(
        &mut self,
        project: &Project,
        name: &str,
        service: &'a Service,
        from: NodeIndex,
        others: &mut Resources<'a>,
    ) -> Result<(), GraphError> {
        for network in attached(service) {
            if !project.networks.contains_key(network) {
                return Err(GraphError::UndefinedNetwork {
                    service: name.to_owned(),
                    network: network.to_owned(),
                    suggestion: nearest(network, project.networks.keys()),
                    origin: project
                        .origin(&format!("services.{name}.networks.{network}"))
                        .cloned(),
                });
            }
            let to = others.networks.entry(network);
            let to = *to.or_insert_with(|| self.graph.add_node(Node::Network(network.to_owned())));
            self.graph.add_edge(from, to, Edge::Network);
        }
        for volume in mounted(service) {
            if !project.volumes.contains_key(volume) {
                return Err(GraphError::UndefinedVolume {
                    service: name.to_owned(),
                    volume: volume.to_owned(),
                    suggestion: nearest(volume, project.volumes.keys()),
                    origin: project.origin(&format!("services.{name}.volumes")).cloned(),
                });
            }
            let to = others.volumes.entry(volume);
            let to = *to.or_insert_with(|| self.graph.add_node(Node::Volume(volume.to_owned())));
            self.graph.add_edge(from, to, Edge::Volume);
        }
        let to = others.images.entry(&service.image);
        let to = *to.or_insert_with(|| self.graph.add_node(Node::Image(service.image.clone())));
        self.graph.add_edge(from, to, Edge::Image);
        Ok(())
    }

    /// Kahn's algorithm with the smallest name first among those that are ready:
    /// the smallest node, as they have been added.
    fn sort(&self, project: &Project) -> Result<Vec<String>, GraphError> {
        let services = || (0..self.services.len()).map(NodeIndex::new);
        let mut waits: Vec<usize> = services()
            .map(|node| self.linked(node, Direction::Outgoing).count())
            .collect();
        let free = services().zip(&waits).filter(|(_, waits)| **waits == 0);
        let mut ready: BinaryHeap<Reverse<NodeIndex>> = free.map(|(node, _)| Reverse(node)).collect();
        let mut order = Vec::with_capacity(waits.len());
        while let Some(Reverse(node)) = ready.pop() {
            order.extend(self.name(node).map(str::to_owned));
            for (_, dependent, _) in self.linked(node, Direction::Incoming) {
                if let Some(count) = waits.get_mut(dependent.index()) {
                    *count -= 1;
                    if *count == 0 {
                        ready.push(Reverse(dependent));
                    }
                }
            }
        }
        if order.len() == waits.len() {
            return Ok(order);
        }
        let left = services().zip(waits).filter(|(_, waits)| *waits > 0);
        Err(self.cycle(project, &left.map(|(node, _)| node).collect()))
    }

    /// A cycle among `left`, services that each wait for one in `left`: whoever
    /// follows such waits comes around.
    fn cycle(&self, project: &Project, left: &BTreeSet<NodeIndex>) -> GraphError {
        let mut path: Vec<(&str, NodeIndex)> = Vec::new();
        let mut next = left
            .iter()
            .filter_map(|&node| Some((self.name(node)?, node)))
            .min();
        while let Some((name, node)) = next {
            if let Some(start) = path.iter().position(|&(_, seen)| seen == node) {
                path.drain(..start);
                path.push((name, node));
                break;
            }
            path.push((name, node));
            next = self
                .linked(node, Direction::Outgoing)
                .filter(|(_, to, _)| left.contains(to))
                .map(|(name, to, _)| (name, to))
                .min();
        }
        // The same cycle is told from its smallest name on, wherever it was entered.
        path.pop();
        let smallest = path
            .iter()
            .enumerate()
            .min_by_key(|(_, (name, _))| *name)
            .map_or(0, |(at, _)| at);
        path.rotate_left(smallest);
        path.extend(path.first().copied());
        let path: Vec<String> = path.into_iter().map(|(name, _)| name.to_owned()).collect();
        let origins = path
            .iter()
            .zip(path.iter().skip(1))
            .map(|(from, to)| link_origin(project, from, to))
            .collect();
        GraphError::Cycle { path, origins }
    }

    fn name(&self, node: NodeIndex) -> Option<&str> {
        match self.graph.node_weight(node) {
            Some(Node::Service(name)) => Some(name),
            _ => None,
        }
    }

    fn linked(&self, node: NodeIndex, way: Direction) -> impl Iterator<Item = (&str, NodeIndex, &Link)> {
        self.graph.edges_directed(node, way).filter_map(move |edge| {
            let other = if way == Direction::Outgoing {
                edge.target()
            } else {
                edge.source()
            };
            match edge.weight() {
                Edge::Service(link) => Some((self.name(other)?, other, link)),
                _ => None,
            }
        })
    }

    fn neighbours(&self, service: &str, way: Direction) -> Vec<(&str, &Link)> {
        let Some(&node) = self.services.get(service) else {
            return Vec::new();
        };
        let mut found: Vec<_> = self
            .linked(node, way)
            .map(|(name, _, link)| (name, link))
            .collect();
        found.sort_unstable_by_key(|(name, _)| *name);
        found
    }

    /// Every service, dependencies first; of two that could come next, the one
    /// with the smaller name.
    pub fn order(&self) -> &[String] {
        &self.order
    }

    /// Every service, dependents first: [`Graph::order`] backwards.
    pub fn reverse_order(&self) -> impl Iterator<Item = &str> {
        self.order.iter().rev().map(String::as_str)
    }

    /// What a service depends on directly, sorted by name; empty for an unknown one.
    pub fn dependencies(&self, service: &str) -> Vec<(&str, &Link)> {
        self.neighbours(service, Direction::Outgoing)
    }

    /// Who depends on a service directly, sorted by name; empty for an unknown one.
    pub fn dependents(&self, service: &str) -> Vec<(&str, &Link)> {
        self.neighbours(service, Direction::Incoming)
    }

    /// The services of a selection (empty is all) as given, without what they
    /// depend on.
    ///
    /// # Errors
    /// [`GraphError::NoSuchService`] and [`GraphError::ServiceDisabled`].
    pub fn select(&self, services: &[String]) -> Result<BTreeSet<String>, GraphError> {
        if services.is_empty() {
            return Ok(self.names().map(str::to_owned).collect());
        }
        for service in services {
            if self.services.contains_key(service) {
                continue;
            }
            if let Some(profiles) = self.off.get(service) {
                return Err(GraphError::ServiceDisabled {
                    service: service.clone(),
                    profiles: profiles.clone(),
                });
            }
            return Err(GraphError::NoSuchService {
                service: service.clone(),
                suggestion: nearest(service, self.names()),
            });
        }
        Ok(services.iter().cloned().collect())
    }

    /// A selection (empty is all) with everything it depends on.
    ///
    /// # Errors
    /// Those of [`Graph::select`], and [`GraphError::RequiredDisabled`] when
    /// one of them requires a service that is switched off by its profiles.
    pub fn closure(&self, services: &[String]) -> Result<BTreeSet<String>, GraphError> {
        let closure = self.reach(self.select(services)?, |_| true);
        match closure
            .iter()
            .find_map(|service| self.disabled.get(service)?.first())
        {
            None => Ok(closure),
            Some(disabled) => Err(GraphError::RequiredDisabled {
                service: disabled.service.clone(),
                by: disabled.by.clone(),
                profiles: disabled.profiles.clone(),
                origin: disabled.origin.clone(),
            }),
        }
    }

    /// `from` with everything reached from it along the links that `follow` accepts.
    pub fn reach(&self, from: BTreeSet<String>, follow: impl Fn(&Link) -> bool) -> BTreeSet<String> {
        self.spread(from, Direction::Outgoing, follow)
    }

    /// `from` with everything that depends on it along the links that `follow` accepts.
    pub fn reach_back(&self, from: BTreeSet<String>, follow: impl Fn(&Link) -> bool) -> BTreeSet<String> {
        self.spread(from, Direction::Incoming, follow)
    }

    fn spread(
        &self,
        from: BTreeSet<String>,
        way: Direction,
        follow: impl Fn(&Link) -> bool,
    ) -> BTreeSet<String> {
        let mut reached = vec![false; self.services.len()];
        let mut stack: Vec<NodeIndex> = Vec::new();
        let mut reach = |node: NodeIndex, stack: &mut Vec<NodeIndex>| {
            let reached = reached.get_mut(node.index()).filter(|reached| !**reached);
            if let Some(reached) = reached {
                *reached = true;
                stack.push(node);
            }
        };
        for node in from.iter().filter_map(|name| self.services.get(name)) {
            reach(*node, &mut stack);
        }
        while let Some(node) = stack.pop() {
            for (_, next, _) in self.linked(node, way).filter(|(_, _, link)| follow(link)) {
                reach(next, &mut stack);
            }
        }
        let more = self.names().zip(reached).filter(|(_, reached)| *reached);
        let mut found: BTreeSet<String> = more.map(|(name, _)| name.to_owned()).collect();
        // What is no service is kept.
        found.extend(from.into_iter().filter(|name| !self.contains(name)));
        found
    }

    /// The services in the order of their names.
    fn names(&self) -> impl Iterator<Item = &str> {
        (0..self.services.len()).filter_map(|node| self.name(NodeIndex::new(node)))
    }

    /// Whether the project has an enabled service of that name.
    pub fn contains(&self, service: &str) -> bool {
        self.services.contains_key(service)
    }

    /// The graph itself, for printing.
    pub fn petgraph(&self) -> &DiGraph<Node, Edge> {
        &self.graph
    }
}

/// The services a service names, each once: `depends_on`, and the one whose
/// network namespace it shares.
fn links(service: &Service) -> BTreeMap<&str, Link> {
    let mut links: BTreeMap<&str, Link> = service
        .depends_on
        .iter()
        .map(|(name, dependency)| (name.as_str(), Link::from(dependency)))
        .collect();
    if let NetworkMode::Service(provider) = &service.network_mode {
        let link = links.entry(provider).or_insert(Link {
            condition: Condition::ServiceStarted,
            restart: false,
            required: true,
            namespace: true,
        });
        link.namespace = true;
        link.required = true;
    }
    links
}

impl From<&Dependency> for Link {
    fn from(dependency: &Dependency) -> Self {
        Self {
            condition: dependency.condition,
            restart: dependency.restart,
            required: dependency.required,
            namespace: false,
        }
    }
}

/// The networks a service is attached to, by key.
pub fn attached(service: &Service) -> impl Iterator<Item = &str> {
    let keys = (service.network_mode == NetworkMode::Networks).then_some(&service.networks);
    keys.into_iter()
        .flat_map(|networks| networks.keys().map(String::as_str))
}

/// The named volumes a service mounts, by key.
pub fn mounted(service: &Service) -> impl Iterator<Item = &str> {
    service.volumes.iter().filter_map(|mount| match &mount.source {
        MountSource::Volume { volume, .. } => Some(volume.as_str()),
        _ => None,
    })
}

/// The images a service mounts, by reference.
pub fn mounted_images(service: &Service) -> impl Iterator<Item = &str> {
    service.volumes.iter().filter_map(|mount| match &mount.source {
        MountSource::Image { image, .. } => Some(image.as_str()),
        _ => None,
    })
}

fn link_origin(project: &Project, from: &str, to: &str) -> Option<Origin> {
    let depends = project.services.get(from)?.depends_on.contains_key(to);
    let path = if depends {
        format!("services.{from}.depends_on.{to}")
    } else {
        format!("services.{from}.network_mode")
    };
    project.origin(&path).cloned()
}

#[cfg(test)]
mod tests;

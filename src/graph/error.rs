//! What can be wrong with the dependencies of a project.

use crate::project::Origin;

/// What can be wrong with the dependencies of a project, or with a selection
/// of its services. The origin, when there is one, is where the faulty
/// reference is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Services wait for each other.
    #[error("dependency cycle detected: {}", path.join(" -> "))]
    Cycle {
        /// The way round; the first is also the last.
        path: Vec<String>,
        /// Where each step (from one of `path` to the next) is written.
        origins: Vec<Option<Origin>>,
    },
    /// A `depends_on` or `network_mode: service:` names no service.
    #[error("service {service:?} depends on undefined service {dependency:?}{}", did_you_mean(suggestion.as_deref()))]
    UndefinedService {
        /// Who names it.
        service: String,
        /// What is named.
        dependency: String,
        /// The service that has the most similar name.
        suggestion: Option<String>,
        /// Where it is written.
        origin: Option<Origin>,
    },
    /// A service is attached to a network that the project does not have.
    #[error("service {service:?} refers to undefined network {network}{}", did_you_mean(suggestion.as_deref()))]
    UndefinedNetwork {
        /// Who names it.
        service: String,
        /// What is named.
        network: String,
        /// The network that has the most similar name.
        suggestion: Option<String>,
        /// Where it is written.
        origin: Option<Origin>,
    },
    /// A service mounts a volume that the project does not have.
    #[error("service {service:?} refers to undefined volume {volume}{}", did_you_mean(suggestion.as_deref()))]
    UndefinedVolume {
        /// Who names it.
        service: String,
        /// What is named.
        volume: String,
        /// The volume that has the most similar name.
        suggestion: Option<String>,
        /// Where it is written.
        origin: Option<Origin>,
    },
    /// A required dependency is switched off by its profiles.
    #[error(
        "service {service:?} is required by {by:?} but is disabled. Can be enabled by profiles [{}]",
        profiles.join(" ")
    )]
    RequiredDisabled {
        /// The service that is switched off.
        service: String,
        /// Who requires it.
        by: String,
        /// The profiles that enable it.
        profiles: Vec<String>,
        /// Where the requirement is written.
        origin: Option<Origin>,
    },
    /// A service that was asked for is switched off by its profiles.
    #[error("service {service:?} is disabled. Can be enabled by profiles [{}]", profiles.join(" "))]
    ServiceDisabled {
        /// The service.
        service: String,
        /// The profiles that enable it.
        profiles: Vec<String>,
    },
    /// A service that was asked for is not in the project.
    #[error("no such service: {service}{}", did_you_mean(suggestion.as_deref()))]
    NoSuchService {
        /// The name asked for.
        service: String,
        /// The service that has the most similar name.
        suggestion: Option<String>,
    },
}

impl GraphError {
    /// The places in the stack files that this is about.
    pub fn origins(&self) -> Vec<&Origin> {
        match self {
            Self::Cycle { origins, .. } => origins.iter().flatten().collect(),
            Self::UndefinedService { origin, .. }
            | Self::UndefinedNetwork { origin, .. }
            | Self::UndefinedVolume { origin, .. }
            | Self::RequiredDisabled { origin, .. } => origin.iter().collect(),
            Self::ServiceDisabled { .. } | Self::NoSuchService { .. } => Vec::new(),
        }
    }
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |name| format!(", did you mean {name:?}?"))
}

/// The candidate that `name` is most likely a slip of the pen for; `None` when
/// none is near: more than a third of the longer of the two would have to change.
pub(crate) fn nearest<'a, S>(name: &str, candidates: impl IntoIterator<Item = &'a S>) -> Option<String>
where
    S: AsRef<str> + ?Sized + 'a,
{
    candidates
        .into_iter()
        .map(AsRef::as_ref)
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance * 3 <= name.chars().count().max(candidate.chars().count()))
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

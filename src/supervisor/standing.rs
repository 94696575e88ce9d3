//! What is written down for the supervisor that comes after one that was killed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::project::LoadRequest;
use crate::store::World;

/// What a new supervisor must know to go on where a killed one stopped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// How the project was loaded last.
    pub(super) load: Option<LoadRequest>,
    /// The stack file is watched though nobody is connected.
    pub(super) watch: bool,
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

/// Where it is.
pub(super) fn path(world: &World, project: &str) -> PathBuf {
    world.stack(project).join("supervisor.json")
}

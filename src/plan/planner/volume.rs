//! Which volumes are there, and which have to be made.

use std::collections::BTreeMap;

use super::super::{Observed, ObservedVolume, PlanError};
use crate::project::Project;

/// The volumes that are there, by name.
#[derive(Debug)]
pub(super) struct Volumes<'a> {
    project: &'a Project,
    by_name: BTreeMap<&'a str, &'a ObservedVolume>,
}

impl<'a> Volumes<'a> {
    pub(super) fn new(project: &'a Project, observed: &'a Observed) -> Self {
        let by_name = observed
            .volumes
            .iter()
            .map(|volume| (volume.name.as_str(), volume))
            .collect();
        Self { project, by_name }
    }

    /// The name on the host of a volume of the project.
    pub(super) fn name(&self, key: &str) -> Option<&'a str> {
        self.project.volumes.get(key).map(|volume| volume.name.as_str())
    }

    pub(super) fn exists(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Whether the volume has to be made.
    ///
    /// # Errors
    /// [`PlanError::ExternalVolumeMissing`].
    pub(super) fn is_missing(&self, key: &str) -> Result<bool, PlanError> {
        let Some(volume) = self.project.volumes.get(key) else {
            return Ok(false);
        };
        if self.exists(&volume.name) {
            return Ok(false);
        }
        if volume.external {
            return Err(PlanError::ExternalVolumeMissing {
                name: volume.name.clone(),
                origin: self.project.origin(&format!("volumes.{key}")).cloned(),
            });
        }
        Ok(true)
    }

    /// A volume keeps the driver options that it was made with, as its data is
    /// behind them: what is written now has no effect, which is said.
    pub(super) fn options_warning(&self, key: &str) -> Option<String> {
        let volume = self.project.volumes.get(key).filter(|volume| !volume.external)?;
        let found = self.by_name.get(volume.name.as_str())?;
        (found.options != volume.driver_opts).then(|| {
            format!(
                "volume {:?} exists and keeps its driver options, which are not those of the stack file; \
                 it is made anew once its containers and then it are removed (`down`, `volume rm`)",
                volume.name
            )
        })
    }

    /// Docker compose's warning about a volume that is used although somebody
    /// else made it.
    pub(super) fn foreign_warning(&self, key: &str) -> Option<String> {
        let volume = self.project.volumes.get(key).filter(|volume| !volume.external)?;
        let name = &volume.name;
        match &self.by_name.get(name.as_str())?.owner {
            Some(owner) if owner.project == self.project.name => None,
            Some(owner) => Some(format!(
                "volume {name:?} already exists but was created for project {:?} (expected {:?}). \
                 Use `external: true` to use an existing volume",
                owner.project, self.project.name
            )),
            None => Some(format!(
                "volume {name:?} already exists but was not created by this project. \
                 Use `external: true` to use an existing volume"
            )),
        }
    }
}

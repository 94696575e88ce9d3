//! `login` and `logout`.

use super::error::ImageError;
use super::progress::{Progress, reporting};
use super::registry;
use super::store::ImageStore;

impl ImageStore {
    /// Tries a user name and password with a registry, and keeps them where
    /// docker does. Says in one sentence where that is.
    ///
    /// # Errors
    /// [`ImageError::Login`] when the registry does not take them, or they
    /// cannot be kept.
    pub async fn log_in(
        &self,
        registry: &str,
        user: &str,
        password: &str,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<String, ImageError> {
        reporting(progress, |events| {
            registry::log_in(self.places(), registry, user, password, events)
        })
        .await
    }

    /// Forgets a login; `false` when there was none.
    ///
    /// # Errors
    /// [`ImageError::Login`] when the file or the helper that keeps it fails.
    pub fn log_out(&self, registry: &str) -> Result<bool, ImageError> {
        registry::log_out(self.places(), registry)
    }
}

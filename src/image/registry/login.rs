//! `login` and `logout`: a user name and password are tried, and kept where
//! docker keeps them.

use std::sync::Arc;

use hyper::Method;
use hyper::header::{self, HeaderValue};

use super::credentials::{self, Credentials, Keep, Login};
use super::settings::{Endpoint, Settings};
use super::{Ask, Failure, Places, Registry, Target, challenge};
use crate::image::error::ImageError;
use crate::image::progress::Events;
use crate::image::reference::DEFAULT_REGISTRY;

fn failed(registry: &str, reason: String) -> ImageError {
    ImageError::Login {
        registry: registry.to_owned(),
        reason,
    }
}

/// Tries a login and keeps it. Says in one sentence where.
pub(in crate::image) async fn log_in(
    places: &Places,
    registry: &str,
    user: &str,
    password: &str,
    events: Events,
) -> Result<String, ImageError> {
    let settings = Settings::read(&places.root).map_err(|reason| failed(registry, reason))?;
    let host = if registry == DEFAULT_REGISTRY {
        "registry-1.docker.io"
    } else {
        registry
    };
    let endpoint = Endpoint {
        host: host.to_owned(),
        repository: String::new(),
        security: settings.security(host, false),
        mirror: false,
    };
    let client = Registry::client(
        registry.into(),
        registry.to_owned(),
        endpoint,
        Vec::new(),
        places,
        Arc::new(settings),
        events,
    );
    let own = Credentials {
        login: Some(Login::basic(user, password)),
        problems: Vec::new(),
    };
    let client = Registry {
        credentials: tokio::sync::OnceCell::new_with(Some(own)),
        ..client
    };
    let token = client.try_login().await.map_err(|error| match error {
        ImageError::Denied { reason, .. } => failed(registry, reason),
        ImageError::Connect { host, reason, .. } => failed(registry, format!("connect to {host}: {reason}")),
        other => other,
    })?;
    let file = places
        .docker_config
        .clone()
        .or_else(credentials::docker_file)
        .ok_or_else(|| failed(registry, "neither DOCKER_CONFIG nor HOME is set".to_owned()))?;
    let (name, user, password) = (registry.to_owned(), user.to_owned(), password.to_owned());
    let keep = move || {
        let what = match &token {
            Some(token) => Keep::Token(&user, token),
            None => Keep::Password(&user, &password),
        };
        credentials::keep(&file, &name, what)
    };
    tokio::task::spawn_blocking(keep)
        .await
        .unwrap_or_else(|_| Err("the work was cut short".to_owned()))
        .map_err(|reason| failed(registry, reason))
}

/// Forgets a login; `false` when there was none.
pub(in crate::image) fn log_out(places: &Places, registry: &str) -> Result<bool, ImageError> {
    let file = places.docker_config.clone().or_else(credentials::docker_file);
    let file = file.ok_or_else(|| failed(registry, "neither DOCKER_CONFIG nor HOME is set".to_owned()))?;
    credentials::forget(&file, registry).map_err(|reason| failed(registry, reason))
}

impl Registry {
    /// Shows who we are; an identity token when the registry gives one.
    async fn try_login(&self) -> Result<Option<String>, ImageError> {
        let look = Ask::new(Method::GET, Target::Base, "a login", &[200, 401]);
        let response = self.ask(&look).await?;
        if response.status() == hyper::StatusCode::OK {
            // It lets everybody in; there is nothing to check by.
            return Ok(None);
        }
        let lines = response.headers().get_all(header::WWW_AUTHENTICATE);
        let challenges: Vec<_> = lines
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        if let Some(challenge) = challenges.iter().find(|one| one.scheme == "bearer") {
            let token = self.token(challenge, true).await;
            let (token, lasting) = token.map_err(|failure| match failure {
                Failure::Passing(error, _) | Failure::Final(error) => error,
            })?;
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let value = value.map_err(|_| self.denied("its token cannot be sent"))?;
            *self.authorization.lock().await = Some(value);
            self.ask(&Ask::new(Method::GET, Target::Base, "a login", &[200]))
                .await?;
            return Ok(lasting);
        }
        self.ask(&Ask::new(Method::GET, Target::Base, "a login", &[200]))
            .await?;
        Ok(None)
    }
}

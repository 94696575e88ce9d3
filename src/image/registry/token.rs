//! Meets the challenge of a 401: Basic, or a token from the registry's token
//! server (distribution's "Token Authentication Specification" and its OAuth2
//! variant, which identity tokens want).

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Response, StatusCode, Uri};
use serde::Deserialize;
use tokio::time::timeout;

use super::challenge::{self, Challenge};
use super::credentials::Login;
use super::uri::percent;
use super::{Ask, Failure, MESSAGE_LIMIT, PATIENCE, Registry, Target, bytes, chain};

/// What a token server grants.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
}

impl Registry {
    /// Meets the challenge of a 401 and keeps the result. `used` is what was
    /// not good enough.
    pub(super) async fn authorise(
        &self,
        response: &Response<Incoming>,
        used: Option<&HeaderValue>,
    ) -> Result<(), Failure> {
        let mut kept = self.authorization.lock().await;
        if kept.as_ref() != used {
            // Another layer has been through this meanwhile.
            return Ok(());
        }
        let lines = response.headers().get_all(header::WWW_AUTHENTICATE);
        let challenges: Vec<_> = lines
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let of = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let login = &self.credentials().await.login;
        let value = match (of("bearer"), of("basic"), login) {
            (_, _, Some(Login::Bearer(token))) if used.is_none() => format!("Bearer {token}"),
            (Some(challenge), ..) => format!("Bearer {}", self.token(challenge, false).await?.0),
            (None, Some(_), Some(Login::Basic(basic))) if used.is_none() => {
                let scheme = if self.secure.load(std::sync::atomic::Ordering::Relaxed) {
                    "https"
                } else {
                    "http"
                };
                let home = format!("{scheme}://{}/", self.endpoint.host).parse::<Uri>();
                if !home.is_ok_and(|home| self.is_private(&home)) {
                    return Err(self.denied("credentials are not sent over plain HTTP").into());
                }
                format!("Basic {basic}")
            }
            (None, Some(_), Some(_)) => {
                return Err(self.denied("the credentials are not accepted").into());
            }
            (None, Some(_), None) => return Err(self.denied("it wants a login").into()),
            (None, None, _) => {
                return Err(self
                    .denied("it offers no way to log in that is known here")
                    .into());
            }
        };
        let mut value = HeaderValue::from_str(&value).map_err(|_| self.denied("its token cannot be sent"))?;
        value.set_sensitive(true);
        *kept = Some(value);
        Ok(())
    }

    /// A token for what is to be done, and with `lasting` an identity token
    /// where the server gives one.
    pub(super) async fn token(
        &self,
        challenge: &Challenge,
        lasting: bool,
    ) -> Result<(String, Option<String>), Failure> {
        let login = &self.credentials().await.login;
        let realm: Uri = challenge
            .parameter("realm")
            .and_then(|realm| realm.parse().ok())
            .filter(|uri: &Uri| uri.authority().is_some())
            .ok_or_else(|| self.denied("its token server has no valid address"))?;
        let mut scopes = self.scopes.clone();
        // Mostly one of ours in other words; a registry may want something else.
        if let Some(scope) = challenge.parameter("scope") {
            for scope in scope.split(' ') {
                let name = scope.rsplit_once(':').map_or(scope, |(name, _)| name);
                let known = |own: &String| own.rsplit_once(':').is_some_and(|(own, _)| own == name);
                if !scope.is_empty() && !scopes.iter().any(known) {
                    scopes.push(scope.to_owned());
                }
            }
        }
        let mut fields = Vec::new();
        if let Some(service) = challenge.parameter("service") {
            fields.push(("service", service.to_owned()));
        }
        if login.is_some() && !self.is_private(&realm) {
            return Err(self
                .denied("credentials are not sent to a token server over plain HTTP")
                .into());
        }
        let identity = match login {
            Some(Login::Identity(token)) => Some(token),
            _ => None,
        };
        let encode = |fields: &[(&str, String)]| {
            let form: Vec<_> = fields
                .iter()
                .map(|(key, value)| format!("{key}={}", percent(value)))
                .collect();
            form.join("&")
        };
        let ask = if let Some(token) = identity {
            fields.push(("scope", scopes.join(" ")));
            fields.push(("grant_type", "refresh_token".to_owned()));
            fields.push(("client_id", "rcompose".to_owned()));
            fields.push(("refresh_token", token.clone()));
            let form = Bytes::from(encode(&fields));
            let mut ask = Ask::new(Method::POST, Target::At(realm.clone()), "a token", &[]).header(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            );
            ask.body = Some(Box::new(move || bytes(form.clone())));
            ask
        } else {
            // One field for each: what token servers read.
            fields.extend(scopes.into_iter().map(|scope| ("scope", scope)));
            if lasting {
                fields.push(("offline_token", "true".to_owned()));
                fields.push(("client_id", "rcompose".to_owned()));
            }
            let separator = if realm.query().is_some() { '&' } else { '?' };
            let target = format!("{realm}{separator}{}", encode(&fields))
                .parse()
                .map_err(|_| self.denied("its token server has no valid address"))?;
            let mut ask = Ask::new(Method::GET, Target::At(target), "a token", &[]);
            if let Some(Login::Basic(basic)) = login {
                let mut value = HeaderValue::from_str(&format!("Basic {basic}"))
                    .map_err(|_| self.denied("the credentials cannot be sent"))?;
                value.set_sensitive(true);
                ask = ask.header(header::AUTHORIZATION, value);
            }
            ask
        };
        let target = match &ask.target {
            Target::At(target) => target.clone(),
            _ => realm.clone(),
        };
        let request = self.request(&ask, &target)?;
        let response = self.send(request, &target, &ask).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                let what = if login.is_some() {
                    "the credentials are not accepted"
                } else {
                    "it wants a login"
                };
                return Err(self.denied(what).into());
            }
            _ => {
                let (head, body) = self.message(response).await;
                return Err(self.status(&head, &body, &realm, "a token"));
            }
        }
        let body = Limited::new(response.into_body(), MESSAGE_LIMIT * 4).collect();
        let host = realm.host().unwrap_or_default();
        let broken = |reason: String| Failure::Passing(self.transfer_from(host, "a token", reason), None);
        let body = match timeout(PATIENCE, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return Err(broken(chain(error.as_ref()))),
            Err(_) => return Err(broken("no data for a minute".to_owned())),
        };
        let granted: Granted = serde_json::from_slice(&body)
            .map_err(|_| self.denied("its token server answers without a token"))?;
        let token = granted
            .token
            .filter(|token| !token.is_empty())
            .or(granted.access_token)
            .ok_or_else(|| self.denied("its token server answers without a token"))?;
        Ok((token, granted.refresh_token.filter(|token| !token.is_empty())))
    }
}

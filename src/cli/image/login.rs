//! `login` and `logout`.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::process::ExitCode;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::super::block_on;
use super::super::context::Context;
use super::super::failure::{Failure, Outcome};
use super::arguments::{Login, Logout};
use super::{not_dry, store};
use crate::image::Progress;
use crate::image::reference::DEFAULT_REGISTRY;

/// The registry that was typed, as references name it.
fn registry(typed: Option<&str>) -> String {
    let text = typed.unwrap_or(DEFAULT_REGISTRY).trim();
    let text = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text);
    let host = text.split('/').next().unwrap_or_default();
    match host {
        "" | "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY.to_owned(),
        other => other.to_ascii_lowercase(),
    }
}

pub(in crate::cli) fn login(context: &Context, typed: &Login) -> Outcome {
    not_dry(context, "login")?;
    let registry = registry(typed.registry.as_deref());
    let failed = |error: io::Error| Failure::new(format!("read standard input: {error}"));
    if typed.password_stdin && typed.username.is_none() {
        return Err(Failure::new("--password-stdin needs --username"));
    }
    if typed.password.is_some() {
        context
            .terminal
            .warning("a password on the command line can be seen by others: use --password-stdin");
    }
    let terminal = io::stdin().is_terminal();
    let user = match &typed.username {
        Some(user) => user.clone(),
        None if terminal => {
            context.terminal.err("Username: ");
            line().map_err(failed)?
        }
        None => return Err(Failure::new("a user name is needed").hint("use --username and --password-stdin")),
    };
    let password = match &typed.password {
        Some(password) => password.clone(),
        None if typed.password_stdin => {
            let mut text = String::new();
            io::stdin()
                .lock()
                .take(1 << 20)
                .read_to_string(&mut text)
                .map_err(failed)?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None if terminal => {
            context.terminal.err("Password: ");
            let password = secret().map_err(failed)?;
            context.terminal.err("\n");
            password
        }
        None => return Err(Failure::new("a password is needed").hint("use --password-stdin")),
    };
    if user.is_empty() || password.is_empty() {
        return Err(Failure::new("a user name and a password are needed"));
    }
    let store = store(context);
    let warn = |event: Progress| {
        if let Progress::Warning { text } = event {
            context.terminal.warning(&text);
        }
    };
    let kept = block_on(store.log_in(&registry, &user, &password, warn))?;
    context.terminal.err(&format!("{kept}\n"));
    context.terminal.out("Login Succeeded\n");
    Ok(ExitCode::SUCCESS)
}

pub(in crate::cli) fn logout(context: &Context, typed: &Logout) -> Outcome {
    not_dry(context, "logout")?;
    let registry = registry(typed.registry.as_deref());
    let text = if store(context).log_out(&registry)? {
        format!("Removing login credentials for {registry}\n")
    } else {
        format!("Not logged in to {registry}\n")
    };
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

fn line() -> io::Result<String> {
    let mut text = String::new();
    io::stdin().lock().read_line(&mut text)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A line that the terminal does not show.
fn secret() -> io::Result<String> {
    let input = io::stdin();
    let before = tcgetattr(&input)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&input, OptionalActions::Flush, &silent)?;
    let text = line();
    tcsetattr(&input, OptionalActions::Flush, &before)?;
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_as_people_type_them() {
        for (typed, name) in [
            (None, "docker.io"),
            (Some("https://index.docker.io/v1/"), "docker.io"),
            (Some("ghcr.io"), "ghcr.io"),
            (Some("https://R.test:5000/v2/"), "r.test:5000"),
        ] {
            assert_eq!(registry(typed), name);
        }
    }
}

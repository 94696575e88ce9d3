//! `wait`: until the containers of services have ended.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::io::Interest;
use tokio::task::JoinSet;

use super::context::{Context, Loaded, known_services};
use super::failure::{Failure, Outcome};
use super::request::{apply, need_privilege};
use crate::host::{View, last_exit, replicas, running};
use crate::plan::{self, ContainerState, Intent};
use crate::runtime::{Liveness, probe};
use crate::supervisor::protocol::Watching;
use crate::sys::readiness::watch;

/// Status of a container whose monitor was killed: as after SIGKILL.
const LOST: i32 = 137;

/// `wait`.
#[derive(Debug, Args)]
pub(super) struct Wait {
    /// Services whose containers are waited for
    #[arg(required = true)]
    services: Vec<String>,
    /// Take the project down when they have ended
    #[arg(long)]
    down_project: bool,
}

pub(super) fn wait(context: &Context, typed: &Wait) -> Outcome {
    let loaded = context.load_or_recall(&typed.services)?;
    known_services(&loaded.project, &typed.services)?;
    let mut list = replicas(&context.world, &loaded.project.name)?;
    list.retain(|view| typed.services.contains(&view.record.config.name));
    if list.is_empty() {
        return Err(Failure::new(format!(
            "no containers for project \"{}\"",
            loaded.project.name
        )));
    }
    if typed.down_project {
        need_privilege()?;
    }
    let code = super::block_on(ends(context, list, |view, code| {
        context.terminal.out(&format!(
            "container \"{}\" exited with status code {code}\n",
            view.record.id
        ));
    }))?;
    if typed.down_project {
        down(context, loaded)?;
    }
    Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)))
}

/// Waits for the end of every container, says each, and gives the status of
/// the last one.
pub(super) async fn ends(
    context: &Context,
    list: Vec<View>,
    mut say: impl FnMut(&View, i32),
) -> Result<i32, Failure> {
    let mut told = |view: &View| -> Result<i32, Failure> {
        let code = status(context, view)?;
        say(view, code);
        Ok(code)
    };
    let mut waits = JoinSet::new();
    let mut last = 0;
    for view in list {
        let alive = match running(&context.world, &view.record)? {
            Some(record) => match probe(&record).map_err(Failure::new)? {
                Liveness::Running { monitor, .. } => Some(monitor),
                _ => None,
            },
            None => None,
        };
        match alive {
            None => last = told(&view)?,
            Some(monitor) => {
                use std::os::fd::AsFd as _;
                let failed = |error| Failure::new(format!("watch {}: {error}", view.record.name));
                let fd = monitor.as_fd().try_clone_to_owned().map_err(failed)?;
                // Readable when its process has ended, by when it has written
                // how the container ended.
                let ended = watch(fd, Interest::READABLE).map_err(failed)?;
                waits.spawn(async move {
                    let _ = ended.readable().await;
                    view
                });
            }
        }
    }
    while let Some(view) = waits.join_next().await {
        let view = view.map_err(Failure::new)?;
        recorded(context, &view).await?;
        last = told(&view)?;
    }
    Ok(last)
}

/// How long the record of an end is waited for whose monitor was killed.
const PATIENCE: Duration = Duration::from_secs(3);

/// Waits until it is written how a container ended: if its monitor was killed, the
/// supervisor is about to.
async fn recorded(context: &Context, view: &View) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while last_exit(&context.world, &view.record)?.is_none()
        && running(&context.world, &view.record)?.is_some()
        && Instant::now() < deadline
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// How a container ended that has.
fn status(context: &Context, view: &View) -> Result<i32, Failure> {
    Ok(match (&view.state, last_exit(&context.world, &view.record)?) {
        (_, Some(exit)) => exit.code,
        (ContainerState::Created, None) => 0,
        (ContainerState::Exited { code, .. }, None) => *code,
        (_, None) => LOST,
    })
}

fn down(context: &Context, loaded: Loaded) -> Result<(), Failure> {
    let intent = Intent::Down(plan::Down {
        remove_orphans: true,
        ..plan::Down::default()
    });
    apply(context, loaded, intent, Some(Watching::Off))
}

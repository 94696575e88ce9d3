//! The only door to this machine: observes it, and performs one action at a time.
//!
//! [`Host`] is what the executor walks a plan on. [`Machine`] is the real one;
//! tests of the executor bring their own, which fails on demand.
//!
//! A container's record is written by [`create`] and read by all others; a run
//! of it begins and ends in [`start`], is ended by [`stop`] and taken over by
//! [`adopt`]; [`update`] changes one that goes on. What it is given beside its
//! image has a room each: configs and secrets in [`given`], the files of `/etc`
//! in [`etc`], commands in its life in [`hook`], questions about its health in
//! [`probe`], the answers in [`health`], ports and names in [`traffic`]; what it has of containers of other
//! stacks in [`others`], which other runtime makes it in [`runtimes`].

use std::future::Future;
use std::sync::Arc;

use crate::plan::{Observed, Operation};
use crate::project::Project;

mod adopt;
mod cdi;
mod create;
mod error;
mod etc;
mod files;
pub mod given;
mod health;
mod hook;
pub mod inventory;
mod logging;
mod look;
mod machine;
mod others;
mod prepare;
mod probe;
mod record;
mod runtimes;
mod selinux;
mod spec;
mod start;
mod stop;
mod traffic;
mod update;
mod view;

pub use error::HostError;
pub use files::{Files, files};
pub use given::Given;
pub use health::{HealthRecord, Probed, health};
pub use look::{Waiting, is_restarting, last_exit, projects, running, stacks, volumes};
pub use machine::{Hear, Machine, News, Started};
pub use record::{Check, ContainerRecord, containers};
pub use start::{client_path, restart_policy};
pub use view::{Published, View, observe, recall, replicas, views};

/// Something that a plan can be performed on.
pub trait Host: Send + Sync + 'static {
    /// One snapshot of what is there of a project.
    fn observe(
        self: &Arc<Self>,
        project: &Arc<Project>,
    ) -> impl Future<Output = Result<Observed, HostError>> + Send;

    /// Does one operation; says what the user should know of it. Repeating an
    /// operation that was done, wholly or in part, does no harm.
    fn perform(
        self: &Arc<Self>,
        project: &Project,
        operation: &Operation,
    ) -> impl Future<Output = Result<Vec<String>, HostError>> + Send;
}

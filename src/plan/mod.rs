//! The planner: a pure function of (project, observed, intent) to a [`Plan`].
//!
//! * [`Observed`] is one snapshot of what the host says is there now.
//! * [`Intent`] is what a command, or a reload of the stack file, asks for.
//! * A [`Plan`] is a DAG of [`Action`]s, each with its cause and its
//!   prerequisites, and of [`Hold`]s: why the rest is left alone.
//!
//! `up`, `down`, `stop`, `start`, `restart`, `plan` and live reload all come
//! through here; the executor (`reconcile`) decides nothing.
//!
//! ```text
//! (project, observed, intent) ─▶ planner: diff ─▶ slots ─▶ schedule ─▶ draft ─▶ Plan ─▶ render
//!                                                                                └────▶ check
//! ```
//!
//! [`diff`] says which fields of a definition changed, `planner` decides and
//! orders, `draft` sorts, [`render`] prints, and [`check()`] tells of any plan,
//! independently of who made it, whether it contradicts itself. [`recall()`]
//! makes a project from what is there when there is no file.
//!
//! A command observes, plans and executes until the plan is empty: a plan that
//! fetched images with `pull_policy: always` is followed by one with
//! [`Up::pulled`] set.

mod action;
mod check;
pub mod diff;
mod draft;
mod error;
mod intent;
mod observed;
mod planner;
mod recall;
mod recorded;
pub mod render;
mod saved;

pub use action::*;
pub use check::{Fault, check};
pub use error::PlanError;
pub use intent::*;
pub use observed::*;
pub use planner::plan;
pub use recall::recall;
pub use recorded::Recorded;
pub use saved::Expected;

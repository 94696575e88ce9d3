//! The planner: a pure function of (project, observed, intent) to a [`Plan`].
//!
//! * [`Observed`] is one snapshot of what the host says is there now.
//! * [`Intent`] is what a command, or a reload of the stack file, asks for.
//! * A [`Plan`] is a DAG of [`Action`]s, each with its cause and its
//!   prerequisites, and of [`Hold`]s: why the rest is left alone.
//!
//! `up`, `down`, `stop`, `start`, `restart`, `plan` and live reload all come
//! through here; the executor (`reconcile`) decides nothing.

mod action;
mod intent;
mod observed;

pub use action::*;
pub use intent::*;
pub use observed::*;

//! The typed project: what a stack file means once it is merged, interpolated,
//! normalised and validated.
//!
//! Everything downstream (graph, plan, host) reads these types and nothing
//! else; defaults are applied here, once.
//!
//! # How it works
//!
//! ```text
//! stack ─▶ normalise ─▶ profiles ─▶ check ─▶ env files ─▶ Model ─▶ decode ─▶ Project
//! document  names, nets  on or off   undefined,  variables    │     types, refusals
//!                                    exclusive                └─▶ config
//! ```
//!
//! [`load()`] goes all the way; [`load_model`] stops at the [`Model`], the
//! normalised document, which holds everything the Compose Specification knows.
//! [`config`] prints that, so that it shows what cannot be run yet too. What
//! cannot be run is refused by `decode`, with its place and the reason.
//!
//! # Known to be weak
//!
//! A published port that two services claim is found by the host, not here.
//! `security_opt` profiles, `host-gateway` and hooks are refused.

mod check;
pub mod config;
mod decode;
mod hash;
mod load;
mod model;
mod normalise;
#[cfg(test)]
mod tests;

pub use hash::hash;
pub use load::{LoadFailure, LoadRequest, Loaded, Model, Rules, load, load_model};
pub use model::*;

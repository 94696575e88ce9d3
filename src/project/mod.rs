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
//! document  names, nets  on or off   undefined,  variables    │      types
//!                                    exclusive                └─▶ config
//! ```
//!
//! [`load()`] goes all the way; [`load_any`] leaves out the last step, the
//! refusal of what this host cannot run ([`unsupported`], one table);
//! [`load_model`] stops at the [`Model`], the normalised document, which
//! [`config`] prints.
//!
//! # Known to be weak
//!
//! A published port that two services claim is found by the host, not here.

mod check;
pub mod config;
mod decode;
mod driver;
mod hash;
mod load;
mod logging;
mod model;
mod normalise;
pub mod placement;
pub mod provenance;
#[cfg(test)]
mod tests;
pub mod unsupported;

pub use driver::{BridgeOptions, EndpointOptions, GatewayMode, WrongOption, wrong_volume_option};
pub use hash::hash;
pub use load::{LoadFailure, LoadRequest, Loaded, Model, Rules, load, load_any, load_model};
pub use logging::{LOG_DRIVERS, LogBounds, LogDetails, LogTag, SyslogPlace};
pub use model::*;
pub use unsupported::runs_here;

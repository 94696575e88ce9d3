//! The typed project: what a stack file means once it is merged, interpolated,
//! normalised and validated.
//!
//! Everything downstream (graph, plan, host) reads these types and nothing
//! else; defaults are applied here, once.

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

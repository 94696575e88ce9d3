//! The typed project: what a stack file means once it is merged, interpolated,
//! normalised and validated.
//!
//! Everything downstream (graph, plan, host) reads these types and nothing
//! else; defaults are applied here, once.

mod model;

pub use model::*;

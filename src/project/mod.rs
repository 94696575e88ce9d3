//! The typed project: what a stack file means once it is merged, interpolated,
//! normalised and validated.
//!
//! Everything downstream (graph, plan, host) reads these types and nothing
//! else; defaults are applied here, once.

pub mod load;
pub mod config { use super::Project; pub fn yaml(_:&Project)->Result<String,String>{Ok(String::new())} pub fn json(_:&Project)->Result<String,String>{Ok(String::new())} }
pub fn hash(_:&Service)->String{String::new()}
mod model;

pub use model::*;

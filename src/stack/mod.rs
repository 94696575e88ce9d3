//! Stack files to one merged document; every value knows its origin.

mod canonical;
mod diagnostic;
mod dotenv;
mod fields;
mod form;
mod interpolate;
mod merge;
mod parse;
mod scalar;
mod short;
mod source;
mod tree;
mod validate;
pub use diagnostic::*;
pub use source::*;
pub use tree::*;

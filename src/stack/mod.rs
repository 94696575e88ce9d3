//! Stack files to one merged document; every value knows its origin.
//!
//! # How it works
//!
//! ```text
//! discover ─▶ parse ─▶ interpolate ─▶ check ─▶ long form ─▶ include, extends ─▶ merge ─▶ paths
//! files, env   YAML     variables      types    canonical    other files        -f over -f
//! ```
//!
//! [`discover()`] finds the files and the variables, [`assemble()`] makes one
//! [`Node`] of them. Everything is said through a [`Report`], which keeps the
//! texts so that a message can quote its line. All errors that do not follow
//! from one another are reported: a value with an error is taken out and the
//! service it is in is marked.
//!
//! The order is docker compose's with one difference: each file is brought into
//! its long form *before* it is merged, so that merging knows one way of writing
//! each value. What an override file may leave out is checked by
//! [`check_complete`] on the merged document.
//!
//! One table, `fields`, describes every value of the Compose Specification.
//! Validation, suggestions, casts, long forms, merge rules, the JSON schema and
//! the printing of `config` read it.
//!
//! Nothing here touches the machine but through [`Files`].
//!
//! # Known to be weak
//!
//! Columns point at the beginning of a value, not at the variable inside it.
//! Remote resources (`git`, `oci`) of `include` and `extends` are read as paths.

mod assemble;
mod canonical;
mod diagnostic;
mod discover;
mod dotenv;
mod extend;
mod fields;
mod form;
mod include;
mod interpolate;
mod mapping;
mod merge;
mod parse;
mod paths;
mod read;
mod scalar;
mod schema;
mod short;
mod source;
mod trace;
mod tree;
mod validate;

pub use assemble::{assemble, declared_name};
pub use diagnostic::{Code, Diagnostic, Origin, Severity};
pub use discover::{Found, Wanted, discover};
pub use dotenv::{DotenvError, parse as parse_env_file, parse_raw as parse_raw_env_file};
pub use fields::STACK_FORM;
pub use form::{Field, Form, Format, Kind, Print, Shape};
pub use interpolate::{Environment, InterpolationError, Variable, substitute, variables};
pub use read::{EnvFileRequest, ParsedFile, parse_file, read_env_file, read_file};
pub use scalar::is_plain_text;
pub use schema::json_schema;
pub use short::{
    AmountError, MountError, PortError, ShortMount, ShortPort, TimeError, WordsError, clean_path,
    format_duration, is_clean, parse_amount, parse_duration, parse_mount, parse_port_range, parse_ports,
    split_words,
};
pub use source::{DiskFiles, FileKind, Files, History, LONGEST_FILE, Options, Place, Report};
pub use trace::{Replaced, Trace, UsedVariable, VariableSource, Via};
pub use tree::{Entry, Mapping, Node, Tag, Trail, Value};

/// Checks the merged document for what a single file need not have: required
/// fields, values that are nothing.
pub fn check_complete(document: &Node, report: &mut Report) {
    validate::check_merged(document, &STACK_FORM, &Trail::Root, report);
}

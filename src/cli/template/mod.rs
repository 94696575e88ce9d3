//! `--format`: the part of Go's text/template that docker's users write.
//!
//! Text with actions in `{{ }}`: fields (`.ID`, `.Config.Env`, `$`), variables,
//! pipelines, `if`, `else if`, `range`, `with`, `define`-less. Functions: `json`,
//! `upper`, `lower`, `title`, `join`, `split`, `pad`, `truncate`, `println`,
//! `print`, `printf`, `len`, `index`, `slice`, `eq`, `ne`, `lt`, `le`, `gt`, `ge`,
//! `and`, `or`, `not`. `{{-` and `-}}` trim. Data are JSON values: a field that
//! the outermost value does not have is an error, as it is with docker; what is
//! missing further inside prints as `<no value>`.
//!
//! `parse.rs` reads a template, `run.rs` carries it out, `function.rs` has the
//! functions. [`list`] understands docker's formats of lists: `table`,
//! `table TEMPLATE`, `json`, `TEMPLATE`.

use std::fmt;

use serde_json::Value;

mod function;
mod list;
mod parse;
mod run;
#[cfg(test)]
mod tests;

pub(super) use list::list;

/// A template that cannot be read or carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("format: {0}")]
pub(super) struct TemplateError(String);

type Result<T> = std::result::Result<T, TemplateError>;

fn wrong<T>(text: impl fmt::Display) -> Result<T> {
    Err(TemplateError(text.to_string()))
}

/// Actions inside actions.
const DEPTH_LIMIT: usize = 64;

/// A template that has been read.
#[derive(Clone, Debug)]
pub(super) struct Template {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug)]
enum Node {
    Text(String),
    Print(Pipeline),
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Pipeline, Vec<Node>, Vec<Node>),
}

#[derive(Clone, Debug, Default)]
struct Pipeline {
    /// `$a :=`, or `$i, $a :=` of a range.
    variables: Vec<String>,
    commands: Vec<Vec<Operand>>,
}

#[derive(Clone, Debug)]
enum Operand {
    /// `.`, `.A.B`
    Field(Vec<String>),
    /// `$`, `$a.B`
    Variable(String, Vec<String>),
    Constant(Value),
    Function(String),
    /// `(…)`, `(…).A`
    Inner(Pipeline, Vec<String>),
}

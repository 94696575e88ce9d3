//! From nodes and a value to text.

use serde_json::Value;

use super::function::{call, text, truth};
use super::{Node, Operand, Pipeline, Result, Template, wrong};

impl Template {
    /// Fills it in.
    pub(in crate::cli) fn render(&self, data: &Value) -> Result<String> {
        let mut state = State {
            root: data,
            variables: Vec::new(),
            out: String::new(),
        };
        state.nodes(&self.nodes, data)?;
        Ok(state.out)
    }
}

struct State<'a> {
    root: &'a Value,
    variables: Vec<(String, Value)>,
    out: String,
}

impl State<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<()> {
        let known = self.variables.len();
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Print(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    match pipeline.variables.first() {
                        Some(name) => self.variables.push((name.clone(), value)),
                        None => self.out.push_str(&text(&value)),
                    }
                }
                Node::If(branches, other) => {
                    let mut chosen = other;
                    for (condition, body) in branches {
                        if truth(&self.pipeline(condition, dot)?) {
                            chosen = body;
                            break;
                        }
                    }
                    self.nodes(chosen, dot)?;
                }
                Node::With(pipeline, body, other) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if truth(&value) {
                        if let Some(name) = pipeline.variables.first() {
                            self.variables.push((name.clone(), value.clone()));
                        }
                        self.nodes(body, &value)?;
                    } else {
                        self.nodes(other, dot)?;
                    }
                }
                Node::Range(pipeline, body, other) => {
                    let items: Vec<(Value, Value)> = match self.pipeline(pipeline, dot)? {
                        Value::Array(list) => list
                            .into_iter()
                            .enumerate()
                            .map(|(at, item)| (at.into(), item))
                            .collect(),
                        Value::Object(map) => {
                            let mut items: Vec<_> = map.into_iter().collect();
                            // Go goes through the keys in order.
                            items.sort_by(|a, b| a.0.cmp(&b.0));
                            items.into_iter().map(|(key, item)| (key.into(), item)).collect()
                        }
                        Value::Null => Vec::new(),
                        other => return wrong(format!("range over {other} is not possible")),
                    };
                    if items.is_empty() {
                        self.nodes(other, dot)?;
                    }
                    for (key, item) in items {
                        let before = self.variables.len();
                        match pipeline.variables.as_slice() {
                            [one] => self.variables.push((one.clone(), item.clone())),
                            [first, second] => {
                                self.variables.push((first.clone(), key));
                                self.variables.push((second.clone(), item.clone()));
                            }
                            _ => {}
                        }
                        self.nodes(body, &item)?;
                        self.variables.truncate(before);
                    }
                }
            }
        }
        self.variables.truncate(known);
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, dot, value)?);
        }
        Ok(value.unwrap_or_default())
    }

    fn command(&mut self, command: &[Operand], dot: &Value, piped: Option<Value>) -> Result<Value> {
        let Some((first, rest)) = command.split_first() else {
            return wrong("a command is missing");
        };
        let mut arguments = Vec::new();
        for operand in rest {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(piped);
        match first {
            Operand::Function(name) => call(name, arguments),
            // docker's rows have a method that takes the name of a label.
            Operand::Field(fields)
                if fields.len() == 1 && fields.first().is_some_and(|name| name == "Label") =>
            {
                match arguments.as_slice() {
                    [Value::String(name)] => Ok(label(dot, name)),
                    _ => wrong(".Label wants the name of a label"),
                }
            }
            other if arguments.is_empty() => self.operand(other, dot),
            _ => wrong("only a function takes arguments"),
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value> {
        match operand {
            Operand::Constant(value) => Ok(value.clone()),
            Operand::Field(fields) => descend(dot, fields, std::ptr::eq(dot, self.root)),
            Operand::Variable(name, fields) if name.is_empty() => descend(self.root, fields, true),
            Operand::Variable(name, fields) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                match known {
                    Some((_, value)) => descend(value, fields, false),
                    None => wrong(format!("there is no variable ${name}")),
                }
            }
            Operand::Inner(pipeline, fields) => {
                let value = self.pipeline(pipeline, dot)?;
                descend(&value, fields, false)
            }
            Operand::Function(name) => call(name, Vec::new()),
        }
    }
}

/// The value of a chain of fields; `strict`: the first must be there.
fn descend(value: &Value, fields: &[String], strict: bool) -> Result<Value> {
    let mut value = value;
    for (at, name) in fields.iter().enumerate() {
        match value.get(name) {
            Some(found) => value = found,
            None if strict && at == 0 => {
                return wrong(format!("there is no field .{name}"));
            }
            None if value.is_object() || value.is_null() => return Ok(Value::Null),
            None => return wrong(format!(".{name} of something that has no fields")),
        }
    }
    Ok(value.clone())
}

/// The label of a row: its labels are an object, or `name=value,…`.
fn label(row: &Value, name: &str) -> Value {
    match row.get("Labels") {
        Some(Value::Object(labels)) => labels.get(name).cloned().unwrap_or_else(|| "".into()),
        Some(Value::String(labels)) => {
            let found = labels
                .split(',')
                .find_map(|label| label.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_default().into()
        }
        _ => "".into(),
    }
}

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
//! [`list`] understands docker's formats of lists: `table`, `table TEMPLATE`,
//! `json`, `TEMPLATE`.

use std::fmt;

use serde_json::Value;

use super::terminal;

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

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    /// `.A.B`; empty for `.`
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Constant(Value),
    Open,
    Close(Vec<String>),
    Pipe,
    Comma,
    Assign,
}

impl Template {
    /// Reads a template.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut pieces = Vec::new();
        let mut rest = text;
        let mut trim = false;
        while let Some(start) = rest.find("{{") {
            let (before, after) = rest.split_at(start);
            let after = after.get(2..).unwrap_or_default();
            let left = after
                .strip_prefix('-')
                .filter(|rest| rest.starts_with(char::is_whitespace));
            let before = if trim { before.trim_start() } else { before };
            let before = if left.is_some() { before.trim_end() } else { before };
            pieces.push(Piece::Text(before.to_owned()));
            let inside = left.unwrap_or(after);
            let end = end_of_action(inside)?;
            let (action, after) = inside.split_at(end);
            rest = after.get(2..).unwrap_or_default();
            let right = action
                .strip_suffix('-')
                .filter(|rest| rest.ends_with(char::is_whitespace));
            trim = right.is_some();
            let action = right.unwrap_or(action).trim();
            if !(action.starts_with("/*") && action.ends_with("*/")) {
                pieces.push(Piece::Action(action.to_owned()));
            }
        }
        pieces.push(Piece::Text(
            if trim { rest.trim_start() } else { rest }.to_owned(),
        ));
        let mut parser = Parser {
            pieces: pieces.into_iter(),
            depth: 0,
        };
        let (nodes, end) = parser.nodes()?;
        match end {
            None => Ok(Self { nodes }),
            Some(end) => wrong(format!("unexpected {{{{{end}}}}}")),
        }
    }

    /// Fills it in.
    pub(super) fn render(&self, data: &Value) -> Result<String> {
        let mut state = State {
            root: data,
            variables: Vec::new(),
            out: String::new(),
        };
        state.nodes(&self.nodes, data)?;
        Ok(state.out)
    }
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Action(String),
}

/// Where `}}` is that no string holds.
fn end_of_action(text: &str) -> Result<usize> {
    if let Some(comment) = text.trim_start().strip_prefix("/*") {
        let skipped = text.len() - comment.len();
        let end = comment
            .find("*/")
            .and_then(|end| Some(end + comment.get(end..)?.find("}}")?));
        return end
            .map(|end| skipped + end)
            .ok_or(TemplateError("a comment is not closed".to_owned()));
    }
    let mut quote = None;
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match (quote, character) {
            _ if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '`') => quote = Some(character),
            (None, '}') if text.get(at..).is_some_and(|rest| rest.starts_with("}}")) => return Ok(at),
            _ => {}
        }
    }
    wrong("an action is not closed by }}")
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    depth: usize,
}

impl Parser {
    /// Nodes up to an `end` or `else`, which is returned, or the end of the text.
    fn nodes(&mut self) -> Result<(Vec<Node>, Option<String>)> {
        self.depth += 1;
        if self.depth > DEPTH_LIMIT {
            return wrong("too many actions inside each other");
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let action = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(action) => action,
            };
            let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
            match word {
                "end" | "else" => {
                    self.depth -= 1;
                    return Ok((nodes, Some(action)));
                }
                "if" => nodes.push(self.condition(rest)?),
                "with" | "range" => {
                    let pipeline = pipeline(rest)?;
                    let (body, end) = self.nodes()?;
                    let other = self.other(end)?;
                    nodes.push(if word == "with" {
                        Node::With(pipeline, body, other)
                    } else {
                        Node::Range(pipeline, body, other)
                    });
                }
                "template" | "define" | "block" | "break" | "continue" => {
                    return wrong(format!("{{{{{word}}}}} is not known here"));
                }
                _ => nodes.push(Node::Print(pipeline(&action)?)),
            }
        }
        self.depth -= 1;
        Ok((nodes, None))
    }

    fn condition(&mut self, rest: &str) -> Result<Node> {
        let mut branches = Vec::new();
        let mut condition = pipeline(rest)?;
        loop {
            let (body, end) = self.nodes()?;
            branches.push((condition, body));
            let end = end.ok_or(TemplateError("{{if}} lacks its {{end}}".to_owned()))?;
            let next = end.strip_prefix("else").map(str::trim_start);
            match next.and_then(|next| next.strip_prefix("if")) {
                Some(next) => condition = pipeline(next)?,
                None => {
                    let other = self.other(Some(end))?;
                    return Ok(Node::If(branches, other));
                }
            }
        }
    }

    /// What follows an `else`; nothing after an `end`.
    fn other(&mut self, end: Option<String>) -> Result<Vec<Node>> {
        match end.as_deref() {
            Some("end") => Ok(Vec::new()),
            Some("else") => match self.nodes()? {
                (nodes, Some(end)) if end == "end" => Ok(nodes),
                _ => wrong("{{else}} lacks its {{end}}"),
            },
            Some(other) => wrong(format!("unexpected {{{{{other}}}}}")),
            None => wrong("an {{end}} is missing"),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(first) = rest.chars().next() {
        let after = rest.get(first.len_utf8()..).unwrap_or_default();
        let (token, next) = match first {
            '|' => (Token::Pipe, after),
            ',' => (Token::Comma, after),
            '(' => (Token::Open, after),
            ')' => {
                let (fields, next) = if after.starts_with('.') {
                    fields(after)
                } else {
                    (vec![], after)
                };
                (Token::Close(fields), next)
            }
            ':' if after.starts_with('=') => (Token::Assign, after.get(1..).unwrap_or_default()),
            '=' => (Token::Assign, after),
            '.' => {
                let (fields, next) = fields(rest);
                (Token::Field(fields), next)
            }
            '$' => {
                let end = after.find(|c| !is_name(c)).unwrap_or(after.len());
                let (name, next) = after.split_at(end);
                let (fields, next) = if next.starts_with('.') {
                    fields(next)
                } else {
                    (vec![], next)
                };
                (Token::Variable(name.to_owned(), fields), next)
            }
            '"' => {
                let mut escaped = false;
                let end = after.char_indices().find(|(_, c)| {
                    let closes = *c == '"' && !escaped;
                    escaped = *c == '\\' && !escaped;
                    closes
                });
                let Some((end, _)) = end else {
                    return wrong("a string is not closed");
                };
                let (inside, next) = after.split_at(end);
                let next = next.get(1..).unwrap_or_default();
                (Token::Constant(Value::String(unquote(inside))), next)
            }
            '`' => {
                let Some((inside, next)) = after.split_once('`') else {
                    return wrong("a string is not closed");
                };
                (Token::Constant(inside.into()), next)
            }
            c if c.is_ascii_digit() || c == '-' || c == '+' => {
                let end = after
                    .find(|c: char| !(c.is_alphanumeric() || c == '.'))
                    .unwrap_or(after.len());
                let (digits, next) = after.split_at(end);
                let number = format!("{first}{digits}");
                let number = number.trim_start_matches('+');
                let value = match (number.parse::<i64>(), number.parse::<f64>()) {
                    (Ok(whole), _) => Value::from(whole),
                    (_, Ok(real)) => Value::from(real),
                    _ => return wrong(format!("{number} is no number")),
                };
                (Token::Constant(value), next)
            }
            c if is_name(c) => {
                let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
                let (name, next) = rest.split_at(end);
                let token = match name {
                    "true" => Token::Constant(true.into()),
                    "false" => Token::Constant(false.into()),
                    "nil" => Token::Constant(Value::Null),
                    _ => Token::Word(name.to_owned()),
                };
                (token, next)
            }
            other => return wrong(format!("unexpected {other:?} in {{{{{text}}}}}")),
        };
        tokens.push(token);
        rest = next.trim_start();
    }
    Ok(tokens)
}

/// `.A.B` and what follows.
fn fields(text: &str) -> (Vec<String>, &str) {
    let mut fields = Vec::new();
    let mut rest = text;
    while let Some(after) = rest.strip_prefix('.') {
        let end = after
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(after.len());
        let (name, next) = after.split_at(end);
        rest = next;
        if name.is_empty() {
            break;
        }
        fields.push(name.to_owned());
    }
    (fields, rest)
}

fn unquote(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

fn pipeline(text: &str) -> Result<Pipeline> {
    let tokens = tokens(text)?;
    let mut rest = tokens.as_slice();
    let pipeline = read_pipeline(&mut rest, 0)?;
    if rest.is_empty() {
        Ok(pipeline)
    } else {
        wrong(format!("unexpected ) in {{{{{text}}}}}"))
    }
}

fn read_pipeline(rest: &mut &[Token], depth: usize) -> Result<Pipeline> {
    if depth > DEPTH_LIMIT {
        return wrong("too many parentheses inside each other");
    }
    let mut variables = Vec::new();
    match *rest {
        [Token::Variable(name, fields), Token::Assign, after @ ..] if fields.is_empty() => {
            variables.push(name.clone());
            *rest = after;
        }
        [
            Token::Variable(first, _),
            Token::Comma,
            Token::Variable(second, _),
            Token::Assign,
            after @ ..,
        ] => {
            variables.extend([first.clone(), second.clone()]);
            *rest = after;
        }
        _ => {}
    }
    let mut commands = vec![Vec::new()];
    while let [token, after @ ..] = *rest {
        if matches!(token, Token::Close(_)) {
            break;
        }
        *rest = after;
        let operand = match token {
            Token::Pipe => {
                commands.push(Vec::new());
                continue;
            }
            Token::Word(name) => Operand::Function(name.clone()),
            Token::Field(fields) => Operand::Field(fields.clone()),
            Token::Variable(name, fields) => Operand::Variable(name.clone(), fields.clone()),
            Token::Constant(value) => Operand::Constant(value.clone()),
            Token::Open => {
                let inner = read_pipeline(rest, depth + 1)?;
                let [Token::Close(fields), after @ ..] = *rest else {
                    return wrong("a parenthesis is not closed");
                };
                *rest = after;
                Operand::Inner(inner, fields.clone())
            }
            Token::Close(_) | Token::Comma | Token::Assign => return wrong("unexpected , or ="),
        };
        if let Some(command) = commands.last_mut() {
            command.push(operand);
        }
    }
    if commands.iter().any(Vec::is_empty) {
        return wrong("a command is missing");
    }
    Ok(Pipeline { variables, commands })
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

/// A value as it is printed.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let items: Vec<_> = list.iter().map(text).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let mut items: Vec<_> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", text(value)))
                .collect();
            items.sort();
            format!("map[{}]", items.join(" "))
        }
        other => other.to_string(),
    }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn call(name: &str, arguments: Vec<Value>) -> Result<Value> {
    let count = arguments.len();
    let one = || match arguments.as_slice() {
        [one] => Ok(one),
        _ => wrong(format!("{name} wants one argument, not {count}")),
    };
    let two = || match arguments.as_slice() {
        [one, two] => Ok((one, two)),
        _ => wrong(format!("{name} wants two arguments, not {count}")),
    };
    let number = |value: &Value| match value.as_u64().and_then(|number| usize::try_from(number).ok()) {
        Some(number) => Ok(number),
        None => wrong(format!("{name}: {} is no number", text(value))),
    };
    Ok(match name {
        "json" => serde_json::to_string(one()?).unwrap_or_default().into(),
        "upper" => text(one()?).to_uppercase().into(),
        "lower" => text(one()?).to_lowercase().into(),
        "title" => {
            let text = text(one()?);
            let mut characters = text.chars();
            let first = characters.next().map(|c| c.to_uppercase().collect::<String>());
            format!("{}{}", first.unwrap_or_default(), characters.as_str()).into()
        }
        "join" => match two()? {
            (Value::Array(list), separator) => {
                let items: Vec<_> = list.iter().map(text).collect();
                items.join(&text(separator)).into()
            }
            (Value::Null, _) => "".into(),
            _ => return wrong("join wants a list"),
        },
        "split" => {
            let (whole, separator) = two()?;
            let (whole, separator) = (text(whole), text(separator));
            whole
                .split(&separator)
                .map(Value::from)
                .collect::<Vec<_>>()
                .into()
        }
        "pad" => match arguments.as_slice() {
            [value, before, after] => {
                let (before, after) = (number(before)?.min(1000), number(after)?.min(1000));
                format!("{}{}{}", " ".repeat(before), text(value), " ".repeat(after)).into()
            }
            _ => return wrong("pad wants three arguments"),
        },
        "truncate" => {
            let (value, length) = two()?;
            text(value)
                .chars()
                .take(number(length)?)
                .collect::<String>()
                .into()
        }
        "print" => arguments.iter().map(text).collect::<Vec<_>>().join(" ").into(),
        "println" => (arguments.iter().map(text).collect::<Vec<_>>().join(" ") + "\n").into(),
        "printf" => match arguments.split_first() {
            Some((form, values)) => printf(&text(form), values)?.into(),
            None => return wrong("printf wants a format"),
        },
        "len" => match one()? {
            Value::String(text) => text.len(),
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            Value::Null => 0,
            _ => return wrong("len of something that has no length"),
        }
        .into(),
        "index" => {
            let mut arguments = arguments.into_iter();
            let Some(mut value) = arguments.next() else {
                return wrong("index wants a value");
            };
            for key in arguments {
                let found = match (&value, &key) {
                    (Value::Array(list), Value::Number(_)) => {
                        let found = list.get(number(&key)?).cloned();
                        found.ok_or_else(|| TemplateError(format!("index {key} is out of range")))?
                    }
                    (Value::Object(map), Value::String(name)) => map.get(name).cloned().unwrap_or_default(),
                    (Value::Null, _) => Value::Null,
                    _ => return wrong(format!("index: {} does not fit", text(&key))),
                };
                value = found;
            }
            value
        }
        "slice" => {
            let from = arguments.get(1).map_or(Ok(0), number)?;
            let to = arguments.get(2).map(number).transpose()?;
            let range = |length: usize| from..to.unwrap_or(length);
            let outside = || TemplateError("slice is out of range".to_owned());
            match arguments.first() {
                Some(Value::String(text)) => text.get(range(text.len())).ok_or_else(outside)?.into(),
                Some(Value::Array(list)) => list.get(range(list.len())).ok_or_else(outside)?.into(),
                _ => return wrong("slice wants a string or a list"),
            }
        }
        "eq" => match arguments.split_first() {
            Some((first, rest)) if !rest.is_empty() => rest.iter().any(|one| same(first, one)).into(),
            _ => return wrong("eq wants two arguments"),
        },
        "ne" => two().map(|(a, b)| !same(a, b))?.into(),
        "lt" => two().and_then(|(a, b)| order(a, b))?.is_lt().into(),
        "le" => two().and_then(|(a, b)| order(a, b))?.is_le().into(),
        "gt" => two().and_then(|(a, b)| order(a, b))?.is_gt().into(),
        "ge" => two().and_then(|(a, b)| order(a, b))?.is_ge().into(),
        "not" => (!truth(one()?)).into(),
        "and" | "or" => {
            let wanted = name == "or";
            let found = arguments.iter().find(|value| truth(value) == wanted);
            match found.or(arguments.last()) {
                Some(value) => value.clone(),
                None => return wrong(format!("{name} wants an argument")),
            }
        }
        _ => return wrong(format!("there is no function {name}")),
    })
}

fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn order(a: &Value, b: &Value) -> Result<std::cmp::Ordering> {
    let found = match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
    };
    found.ok_or_else(|| TemplateError("values of different kinds cannot be compared".to_owned()))
}

/// `%s %v %d %q %t %x %%`, with `-`, `0` and a width.
fn printf(form: &str, values: &[Value]) -> Result<String> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut rest = form;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_alphabetic() || c == '%')
            .unwrap_or(after.len());
        let (flags, tail) = after.split_at(end);
        let Some(verb) = tail.chars().next() else {
            return wrong("printf: the format ends in the middle");
        };
        rest = tail.get(verb.len_utf8()..).unwrap_or_default();
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = values.next() else {
            return wrong("printf: a value is missing");
        };
        let shown = match verb {
            's' | 'v' | 'd' | 't' | 'f' | 'g' => text(value),
            'q' => serde_json::to_string(&text(value)).unwrap_or_default(),
            'x' => match value.as_u64() {
                Some(number) => format!("{number:x}"),
                None => text(value).bytes().map(|byte| format!("{byte:02x}")).collect(),
            },
            other => return wrong(format!("printf: %{other} is not known")),
        };
        let (flags, precision) = flags.split_once('.').unwrap_or((flags, ""));
        let shown: String = match precision.parse::<usize>() {
            Ok(limit) => shown.chars().take(limit).collect(),
            Err(_) => shown,
        };
        let width = flags
            .trim_start_matches(['-', '0', '+', ' '])
            .parse::<usize>()
            .unwrap_or(0)
            .min(1000);
        let fill = width.saturating_sub(shown.chars().count());
        if flags.starts_with('-') {
            out.push_str(&shown);
            out.push_str(&" ".repeat(fill));
        } else {
            out.push_str(&if flags.starts_with('0') { "0" } else { " " }.repeat(fill));
            out.push_str(&shown);
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// A list in one of docker's formats. `columns` are the fields and headings of
/// the plain table; `headings` are those of fields that are not among them.
pub(super) fn list(format: &str, columns: &[(&str, &str)], rows: &[Value]) -> Result<String> {
    let cell = |row: &Value, field: &str| row.get(field).map(text).unwrap_or_default();
    let format = format.trim_start();
    match format {
        "" | "table" => {
            let headings: Vec<_> = columns.iter().map(|(_, heading)| *heading).collect();
            let cells: Vec<Vec<String>> = rows
                .iter()
                .map(|row| columns.iter().map(|(field, _)| cell(row, field)).collect())
                .collect();
            Ok(terminal::table(&headings, &cells))
        }
        "json" => Ok(rows.iter().map(|row| format!("{row}\n")).collect()),
        _ => {
            let (template, heading) = match format.strip_prefix("table") {
                Some(rest) if rest.starts_with([' ', '\t']) => (rest.trim_start(), true),
                _ => (format, false),
            };
            // What a shell passes as backslash and letter.
            let template = Template::parse(&template.replace("\\t", "\t").replace("\\n", "\n"))?;
            let mut lines = Vec::new();
            if heading {
                let words = rows.first().and_then(Value::as_object).into_iter().flatten();
                let mut names: serde_json::Map<String, Value> = words
                    .map(|(field, _)| (field.clone(), heading_of(field).into()))
                    .collect();
                names.extend(
                    columns
                        .iter()
                        .map(|(field, heading)| ((*field).to_owned(), (*heading).into())),
                );
                // Without rows nobody can say which fields there are.
                match template.render(&Value::Object(names)) {
                    Ok(line) => lines.push(line),
                    Err(error) if !rows.is_empty() => return Err(error),
                    Err(_) => {}
                }
            }
            for row in rows {
                lines.push(template.render(row)?);
            }
            if !heading {
                return Ok(lines.into_iter().map(|line| line + "\n").collect());
            }
            let cells: Vec<Vec<String>> = lines
                .iter()
                .map(|line| line.split('\t').map(str::to_owned).collect())
                .collect();
            let width = cells.iter().map(Vec::len).max().unwrap_or(0);
            let mut cells = cells.into_iter().map(|mut row: Vec<String>| {
                row.resize(width, String::new());
                row
            });
            let Some(first) = cells.next() else {
                return Ok(String::new());
            };
            let first: Vec<&str> = first.iter().map(String::as_str).collect();
            Ok(terminal::table(&first, &cells.collect::<Vec<_>>()))
        }
    }
}

/// `CreatedSince` is `CREATED SINCE`.
fn heading_of(field: &str) -> String {
    let mut out = String::new();
    let mut before = true;
    for character in field.chars() {
        if character.is_uppercase() && !before {
            out.push(' ');
        }
        before = character.is_uppercase();
        out.extend(character.to_uppercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn rendered(template: &str) -> String {
        let data = json!({
            "ID": "abc", "Names": ["a", "b"], "Count": 3, "Empty": "", "Labels": {"x": "1", "y.z": "2"},
            "Config": {"Env": ["A=1"], "Cmd": null}, "Running": true,
        });
        Template::parse(template)
            .and_then(|template| template.render(&data))
            .unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn what_people_write() {
        for (template, expected) in [
            ("{{.ID}}", "abc"),
            ("{{ .ID | upper }} x", "ABC x"),
            ("{{json .Names}}", r#"["a","b"]"#),
            ("{{.Names}}", "[a b]"),
            ("{{.Labels}}", "map[x:1 y.z:2]"),
            ("{{join .Names \", \"}}", "a, b"),
            ("{{range .Names}}<{{.}}>{{end}}", "<a><b>"),
            ("{{range $i, $n := .Names}}{{$i}}={{$n}};{{end}}", "0=a;1=b;"),
            ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
            ("{{if .Empty}}a{{else if eq .Count 3}}b{{else}}c{{end}}", "b"),
            ("{{if and .Running (gt .Count 2)}}yes{{end}}", "yes"),
            ("{{with .Config}}{{index .Env 0}}{{end}}", "A=1"),
            ("{{index .Labels \"y.z\"}}", "2"),
            ("{{.Label \"x\"}}", "1"),
            ("{{.Labels.nothing}}", "<no value>"),
            ("{{len .Names}}", "2"),
            ("{{printf \"%-5s|%3d|%q\" .ID .Count .ID}}", "abc  |  3|\"abc\""),
            ("{{slice .ID 0 2}}", "ab"),
            ("{{title .ID}}{{println}}", "Abc\n"),
            ("{{$x := .ID}}{{$x}}{{$.ID}}", "abcabc"),
            ("a {{- .ID -}} b", "aabcb"),
            ("{{/* nothing }} */}}x", "x"),
            ("{{(index .Names 1)}}", "b"),
            ("{{not .Running}}{{or .Empty .ID}}", "falseabc"),
            ("{{\"}}\"}}", "}}"),
            ("{{split \"a,b\" \",\"}}", "[a b]"),
            ("{{.ID}}{{end}}", "format: unexpected {{end}}"),
            ("{{.Nothing}}", "format: there is no field .Nothing"),
            ("{{.ID", "format: an action is not closed by }}"),
            ("{{nothing .ID}}", "format: there is no function nothing"),
            ("{{if .ID}}", "format: {{if}} lacks its {{end}}"),
        ] {
            assert_eq!(rendered(template), expected, "{template}");
        }
    }

    #[test]
    fn lists_in_each_format() {
        let rows = [
            json!({"ID": "1", "Size": "2MB"}),
            json!({"ID": "22", "Size": "3kB"}),
        ];
        let columns = [("ID", "IMAGE ID"), ("Size", "SIZE")];
        let of = |format: &str| list(format, &columns, &rows).unwrap();
        assert_eq!(of("table"), "IMAGE ID   SIZE\n1          2MB\n22         3kB\n");
        assert_eq!(
            of("json"),
            "{\"ID\":\"1\",\"Size\":\"2MB\"}\n{\"ID\":\"22\",\"Size\":\"3kB\"}\n"
        );
        assert_eq!(of("{{.ID}}:{{.Size}}"), "1:2MB\n22:3kB\n");
        assert_eq!(
            of("table {{.Size}}\\t{{.ID}}"),
            "SIZE   IMAGE ID\n2MB    1\n3kB    22\n"
        );
    }

    proptest! {
        #[test]
        fn no_template_is_too_odd(text in "[{}.$ |()\"`a-cA-C:=,0-9-]{0,60}") {
            if let Ok(template) = Template::parse(&text) {
                let _ = template.render(&json!({"A": [1, {"b": "c"}], "B": {"a": null}}));
            }
        }
    }
}

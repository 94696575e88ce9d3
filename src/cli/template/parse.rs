//! From text to nodes.

use serde_json::Value;

use super::{DEPTH_LIMIT, Node, Operand, Pipeline, Result, Template, TemplateError, wrong};

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
    pub(in crate::cli) fn parse(text: &str) -> Result<Self> {
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

//! YAML text to trees.
//!
//! Built from the parser's events with a stack of our own, so that depth is
//! bounded by a rule and not by the thread's stack. Anchors are copied where
//! they are referred to; the copies are counted against a bound that grows
//! with the size of the file (an alias bomb grows exponentially, an honest file
//! does not). Merge keys (`<<`) are resolved here: what a mapping says itself
//! wins over what it merges, and earlier merged mappings win over later ones.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};
use smol_str::SmolStr;

use super::diagnostic::Code;
use super::scalar;
use super::source::{Place, Report};
use super::tree::{Entry, Mapping, Node, Tag, Value};

/// Collections may be nested so deep.
const DEEPEST: usize = 100;

/// Copies of anchored values: so many nodes, and
const FREE_COPIES: usize = 100_000;
/// so many for each node that is written.
const COPIES_A_NODE: usize = 20;

/// The documents of a text, empty ones left out. `None` when it is not YAML;
/// the report has the reason.
pub(super) fn parse(text: &str, source: u32, report: &mut Report) -> Option<Vec<Node>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder {
        source,
        report,
        text,
        frames: Vec::new(),
        anchors: HashMap::new(),
        documents: Vec::new(),
        nodes: 0,
        copies: 0,
    };
    let mut parser = Parser::new_from_str(text);
    loop {
        match parser.next_event() {
            None | Some(Ok((Event::StreamEnd, _))) => return Some(builder.documents),
            Some(Ok((event, span))) => builder.event(event, span)?,
            Some(Err(error)) => {
                builder.scan_error(&error);
                return None;
            }
        }
    }
}

/// A collection that is not complete yet.
struct Frame {
    place: Place,
    anchor: usize,
    tag: Tag,
    inside: Inside,
}

enum Inside {
    List(Vec<Node>),
    Map {
        map: Mapping,
        key: Option<Key>,
        merges: Vec<Node>,
        merge_line: Option<u32>,
    },
}

/// A key whose value has not come yet.
struct Key {
    text: SmolStr,
    place: Place,
    merge: bool,
}

/// An anchored value, the number of its nodes and how deep it goes.
struct Anchor {
    node: Node,
    nodes: usize,
    height: usize,
}

struct Builder<'a> {
    source: u32,
    report: &'a mut Report,
    text: &'a str,
    frames: Vec<Frame>,
    anchors: HashMap<usize, Anchor>,
    documents: Vec<Node>,
    nodes: usize,
    copies: usize,
}

impl Builder<'_> {
    fn place(&self, mark: &Marker) -> Place {
        Place::new(self.source, mark.line(), mark.col() + 1)
    }

    /// Says why this is not a document; `None`, for `?`.
    fn fail(&mut self, place: Place, message: &str, hint: Option<&str>) -> Option<()> {
        let name = self
            .report
            .source_name(place)
            .map(|name| name.display().to_string())
            .unwrap_or_default();
        let message = format!("failed to parse {name}: {message}");
        match hint {
            Some(hint) => self.report.error_hint(place, Code::Syntax, message, hint),
            None => self.report.error(place, Code::Syntax, message),
        }
        None
    }

    fn scan_error(&mut self, error: &ScanError) {
        let mark = error.marker();
        let line = self
            .text
            .lines()
            .nth(mark.line().saturating_sub(1))
            .unwrap_or_default();
        let indentation = line.len() - line.trim_start_matches([' ', '\t']).len();
        if let Some(tab) = line[..indentation].find('\t') {
            let place = Place::new(self.source, mark.line(), tab + 1);
            self.fail(
                place,
                &format!(
                    "line {}: found a tab character that violates indentation",
                    mark.line()
                ),
                Some("indent with spaces"),
            );
            return;
        }
        let place = self.place(mark);
        let hint = line
            .contains("${")
            .then_some("put values with `${` in quotes: in `{…}` and `[…]` a brace ends them");
        self.fail(place, &format!("line {}: {}", mark.line(), error.info()), hint);
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let place = self.place(&span.start);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Some(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Some(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.nodes += 1;
                let tag = tag.as_deref();
                let plain = style == ScalarStyle::Plain;
                let is_merge_key = plain && tag.is_none() && text == "<<";
                let (merge_tag, core) = self.tag(tag, place)?;
                let value = match core {
                    Some("str") => Value::Text(text.into()),
                    Some(_) => scalar::resolve(&text),
                    None if plain => scalar::resolve(&text),
                    None => Value::Text(text.into()),
                };
                let node = Node {
                    value,
                    place,
                    tag: merge_tag,
                };
                if is_merge_key && self.awaits_key() {
                    return self.merge_key(place);
                }
                self.anchor(anchor, &node)?;
                self.complete(node)
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(anchor, tag.as_deref(), place, Inside::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => self.open(
                anchor,
                tag.as_deref(),
                place,
                Inside::Map {
                    map: Mapping::default(),
                    key: None,
                    merges: Vec::new(),
                    merge_line: None,
                },
            ),
            Event::SequenceEnd | Event::MappingEnd => {
                let frame = self.frames.pop()?;
                let value = match frame.inside {
                    Inside::List(items) => Value::List(items),
                    Inside::Map { mut map, merges, .. } => {
                        for merged in merges {
                            self.merge(&mut map, merged)?;
                        }
                        Value::Map(map)
                    }
                };
                let node = Node {
                    value,
                    place: frame.place,
                    tag: frame.tag,
                };
                self.anchor(frame.anchor, &node)?;
                self.complete(node)
            }
            Event::Alias(anchor) => {
                if let Some(level) = self.frames.iter().position(|frame| frame.anchor == anchor) {
                    let here = self.path(self.frames.len());
                    let there = self.path(level);
                    return self.fail(
                        place,
                        &format!("cycle detected: node at path {here} references node at path {there}"),
                        None,
                    );
                }
                let Some(found) = self.anchors.get(&anchor) else {
                    return self.fail(place, "unknown anchor", None);
                };
                let (nodes, height) = (found.nodes, found.height);
                let mut node = found.node.clone();
                self.count_copies(nodes, place)?;
                self.check_depth(height, place)?;
                if self.report.options().trace {
                    self.report.through_alias(&mut node, place);
                } else if !matches!(node.value, Value::List(_) | Value::Map(_)) {
                    // A scalar is best shown where it is used.
                    node.place = place;
                }
                self.complete(node)
            }
        }
    }

    fn open(
        &mut self,
        anchor: usize,
        tag: Option<&saphyr_parser::Tag>,
        place: Place,
        inside: Inside,
    ) -> Option<()> {
        self.nodes += 1;
        let (tag, _) = self.tag(tag, place)?;
        self.check_depth(1, place)?;
        self.frames.push(Frame {
            place,
            anchor,
            tag,
            inside,
        });
        Some(())
    }

    /// Whether something so high may stand here.
    fn check_depth(&mut self, height: usize, place: Place) -> Option<()> {
        if self.frames.len() + height > DEEPEST {
            return self.fail(
                place,
                &format!("values are nested deeper than {DEEPEST} levels"),
                None,
            );
        }
        Some(())
    }

    /// What a tag asks of a merge, and the name of a core schema tag.
    fn tag<'t>(
        &mut self,
        tag: Option<&'t saphyr_parser::Tag>,
        place: Place,
    ) -> Option<(Tag, Option<&'t str>)> {
        let Some(tag) = tag else {
            return Some((Tag::None, None));
        };
        if tag.is_yaml_core_schema() {
            return Some((Tag::None, Some(tag.suffix.as_str())));
        }
        match (tag.handle.as_str(), tag.suffix.as_str()) {
            ("!", "reset") => {
                self.report.note_mark();
                Some((Tag::Reset, None))
            }
            ("!", "override") => {
                self.report.note_mark();
                Some((Tag::Override, None))
            }
            ("" | "!", "" | "!") => Some((Tag::None, Some("str"))),
            _ => {
                self.report
                    .warning(place, format!("the tag `{tag}` has no meaning here"));
                Some((Tag::None, None))
            }
        }
    }

    fn awaits_key(&self) -> bool {
        matches!(
            self.frames.last(),
            Some(Frame {
                inside: Inside::Map { key: None, .. },
                ..
            })
        )
    }

    /// Takes the key `<<`.
    fn merge_key(&mut self, place: Place) -> Option<()> {
        let mut earlier = None;
        if let Some(Frame {
            inside: Inside::Map { key, merge_line, .. },
            ..
        }) = self.frames.last_mut()
        {
            earlier = merge_line.replace(place.line);
            *key = Some(Key {
                text: SmolStr::new_static("<<"),
                place,
                merge: true,
            });
        }
        match earlier {
            Some(line) => self.duplicate("<<", place, line),
            None => Some(()),
        }
    }

    fn duplicate(&mut self, key: &str, place: Place, earlier: u32) -> Option<()> {
        let line = place.line;
        self.fail(
            place,
            &format!("line {line}: mapping key {key:?} already defined at line {earlier}"),
            None,
        )
    }

    /// Remembers an anchored value.
    fn anchor(&mut self, anchor: usize, node: &Node) -> Option<()> {
        if anchor != 0 {
            let (nodes, height) = measure(node);
            self.count_copies(nodes, node.place)?;
            self.anchors.insert(
                anchor,
                Anchor {
                    node: node.clone(),
                    nodes,
                    height,
                },
            );
        }
        Some(())
    }

    fn count_copies(&mut self, nodes: usize, place: Place) -> Option<()> {
        self.copies += nodes;
        let limit = FREE_COPIES + COPIES_A_NODE * self.nodes;
        if self.copies > limit {
            return self.fail(
                place,
                &format!("compose file exceeds maximum node visit limit ({limit})"),
                Some("anchors are copied where aliases stand; these multiply each other"),
            );
        }
        Some(())
    }

    /// Puts a complete value where it belongs.
    fn complete(&mut self, mut node: Node) -> Option<()> {
        let depth = self.frames.len();
        let Some(frame) = self.frames.last_mut() else {
            if !node.is_null() {
                self.documents.push(node);
            }
            return Some(());
        };
        match &mut frame.inside {
            Inside::List(items) => items.push(node),
            Inside::Map { map, key, merges, .. } => match key.take() {
                None => {
                    let text = match node.value {
                        Value::Text(text) => text,
                        _ => return self.odd_key(&node, depth),
                    };
                    if let Some(earlier) = map.get(&text) {
                        let line = earlier.key.line;
                        return self.duplicate(&text, node.place, line);
                    }
                    *key = Some(Key {
                        text,
                        place: node.place,
                        merge: false,
                    });
                }
                Some(Key { merge: true, .. }) => merges.push(node),
                Some(Key { text, place, .. }) => {
                    if node.is_null() {
                        // A missing value has no place of its own.
                        node.place = place;
                    }
                    map.push(text, Entry { key: place, node });
                }
            },
        }
        Some(())
    }

    fn odd_key(&mut self, node: &Node, depth: usize) -> Option<()> {
        let path = self.path(depth.saturating_sub(1));
        let place = if path.is_empty() {
            "at top level".to_owned()
        } else {
            format!("in {path}")
        };
        match node.scalar() {
            Some(text) => self.fail(
                node.place,
                &format!("non-string key {place}: {text}"),
                Some("put the key in quotes"),
            ),
            None => self.fail(
                node.place,
                &format!("non-string key {place}: a collection cannot be a key"),
                None,
            ),
        }
    }

    /// Merges what stands under `<<` into a mapping.
    fn merge(&mut self, into: &mut Mapping, merged: Node) -> Option<()> {
        match merged.value {
            Value::Map(map) => {
                for (key, entry) in map {
                    if !into.contains_key(&key) {
                        into.push(key, entry);
                    }
                }
                Some(())
            }
            Value::List(list) if list.iter().all(|node| node.as_map().is_some()) => {
                for node in list {
                    self.merge(into, node)?;
                }
                Some(())
            }
            _ => self.fail(
                merged.place,
                "yaml: map merge requires map or sequence of maps as the value",
                None,
            ),
        }
    }

    /// The path of the collection at a depth of the stack.
    fn path(&self, depth: usize) -> String {
        let mut path = String::new();
        for frame in self.frames.iter().take(depth) {
            let step = match &frame.inside {
                Inside::List(items) => items.len().to_string(),
                Inside::Map { key, .. } => match key {
                    Some(key) if !key.merge => key.text.to_string(),
                    _ => continue,
                },
            };
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&step);
        }
        path
    }
}

/// How many nodes there are in a value, and how deep it goes: 0 for a scalar.
fn measure(node: &Node) -> (usize, usize) {
    let (mut nodes, mut height) = (1, 0);
    let mut add = |below: &Node| {
        let (more, higher) = measure(below);
        nodes += more;
        height = height.max(higher + 1);
    };
    match &node.value {
        Value::List(list) => list.iter().for_each(&mut add),
        Value::Map(map) => map.values().for_each(|entry| add(&entry.node)),
        _ => {}
    }
    (nodes, height)
}

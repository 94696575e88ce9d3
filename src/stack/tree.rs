//! The document as a tree whose every value knows where it is written.

use smol_str::SmolStr;

pub use super::mapping::Mapping;
use super::source::Place;

/// One value of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it is written.
    pub place: Place,
    /// What its tag asks of a merge.
    pub tag: Tag,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// Text. Most is short: it is kept in place, or shared with its copies.
    Text(SmolStr),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping.
    Map(Mapping),
}

/// What a tag asks of a merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tag {
    /// The usual rules.
    #[default]
    None,
    /// `!reset`: the value goes, here and in what is merged below.
    Reset,
    /// `!override`: the value stands in place of what is below, unmerged.
    Override,
}

/// A value of a mapping, and where its key is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where the key is written.
    pub key: Place,
    /// The value.
    pub node: Node,
}

impl Node {
    /// A value at a place.
    pub fn new(value: Value, place: Place) -> Self {
        Self {
            value,
            place,
            tag: Tag::None,
        }
    }

    /// Text at a place.
    pub fn text(text: impl Into<SmolStr>, place: Place) -> Self {
        Self::new(Value::Text(text.into()), place)
    }

    /// Text that is part of the program, at a place.
    pub fn word(text: &'static str, place: Place) -> Self {
        Self::new(Value::Text(SmolStr::new_static(text)), place)
    }

    /// An empty mapping at a place.
    pub fn map(place: Place) -> Self {
        Self::new(Value::Map(Mapping::default()), place)
    }

    /// An empty mapping at a place, with room for so many keys.
    pub fn map_for(keys: usize, place: Place) -> Self {
        Self::new(Value::Map(Mapping::with_capacity(keys)), place)
    }

    /// Nothing, at a place.
    pub fn null(place: Place) -> Self {
        Self::new(Value::Null, place)
    }

    /// The mapping, when it is one.
    pub fn as_map(&self) -> Option<&Mapping> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The mapping, when it is one.
    pub fn as_map_mut(&mut self) -> Option<&mut Mapping> {
        match &mut self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The sequence, when it is one.
    pub fn as_list(&self) -> Option<&[Self]> {
        match &self.value {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    /// The text, when it is one.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The boolean, when it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The whole number, when it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self.value {
            Value::Int(value) => Some(value),
            _ => None,
        }
    }

    /// Whether it holds nothing.
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The value of a key, when this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_map()?.get(key).map(|entry| &entry.node)
    }

    /// The value of a key, when this is a mapping that has it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        self.as_map_mut()?.get_mut(key).map(|entry| &mut entry.node)
    }

    /// The text of a key, when this is a mapping that has it.
    pub fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_text()
    }

    /// Sets a key of a mapping; nothing when this is none.
    pub fn set(&mut self, key: &str, node: Self) {
        if let Some(map) = self.as_map_mut() {
            map.insert(
                SmolStr::new(key),
                Entry {
                    key: node.place,
                    node,
                },
            );
        }
    }

    /// Takes a key out of a mapping.
    pub fn take(&mut self, key: &str) -> Option<Self> {
        self.as_map_mut()?.remove(key).map(|entry| entry.node)
    }

    /// The keys and values of a mapping; none when this is none.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.as_map()
            .into_iter()
            .flatten()
            .map(|(key, entry)| (key.as_str(), &entry.node))
    }

    /// The items of a sequence; none when this is none.
    pub fn items(&self) -> impl Iterator<Item = &Self> {
        self.as_list().into_iter().flatten()
    }

    /// A scalar as the text it stands for where text is asked for; `None` for
    /// collections. Floats print as Go's `%v` does.
    pub fn scalar(&self) -> Option<SmolStr> {
        Some(match &self.value {
            Value::Null => SmolStr::default(),
            Value::Bool(value) => SmolStr::new_static(if *value { "true" } else { "false" }),
            Value::Int(value) => smol_str::format_smolstr!("{value}"),
            Value::Float(value) => float_text(*value).into(),
            Value::Text(text) => text.clone(),
            Value::List(_) | Value::Map(_) => return None,
        })
    }

    /// As [`Self::scalar`], to keep.
    pub fn scalar_text(&self) -> Option<String> {
        self.scalar().map(Into::into)
    }

    /// Takes out what `!reset` marks, and the marks of `!override`.
    pub fn settle(&mut self) {
        self.tag = Tag::None;
        match &mut self.value {
            Value::Map(map) => {
                map.retain(|_, entry| entry.node.tag != Tag::Reset);
                map.values_mut().for_each(|entry| entry.node.settle());
            }
            Value::List(list) => {
                list.retain(|node| node.tag != Tag::Reset);
                list.iter_mut().for_each(Self::settle);
            }
            _ => {}
        }
    }
}

/// A float as Go prints it with `%v`: shortest digits, an exponent from a
/// million on and below 1e-4.
pub(crate) fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let magnitude = value.abs();
    if value == 0.0 || (1e-4..1e6).contains(&magnitude) {
        return format!("{value}");
    }
    let text = format!("{value:e}");
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    let (sign, exponent) = exponent
        .strip_prefix('-')
        .map_or(('+', exponent), |rest| ('-', rest));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// The way from the root to a value, as messages write it:
/// `services.web.ports.0`. A chain of borrowed steps: nothing is allocated
/// until a message is written.
#[derive(Clone, Copy, Debug)]
pub enum Trail<'a> {
    /// The root.
    Root,
    /// A key of the mapping above.
    Key(&'a Trail<'a>, &'a str),
    /// An item of the sequence above.
    Index(&'a Trail<'a>, usize),
}

impl<'a> Trail<'a> {
    /// The key of a mapping here.
    #[must_use]
    pub fn key(&'a self, key: &'a str) -> Self {
        Self::Key(self, key)
    }

    /// An item of a sequence here.
    #[must_use]
    pub fn index(&'a self, index: usize) -> Self {
        Self::Index(self, index)
    }

    /// The service that this is, or is inside of.
    pub fn service(&self) -> Option<&'a str> {
        match self {
            Self::Root => None,
            Self::Key(Trail::Key(Trail::Root, "services"), name) => Some(name),
            Self::Key(above, _) | Self::Index(above, _) => above.service(),
        }
    }
}

impl std::fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Index(Self::Root, index) => write!(f, "{index}"),
            Self::Key(above, key) => write!(f, "{above}.{key}"),
            Self::Index(above, index) => write!(f, "{above}.{index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_go_does() {
        for (value, text) in [
            (1.5, "1.5"),
            (2.0, "2"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e21, "1e+21"),
            (1.25e-7, "1.25e-07"),
            (123_456.5, "123456.5"),
            (1_000_000.0, "1e+06"),
            (1_234_567.5, "1.2345675e+06"),
        ] {
            assert_eq!(float_text(value), text);
        }
    }
}

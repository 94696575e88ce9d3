//! A definition as a record has it: JSON, kept as the text that it is.
//!
//! Every command observes every container of a stack, and nearly all of their
//! definitions are what they were. So what need not be read is not: a value is
//! written along the text, byte by byte, and only the fields in which the two
//! differ are read, and made JSON of.
//!
//! It is a shortcut. *The same* is certain; *not the same* may also mean that the
//! two are written in another order, or by another version of this program, and
//! is looked into by whoever asks ([`super::diff`]).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::ser::{self, Impossible};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// The JSON of a [`Service`](crate::project::Service) or
/// [`Network`](crate::project::Network) that something was made from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recorded(Box<RawValue>);

impl Recorded {
    /// A definition as it is recorded; that of one that has no JSON is `null`.
    pub fn of<T: Serialize + ?Sized>(definition: &T) -> Self {
        Self(to_raw_value(definition).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }

    /// The definition, or what of it `T` has.
    ///
    /// # Errors
    /// When this version cannot read it.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }

    /// One field of it; `None` when it is not there, or cannot be read.
    pub fn field<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let fields = self.fields()?;
        let (_, field) = fields.into_iter().find(|(other, _)| *other == name)?;
        serde_json::from_str(field.get()).ok()
    }

    /// All of it, as it is written.
    pub(super) fn json(&self) -> &RawValue {
        &self.0
    }

    /// Its fields, in their order; `None` when it is no structure.
    pub(super) fn fields(&self) -> Option<Vec<Field<'_>>> {
        fields(&self.0)
    }

    /// Whether `definition` is written as exactly this.
    pub(super) fn is(&self, definition: &impl Serialize) -> bool {
        is_written(definition, &self.0)
    }
}

impl Default for Recorded {
    /// A definition that is not known.
    fn default() -> Self {
        Self(RawValue::NULL.to_owned())
    }
}

impl PartialEq for Recorded {
    /// Text by text.
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// A field of a structure, or an entry of a map, as it is written.
pub(super) type Field<'a> = (Cow<'a, str>, &'a RawValue);

/// The fields of a structure or map, in their order; `None` when it is neither.
pub(super) fn fields(value: &RawValue) -> Option<Vec<Field<'_>>> {
    // What cannot be is not tried: an error is made with care.
    let text = Some(value.get()).filter(|text| text.starts_with('{'))?;
    let fields: Fields<'_> = serde_json::from_str(text).ok()?;
    Some(fields.0)
}

/// The elements of a list; `None` when it is none.
pub(super) fn elements(value: &RawValue) -> Option<Vec<&RawValue>> {
    let text = Some(value.get()).filter(|text| text.starts_with('['))?;
    serde_json::from_str(text).ok()
}

/// Whether `value` is written as exactly this text.
fn is_written<T: Serialize + ?Sized>(value: &T, text: &RawValue) -> bool {
    let mut along = Along(text.get().as_bytes());
    serde_json::to_writer(&mut along, value).is_ok() && along.0.is_empty()
}

/// Takes what is written as long as it is what is left of a text.
struct Along<'a>(&'a [u8]);

impl io::Write for Along<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The kind alone: an error with words would be made for each field that differs.
        self.0 = self.0.strip_prefix(bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// [`fields`] of whatever is read.
struct Fields<'a>(Vec<Field<'a>>);

/// Their names: most are the text that was read, without a copy.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a structure")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

/// A field in which a structure is not what is recorded, or may not be.
#[derive(Debug)]
pub(super) struct Differing<'a> {
    pub(super) name: Cow<'a, str>,
    /// As it is recorded.
    pub(super) old: Option<&'a RawValue>,
    /// As it is.
    pub(super) new: Option<Box<RawValue>>,
}

/// The fields in which a structure differs from what is recorded, but for those
/// that are `passed_over`; `None` when it is no structure.
pub(super) fn differing<'a, T: Serialize>(
    value: &T,
    recorded: Vec<Field<'a>>,
    passed_over: &[&str],
) -> Option<Vec<Differing<'a>>> {
    let walk = Walk {
        left: recorded.into_iter().map(Some).collect(),
        next: 0,
        passed_over,
        found: Vec::new(),
    };
    value.serialize(Structure(walk)).ok()
}

/// These fields of a structure as JSON, but for those that are not written.
pub(super) fn pick<T: Serialize>(value: &T, names: &[&str]) -> Option<BTreeMap<String, Box<RawValue>>> {
    let picked = Picked {
        names,
        found: BTreeMap::new(),
    };
    value.serialize(Structure(picked)).ok()
}

/// What looks at the fields of a structure, one by one.
trait Look: Sized {
    type Found;

    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Answer;

    fn found(self) -> Self::Found;
}

type Answer = Result<(), Refused>;

struct Walk<'a, 'b> {
    /// What is recorded, but for what the value has had.
    left: Vec<Option<Field<'a>>>,
    /// Where the value's next field is, as a rule.
    next: usize,
    passed_over: &'b [&'b str],
    found: Vec<Differing<'a>>,
}

impl<'a> Walk<'a, '_> {
    fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let is = |field: &Option<Field<'_>>| field.as_ref().is_some_and(|(other, _)| other == name);
        let at = match self.left.get(self.next) {
            Some(field) if is(field) => self.next,
            _ => self.left.iter().position(is)?,
        };
        self.next = at + 1;
        let (_, recorded) = self.left.get_mut(at)?.take()?;
        Some(recorded)
    }
}

impl<'a> Look for Walk<'a, '_> {
    type Found = Vec<Differing<'a>>;

    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Answer {
        let old = self.take(name);
        if self.passed_over.contains(&name) || old.is_some_and(|old| is_written(value, old)) {
            return Ok(());
        }
        self.found.push(Differing {
            name: name.into(),
            old,
            new: Some(to_raw_value(value).map_err(|_| Refused)?),
        });
        Ok(())
    }

    fn found(mut self) -> Self::Found {
        // What is not written is what it is by default.
        for (name, old) in self.left.into_iter().flatten() {
            if !self.passed_over.contains(&&*name) {
                self.found.push(Differing {
                    name,
                    old: Some(old),
                    new: None,
                });
            }
        }
        self.found
    }
}

struct Picked<'a> {
    names: &'a [&'a str],
    found: BTreeMap<String, Box<RawValue>>,
}

impl Look for Picked<'_> {
    type Found = BTreeMap<String, Box<RawValue>>;

    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Answer {
        if self.names.contains(&name) {
            let value = to_raw_value(value).map_err(|_| Refused)?;
            self.found.insert(name.to_owned(), value);
        }
        Ok(())
    }

    fn found(self) -> Self::Found {
        self.found
    }
}

/// It is no structure, or a field of it has no JSON.
#[derive(Debug)]
struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no structure")
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self
    }
}

/// A serializer for structures only.
struct Structure<L>(L);

impl<L: Look> ser::SerializeStruct for Structure<L> {
    type Ok = L::Found;
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Answer {
        self.0.field(name, value)
    }

    fn end(self) -> Result<L::Found, Refused> {
        Ok(self.0.found())
    }
}

/// Kinds of values that are no structures.
macro_rules! refuse {
    ($($name:ident($($kind:ty),*))*) => {
        $(fn $name(self $(, _: $kind)*) -> Result<L::Found, Refused> { Err(Refused) })*
    };
}

/// Kinds of values with parts that are no structures.
macro_rules! refuse_parts {
    ($($name:ident($($kind:ty),*) -> $parts:ident;)*) => {
        $(fn $name(self $(, _: $kind)*) -> Result<Self::$parts, Refused> { Err(Refused) })*
    };
}

impl<L: Look> ser::Serializer for Structure<L> {
    type Ok = L::Found;
    type Error = Refused;
    type SerializeSeq = Impossible<L::Found, Refused>;
    type SerializeTuple = Impossible<L::Found, Refused>;
    type SerializeTupleStruct = Impossible<L::Found, Refused>;
    type SerializeTupleVariant = Impossible<L::Found, Refused>;
    type SerializeMap = Impossible<L::Found, Refused>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Impossible<L::Found, Refused>;

    refuse! {
        serialize_bool(bool) serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_f32(f32)
        serialize_f64(f64) serialize_char(char) serialize_str(&str) serialize_bytes(&[u8])
        serialize_none() serialize_unit() serialize_unit_struct(&'static str)
        serialize_unit_variant(&'static str, u32, &'static str)
    }

    refuse_parts! {
        serialize_seq(Option<usize>) -> SerializeSeq;
        serialize_tuple(usize) -> SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> SerializeTupleStruct;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> SerializeTupleVariant;
        serialize_map(Option<usize>) -> SerializeMap;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> SerializeStructVariant;
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<L::Found, Refused> {
        Err(Refused)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<L::Found, Refused> {
        Err(Refused)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<L::Found, Refused> {
        value.serialize(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[derive(Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Plain,
        Text(String),
        Pair(u8, i32),
        Fields { at: Option<u64> },
    }

    #[derive(Serialize)]
    struct Record {
        kinds: Vec<Kind>,
        map: BTreeMap<String, bool>,
        ratio: f64,
        place: (u16, char),
    }

    fn record() -> Record {
        Record {
            kinds: vec![
                Kind::Plain,
                Kind::Text("\"x\"\n".into()),
                Kind::Pair(1, -2),
                Kind::Fields { at: None },
                Kind::Fields { at: Some(u64::MAX) },
            ],
            map: BTreeMap::from([("a".into(), true), ("b".into(), false)]),
            ratio: 0.5,
            place: (7, 'é'),
        }
    }

    #[test]
    fn a_value_is_what_it_is_written_as_and_nothing_else() {
        fn leaves(value: &Value, at: String, all: &mut Vec<String>) {
            all.push(at.clone());
            match value {
                Value::Array(list) => {
                    for (index, value) in list.iter().enumerate() {
                        leaves(value, format!("{at}/{index}"), all);
                    }
                }
                Value::Object(map) => {
                    for (key, value) in map {
                        leaves(value, format!("{at}/{key}"), all);
                    }
                }
                _ => {}
            }
        }
        assert!(Recorded::of(&record()).is(&record()));
        let json = serde_json::to_value(record()).unwrap();
        let mut all = Vec::new();
        leaves(&json, String::new(), &mut all);
        assert!(all.len() > 15, "{all:?}");
        let mut others = Vec::new();
        for at in all {
            let mut other = json.clone();
            *other.pointer_mut(&at).unwrap() = json!("another");
            others.push(other);
        }
        let mut longer = json.clone();
        longer["map"]["c"] = json!(true);
        others.push(longer);
        let mut longer = json.clone();
        longer["kinds"].as_array_mut().unwrap().push(json!("plain"));
        others.push(longer);
        let mut longer = json;
        longer["more"] = Value::Null;
        others.push(longer);
        for other in others {
            assert!(!Recorded::of(&other).is(&record()), "{other}");
        }
    }

    #[test]
    fn the_fields_that_differ_are_found() {
        let found = |recorded: &Value, passed_over: &[&str]| -> Option<Vec<String>> {
            let recorded = Recorded::of(recorded);
            let fields = differing(&record(), recorded.fields()?, passed_over)?;
            let text = |field: &Differing<'_>| {
                let old = field.old.map_or("-", |old| old.get());
                let new = field.new.as_ref().map_or("-", |new| new.get());
                format!("{} {old} {new}", field.name)
            };
            Some(fields.iter().map(text).collect())
        };
        let json = serde_json::to_value(record()).unwrap();
        assert_eq!(found(&json, &[]), Some(vec![]));
        let mut other = json.clone();
        other["map"]["a"] = json!(false);
        other.as_object_mut().unwrap().remove("ratio");
        other["more"] = json!(1);
        let three = [
            "map {\"a\":false,\"b\":false} {\"a\":true,\"b\":false}",
            "ratio - 0.5",
            "more 1 -",
        ];
        assert_eq!(found(&other, &[]).unwrap(), three);
        assert_eq!(found(&other, &["more", "map"]).unwrap(), three[1..2]);
        // Whatever the order of what is recorded.
        let turned = other.as_object().unwrap().clone().into_iter().rev().collect();
        assert_eq!(found(&Value::Object(turned), &[]).unwrap(), three);
        assert_eq!(found(&json!([]), &[]), None);
        assert!(differing(&vec![1], vec![], &[]).is_none());
    }

    #[test]
    fn fields_are_picked_and_read() {
        let picked = pick(&record(), &["ratio", "none"]).unwrap();
        let picked: Vec<_> = picked
            .iter()
            .map(|(name, value)| (&**name, value.get()))
            .collect();
        assert_eq!(picked, [("ratio", "0.5")]);
        assert!(pick(&vec![1], &["ratio"]).is_none());
        let recorded = Recorded::of(&record());
        assert_eq!(recorded.field::<f64>("ratio"), Some(0.5));
        assert_eq!(recorded.field::<String>("ratio"), None);
        assert_eq!(recorded.field::<f64>("none"), None);
        assert_eq!(Recorded::default().field::<f64>("ratio"), None);
        assert!(Recorded::default().read::<Vec<u8>>().is_err());
    }
}

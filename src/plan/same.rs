//! Whether a value is what a record says, without building the value's own
//! JSON: a serializer that walks along JSON that is there. And which fields of a
//! structure differ, and only those as JSON.
//!
//! It is a shortcut. *Yes* is certain; *no* may also mean that the two are
//! written in another order or that something here is not understood, and is
//! looked into by whoever asks ([`super::diff`]).

use std::iter::Peekable;

use serde::Serialize;
use serde::ser::{self, Impossible};
use serde_json::{Map, Value};

/// Whether `value` serialises to exactly `json`, fields and keys in this order.
pub(super) fn is_written<T: Serialize + ?Sized>(value: &T, json: &Value) -> bool {
    value.serialize(Along(json)).is_ok()
}

/// The fields of a structure that are not what `json` has for them, or may not
/// be, and those that only `json` has; `None` when one of the two is no structure.
pub(super) fn differing<T: Serialize>(value: &T, json: &Value) -> Option<Vec<String>> {
    let json = json.as_object()?;
    let differing = Differing {
        json,
        next: json.iter().peekable(),
        seen: Vec::with_capacity(json.len()),
        found: Vec::new(),
    };
    value.serialize(Fields(differing)).ok()
}

/// These fields of a structure as JSON, but for those that are not written.
pub(super) fn pick<T: Serialize>(value: &T, names: &[String]) -> Option<Map<String, Value>> {
    let picked = Picked {
        names,
        found: Map::new(),
    };
    value.serialize(Fields(picked)).ok()
}

/// The two differ, or may.
#[derive(Debug)]
struct Differs;

impl std::fmt::Display for Differs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not what is written")
    }
}

impl std::error::Error for Differs {}

impl ser::Error for Differs {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self
    }
}

type Answer = Result<(), Differs>;

fn holds(same: bool) -> Answer {
    if same { Ok(()) } else { Err(Differs) }
}

/// At one place of the JSON.
struct Along<'a>(&'a Value);

impl<'a> Along<'a> {
    /// The only entry of a map, under this key: a variant with content.
    fn variant(self, name: &str) -> Result<&'a Value, Differs> {
        let map = self.0.as_object().filter(|map| map.len() == 1).ok_or(Differs)?;
        map.get(name).ok_or(Differs)
    }

    fn elements(self, length: usize) -> Result<Elements<'a>, Differs> {
        let list = self.0.as_array().filter(|list| list.len() == length);
        Ok(Elements(list.ok_or(Differs)?.iter()))
    }

    fn entries(self) -> Result<Entries<'a>, Differs> {
        let map = self.0.as_object().ok_or(Differs)?;
        Ok(Entries {
            left: map.iter(),
            value: None,
        })
    }
}

impl<'a> ser::Serializer for Along<'a> {
    type Ok = ();
    type Error = Differs;
    type SerializeSeq = Elements<'a>;
    type SerializeTuple = Elements<'a>;
    type SerializeTupleStruct = Elements<'a>;
    type SerializeTupleVariant = Elements<'a>;
    type SerializeMap = Entries<'a>;
    type SerializeStruct = Entries<'a>;
    type SerializeStructVariant = Entries<'a>;

    fn serialize_bool(self, value: bool) -> Answer {
        holds(self.0.as_bool() == Some(value))
    }

    fn serialize_i8(self, value: i8) -> Answer {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Answer {
        self.serialize_i64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Answer {
        self.serialize_i64(value.into())
    }

    fn serialize_i64(self, value: i64) -> Answer {
        holds(self.0.as_i64() == Some(value))
    }

    fn serialize_u8(self, value: u8) -> Answer {
        self.serialize_u64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Answer {
        self.serialize_u64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Answer {
        self.serialize_u64(value.into())
    }

    fn serialize_u64(self, value: u64) -> Answer {
        holds(self.0.as_u64() == Some(value))
    }

    fn serialize_f32(self, value: f32) -> Answer {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Answer {
        holds(self.0.is_f64() && self.0.as_f64() == Some(value))
    }

    fn serialize_char(self, value: char) -> Answer {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Answer {
        holds(self.0.as_str() == Some(value))
    }

    fn serialize_bytes(self, _: &[u8]) -> Answer {
        Err(Differs)
    }

    fn serialize_none(self) -> Answer {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Answer {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Answer {
        holds(self.0.is_null())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Answer {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Answer {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Answer {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Answer {
        value.serialize(Along(self.variant(variant)?))
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Elements<'a>, Differs> {
        self.elements(length.ok_or(Differs)?)
    }

    fn serialize_tuple(self, length: usize) -> Result<Elements<'a>, Differs> {
        self.elements(length)
    }

    fn serialize_tuple_struct(self, _: &'static str, length: usize) -> Result<Elements<'a>, Differs> {
        self.elements(length)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Elements<'a>, Differs> {
        Along(self.variant(variant)?).elements(length)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Entries<'a>, Differs> {
        self.entries()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Entries<'a>, Differs> {
        self.entries()
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Entries<'a>, Differs> {
        Along(self.variant(variant)?).entries()
    }
}

/// The elements of a list that are left.
struct Elements<'a>(std::slice::Iter<'a, Value>);

impl Elements<'_> {
    fn next<T: Serialize + ?Sized>(&mut self, value: &T) -> Answer {
        value.serialize(Along(self.0.next().ok_or(Differs)?))
    }

    fn finish(mut self) -> Answer {
        holds(self.0.next().is_none())
    }
}

impl ser::SerializeSeq for Elements<'_> {
    type Ok = ();
    type Error = Differs;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Answer {
        self.next(value)
    }

    fn end(self) -> Answer {
        self.finish()
    }
}

impl ser::SerializeTuple for Elements<'_> {
    type Ok = ();
    type Error = Differs;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Answer {
        self.next(value)
    }

    fn end(self) -> Answer {
        self.finish()
    }
}

impl ser::SerializeTupleStruct for Elements<'_> {
    type Ok = ();
    type Error = Differs;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Answer {
        self.next(value)
    }

    fn end(self) -> Answer {
        self.finish()
    }
}

impl ser::SerializeTupleVariant for Elements<'_> {
    type Ok = ();
    type Error = Differs;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Answer {
        self.next(value)
    }

    fn end(self) -> Answer {
        self.finish()
    }
}

/// The entries of a map that are left.
struct Entries<'a> {
    left: serde_json::map::Iter<'a>,
    /// Of the key that was last asked about.
    value: Option<&'a Value>,
}

impl Entries<'_> {
    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Answer {
        let (key, there) = self.left.next().ok_or(Differs)?;
        holds(key == name)?;
        value.serialize(Along(there))
    }

    fn finish(mut self) -> Answer {
        holds(self.left.next().is_none())
    }
}

impl ser::SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = Differs;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Answer {
        let (there, value) = self.left.next().ok_or(Differs)?;
        self.value = Some(value);
        key.serialize(Key(there))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Answer {
        value.serialize(Along(self.value.take().ok_or(Differs)?))
    }

    fn end(self) -> Answer {
        self.finish()
    }
}

impl ser::SerializeStruct for Entries<'_> {
    type Ok = ();
    type Error = Differs;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Answer {
        self.field(name, value)
    }

    fn end(self) -> Answer {
        self.finish()
    }
}

impl ser::SerializeStructVariant for Entries<'_> {
    type Ok = ();
    type Error = Differs;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Answer {
        self.field(name, value)
    }

    fn end(self) -> Answer {
        self.finish()
    }
}

/// A key of a map: text, or a name of a variant.
struct Key<'a>(&'a str);

/// What looks at the fields of a structure, one by one.
trait Look: Sized {
    type Found;

    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Answer;

    fn found(self) -> Self::Found;
}

struct Differing<'a> {
    json: &'a Map<String, Value>,
    /// What comes next in it, which is what comes next in the value, as a rule.
    next: Peekable<serde_json::map::Iter<'a>>,
    /// Those of its fields that the value has.
    seen: Vec<&'static str>,
    found: Vec<String>,
}

impl Look for Differing<'_> {
    type Found = Vec<String>;

    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Answer {
        let there = match self.next.next_if(|(key, _)| *key == name) {
            Some((_, there)) => Some(there),
            None => self.json.get(name),
        };
        if there.is_some() {
            self.seen.push(name);
        }
        if !there.is_some_and(|there| is_written(value, there)) {
            self.found.push(name.to_owned());
        }
        Ok(())
    }

    fn found(mut self) -> Vec<String> {
        // What it does not write is what it is by default.
        if self.seen.len() < self.json.len() {
            let unseen = self.json.keys().filter(|key| !self.seen.contains(&key.as_str()));
            self.found.extend(unseen.cloned());
        }
        self.found
    }
}

struct Picked<'a> {
    names: &'a [String],
    found: Map<String, Value>,
}

impl Look for Picked<'_> {
    type Found = Map<String, Value>;

    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Answer {
        if self.names.iter().any(|other| other == name) {
            let value = serde_json::to_value(value).map_err(|_| Differs)?;
            self.found.insert(name.to_owned(), value);
        }
        Ok(())
    }

    fn found(self) -> Map<String, Value> {
        self.found
    }
}

/// A serializer for structures only.
struct Fields<L>(L);

impl<L: Look> ser::SerializeStruct for Fields<L> {
    type Ok = L::Found;
    type Error = Differs;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Answer {
        self.0.field(name, value)
    }

    fn end(self) -> Result<L::Found, Differs> {
        Ok(self.0.found())
    }
}

/// Kinds of values that have no place there.
macro_rules! refuse {
    ($ok:ty: $($name:ident($kind:ty))*) => {
        $(fn $name(self, _: $kind) -> Result<$ok, Differs> { Err(Differs) })*
    };
}

/// Every kind of value that neither is a structure nor can be a key.
macro_rules! refuse_all_else {
    ($ok:ty) => {
        refuse! {
            $ok:
            serialize_bool(bool) serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
            serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_f32(f32)
            serialize_f64(f64) serialize_char(char) serialize_bytes(&[u8]) serialize_unit_struct(&'static str)
        }

        fn serialize_none(self) -> Result<$ok, Differs> {
            Err(Differs)
        }

        fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<$ok, Differs> {
            Err(Differs)
        }

        fn serialize_unit(self) -> Result<$ok, Differs> {
            Err(Differs)
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<$ok, Differs> {
            Err(Differs)
        }

        fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Differs> {
            Err(Differs)
        }

        fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Differs> {
            Err(Differs)
        }

        fn serialize_tuple_struct(
            self,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleStruct, Differs> {
            Err(Differs)
        }

        fn serialize_tuple_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleVariant, Differs> {
            Err(Differs)
        }

        fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Differs> {
            Err(Differs)
        }

        fn serialize_struct_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeStructVariant, Differs> {
            Err(Differs)
        }
    };
}

impl<L: Look> ser::Serializer for Fields<L> {
    type Ok = L::Found;
    type Error = Differs;
    type SerializeSeq = Impossible<L::Found, Differs>;
    type SerializeTuple = Impossible<L::Found, Differs>;
    type SerializeTupleStruct = Impossible<L::Found, Differs>;
    type SerializeTupleVariant = Impossible<L::Found, Differs>;
    type SerializeMap = Impossible<L::Found, Differs>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Impossible<L::Found, Differs>;

    refuse_all_else!(L::Found);

    fn serialize_str(self, _: &str) -> Result<L::Found, Differs> {
        Err(Differs)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<L::Found, Differs> {
        Err(Differs)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<L::Found, Differs> {
        value.serialize(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Differs> {
        Ok(self)
    }
}

impl ser::Serializer for Key<'_> {
    type Ok = ();
    type Error = Differs;
    type SerializeSeq = Impossible<(), Differs>;
    type SerializeTuple = Impossible<(), Differs>;
    type SerializeTupleStruct = Impossible<(), Differs>;
    type SerializeTupleVariant = Impossible<(), Differs>;
    type SerializeMap = Impossible<(), Differs>;
    type SerializeStruct = Impossible<(), Differs>;
    type SerializeStructVariant = Impossible<(), Differs>;

    refuse_all_else!(());

    fn serialize_str(self, value: &str) -> Answer {
        holds(self.0 == value)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Answer {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Answer {
        value.serialize(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Differs> {
        Err(Differs)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

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
                Kind::Text("x".into()),
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
    fn a_value_is_what_it_serialises_to() {
        let json = serde_json::to_value(record()).unwrap();
        assert!(is_written(&record(), &json));
    }

    #[test]
    fn every_other_value_differs() {
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
        let json = serde_json::to_value(record()).unwrap();
        let mut all = Vec::new();
        leaves(&json, String::new(), &mut all);
        assert!(all.len() > 15, "{all:?}");
        for at in all {
            let mut other = json.clone();
            *other.pointer_mut(&at).unwrap() = json!("another");
            assert!(!is_written(&record(), &other), "{at}");
        }
        let mut longer = json.clone();
        longer["map"]["c"] = json!(true);
        assert!(!is_written(&record(), &longer), "an entry more");
        let mut longer = json.clone();
        longer["kinds"].as_array_mut().unwrap().push(json!("plain"));
        assert!(!is_written(&record(), &longer), "an element more");
        let mut longer = json;
        longer["more"] = Value::Null;
        assert!(!is_written(&record(), &longer), "a field more");
    }

    #[test]
    fn the_fields_that_differ_are_found() {
        let json = serde_json::to_value(record()).unwrap();
        assert_eq!(differing(&record(), &json), Some(vec![]));
        let mut other = json.clone();
        other["map"]["a"] = json!(false);
        other.as_object_mut().unwrap().remove("ratio");
        other["more"] = json!(1);
        let found = differing(&record(), &other).unwrap();
        assert_eq!(found, ["map", "ratio", "more"]);
        let picked = pick(&record(), &found).unwrap();
        assert_eq!(Value::Object(picked), json!({"map": json["map"], "ratio": 0.5}));
        assert_eq!(differing(&record(), &json!([])), None);
        assert_eq!(pick(&vec![1], &found), None);
    }
}

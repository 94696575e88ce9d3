//! Whether a value is what a record says, without building the value's own
//! JSON: a serializer that walks along JSON that is there.
//!
//! It is a shortcut. *Yes* is certain; *no* may also mean that the two are
//! written in another order or that something here is not understood, and is
//! looked into by whoever asks ([`super::diff`]).

use serde::Serialize;
use serde::ser::{self, Impossible};
use serde_json::Value;

/// Whether `value` serialises to exactly `json`, fields and keys in this order.
pub(super) fn is_written<T: Serialize + ?Sized>(value: &T, json: &Value) -> bool {
    value.serialize(Along(json)).is_ok()
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

/// Every kind of value that is no key here.
macro_rules! refuse {
    ($($name:ident($kind:ty))*) => {
        $(fn $name(self, _: $kind) -> Answer { Err(Differs) })*
    };
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

    refuse! {
        serialize_bool(bool) serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_f32(f32)
        serialize_f64(f64) serialize_char(char) serialize_bytes(&[u8])
    }

    fn serialize_str(self, value: &str) -> Answer {
        holds(self.0 == value)
    }

    fn serialize_none(self) -> Answer {
        Err(Differs)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Answer {
        Err(Differs)
    }

    fn serialize_unit(self) -> Answer {
        Err(Differs)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Answer {
        Err(Differs)
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
        _: &'static str,
        _: &T,
    ) -> Answer {
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

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Differs> {
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
}

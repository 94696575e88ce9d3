//! A mapping in the order it is written.
//!
//! Nearly all mappings of a stack file have a handful of keys, and there are
//! many of them: entries stand in a plain vector that is searched from its
//! beginning. Only a mapping with many keys (the services of a large stack) has
//! an index beside it.

use std::collections::HashMap;

use smol_str::SmolStr;

use super::tree::Entry;

/// Keys that are searched without an index.
const FEW: usize = 16;

type Index = HashMap<SmolStr, usize, foldhash::fast::RandomState>;

/// A mapping in the order it is written.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    entries: Vec<(SmolStr, Entry)>,
    /// Where each key is; of mappings with more than [`FEW`] keys.
    index: Option<Box<Index>>,
}

impl Mapping {
    /// An empty mapping with room for so many keys.
    #[must_use]
    pub fn with_capacity(keys: usize) -> Self {
        Self {
            entries: Vec::with_capacity(keys),
            index: None,
        }
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position(&self, key: &str) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(key).copied(),
            None => self.entries.iter().position(|(there, _)| there == key),
        }
    }

    fn reindex(&mut self) {
        self.index = (self.entries.len() > FEW).then(|| {
            let keys = self.entries.iter().enumerate();
            Box::new(keys.map(|(at, (key, _))| (key.clone(), at)).collect())
        });
    }

    /// The entry of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(self.position(key)?).map(|(_, entry)| entry)
    }

    /// The entry of a key.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Entry> {
        let at = self.position(key)?;
        self.entries.get_mut(at).map(|(_, entry)| entry)
    }

    /// Whether there is such a key.
    #[must_use]
    pub fn contains_key(&self, key: &str) -> bool {
        self.position(key).is_some()
    }

    /// Sets a key; one that is there stays where it is.
    pub fn insert(&mut self, key: SmolStr, entry: Entry) {
        match self.get_mut(&key) {
            Some(there) => *there = entry,
            None => self.push(key, entry),
        }
    }

    /// Adds a key that is not there.
    pub(super) fn push(&mut self, key: SmolStr, entry: Entry) {
        if let Some(index) = &mut self.index {
            index.insert(key.clone(), self.entries.len());
            self.entries.push((key, entry));
        } else {
            self.entries.push((key, entry));
            if self.entries.len() > FEW {
                self.reindex();
            }
        }
    }

    /// Takes a key out; the order of the others stays.
    pub fn remove(&mut self, key: &str) -> Option<Entry> {
        let at = self.position(key)?;
        let (_, entry) = self.entries.remove(at);
        if self.index.is_some() {
            self.reindex();
        }
        Some(entry)
    }

    /// Keeps the entries that a test is true for.
    pub fn retain(&mut self, mut keep: impl FnMut(&SmolStr, &mut Entry) -> bool) {
        let before = self.entries.len();
        self.entries.retain_mut(|(key, entry)| keep(key, entry));
        if self.index.is_some() && self.entries.len() != before {
            self.reindex();
        }
    }

    /// The keys and entries in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&SmolStr, &Entry)> + ExactSizeIterator {
        self.entries.iter().map(|(key, entry)| (key, entry))
    }

    /// The keys and entries in order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&SmolStr, &mut Entry)> {
        self.entries.iter_mut().map(|(key, entry)| (&*key, entry))
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &SmolStr> {
        self.entries.iter().map(|(key, _)| key)
    }

    /// The entries in order.
    pub fn values(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    /// The entries in order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut().map(|(_, entry)| entry)
    }
}

/// Equal keys with equal values, in any order.
impl PartialEq for Mapping {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(key, entry)| other.get(key) == Some(entry))
    }
}

impl IntoIterator for Mapping {
    type Item = (SmolStr, Entry);
    type IntoIter = std::vec::IntoIter<(SmolStr, Entry)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<'m> IntoIterator for &'m Mapping {
    type Item = (&'m SmolStr, &'m Entry);
    type IntoIter = std::iter::Map<
        std::slice::Iter<'m, (SmolStr, Entry)>,
        fn(&'m (SmolStr, Entry)) -> (&'m SmolStr, &'m Entry),
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter().map(|(key, entry)| (key, entry))
    }
}

impl<'m> IntoIterator for &'m mut Mapping {
    type Item = (&'m SmolStr, &'m mut Entry);
    type IntoIter = std::iter::Map<
        std::slice::IterMut<'m, (SmolStr, Entry)>,
        fn(&'m mut (SmolStr, Entry)) -> (&'m SmolStr, &'m mut Entry),
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter_mut().map(|(key, entry)| (&*key, entry))
    }
}

impl Extend<(SmolStr, Entry)> for Mapping {
    fn extend<T: IntoIterator<Item = (SmolStr, Entry)>>(&mut self, entries: T) {
        for (key, entry) in entries {
            self.insert(key, entry);
        }
    }
}

impl FromIterator<(SmolStr, Entry)> for Mapping {
    fn from_iter<T: IntoIterator<Item = (SmolStr, Entry)>>(entries: T) -> Self {
        let entries = entries.into_iter();
        let mut map = Self::with_capacity(entries.size_hint().0);
        map.extend(entries);
        map
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::source::Place;
    use super::super::tree::{Node, Value};
    use super::*;

    fn entry(number: i64) -> Entry {
        Entry {
            key: Place::NOWHERE,
            node: Node::new(Value::Int(number), Place::NOWHERE),
        }
    }

    proptest! {
        /// Small ones, large ones and those that pass from one to the other do
        /// what an ordered map does.
        #[test]
        fn it_is_an_ordered_map(steps in prop::collection::vec((0..4u8, 0..40u8, any::<i64>()), 0..200)) {
            let mut ours = Mapping::default();
            let mut model = indexmap::IndexMap::new();
            for (step, key, number) in steps {
                let key = SmolStr::from(format!("k{key}"));
                match step {
                    0 | 1 => {
                        ours.insert(key.clone(), entry(number));
                        model.insert(key, entry(number));
                    }
                    2 => prop_assert_eq!(ours.remove(&key), model.shift_remove(&key)),
                    _ => {
                        let keep = |entry: &Entry| entry.node.as_int().is_some_and(|value| value % 7 != 0);
                        ours.retain(|_, entry| keep(entry));
                        model.retain(|_, entry| keep(entry));
                    }
                }
                prop_assert_eq!(ours.len(), model.len());
                prop_assert!(ours.iter().eq(model.iter()));
                for key in (0..40).map(|key| format!("k{key}")) {
                    prop_assert_eq!(ours.get(&key), model.get(key.as_str()));
                    prop_assert_eq!(ours.contains_key(&key), model.contains_key(key.as_str()));
                }
            }
        }
    }
}

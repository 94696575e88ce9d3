//! What a value may be: the vocabulary of the field tables in `fields`.
//!
//! One table says, for every value of the Compose Specification, its type, its
//! short forms, how it merges and how it prints. Validation, "did you mean", interpolation casts, the long form, merging,
//! `config` and the JSON schema all read that one table.

/// A kind of value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Int,
    /// Any number.
    Number,
    /// Text.
    Text,
    /// A sequence.
    List,
    /// A mapping.
    Map,
}

/// What a text is turned into where text stands for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// Text.
    None,
    /// A boolean.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Float,
}

/// How a value is written in its long form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As it is.
    Plain,
    /// An amount of bytes, `64m`; long: decimal text.
    Bytes,
    /// A length of time, `1m30s`; long: as Go prints it.
    Duration,
    /// A command line or its words; long: words.
    Words,
    /// One text or several; long: a list.
    Texts,
    /// `NAME=value` items or a mapping; long: a mapping to text or nothing.
    Assignments,
    /// The same where nothing is the empty text.
    Labels,
    /// A mapping to scalars; long: a mapping to text.
    Options,
    /// `host=address` items or a mapping; long: items, one address each.
    Hosts,
    /// Names, or a mapping by name; long: a mapping.
    Names,
    /// `depends_on`.
    Dependencies,
    /// Published ports; long: one mapping a port.
    Ports,
    /// A mount; long: a mapping.
    Mount,
    /// A reference to a config or secret; long: a mapping.
    Grant,
    /// A file mode; long: octal text.
    Mode,
    /// The mode of a tmpfs; long: a number.
    TmpfsMode,
    /// `env_file`; long: a list of mappings.
    EnvFiles,
    /// A device; long: a mapping.
    Device,
    /// `gpus: all` or requests; long: a list.
    Gpus,
    /// A number of devices, or `all`; long: a number, -1 for all.
    Count,
    /// A probe; long: its words.
    HealthTest,
    /// `build: PATH`; long: a mapping.
    Build,
    /// `extends: NAME`; long: a mapping.
    Extends,
    /// SSH agents of a build; long: a mapping.
    Ssh,
    /// A scalar, or several; long: a list of texts.
    AnyTexts,
    /// A boolean or text; long: text.
    BoolText,
    /// A scalar; long: text.
    Text,
    /// A network, volume, config or secret: `external: {name}` moves its name up.
    Resource,
}

/// How two values of one key become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Mappings key by key, lists one after the other, scalars the later one.
    Deep,
    /// The later one.
    Replace,
    /// Mappings key by key, each value the later one, even when it is nothing.
    Assign,
    /// As `Deep` for the same driver, else the later one.
    Logging,
    /// Address pools, by subnet.
    Pools,
}

/// What makes two items of a list the same, so that the later one takes the
/// place of the earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Items are never the same.
    None,
    /// Equal text.
    Whole,
    /// Equal text before `=`.
    BeforeEquals,
    /// The same host address, published and target port, and protocol.
    Port,
    /// The same `target`.
    Target,
    /// The same `target`, which is the source below this folder by default.
    GrantTarget(&'static str),
    /// The same `path`.
    FilePath,
}

/// When a field is printed by `config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Print {
    /// When it has a value that is not empty, zero or false.
    Filled,
    /// When it is there.
    Present,
    /// Always: `null` when it is missing.
    OrNull,
    /// Always: an empty mapping when it is missing.
    OrEmpty,
}

/// A field of a mapping with known keys.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its key.
    pub name: &'static str,
    /// What it may be.
    pub form: &'static Form,
    /// How it merges.
    pub merge: Merge,
    /// What makes its items the same.
    pub identity: Identity,
    /// When it is printed.
    pub print: Print,
    /// Its key in JSON, where that is another one.
    pub in_json: Option<&'static str>,
    /// It must be there.
    pub required: bool,
    /// What it is, for the JSON schema.
    pub about: &'static str,
}

/// A mapping with known keys (and `x-…`).
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Its name in the JSON schema.
    pub name: &'static str,
    /// Its fields in the order in which they are printed.
    pub fields: &'static [Field],
    /// Extensions (`x-…`) of ours, for the JSON schema: as all extensions they are
    /// carried along as they are written, and checked by who reads them.
    pub extensions: &'static [Field],
    /// Where each is, by [`slot`]; [`NO_FIELD`] is nowhere.
    index: [u8; SLOTS],
}

/// Slots of the index of a shape: more than twice the fields of the largest.
const SLOTS: usize = 256;
/// A slot of no field.
const NO_FIELD: u8 = u8::MAX;

/// The slot in which the search for a key begins.
const fn slot(name: &[u8]) -> usize {
    // Four letters tell the names of a shape apart well enough.
    let length = name.len();
    if length == 0 {
        return 0;
    }
    let mut hash = length;
    hash = hash * 31 + name[0] as usize;
    hash = hash * 31 + name[length / 2] as usize;
    hash = hash * 31 + name[length * 3 / 4] as usize;
    hash = hash * 31 + name[length - 1] as usize;
    (hash ^ (hash >> 8)) % SLOTS
}

impl Shape {
    /// A mapping with these fields.
    pub(super) const fn new(name: &'static str, fields: &'static [Field]) -> Self {
        assert!(fields.len() < SLOTS / 2, "the index is too small");
        let mut index = [NO_FIELD; SLOTS];
        let mut number = 0;
        while number < fields.len() {
            let mut at = slot(fields[number].name.as_bytes());
            while index[at] != NO_FIELD {
                at = (at + 1) % SLOTS;
            }
            index[at] = number as u8;
            number += 1;
        }
        Self {
            name,
            fields,
            extensions: &[],
            index,
        }
    }

    /// The same with these extensions of ours.
    pub(super) const fn extended(self, extensions: &'static [Field]) -> Self {
        Self { extensions, ..self }
    }

    /// The field of a key.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.get(self.position(name)?)
    }

    /// The place of a key among the fields.
    pub fn position(&self, name: &str) -> Option<usize> {
        // Asked for each key of each document, several times.
        let mut at = slot(name.as_bytes());
        loop {
            let number = usize::from(*self.index.get(at)?);
            // An empty slot ends the search: its number is no field's.
            if self.fields.get(number)?.name == name {
                return Some(number);
            }
            at = (at + 1) % SLOTS;
        }
    }
}

/// What a text must look like.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// As a regular expression, for messages and the JSON schema; it may be
    /// found anywhere in the text.
    pub text: &'static str,
    /// Whether a text looks so.
    pub fits: fn(&str) -> bool,
}

/// What a value may be.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Its kinds, the most usual one first.
    pub kinds: &'static [Kind],
    /// What text stands for.
    pub cast: Cast,
    /// Its long form.
    pub format: Format,
    /// Known keys, when it is such a mapping.
    pub shape: Option<&'static Shape>,
    /// What the values are, when it is a mapping with free keys.
    pub values: Option<&'static Form>,
    /// What the items are, when it is a list.
    pub items: Option<&'static Form>,
    /// Items must differ.
    pub unique: bool,
    /// The texts it may be; empty for any.
    pub one_of: &'static [&'static str],
    /// What its text must look like.
    pub pattern: Option<&'static Pattern>,
    /// Smallest number.
    pub least: Option<i64>,
    /// Greatest number.
    pub most: Option<i64>,
    /// Keys are names (`[a-zA-Z0-9._-]+`), and `x-…` is a name like any other.
    pub names: bool,
}

impl Form {
    /// A value of some kinds, as it is.
    pub const fn of(kinds: &'static [Kind]) -> Self {
        Self {
            kinds,
            cast: Cast::None,
            format: Format::Plain,
            shape: None,
            values: None,
            items: None,
            unique: false,
            one_of: &[],
            pattern: None,
            least: None,
            most: None,
            names: false,
        }
    }

    /// With a cast.
    pub const fn cast(mut self, cast: Cast) -> Self {
        self.cast = cast;
        self
    }

    /// With a long form.
    pub const fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// With known keys.
    pub const fn shape(mut self, shape: &'static Shape) -> Self {
        self.shape = Some(shape);
        self
    }

    /// With free keys to such values.
    pub const fn values(mut self, values: &'static Form) -> Self {
        self.values = Some(values);
        self
    }

    /// With such items.
    pub const fn items(mut self, items: &'static Form) -> Self {
        self.items = Some(items);
        self
    }

    /// With items that differ.
    pub const fn unique(mut self) -> Self {
        self.unique = true;
        self
    }

    /// One of these texts.
    pub const fn one_of(mut self, texts: &'static [&'static str]) -> Self {
        self.one_of = texts;
        self
    }

    /// With text that looks so.
    pub const fn pattern(mut self, pattern: &'static Pattern) -> Self {
        self.pattern = Some(pattern);
        self
    }

    /// Not less than this.
    pub const fn least(mut self, least: i64) -> Self {
        self.least = Some(least);
        self
    }

    /// Not more than this.
    pub const fn most(mut self, most: i64) -> Self {
        self.most = Some(most);
        self
    }

    /// With keys that are names.
    pub const fn names(mut self) -> Self {
        self.names = true;
        self
    }

    /// Whether a kind is allowed.
    pub fn allows(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// The form of the value of a key.
    pub fn below(&self, key: &str) -> Option<&'static Self> {
        match self.shape {
            Some(shape) => shape.field(key).map(|field| field.form),
            None => self.values,
        }
    }

    /// The field of a key, when keys are known.
    pub fn field(&self, key: &str) -> Option<&'static Field> {
        self.shape?.field(key)
    }
}

/// A field that merges deeply and prints when filled.
pub(super) const fn field(name: &'static str, form: &'static Form, about: &'static str) -> Field {
    Field {
        name,
        form,
        merge: Merge::Deep,
        identity: Identity::None,
        print: Print::Filled,
        in_json: None,
        required: false,
        about,
    }
}

impl Field {
    /// With a merge rule.
    pub(super) const fn merge(mut self, merge: Merge) -> Self {
        self.merge = merge;
        self
    }

    /// With items that take each other's place.
    pub(super) const fn identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// With another rule for printing.
    pub(super) const fn print(mut self, print: Print) -> Self {
        self.print = print;
        self
    }

    /// With another key in JSON: that of docker compose's type.
    pub(super) const fn in_json(mut self, name: &'static str) -> Self {
        self.in_json = Some(name);
        self
    }

    /// Its key in JSON.
    pub fn json_name(&self) -> &'static str {
        match self.in_json {
            Some(name) => name,
            None => self.name,
        }
    }

    /// That must be there.
    pub(super) const fn required(mut self) -> Self {
        self.required = true;
        self
    }
}

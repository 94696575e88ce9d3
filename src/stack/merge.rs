//! One document over another: several files, `extends`, `include`.
//!
//! Both are in their long form, so the rules are few: mappings merge key by
//! key, lists are appended, scalars are replaced, nothing (`null`) leaves what
//! is there; the field table names the exceptions. `!reset` and `!override` in
//! the upper document take out and replace.

use std::collections::HashMap;

use smol_str::{SmolStr, format_smolstr};

use super::canonical::align;
use super::diagnostic::Code;
use super::form::{Form, Identity, Merge};
use super::source::Report;
use super::tree::{Mapping, Node, Tag, Trail, Value};

/// Merges a document over a document.
pub(super) fn merge(
    base: &mut Node,
    over: Node,
    form: Option<&'static Form>,
    trail: &Trail<'_>,
    report: &mut Report,
) {
    merge_as(base, over, form, Merge::Deep, trail, report);
}

fn merge_as(
    base: &mut Node,
    mut over: Node,
    form: Option<&'static Form>,
    rule: Merge,
    trail: &Trail<'_>,
    report: &mut Report,
) {
    if over.tag != Tag::None || rule == Merge::Replace {
        replaced(base, trail, report);
        *base = over;
        return;
    }
    if over.is_null() {
        return;
    }
    if base.is_null() {
        // What is marked in the upper document stays marked until both are settled.
        *base = over;
        return;
    }
    if rule == Merge::Logging
        && let (Some(one), Some(other)) = (base.text_of("driver"), over.text_of("driver"))
        && one != other
    {
        replaced(base, trail, report);
        *base = over;
        return;
    }
    if !report.options().interpolate
        && let Some(form) = form
    {
        align(base, &mut over, form, trail, report);
    }
    let are_of_a_kind = match (&base.value, &over.value) {
        (Value::Map(_), other) => matches!(other, Value::Map(_)),
        (Value::List(_), other) => matches!(other, Value::List(_)),
        (_, other) => !matches!(other, Value::Map(_) | Value::List(_)),
    };
    if form.is_none() && !are_of_a_kind {
        // An extension may be anything.
        replaced(base, trail, report);
        *base = over;
        return;
    }
    let Node { value, place, tag } = over;
    match (&mut base.value, value) {
        (Value::Map(map), Value::Map(other)) => merge_maps(map, other, form, rule, trail, report),
        (Value::List(list), Value::List(other)) => {
            if rule == Merge::Pools {
                merge_pools(list, other, form, trail, report);
            } else {
                list.extend(other);
            }
        }
        (Value::Map(_) | Value::List(_), _) | (_, Value::Map(_) | Value::List(_)) => {
            if !is_either(form) {
                if let Some(service) = trail.service() {
                    report.poison(service);
                }
                report.error(place, Code::Conflict, format!("cannot override {trail}"));
            }
        }
        (_, value) => {
            replaced(base, trail, report);
            *base = Node { value, place, tag };
        }
    }
}

/// Notes that a value is replaced.
fn replaced(node: &Node, trail: &Trail<'_>, report: &mut Report) {
    if let Some(trace) = report.trace() {
        trace.add_replaced(trail.to_string(), node);
    }
}

/// Whether a value has several long forms (`ulimits`): the later one stands.
fn is_either(form: Option<&'static Form>) -> bool {
    use super::form::Kind;
    form.is_some_and(|form| form.allows(Kind::Map) && form.allows(Kind::Int))
}

fn merge_maps(
    map: &mut Mapping,
    other: Mapping,
    form: Option<&'static Form>,
    rule: Merge,
    trail: &Trail<'_>,
    report: &mut Report,
) {
    for (key, entry) in other {
        let Some(there) = map.get_mut(&key) else {
            map.insert(key, entry);
            continue;
        };
        if rule == Merge::Assign {
            replaced(&there.node, &trail.key(&key), report);
            *there = entry;
            continue;
        }
        let (form, rule) = match form.and_then(|form| form.field(&key)) {
            Some(field) => (Some(field.form), field.merge),
            None => (form.and_then(|form| form.values), Merge::Deep),
        };
        there.key = entry.key;
        merge_as(&mut there.node, entry.node, form, rule, &trail.key(&key), report);
    }
}

/// Address pools with one subnet are one pool.
fn merge_pools(
    list: &mut Vec<Node>,
    other: Vec<Node>,
    form: Option<&'static Form>,
    trail: &Trail<'_>,
    report: &mut Report,
) {
    let items = form.and_then(|form| form.items);
    for pool in other {
        let same = list
            .iter_mut()
            .find(|there| there.text_of("subnet") == pool.text_of("subnet"));
        match same {
            Some(there) => merge(there, pool, items, trail, report),
            None => list.push(pool),
        }
    }
}

/// Leaves one of the items of each list that take each other's place: the last
/// one, where the first one stood.
pub(super) fn unify(node: &mut Node, form: &'static Form, trail: &Trail<'_>, report: &mut Report) {
    let Value::Map(map) = &mut node.value else {
        return;
    };
    for (key, entry) in map {
        let Some(below) = form.below(key) else {
            continue;
        };
        if let Some(field) = form.field(key)
            && field.identity != Identity::None
            && let Value::List(list) = &mut entry.node.value
        {
            unify_list(list, field.identity, &trail.key(key), report);
        }
        unify(&mut entry.node, below, &trail.key(key), report);
    }
}

/// Lists up to this length are compared item by item.
const SHORT: usize = 16;

fn unify_list(list: &mut Vec<Node>, identity: Identity, trail: &Trail<'_>, report: &mut Report) {
    let repeats = |(at, item): (usize, &Node)| {
        let earlier = list.get(..at).unwrap_or_default();
        earlier.iter().any(|earlier| is_same(earlier, item, identity))
    };
    if list.len() < 2 || list.len() <= SHORT && !list.iter().enumerate().any(repeats) {
        return;
    }
    let mut seen: HashMap<SmolStr, usize> = HashMap::with_capacity(list.len());
    let mut kept: Vec<Node> = Vec::with_capacity(list.len());
    for item in list.drain(..) {
        let Some(key) = key_of(&item, identity) else {
            kept.push(item);
            continue;
        };
        let at = seen.get(&key).copied();
        match at.and_then(|at| kept.get_mut(at)) {
            Some(earlier) => {
                if earlier.place != item.place {
                    replaced(earlier, &trail.index(at.unwrap_or_default()), report);
                }
                *earlier = item;
            }
            None => {
                seen.insert(key, kept.len());
                kept.push(item);
            }
        }
    }
    *list = kept;
}

/// Whether two items have the same key.
fn is_same(one: &Node, other: &Node, identity: Identity) -> bool {
    // Most differ in the first thing that is looked at: no key is made of them.
    let differ = |field: &str| match (one.text_of(field), other.text_of(field)) {
        (Some(one), Some(other)) => one != other,
        _ => match (one.get(field), other.get(field)) {
            (Some(one), Some(other)) => {
                matches!((one.as_int(), other.as_int()), (Some(a), Some(b)) if a != b)
            }
            _ => false,
        },
    };
    let differ = match identity {
        Identity::None => true,
        Identity::Port => differ("target"),
        Identity::Target | Identity::GrantTarget(_) => differ("target"),
        Identity::FilePath => differ("path"),
        Identity::Whole | Identity::BeforeEquals => false,
    };
    !differ && key_of(one, identity).is_some_and(|key| key_of(other, identity) == Some(key))
}

fn key_of(item: &Node, identity: Identity) -> Option<SmolStr> {
    match identity {
        Identity::None => None,
        Identity::Whole => item.scalar(),
        Identity::BeforeEquals => item.scalar().map(|text| match text.split_once('=') {
            Some((key, _)) => key.into(),
            None => text,
        }),
        Identity::Port => Some(format_smolstr!(
            "{}:{}:{}/{}",
            item.text_of("host_ip").unwrap_or("0.0.0.0"),
            item.text_of("published").unwrap_or_default(),
            item.get("target")?.scalar()?,
            item.text_of("protocol").unwrap_or("tcp")
        )),
        Identity::Target => item.text_of("target").map(Into::into),
        Identity::GrantTarget(folder) => Some(match item.text_of("target") {
            Some(target) => target.into(),
            None => format_smolstr!("{folder}/{}", item.text_of("source")?),
        }),
        Identity::FilePath => item.text_of("path").map(Into::into),
    }
}

//! Short forms to long forms: after this, each value of a document is written
//! in one way only. Values that fit no form are reported and taken out.

use super::diagnostic::Code;
use super::form::{Cast, Form, Format, Kind};
use super::short::{
    clean_path, format_duration, is_clean, parse_amount, parse_duration, parse_mount, parse_ports,
    split_words,
};
use super::source::{Place, Report};
use super::tree::{Entry, Mapping, Node, Tag, Trail, Value};
use smol_str::{SmolStr, format_smolstr};

/// Brings a checked document into its long form.
pub(super) fn canonicalise(
    node: &mut Node,
    form: &'static Form,
    trail: &Trail<'_>,
    report: &mut Report,
) -> bool {
    if node.tag == Tag::Reset || node.is_null() {
        return true;
    }
    if !lengthen(node, form, trail, report) {
        if let Some(service) = trail.service() {
            report.poison(service);
        }
        return false;
    }
    match &mut node.value {
        Value::List(list) => {
            if let Some(items) = form.items {
                let mut index = 0;
                list.retain_mut(|item| {
                    let valid = canonicalise(item, items, &trail.index(index), report);
                    index += 1;
                    valid
                });
            }
        }
        Value::Map(map) => map.retain(|key, entry| match form.below(key) {
            Some(below) => canonicalise(&mut entry.node, below, &trail.key(key), report) || form.names,
            None => true,
        }),
        _ => {}
    }
    true
}

/// Takes a value out of a tree, to be replaced.
fn take(node: &mut Node) -> Value {
    std::mem::replace(&mut node.value, Value::Null)
}

fn wrap(text: SmolStr, key: &str, place: Place) -> Value {
    let mut map = Node::map_for(2, place);
    map.set(key, Node::text(text, place));
    map.value
}

fn lengthen(node: &mut Node, form: &'static Form, trail: &Trail<'_>, report: &mut Report) -> bool {
    let place = node.place;
    if let Value::Text(text) = &node.value
        && report.keeps(text)
        && !matches!(
            form.format,
            Format::Texts | Format::EnvFiles | Format::Grant | Format::Build | Format::Extends
        )
    {
        return true;
    }
    let tmpfs = form.format == Format::Texts && matches!(trail, Trail::Key(_, "tmpfs"));
    if !report.options().interpolate && (is_left(form.format) || tmpfs) {
        return true;
    }
    match form.format {
        Format::Plain => {
            // Fractions of what is counted are dropped, as docker compose does.
            if form.cast == Cast::Int
                && form.allows(Kind::Number)
                && let Value::Float(number) = node.value
                && number.abs() < 9e15
            {
                #[expect(clippy::cast_possible_truncation, reason = "small, as just checked")]
                let whole = number as i64;
                node.value = Value::Int(whole);
            }
        }
        Format::Bytes => return bytes(node, form, trail, report),
        Format::Duration => {
            if let Value::Text(text) = &node.value {
                match parse_duration(text) {
                    Ok(duration) => node.value = Value::Text(format_duration(duration).into()),
                    Err(error) => {
                        report.error_hint(
                            place,
                            Code::Schema,
                            format!("{trail}: {error}"),
                            "write amounts with units, such as 1m30s",
                        );
                        return false;
                    }
                }
            }
        }
        Format::Words => {
            if let Value::Text(text) = &node.value {
                match split_words(text) {
                    Ok(words) => {
                        node.value =
                            Value::List(words.into_iter().map(|word| Node::text(word, place)).collect());
                    }
                    Err(error) => {
                        report.error_hint(
                            place,
                            Code::Schema,
                            format!("{trail}: {error}"),
                            "close its quotes, or write the words as a list",
                        );
                        return false;
                    }
                }
            }
        }
        Format::Texts => {
            if let Value::Text(_) = node.value {
                let text = take(node);
                node.value = Value::List(vec![Node::new(text, place)]);
            }
        }
        Format::AnyTexts => {
            if let Some(text) = node.scalar() {
                node.value = Value::List(vec![Node::text(text, place)]);
            }
        }
        Format::Text | Format::BoolText => {
            if let Some(text) = node.scalar() {
                node.value = Value::Text(text);
            }
        }
        Format::Assignments => return assignments(node, false, trail, report),
        Format::Labels => return assignments(node, true, trail, report),
        Format::Options => {
            let no_null = form.values.is_some_and(|values| !values.allows(Kind::Null));
            if let Value::Map(map) = &mut node.value {
                for entry in map.values_mut() {
                    if let Some(text) = entry.node.scalar().filter(|_| !(no_null && entry.node.is_null())) {
                        entry.node.value = Value::Text(text);
                    }
                }
            }
        }
        Format::Hosts => return hosts(node, trail, report),
        Format::Names => {
            if let Value::List(list) = take_list(node) {
                node.value = Value::Map(keyed(list, Node::null));
            }
        }
        Format::Dependencies => {
            if let Value::List(list) = take_list(node) {
                node.value = Value::Map(keyed(list, |place| {
                    let mut dependency = Node::map_for(2, place);
                    dependency.set("condition", Node::word("service_started", place));
                    dependency.set("required", Node::new(Value::Bool(true), place));
                    dependency
                }));
            }
        }
        Format::Ports => return ports(node, trail, report),
        Format::Mount => return mount(node, trail, report),
        Format::Grant => {
            if let Value::Text(text) = &node.value {
                node.value = wrap(text.clone(), "source", place);
            }
        }
        Format::Mode | Format::TmpfsMode => return mode(node, form.format, trail, report),
        Format::EnvFiles => {
            if let Value::Text(_) = node.value {
                let text = take(node);
                node.value = Value::List(vec![Node::new(text, place)]);
            }
            if let Value::List(list) = &mut node.value {
                for item in list {
                    if let Value::Text(text) = &item.value {
                        item.value = wrap(text.clone(), "path", item.place);
                    }
                    if item.as_map().is_some() && item.get("required").is_none() {
                        item.set("required", Node::new(Value::Bool(true), item.place));
                    }
                }
            }
        }
        Format::Device => return device(node, trail, report),
        Format::Gpus => {
            if let Value::Text(_) = node.value {
                let mut request = Node::map(place);
                request.set("count", Node::new(Value::Int(-1), place));
                node.value = Value::List(vec![request]);
            }
        }
        Format::Count => {
            if let Value::Text(text) = &node.value {
                let count = if text.eq_ignore_ascii_case("all") {
                    Some(-1)
                } else {
                    text.parse().ok()
                };
                let Some(count) = count else {
                    report.error(
                        place,
                        Code::Schema,
                        format!(
                            "{trail}: invalid value {text:?}, the only value allowed is 'all' or a number"
                        ),
                    );
                    return false;
                };
                node.value = Value::Int(count);
            }
        }
        Format::HealthTest => {
            if let Value::Text(_) = node.value {
                let text = take(node);
                node.value = Value::List(vec![Node::word("CMD-SHELL", place), Node::new(text, place)]);
            }
        }
        Format::Build => {
            if let Value::Text(text) = &node.value {
                node.value = wrap(text.clone(), "context", place);
            }
        }
        Format::Extends => {
            if let Value::Text(text) = &node.value {
                node.value = wrap(text.clone(), "service", place);
            }
        }
        Format::Ssh => return ssh(node, trail, report),
        Format::Resource => return resource(node, trail, report),
    }
    true
}

/// Brings two values that are to be merged into one form, when they were left as
/// they are written.
pub(super) fn align(
    one: &mut Node,
    other: &mut Node,
    form: &'static Form,
    trail: &Trail<'_>,
    report: &mut Report,
) {
    for node in [one, other] {
        match form.format {
            Format::Assignments => assignments(node, false, trail, report),
            Format::Labels => assignments(node, true, trail, report),
            Format::Hosts => hosts(node, trail, report),
            Format::Texts if node.as_text().is_some() => {
                let text = take(node);
                node.value = Value::List(vec![Node::new(text, node.place)]);
                true
            }
            _ => true,
        };
    }
}

/// What docker compose leaves as it is written when variables are not replaced:
/// everything that is not needed to merge.
fn is_left(format: Format) -> bool {
    matches!(
        format,
        Format::Plain
            | Format::Bytes
            | Format::Duration
            | Format::Words
            | Format::Assignments
            | Format::Labels
            | Format::Options
            | Format::Hosts
            | Format::HealthTest
            | Format::Text
            | Format::BoolText
            | Format::AnyTexts
            | Format::Mode
            | Format::TmpfsMode
            | Format::Count
    )
}

/// The list of a node, taken out; any other value stays.
fn take_list(node: &mut Node) -> Value {
    if matches!(node.value, Value::List(_)) {
        take(node)
    } else {
        Value::Null
    }
}

/// Names as the keys of a mapping.
fn keyed(names: Vec<Node>, value: impl Fn(Place) -> Node) -> Mapping {
    names
        .into_iter()
        .filter_map(|name| {
            let place = name.place;
            let Value::Text(text) = name.value else {
                return None;
            };
            let mut node = value(place);
            node.tag = name.tag;
            Some((text, Entry { key: place, node }))
        })
        .collect()
}

fn bytes(node: &mut Node, form: &Form, trail: &Trail<'_>, report: &mut Report) -> bool {
    let amount = match &node.value {
        Value::Text(text) => match parse_amount(text) {
            Ok(amount) => amount,
            Err(error) => {
                report.error_hint(
                    node.place,
                    Code::Schema,
                    format!("{trail}: {error}"),
                    "write bytes, or an amount with b, k, m or g",
                );
                return false;
            }
        },
        Value::Int(amount) => *amount,
        Value::Float(amount) if amount.fract() == 0.0 && amount.abs() < 9e15 => {
            #[expect(clippy::cast_possible_truncation, reason = "whole and small, as just checked")]
            {
                *amount as i64
            }
        }
        _ => {
            report.error(
                node.place,
                Code::Schema,
                format!("{trail} must be a whole number of bytes"),
            );
            return false;
        }
    };
    if form.least.is_some_and(|least| amount < least) {
        report.error(
            node.place,
            Code::Schema,
            format!("{trail} must be greater than or equal to 0"),
        );
        return false;
    }
    node.value = Value::Text(format_smolstr!("{amount}"));
    true
}

/// `NAME=value` items, or a mapping, to a mapping to text (or nothing).
fn assignments(node: &mut Node, empty: bool, trail: &Trail<'_>, report: &mut Report) -> bool {
    let nothing = |place| {
        if empty {
            Node::text("", place)
        } else {
            Node::null(place)
        }
    };
    if let Value::List(list) = take_list(node) {
        let mut map = Mapping::with_capacity(list.len());
        for item in list {
            let (place, tag) = (item.place, item.tag);
            let Value::Text(text) = item.value else {
                continue;
            };
            let (key, mut value) = match text.split_once('=') {
                Some((key, value)) => (key.into(), Node::text(value, place)),
                None => (text, nothing(place)),
            };
            value.tag = tag;
            map.insert(
                key,
                Entry {
                    key: place,
                    node: value,
                },
            );
        }
        node.value = Value::Map(map);
    }
    let Value::Map(map) = &mut node.value else {
        return true;
    };
    let mut valid = true;
    for (key, entry) in map.iter_mut() {
        if entry.node.is_null() {
            let tag = entry.node.tag;
            entry.node = nothing(entry.node.place);
            entry.node.tag = tag;
        } else if let Some(text) = entry.node.scalar() {
            entry.node.value = Value::Text(text);
        }
        if key.ends_with(char::is_whitespace) && !empty {
            report.error(
                entry.key,
                Code::Schema,
                format!("{trail}: environment variable {key} is declared with a trailing space"),
            );
            valid = false;
        }
        if key.contains('\0') {
            report.error(
                entry.key,
                Code::Schema,
                format!("{trail}: a name must not have a NUL in it"),
            );
            valid = false;
        }
    }
    valid
}

fn hosts(node: &mut Node, trail: &Trail<'_>, report: &mut Report) -> bool {
    // Half a pair may come with a variable.
    if node
        .items()
        .any(|item| item.as_text().is_some_and(|text| report.keeps(text)))
    {
        return true;
    }
    let mut pairs: Vec<(String, String, Place)> = Vec::new();
    match take(node) {
        Value::List(list) => {
            for item in list {
                let Value::Text(text) = item.value else {
                    continue;
                };
                let Some((host, addresses)) = text.split_once('=').or_else(|| text.split_once(':')) else {
                    report.error_hint(
                        item.place,
                        Code::Schema,
                        format!("{trail}: invalid additional host, missing IP: {text}"),
                        "write HOST=ADDRESS",
                    );
                    return false;
                };
                pairs.extend(
                    addresses
                        .split(',')
                        .map(|address| (host.to_owned(), address.to_owned(), item.place)),
                );
            }
        }
        Value::Map(map) => {
            for (host, entry) in map {
                let place = entry.node.place;
                match entry.node.value {
                    Value::Text(address) => pairs.push((host.into(), address.into(), place)),
                    Value::List(list) => pairs.extend(list.into_iter().filter_map(|item| match item.value {
                        Value::Text(address) => Some((host.to_string(), address.into(), item.place)),
                        _ => None,
                    })),
                    _ => {
                        report.error(place, Code::Schema, format!("{trail}.{host} must be a string"));
                        return false;
                    }
                }
            }
        }
        _ => {}
    }
    let mut items = Vec::with_capacity(pairs.len());
    for (host, address, place) in pairs {
        if host.is_empty() || host.contains([':', '=']) {
            report.error(place, Code::Schema, format!("{trail}: bad host name '{host}'"));
            return false;
        }
        let bare = address
            .strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'))
            .unwrap_or(&address);
        items.push(Node::text(format!("{host}={bare}"), place));
    }
    node.value = Value::List(items);
    true
}

fn ports(node: &mut Node, trail: &Trail<'_>, report: &mut Report) -> bool {
    let Value::List(list) = take(node) else {
        return true;
    };
    let mut long = Vec::with_capacity(list.len());
    for (index, item) in list.into_iter().enumerate() {
        let place = item.place;
        if item.as_map().is_some() {
            long.push(item);
            continue;
        }
        let Some(text) = item.scalar() else {
            continue;
        };
        if report.keeps(&text) {
            long.push(item);
            continue;
        }
        match parse_ports(&text) {
            Ok(ports) => long.extend(ports.into_iter().map(|port| {
                let mut map = Node::map_for(5, place);
                map.set("mode", Node::word("ingress", place));
                if let Some(address) = port.host_ip {
                    map.set("host_ip", Node::text(address, place));
                }
                map.set("target", Node::new(Value::Int(i64::from(port.target)), place));
                if let Some(published) = port.published {
                    map.set("published", Node::text(published, place));
                }
                map.set("protocol", Node::text(port.protocol, place));
                map.tag = item.tag;
                map
            })),
            Err(error) => {
                report.error_hint(
                    place,
                    Code::Schema,
                    format!("{}: {error}", trail.index(index)),
                    "ports are written [[IP:][HOST]:]CONTAINER[/PROTOCOL]",
                );
                return false;
            }
        }
    }
    node.value = Value::List(long);
    true
}

fn mount(node: &mut Node, trail: &Trail<'_>, report: &mut Report) -> bool {
    let place = node.place;
    if let Some(target) = node.get_mut("target") {
        if let Value::Text(text) = &mut target.value
            && !text.is_empty()
            && !is_clean(text)
        {
            *text = clean_path(text).into();
        }
        return true;
    }
    let Value::Text(text) = &node.value else {
        return true;
    };
    let short = match parse_mount(text) {
        Ok(short) => short,
        Err(error) => {
            report.error_hint(
                place,
                Code::Schema,
                format!("{trail}: {error}"),
                "mounts are written [SOURCE:]TARGET[:OPTIONS]",
            );
            return false;
        }
    };
    let is_bind = short.is_bind();
    let mut options = Node::map_for(1, place);
    let mut other = Node::map(place);
    let (bind, volume) = if is_bind {
        (&mut options, &mut other)
    } else {
        (&mut other, &mut options)
    };
    if is_bind {
        bind.set("create_host_path", Node::new(Value::Bool(true), place));
    }
    if let Some(propagation) = short.propagation {
        bind.set("propagation", Node::text(propagation, place));
    }
    if let Some(label) = &short.selinux {
        bind.set("selinux", Node::text(label, place));
    }
    if short.nocopy {
        volume.set("nocopy", Node::new(Value::Bool(true), place));
    }
    for option in &short.unknown {
        report.warning(
            place,
            format!("{trail}: the mount option {option:?} is not known and has no effect"),
        );
    }
    let (kind, other_kind) = if is_bind {
        ("bind", "volume")
    } else {
        ("volume", "bind")
    };
    // As docker compose has it: nothing is said of the shortest ones.
    let brief = text.len() <= 2;
    let mut map = Node::map_for(5, place);
    map.set("type", Node::word(kind, place));
    if let Some(source) = short.source {
        map.set("source", Node::text(source, place));
    }
    map.set("target", Node::text(clean_path(&short.target), place));
    if short.read_only {
        map.set("read_only", Node::new(Value::Bool(true), place));
    }
    if !brief {
        map.set(kind, options);
    }
    if other.entries().next().is_some() {
        map.set(other_kind, other);
    }
    node.value = map.value;
    true
}

fn mode(node: &mut Node, format: Format, trail: &Trail<'_>, report: &mut Report) -> bool {
    let number = match &node.value {
        Value::Int(number) => u32::try_from(*number).ok(),
        // `mode: 0o755` reads as a number already; text is octal.
        Value::Text(text) => u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok(),
        _ => None,
    };
    let Some(number) = number.filter(|number| *number <= 0o7777) else {
        report.error_hint(
            node.place,
            Code::Schema,
            format!("{trail}: invalid file mode"),
            "write it in octal, such as 0440",
        );
        return false;
    };
    node.value = if format == Format::Mode {
        Value::Text(format_smolstr!("0{number:o}"))
    } else {
        Value::Int(i64::from(number))
    };
    true
}

fn device(node: &mut Node, trail: &Trail<'_>, report: &mut Report) -> bool {
    let place = node.place;
    let Value::Text(text) = &node.value else {
        return true;
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, permissions) = match parts.as_slice() {
        [source] => (*source, *source, "rwm"),
        [source, target] => (*source, *target, "rwm"),
        [source, target, permissions] => (*source, *target, *permissions),
        _ => {
            report.error(
                place,
                Code::Schema,
                format!("{trail}: confusing device mapping, please use long syntax: {text}"),
            );
            return false;
        }
    };
    let mut map = Node::map_for(3, place);
    map.set("source", Node::text(source, place));
    map.set(
        "target",
        Node::text(if target.is_empty() { source } else { target }, place),
    );
    map.set("permissions", Node::text(permissions, place));
    node.value = map.value;
    true
}

fn ssh(node: &mut Node, trail: &Trail<'_>, report: &mut Report) -> bool {
    let Value::List(list) = take_list(node) else {
        return true;
    };
    let mut map = Mapping::default();
    for item in list {
        let place = item.place;
        let Value::Text(text) = item.value else {
            continue;
        };
        let (id, value) = match text.split_once('=') {
            Some((id, path)) => (id, Node::text(path, place)),
            None if text == "default" || report.keeps(&text) => (text.as_str(), Node::null(place)),
            None => {
                report.error(place, Code::Schema, format!("{trail}: invalid ssh key {text:?}"));
                return false;
            }
        };
        map.insert(
            id.into(),
            Entry {
                key: place,
                node: value,
            },
        );
    }
    node.value = Value::Map(map);
    true
}

/// `external: {name: x}` to `external: true` and `name: x`.
fn resource(node: &mut Node, trail: &Trail<'_>, report: &mut Report) -> bool {
    let Some(external) = node.get_mut("external") else {
        return true;
    };
    let place = external.place;
    if external.as_map().is_none() {
        return true;
    }
    let name = external.take("name");
    external.value = Value::Bool(true);
    let Some(name) = name else {
        return true;
    };
    report.warning(
        place,
        format!("{trail}: external.name is deprecated. Please set name and external: true"),
    );
    match node.text_of("name") {
        Some(other) if Some(other) != name.as_text() => {
            report.error(
                place,
                Code::Conflict,
                format!("{trail}: name and external.name conflict; only use name"),
            );
            return false;
        }
        Some(_) => {}
        None => node.set("name", name),
    }
    true
}

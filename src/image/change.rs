//! `--change`: instructions of a Dockerfile that change an image's configuration.

use serde_json::{Map, Value, json};

/// Applies one instruction to a `config` object. The error says what is wrong.
pub(super) fn change(config: &mut Map<String, Value>, text: &str) -> Result<(), String> {
    let text = text.trim();
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let (name, rest) = (name.to_ascii_uppercase(), rest.trim());
    if rest.is_empty() {
        return Err(format!("change {text:?} has no value"));
    }
    match name.as_str() {
        "CMD" => put(config, "Cmd", command(rest).into()),
        "ENTRYPOINT" => {
            put(config, "Entrypoint", command(rest).into());
            // What belonged to the old one does not fit the new one.
            config.remove("Cmd");
        }
        "USER" => put(config, "User", rest.into()),
        "WORKDIR" => {
            let path = if rest.starts_with('/') {
                rest.to_owned()
            } else {
                let before = config.get("WorkingDir").and_then(Value::as_str).unwrap_or("/");
                format!("{}/{rest}", before.trim_end_matches('/'))
            };
            put(config, "WorkingDir", path.into());
        }
        "STOPSIGNAL" => put(config, "StopSignal", rest.into()),
        "ENV" => {
            for (key, value) in pairs(rest)? {
                let list = config.entry("Env").or_insert_with(|| json!([]));
                let mut lines: Vec<Value> = list.as_array().cloned().unwrap_or_default();
                let prefix = format!("{key}=");
                lines.retain(|line| !line.as_str().is_some_and(|line| line.starts_with(&prefix)));
                lines.push(format!("{key}={value}").into());
                *list = lines.into();
            }
        }
        "LABEL" => {
            for (key, value) in pairs(rest)? {
                set(config, "Labels").insert(key, value.into());
            }
        }
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
                let valid = number.split('-').all(|number| number.parse::<u16>().is_ok());
                if !valid || !matches!(protocol, "tcp" | "udp" | "sctp") {
                    return Err(format!("change {text:?}: {port} is no port"));
                }
                set(config, "ExposedPorts").insert(format!("{number}/{protocol}"), json!({}));
            }
        }
        "VOLUME" => {
            let paths = match serde_json::from_str::<Vec<String>>(rest) {
                Ok(paths) => paths,
                Err(_) => rest.split_whitespace().map(str::to_owned).collect(),
            };
            for path in paths {
                set(config, "Volumes").insert(path, json!({}));
            }
        }
        "ONBUILD" => {
            let mut lines = config
                .get("OnBuild")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            lines.push(rest.into());
            put(config, "OnBuild", lines.into());
        }
        "HEALTHCHECK" => {
            let check = healthcheck(rest).map_err(|reason| format!("change {text:?}: {reason}"))?;
            put(config, "Healthcheck", check);
        }
        _ => {
            return Err(format!(
                "change {text:?}: {name} cannot be changed; CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, \
                 ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR can"
            ));
        }
    }
    Ok(())
}

fn put(config: &mut Map<String, Value>, key: &str, value: Value) {
    config.insert(key.to_owned(), value);
}

/// Changes an object below a key.
fn set<'a>(config: &'a mut Map<String, Value>, key: &str) -> Entry<'a> {
    Entry {
        object: config
            .get(key)
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default(),
        key: key.to_owned(),
        config,
    }
}

struct Entry<'a> {
    object: Map<String, Value>,
    key: String,
    config: &'a mut Map<String, Value>,
}

impl Entry<'_> {
    fn insert(mut self, key: String, value: Value) {
        self.object.insert(key, value);
        self.config.insert(self.key, Value::Object(self.object));
    }
}

/// JSON form, or a line for the shell.
fn command(text: &str) -> Vec<String> {
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(list) => list,
        Err(_) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()],
    }
}

/// `KEY=value KEY="a b"`, or `KEY value`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let words = words(text)?;
    match words.split_first() {
        Some((first, _)) if !first.contains('=') => {
            let (key, value) = text.split_once(char::is_whitespace).ok_or("a value is missing")?;
            Ok(vec![(key.to_owned(), value.trim().to_owned())])
        }
        _ => words
            .into_iter()
            .map(|word| match word.split_once('=') {
                Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
                _ => Err(format!("{word:?} is not KEY=value")),
            })
            .collect(),
    }
}

/// Words with quotes and backslashes taken away.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '"' | '\'') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (Some('"') | None, '\\') => {
                word.get_or_insert_default().extend(characters.next());
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

fn healthcheck(text: &str) -> Result<Value, String> {
    let mut check = Map::new();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option
            .split_once(char::is_whitespace)
            .ok_or("the command is missing")?;
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| format!("--{option} has no value"))?;
        let key = match name {
            "interval" => "Interval",
            "timeout" => "Timeout",
            "start-period" => "StartPeriod",
            "start-interval" => "StartInterval",
            "retries" => "Retries",
            _ => return Err(format!("--{name} is no option")),
        };
        let number = if name == "retries" {
            value
                .parse::<u64>()
                .map_err(|_| format!("{value} is no number"))?
        } else {
            let span: jiff::SignedDuration = value.parse().map_err(|_| format!("{value} is no duration"))?;
            u64::try_from(span.as_nanos()).map_err(|_| format!("{value} is no duration"))?
        };
        check.insert(key.to_owned(), number.into());
        rest = after.trim_start();
    }
    let (form, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let test = match form.to_ascii_uppercase().as_str() {
        "NONE" => vec!["NONE".to_owned()],
        "CMD" => match serde_json::from_str::<Vec<String>>(command.trim()) {
            Ok(list) => std::iter::once("CMD".to_owned()).chain(list).collect(),
            Err(_) => vec!["CMD-SHELL".to_owned(), command.trim().to_owned()],
        },
        _ => return Err("it is neither CMD nor NONE".to_owned()),
    };
    check.insert("Test".to_owned(), test.into());
    Ok(Value::Object(check))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_instruction_changes_its_field() {
        let mut config = Map::new();
        for text in [
            "ENV A=1 B=\"two words\"",
            "env A=3",
            "ENV OLD form of old",
            "CMD echo hi",
            "ENTRYPOINT [\"/e\", \"x\"]",
            "cmd [\"y\"]",
            "EXPOSE 80 53/udp",
            "LABEL a=b 'c d'=e",
            "USER 1:2",
            "WORKDIR /a",
            "WORKDIR b",
            "VOLUME [\"/v\"]",
            "VOLUME /w /x",
            "STOPSIGNAL SIGQUIT",
            "ONBUILD RUN x",
            "HEALTHCHECK --interval=2s --retries=3 CMD curl -f x",
        ] {
            change(&mut config, text).unwrap();
        }
        let expected = json!({
            "Env": ["B=two words", "A=3", "OLD=form of old"],
            "Entrypoint": ["/e", "x"],
            "Cmd": ["y"],
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Labels": {"a": "b", "c d": "e"},
            "User": "1:2",
            "WorkingDir": "/a/b",
            "Volumes": {"/v": {}, "/w": {}, "/x": {}},
            "StopSignal": "SIGQUIT",
            "OnBuild": ["RUN x"],
            "Healthcheck": {"Interval": 2_000_000_000u64, "Retries": 3, "Test": ["CMD-SHELL", "curl -f x"]},
        });
        assert_eq!(Value::Object(config), expected);
    }

    #[test]
    fn what_cannot_be_changed_is_refused() {
        for (text, reason) in [
            ("RUN x", "cannot be changed"),
            ("CMD", "no value"),
            ("EXPOSE x", "no port"),
            ("LABEL 'a=b", "not closed"),
            ("HEALTHCHECK --interval=2s", "missing"),
        ] {
            let error = change(&mut Map::new(), text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}

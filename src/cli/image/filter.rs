//! `--filter` of lists and prunes.

use std::collections::BTreeMap;

use super::super::failure::Failure;
use super::words::{nanoseconds, now, of_time, repository};
use crate::image::reference::Reference;
use crate::image::{ImageStore, Summary};

/// A condition on images.
#[derive(Debug)]
pub(super) enum Filter {
    Dangling(bool),
    Label(String, bool),
    Reference(String),
    /// Made before this time, nanoseconds since the epoch.
    Before(u64),
    Since(u64),
    /// Came here before this time.
    Until(u64),
}

/// Reads `--filter` values; `known` are the keys that the command takes.
pub(super) fn read(store: &ImageStore, texts: &[String], known: &[&str]) -> Result<Vec<Filter>, Failure> {
    let wrong = |text: &str, reason: &str| Failure::new(format!("filter {text:?}: {reason}"));
    let mut filters = Vec::new();
    for text in texts {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| wrong(text, "it is not KEY=VALUE"))?;
        let (key, positive) = match key.strip_suffix('!') {
            Some("label") => ("label", false),
            _ => (key, true),
        };
        if !known.contains(&key) {
            return Err(wrong(text, &format!("the keys are {}", known.join(", "))));
        }
        let made = |name: &str| -> Result<u64, Failure> { Ok(nanoseconds(&store.find(name)?.created)) };
        filters.push(match key {
            "dangling" => Filter::Dangling(match value {
                "true" | "1" => true,
                "false" | "0" => false,
                _ => return Err(wrong(text, "it is true or false")),
            }),
            "label" => Filter::Label(value.to_owned(), positive),
            "reference" => Filter::Reference(value.to_owned()),
            "before" => Filter::Before(made(value)?),
            "since" => Filter::Since(made(value)?),
            _ => {
                Filter::Until(until(value).ok_or_else(|| wrong(text, "it is neither a duration nor a time"))?)
            }
        });
    }
    Ok(filters)
}

/// A duration before now, a time, or a Unix time.
pub(in crate::cli) fn until(text: &str) -> Option<u64> {
    if let Ok(span) = text.parse::<jiff::SignedDuration>() {
        let span = std::time::Duration::try_from(span).ok()?;
        return u64::try_from(now().checked_sub(span)?.as_nanos()).ok();
    }
    if let Ok(seconds) = text.parse::<u64>() {
        return seconds.checked_mul(1_000_000_000);
    }
    let time = match text.parse::<jiff::Timestamp>() {
        Ok(time) => time,
        Err(_) => {
            let local: jiff::civil::DateTime = text.parse().ok()?;
            local.to_zoned(jiff::tz::TimeZone::system()).ok()?.timestamp()
        }
    };
    u64::try_from(time.as_nanosecond()).ok()
}

/// Whether labels have one: `NAME`, or `NAME=VALUE`.
pub(in crate::cli) fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|have| have == value),
        None => labels.contains_key(wanted),
    }
}

impl Filter {
    /// Whether an image meets it; of one with several names, which names.
    pub(super) fn takes(&self, image: &Summary) -> bool {
        match self {
            Self::Dangling(wanted) => image.references.is_empty() == *wanted,
            Self::Label(label, positive) => has_label(&image.labels, label) == *positive,
            Self::Reference(pattern) => image.references.iter().any(|source| is_like(source, pattern)),
            Self::Before(time) => nanoseconds(&image.created) < *time,
            Self::Since(time) => nanoseconds(&image.created) > *time,
            Self::Until(time) => of_time(image.arrived) < *time,
        }
    }
}

/// Whether a source is like a pattern (`*`, `?`), with or without its tag.
pub(super) fn is_like(source: &str, pattern: &str) -> bool {
    let Ok(reference) = Reference::parse(source) else {
        return glob(pattern, source);
    };
    glob(pattern, &reference.familiar()) || glob(pattern, &repository(&reference)) || glob(pattern, source)
}

/// Go's path.Match without classes: `*` stops at a slash.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut from) = (0, 0);
    // Where the last star stands, and how much of the text it has taken.
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(&c) if (c == '?' && text.get(from) != Some(&'/')) || Some(&c) == text.get(from) => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((place, taken)) if text.get(taken) != Some(&'/') => {
                    star = Some((place, taken + 1));
                    at = place + 1;
                    from = taken + 1;
                }
                _ => return false,
            },
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert!(is_like("docker.io/library/nginx:1.27", "nginx"));
        assert!(is_like("docker.io/library/nginx:1.27", "ngi*:1.*"));
        assert!(!is_like("docker.io/library/nginx:1.27", "nginx:1.2"));
        assert!(is_like("r.test/a/b:1", "r.test/*/b"));
        assert!(!is_like("r.test/a/b:1", "r.test/*"));
        assert!(is_like("r.test/a/b:1", "*/*/?"));
    }

    #[test]
    fn times() {
        assert_eq!(until("10"), Some(10_000_000_000));
        assert_eq!(until("1970-01-01T00:00:01Z"), Some(1_000_000_000));
        assert!(until("24h").unwrap() < until("1h").unwrap());
        assert_eq!(until("soon"), None);
    }
}

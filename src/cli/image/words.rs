//! Names, sizes and times in docker's words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::image::reference::{Reference, Source};

/// What is printed for nothing.
pub(super) const NONE: &str = "<none>";

/// Bytes as docker prints them: three digits, decimal units.
pub(in crate::cli) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    // What would be rounded to 1000 belongs to the next unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{}", UNITS.get(unit).unwrap_or(&""))
}

/// A source as docker's columns have it: repository and tag.
pub(in crate::cli) fn repository_and_tag(source: &str) -> (String, String) {
    match Source::parse(source) {
        Ok(Source::Registry(reference)) => {
            let tag = reference.tag().unwrap_or(NONE).to_owned();
            (repository(&reference), tag)
        }
        _ => (source.to_owned(), NONE.to_owned()),
    }
}

/// A repository as people write it.
pub(in crate::cli) fn repository(reference: &Reference) -> String {
    let text = reference.familiar();
    let text = text.split('@').next().unwrap_or_default();
    match (reference.tag(), text.rsplit_once(':')) {
        (Some(tag), Some((repository, last))) if last == tag => repository.to_owned(),
        _ => text.to_owned(),
    }
}

/// A source as people write it.
pub(in crate::cli) fn familiar(source: &str) -> String {
    match Source::parse(source) {
        Ok(Source::Registry(reference)) => reference.familiar(),
        _ => source.to_owned(),
    }
}

/// An id without its algorithm, short or whole as docker prints it.
pub(in crate::cli) fn id(id: &str, whole: bool) -> String {
    if whole {
        return id.to_owned();
    }
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits).to_owned()
}

/// Nanoseconds since the epoch of an RFC 3339 time; 0 when it is none.
pub(in crate::cli) fn nanoseconds(time: &str) -> u64 {
    let time = time.parse::<jiff::Timestamp>().ok();
    time.and_then(|time| u64::try_from(time.as_nanosecond()).ok())
        .unwrap_or(0)
}

/// Nanoseconds since the epoch.
pub(in crate::cli) fn of_time(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// RFC 3339.
pub(in crate::cli) fn rfc3339(nanoseconds: u64) -> String {
    jiff::Timestamp::from_nanosecond(nanoseconds.into())
        .map_or_else(|_| String::new(), |time| time.to_string())
}

/// Now.
pub(in crate::cli) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// `3 weeks ago`; nothing known is `N/A`, as docker has it.
pub(in crate::cli) fn since(then: u64) -> String {
    if then == 0 {
        return "N/A".to_owned();
    }
    format!("{} ago", super::super::ps::ago(now(), then))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1090, "1.09kB"),
            (4_260_000, "4.26MB"),
            (188_000_000, "188MB"),
            (999_600, "1MB"),
            (12_345_678_901, "12.3GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn names_are_cut_as_docker_does() {
        let of = |text: &str| repository_and_tag(text);
        assert_eq!(
            of("docker.io/library/nginx:1.27"),
            ("nginx".into(), "1.27".into())
        );
        assert_eq!(
            of("localhost:5000/a/b:latest"),
            ("localhost:5000/a/b".into(), "latest".into())
        );
        let digest = crate::image::Digest::of(b"");
        assert_eq!(
            of(&format!("docker.io/a/b@{digest}")),
            ("a/b".into(), NONE.into())
        );
        assert_eq!(of("oci:/x:y"), ("oci:/x:y".into(), NONE.into()));
    }
}

//! What `logging` says of the log drivers there are.

use std::collections::BTreeMap;

use regex::Regex;

use super::Logging;

/// The log drivers there are.
pub const LOG_DRIVERS: [&str; 5] = ["json-file", "local", "none", "syslog", "journald"];

/// How much of a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// Bytes after which a new file is begun; `None` is never.
    pub max_size: Option<u64>,
    /// Most files, the present one included; at least 1.
    pub max_files: u32,
    /// Nothing is kept: what driver `none` means, and `cache-disabled`.
    pub nothing: bool,
}

/// What else the options of a driver say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogDetails {
    /// The template of what names a container.
    pub tag: Option<LogTag>,
    /// Labels whose values go with each line.
    pub labels: Vec<String>,
    /// Environment variables whose values go with each line.
    pub env: Vec<String>,
    /// Further labels, those with a name that the pattern is found in.
    pub labels_pattern: Option<String>,
    /// Further variables, those with a name that the pattern is found in.
    pub env_pattern: Option<String>,
    /// Where a syslog server is.
    pub address: SyslogPlace,
    /// Facility of syslog, 0 to 23.
    pub facility: u8,
    /// `syslog-format`, one of `rfc3164`, `rfc5424`, `rfc5424micro`; `None` is
    /// how local programs write.
    pub format: Option<String>,
}

/// Where a syslog server is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SyslogPlace {
    /// The machine's own.
    #[default]
    Machine,
    /// Datagrams to a host and port.
    Udp(String, u16),
    /// A connection to a host and port.
    Tcp(String, u16),
    /// A socket of the machine.
    Unix(String),
}

/// A template of a tag: texts, and fields of a container between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTag(Vec<TagPart>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum TagPart {
    Text(String),
    Field(&'static str),
}

/// The fields of a tag, as Docker names them.
const TAG_FIELDS: [&str; 7] = [
    "ID",
    "FullID",
    "Name",
    "ImageID",
    "ImageFullID",
    "ImageName",
    "DaemonName",
];

impl LogTag {
    /// Reads `{{.Name}}/{{.ID}}`.
    ///
    /// # Errors
    /// What is none of the fields there are.
    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((inside, behind)) = after.split_once("}}") else {
                return Err(format!("tag: {text:?} has no end of a field"));
            };
            let name = inside.trim();
            let field = name
                .strip_prefix('.')
                .and_then(|name| TAG_FIELDS.into_iter().find(|field| *field == name));
            let Some(field) = field else {
                return Err(format!(
                    "tag: {{{{{name}}}}} is not one of .{}",
                    TAG_FIELDS.join(", .")
                ));
            };
            parts.push(TagPart::Text(before.to_owned()));
            parts.push(TagPart::Field(field));
            rest = behind;
        }
        parts.push(TagPart::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    /// The tag of a container; `value` knows its fields by name.
    pub fn expand(&self, value: impl Fn(&str) -> String) -> String {
        let part = |part: &TagPart| match part {
            TagPart::Text(text) => text.clone(),
            TagPart::Field(field) => value(field),
        };
        self.0.iter().map(part).collect()
    }
}

/// The facilities of syslog by name, at the place of their codes.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "",
    "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

/// The facility that Docker's messages have: daemon.
const FACILITY: u8 = 3;

/// The port of syslog where none is said.
const SYSLOG_PORT: u16 = 514;

impl Logging {
    /// The driver.
    fn driver(&self) -> &str {
        match self.driver.as_deref() {
            None | Some("") => "local",
            Some(driver) => driver,
        }
    }

    /// The bounds that its options say, with the defaults of its driver: `local`
    /// keeps five files of 20 MB, and so does what is kept beside the lines that
    /// go elsewhere; the others keep everything (docs.docker.com, "Configure
    /// logging drivers" and "Use docker logs with remote logging drivers").
    ///
    /// # Errors
    /// What is wrong with an option, in words: one that the driver does not know
    /// or that is not done, or a value that is none.
    pub fn bounds(&self) -> Result<LogBounds, String> {
        self.read().map(|(bounds, _)| bounds)
    }

    /// What its options say but for the bounds.
    ///
    /// # Errors
    /// As [`Self::bounds`].
    pub fn details(&self) -> Result<LogDetails, String> {
        self.read().map(|(_, details)| details)
    }

    fn read(&self) -> Result<(LogBounds, LogDetails), String> {
        let driver = self.driver();
        let bounded = self.driver.is_some() && driver != "json-file" && driver != "none";
        let mut bounds = LogBounds {
            max_size: bounded.then_some(20_000_000),
            max_files: if bounded { 5 } else { 1 },
            nothing: driver == "none",
        };
        let mut details = LogDetails {
            facility: FACILITY,
            ..LogDetails::default()
        };
        let file = matches!(driver, "json-file" | "local");
        let away = matches!(driver, "syslog" | "journald");
        let tagged = away || driver == "json-file";
        for (option, value) in &self.options {
            let wrong = |expected: &str| format!("{option}: {value:?} is not {expected}");
            // What is kept beside what goes elsewhere has options of its own.
            let kept = match option.strip_prefix("cache-") {
                Some(kept) if away => kept,
                None if file => option,
                _ => "",
            };
            let list = || value.split(',').map(|name| name.trim().to_owned()).collect();
            match (kept, option.as_str(), value.as_str()) {
                _ if driver == "none" => return Err(format!("{option}: driver none has no options")),
                ("max-size", _, "-1") => bounds.max_size = None,
                ("max-size", ..) => {
                    bounds.max_size = Some(size(value).ok_or_else(|| wrong("a size like 10m"))?);
                }
                ("max-file", ..) => match value.parse() {
                    Ok(files) if files > 0 => bounds.max_files = files,
                    _ => return Err(wrong("a number from 1 on")),
                },
                ("disabled", _, "true") if away => bounds.nothing = true,
                ("disabled", _, "false") if away => {}
                // What is written is never compressed, and the container waits
                // for nothing but the disk and whoever else is told.
                ("compress", _, "false") | (_, "mode", "blocking") => {}
                ("compress" | "disabled", ..) | (_, "mode", _) => return Err(wrong("supported")),
                (_, "tag", _) if tagged => details.tag = Some(LogTag::parse(value)?),
                (_, "labels", _) if tagged => details.labels = list(),
                (_, "env", _) if tagged => details.env = list(),
                (_, "labels-regex" | "env-regex", _) if tagged => {
                    if let Err(error) = Regex::new(value) {
                        return Err(format!("{option}: {error}"));
                    }
                    match option.as_str() {
                        "labels-regex" => details.labels_pattern = Some(value.clone()),
                        _ => details.env_pattern = Some(value.clone()),
                    }
                }
                (_, "syslog-address", _) if driver == "syslog" => details.address = syslog_place(value)?,
                (_, "syslog-facility", _) if driver == "syslog" => {
                    details.facility = facility(value).ok_or_else(|| wrong("a facility of syslog"))?;
                }
                (_, "syslog-format", "rfc3164" | "rfc5424" | "rfc5424micro") if driver == "syslog" => {
                    details.format = Some(value.clone());
                }
                (_, "syslog-format", "") if driver == "syslog" => {}
                (_, "syslog-format", _) if driver == "syslog" => {
                    return Err(wrong("rfc3164, rfc5424 or rfc5424micro"));
                }
                _ => {
                    return Err(format!(
                        "{option}: the options of driver {driver} are {}",
                        options(driver)
                    ));
                }
            }
        }
        Ok((bounds, details))
    }

    /// From the fields of a document.
    pub(super) fn of(driver: Option<&str>, options: BTreeMap<String, String>) -> Self {
        Self {
            driver: driver.map(str::to_owned),
            options,
        }
    }
}

/// The options of a driver, for messages.
fn options(driver: &str) -> &'static str {
    match driver {
        "json-file" => {
            "max-size, max-file, tag, labels, labels-regex, env, env-regex, compress=false and mode=blocking"
        }
        "syslog" => {
            "syslog-address, syslog-facility, syslog-format, tag, labels, labels-regex, env, env-regex, cache-disabled, cache-max-size, \
             cache-max-file, cache-compress=false and mode=blocking"
        }
        "journald" => {
            "tag, labels, labels-regex, env, env-regex, cache-disabled, cache-max-size, cache-max-file, cache-compress=false and mode=blocking"
        }
        _ => "max-size, max-file, compress=false and mode=blocking",
    }
}

/// A facility by name or code.
fn facility(text: &str) -> Option<u8> {
    let code = match text.parse::<usize>() {
        Ok(code) => code,
        Err(_) => FACILITIES
            .iter()
            .position(|name| !name.is_empty() && *name == text)?,
    };
    u8::try_from(code).ok().filter(|code| *code < 24)
}

/// `udp://HOST[:PORT]`, `tcp://…`, `unix://PATH`, `unixgram://PATH`.
fn syslog_place(text: &str) -> Result<SyslogPlace, String> {
    let wrong = |reason: &str| Err(format!("syslog-address: {text:?} {reason}"));
    let Some((scheme, rest)) = text.split_once("://") else {
        return wrong("is not like udp://HOST:PORT, tcp://HOST:PORT or unix://PATH");
    };
    match scheme {
        "unix" | "unixgram" if rest.starts_with('/') => return Ok(SyslogPlace::Unix(rest.to_owned())),
        "unix" | "unixgram" => return wrong("has no absolute path"),
        "udp" | "tcp" => {}
        "tcp+tls" => return wrong("needs TLS, which is not supported: send to a relay on this machine"),
        _ => return wrong("is not of udp, tcp, unix or unixgram"),
    }
    let rest = rest.trim_end_matches('/');
    let (host, port) = match (rest.strip_prefix('['), rest.rsplit_once(':')) {
        (Some(inner), _) => match inner.split_once(']') {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => return wrong("has no end of its address"),
        },
        (None, Some((host, port))) => (host, Some(port)),
        (None, None) => (rest, None),
    };
    let port = match port.map(str::parse::<u16>) {
        None => SYSLOG_PORT,
        Some(Ok(port)) if port > 0 => port,
        Some(_) => return wrong("has no port from 1 to 65535"),
    };
    if host.is_empty() {
        return wrong("has no host");
    }
    let host = host.to_owned();
    Ok(if scheme == "udp" {
        SyslogPlace::Udp(host, port)
    } else {
        SyslogPlace::Tcp(host, port)
    })
}

/// Bytes of `10m`, `1.5MB`, `20000`: powers of 1000, as Docker reads this option.
fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let (number, factor) = match text.strip_suffix(['k', 'm', 'g', 't']) {
        Some(number) => {
            let power = "kmgt".find(text.get(number.len()..)?)?;
            (number, 1000_u64.pow(u32::try_from(power + 1).ok()?))
        }
        None => (text, 1),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 6 {
        return None;
    }
    let mut size = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if !part.is_empty() {
        let parts = 10_u64.pow(u32::try_from(part.len()).ok()?);
        size = size.checked_add(part.parse::<u64>().ok()?.checked_mul(factor)? / parts)?;
    }
    Some(size).filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(driver: &str, options: &[(&str, &str)]) -> Result<(Option<u64>, u32), String> {
        let options = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let found = Logging::of(Some(driver), options.collect()).bounds()?;
        Ok((found.max_size, found.max_files))
    }

    #[test]
    fn options_are_understood_or_refused() {
        assert_eq!(bounds("json-file", &[]), Ok((None, 1)));
        assert_eq!(bounds("local", &[]), Ok((Some(20_000_000), 5)));
        assert_eq!(
            bounds("json-file", &[("max-size", "1.5m"), ("max-file", "3")]),
            Ok((Some(1_500_000), 3))
        );
        assert_eq!(bounds("local", &[("max-size", "-1")]), Ok((None, 5)));
        for (text, expected) in [("20kb", 20_000), ("7", 7), ("2G", 2_000_000_000)] {
            assert_eq!(size(text), Some(expected), "{text}");
        }
        for wrong in ["", "0", "k", "-5", "1x", "1.2.3m", "99999999999999t"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
        for (driver, option, value) in [
            ("json-file", "max-file", "0"),
            ("json-file", "compress", "true"),
            ("local", "mode", "non-blocking"),
            ("local", "tag", "x"),
            ("json-file", "syslog-address", "udp://a"),
            ("json-file", "labels-regex", "("),
            ("syslog", "max-size", "1m"),
            ("syslog", "cache-compress", "true"),
            ("syslog", "syslog-address", "tcp+tls://a:1"),
            ("syslog", "syslog-address", "a:1"),
            ("syslog", "syslog-address", "udp://a:0"),
            ("syslog", "syslog-address", "unix://log"),
            ("syslog", "syslog-facility", "local8"),
            ("syslog", "syslog-facility", "24"),
            ("syslog", "syslog-format", "rfc1"),
            ("journald", "tag", "{{.Nam}}"),
            ("journald", "tag", "{{.Name"),
            ("none", "max-size", "1m"),
        ] {
            let error = bounds(driver, &[(option, value)]).unwrap_err();
            assert!(error.starts_with(&format!("{option}: ")), "{error}");
        }
    }

    #[test]
    fn what_goes_elsewhere_is_understood() {
        let options = [
            ("syslog-address", "tcp://[::1]:601"),
            ("syslog-facility", "local3"),
            ("syslog-format", "rfc5424"),
            ("tag", "{{.Name}}/{{ .ID }}"),
            ("labels", "a, b"),
            ("cache-disabled", "true"),
        ];
        let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let logging = Logging::of(Some("syslog"), options.into());
        let details = logging.details().unwrap();
        assert_eq!(details.address, SyslogPlace::Tcp("::1".into(), 601));
        assert_eq!(
            (details.facility, details.format.as_deref()),
            (19, Some("rfc5424"))
        );
        assert_eq!(details.labels, ["a", "b"]);
        assert_eq!(
            details.tag.unwrap().expand(|field| format!("<{field}>")),
            "<Name>/<ID>"
        );
        assert!(logging.bounds().unwrap().nothing);
        assert_eq!(
            syslog_place("udp://host"),
            Ok(SyslogPlace::Udp("host".into(), 514))
        );
        assert_eq!(
            syslog_place("unixgram:///a/b"),
            Ok(SyslogPlace::Unix("/a/b".into()))
        );
        let details = Logging::of(Some("journald"), BTreeMap::new()).details().unwrap();
        assert_eq!((details.facility, details.address), (3, SyslogPlace::Machine));
        assert_eq!(bounds("journald", &[]), Ok((Some(20_000_000), 5)));
    }
}

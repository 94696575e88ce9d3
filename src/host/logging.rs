//! Where the output of a service's containers goes.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use regex::Regex;

use super::HostError;
use super::record::ContainerRecord;
use crate::image::Image;
use crate::project::{LogDetails, SyslogPlace};
use crate::runtime::{LogFormat, LogForward, LogPlan, SyslogAddress, SyslogFormat};

/// Where journald listens.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Where the machine's own syslog listens: one of these.
const SYSLOG: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// How the output of a container is kept, and who else gets it.
///
/// # Errors
/// [`HostError::Unsupported`] for a driver or an option that is none,
/// [`HostError::Io`] when a log server is not there.
pub(super) fn log_plan(record: &ContainerRecord, image: &Image) -> Result<LogPlan, HostError> {
    let Some(logging) = &record.config.logging else {
        return Ok(LogPlan::default());
    };
    let refuse = |what: String| HostError::Unsupported { what };
    let wrong = |reason| refuse(format!("logging option {reason}: it"));
    let bounds = logging.bounds().map_err(wrong)?;
    let details = logging.details().map_err(wrong)?;
    let driver = logging.driver.as_deref().unwrap_or_default();
    let values = values(record, image, &details);
    let mut plan = LogPlan {
        format: match driver {
            _ if bounds.nothing => LogFormat::Nothing,
            "json-file" => LogFormat::Json,
            _ => LogFormat::Text,
        },
        max_size: bounds.max_size,
        max_files: bounds.max_files,
        ..LogPlan::default()
    };
    match driver {
        "" | "local" | "none" => {}
        "json-file" => {
            plan.attributes = values;
            if details.tag.is_some() {
                plan.attributes.insert("tag".into(), tag(record, &details));
            }
        }
        "syslog" => {
            plan.forward = Some(LogForward::Syslog {
                address: address(&details.address)?,
                facility: details.facility,
                format: match details.format.as_deref() {
                    Some("rfc3164") => SyslogFormat::Rfc3164,
                    Some("rfc5424") => SyslogFormat::Rfc5424,
                    Some("rfc5424micro") => SyslogFormat::Rfc5424Micro,
                    _ => SyslogFormat::Unix,
                },
                tag: tag(record, &details),
            });
        }
        "journald" => {
            let socket = PathBuf::from(JOURNAL);
            std::fs::metadata(&socket).map_err(HostError::io("find the journal of systemd at", &socket))?;
            plan.forward = Some(LogForward::Journal {
                socket,
                fields: fields(record, tag(record, &details), &values),
            });
        }
        other => return Err(refuse(format!("log driver {other}"))),
    }
    Ok(plan)
}

/// The values of the labels and variables that are asked for; those that a
/// container does not have are left out.
fn values(record: &ContainerRecord, image: &Image, details: &LogDetails) -> BTreeMap<String, String> {
    let of_image = image.config.env.iter().filter_map(|entry| entry.split_once('='));
    let mut variables: BTreeMap<&str, &str> = of_image.collect();
    let own = record.config.environment.iter();
    variables.extend(own.map(|(name, value)| (name.as_str(), value.as_str())));
    let labels = record.labels.iter();
    let labels = labels.map(|(name, value)| (name.as_str(), value.as_str()));
    let mut found = chosen(labels, &details.labels, details.labels_pattern.as_deref());
    // As with Docker, a variable wins over a label of the same name.
    found.extend(chosen(variables, &details.env, details.env_pattern.as_deref()));
    found
}

/// Of these, the ones that are named, and those that a pattern is found in.
fn chosen<'a>(
    all: impl IntoIterator<Item = (&'a str, &'a str)>,
    names: &[String],
    pattern: Option<&str>,
) -> BTreeMap<String, String> {
    // One that is none has been refused with the stack file.
    let pattern = pattern.and_then(|pattern| Regex::new(pattern).ok());
    all.into_iter()
        .filter(|(name, _)| {
            let matches = || pattern.as_ref().is_some_and(|pattern| pattern.is_match(name));
            names.iter().any(|known| known == name) || matches()
        })
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// What names a container: Docker's default is its short id.
fn tag(record: &ContainerRecord, details: &LogDetails) -> String {
    let Some(template) = &details.tag else {
        return record.short_id().to_owned();
    };
    let image = record.image.trim_start_matches("sha256:");
    template.expand(|field| match field {
        "ID" => record.short_id().to_owned(),
        "FullID" => record.id.clone(),
        "Name" => record.name.clone(),
        "ImageID" => image.get(..12).unwrap_or(image).to_owned(),
        "ImageFullID" => record.image.clone(),
        "ImageName" => record.config.image.clone(),
        _ => "rcompose".into(),
    })
}

/// The fields of an entry in the journal, by Docker's names.
fn fields(record: &ContainerRecord, tag: String, values: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut fields = vec![
        ("CONTAINER_ID".to_owned(), record.short_id().to_owned()),
        ("CONTAINER_ID_FULL".into(), record.id.clone()),
        ("CONTAINER_NAME".into(), record.name.clone()),
        ("CONTAINER_TAG".into(), tag.clone()),
        ("IMAGE_NAME".into(), record.config.image.clone()),
        ("SYSLOG_IDENTIFIER".into(), tag),
    ];
    for (name, value) in values {
        // A field has capitals, digits and underscores, and begins with a letter.
        let plain = |letter: char| {
            if letter.is_ascii_alphanumeric() {
                letter.to_ascii_uppercase()
            } else {
                '_'
            }
        };
        let name: String = name.chars().map(plain).collect();
        let name = name.trim_start_matches(|letter: char| !letter.is_ascii_alphabetic());
        if !name.is_empty() {
            fields.push((name.to_owned(), value.clone()));
        }
    }
    fields
}

/// Where a syslog server is, its name looked up.
fn address(place: &SyslogPlace) -> Result<SyslogAddress, HostError> {
    let find = |host: &str, port: u16| -> Result<SocketAddr, HostError> {
        let failed = HostError::io("look up syslog server", Path::new(host));
        let found = (host, port).to_socket_addrs();
        found
            .and_then(|mut all| all.next().ok_or_else(|| std::io::ErrorKind::NotFound.into()))
            .map_err(failed)
    };
    Ok(match place {
        SyslogPlace::Udp(host, port) => SyslogAddress::Udp(find(host, *port)?),
        SyslogPlace::Tcp(host, port) => SyslogAddress::Tcp(find(host, *port)?),
        SyslogPlace::Unix(path) => SyslogAddress::Unix(path.into()),
        SyslogPlace::Machine => {
            let own = SYSLOG.iter().map(Path::new).find(|path| path.exists());
            let missing = || {
                let error = std::io::ErrorKind::NotFound.into();
                HostError::io("find the machine's syslog at", Path::new(SYSLOG[0]))(error)
            };
            SyslogAddress::Unix(own.ok_or_else(missing)?.to_owned())
        }
    })
}

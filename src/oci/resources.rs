//! `update` and `events`: limits changed in place, and what is used of them.

use std::io::Read as _;
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use super::arguments::Invocation;
use super::container::{Container, Status};
use super::error::OciError;
use super::log::Log;
use super::print;
use crate::runtime::cgroup::systemd;

/// `update`.
pub(super) fn update(invocation: &Invocation, log: &Log) -> Result<i32, OciError> {
    let container = Container::named(invocation)?;
    if container.status == Status::Stopped {
        return Err(OciError::NotRunning);
    }
    let resources = match invocation.value("resources") {
        Some(path) => read(path)?,
        None => of_options(invocation)?,
    };
    if let Some(unit) = &container.record.fixed.unit {
        systemd::update(unit, &resources)?;
    }
    for warning in container.cgroup.update(Some(&resources), false)? {
        if warning.reason.starts_with("no ") {
            return Err(crate::runtime::cgroup::CgroupError::Unenforced(warning).into());
        }
        log.warn(&warning.to_string());
    }
    Ok(0)
}

fn read(path: &str) -> Result<LinuxResources, OciError> {
    let mut text = String::new();
    let bytes = if path == "-" {
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(OciError::io("read", "standard input"))?;
        text.into_bytes()
    } else {
        std::fs::read(path).map_err(OciError::io("open", path))?
    };
    serde_json::from_slice(&bytes).map_err(|error| OciError::Config {
        subject: path.to_owned(),
        reason: error.to_string(),
    })
}

/// Amounts of memory may have a unit: `512m`, `1GiB`; -1 is unlimited.
fn bytes(invocation: &Invocation, name: &str) -> Result<Option<i64>, OciError> {
    let Some(text) = invocation.value(name) else {
        return Ok(None);
    };
    let wrong = || OciError::Usage(format!("option --{name}: {text:?} is not an amount of memory"));
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = lower.get(digits.len()..).unwrap_or_default();
    let unit = unit.trim_end_matches('b').trim_end_matches('i');
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong()),
    };
    let number: i64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).map(Some).ok_or_else(wrong)
}

fn of_options(invocation: &Invocation) -> Result<LinuxResources, OciError> {
    for name in ["kernel-memory", "kernel-memory-tcp"] {
        if invocation.has(name) {
            return Err(OciError::Usage(format!(
                "option --{name} is not supported: the kernel has no such limit any more"
            )));
        }
    }
    for name in ["l3-cache-schema", "mem-bw-schema"] {
        if invocation.has(name) {
            return Err(OciError::Usage(format!(
                "option --{name} is not supported: nothing is asked of Intel's resource director"
            )));
        }
    }
    let mut memory = json!({
        "limit": bytes(invocation, "memory")?,
        "reservation": bytes(invocation, "memory-reservation")?,
        "swap": bytes(invocation, "memory-swap")?,
    });
    let mut cpu = json!({
        "shares": match invocation.number::<u64>("cpu-share")? {
            Some(shares) => Some(shares),
            None => invocation.number::<u64>("cpu-shares")?,
        },
        "quota": invocation.number::<i64>("cpu-quota")?,
        "period": invocation.number::<u64>("cpu-period")?,
        "burst": invocation.number::<u64>("cpu-burst")?,
        "idle": invocation.number::<i64>("cpu-idle")?,
        "realtimePeriod": invocation.number::<u64>("cpu-rt-period")?,
        "realtimeRuntime": invocation.number::<i64>("cpu-rt-runtime")?,
        "cpus": invocation.value("cpuset-cpus"),
        "mems": invocation.value("cpuset-mems"),
    });
    let mut all = serde_json::Map::new();
    for (name, value) in [("memory", &mut memory), ("cpu", &mut cpu)] {
        if let Some(object) = value.as_object_mut() {
            object.retain(|_, value| !value.is_null());
            if !object.is_empty() {
                all.insert(name.into(), Value::from(object.clone()));
            }
        }
    }
    if let Some(limit) = invocation.number::<i64>("pids-limit")? {
        all.insert("pids".into(), json!({"limit": limit}));
    }
    if let Some(weight) = invocation.number::<u16>("blkio-weight")? {
        all.insert("blockIO".into(), json!({"weight": weight}));
    }
    serde_json::from_value(all.into()).map_err(|error| OciError::Config {
        subject: "options".into(),
        reason: error.to_string(),
    })
}

/// `events`: one line of what is used, or one every interval, and one for each
/// time the kernel kills for want of memory, until the container has ended.
pub(super) fn events(invocation: &Invocation) -> Result<i32, OciError> {
    let container = Container::named(invocation)?;
    if container.status == Status::Stopped {
        return Err(OciError::NotRunning);
    }
    let id = container.folder.id.clone();
    let line = |kind: &str, data: Option<Value>| {
        let mut value = json!({"type": kind, "id": id});
        if let (Some(data), Some(object)) = (data, value.as_object_mut()) {
            object.insert("data".into(), data);
        }
        print(&(value.to_string() + "\n"))
    };
    if invocation.has("stats") {
        line("stats", Some(container.cgroup.stats()))?;
        return Ok(0);
    }
    let interval = interval(invocation.value("interval").unwrap_or("5s"))?;
    let Some(process) = &container.process else {
        return Err(OciError::NotRunning);
    };
    let mut kills = container.cgroup.oom_kills();
    loop {
        let ended = process.ends_within(Some(interval));
        let now = container.cgroup.oom_kills();
        for _ in kills..now {
            line("oom", None)?;
        }
        kills = now;
        if ended {
            return Ok(0);
        }
        line("stats", Some(container.cgroup.stats()))?;
    }
}

/// A positive length of time: `5s`, `500ms`, `1m`.
fn interval(text: &str) -> Result<Duration, OciError> {
    let wrong = || OciError::Usage(format!("option --interval: {text:?} is not a length of time"));
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let milliseconds = match text.get(digits.len()..).unwrap_or_default() {
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    match number.checked_mul(milliseconds) {
        Some(0) | None => Err(wrong()),
        Some(all) => Ok(Duration::from_millis(all)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_resources() {
        let words = [
            "update",
            "--memory",
            "64m",
            "--pids-limit=-1",
            "--cpu-share",
            "512",
            "c",
        ];
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let resources = of_options(&Invocation::parse(&words).unwrap()).unwrap();
        assert_eq!(resources.memory().unwrap().limit(), Some(64 << 20));
        assert_eq!(resources.pids().unwrap().limit(), -1);
        assert_eq!(resources.cpu().as_ref().unwrap().shares(), Some(512));
        assert!(resources.block_io().is_none());
    }

    #[test]
    fn lengths_of_time_are_positive() {
        assert_eq!(interval("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(interval("1m").unwrap(), Duration::from_secs(60));
        for wrong in ["", "0s", "x", "1y", "-1s"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}

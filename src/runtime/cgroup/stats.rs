//! What a cgroup uses, in the form callers of `events` know.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Cgroup, Folder, Version};

impl Cgroup {
    /// Use of processor, memory, disks and process numbers, and pressure; what
    /// the machine does not count is left out. Times are in nanoseconds, sizes
    /// in bytes.
    pub fn stats(&self) -> Value {
        let mut all = Map::new();
        for folder in &self.folders {
            let v2 = folder.version == Version::V2;
            if v2 {
                // Counted without any controller.
                merge(&mut all, "cpu", processor_v2(folder));
            } else {
                if folder.has("cpuacct") {
                    merge(&mut all, "cpu", accounting_v1(folder));
                }
                if folder.has("cpu") {
                    merge(&mut all, "cpu", throttling_v1(folder));
                }
            }
            if folder.has("memory") {
                merge(
                    &mut all,
                    "memory",
                    if v2 { memory_v2(folder) } else { memory_v1(folder) },
                );
            }
            if folder.has("pids") {
                let limit = folder.number("pids.max").unwrap_or(0);
                merge(
                    &mut all,
                    "pids",
                    json!({"current": folder.number("pids.current"), "limit": limit}),
                );
            }
            if folder.has("blkio") || folder.has("io") {
                merge(
                    &mut all,
                    "blkio",
                    if v2 { disks_v2(folder) } else { disks_v1(folder) },
                );
            }
            if folder.has("hugetlb") {
                merge(&mut all, "hugetlb", huge_pages(folder));
            }
        }
        Value::from(all)
    }
}

/// Adds what was counted in one hierarchy to what another has.
fn merge(all: &mut Map<String, Value>, name: &str, value: Value) {
    let Value::Object(value) = value else { return };
    let kept = value.into_iter().filter(|(_, value)| !value.is_null());
    if let Value::Object(known) = all.entry(name).or_insert_with(|| json!({})) {
        known.extend(kept);
    }
}

fn accounting_v1(folder: &Folder) -> Value {
    let per: Vec<u64> = folder
        .text("cpuacct.usage_percpu")
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    json!({"usage": {
        "total": folder.number("cpuacct.usage"),
        "percpu": per,
        "kernel": folder.number("cpuacct.usage_sys"),
        "user": folder.number("cpuacct.usage_user"),
    }})
}

fn throttling_v1(folder: &Folder) -> Value {
    let stat = folder.table("cpu.stat");
    json!({"throttling": {
        "periods": stat.get("nr_periods"),
        "throttledPeriods": stat.get("nr_throttled"),
        "throttledTime": stat.get("throttled_time"),
    }})
}

fn processor_v2(folder: &Folder) -> Value {
    let stat = folder.table("cpu.stat");
    let nanoseconds = |name: &str| stat.get(name).map(|time| time.saturating_mul(1000));
    let mut value = json!({"psi": pressure(&folder.path, "cpu.pressure")});
    if let (Some(total), Some(object)) = (nanoseconds("usage_usec"), value.as_object_mut())
        // In a hybrid layout the version 1 hierarchy has counted it.
        && folder.has("cpu")
    {
        object.insert(
            "usage".into(),
            json!({"total": total, "kernel": nanoseconds("system_usec"), "user": nanoseconds("user_usec")}),
        );
        object.insert(
            "throttling".into(),
            json!({
                "periods": stat.get("nr_periods"),
                "throttledPeriods": stat.get("nr_throttled"),
                "throttledTime": nanoseconds("throttled_usec"),
            }),
        );
    }
    value
}

fn memory_v1(folder: &Folder) -> Value {
    let usage = |prefix: &str| {
        let read = |name: &str| folder.number(&format!("{prefix}.{name}"));
        read("usage_in_bytes").map(|used| {
            json!({
                "usage": used,
                "max": read("max_usage_in_bytes"),
                "failcnt": read("failcnt"),
                "limit": read("limit_in_bytes"),
            })
        })
    };
    let raw = folder.table("memory.stat");
    json!({
        "cache": raw.get("total_cache").or_else(|| raw.get("cache")),
        "usage": usage("memory"),
        "swap": usage("memory.memsw"),
        "kernel": usage("memory.kmem"),
        "kernelTCP": usage("memory.kmem.tcp"),
        "raw": raw,
    })
}

fn memory_v2(folder: &Folder) -> Value {
    let raw = folder.table("memory.stat");
    let usage = |name: &str| {
        json!({
            "usage": folder.number(&format!("{name}.current")),
            "max": folder.number(&format!("{name}.peak")),
            "failcnt": folder.table(&format!("{name}.events")).get("max"),
            "limit": folder.number(&format!("{name}.max")).unwrap_or(u64::MAX),
        })
    };
    json!({
        "cache": raw.get("file"),
        "usage": usage("memory"),
        "swap": usage("memory.swap"),
        "raw": raw,
        "psi": pressure(&folder.path, "memory.pressure"),
    })
}

fn disks_v1(folder: &Folder) -> Value {
    let entries = |file: &str| -> Vec<Value> {
        folder
            .text(file)
            .unwrap_or_default()
            .lines()
            .filter_map(|line| {
                let mut fields = line.split_whitespace();
                let (major, minor) = fields.next()?.split_once(':')?;
                let (op, value) = (fields.next()?, fields.next()?);
                Some(json!({
                    "major": major.parse::<u64>().ok()?,
                    "minor": minor.parse::<u64>().ok()?,
                    "op": op,
                    "value": value.parse::<u64>().ok()?,
                }))
            })
            .collect()
    };
    json!({
        "ioServiceBytesRecursive": entries("blkio.throttle.io_service_bytes_recursive"),
        "ioServicedRecursive": entries("blkio.throttle.io_serviced_recursive"),
    })
}

fn disks_v2(folder: &Folder) -> Value {
    let (mut bytes, mut times) = (Vec::new(), Vec::new());
    for line in folder.text("io.stat").unwrap_or_default().lines() {
        let mut fields = line.split_whitespace();
        let numbers = fields
            .next()
            .and_then(|device| device.split_once(':'))
            .and_then(|(major, minor)| Some((major.parse::<u64>().ok()?, minor.parse::<u64>().ok()?)));
        let Some((major, minor)) = numbers else { continue };
        for (name, value) in fields.filter_map(|field| field.split_once('=')) {
            let (list, op) = match name {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "rios" => (&mut times, "Read"),
                "wios" => (&mut times, "Write"),
                _ => continue,
            };
            if let Ok(value) = value.parse::<u64>() {
                list.push(json!({"major": major, "minor": minor, "op": op, "value": value}));
            }
        }
    }
    json!({
        "ioServiceBytesRecursive": bytes,
        "ioServicedRecursive": times,
        "psi": pressure(&folder.path, "io.pressure"),
    })
}

fn huge_pages(folder: &Folder) -> Value {
    let mut sizes = Map::new();
    let suffix = match folder.version {
        Version::V1 => ".usage_in_bytes",
        Version::V2 => ".current",
    };
    for entry in fs::read_dir(&folder.path).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let size = name
            .strip_prefix("hugetlb.")
            .and_then(|rest| rest.strip_suffix(suffix));
        if let Some(size) = size.filter(|size| !size.contains('.')) {
            sizes.insert(size.to_owned(), json!({"usage": folder.number(&name)}));
        }
    }
    sizes.into()
}

/// Pressure stall information; none on kernels without.
fn pressure(folder: &Path, file: &str) -> Value {
    let Ok(text) = fs::read_to_string(folder.join(file)) else {
        return Value::Null;
    };
    let mut all = Map::new();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let Some(kind) = fields.next() else { continue };
        let values: Map<String, Value> = fields
            .filter_map(|field| field.split_once('='))
            .filter_map(|(name, value)| Some((name.to_owned(), json!(value.parse::<f64>().ok()?))))
            .collect();
        all.insert(kind.to_owned(), values.into());
    }
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read_into_one_form() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put(
            "cpu.stat",
            "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 1\n",
        );
        put("cpu.pressure", "some avg10=0.50 avg60=0.00 avg300=0.00 total=7\n");
        put("memory.current", "10\n");
        put("memory.max", "max\n");
        put("memory.stat", "file 4\n");
        put("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
        put("pids.current", "2\n");
        put("pids.max", "max\n");
        put("cpuacct.usage", "99\n");
        put("memory.usage_in_bytes", "11\n");
        put(
            "blkio.throttle.io_service_bytes_recursive",
            "8:0 Read 5\nTotal 5\n",
        );
        let of = |version, controllers: &[&str]| Cgroup {
            folders: vec![Folder {
                version,
                controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
                path: folder.path().to_owned(),
            }],
        };
        let stats = of(Version::V2, &["cpu", "memory", "io", "pids"]).stats();
        assert_eq!(stats["cpu"]["usage"]["total"], 5000);
        assert_eq!(stats["cpu"]["psi"]["some"]["avg10"], 0.5);
        assert_eq!(stats["memory"]["usage"]["usage"], 10);
        assert_eq!(stats["memory"]["cache"], 4);
        assert_eq!(stats["pids"], json!({"current": 2, "limit": 0}));
        assert_eq!(stats["blkio"]["ioServicedRecursive"][1]["value"], 4);
        let stats = of(Version::V1, &["cpuacct", "memory", "blkio"]).stats();
        assert_eq!(stats["cpu"]["usage"]["total"], 99);
        assert_eq!(stats["memory"]["usage"]["usage"], 11);
        assert_eq!(stats["blkio"]["ioServiceBytesRecursive"][0]["op"], "Read");
        assert_eq!(Cgroup::default().stats(), json!({}));
    }
}

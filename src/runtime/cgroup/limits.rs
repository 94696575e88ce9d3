//! Limits of disks, huge pages, networks and RDMA devices, and the less common
//! ones of the processor; on both versions.

use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxResources, LinuxThrottleDevice};

use super::{CgroupError, Folder, Version, Wishes, write};

/// Sets what the folder's controllers can.
pub(super) fn apply(
    folder: &Folder,
    resources: &LinuxResources,
    wishes: &mut Wishes,
) -> Result<(), CgroupError> {
    let has = |name: &str| folder.controllers.iter().any(|controller| controller == name);
    let path = &folder.path;
    let v2 = folder.version == Version::V2;
    if let Some(cpu) = resources.cpu()
        && has("cpu")
    {
        processor(path, cpu, v2, wishes)?;
    }
    if let Some(io) = resources.block_io() {
        match folder.version {
            Version::V1 if has("blkio") => disks_v1(path, io, wishes)?,
            Version::V2 if has("io") => disks_v2(path, io, wishes)?,
            _ => {}
        }
    }
    if has("hugetlb") {
        for limit in resources.hugepage_limits().iter().flatten() {
            let size = limit.page_size();
            if size.contains('/') || size.is_empty() {
                return Err(CgroupError::PageSize(size.clone()));
            }
            let (file, reserved) = if v2 {
                (format!("hugetlb.{size}.max"), format!("hugetlb.{size}.rsvd.max"))
            } else {
                (
                    format!("hugetlb.{size}.limit_in_bytes"),
                    format!("hugetlb.{size}.rsvd.limit_in_bytes"),
                )
            };
            write(path, &file, &limit.limit().to_string())?;
            if path.join(&reserved).exists() {
                write(path, &reserved, &limit.limit().to_string())?;
            }
        }
        wishes.fulfilled("huge page limits");
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id()
            && has("net_cls")
        {
            write(path, "net_cls.classid", &class.to_string())?;
            wishes.fulfilled("network class");
        }
        if has("net_prio") {
            for one in network.priorities().iter().flatten() {
                write(
                    path,
                    "net_prio.ifpriomap",
                    &format!("{} {}", one.name(), one.priority()),
                )?;
            }
            wishes.fulfilled("network priorities");
        }
    }
    if has("rdma") {
        for (device, limit) in resources.rdma().iter().flatten() {
            let mut line = device.clone();
            for (name, value) in [
                ("hca_handle", limit.hca_handles()),
                ("hca_object", limit.hca_objects()),
            ] {
                if let Some(value) = value {
                    line.push_str(&format!(" {name}={value}"));
                }
            }
            write(path, "rdma.max", &line)?;
        }
        wishes.fulfilled("rdma limits");
    }
    Ok(())
}

/// What `apply` may fulfil: name, controller it needs, whether it is asked for.
pub(super) fn wishes(resources: &LinuxResources) -> Vec<(&'static str, &'static str, bool)> {
    let some = |is: Option<bool>| is.unwrap_or(false);
    let cpu = resources.cpu().as_ref();
    let io = resources.block_io().as_ref();
    let list =
        |devices: &Option<Vec<LinuxThrottleDevice>>| devices.as_ref().is_some_and(|list| !list.is_empty());
    vec![
        ("cpu burst", "cpu", cpu.is_some_and(|cpu| cpu.burst().is_some())),
        ("cpu idle", "cpu", cpu.is_some_and(|cpu| cpu.idle().is_some())),
        (
            "real-time processor limit",
            "version 1 cpu (with real-time groups)",
            cpu.is_some_and(|cpu| {
                cpu.realtime_runtime().is_some_and(|time| time != 0)
                    || cpu.realtime_period().is_some_and(|time| time != 0)
            }),
        ),
        (
            "disk weight",
            "io (with weights)",
            io.is_some_and(|io| {
                io.weight().is_some_and(|weight| weight != 0)
                    || io.weight_device().as_ref().is_some_and(|list| !list.is_empty())
            }),
        ),
        (
            "disk leaf weight",
            "version 1 blkio (with leaf weights)",
            io.is_some_and(|io| io.leaf_weight().is_some_and(|weight| weight != 0)),
        ),
        (
            "disk limits",
            "io",
            io.is_some_and(|io| {
                list(io.throttle_read_bps_device())
                    || list(io.throttle_write_bps_device())
                    || list(io.throttle_read_iops_device())
                    || list(io.throttle_write_iops_device())
            }),
        ),
        (
            "huge page limits",
            "hugetlb",
            some(resources.hugepage_limits().as_ref().map(|list| !list.is_empty())),
        ),
        (
            "network class",
            "net_cls",
            resources
                .network()
                .as_ref()
                .is_some_and(|network| network.class_id().is_some_and(|class| class != 0)),
        ),
        (
            "network priorities",
            "net_prio",
            resources
                .network()
                .as_ref()
                .is_some_and(|network| network.priorities().as_ref().is_some_and(|list| !list.is_empty())),
        ),
        (
            "rdma limits",
            "rdma",
            some(resources.rdma().as_ref().map(|limits| !limits.is_empty())),
        ),
    ]
}

fn processor(path: &Path, cpu: &LinuxCpu, v2: bool, wishes: &mut Wishes) -> Result<(), CgroupError> {
    if let Some(burst) = cpu.burst() {
        let file = if v2 { "cpu.max.burst" } else { "cpu.cfs_burst_us" };
        write(path, file, &burst.to_string())?;
        wishes.fulfilled("cpu burst");
    }
    if let Some(idle) = cpu.idle() {
        write(path, "cpu.idle", &idle.to_string())?;
        wishes.fulfilled("cpu idle");
    }
    if !v2 && path.join(RT_RUNTIME).exists() {
        let period = cpu.realtime_period().filter(|period| *period > 0);
        let runtime = cpu.realtime_runtime().filter(|runtime| *runtime != 0);
        if period.is_some() || runtime.is_some() {
            grant_real_time(
                path,
                period.and_then(|period| i64::try_from(period).ok()),
                runtime,
            )?;
        }
        wishes.fulfilled("real-time processor limit");
    }
    Ok(())
}

const RT_RUNTIME: &str = "cpu.rt_runtime_us";
const RT_PERIOD: &str = "cpu.rt_period_us";

/// Sets the time of real-time processes, and the period it is counted in. A group
/// has no more than those above it leave, and ours begin with none: they are given
/// what those below need. The kernel's own bound is that of the root.
fn grant_real_time(path: &Path, period: Option<i64>, runtime: Option<i64>) -> Result<(), CgroupError> {
    let error = match set_real_time(path, period, runtime) {
        Err(error) => error,
        Ok(()) => return Ok(()),
    };
    let number = |folder: &Path, file| -> Option<i64> {
        std::fs::read_to_string(folder.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let times = |folder: &Path| Some((number(folder, RT_RUNTIME)?, number(folder, RT_PERIOD)?));
    let own = times(path).map(|(old, length)| (runtime.unwrap_or(old), period.unwrap_or(length)));
    let above = path.parent().and_then(|above| Some((above, times(above)?)));
    let (Some(own), Some((above, (now, length)))) = (own, above) else {
        return Err(error);
    };
    let beside = std::fs::read_dir(above)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|other| other != path && other.is_dir());
    let needed = beside
        .filter_map(|other| times(&other))
        .chain([own])
        .map(|(runtime, period)| part(runtime, period, length))
        .fold(0, i64::saturating_add);
    if now < 0 || now >= needed {
        return Err(error);
    }
    grant_real_time(above, None, Some(needed))?;
    set_real_time(path, period, runtime)
}

/// What a time in one period is in another, rounded up.
fn part(runtime: i64, period: i64, other: i64) -> i64 {
    let exact = i128::from(runtime) * i128::from(other);
    let period = i128::from(period.max(1));
    i64::try_from((exact + period - 1).div_euclid(period)).unwrap_or(i64::MAX)
}

/// Writes both in the order that the kernel takes: at no moment may the time be
/// longer than the period.
fn set_real_time(path: &Path, period: Option<i64>, runtime: Option<i64>) -> Result<(), CgroupError> {
    let set = |file, value: Option<i64>| match value {
        Some(value) => write(path, file, &value.to_string()),
        None => Ok(()),
    };
    if set(RT_PERIOD, period).is_ok() {
        return set(RT_RUNTIME, runtime);
    }
    set(RT_RUNTIME, runtime)?;
    set(RT_PERIOD, period)
}

fn throttles(io: &LinuxBlockIo) -> [(&'static str, &'static str, &Option<Vec<LinuxThrottleDevice>>); 4] {
    [
        (
            "blkio.throttle.read_bps_device",
            "rbps",
            io.throttle_read_bps_device(),
        ),
        (
            "blkio.throttle.write_bps_device",
            "wbps",
            io.throttle_write_bps_device(),
        ),
        (
            "blkio.throttle.read_iops_device",
            "riops",
            io.throttle_read_iops_device(),
        ),
        (
            "blkio.throttle.write_iops_device",
            "wiops",
            io.throttle_write_iops_device(),
        ),
    ]
}

fn disks_v1(path: &Path, io: &LinuxBlockIo, wishes: &mut Wishes) -> Result<(), CgroupError> {
    for (file, _, devices) in throttles(io) {
        for device in devices.iter().flatten() {
            let line = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            write(path, file, &line)?;
        }
    }
    wishes.fulfilled("disk limits");
    // The scheduler of today's kernels has its own files.
    let Some(prefix) = ["blkio", "blkio.bfq"]
        .into_iter()
        .find(|prefix| path.join(format!("{prefix}.weight")).exists())
    else {
        wishes.refused(
            "disk weight",
            "the kernel's blkio controller has no weights".into(),
        );
        wishes.refused(
            "disk leaf weight",
            "the kernel's blkio controller has no leaf weights".into(),
        );
        return Ok(());
    };
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        write(path, &format!("{prefix}.weight"), &weight.to_string())?;
    }
    let mut done = true;
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let file = format!("{prefix}.weight_device");
            if !path.join(&file).exists() {
                done = false;
                continue;
            }
            write(
                path,
                &file,
                &format!("{}:{} {weight}", device.major(), device.minor()),
            )?;
        }
    }
    if done {
        wishes.fulfilled("disk weight");
    }
    if let Some(weight) = io.leaf_weight().filter(|weight| *weight != 0)
        && path.join("blkio.leaf_weight").exists()
    {
        write(path, "blkio.leaf_weight", &weight.to_string())?;
        wishes.fulfilled("disk leaf weight");
    }
    Ok(())
}

fn disks_v2(path: &Path, io: &LinuxBlockIo, wishes: &mut Wishes) -> Result<(), CgroupError> {
    for (_, key, devices) in throttles(io) {
        for device in devices.iter().flatten() {
            let rate = match device.rate() {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            let line = format!("{}:{} {key}={rate}", device.major(), device.minor());
            write(path, "io.max", &line)?;
        }
    }
    wishes.fulfilled("disk limits");
    let weighted = ["io.bfq.weight", "io.weight"]
        .into_iter()
        .find(|file| path.join(file).exists());
    let Some(file) = weighted else { return Ok(()) };
    let value = |weight: u16| {
        if file == "io.weight" {
            io_weight(weight)
        } else {
            u64::from(weight)
        }
    };
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        write(path, file, &format!("default {}", value(weight)))?;
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let line = format!("{}:{} {}", device.major(), device.minor(), value(weight));
            write(path, file, &line)?;
        }
    }
    wishes.fulfilled("disk weight");
    Ok(())
}

/// A weight of version 1 (10 to 1000) as one of version 2 (1 to 10000).
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_converted_between_periods() {
        assert_eq!(part(3000, 10_000, 1_000_000), 300_000);
        assert_eq!(part(1, 3, 1000), 334);
        assert_eq!(part(0, 0, 1000), 0);
        assert_eq!(part(i64::MAX, 1, i64::MAX), i64::MAX);
    }

    #[test]
    fn weights_of_disks_are_converted() {
        assert_eq!(
            [1, 10, 500, 1000, 2000].map(io_weight),
            [1, 1, 4950, 10_000, 10_000]
        );
    }

    #[test]
    fn limits_are_written_where_both_versions_have_them() {
        let folder = tempfile::tempdir().unwrap();
        let resources: LinuxResources = serde_json::from_value(serde_json::json!({
            "cpu": {"burst": 5, "idle": 1},
            "blockIO": {"weight": 10, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 9}],
            "network": {"classID": 3, "priorities": [{"name": "lo", "priority": 2}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3}},
        }))
        .unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let each = |version, controllers: &[&str]| {
            let mut list = Wishes::of(&resources);
            let folder = Folder {
                version,
                controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
                path: folder.path().to_owned(),
            };
            std::fs::write(folder.path.join("io.weight"), "").unwrap();
            std::fs::write(folder.path.join("blkio.bfq.weight"), "").unwrap();
            apply(&folder, &resources, &mut list).unwrap();
            list.left().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let left = each(Version::V2, &["cpu", "io", "hugetlb", "rdma"]);
        assert_eq!(left.len(), 2, "{left:?}");
        assert_eq!(read("cpu.max.burst"), "5");
        assert_eq!(read("io.max"), "8:0 wiops=max");
        assert_eq!(read("io.weight"), "default 1");
        assert_eq!(read("hugetlb.2MB.max"), "9");
        assert_eq!(read("rdma.max"), "mlx5_1 hca_handle=3");
        let left = each(
            Version::V1,
            &["cpu", "blkio", "hugetlb", "net_cls", "net_prio", "rdma"],
        );
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(read("blkio.throttle.read_bps_device"), "8:0 7");
        assert_eq!(read("blkio.bfq.weight"), "10");
        assert_eq!(read("net_cls.classid"), "3");
        assert_eq!(read("net_prio.ifpriomap"), "lo 2");
        let nameless: LinuxResources =
            serde_json::from_value(serde_json::json!({"hugepageLimits": [{"pageSize": "", "limit": 9}]}))
                .unwrap();
        let pages = Folder {
            version: Version::V2,
            controllers: vec!["hugetlb".into()],
            path: folder.path().to_owned(),
        };
        let error = apply(&pages, &nameless, &mut Wishes::of(&nameless)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid configuration: resources.hugepageLimits: page size \"\""
        );
    }
}

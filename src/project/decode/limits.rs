//! Limits of a service: memory, processors, processes, `ulimits`.

use std::collections::BTreeMap;

use super::known;
use super::reader::Reader;
use crate::project::model::{Resources, Ulimit};
use crate::stack::{Code, Node, Place, Value};

pub(super) fn resources(reader: &mut Reader<'_>) -> Resources {
    let memory = reader.either(
        &[&["mem_limit"], &["deploy", "resources", "limits", "memory"]],
        "resources.memory",
    );
    let reservation = reader.either(
        &[
            &["mem_reservation"],
            &["deploy", "resources", "reservations", "memory"],
        ],
        "resources.memory_reservation",
    );
    let swap = reader.either(&[&["memswap_limit"]], "resources.memory_swap");
    let cpus = reader.either(
        &[&["cpus"], &["deploy", "resources", "limits", "cpus"]],
        "resources.cpus_milli",
    );
    let shares = reader.either(&[&["cpu_shares"]], "resources.cpu_shares");
    let cpuset = reader.either(&[&["cpuset"]], "resources.cpuset");
    let pids = reader.either(
        &[&["pids_limit"], &["deploy", "resources", "limits", "pids"]],
        "resources.pids",
    );
    let quota = reader.either(&[&["cpu_quota"]], "resources.cpu_quota");
    let period = reader.either(&[&["cpu_period"]], "resources.cpu_period");
    let rt_runtime = reader.either(&[&["cpu_rt_runtime"]], "resources.cpu_rt_runtime");
    let rt_period = reader.either(&[&["cpu_rt_period"]], "resources.cpu_rt_period");
    let count = reader.either(&[&["cpu_count"]], "resources.cpu_count");
    let swappiness = reader.either(&[&["mem_swappiness"]], "resources.memory_swappiness");
    let percent = reader.float("cpu_percent");
    let mut amount = |node: Option<&Node>, field: &str, least: i64| {
        let number: i64 = reader.whole(node, field)?;
        if number < least
            && let Some(node) = node
        {
            let message = format!("must be greater than or equal to {least}");
            reader.fail(node.place, Code::Schema, field, &message, None);
        }
        // Zero is no limit.
        (number != 0).then_some(number)
    };
    let resources = Resources {
        memory: amount(memory, "mem_limit", 0),
        memory_reservation: amount(reservation, "mem_reservation", 0),
        memory_swap: amount(swap, "memswap_limit", -1),
        cpus_milli: None,
        cpu_shares: amount(shares, "cpu_shares", 0).and_then(|shares| u64::try_from(shares).ok()),
        cpuset: cpuset
            .and_then(Node::as_text)
            .filter(|text| !text.is_empty())
            .map(str::to_owned),
        pids: amount(pids, "pids_limit", -1),
        cpu_quota: amount(quota, "cpu_quota", -1),
        cpu_period: amount(period, "cpu_period", 0).and_then(|period| u64::try_from(period).ok()),
        cpu_rt_runtime: amount(rt_runtime, "cpu_rt_runtime", -1),
        cpu_rt_period: amount(rt_period, "cpu_rt_period", 0).and_then(|period| u64::try_from(period).ok()),
        cpu_count: amount(count, "cpu_count", 0).and_then(|count| u64::try_from(count).ok()),
        cpu_percent: percent.filter(|percent| *percent != 0.0),
        memory_swappiness: swappiness_of(swappiness, reader),
        oom_kill_disable: reader.flag("oom_kill_disable"),
    };
    if let (Some(text), Some(node)) = (&resources.cpuset, cpuset)
        && !known::is_cpu_list(text)
    {
        let message = format!("invalid list of processors {text:?}");
        reader.fail(
            node.place,
            Code::Schema,
            "cpuset",
            &message,
            Some("write it as 0-2,4"),
        );
    }
    if let Some(node) = swap {
        match (resources.memory, resources.memory_swap) {
            (None, Some(limit)) if limit > 0 => {
                let message = "needs mem_limit: it is memory and swap together";
                reader.fail(node.place, Code::Conflict, "memswap_limit", message, None);
            }
            (Some(memory), Some(limit)) if limit > 0 && limit < memory => {
                let message = "must not be less than mem_limit: it is memory and swap together";
                reader.fail(node.place, Code::Conflict, "memswap_limit", message, None);
            }
            _ => {}
        }
    }
    if let (Some(reservation), Some(memory)) = (resources.memory_reservation, resources.memory)
        && reservation > memory
    {
        let place = reader.either(
            &[
                &["mem_reservation"],
                &["deploy", "resources", "reservations", "memory"],
            ],
            "resources.memory_reservation",
        );
        let place = place.map_or(Place::NOWHERE, |node| node.place);
        let message = "must not be more than the memory limit";
        reader.fail(place, Code::Conflict, "mem_reservation", message, None);
    }
    if let (Some(cpus), true) = (cpus, quota.is_some() || period.is_some()) {
        let message = "conflicting options: cpus and cpu_quota or cpu_period; use one of them";
        reader.fail(cpus.place, Code::Conflict, "cpus", message, None);
    }
    Resources {
        cpus_milli: cpus.and_then(|node| milli(node, reader)),
        ..resources
    }
}

/// How readily memory is swapped; -1 is as the machine does.
fn swappiness_of(node: Option<&Node>, reader: &mut Reader<'_>) -> Option<u64> {
    let number: i64 = reader.whole(node, "mem_swappiness")?;
    if !(-1..=100).contains(&number)
        && let Some(node) = node
    {
        let message = "must be from 0 to 100";
        reader.fail(node.place, Code::Schema, "mem_swappiness", message, None);
    }
    u64::try_from(number).ok()
}

/// Processors as thousandths.
pub(super) fn milli(node: &Node, reader: &mut Reader<'_>) -> Option<u64> {
    #[expect(clippy::cast_precision_loss, reason = "processors are few")]
    let number = match &node.value {
        Value::Int(number) => *number as f64,
        Value::Float(number) => *number,
        _ => return None,
    };
    if number == 0.0 {
        return None;
    }
    let milli = (number * 1000.0).round();
    if !(1.0..=1e9).contains(&milli) {
        let message = "must be at least 0.001";
        reader.fail(node.place, Code::Schema, "cpus", message, None);
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in range, as just checked"
    )]
    Some(milli as u64)
}

pub(super) fn ulimits(reader: &mut Reader<'_>) -> BTreeMap<String, Ulimit> {
    let mut ulimits = BTreeMap::new();
    for (name, node) in reader.get("ulimits").into_iter().flat_map(Node::entries) {
        let path = format!("ulimits.{name}");
        if !known::ULIMITS.contains(&name) {
            let hint = known::nearest(name, &known::ULIMITS).map(|near| format!("did you mean `{near}`?"));
            reader.fail(node.place, Code::Schema, &path, "unknown limit", hint.as_deref());
            continue;
        }
        let (soft, hard) = match node.as_map() {
            Some(_) => (
                reader.whole(node.get("soft"), &path),
                reader.whole(node.get("hard"), &path),
            ),
            None => {
                let both = reader.whole(Some(node), &path);
                (both, both)
            }
        };
        let (Some(soft), Some(hard)) = (soft, hard) else {
            continue;
        };
        // -1 is unlimited: more than any number.
        let rank = |limit: i64| if limit == -1 { i64::MAX } else { limit };
        if soft < -1 || hard < -1 || rank(soft) > rank(hard) {
            let message = "the soft limit must not be more than the hard one; -1 is unlimited";
            reader.fail(node.place, Code::Schema, &path, message, None);
            continue;
        }
        ulimits.insert(name.to_owned(), Ulimit { soft, hard });
    }
    ulimits
}

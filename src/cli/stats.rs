//! `stats`: what containers use, drawn again and again on a terminal.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use super::template::list;
use crate::host::{View, running, views};
use crate::project::NetworkMode;
use crate::runtime::Usage;

/// Between two looks of a stream.
const PERIOD: Duration = Duration::from_secs(1);
/// Between the two looks that `--no-stream` needs for the use of processors.
const SHORT: Duration = Duration::from_millis(250);

/// `stats`.
#[derive(Debug, Args)]
pub(super) struct Stats {
    /// Only this service [default: all]
    service: Option<String>,
    #[command(flatten)]
    how: How,
}

/// How it is shown.
#[derive(Debug, Args)]
pub(super) struct How {
    /// Containers that do not run too
    #[arg(short, long)]
    all: bool,
    /// 'table', 'json' (one object a line), or a Go template
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: String,
    /// Print once
    #[arg(long)]
    no_stream: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
}

/// One container and two looks at it.
struct Seen {
    view: View,
    usage: Option<Usage>,
    /// Share of one processor since the last look; 1.0 is all of one.
    cpu: f64,
}

pub(super) fn stats(context: &Context, typed: &Stats) -> Outcome {
    let services: Vec<String> = typed.service.iter().cloned().collect();
    let loaded = context.load_or_recall(&services)?;
    known_services(&loaded.project, &services)?;
    let project = &loaded.project.name;
    stream(context, &typed.how, || {
        let mut list = views(&context.world, project)?;
        list.retain(|view| {
            typed
                .service
                .as_ref()
                .is_none_or(|name| *name == view.record.config.name)
        });
        Ok(list)
    })
}

/// Shows what containers use, of those that `list` finds each time.
pub(super) fn stream(
    context: &Context,
    typed: &How,
    list_of: impl Fn() -> Result<Vec<View>, Failure>,
) -> Outcome {
    let drawn = !typed.no_stream && std::io::stdout().is_terminal() && typed.format != "json";
    let mut before: BTreeMap<String, (Instant, Duration)> = BTreeMap::new();
    // The first look is only the beginning of the second's interval.
    look(context, typed, list_of()?, &mut before)?;
    let mut first = true;
    loop {
        std::thread::sleep(if first { SHORT } else { PERIOD });
        first = false;
        let seen = look(context, typed, list_of()?, &mut before)?;
        let rows: Vec<Value> = seen.iter().map(|seen| row(seen, typed.no_trunc)).collect();
        let text = list(&typed.format, &COLUMNS, &rows).map_err(Failure::new)?;
        if drawn {
            // Over what was there; what is left of longer lines goes.
            let text = text.replace('\n', "\x1b[K\n");
            context.terminal.out(&format!("\x1b[H{text}\x1b[J"));
        } else {
            context.terminal.out(&text);
        }
        if typed.no_stream || (seen.is_empty() && !typed.all) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

const COLUMNS: [(&str, &str); 8] = [
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

fn look(
    context: &Context,
    typed: &How,
    views: Vec<View>,
    before: &mut BTreeMap<String, (Instant, Duration)>,
) -> Result<Vec<Seen>, Failure> {
    let mut list = Vec::new();
    for view in views {
        if !(typed.all || view.state.is_running()) {
            continue;
        }
        let own = !matches!(
            view.record.config.network_mode,
            NetworkMode::Host | NetworkMode::None
        );
        let usage = match running(&context.world, &view.record)? {
            Some(record) if view.state.is_running() => Some(Usage::read(&record, own)),
            _ => None,
        };
        let mut cpu = 0.0;
        if let Some(usage) = &usage {
            let now = Instant::now();
            if let Some((then, used)) = before.insert(view.record.id.clone(), (now, usage.cpu)) {
                let passed = now.duration_since(then).as_secs_f64();
                cpu = usage.cpu.saturating_sub(used).as_secs_f64() / passed.max(1e-6);
            }
        }
        list.push(Seen { view, usage, cpu });
    }
    Ok(list)
}

fn row(seen: &Seen, whole: bool) -> Value {
    let record = &seen.view.record;
    let id = if whole {
        record.id.as_str()
    } else {
        record.short_id()
    };
    let usage = seen.usage.unwrap_or_default();
    let limit = match (seen.usage, usage.memory_limit) {
        (None, _) => 0,
        (_, Some(limit)) => limit,
        (_, None) => rustix::system::sysinfo()
            .totalram
            .saturating_mul(u64::from(rustix::system::sysinfo().mem_unit.max(1))),
    };
    let share = if limit == 0 {
        0.0
    } else {
        precise(usage.memory) / precise(limit)
    };
    serde_json::json!({
        "BlockIO": format!("{} / {}", decimal(usage.read), decimal(usage.written)),
        "CPUPerc": format!("{:.2}%", seen.cpu * 100.0),
        "Container": id,
        "ID": id,
        "MemPerc": format!("{:.2}%", share * 100.0),
        "MemUsage": format!("{} / {}", binary(usage.memory), binary(limit)),
        "Name": record.name,
        "NetIO": format!("{} / {}", decimal(usage.received), decimal(usage.sent)),
        "PIDs": usage.processes.to_string(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "printed with four digits")]
fn precise(number: u64) -> f64 {
    number as f64
}

/// Bytes in units of 1024 with four significant digits: `1.5MiB`.
fn binary(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], 4)
}

/// Bytes in units of 1000 with three significant digits: `1.5MB`.
fn decimal(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"], 3)
}

fn scaled(bytes: u64, base: f64, units: &[&str], digits: usize) -> String {
    let mut value = precise(bytes);
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    while value >= base {
        let Some(next) = units.next() else { break };
        value /= base;
        unit = next;
    }
    // Go's %.4g: so many significant digits, no zeros at the end.
    let whole = format!("{value:.0}").len();
    let text = format!("{value:.*}", digits.saturating_sub(whole));
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_as_docker_does() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (1536, "1.5KiB"),
            (1_288_490, "1.229MiB"),
            (16_106_127_360, "15GiB"),
        ] {
            assert_eq!(binary(bytes), text);
        }
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (12_345_678, "12.3MB"),
        ] {
            assert_eq!(decimal(bytes), text);
        }
    }
}

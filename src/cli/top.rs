//! `top`: the processes of containers, as `ps -ef` prints them, read from
//! `/proc` and the containers' cgroups: the image needs no tools.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::ExitCode;

use clap::Args;

use super::context::{Context, known_services};
use super::failure::Outcome;
use super::moment::{local, now};
use super::terminal::aligned;
use crate::host::{running, views};

/// `top`.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// Services whose processes are listed [default: all]
    services: Vec<String>,
}

const HEADING: [&str; 10] = [
    "SERVICE", "#", "UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD",
];

/// Nanoseconds of a day: older processes show their date in place of the time.
const DAY: u64 = 86_400 * 1_000_000_000;

pub(super) fn top(context: &Context, typed: &Top) -> Outcome {
    let loaded = context.load_or_recall(&typed.services)?;
    known_services(&loaded.project, &typed.services)?;
    let host = Host::read();
    let mut rows = Vec::new();
    let mut list = views(&context.world, &loaded.project.name)?;
    list.retain(|view| {
        view.state.is_running()
            && (typed.services.is_empty() || typed.services.contains(&view.record.config.name))
    });
    list.sort_by(|a, b| a.record.name.cmp(&b.record.name));
    for view in list {
        let Some(record) = running(&context.world, &view.record)? else {
            continue;
        };
        for pid in record.fixed.cgroup.processes() {
            // Gone meanwhile.
            let Some(process) = host.process(pid) else {
                continue;
            };
            let mut row = vec![view.record.config.name.clone(), view.record.number.to_string()];
            row.extend(process);
            rows.push(row);
        }
    }
    if !rows.is_empty() {
        context.terminal.out(&aligned(&HEADING, &rows, 2));
    }
    Ok(ExitCode::SUCCESS)
}

/// What is needed to tell about any process.
pub(super) struct Host {
    /// Names of users.
    users: HashMap<u32, String>,
    /// Clock ticks in a second.
    ticks: u64,
    /// When the machine was started, in nanoseconds since 1970.
    boot: u64,
    now: u64,
}

impl Host {
    pub(super) fn read() -> Self {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let user = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            Some((fields.nth(1)?.parse().ok()?, name))
        };
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot = stat
            .lines()
            .find_map(|line| line.strip_prefix("btime "))
            .and_then(|text| text.trim().parse::<u64>().ok())
            .unwrap_or(0);
        Self {
            users: passwd.lines().filter_map(user).collect(),
            ticks: rustix::param::clock_ticks_per_second().max(1),
            boot: boot.saturating_mul(1_000_000_000),
            now: now(),
        }
    }

    /// `UID PID PPID C STIME TTY TIME CMD` of a process; `None` when it is gone.
    pub(super) fn process(&self, pid: u32) -> Option<[String; 8]> {
        let folder = format!("/proc/{pid}");
        let uid = fs::metadata(&folder).ok()?.uid();
        let stat = Stat::parse(&fs::read_to_string(format!("{folder}/stat")).ok()?)?;
        let line = fs::read(format!("{folder}/cmdline")).unwrap_or_default();
        // The owner of the folder is root when a process may not be looked at.
        let uid = fs::read_to_string(format!("{folder}/status"))
            .ok()
            .and_then(|text| {
                let line = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
                line.split_whitespace().nth(1)?.parse().ok()
            })
            .unwrap_or(uid);
        let user = self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string());
        let nanoseconds = |ticks: u64| {
            u64::try_from(u128::from(ticks) * 1_000_000_000 / u128::from(self.ticks)).unwrap_or(u64::MAX)
        };
        let started = self.boot.saturating_add(nanoseconds(stat.start));
        let used = nanoseconds(stat.used);
        let age = self.now.saturating_sub(started);
        let percent = u128::from(used) * 100 / u128::from(age.max(1));
        let pattern = if age < DAY { "%H:%M" } else { "%b%d" };
        Some([
            user,
            pid.to_string(),
            stat.parent.to_string(),
            percent.min(99).to_string(),
            local(started, pattern),
            terminal(stat.terminal),
            clock(used / 1_000_000_000),
            command(&line, &stat.name),
        ])
    }
}

/// What we use of `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
    terminal: u64,
    /// Ticks in user and kernel mode.
    used: u64,
    /// Ticks since boot at which it began.
    start: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name may hold anything, parentheses too.
        let (before, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The first of these is field 3.
        let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<u64>().ok();
        Some(Self {
            name: before.split_once('(')?.1.to_owned(),
            parent: u32::try_from(field(4)?).ok()?,
            // Signed, and without one it is 0.
            terminal: field(7).unwrap_or(0),
            used: field(14)?.saturating_add(field(15)?),
            start: field(22)?,
        })
    }
}

/// A terminal's device number as `ps` names it.
fn terminal(number: u64) -> String {
    let major = (number >> 8) & 0xfff;
    let minor = (number & 0xff) | ((number >> 12) & 0xf_ff00);
    match major {
        0 => "?".to_owned(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        _ => format!("{major}:{minor}"),
    }
}

/// Seconds as `ps` prints them: `00:01:02`, `1-00:00:00`.
fn clock(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let time = format!("{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    if days > 0 { format!("{days}-{time}") } else { time }
}

/// The command line, or the name in brackets when there is none. Nothing in it
/// breaks the line or drives the terminal.
fn command(line: &[u8], name: &str) -> String {
    let words = String::from_utf8_lossy(line);
    let words = words.trim_end_matches('\0').replace('\0', " ");
    let text = if words.is_empty() {
        format!("[{name}]")
    } else {
        words
    };
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_name_is() {
        let text = "12 (a) b (c) S 3 12 12 34816 12 4194304 1 2 3 4 250 150 7 8 20 0 1 0 777 1 2";
        assert_eq!(
            Stat::parse(text),
            Some(Stat {
                name: "a) b (c".into(),
                parent: 3,
                terminal: 34816,
                used: 400,
                start: 777
            })
        );
        assert_eq!(Stat::parse("12 (x"), None);
        assert_eq!(Stat::parse("12 (x) S 1"), None);
    }

    #[test]
    fn values_are_printed_as_ps_does() {
        assert_eq!(terminal(0), "?");
        assert_eq!(terminal(34816), "pts/0");
        assert_eq!(terminal(34816 + 3), "pts/3");
        assert_eq!(terminal(1025), "tty1");
        assert_eq!(clock(62), "00:01:02");
        assert_eq!(clock(90_061), "1-01:01:01");
        assert_eq!(command(b"sh\0-c\0a\x1bb\0", "sh"), "sh -c a?b");
        assert_eq!(command(b"", "kworker"), "[kworker]");
    }
}

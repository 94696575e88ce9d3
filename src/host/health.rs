//! What is known of a container's health: the verdict, and how the last probes
//! went. Written after each probe by whoever probes, in the container's run
//! folder: it ends with the run, and is lost with a boot, as the run is.

use std::collections::VecDeque;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::HostError;
use super::record::ContainerRecord;
use crate::lifecycle::Health;
use crate::plan::ContainerState;
use crate::store::{ContainerPaths, World, read_record};

/// The most characters of a probe's output in its summary.
const SUMMARY: usize = 160;

/// How one probe of a container's health went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// When it began, in nanoseconds since 1970.
    pub begun: u64,
    /// When it was over, in nanoseconds since 1970.
    pub ended: u64,
    /// The command's status. Below 0 there is none: it could not be run or took
    /// too long, or a probe of ours failed, whose success is 0.
    pub code: i32,
    /// What the command printed, at most [`Probed::LONGEST`] bytes of it; or why
    /// there is no status.
    pub output: String,
}

impl Probed {
    /// How much of a probe's output is kept, in bytes; as Docker does.
    pub const LONGEST: usize = 4096;

    /// Whether the container has passed.
    pub fn passed(&self) -> bool {
        self.code == 0
    }

    /// How it went, in one short line without control characters.
    pub fn summary(&self) -> String {
        let plain = |line: &str| line.replace(char::is_control, " ").trim().to_owned();
        let mut lines = self.output.lines().map(plain).filter(|line| !line.is_empty());
        // Why a program ends is what it says last; we say it first.
        let said = if self.code < 0 {
            lines.next()
        } else {
            lines.next_back()
        };
        let short = said.map(|said| match said.char_indices().nth(SUMMARY) {
            Some((end, _)) => format!("{}...", said.get(..end).unwrap_or_default()),
            None => said,
        });
        match (self.code, short) {
            (..0, said) => said.unwrap_or_default(),
            (code, None) => format!("status {code}"),
            (code, Some(said)) => format!("status {code}: {said}"),
        }
    }
}

/// What is known of a running container's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthRecord {
    /// The verdict.
    pub health: Health,
    /// Failures in a row that count.
    pub failures: u32,
    /// The last probes, at most [`HealthRecord::PROBES`], oldest first.
    pub probes: VecDeque<Probed>,
}

impl HealthRecord {
    /// How many probes are kept; as Docker does.
    pub const PROBES: usize = 5;

    /// Of a container that is to be probed from now on.
    pub fn starting() -> Self {
        Self {
            health: Health::Starting,
            failures: 0,
            probes: VecDeque::with_capacity(Self::PROBES),
        }
    }

    /// Takes in a probe; the oldest one makes room for it.
    pub fn add(&mut self, probed: Probed) {
        if self.probes.len() >= Self::PROBES {
            self.probes.pop_front();
        }
        self.probes.push_back(probed);
    }
}

/// What is known of the health of a container; `None` before it was probed.
///
/// # Errors
/// [`HostError::Store`] when the record cannot be read.
pub fn health(world: &World, record: &ContainerRecord) -> Result<Option<HealthRecord>, HostError> {
    let paths = world.container(&record.project, &record.id);
    Ok(read_record(&path(&paths))?)
}

/// The last verdict on a container that has a check, while it runs.
pub(super) fn verdict(
    paths: &ContainerPaths,
    state: &ContainerState,
    checked: bool,
) -> Result<Option<Health>, HostError> {
    /// All that is read of a [`HealthRecord`].
    #[derive(Deserialize)]
    struct Verdict {
        health: Health,
    }
    if !checked || !state.is_running() {
        return Ok(None);
    }
    let record: Option<Verdict> = read_record(&path(paths))?;
    Ok(Some(record.map_or(Health::Starting, |record| record.health)))
}

/// Where it is written.
pub(super) fn path(paths: &ContainerPaths) -> PathBuf {
    paths.run.join("health.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probed(code: i32, output: &str) -> Probed {
        Probed {
            begun: 1,
            ended: 2,
            code,
            output: output.to_owned(),
        }
    }

    #[test]
    fn a_summary_is_one_short_plain_line() {
        assert_eq!(probed(1, "").summary(), "status 1");
        assert_eq!(
            probed(1, "trying\n\tno\u{7}luck \n\n").summary(),
            "status 1: no luck"
        );
        assert_eq!(probed(-1, "too late\nsaid").summary(), "too late");
        let long = "\u{e4}".repeat(SUMMARY + 1);
        assert_eq!(
            probed(2, &long).summary(),
            format!("status 2: {}...", "\u{e4}".repeat(SUMMARY))
        );
    }

    #[test]
    fn the_oldest_probe_makes_room() {
        let mut record = HealthRecord::starting();
        for code in 0..7 {
            record.add(probed(code, ""));
        }
        let codes: Vec<i32> = record.probes.iter().map(|probed| probed.code).collect();
        assert_eq!(codes, [2, 3, 4, 5, 6]);
    }
}

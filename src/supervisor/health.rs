//! Probes one container's health for as long as it runs.
//!
//! The rules are `lifecycle::health`; this owns the clock and runs the probes.
//! A probe that outlives its timeout is killed and counts as failed; the next
//! one is timed from the end of the last, so probes never pile up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::host::{Check, HealthRecord, Machine, Probed};
use crate::lifecycle::Health;
use crate::lifecycle::health::{HealthState, Input};

/// Probes until dropped; tells of each change of the verdict, and how the probe
/// went that changed it.
pub(super) async fn watch(machine: Arc<Machine>, id: String, check: Check, told: impl Fn(Health, String)) {
    let epoch = Instant::now();
    let mut state = HealthState::started(Duration::ZERO);
    let mut record = HealthRecord::starting();
    machine.note_health(&id, &record);
    loop {
        tokio::time::sleep(state.probe_at().saturating_sub(epoch.elapsed())).await;
        let probed = machine.probe(&id, &check).await;
        let input = match probed.as_ref().is_some_and(Probed::passed) {
            true => Input::ProbeSucceeded,
            false => Input::ProbeFailed,
        };
        let summary = probed.as_ref().map(Probed::summary).unwrap_or_default();
        let step = state.step(&check.policy, input, epoch.elapsed());
        state = step.state;
        (record.health, record.failures) = (step.verdict, state.failures());
        probed.into_iter().for_each(|probed| record.add(probed));
        machine.note_health(&id, &record);
        if step.changed {
            told(step.verdict, summary);
        }
    }
}

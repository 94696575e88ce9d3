//! Probes one container's health for as long as it runs.
//!
//! The rules are `lifecycle::health`; this owns the clock and runs the probes.
//! A probe that outlives its timeout is killed and counts as failed; the next
//! one is timed from the end of the last, so probes never pile up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::host::{Check, Machine};
use crate::lifecycle::Health;
use crate::lifecycle::health::{HealthState, Input};

/// Probes until dropped; tells of each change of the verdict.
pub(super) async fn watch(machine: Arc<Machine>, id: String, check: Check, told: impl Fn(Health)) {
    let epoch = Instant::now();
    let mut state = HealthState::started(Duration::ZERO);
    machine.note_health(&id, state.verdict());
    loop {
        tokio::time::sleep(state.probe_at().saturating_sub(epoch.elapsed())).await;
        let input = if machine.probe(&id, &check).await {
            Input::ProbeSucceeded
        } else {
            Input::ProbeFailed
        };
        let step = state.step(&check.policy, input, epoch.elapsed());
        state = step.state;
        if step.changed {
            machine.note_health(&id, step.verdict);
            told(step.verdict);
        }
    }
}

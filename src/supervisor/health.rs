//! Probes one container's health for as long as it runs.
//!
//! The rules are `lifecycle::health`; this owns the clock and runs the probes.
//! A probe that outlives its timeout is killed and counts as failed; the next
//! one is timed from the end of the last, so probes never pile up.

use std::sync::Arc;
use std::time::Instant;

use crate::host::Machine;
use crate::lifecycle::Health;
use crate::lifecycle::health::{Check, Input, State};

/// Probes until dropped; tells of each change of the verdict.
pub(super) async fn watch(machine: Arc<Machine>, id: String, check: Check, told: impl Fn(Health)) {
    let epoch = Instant::now();
    let mut state = State::default();
    let mut input = Input::Started;
    let mut verdict = None;
    loop {
        let step = state.step(&check, input, epoch.elapsed());
        state = step.state;
        if verdict != Some(step.health) {
            verdict = Some(step.health);
            machine.note_health(&id, step.health);
            told(step.health);
        }
        let pause = step.next_probe.saturating_sub(epoch.elapsed());
        tokio::time::sleep(pause).await;
        input = if machine.probe(&id, &check.test, check.timeout).await {
            Input::ProbeSucceeded
        } else {
            Input::ProbeFailed
        };
    }
}

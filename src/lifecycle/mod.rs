//! State machines without clocks: health, restart policy, stop sequence.
//!
//! Each is `step(state, input, now) -> (state, effects)`; the supervisor owns
//! the clock and does the effects.

use serde::{Deserialize, Serialize};

/// What a health check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No verdict so far.
    Starting,
    /// The last probe succeeded.
    Healthy,
    /// `retries` probes in a row failed.
    Unhealthy,
}

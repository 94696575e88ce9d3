//! State machines without clocks: health, restart policy.
//!
//! Each is `step(state, input, now) -> (state, effects)`; the supervisor owns
//! the clock and does the effects. `now` is a [`std::time::Duration`] since any
//! start that does not move (the boot, say): only differences matter, so the
//! wall clock, which jumps, must not be used.
//!
//! * [`health`]: probe results in; a verdict and the time of the next probe out.
//! * [`restart`]: starts and ends in; restart at a time, or leave it, out.
//!
//! The rules are Docker's, except where `health` says what it does better.

pub mod health;
pub mod restart;

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

//! Restart policy: whether, and when, a container that ended is started again.
//!
//! Docker's rules: the pause before a restart begins at 100 ms and doubles up
//! to one minute; a run of at least ten seconds sets it back. `on-failure:N`
//! counts restarts since the last start by a command, long runs in between or
//! not. A container that a command stopped is left alone.
//!
//! `deploy.restart_policy` adds, as the Compose Specification has it: `delay`,
//! the same pause before every restart; `max_attempts`, whatever the condition;
//! and `window`, the length of a run after which the restart before it counts as
//! successful and all attempts are there again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The first pause.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A run this long counts as a success of the restart.
const LONG_RUN: Duration = Duration::from_secs(10);

/// What happens when a container ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It is restarted.
    Always,
    /// It is restarted (differs from `always` only after a boot: [`after_boot`]).
    UnlessStopped,
    /// It is restarted after a status other than 0.
    OnFailure {
        /// At most so often; `None` is without end.
        max_retries: Option<u32>,
    },
}

/// All that decides about restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// After which ends.
    pub policy: RestartPolicy,
    /// The pause before a restart; `None` is one that doubles.
    pub delay: Option<Duration>,
    /// Restarts at most, in place of the policy's own number.
    pub max_attempts: Option<u32>,
    /// A run this long gives all attempts back; `None`: none does.
    pub window: Option<Duration>,
}

impl From<RestartPolicy> for Rules {
    fn from(policy: RestartPolicy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }
}

/// What outlives the process that counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tries {
    /// Restarts so far.
    restarts: u32,
    /// The last pause.
    pause: Duration,
}

/// How the restarts of one container stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartState {
    /// When the present or last run began; `None` before the first.
    started: Option<Duration>,
    /// Restarts since the last start by a command.
    restarts: u32,
    /// The last pause; zero before the first and after a long run.
    pause: Duration,
    /// When it is to be restarted.
    due: Option<Duration>,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A command started it: counts begin anew.
    StartedByCommand,
    /// The policy started it again.
    Restarted,
    /// Its process ended.
    Exited {
        /// Exit status; 128 + n after signal n.
        code: i32,
        /// A command stopped it.
        stopped: bool,
    },
    /// A command stops it while it waits for its restart.
    Stopped,
}

/// What is to be done after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it runs.
    Running,
    /// Start it at this time.
    RestartAt(Duration),
    /// Leave it.
    Leave(Reason),
}

/// Why a container that ended is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A command stopped it.
    Stopped,
    /// The policy does not restart after such an end.
    Policy,
    /// It was restarted as often as `on-failure:N` allows.
    TriedEnough,
}

impl Tries {
    /// The last pause.
    pub fn pause(&self) -> Duration {
        self.pause
    }
}

impl RestartState {
    /// A container that runs, or has run until now, and was restarted so often by
    /// somebody before us.
    pub fn resumed(tries: Tries, now: Duration) -> Self {
        Self {
            started: Some(now),
            restarts: tries.restarts,
            pause: tries.pause,
            due: None,
        }
    }

    /// A container that waits for a restart which somebody before us has decided on.
    pub fn waiting(tries: Tries, due: Duration) -> Self {
        Self {
            started: None,
            restarts: tries.restarts,
            pause: tries.pause,
            due: Some(due),
        }
    }

    /// What is to be kept of it.
    pub fn tries(&self) -> Tries {
        Tries {
            restarts: self.restarts,
            pause: self.pause,
        }
    }

    /// Restarts since the last start by a command, or since a run that gave all
    /// attempts back.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// When it is to be restarted; `None` when it runs or is left.
    pub fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Takes one input.
    #[must_use]
    pub fn step(self, rules: Rules, input: Input, now: Duration) -> (Self, Effect) {
        match input {
            Input::StartedByCommand => {
                let fresh = Self {
                    started: Some(now),
                    ..Self::default()
                };
                (fresh, Effect::Running)
            }
            Input::Restarted => {
                let running = Self {
                    started: Some(now),
                    restarts: self.restarts.saturating_add(1),
                    due: None,
                    ..self
                };
                (running, Effect::Running)
            }
            Input::Exited { stopped: true, .. } | Input::Stopped => {
                (Self { due: None, ..self }, Effect::Leave(Reason::Stopped))
            }
            Input::Exited { code, stopped: false } => self.exited(rules, code, now),
        }
    }

    fn exited(mut self, rules: Rules, code: i32, now: Duration) -> (Self, Effect) {
        let ran_for = |time: Duration| {
            self.started
                .is_some_and(|started| now.saturating_sub(started) >= time)
        };
        let long = ran_for(LONG_RUN);
        if rules.window.is_some_and(ran_for) {
            self.restarts = 0;
        }
        let (wanted, most) = match rules.policy {
            RestartPolicy::Always | RestartPolicy::UnlessStopped => (true, None),
            RestartPolicy::No => (false, None),
            RestartPolicy::OnFailure { max_retries } => (code != 0, max_retries),
        };
        let refusal = if !wanted {
            Some(Reason::Policy)
        } else if rules
            .max_attempts
            .or(most)
            .is_some_and(|most| self.restarts >= most)
        {
            Some(Reason::TriedEnough)
        } else {
            None
        };
        if let Some(reason) = refusal {
            return (Self { due: None, ..self }, Effect::Leave(reason));
        }
        let pause = match rules.delay {
            Some(delay) => delay,
            None if long || self.pause.is_zero() => FIRST_PAUSE,
            None => self.pause.saturating_mul(2).min(LONGEST_PAUSE),
        };
        let due = now.saturating_add(pause);
        let waiting = Self {
            pause,
            due: Some(due),
            ..self
        };
        (waiting, Effect::RestartAt(due))
    }
}

/// Whether a container is started again after the machine came up: `always`
/// even when a command had stopped it, `unless-stopped` only if none had,
/// `on-failure` if it had been running (the boot killed it).
pub fn after_boot(policy: RestartPolicy, stopped: bool, was_running: bool) -> bool {
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !stopped,
        RestartPolicy::OnFailure { .. } => was_running && !stopped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALWAYS: RestartPolicy = RestartPolicy::Always;

    fn exit(code: i32) -> Input {
        Input::Exited { code, stopped: false }
    }

    /// Pauses before the restarts of a container whose runs last `runs`.
    fn pauses(rules: impl Into<Rules>, code: i32, runs: &[u64]) -> Vec<u64> {
        let policy = rules.into();
        let mut now = Duration::from_secs(1000);
        let (mut state, _) = RestartState::default().step(policy, Input::StartedByCommand, now);
        let mut pauses = Vec::new();
        for run in runs {
            now += Duration::from_secs(*run);
            let (next, effect) = state.step(policy, exit(code), now);
            let Effect::RestartAt(at) = effect else { break };
            assert_eq!(next.due(), Some(at));
            pauses.push(u64::try_from((at - now).as_millis()).unwrap());
            now = at;
            state = next.step(policy, Input::Restarted, now).0;
            assert_eq!(state.due(), None);
        }
        pauses
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        assert_eq!(
            pauses(ALWAYS, 1, &[0; 13]),
            [
                100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000, 60000
            ]
        );
    }

    #[test]
    fn a_run_of_ten_seconds_sets_the_pause_back() {
        assert_eq!(pauses(ALWAYS, 0, &[0, 0, 9, 10, 0]), [100, 200, 400, 100, 200]);
    }

    #[test]
    fn on_failure_restarts_failures_only_and_so_often() {
        let three = RestartPolicy::OnFailure { max_retries: Some(3) };
        assert_eq!(pauses(three, 1, &[0; 9]).len(), 3);
        assert_eq!(pauses(three, 1, &[20; 9]).len(), 3, "long runs do not add tries");
        assert_eq!(pauses(three, 0, &[0; 9]).len(), 0);
        let endless = RestartPolicy::OnFailure { max_retries: None };
        assert_eq!(pauses(endless, 137, &[0; 9]).len(), 9);
        let none = RestartPolicy::OnFailure { max_retries: Some(0) };
        assert_eq!(pauses(none, 1, &[0; 9]).len(), 0);
    }

    #[test]
    fn a_start_by_a_command_gives_all_tries_back() {
        let policy = Rules::from(RestartPolicy::OnFailure { max_retries: Some(1) });
        let now = Duration::ZERO;
        let (state, _) = RestartState::default().step(policy, Input::StartedByCommand, now);
        let (state, _) = state.step(policy, exit(1), now);
        let (state, _) = state.step(policy, Input::Restarted, now);
        let (state, effect) = state.step(policy, exit(1), now);
        assert_eq!(effect, Effect::Leave(Reason::TriedEnough));
        let (state, _) = state.step(policy, Input::StartedByCommand, now);
        let (state, effect) = state.step(policy, exit(1), now);
        assert_eq!(effect, Effect::RestartAt(FIRST_PAUSE));
        assert_eq!(state.restarts(), 0);
    }

    #[test]
    fn what_a_command_stopped_is_left() {
        let (state, _) = RestartState::default().step(ALWAYS.into(), Input::StartedByCommand, Duration::ZERO);
        let (_, effect) = state.clone().step(
            ALWAYS.into(),
            Input::Exited {
                code: 143,
                stopped: true,
            },
            Duration::ZERO,
        );
        assert_eq!(effect, Effect::Leave(Reason::Stopped));
        let (waiting, _) = state.step(ALWAYS.into(), exit(1), Duration::ZERO);
        let (left, effect) = waiting.step(ALWAYS.into(), Input::Stopped, Duration::ZERO);
        assert_eq!((left.due(), effect), (None, Effect::Leave(Reason::Stopped)));
    }

    #[test]
    fn a_delay_is_the_same_each_time_and_attempts_are_counted_within_the_window() {
        let rules = Rules {
            policy: ALWAYS,
            delay: Some(Duration::from_secs(3)),
            max_attempts: Some(2),
            window: Some(Duration::from_secs(30)),
        };
        assert_eq!(pauses(rules, 0, &[0, 1, 2, 0]), [3000, 3000]);
        assert_eq!(pauses(rules, 0, &[0, 1, 30, 0, 1]), [3000, 3000, 3000, 3000]);
        let endless = Rules {
            window: None,
            ..rules
        };
        assert_eq!(pauses(endless, 0, &[0, 60, 60]), [3000, 3000]);
    }

    #[test]
    fn tries_outlive_who_counts_them() {
        let rules = Rules::from(RestartPolicy::OnFailure { max_retries: Some(2) });
        let now = Duration::from_secs(5);
        let (state, _) = RestartState::default().step(rules, Input::StartedByCommand, now);
        let (state, _) = state.step(rules, exit(1), now);
        let (state, _) = state.step(rules, Input::Restarted, now);
        let state = RestartState::resumed(state.tries(), Duration::ZERO);
        let (state, effect) = state.step(rules, exit(1), Duration::ZERO);
        assert_eq!(effect, Effect::RestartAt(FIRST_PAUSE * 2));
        let (state, _) = state.step(rules, Input::Restarted, now);
        let state = RestartState::resumed(state.tries(), Duration::ZERO);
        assert_eq!(
            state.step(rules, exit(1), Duration::ZERO).1,
            Effect::Leave(Reason::TriedEnough)
        );
    }

    #[test]
    fn a_wait_outlives_who_has_begun_it() {
        let rules = Rules::from(RestartPolicy::OnFailure { max_retries: Some(2) });
        let now = Duration::from_secs(5);
        let (state, _) = RestartState::default().step(rules, Input::StartedByCommand, now);
        let (state, _) = state.step(rules, exit(1), now);
        let state = RestartState::waiting(state.tries(), Duration::from_secs(1));
        assert_eq!(state.due(), Some(Duration::from_secs(1)));
        let (state, _) = state.step(rules, Input::Restarted, Duration::from_secs(1));
        assert_eq!(state.restarts(), 1);
        let (_, effect) = state.step(rules, exit(1), now);
        assert_eq!(
            effect,
            Effect::RestartAt(now + 2 * FIRST_PAUSE),
            "it goes on doubling"
        );
    }

    #[test]
    fn no_policy_leaves_every_end() {
        assert_eq!(pauses(RestartPolicy::No, 1, &[0]), [] as [u64; 0]);
    }

    #[test]
    fn after_a_boot_a_stop_is_remembered_unless_always() {
        assert!(after_boot(RestartPolicy::Always, true, false));
        assert!(!after_boot(RestartPolicy::UnlessStopped, true, false));
        assert!(after_boot(RestartPolicy::UnlessStopped, false, true));
        assert!(!after_boot(RestartPolicy::No, false, true));
        let on_failure = RestartPolicy::OnFailure { max_retries: None };
        assert!(after_boot(on_failure, false, true));
        assert!(!after_boot(on_failure, false, false));
    }
}

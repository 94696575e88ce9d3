//! Health: when to probe, and what the results mean.
//!
//! Docker's rules: a success makes a container healthy at once; failures within
//! the start period do not count until a first success; `retries` counted
//! failures in a row make it unhealthy.
//!
//! Docker probes for the first time after a whole interval, so that a service
//! that is ready after 10 ms is *healthy* after 30 s. Here the first probe comes
//! at once, and until the first verdict the next ones follow quickly: 50 ms
//! later, then twice that, up to the shorter of interval and start interval.
//! These additional probes can only bring good news: a failure counts only if
//! its probe began at least an interval after the last one that counted (after
//! the start, for the first one). A container is therefore never unhealthy
//! sooner than with Docker.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Health;

/// The first pause between probes while there is no verdict.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// No interval is shorter than this (Docker refuses shorter ones).
const SHORTEST: Duration = Duration::from_millis(1);

/// The numbers of a health check, with defaults applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthPolicy {
    /// Time between the end of a probe and the next one.
    pub interval: Duration,
    /// Time after which whoever runs the probe ends it as a failure.
    pub timeout: Duration,
    /// Counted failures in a row that make a container unhealthy; at least 1.
    pub retries: u32,
    /// Failures of probes that begin within this time from the start do not
    /// count, until one succeeds.
    pub start_period: Duration,
    /// Longest time between probes until the first verdict.
    pub start_interval: Duration,
}

impl Default for HealthPolicy {
    /// Docker's: 30 s, 30 s, 3, 0, 5 s.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            retries: 3,
            start_period: Duration::ZERO,
            start_interval: Duration::from_secs(5),
        }
    }
}

impl HealthPolicy {
    /// A policy from what is written; what is not, or is zero, is the default
    /// (Docker reads zero as unset).
    pub fn new(
        interval: Option<Duration>,
        timeout: Option<Duration>,
        retries: Option<u32>,
        start_period: Option<Duration>,
        start_interval: Option<Duration>,
    ) -> Self {
        let default = Self::default();
        let given = |value: Option<Duration>, otherwise: Duration| match value {
            None | Some(Duration::ZERO) => otherwise,
            Some(value) => value.max(SHORTEST),
        };
        Self {
            interval: given(interval, default.interval),
            timeout: given(timeout, default.timeout),
            retries: retries.filter(|&retries| retries > 0).unwrap_or(default.retries),
            start_period: start_period.unwrap_or(default.start_period),
            start_interval: given(start_interval, default.start_interval),
        }
    }
}

/// Where the health of one run of a container stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthState {
    verdict: Health,
    /// When the container was started.
    started: Duration,
    /// When the probe that is awaited was due: taken as its begin.
    due: Duration,
    /// Counted failures in a row.
    failures: u32,
    /// When the last probe that counted began; the start before there is one.
    counted: Duration,
    /// Whether a probe has ever succeeded in this run.
    succeeded: bool,
    /// The next pause while there is no verdict.
    pause: Duration,
}

/// What can happen to the health of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Its process was started: everything begins anew.
    Started,
    /// The probe ended with status 0.
    ProbeSucceeded,
    /// The probe ended otherwise, could not be run, or took too long.
    ProbeFailed,
}

/// The result of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The new state.
    pub state: HealthState,
    /// When the next probe begins; not after `now` means at once.
    pub probe_at: Duration,
    /// The present verdict.
    pub verdict: Health,
    /// Whether the verdict is another one than before the step.
    pub changed: bool,
}

impl HealthState {
    /// The state of a container that is started at `now`; the first probe is
    /// due at once.
    pub fn started(now: Duration) -> Self {
        Self {
            verdict: Health::Starting,
            started: now,
            due: now,
            failures: 0,
            counted: now,
            succeeded: false,
            pause: FIRST_PAUSE,
        }
    }

    /// The present verdict.
    pub fn verdict(&self) -> Health {
        self.verdict
    }

    /// Counted failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When the next probe is due.
    pub fn probe_at(&self) -> Duration {
        self.due
    }

    /// Takes one input. Probes of one container must not overlap: the next one
    /// is due only after the result of the last one was given.
    pub fn step(self, policy: &HealthPolicy, input: Input, now: Duration) -> Step {
        let before = self.verdict;
        let state = match input {
            Input::Started => Self::started(now),
            Input::ProbeSucceeded => Self {
                verdict: Health::Healthy,
                failures: 0,
                succeeded: true,
                counted: self.due,
                due: now.saturating_add(policy.interval),
                ..self
            },
            Input::ProbeFailed => self.failed(policy, now),
        };
        Step {
            probe_at: state.due,
            verdict: state.verdict,
            changed: state.verdict != before,
            state,
        }
    }

    fn failed(mut self, policy: &HealthPolicy, now: Duration) -> Self {
        let begun = self.due;
        let excused = !self.succeeded && begun < self.started.saturating_add(policy.start_period);
        if !excused && begun >= self.counted.saturating_add(policy.interval) {
            self.counted = begun;
            self.failures = self.failures.saturating_add(1);
            if self.failures >= policy.retries.max(1) {
                self.verdict = Health::Unhealthy;
            }
        }
        if self.verdict == Health::Starting {
            let longest = policy.interval.min(policy.start_interval);
            let quick = now.saturating_add(self.pause.min(longest));
            self.pause = self.pause.saturating_mul(2).min(longest);
            // A probe that can count is not put off by the growing pauses.
            let counts = self
                .counted
                .saturating_add(policy.interval)
                .max(self.started.saturating_add(policy.start_period));
            self.due = if counts > now { quick.min(counts) } else { quick };
        } else {
            self.due = now.saturating_add(policy.interval);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Runs probes that take no time; returns (time, verdict) after each.
    fn run(
        policy: &HealthPolicy,
        ready: impl Fn(Duration) -> bool,
        until: Duration,
    ) -> Vec<(Duration, Health)> {
        let mut state = HealthState::started(Duration::ZERO);
        let mut seen = Vec::new();
        while state.probe_at() <= until {
            let now = state.probe_at();
            let input = if ready(now) {
                Input::ProbeSucceeded
            } else {
                Input::ProbeFailed
            };
            let step = state.step(policy, input, now);
            seen.push((now, step.verdict));
            assert!(step.probe_at > now, "probes must not spin");
            state = step.state;
        }
        seen
    }

    fn first(seen: &[(Duration, Health)], verdict: Health) -> Option<Duration> {
        seen.iter().find(|(_, is)| *is == verdict).map(|(at, _)| *at)
    }

    #[test]
    fn the_first_probe_is_due_at_once_and_its_success_is_the_verdict() {
        let started = ms(1234);
        let state = HealthState::started(started);
        assert_eq!(state.probe_at(), started);
        let step = state.step(&HealthPolicy::default(), Input::ProbeSucceeded, started + ms(3));
        assert_eq!((step.verdict, step.changed), (Health::Healthy, true));
        assert_eq!(step.probe_at, started + ms(3) + Duration::from_secs(30));
    }

    #[test]
    fn a_service_that_is_ready_soon_is_healthy_soon() {
        // Ready after 120 ms; the probes come at 0, 50, 150 ms although the interval is 30 s.
        let seen = run(
            &HealthPolicy::default(),
            |now| now >= ms(120),
            Duration::from_secs(1),
        );
        assert_eq!(
            seen,
            [
                (ms(0), Health::Starting),
                (ms(50), Health::Starting),
                (ms(150), Health::Healthy)
            ]
        );
    }

    #[test]
    fn a_broken_service_is_unhealthy_no_sooner_than_with_docker() {
        for (interval, retries) in [(1, 1), (1, 3), (10, 3), (30, 3), (30, 10)] {
            let policy = HealthPolicy {
                interval: Duration::from_secs(interval),
                retries,
                ..HealthPolicy::default()
            };
            let docker = policy.interval * retries;
            let seen = run(&policy, |_| false, docker * 2);
            assert_eq!(
                first(&seen, Health::Unhealthy),
                Some(docker),
                "interval {interval} s, {retries} retries"
            );
        }
    }

    #[test]
    fn failures_in_the_start_period_do_not_count() {
        let policy = HealthPolicy {
            interval: Duration::from_secs(1),
            retries: 2,
            start_period: Duration::from_secs(60),
            ..HealthPolicy::default()
        };
        let seen = run(&policy, |_| false, Duration::from_secs(90));
        // The first failure that counts is that of the probe at the period's end.
        assert_eq!(first(&seen, Health::Unhealthy), Some(Duration::from_secs(61)));
    }

    #[test]
    fn after_a_first_success_failures_in_the_start_period_count() {
        let policy = HealthPolicy {
            interval: Duration::from_secs(1),
            retries: 2,
            start_period: Duration::from_secs(60),
            ..HealthPolicy::default()
        };
        let seen = run(
            &policy,
            |now| now < Duration::from_secs(3),
            Duration::from_secs(20),
        );
        assert_eq!(first(&seen, Health::Healthy), Some(ms(0)));
        assert_eq!(first(&seen, Health::Unhealthy), Some(Duration::from_secs(4)));
    }

    #[test]
    fn the_start_interval_bounds_the_pauses_until_the_first_verdict() {
        let policy = HealthPolicy {
            start_period: Duration::from_secs(60),
            start_interval: ms(400),
            ..HealthPolicy::default()
        };
        let seen = run(&policy, |_| false, Duration::from_secs(20));
        let pauses: Vec<Duration> = seen.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert_eq!(pauses[..5], [ms(50), ms(100), ms(200), ms(400), ms(400)]);
        assert!(pauses[4..].iter().all(|pause| *pause == ms(400)));
    }

    #[test]
    fn one_failure_is_forgiven_and_a_success_clears_the_count() {
        let policy = HealthPolicy {
            interval: Duration::from_secs(1),
            ..HealthPolicy::default()
        };
        let mut state = HealthState::started(ms(0));
        let mut verdicts = Vec::new();
        for input in [
            Input::ProbeSucceeded,
            Input::ProbeFailed,
            Input::ProbeFailed,
            Input::ProbeSucceeded,
            Input::ProbeFailed,
            Input::ProbeFailed,
            Input::ProbeFailed,
            Input::ProbeSucceeded,
        ] {
            let now = state.probe_at() + ms(20);
            let step = state.step(&policy, input, now);
            verdicts.push(step.verdict);
            state = step.state;
        }
        use Health::{Healthy, Unhealthy};
        assert_eq!(
            verdicts,
            [
                Healthy, Healthy, Healthy, Healthy, Healthy, Healthy, Unhealthy, Healthy
            ]
        );
    }

    #[test]
    fn a_start_begins_anew() {
        let policy = HealthPolicy {
            retries: 1,
            interval: ms(10),
            ..HealthPolicy::default()
        };
        let mut state = HealthState::started(ms(0));
        while state.verdict() != Health::Unhealthy {
            let now = state.probe_at();
            state = state.step(&policy, Input::ProbeFailed, now).state;
        }
        let step = state.step(&policy, Input::Started, ms(700));
        assert_eq!(
            (step.verdict, step.probe_at, step.changed),
            (Health::Starting, ms(700), true)
        );
    }

    #[test]
    fn what_is_not_written_is_dockers_default() {
        assert_eq!(
            HealthPolicy::new(None, None, None, None, None),
            HealthPolicy::default()
        );
        let zero = Some(Duration::ZERO);
        assert_eq!(
            HealthPolicy::new(zero, zero, Some(0), zero, zero),
            HealthPolicy::default()
        );
    }
}

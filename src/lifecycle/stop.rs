//! The stop sequence: the stop signal, the grace period, SIGKILL.
//!
//! A second request while one is under way can only shorten it. After SIGKILL
//! the kernel may still take its time (a process that waits for a disk); the
//! sequence then reports the container as stuck and goes on waiting.

use std::time::Duration;

/// The grace period when neither the service nor the command has one.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// How long a killed process may take to go before it is reported.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Where a stop stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopState {
    /// The stop signal was sent.
    Signalled {
        /// When SIGKILL follows; `None` is never.
        kill_at: Option<Duration>,
    },
    /// SIGKILL was sent.
    Killed {
        /// When it is reported as stuck; `None` after that.
        report_at: Option<Duration>,
    },
    /// All of it has ended.
    Ended,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time went by: `wake_at` has come.
    Woken,
    /// The container ended.
    Exited,
    /// Another request to stop, with its own grace period (`None` is without end).
    Again(Option<Duration>),
    /// End it at once (a second Ctrl-C).
    Kill,
}

/// What is to be done after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing but to wait.
    Wait,
    /// Send the container's stop signal to its process 1.
    Signal,
    /// Send SIGKILL to everything in the container.
    Kill,
    /// Tell the user that it does not end although it was killed.
    ReportStuck,
    /// Done.
    Done,
}

impl StopState {
    /// Begins to stop a running container. A grace period of zero kills at
    /// once, `None` waits for ever.
    #[must_use]
    pub fn begin(grace: Option<Duration>, now: Duration) -> (Self, Effect) {
        match grace {
            Some(Duration::ZERO) => Self::kill(now),
            grace => (
                Self::Signalled {
                    kill_at: deadline(grace, now),
                },
                Effect::Signal,
            ),
        }
    }

    fn kill(now: Duration) -> (Self, Effect) {
        let report_at = Some(now.saturating_add(STUCK_AFTER));
        (Self::Killed { report_at }, Effect::Kill)
    }

    /// When [`Input::Woken`] is to be given; `None` is never.
    pub fn wake_at(&self) -> Option<Duration> {
        match self {
            Self::Signalled { kill_at } => *kill_at,
            Self::Killed { report_at } => *report_at,
            Self::Ended => None,
        }
    }

    /// Takes one input. Waking too early is harmless.
    #[must_use]
    pub fn step(self, input: Input, now: Duration) -> (Self, Effect) {
        let due = self.wake_at().is_some_and(|at| at <= now);
        match (self, input) {
            (Self::Ended, _) | (_, Input::Exited) => (Self::Ended, Effect::Done),
            (Self::Signalled { .. }, Input::Kill) => Self::kill(now),
            (Self::Signalled { .. }, Input::Woken) if due => Self::kill(now),
            (Self::Signalled { .. }, Input::Again(Some(Duration::ZERO))) => Self::kill(now),
            (Self::Signalled { kill_at }, Input::Again(grace)) => {
                let sooner = match (kill_at, deadline(grace, now)) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
                (Self::Signalled { kill_at: sooner }, Effect::Wait)
            }
            (Self::Killed { .. }, Input::Woken) if due => {
                (Self::Killed { report_at: None }, Effect::ReportStuck)
            }
            (state, _) => (state, Effect::Wait),
        }
    }
}

fn deadline(grace: Option<Duration>, now: Duration) -> Option<Duration> {
    grace.map(|grace| now.saturating_add(grace))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_container_that_obeys_is_not_killed() {
        let (state, effect) = StopState::begin(Some(DEFAULT_GRACE), s(5));
        assert_eq!((state.wake_at(), effect), (Some(s(15)), Effect::Signal));
        assert_eq!(state.step(Input::Exited, s(6)), (StopState::Ended, Effect::Done));
    }

    #[test]
    fn a_container_that_does_not_obey_is_killed_and_reported_once() {
        let (state, _) = StopState::begin(Some(s(3)), s(0));
        let (state, effect) = state.step(Input::Woken, s(2));
        assert_eq!(effect, Effect::Wait, "too early");
        let (state, effect) = state.step(Input::Woken, s(3));
        assert_eq!((state.wake_at(), effect), (Some(s(13)), Effect::Kill));
        let (state, effect) = state.step(Input::Woken, s(13));
        assert_eq!((state.wake_at(), effect), (None, Effect::ReportStuck));
        let (state, effect) = state.step(Input::Woken, s(99));
        assert_eq!(effect, Effect::Wait);
        assert_eq!(state.step(Input::Exited, s(100)).1, Effect::Done);
    }

    #[test]
    fn no_grace_kills_at_once_and_endless_grace_never() {
        assert_eq!(StopState::begin(Some(s(0)), s(1)).1, Effect::Kill);
        let (state, effect) = StopState::begin(None, s(1));
        assert_eq!((state.wake_at(), effect), (None, Effect::Signal));
        assert_eq!(state.step(Input::Woken, s(10_000)).1, Effect::Wait);
        assert_eq!(state.step(Input::Kill, s(10_000)).1, Effect::Kill);
    }

    #[test]
    fn a_second_request_can_only_shorten() {
        let (state, _) = StopState::begin(Some(s(10)), s(0));
        let (state, effect) = state.step(Input::Again(Some(s(30))), s(1));
        assert_eq!((state.wake_at(), effect), (Some(s(10)), Effect::Wait));
        let (state, _) = state.step(Input::Again(Some(s(2))), s(1));
        assert_eq!(state.wake_at(), Some(s(3)));
        let (state, effect) = state.step(Input::Again(Some(s(0))), s(2));
        assert_eq!(effect, Effect::Kill);
        assert_eq!(state.step(Input::Kill, s(2)).1, Effect::Wait, "killed already");
        let (endless, _) = StopState::begin(None, s(0));
        assert_eq!(
            endless.step(Input::Again(Some(s(4))), s(1)).0.wake_at(),
            Some(s(5))
        );
    }
}

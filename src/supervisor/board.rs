//! Where each container of the stack stands, as waits and clients see it.
//!
//! One writer, the supervisor's loop; any number of waits, woken by each
//! change. A wait is a pure question put to the board ([`Board::verdict`])
//! until it has an answer.

use std::collections::BTreeMap;

use std::time::Duration;

use tokio::time::Instant;

use crate::lifecycle::Health;
use crate::plan::Target;
use crate::project::Condition;

/// What has no check counts as running, for `up --wait`, when it has run for
/// so long: many a program that cannot go on ends at once.
const MOMENT: Duration = Duration::from_millis(250);

/// Where each container stands, by id.
#[derive(Clone, Debug, Default)]
pub(super) struct Board(BTreeMap<String, Entry>);

/// One container.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// Service key.
    pub(super) service: String,
    /// Container name.
    pub(super) name: String,
    /// What it is doing.
    pub(super) run: Run,
    /// Since when it is known to do that.
    pub(super) since: Instant,
    /// Of a container with a check: how the probe went that the verdict came
    /// with, in one line.
    pub(super) probed: String,
}

impl Entry {
    /// That it is unhealthy, in docker compose's words, and on a line of its own why.
    fn unhealthy(&self) -> String {
        let Self { name, probed, .. } = self;
        match probed.as_str() {
            "" => format!("container {name} is unhealthy"),
            probed => format!("container {name} is unhealthy\n  its health check: {probed}"),
        }
    }
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// Process 1 is alive.
    Running {
        /// Health; `None` when it has no check.
        health: Option<Health>,
    },
    /// Ended.
    Exited {
        /// Exit status.
        code: i32,
        /// The restart policy will start it again.
        restarting: bool,
    },
}

impl Board {
    /// Notes what a container is doing.
    pub(super) fn set(&mut self, id: &str, entry: Entry) {
        self.0.insert(id.to_owned(), entry);
    }

    /// Notes the health of a running container; nothing when it does not run.
    /// `summary`: how the probe went that it comes with.
    pub(super) fn set_health(&mut self, id: &str, verdict: Health, summary: String) {
        if let Some(Entry {
            run: Run::Running { health },
            probed,
            ..
        }) = self.0.get_mut(id)
        {
            *health = Some(verdict);
            *probed = summary;
        }
    }

    /// Forgets a container that was removed.
    pub(super) fn remove(&mut self, id: &str) {
        self.0.remove(id);
    }

    /// Whether anything of these services, of all when none is named, runs or
    /// will run again.
    pub(super) fn runs_any(&self, services: &[String]) -> bool {
        let meant = |entry: &&Entry| services.is_empty() || services.contains(&entry.service);
        self.0.values().filter(meant).any(|entry| {
            matches!(
                entry.run,
                Run::Running { .. } | Run::Exited { restarting: true, .. }
            )
        })
    }

    /// The containers that are meant: by id, or by name when the plan made them.
    fn among<'a>(&'a self, containers: &'a [Target]) -> impl Iterator<Item = &'a Entry> {
        self.0.iter().filter_map(|(id, entry)| {
            let meant = |target: &Target| match &target.id {
                Some(wanted) => wanted == id,
                None => target.name == entry.name,
            };
            containers.iter().any(meant).then_some(entry)
        })
    }

    /// Whether a condition holds of a service's containers: `None` while that is open.
    ///
    /// A container that ended counts as failed only when its restart policy
    /// does not bring it back: a data base that needs a second try is no
    /// reason to give up the stack.
    ///
    /// # Errors
    /// In docker compose's words, why the condition will not hold.
    pub(super) fn verdict(
        &self,
        service: &str,
        containers: &[Target],
        condition: Condition,
    ) -> Option<Result<(), String>> {
        let mut open = false;
        for entry in self.among(containers) {
            let name = &entry.name;
            match (condition, entry.run) {
                (_, Run::Exited { restarting: true, .. }) => open = true,
                (Condition::ServiceStarted, _)
                | (
                    Condition::ServiceHealthy,
                    Run::Running {
                        health: Some(Health::Healthy),
                    },
                )
                | (Condition::ServiceCompletedSuccessfully, Run::Exited { code: 0, .. }) => {}
                (Condition::ServiceHealthy, Run::Running { health: None }) => {
                    return Some(Err(format!(
                        "dependency failed to start: container {name} has no healthcheck configured"
                    )));
                }
                (
                    Condition::ServiceHealthy,
                    Run::Running {
                        health: Some(Health::Unhealthy),
                    },
                ) => {
                    return Some(Err(format!("dependency failed to start: {}", entry.unhealthy())));
                }
                (Condition::ServiceHealthy, Run::Exited { code, .. }) => {
                    return Some(Err(format!(
                        "dependency failed to start: container {name} exited ({code})"
                    )));
                }
                (Condition::ServiceCompletedSuccessfully, Run::Exited { code, .. }) => {
                    return Some(Err(format!(
                        "service \"{service}\" didn't complete successfully: exit {code}"
                    )));
                }
                (Condition::ServiceHealthy | Condition::ServiceCompletedSuccessfully, _) => open = true,
            }
        }
        if open { None } else { Some(Ok(())) }
    }

    /// Of containers that were just started: how many have not settled yet, and
    /// what happened to each that failed. Unlike a dependency, one that has to be
    /// restarted has failed.
    pub(super) fn standing(&self, containers: &[Target]) -> (usize, Vec<String>) {
        let (mut open, mut failures) = (0, Vec::new());
        for target in containers {
            let Some(entry) = self.among(std::slice::from_ref(target)).next() else {
                failures.push(format!("container {} was not started", target.name));
                continue;
            };
            match entry.run {
                Run::Running {
                    health: Some(Health::Starting),
                } => open += 1,
                Run::Running {
                    health: Some(Health::Unhealthy),
                } => failures.push(entry.unhealthy()),
                Run::Exited {
                    code: 0,
                    restarting: false,
                }
                | Run::Running { .. } => {}
                Run::Exited { code, .. } => {
                    failures.push(format!("container {} exited ({code})", entry.name))
                }
            }
        }
        (open, failures)
    }

    /// When all of these that run without a check have done so for a moment;
    /// `None` when none does.
    pub(super) fn proven(&self, containers: &[Target]) -> Option<Instant> {
        let unchecked = self
            .among(containers)
            .filter(|entry| entry.run == Run::Running { health: None });
        unchecked.map(|entry| entry.since + MOMENT).max()
    }

    /// Whether containers are as `up --wait` wants them: each runs, is
    /// healthy if it has a check, or ended with status 0 for good.
    ///
    /// # Errors
    /// Why it will not be.
    pub(super) fn settled(&self, containers: &[Target]) -> Option<Result<(), String>> {
        let mut open = false;
        for entry in self.among(containers) {
            let name = &entry.name;
            match entry.run {
                Run::Running {
                    health: None | Some(Health::Healthy),
                }
                | Run::Exited {
                    code: 0,
                    restarting: false,
                } => {}
                Run::Running {
                    health: Some(Health::Unhealthy),
                } => {
                    return Some(Err(entry.unhealthy()));
                }
                Run::Exited {
                    code,
                    restarting: false,
                } => {
                    return Some(Err(format!("container {name} exited ({code})")));
                }
                Run::Running {
                    health: Some(Health::Starting),
                }
                | Run::Exited { restarting: true, .. } => {
                    open = true;
                }
            }
        }
        if open { None } else { Some(Ok(())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(runs: &[Run]) -> Board {
        let mut board = Board::default();
        for (number, run) in runs.iter().enumerate() {
            let name = format!("p-db-{}", number + 1);
            board.set(
                &number.to_string(),
                Entry {
                    service: "db".into(),
                    name,
                    run: *run,
                    since: Instant::now(),
                    probed: String::new(),
                },
            );
        }
        board
    }

    /// As many planned containers.
    fn targets(count: usize) -> Vec<Target> {
        let target = |number| Target {
            id: None,
            service: "db".into(),
            number: 1,
            name: format!("p-db-{number}"),
        };
        (1..=count).map(target).collect()
    }

    fn ask(runs: &[Run], condition: Condition) -> Option<Result<(), String>> {
        board(runs).verdict("db", &targets(runs.len()), condition)
    }

    const STARTING: Run = Run::Running {
        health: Some(Health::Starting),
    };
    const HEALTHY: Run = Run::Running {
        health: Some(Health::Healthy),
    };

    #[test]
    fn healthy_means_every_replica() {
        let ask = |runs: &[Run]| ask(runs, Condition::ServiceHealthy);
        assert_eq!(ask(&[]), Some(Ok(())), "no replica, nothing to wait for");
        assert_eq!(ask(&[HEALTHY, STARTING]), None);
        assert_eq!(ask(&[HEALTHY, HEALTHY]), Some(Ok(())));
        let failed = ask(&[
            HEALTHY,
            Run::Running {
                health: Some(Health::Unhealthy),
            },
        ]);
        assert_eq!(
            failed,
            Some(Err(
                "dependency failed to start: container p-db-2 is unhealthy".into()
            ))
        );
    }

    #[test]
    fn an_exit_is_final_only_without_a_restart() {
        let ask = |restarting| ask(&[Run::Exited { code: 3, restarting }], Condition::ServiceHealthy);
        assert_eq!(ask(true), None);
        assert_eq!(
            ask(false),
            Some(Err(
                "dependency failed to start: container p-db-1 exited (3)".into()
            ))
        );
    }

    #[test]
    fn completed_means_status_zero() {
        let ask = |run| ask(&[run], Condition::ServiceCompletedSuccessfully);
        assert_eq!(ask(STARTING), None);
        assert_eq!(
            ask(Run::Exited {
                code: 0,
                restarting: false
            }),
            Some(Ok(()))
        );
        let failed = ask(Run::Exited {
            code: 2,
            restarting: false,
        });
        assert_eq!(
            failed,
            Some(Err("service \"db\" didn't complete successfully: exit 2".into()))
        );
    }

    #[test]
    fn a_service_without_a_check_never_becomes_healthy() {
        let verdict = ask(&[Run::Running { health: None }], Condition::ServiceHealthy);
        assert!(verdict.is_some_and(|verdict| verdict.is_err_and(|why| why.contains("no healthcheck"))));
    }
}

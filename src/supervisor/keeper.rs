//! Keeps containers running: hears of each start and end, asks the restart
//! policy, sets the timer, and puts it all on the board.
//!
//! The host calls [`Keeper::hear`] from whichever task did the work, *before*
//! that work counts as done: a wait that follows a start in the plan finds the
//! container on the board.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::board::{Board, Entry, Run};
use super::health;
use super::journal::{Journal, now};
use super::protocol::Again;
use crate::host::{Machine, News, Started, Waiting};
use crate::lifecycle::Health;
use crate::lifecycle::restart::{Effect, Input, RestartState};

/// What the keeper tells the supervisor's loop, for its clients.
#[derive(Debug)]
pub(super) enum Told {
    Started(Box<Started>),
    Exited {
        id: String,
        name: String,
        one_off: bool,
        code: i32,
        again: Option<Again>,
    },
    Health {
        name: String,
        health: Health,
    },
    Removed,
    /// A hook has printed a line.
    Said {
        name: String,
        line: String,
    },
}

/// One a supervisor; shared by every task that starts or waits.
#[derive(Debug)]
pub(super) struct Keeper {
    board: watch::Sender<Board>,
    kept: Mutex<HashMap<String, Kept>>,
    told: mpsc::UnboundedSender<Told>,
    machine: std::sync::OnceLock<Weak<Machine>>,
    /// There once everything that runs has been taken over.
    journal: std::sync::OnceLock<Arc<Journal>>,
    epoch: Instant,
}

/// What is kept of one container.
#[derive(Debug)]
struct Kept {
    started: Started,
    restarts: RestartState,
    probing: Option<AbortHandle>,
    timer: Option<AbortHandle>,
    /// It is ended because of its health.
    unhealthy: bool,
}

impl Kept {
    fn new(started: Started) -> Self {
        Self {
            started,
            restarts: RestartState::default(),
            probing: None,
            timer: None,
            unhealthy: false,
        }
    }

    fn still(&mut self) {
        for task in [self.probing.take(), self.timer.take()].into_iter().flatten() {
            task.abort();
        }
    }
}

impl Keeper {
    pub(super) fn new(told: mpsc::UnboundedSender<Told>) -> Arc<Self> {
        Arc::new(Self {
            board: watch::Sender::new(Board::default()),
            kept: Mutex::default(),
            told,
            machine: std::sync::OnceLock::new(),
            journal: std::sync::OnceLock::new(),
            epoch: Instant::now(),
        })
    }

    /// Says on which machine to start containers again. Once, before anything is heard.
    pub(super) fn bind(&self, machine: &Arc<Machine>) {
        let _ = self.machine.set(Arc::downgrade(machine));
    }

    /// Notes what happens from now on.
    pub(super) fn write_to(&self, journal: Arc<Journal>) {
        let _ = self.journal.set(journal);
    }

    /// Notes what happened to a container.
    fn note(&self, news: &News) {
        let (Some(journal), Some(machine)) = (self.journal.get(), self.machine()) else {
            return;
        };
        match news {
            News::Started(started) => {
                if let Some(record) = machine.record_by_id(&started.id) {
                    journal.started(&record, now());
                }
            }
            News::Exited { id, .. } => {
                if let Some(record) = machine.record_by_id(id) {
                    let exit = machine.exit_of(&record);
                    journal.died(&record, exit);
                }
            }
            News::Removed { id } => journal.destroyed(id),
            News::Changed(_) | News::Ended { .. } | News::Said { .. } => {}
        }
    }

    pub(super) fn board(&self) -> watch::Receiver<Board> {
        self.board.subscribe()
    }

    /// Whether anything runs or will run again.
    pub(super) fn is_busy(&self) -> bool {
        self.runs_any(&[])
    }

    /// The same of these services; of all when none is named.
    pub(super) fn runs_any(&self, services: &[String]) -> bool {
        self.board.borrow().runs_any(services)
    }

    /// Takes in what happened on the machine.
    pub(super) fn hear(self: &Arc<Self>, news: News) {
        self.note(&news);
        match news {
            News::Started(started) => self.started(started),
            News::Changed(started) => self.changed(started),
            News::Exited { id, code, stopped } => self.exited(&id, code, stopped),
            News::Ended {
                container,
                code,
                stopped,
            } => {
                let id = container.id.clone();
                let tries = container.tries.unwrap_or_default();
                let waiting = container.waiting.filter(|_| !stopped);
                let mut kept = Kept::new(container);
                kept.restarts = RestartState::resumed(tries, self.now());
                if let Some(waiting) = waiting {
                    kept.restarts = RestartState::waiting(waiting.tries, self.now() + waiting.left);
                }
                self.kept().entry(id.clone()).or_insert(kept);
                self.exited(&id, code, stopped);
            }
            News::Said { name, line } => self.tell(Told::Said { name, line }),
            News::Removed { id } => {
                if let Some(mut kept) = self.kept().remove(&id) {
                    kept.still();
                }
                self.board.send_modify(|board| board.remove(&id));
                self.tell(Told::Removed);
            }
        }
    }

    fn started(self: &Arc<Self>, started: Started) {
        let health = started.healthcheck.as_ref().map(|_| Health::Starting);
        self.board
            .send_modify(|board| board.set(&started.id, entry(&started, Run::Running { health })));
        if let Some(machine) = self.machine() {
            machine.note_restarting(&started.id, None);
        }
        let mut kept = self.kept();
        let slot = kept
            .entry(started.id.clone())
            .or_insert_with(|| Kept::new(started.clone()));
        slot.started = started.clone();
        slot.restarts = match started.tries {
            Some(tries) => RestartState::resumed(tries, self.now()),
            None => {
                let input = if started.again {
                    Input::Restarted
                } else {
                    Input::StartedByCommand
                };
                slot.restarts.clone().step(started.restart, input, self.now()).0
            }
        };
        let tries = slot.restarts.tries();
        self.watch_health(slot);
        drop(kept);
        if let Some(machine) = self.machine() {
            machine.note_tries(&started.id, tries);
        }
        self.tell(Told::Started(Box::new(started)));
    }

    /// The record of a running container has changed: another policy, another check.
    fn changed(self: &Arc<Self>, started: Started) {
        let mut kept = self.kept();
        let Some(slot) = kept.get_mut(&started.id) else {
            return;
        };
        let check = slot.started.healthcheck != started.healthcheck;
        slot.started = started;
        if check {
            let health = slot.started.healthcheck.as_ref().map(|_| Health::Starting);
            let entry = entry(&slot.started, Run::Running { health });
            self.board.send_modify(|board| board.set(&slot.started.id, entry));
            self.watch_health(slot);
        }
    }

    /// Probes a container from now on, as its check says.
    fn watch_health(self: &Arc<Self>, slot: &mut Kept) {
        if let Some(old) = slot.probing.take() {
            old.abort();
        }
        let (Some(check), Some(machine)) = (&slot.started.healthcheck, self.machine()) else {
            return;
        };
        let keeper = self.clone();
        let (id, name) = (slot.started.id.clone(), slot.started.name.clone());
        let restart = check.restart;
        let told = move |health, summary| {
            if restart && health == Health::Unhealthy {
                keeper.end_unhealthy(&id);
            }
            keeper
                .board
                .send_modify(|board| board.set_health(&id, health, summary));
            if let Some(journal) = keeper.journal.get() {
                journal.health(&id, health);
            }
            keeper.tell(Told::Health {
                name: name.clone(),
                health,
            });
        };
        let probing = health::watch(machine, slot.started.id.clone(), check.clone(), told);
        slot.probing = Some(tokio::spawn(probing).abort_handle());
    }

    /// Ends a container that its check has found unhealthy, and whose definition
    /// asks for that; its end counts as a failure.
    fn end_unhealthy(self: &Arc<Self>, id: &str) {
        if let Some(slot) = self.kept().get_mut(id) {
            slot.unhealthy = true;
        }
        if let Some(machine) = self.machine() {
            let id = id.to_owned();
            tokio::spawn(async move { machine.end_unhealthy(&id).await });
        }
    }

    fn exited(self: &Arc<Self>, id: &str, code: i32, stopped: bool) {
        let mut kept = self.kept();
        let Some(slot) = kept.get_mut(id) else { return };
        slot.still();
        let now = self.now();
        let failed = std::mem::take(&mut slot.unhealthy) && code == 0;
        let mut noted = false;
        let effect = match slot.restarts.due() {
            // Decided by a supervisor before us.
            Some(due) if slot.started.waiting.take().is_some() => {
                noted = true;
                Effect::RestartAt(due)
            }
            _ => {
                let input = Input::Exited {
                    code: if failed { 1 } else { code },
                    stopped,
                };
                let (restarts, effect) = slot.restarts.clone().step(slot.started.restart, input, now);
                slot.restarts = restarts;
                effect
            }
        };
        let again = match effect {
            Effect::RestartAt(due) => Some(Again {
                restarts: slot.restarts.restarts(),
                after: due.saturating_sub(now),
            }),
            _ => None,
        };
        let restarting = again.is_some();
        if let Some(machine) = self.machine().filter(|_| !noted) {
            let waiting = again.map(|again| Waiting {
                left: again.after,
                tries: slot.restarts.tries(),
            });
            machine.note_restarting(id, waiting);
        }
        if let (Effect::RestartAt(due), Some(machine)) = (effect, self.machine()) {
            let id = id.to_owned();
            let task = tokio::spawn(async move {
                tokio::time::sleep(due.saturating_sub(now)).await;
                // A failure is heard of as another exit, and asked about again.
                machine.start_again(&id).await;
            });
            slot.timer = Some(task.abort_handle());
        }
        let started = slot.started.clone();
        drop(kept);
        // Who sees that nothing runs any more finds every end told.
        self.board.send_modify(|board| {
            board.set(id, entry(&started, Run::Exited { code, restarting }));
            self.tell(Told::Exited {
                id: started.id,
                name: started.name,
                one_off: started.one_off,
                code,
                again,
            });
        });
    }

    fn machine(&self) -> Option<Arc<Machine>> {
        self.machine.get().and_then(Weak::upgrade)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<String, Kept>> {
        // Every change under the lock is whole, so a panic elsewhere left it usable.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, told: Told) {
        // The loop ends only with the process.
        let _ = self.told.send(told);
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }
}

fn entry(started: &Started, run: Run) -> Entry {
    Entry {
        service: started.service.clone(),
        name: started.name.clone(),
        run,
        since: Instant::now().into(),
        probed: String::new(),
    }
}

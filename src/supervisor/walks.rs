//! Requests one after the other: a walk is begun, followed by step, and what it
//! came to noted for the next supervisor and in the history.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::apply::{self, Applied, Model, Step};
use super::connection::ClientId;
use super::protocol::{Apply, Reply};
use super::{Supervisor, generations, journal, standing};
use crate::plan::Intent;
use crate::project::LoadRequest;
use crate::reconcile::{Canceller, cancellation};
use crate::store::write_record;

/// How long a reload goes on after the file has changed again, from its begin.
const PATIENCE: Duration = Duration::from_millis(500);

/// One request that waits for its turn.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) asked_by: Option<ClientId>,
    pub(super) wanted: Apply,
    /// Changed sources ask for it, and hear what went wrong.
    pub(super) answer: Option<oneshot::Sender<Vec<String>>>,
}

impl Job {
    /// Whether the stack file has changed, and nobody asked.
    pub(super) fn is_reload(&self) -> bool {
        self.asked_by.is_none() && self.answer.is_none()
    }
}

/// The walk in progress.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) asked_by: Option<ClientId>,
    canceller: Canceller,
    answer: Option<oneshot::Sender<Vec<String>>>,
    /// The container that `run` asks for.
    pub(super) one_off: Option<String>,
    /// What the stack is being brought to, once it is known.
    pub(super) towards: Option<Model>,
    /// How it is loaded, of the `up` of a session, which goes on to follow that.
    follows: Option<LoadRequest>,
    begun: Instant,
    /// When it is cancelled, for the stack file says something else by now.
    overtaken: Option<Instant>,
    /// That has come.
    superseded: bool,
}

impl Walk {
    /// As [`Job::is_reload`].
    pub(super) fn is_reload(&self) -> bool {
        self.asked_by.is_none() && self.answer.is_none()
    }

    /// Whether a change of the stack file is a reason not to go on.
    pub(super) fn gives_way(&self) -> bool {
        self.is_reload() || self.follows.is_some()
    }

    /// What it is to come to is not wanted any more. It has its time all the same:
    /// most are done by then, and a file that is written again and again would
    /// never be followed.
    pub(super) fn overtake(&mut self) {
        self.overtaken = Some(self.begun + PATIENCE);
    }

    /// It has had that.
    pub(super) fn supersede(&mut self) {
        self.superseded = true;
        self.cancel();
    }

    /// Nothing new is begun.
    pub(super) fn cancel(&mut self) {
        self.canceller.cancel();
        self.overtaken = None;
    }
}

/// Resolves when the walk in progress has had its time; never when it is wanted.
pub(super) async fn overtaken(walk: Option<&Walk>) {
    match walk.and_then(|walk| walk.overtaken) {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl Supervisor {
    /// Writes down what the next supervisor must know, unless it is written.
    fn note_standing(&mut self) {
        if self.noted.as_ref() == Some(&self.standing) {
            return;
        }
        match write_record(&standing::path(&self.world, &self.project), &self.standing) {
            Ok(()) => self.noted = Some(self.standing.clone()),
            Err(error) => {
                tracing::error!(%error, "the next supervisor will not know how the stack was loaded");
            }
        }
    }

    pub(super) fn cancel(&mut self, id: ClientId) {
        if let Some(walk) = self.walk.as_mut().filter(|walk| walk.asked_by == Some(id)) {
            walk.cancel();
        }
    }

    /// Starts the next walk when none is in progress.
    pub(super) fn advance(&mut self) {
        if self.walk.is_some() {
            return;
        }
        let Some(mut job) = self.queue.pop_front() else {
            return;
        };
        match &mut job.wanted.intent {
            Intent::Up(up) => up.ending = self.ending.keys().cloned().collect(),
            // That they end is wanted now.
            Intent::Stop { services, .. } | Intent::Kill { services, .. } => self
                .ending
                .retain(|_, service| !services.is_empty() && !services.contains(service)),
            Intent::Containers { ids, .. } => self.ending.retain(|id, _| !ids.contains(id)),
            _ => {}
        }
        let (canceller, cancelled) = cancellation();
        self.walk = Some(Walk {
            asked_by: job.asked_by,
            canceller,
            answer: job.answer,
            one_off: match &job.wanted.intent {
                Intent::Run(run) => Some(run.one_off.id.clone()),
                _ => None,
            },
            towards: None,
            follows: match &job.wanted {
                Apply {
                    session: true,
                    atomic: false,
                    generation: None,
                    intent: Intent::Up(_),
                    load,
                    ..
                } => load.as_deref().cloned(),
                _ => None,
            },
            begun: Instant::now(),
            overtaken: None,
            superseded: false,
        });
        let reload = job.wanted.load.is_some() && job.asked_by.is_none();
        // What a supervisor before us left half done is to be completed.
        let known = self.model.is_some() || self.standing.pinned.is_some();
        tokio::spawn(apply::apply(apply::Request {
            host: self.host.clone(),
            project: self.project.clone(),
            wanted: job.wanted,
            before: self.model.as_ref().map(|model| model.project().clone()),
            scale: self.standing.scale.clone(),
            unless: self.standing.said.clone().filter(|_| reload && known),
            cancelled,
            steps: self.steps.0.clone(),
        }));
    }

    /// Notes what the stack has been brought to.
    fn remember(&mut self, model: &Model, digest: &str, by: String) {
        if self.remembered.as_deref() == Some(digest) {
            return;
        }
        let summary = generations::Summary {
            number: 0,
            applied: journal::now(),
            by,
            digest: digest.to_owned(),
        };
        match generations::add(&self.world, model.project(), model.contents(), summary) {
            Ok(()) => self.remembered = Some(digest.to_owned()),
            Err(error) => tracing::error!(%error, "this generation is not in the history"),
        }
    }

    pub(super) fn step(&mut self, step: Step) {
        let asked_by = self.walk.as_ref().and_then(|walk| walk.asked_by);
        let sources = self.walk.as_ref().is_some_and(|walk| walk.answer.is_some());
        match step {
            Step::Loaded(model, inputs) => {
                let follows = self.walk.as_mut().and_then(|walk| {
                    walk.towards = Some(model);
                    walk.follows.clone()
                });
                if follows.is_some() {
                    self.standing.load = follows;
                    self.watch_as_needed();
                    self.watch_files(&inputs);
                }
            }
            Step::Planned(plan) => match asked_by {
                Some(id) => self.tell(id, &Reply::Planned { plan }),
                None if sources => {}
                None => self.tell_sessions(&Reply::Reloading { plan }),
            },
            Step::Progress(event) => match asked_by {
                Some(id) => self.tell(id, &Reply::Progress { event }),
                None => self.tell_sessions(&Reply::Progress { event }),
            },
            Step::Done(applied) => {
                // What it started is told before its end.
                while let Ok(told) = self.told.try_recv() {
                    self.pass_on(told);
                }
                let walk = self.walk.take();
                self.machine.plan_done();
                if let Some(id) = walk.as_ref().and_then(|walk| walk.one_off.clone()) {
                    // It may not have come to its start.
                    self.sweep(&id);
                }
                let superseded = walk.as_ref().is_some_and(|walk| walk.superseded);
                let answer = walk.and_then(|walk| walk.answer);
                match answer {
                    Some(answer) => {
                        let mut errors = applied.errors;
                        if applied.cancelled {
                            errors.push("cancelled".to_owned());
                        }
                        // Who asked may follow something else by now.
                        let _ = answer.send(errors);
                        self.settle();
                        self.tell_if_idle();
                    }
                    None => self.done(asked_by, *applied, superseded),
                }
            }
        }
    }

    /// `superseded`: it was cancelled because the stack file has changed, and a
    /// reload follows.
    fn done(&mut self, asked_by: Option<ClientId>, applied: Applied, superseded: bool) {
        let Applied {
            model,
            inputs,
            mut errors,
            diagnostics,
            mut cancelled,
            load,
            generation,
            up,
            scale,
            ending,
            ..
        } = applied;
        if up {
            if cancelled {
                self.ending.extend(ending);
            } else if asked_by.is_none() {
                // A reload is about all that was made.
                self.ending.clear();
            }
            if let Some(scale) = scale {
                self.standing.scale = scale;
            }
            if let (Some(model), Some(before)) = (&model, &self.model) {
                model.learn_from(before);
            }
            let digest = model.as_ref().map(|model| model.digest().to_owned());
            let by = match (generation, asked_by) {
                (Some(number), _) => format!("rollback to {number}"),
                (None, Some(_)) => "up".to_owned(),
                (None, None) => "reload".to_owned(),
            };
            if let (Some(model), Some(digest), true, false) = (&model, &digest, errors.is_empty(), cancelled)
            {
                self.remember(model, digest, by);
            }
            if let Some(load) = load {
                self.standing.load = Some(*load);
            }
            self.standing.pinned = generation;
            if cancelled {
                // It may be anywhere between the two.
                self.standing.said = None;
            } else if generation.is_none() {
                self.standing.said = digest.or(self.standing.said.take());
            }
            if model.is_some() {
                self.model = model;
            }
            self.note_standing();
            self.watch_as_needed();
            self.watch_files(&inputs);
        } else if self.standing.watch && self.watch.is_none() {
            // Nothing ran when this supervisor came (after a boot, say): the one
            // before it watched.
            self.watch_as_needed();
        }
        // Other rules, other containers.
        self.follow_sources(None);
        if superseded && asked_by.is_some() {
            // Its session goes on.
            let errors = std::mem::take(&mut errors);
            let diagnostics = vec![];
            self.tell_sessions(&Reply::Reloaded { errors, diagnostics });
            cancelled = false;
        }
        match asked_by {
            Some(id) => self.tell(
                id,
                &Reply::Done {
                    errors,
                    diagnostics,
                    cancelled,
                },
            ),
            None => self.tell_sessions(&Reply::Reloaded { errors, diagnostics }),
        }
        self.settle();
        self.tell_if_idle();
        // A walk has had the project, what was observed and the plan several times.
        crate::sys::process::give_back_memory();
    }
}

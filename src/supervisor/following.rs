//! What is followed while somebody wants it: the inputs of the stack file, and
//! the sources of `develop.watch`.

use std::path::PathBuf;
use std::sync::Arc;

use super::apply::Model;
use super::protocol::{Apply, Reply};
use super::sources::{Setup, Word};
use super::standing::Scope;
use super::walks::Job;
use super::{Peer, Supervisor, load};
use crate::plan::{Intent, Up};
use crate::project::LoadRequest;
use crate::watch::Watch;

impl Supervisor {
    /// Whether the stack is to follow its file: for a session, or for `--watch`.
    fn is_followed(&self) -> bool {
        self.standing.watch || self.peers.values().any(|peer| peer.session && !peer.leaves)
    }

    /// Watches when somebody wants it.
    pub(super) fn watch_as_needed(&mut self) {
        if !self.is_followed() {
            self.watch = None;
        } else if self.watch.is_none() {
            match Watch::new() {
                Ok(watch) => {
                    self.watch = Some(watch);
                    // What was saved since the file was loaded has gone unseen.
                    self.reload();
                }
                Err(error) => tracing::warn!(%error, "the stack file is not watched"),
            }
        }
    }

    /// Watches these files, when any are watched.
    pub(super) fn watch_files(&mut self, inputs: &[PathBuf]) {
        let Some(watch) = self.watch.as_mut().filter(|_| !inputs.is_empty()) else {
            return;
        };
        match watch.files(inputs) {
            // What was saved in it since the load has gone unseen.
            Ok(true) => self.reload(),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the stack file is not watched"),
        }
    }

    /// An input has changed. A reload in progress, or the `up` of a session, is not
    /// waited for to its end: that may take as long as the slowest process takes to
    /// stop, or all the retries of a health check that the change is to mend.
    pub(super) fn saved(&mut self) {
        let (Some(walk), Some(load)) = (&mut self.walk, &self.standing.load) else {
            return self.reload();
        };
        if !walk.gives_way() || walk.towards.is_none() {
            return self.reload();
        }
        match load::load(load) {
            Ok(loaded) => {
                if walk.towards != Some(Model::new(Arc::new(loaded.project))) {
                    walk.overtake();
                    self.reload();
                }
            }
            // It goes on to what the file last said without errors.
            Err(failure) => {
                self.watch_files(&failure.inputs);
                self.tell_sessions(&Reply::Reloaded {
                    errors: vec![],
                    diagnostics: failure.diagnostics,
                });
            }
        }
    }

    /// A client's request does not wait for a reload: one in progress is
    /// cancelled, and whatever the file says is done after the request. Not after
    /// one that ends the stack, which would begin anew.
    pub(super) fn queue_before_reloads(&mut self, job: Job) {
        let reload = self.walk.as_mut().filter(|walk| walk.is_reload());
        let owed = reload.is_some() || self.queue.iter().any(Job::is_reload);
        if let Some(walk) = reload {
            walk.cancel();
        }
        self.queue.retain(|job| !job.is_reload());
        let ends = job.wanted.intent.ends_all();
        self.queue.push_back(job);
        if owed && !ends && self.is_followed() {
            self.reload();
        }
    }

    /// Sees to it that the stack is brought to what its file says.
    pub(super) fn reload(&mut self) {
        // One reload at a time, and the newest content: a queued one will read
        // what is there when its turn comes.
        if self.queue.iter().any(Job::is_reload) {
            return;
        }
        let Some(load) = self.standing.load.clone() else {
            return;
        };
        let sessions = self.peers.values().filter(|peer| peer.session && !peer.leaves);
        let standing = self.standing.watch.then_some(&self.standing.scope);
        let scope = Scope::join(sessions.map(|peer| &peer.scope).chain(standing));
        let intent = Intent::Up(Up {
            services: scope.services,
            no_deps: scope.no_deps,
            reload: true,
            ..Up::default()
        });
        self.queue.push_back(Job {
            asked_by: None,
            wanted: Apply::new(Some(Box::new(load)), intent),
            answer: None,
        });
    }

    /// Follows the sources that somebody wants followed, by the rules of the
    /// model the stack was last brought to; when there is none yet, of what
    /// `load` leads to.
    pub(super) fn follow_sources(&mut self, load: Option<&LoadRequest>) {
        let wanted: Vec<&Vec<String>> = self
            .standing
            .sources
            .iter()
            .chain(
                self.peers
                    .values()
                    .filter_map(|peer| Some(&peer.follow.as_ref()?.services)),
            )
            .collect();
        let Some(project) = self
            .model
            .as_ref()
            .map(Model::project)
            .or(self.looked_at.as_ref())
        else {
            let Some(load) = load.filter(|_| !wanted.is_empty()) else {
                return;
            };
            match load::load(load) {
                Ok(loaded) => {
                    self.looked_at = Some(Arc::new(loaded.project));
                    self.follow_sources(None);
                }
                Err(failure) => {
                    let reasons = failure.diagnostics.iter().map(|one| one.message.clone());
                    let reason = reasons.collect::<Vec<_>>().join("; ");
                    self.tell_followers(&Reply::NotFollowing { reason });
                }
            }
            return;
        };
        let setup = if wanted.is_empty() {
            Setup::default()
        } else {
            // One that wants all has them all.
            let all = wanted.iter().any(|services| services.is_empty());
            let chosen: Vec<String> = if all {
                vec![]
            } else {
                wanted.into_iter().flatten().cloned().collect()
            };
            let explain = |peer: &Peer| peer.follow.as_ref().is_some_and(|follow| follow.explain);
            Setup::new(project, &chosen, self.peers.values().any(explain))
        };
        let project = project.clone();
        self.sources.follow(&project, setup);
    }

    /// Does what the task that follows sources asks for.
    pub(super) fn attend(&mut self, word: Word) {
        match word {
            Word::Tell(reply) => self.tell_followers(&reply),
            Word::Restart(services, answer) => {
                let intent = Intent::Restart {
                    services,
                    timeout: None,
                    no_deps: false,
                };
                self.queue.push_back(Job {
                    asked_by: None,
                    wanted: Apply::new(None, intent),
                    answer: Some(answer),
                });
            }
        }
    }
}

/// Resolves when an input has changed; never while none is watched.
pub(super) async fn changed(watch: Option<&mut Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

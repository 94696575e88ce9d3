//! The sources of `develop.watch`: followed, and brought to the containers.
//!
//! One task a supervisor ([`Sources`]), which never runs two passes at once.
//! A pass ([`pass`]) compares what is there with what each container is known
//! to have, rule by rule, and copies the difference; an event only says which
//! paths to look at. So nothing is lost: what changes while a container is
//! restarted is found by the pass that its start asks for, and what changed
//! while nobody watched by the first pass, from the record of the last one. The
//! record is written after what follows a copy is done; a supervisor that is
//! killed before that copies again.
//!
//! Order within a pass: all is copied, then services are restarted (as one
//! request of its own in the supervisor's queue), then commands are run.
//!
//! A container that replaces another gets what was copied into that one, when
//! it was made of the same image; of another image, it is taken to have been
//! built from the sources as they are.
//!
//! Known to be weak: a copy that fails is tried again with the next change or
//! start, not by itself. A restart that a supervisor was killed before is done
//! by the next one only if the container's record knew the old file. Hard links
//! become files of their own; extended attributes are not copied.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::protocol::Reply;
use crate::host::{HostError, Machine};
use crate::project::{Project, WatchAction};
use crate::store::World;
use crate::watch::{Batch, Tree};

mod pass;
mod setup;

pub(super) use pass::folder;
use pass::{Done, Work};
pub(super) use setup::Setup;

/// What would be followed of a project, one line a rule, and what the user
/// should know of it: the sources of the chosen services (all when none is
/// named) and of what they depend on.
pub fn outline(project: &Project, chosen: &[String]) -> (Vec<String>, Vec<String>) {
    let setup = Setup::new(project, chosen, false);
    (setup.outline(), setup.warnings)
}

/// So many files are named when nobody asked for all.
const NAMED: usize = 5;

/// What the supervisor's loop tells the task.
#[derive(Debug)]
enum Order {
    /// Follow this from now on.
    Follow(Arc<Project>, Setup),
    /// Containers came, went, or were started.
    Look,
}

/// What the task asks of the supervisor's loop.
#[derive(Debug)]
pub(super) enum Word {
    /// Tell clients.
    Tell(Reply),
    /// Restart services; what went wrong is answered.
    Restart(Vec<String>, oneshot::Sender<Vec<String>>),
}

/// The way to the task; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Sources {
    orders: mpsc::UnboundedSender<Order>,
    words: mpsc::UnboundedReceiver<Word>,
    /// What was asked for last.
    setup: Setup,
}

impl Sources {
    /// Starts the task, which follows nothing so far.
    pub(super) fn new(world: World, project: &str, machine: Arc<Machine>) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        let (outbox, words) = mpsc::unbounded_channel();
        let task = Task {
            world,
            project: project.to_owned(),
            machine,
            inbox,
            outbox,
            following: None,
            failed: None,
        };
        tokio::spawn(task.run());
        Self {
            orders,
            words,
            setup: Setup::default(),
        }
    }

    /// Follows this from now on, unless it does so already.
    pub(super) fn follow(&mut self, project: &Arc<Project>, setup: Setup) {
        if self.setup == setup {
            return self.look();
        }
        self.setup.clone_from(&setup);
        // The task ends only with us.
        let _ = self.orders.send(Order::Follow(project.clone(), setup));
    }

    /// The next [`Self::follow`] begins afresh, whatever it is to follow.
    pub(super) fn afresh(&mut self) {
        self.setup = Setup::default();
    }

    /// Looks after containers that came, went, or were started.
    pub(super) fn look(&self) {
        if !self.setup.is_empty() {
            let _ = self.orders.send(Order::Look);
        }
    }

    /// The next thing that is asked of the supervisor.
    pub(super) async fn next(&mut self) -> Option<Word> {
        self.words.recv().await
    }
}

struct Task {
    world: World,
    project: String,
    machine: Arc<Machine>,
    inbox: mpsc::UnboundedReceiver<Order>,
    outbox: mpsc::UnboundedSender<Word>,
    following: Option<Following>,
    /// What could not be followed: tried again when containers come or start.
    failed: Option<(Arc<Project>, Setup)>,
}

/// What is followed now.
struct Following {
    project: Arc<Project>,
    setup: Setup,
    tree: Tree,
    /// `None` only while a pass has it.
    work: Option<Work>,
}

/// What wakes the task.
enum Wake {
    Order(Option<Order>),
    Changed(Result<Batch, crate::watch::TreeError>),
}

impl Task {
    async fn run(mut self) {
        loop {
            let wake = match &mut self.following {
                None => Wake::Order(self.inbox.recv().await),
                Some(following) => tokio::select! {
                    order = self.inbox.recv() => Wake::Order(order),
                    batch = following.tree.changed() => Wake::Changed(batch),
                },
            };
            match wake {
                Wake::Order(None) => return,
                Wake::Order(Some(Order::Follow(project, setup))) => self.begin(project, setup).await,
                Wake::Order(Some(Order::Look)) => {
                    // Many containers start at once: one look is enough.
                    let mut next = None;
                    while let Ok(order) = self.inbox.try_recv() {
                        if let Order::Follow(project, setup) = order {
                            next = Some((project, setup));
                        }
                    }
                    match next.or_else(|| self.failed.take()) {
                        Some((project, setup)) => self.begin(project, setup).await,
                        None => self.pass(None).await,
                    }
                }
                Wake::Changed(Ok(batch)) => self.changed(batch).await,
                Wake::Changed(Err(error)) => self.fail(&error.to_string()),
            }
        }
    }

    fn tell(&self, reply: Reply) {
        // The loop ends only with the process.
        let _ = self.outbox.send(Word::Tell(reply));
    }

    /// Follows nothing until the next try.
    fn fail(&mut self, reason: &str) {
        tracing::warn!(reason, "sources are not followed");
        if let Some(following) = self.following.take() {
            self.failed = Some((following.project, following.setup));
        }
        self.tell(Reply::NotFollowing {
            reason: reason.to_owned(),
        });
    }

    /// Follows this from now on.
    async fn begin(&mut self, project: Arc<Project>, setup: Setup) {
        self.following = None;
        self.failed = None;
        if setup.is_empty() {
            if !setup.warnings.is_empty() {
                self.enabled(&setup);
            }
            return;
        }
        let (world, name) = (self.world.clone(), self.project.clone());
        let (loaded, wanted) = (project.clone(), setup.clone());
        let rules = setup.rules(&project);
        // First followed, then read: what comes between is seen twice, not never.
        let tree = Tree::new(rules);
        let begun = on_thread(move || Work::begin(&world, &name, &loaded, &wanted)).await;
        let (work, mut tree) = match (begun, tree) {
            (Ok(work), Ok(tree)) => (work, tree),
            (Err(error), _) => {
                self.failed = Some((project, setup));
                return self.fail(&error.to_string());
            }
            (_, Err(error)) => {
                self.failed = Some((project, setup));
                return self.fail(&error.to_string());
            }
        };
        tree.tell_passed = setup.explain;
        self.following = Some(Following {
            project,
            tree,
            work: Some(work),
            setup: setup.clone(),
        });
        self.pass(None).await;
        if self.following.is_some() {
            self.enabled(&setup);
        }
    }

    fn enabled(&self, setup: &Setup) {
        self.tell(Reply::Following {
            services: setup.names(),
            warnings: setup.warnings.clone(),
        });
    }

    async fn changed(&mut self, batch: Batch) {
        let Some(following) = &mut self.following else {
            return;
        };
        let Some(work) = &following.work else { return };
        for (path, service, rule, reason) in work.explain(&batch.passed) {
            let _ = self.outbox.send(Word::Tell(Reply::Passed {
                path,
                service,
                rule,
                reason,
            }));
        }
        if work.is_about_rules(&batch) {
            let (project, setup) = (following.project.clone(), following.setup.clone());
            return self.begin(project, setup).await;
        }
        if batch.lost || !batch.paths.is_empty() {
            self.pass(Some(batch)).await;
        }
    }

    /// One pass, with what follows it.
    async fn pass(&mut self, batch: Option<Batch>) {
        let Some(mut work) = self
            .following
            .as_mut()
            .and_then(|following| following.work.take())
        else {
            return;
        };
        let result = on_thread(move || {
            let done = work.pass(batch.as_ref());
            Ok((work, done))
        })
        .await;
        let (mut work, done) = match result {
            Ok((work, Ok(done))) => (work, done),
            Ok((_, Err(error))) | Err(error) => {
                return self.fail(&error.to_string());
            }
        };
        self.report(&done);
        self.restart(&done).await;
        self.exec(&done).await;
        let saved = on_thread(move || {
            work.save();
            Ok(work)
        })
        .await;
        if let (Some(following), Ok(work)) = (&mut self.following, saved) {
            following.work = Some(work);
        }
    }

    fn report(&self, done: &[Done]) {
        let all = self
            .following
            .as_ref()
            .is_some_and(|following| following.setup.explain);
        for one in done {
            let files = one.copied.iter().chain(&one.removed);
            self.tell(Reply::Synced {
                service: one.service.clone(),
                rule: one.rule,
                action: one.action.to_owned(),
                containers: one.containers.len(),
                copied: one.copied.len(),
                removed: one.removed.len(),
                files: files
                    .take(if all { usize::MAX } else { NAMED })
                    .map(|(here, there)| (here.clone(), one.copies.then(|| there.clone())))
                    .collect(),
                errors: one.errors.clone(),
            });
        }
    }

    /// Restarts what is to be restarted, where it runs.
    async fn restart(&self, done: &[Done]) {
        let mut services: Vec<String> = done
            .iter()
            .filter(|one| matches!(one.then, Some(WatchAction::Restart | WatchAction::SyncRestart)))
            .filter(|one| one.containers.iter().any(|id| self.machine.runs(id)))
            .map(|one| one.service.clone())
            .collect();
        services.dedup();
        if services.is_empty() {
            return;
        }
        let (sender, answer) = oneshot::channel();
        let _ = self.outbox.send(Word::Restart(services.clone(), sender));
        let errors = answer
            .await
            .unwrap_or_else(|_| vec!["the supervisor is ending".to_owned()]);
        self.tell(Reply::SyncEnded {
            services,
            action: "restart".to_owned(),
            errors,
        });
    }

    /// Runs the commands of `sync+exec`.
    async fn exec(&self, done: &[Done]) {
        for one in done.iter().filter(|one| one.then == Some(WatchAction::SyncExec)) {
            let Some(command) = &one.exec else { continue };
            let running: Vec<&String> = one.containers.iter().filter(|id| self.machine.runs(id)).collect();
            if running.is_empty() {
                continue;
            }
            let mut errors = Vec::new();
            for id in running {
                if let Err(error) = self.machine.run_hook(id, "sync+exec", command).await {
                    errors.push(error.to_string());
                }
            }
            self.tell(Reply::SyncEnded {
                services: vec![one.service.clone()],
                action: "exec".to_owned(),
                errors,
            });
        }
    }
}

/// Runs what blocks on a thread of its own, which ends with it: a container's
/// files may be mounted where only that thread sees them.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    let (sender, answer) = oneshot::channel();
    let failed = |reason: &str| HostError::Plan {
        reason: format!("bring sources to containers: {reason}"),
    };
    std::thread::Builder::new()
        .name("sources".to_owned())
        .spawn(move || {
            let _ = sender.send(work());
        })
        .map_err(|error| failed(&error.to_string()))?;
    answer.await.unwrap_or_else(|_| Err(failed("the thread ended")))
}

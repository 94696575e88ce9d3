//! One process a stack, while something of the stack runs or is watched.
//!
//! # How it works
//!
//! The first command that needs it starts it ([`client`]); it takes the
//! stack's lock, so that there is never a second, and adopts what already runs
//! (a supervisor before it may have been killed). Its loop takes in, one at a
//! time: requests of clients, what the [`keeper`] tells of starts, exits and
//! health, changes of the stack file, and the end of the walk in progress.
//!
//! * Every request is [`Request::Apply`]: load, observe, plan, walk
//!   ([`apply`]). One walk at a time; later requests queue ([`walks`]).
//! * A client that goes away cancels the walk it asked for: nothing new is
//!   begun, and what has begun comes to its end.
//! * A change of the stack file is a request too, asked by nobody
//!   ([`following`]); when the file does not load, the stack is left as it is
//!   and the sessions are told. It gives way to clients and to a newer change:
//!   what it waits for is abandoned, and it begins anew with what the file says
//!   then.
//! * When nothing has happened for a while, it gives the pages of its executable
//!   back that it has run through, once: they come back as they are needed.
//! * When nothing runs, nobody is connected and nothing is queued, it ends.
//!
//! What happens to containers is noted in the stack's [`journal`], for `events`,
//! and what the stack is brought to in its [`generations`]. A stack that was
//! brought back to one of them stays there until the stack file says something
//! else than it did then.
//!
//! Sources of `develop.watch` are followed by a task of its own ([`sources`]),
//! which asks the loop for restarts and tells clients what it did.
//!
//! # Killed at any time
//!
//! Its socket stays behind, by which the next one knows. That one is started by
//! a monitor (or the next command) and takes over ([`Machine::adopt`]): it links
//! itself to the monitors that live, waits for those that are just beginning,
//! clears up after those that are gone, writes to their logs what they could not
//! ([`Estate`](crate::monitor::Estate)), goes on with stops that had begun, and
//! asks the restart policies about whatever has ended meanwhile.
//!
//! While not one container runs (all wait for their restart) somebody stands in
//! for the monitors ([`standin`](crate::monitor::standin)); how often, and when
//! next, is noted for the supervisor to come.
//!
//! Weak: one stack's supervisor knows nothing of another's, so two stacks that
//! publish the same port find out when the second one starts.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::host::{Host as _, HostError, Machine, client_path, containers, views};
use crate::plan::{Intent, Operation, Target};
use crate::project::Project;
use crate::runtime::Revive;
use crate::store::{Lock, World, read_record, remove_record};
use crate::watch::Watch;

mod apply;
mod board;
pub mod client;
mod connection;
mod following;
pub mod generations;
mod health;
pub mod journal;
mod keeper;
mod load;
pub mod protocol;
pub mod sources;
mod standing;
mod supervised;
mod walks;

pub use apply::digest;
use apply::{Model, Step};
use connection::{ClientId, Incoming, Sender};
use following::changed;
use journal::Journal;
use keeper::{Keeper, Told};
pub use load::load;
use protocol::{Reply, Request, Watching};
use sources::Sources;
use standing::{Scope, Standing};
use supervised::Supervised;
use walks::{Job, Walk, overtaken};

/// The hidden first argument that makes a process a supervisor; the project's
/// name and the state root follow.
pub const ROLE: &str = "__supervisor";

/// After so much time without anything to do, memory is given back.
const REST: Duration = Duration::from_secs(2);

/// Room for descriptors that is made at the start: some ten a container.
const DESCRIPTORS: usize = 4096;

/// How long the kernel may take to clear away a supervisor that was killed.
const GOING: Duration = Duration::from_secs(5);
/// Between two looks at that.
const PAUSE: Duration = Duration::from_millis(5);

/// The socket of a stack's supervisor.
pub fn socket_path(world: &World, project: &str) -> PathBuf {
    world.stack_run(project).join("supervisor.sock")
}

/// The command line of a stack's supervisor. The program is where we were
/// installed, so that an upgrade is what comes back.
fn command(world: &World, project: &str) -> Vec<String> {
    let program = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let state = world.state().display().to_string();
    vec![
        program.display().to_string(),
        ROLE.to_owned(),
        project.to_owned(),
        state,
    ]
}

/// Why a supervisor cannot work.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// A socket, a signal handler or the event loop could not be made.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The host refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A record or the lock could not be used.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

fn io(operation: &'static str) -> impl FnOnce(std::io::Error) -> SupervisorError {
    move |source| SupervisorError::Io { operation, source }
}

/// The process: serves the stack `project` of the world at `state` until
/// nothing is left to do. Standard input is the first client, when it is a
/// socket. `link` leads to who has started it and is to start it again when it is
/// killed.
///
/// # Errors
/// [`SupervisorError`] when it cannot begin. Another supervisor at work is no
/// error: this one ends at once, or soon when it was to take the place of one that
/// was killed.
pub fn main(project: &str, state: &Path, link: Option<UnixStream>) -> Result<(), SupervisorError> {
    let world = World::new(Some(state));
    // Out of the terminal's reach: Ctrl-C is the client's to interpret.
    let _ = rustix::process::setsid();
    crate::sys::fd::reserve(DESCRIPTORS);
    crate::sys::process::spare_memory();
    let first = connection::from_stdin();
    let place = world.stack_run(project).join("supervisor.lock");
    let mut lock = Lock::try_take(&place)?;
    // Whoever stood in for a supervisor that was killed hears of its end when its
    // link is closed, which the kernel does in its own time before the lock goes.
    let deadline = Instant::now() + GOING;
    while lock.is_none() && link.is_some() && Instant::now() < deadline {
        std::thread::sleep(PAUSE);
        lock = Lock::try_take(&place)?;
    }
    let Some(lock) = lock else {
        // That one sees to who brings it back itself.
        if let Some(mut link) = link {
            let _ = std::io::Write::write_all(&mut link, b"\n");
        }
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        // Gone, with their stacks, before memory is given back.
        .thread_keep_alive(REST / 2)
        .build()
        .map_err(io("start the event loop"))?;
    runtime.block_on(async {
        let mut supervisor = Supervisor::begin(world.clone(), project, link).await?;
        if let Some(first) = first {
            supervisor.greet(tokio::net::UnixStream::from_std(first).map_err(io("serve the first client"))?);
        }
        supervisor.run().await
    })?;
    leave(&world, project);
    lock.remove();
    Ok(())
}

/// Removes what is left of a stack that is no more: its log (of one that still
/// has containers, a log that says nothing), and folders that are empty.
fn leave(world: &World, project: &str) {
    let (state, run) = (world.stack(project), world.stack_run(project));
    // They stay when there is something in them.
    for folder in [
        state.join("trash"),
        state.join("containers"),
        run.join("containers"),
    ] {
        let _ = std::fs::remove_dir(folder);
    }
    let log = state.join("supervisor.log");
    if !state.join("containers").exists() || std::fs::metadata(&log).is_ok_and(|log| log.len() == 0) {
        let _ = std::fs::remove_file(&log);
    }
    if !state.join("containers").exists() {
        journal::remove(world, project);
        let _ = std::fs::remove_dir_all(sources::folder(world, project));
        let _ = std::fs::remove_dir_all(generations::folder(world, project));
        let _ = std::fs::remove_file(state.join("prepared.json"));
    }
    let _ = std::fs::remove_file(run.join("revive.lock"));
    let _ = std::fs::remove_dir(state);
}

/// A connected client.
#[derive(Debug)]
struct Peer {
    sender: Sender,
    session: bool,
    /// Its session is about to end: it has asked for the end of its services.
    leaves: bool,
    /// What its session is about.
    scope: Scope,
    /// It follows sources.
    follow: Option<Follow>,
}

/// Whose sources a client follows.
#[derive(Debug)]
struct Follow {
    services: Vec<String>,
    explain: bool,
}

#[derive(Debug)]
struct Supervisor {
    world: World,
    project: String,
    machine: Arc<Machine>,
    host: Arc<Supervised>,
    keeper: Arc<Keeper>,
    told: mpsc::UnboundedReceiver<Told>,
    listener: UnixListener,
    incoming: (mpsc::UnboundedSender<Incoming>, mpsc::UnboundedReceiver<Incoming>),
    steps: (mpsc::UnboundedSender<Step>, mpsc::UnboundedReceiver<Step>),
    peers: BTreeMap<ClientId, Peer>,
    queue: VecDeque<Job>,
    walk: Option<Walk>,
    standing: Standing,
    /// What is written down of that.
    noted: Option<Standing>,
    watch: Option<Watch>,
    /// The model that the stack was last brought to: a save that changes
    /// nothing in it asks for nothing.
    model: Option<Model>,
    sources: Sources,
    /// The project whose sources are followed while no model is known.
    looked_at: Option<Arc<Project>>,
    /// What a reload that was cut off has asked to stop, until it is started again or
    /// another reload has come to its end: services, by container id.
    ending: BTreeMap<String, String>,
    /// The digest of the newest generation, when it is known.
    remembered: Option<String>,
    /// Removals of containers that were not to outlive their end.
    sweeping: JoinSet<()>,
}

impl Supervisor {
    async fn begin(world: World, project: &str, link: Option<UnixStream>) -> Result<Self, SupervisorError> {
        let (sender, told) = mpsc::unbounded_channel();
        let keeper = Keeper::new(sender);
        let hear = {
            let keeper = keeper.clone();
            Arc::new(move |news| keeper.hear(news))
        };
        let revive = Revive {
            command: command(&world, project),
            lock: world.stack_run(project).join("revive.lock"),
        };
        let machine = Machine::open(world.clone(), project, revive, hear).await?;
        keeper.bind(&machine);
        if let Some(link) = link {
            machine.relieve(link);
        }
        let path = socket_path(&world, project);
        // Who ends on purpose removes it.
        let killed = path.exists();
        machine.adopt(killed).await?;
        let journal = Arc::new(Journal::new(&world, project));
        journal.mend(&views(&world, project)?, |record| machine.exit_of(record));
        keeper.write_to(journal.clone());
        let host = Arc::new(Supervised::new(machine.clone(), keeper.board(), journal));
        let listener = listen(&path)?;
        let noted: Option<Standing> = read_record(&standing::path(&world, project))?;
        let sources = Sources::new(world.clone(), project, machine.clone());
        let mut supervisor = Self {
            world,
            project: project.to_owned(),
            machine,
            host,
            keeper,
            told,
            listener,
            incoming: mpsc::unbounded_channel(),
            steps: mpsc::unbounded_channel(),
            peers: BTreeMap::new(),
            queue: VecDeque::new(),
            walk: None,
            standing: noted.clone().unwrap_or_default(),
            noted,
            watch: None,
            model: None,
            sources,
            looked_at: None,
            ending: BTreeMap::new(),
            remembered: None,
            sweeping: JoinSet::new(),
        };
        supervisor.machine.clear_hooks().await?;
        for record in containers(&supervisor.world, project)? {
            supervisor.sweep(&record.id);
        }
        if supervisor.standing.watch && supervisor.keeper.is_busy() {
            // Whatever was saved while no supervisor watched is applied now.
            supervisor.reload();
        }
        if supervisor.standing.sources.is_some() && supervisor.keeper.is_busy() {
            let load = supervisor.standing.load.clone();
            supervisor.follow_sources(load.as_ref());
        }
        Ok(supervisor)
    }

    async fn run(&mut self) -> Result<(), SupervisorError> {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(io("listen for SIGTERM"))?;
        let mut resting = false;
        loop {
            self.advance();
            if self.is_idle() {
                break;
            }
            self.machine.stand_in(self.keeper.is_busy());
            let may_rest = !resting && self.walk.is_none();
            resting = false;
            tokio::select! {
                () = tokio::time::sleep(REST), if may_rest => {
                    // What it ran through to get here would stay in its memory.
                    crate::sys::memory::rest();
                    resting = true;
                }
                accepted = self.listener.accept() => if let Ok((stream, _)) = accepted {
                    self.greet(stream);
                },
                Some(incoming) = self.incoming.1.recv() => self.take(incoming),
                Some(told) = self.told.recv() => {
                    self.pass_on(told);
                    // Many end at once: what follows is done once for all.
                    while let Ok(told) = self.told.try_recv() {
                        self.pass_on(told);
                    }
                    self.settle();
                    self.tell_if_idle();
                }
                Some(step) = self.steps.1.recv() => self.step(step),
                () = changed(self.watch.as_mut()) => self.saved(),
                () = overtaken(self.walk.as_ref()) => if let Some(walk) = &mut self.walk {
                    walk.supersede();
                },
                Some(word) = self.sources.next() => self.attend(word),
                Some(_) = self.sweeping.join_next() => {}
                () = self.machine.abandoned() => {}
                _ = terminate.recv() => break,
            }
        }
        // Whoever connects from now on finds nobody, and starts the next one.
        let _ = remove_record(&socket_path(&self.world, &self.project));
        if !self.keeper.is_busy() {
            remove_record(&standing::path(&self.world, &self.project))?;
        }
        if self.is_idle() {
            self.forget_clients();
        }
        self.machine.close().await;
        Ok(())
    }

    /// Removes the sockets at which clients of `run` that were killed waited for
    /// their containers: when nothing runs and nobody is connected, nobody waits.
    fn forget_clients(&self) {
        let folder = self.world.stack_run(&self.project);
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|kind| kind == "run") {
                let _ = remove_record(&path);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.peers.is_empty()
            && self.queue.is_empty()
            && self.walk.is_none()
            && self.sweeping.is_empty()
            && !self.keeper.is_busy()
            // Last: an end that was not told of yet may be that of a container
            // which is to be removed.
            && self.told.is_empty()
    }

    /// Removes a container that does not run and was to be removed at its end.
    fn sweep(&mut self, id: &str) {
        let Some(record) = self.machine.record_by_id(id) else {
            return;
        };
        if !record.is_fleeting() || self.machine.runs(id) {
            return;
        }
        let operation = Operation::RemoveContainer {
            container: Target {
                id: Some(record.id),
                service: record.config.name,
                number: record.number,
                name: record.name,
            },
            volumes: true,
            replaced: false,
        };
        let host = self.host.clone();
        self.sweeping.spawn(async move {
            if let Err(error) = host.perform(&Project::default(), &operation).await {
                tracing::error!(%error, "a container was not removed at its end");
            }
        });
    }

    fn greet(&mut self, stream: tokio::net::UnixStream) {
        if let Some((id, sender)) = connection::serve(stream, self.incoming.0.clone()) {
            sender.tell(&Reply::Hello {
                version: env!("CARGO_PKG_VERSION").to_owned(),
            });
            self.peers.insert(
                id,
                Peer {
                    sender,
                    session: false,
                    leaves: false,
                    scope: Scope::default(),
                    follow: None,
                },
            );
        }
    }

    fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Gone(id) => {
                self.peers.remove(&id);
                self.queue.retain(|job| job.asked_by != Some(id));
                if let Some(walk) = self.walk.as_ref().filter(|walk| walk.asked_by == Some(id))
                    && let Some(container) = &walk.one_off
                {
                    // Nobody waits there any more.
                    let _ = remove_record(&client_path(&self.world, &self.project, container));
                }
                self.cancel(id);
                self.watch_as_needed();
                self.follow_sources(None);
            }
            Incoming::Asked(id, request) => self.asked(id, *request),
        }
    }

    /// Does what a client asks for, or sees to it that its turn comes.
    fn asked(&mut self, id: ClientId, request: Request) {
        match request {
            Request::Cancel => self.cancel(id),
            Request::Follow {
                load,
                services,
                always,
                explain,
            } => {
                if always {
                    self.standing.sources = Some(services);
                } else if let Some(peer) = self.peers.get_mut(&id) {
                    peer.follow = Some(Follow { services, explain });
                }
                // Whoever asks is told, though it be followed already.
                self.sources.afresh();
                self.follow_sources(load.as_deref());
            }
            Request::Unfollow => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.follow = None;
                }
                self.follow_sources(None);
            }
            Request::Apply(wanted) => {
                let leaves = wanted.session && matches!(wanted.intent, Intent::Stop { .. });
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.session |= wanted.session;
                    if let (true, Intent::Up(up)) = (wanted.session, &wanted.intent) {
                        peer.scope = Scope::of(up);
                    }
                    if leaves {
                        (peer.leaves, peer.follow) = (true, None);
                    }
                    let others = |walk: &&Walk| walk.asked_by != Some(id) && !walk.is_reload();
                    if self.walk.as_ref().filter(others).is_some() {
                        peer.sender.tell(&Reply::Queued);
                    }
                }
                if let Some(watch) = wanted.watch {
                    self.standing.watch = watch == Watching::Always;
                    if let (Watching::Always, Intent::Up(up)) = (watch, &wanted.intent) {
                        self.standing.scope = Scope::of(up);
                    }
                    if watch != Watching::Always {
                        self.standing.sources = None;
                        self.follow_sources(None);
                    }
                }
                self.queue_before_reloads(Job {
                    asked_by: Some(id),
                    wanted,
                    answer: None,
                });
                if leaves {
                    self.watch_as_needed();
                    self.follow_sources(None);
                }
            }
        }
    }

    fn pass_on(&mut self, told: Told) {
        if matches!(told, Told::Started(_) | Told::Removed) {
            self.sources.look();
        }
        if let Told::Started(started) = &told {
            self.ending.remove(&started.id);
        }
        match told {
            Told::Started(started) => self.tell_sessions(&Reply::Started {
                id: started.id,
                name: started.name,
                one_off: started.one_off,
                log: started.log,
                offset: started.offset,
            }),
            Told::Exited {
                id,
                name,
                one_off,
                code,
                again,
            } => {
                if one_off {
                    self.sweep(&id);
                }
                self.tell_sessions(&Reply::Exited {
                    id,
                    name,
                    one_off,
                    code,
                    again,
                });
            }
            Told::Health { name, health } => self.tell_sessions(&Reply::Health { name, health }),
            Told::Said { name, line } => self.tell_sessions(&Reply::Said { name, line }),
            Told::Removed => {}
        }
    }

    /// Gives back ports that nobody needs, unless a walk may be about to.
    fn settle(&self) {
        if self.walk.is_none() {
            self.machine.settle();
        }
    }

    /// Tells sessions of whose services nothing runs any more.
    fn tell_if_idle(&self) {
        if self.walk.is_some() || !self.queue.is_empty() {
            return;
        }
        for peer in self.peers.values().filter(|peer| peer.session) {
            if !self.keeper.runs_any(&peer.scope.services) {
                peer.sender.tell(&Reply::Idle);
            }
        }
    }

    fn tell(&self, id: ClientId, reply: &Reply) {
        if let Some(peer) = self.peers.get(&id) {
            peer.sender.tell(reply);
        }
    }

    /// Tells sessions, and who follows sources.
    fn tell_followers(&self, reply: &Reply) {
        let follows = |peer: &&Peer| peer.session || peer.follow.is_some();
        for peer in self.peers.values().filter(follows) {
            peer.sender.tell(reply);
        }
    }

    fn tell_sessions(&self, reply: &Reply) {
        for peer in self.peers.values().filter(|peer| peer.session) {
            peer.sender.tell(reply);
        }
    }
}

/// Makes the supervisor's socket, in place of the one of a supervisor that was
/// killed: at any time there is one or the other.
fn listen(path: &Path) -> Result<UnixListener, SupervisorError> {
    // No longer than the name it gets: socket paths are short.
    let fresh = path.with_file_name("new.sock");
    remove_record(&fresh)?;
    let listener = UnixListener::bind(&fresh).map_err(io("listen on the supervisor's socket"))?;
    std::fs::rename(&fresh, path).map_err(io("name the supervisor's socket"))?;
    Ok(listener)
}

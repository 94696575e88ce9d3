//! The real machine: performs operations on containers of one project.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::Interest;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

use super::health::{self, HealthRecord, Probed};
use super::look::Waiting;
use super::record::{Check, ContainerRecord, containers, lease_key, lease_prefix};
use super::traffic::{Afterwards, Traffic};
use super::view::{self, recall, state};
use super::{Host, HostError, create, given, hook, others, prepare, probe, runtimes, start, update};
use crate::image::ImageStore;
use crate::lifecycle::restart::{Rules, Tries};
use crate::monitor::standin;
use crate::network::bridge;
use crate::plan::{self, ContainerState, Observed, Operation, Plan, Target};
use crate::project::{Hook, Project, Restart};
use crate::runtime::{self, Process, Revive, RunningRecord};
use crate::store::{World, read_record, write_record};
use crate::sys::readiness;
use crate::volume::Volumes;

/// Hears what happens to containers. Called before the operation that made it
/// happen counts as done.
pub type Hear = Arc<dyn Fn(News) + Send + Sync>;

/// What happens to containers.
#[derive(Clone, Debug)]
pub enum News {
    /// Process 1 is alive.
    Started(Started),
    /// The run has ended, or could not begin.
    Exited {
        /// Container id.
        id: String,
        /// Exit status; 128 + n after signal n.
        code: i32,
        /// A command stopped it.
        stopped: bool,
    },
    /// The record of a container that runs has changed.
    Changed(Started),
    /// A hook of a container has printed a line.
    Said {
        /// Name of the container.
        name: String,
        /// The line, without its end.
        line: String,
    },
    /// A container that a former supervisor had started has ended; nothing was
    /// heard of it before.
    Ended {
        /// What it is.
        container: Started,
        /// Exit status; 128 + n after signal n.
        code: i32,
        /// It is to be left alone: a command stopped it, or the former
        /// supervisor had done with it.
        stopped: bool,
    },
    /// The container is no more.
    Removed {
        /// Container id.
        id: String,
    },
}

/// A container that was started.
#[derive(Clone, Debug)]
pub struct Started {
    /// Container id.
    pub id: String,
    /// Container name.
    pub name: String,
    /// Service key.
    pub service: String,
    /// Its restart policy started it, not a command.
    pub again: bool,
    /// None of the service's replicas.
    pub one_off: bool,
    /// What happens when it ends.
    pub restart: Rules,
    /// How often it was restarted before a former supervisor ended.
    pub tries: Option<Tries>,
    /// The restart that it waits for, if a former supervisor has decided on one.
    pub waiting: Option<Waiting>,
    /// Its health check.
    pub healthcheck: Option<Check>,
    /// What it prints goes here.
    pub log: PathBuf,
    /// Where in the log this run begins, in bytes.
    pub offset: u64,
}

/// The containers of one project on this machine. Held by the supervisor, so
/// that there is one at a time.
pub struct Machine {
    pub(super) world: World,
    pub(super) project: String,
    pub(super) images: ImageStore,
    pub(super) traffic: Traffic,
    hear: Hear,
    revive: Revive,
    /// Containers that run, by id.
    live: Mutex<HashMap<String, Live>>,
    /// Containers that are frozen.
    pub(super) paused: watch::Sender<HashSet<String>>,
    /// Containers that are stopped to be started again by the same plan.
    resting: Mutex<HashSet<String>>,
    holders: Mutex<Holders>,
    /// Links to those who bring this supervisor back though no container runs.
    stand_ins: Mutex<Vec<UnixStream>>,
    /// Stops that a former supervisor had begun.
    pub(super) stopping: Mutex<Vec<JoinHandle<()>>>,
    /// Held for reading while the container of a `pre_start` hook is made.
    pub(super) preparing: Arc<tokio::sync::RwLock<()>>,
    /// One operation at a time on each container.
    pub(super) locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("project", &self.project)
            .finish_non_exhaustive()
    }
}

/// Ids of the containers of each lease key: one, but for what a crash left.
/// Kept here since reading every record for each container would make a stack
/// of a thousand a matter of minutes.
#[derive(Debug, Default)]
pub(super) struct Holders(HashMap<String, Vec<String>>);

impl Holders {
    pub(super) fn insert(&mut self, key: String, id: String) {
        self.0.entry(key).or_default().push(id);
    }

    pub(super) fn remove(&mut self, key: &str, id: &str) {
        if let Some(ids) = self.0.get_mut(key) {
            ids.retain(|other| other != id);
            if ids.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// The replicas of a service.
    pub(super) fn of_service(&self, project: &str, service: &str) -> Vec<String> {
        let prefix = format!("{}{service}-", lease_prefix(project));
        let of = self.0.iter().filter(|(key, _)| {
            let number = key.strip_prefix(&prefix);
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        });
        of.flat_map(|(_, ids)| ids).cloned().collect()
    }

    pub(super) fn of(&self, key: &str) -> Vec<String> {
        self.0.get(key).cloned().unwrap_or_default()
    }
}

/// A container that runs.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) running: RunningRecord,
    pub(super) monitor: Arc<Process>,
    /// Turns true when the run has ended and is cleaned up.
    pub(super) ended: watch::Receiver<bool>,
    /// Closed without a word when we are killed, which is how the monitor
    /// knows; a byte on it says that we end on purpose.
    pub(super) link: Option<UnixStream>,
}

impl Live {
    /// What is needed to wait for its end.
    pub(super) fn clone_of(live: &Self) -> (RunningRecord, watch::Receiver<bool>) {
        (live.running.clone(), live.ended.clone())
    }
}

impl Machine {
    /// The machine, for the containers of one project. `revive` is what a
    /// monitor does when this process is killed.
    ///
    /// # Errors
    /// [`HostError`] when the image store cannot be opened.
    pub async fn open(
        world: World,
        project: &str,
        revive: Revive,
        hear: Hear,
    ) -> Result<Arc<Self>, HostError> {
        let images = ImageStore::open(world.images());
        let traffic = Traffic::new(&world, project);
        Ok(Arc::new(Self {
            world,
            project: project.to_owned(),
            images,
            traffic,
            hear,
            revive,
            live: Mutex::default(),
            paused: watch::Sender::default(),
            resting: Mutex::default(),
            holders: Mutex::default(),
            stand_ins: Mutex::default(),
            stopping: Mutex::default(),
            preparing: Arc::default(),
            locks: Mutex::default(),
        }))
    }

    /// Says goodbye to the monitors: this supervisor ends on purpose.
    pub async fn close(&self) {
        for live in self.live().values_mut() {
            if let Some(link) = live.link.take() {
                goodbye(&link);
            }
        }
        for link in self.stand_ins().drain(..) {
            goodbye(&link);
        }
    }

    /// Sees to it that somebody brings this supervisor back when it is killed
    /// while it is `needed`: the monitor of a container that runs, or else one who
    /// stays for nothing but that.
    pub fn stand_in(&self, needed: bool) {
        let needed = needed && self.live().is_empty();
        let mut stand_ins = self.stand_ins();
        if needed {
            // Those that were killed.
            stand_ins.retain(|link| standin::is_closed(link.as_fd()).is_err());
            if stand_ins.is_empty() {
                match standin::start(&self.revive) {
                    Ok(link) => stand_ins.push(link),
                    Err(error) => {
                        tracing::warn!(%error, "nobody brings this supervisor back if it is killed")
                    }
                }
            }
        }
        // One is enough.
        for link in stand_ins.drain(usize::from(needed)..) {
            goodbye(&link);
        }
    }

    /// Resolves when the one who stands in is gone.
    pub async fn abandoned(&self) {
        let link = self
            .stand_ins()
            .first()
            .map(|link| link.as_fd().try_clone_to_owned());
        let watched = link.and_then(|link| readiness::watch(link.ok()?, Interest::READABLE).ok());
        match watched {
            Some(link) => drop(link.readable().await),
            None => std::future::pending().await,
        }
    }

    /// Has the other end of this link bring the supervisor back, as long as it is
    /// needed.
    pub fn relieve(&self, link: UnixStream) {
        self.stand_ins().push(link);
    }

    pub(super) fn stand_ins(&self) -> std::sync::MutexGuard<'_, Vec<UnixStream>> {
        // Every change under the lock is one insertion or removal.
        self.stand_ins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world that it is in.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The project as the records have it.
    ///
    /// # Errors
    /// [`HostError`] when records cannot be read.
    pub async fn recorded(&self, name: &str) -> Result<Project, HostError> {
        recall(&self.world, name)
    }

    /// Checks what can be checked before anything is touched: ports that are to
    /// be published are free (and are kept from then on), sources of bind
    /// mounts are there.
    ///
    /// # Errors
    /// [`HostError::Preflight`] with everything that is in the way.
    pub async fn preflight(&self, project: &Project, plan: &Plan) -> Result<(), HostError> {
        let mut problems = Vec::new();
        let starts = |action: &plan::Action| matches!(action.operation, Operation::StartContainer { .. });
        if plan.actions.iter().any(starts)
            && let Err(error) = runtime::check_machine()
        {
            problems.push(error.to_string());
        }
        let mut afterwards = Afterwards::new();
        for action in &plan.actions {
            match &action.operation {
                Operation::StopContainer { container, .. } | Operation::RemoveContainer { container, .. } => {
                    afterwards.entry(container.name.clone()).or_default();
                }
                Operation::StartContainer { container } => {
                    let ports = project
                        .services
                        .get(&container.service)
                        .map(|service| service.ports.clone());
                    afterwards.insert(container.name.clone(), ports.unwrap_or_default());
                }
                _ => {}
            }
        }
        for action in &plan.actions {
            let Operation::StartContainer { container } = &action.operation else {
                continue;
            };
            let Some(service) = project.services.get(&container.service) else {
                continue;
            };
            problems.extend(create::missing_sources(project, service));
            problems.extend(create::wrong_security(project, service));
            problems.extend(create::wrong_place(service));
            let runtime = runtimes::of(service).err();
            problems.extend(runtime.map(|error| format!("service \"{}\": {error}", service.name)));
            problems.extend(given::missing(project, service));
            problems.extend(others::missing(&self.world, project, service, plan));
            let reserved = self
                .traffic
                .reserve(&container.name, &service.ports, Some(&afterwards), |_| false);
            if let Err(error) = reserved {
                problems.push(format!("service \"{}\": {error}", service.name));
            }
        }
        problems.dedup();
        if problems.is_empty() {
            return Ok(());
        }
        self.settle();
        Err(HostError::Preflight { problems })
    }

    /// Gives back the ports of containers that neither run nor will be started
    /// again by their restart policy. Not while a walk is in progress: it may
    /// have reserved ports for what it is about to start.
    pub fn settle(&self) {
        if !self.traffic.holds_any() {
            return;
        }
        let Ok(mut records) = containers(&self.world, &self.project) else {
            return;
        };
        {
            let live = self.live();
            records.retain(|record| {
                let again = record.config.restart != Restart::No && !record.stopped;
                again || live.contains_key(&record.id)
            });
        }
        let kept: Vec<String> = records.into_iter().map(|record| record.name).collect();
        self.traffic.release_all_but(&kept);
    }

    /// Whether a container of this name is one of a service's.
    pub(super) fn is_replica(&self, name: &str, service: &str) -> bool {
        let records = containers(&self.world, &self.project).unwrap_or_default();
        records
            .iter()
            .any(|record| record.name == name && record.config.name == service)
    }

    /// Leads ports and names to a container that runs, as its record has them.
    pub(super) async fn republish(self: &Arc<Self>, record: &ContainerRecord) -> Result<(), HostError> {
        let places = start::places(&self.world, record)?;
        let published = self.traffic.publish(record, &places).await?;
        let paths = self.world.container(&self.project, &record.id);
        write_record(&view::ports_path(&paths), &published)?;
        self.leave_sockets(record).await;
        Ok(())
    }

    /// Has the monitor of a container that runs keep the sockets of its ports. A
    /// monitor that cannot be asked is no reason to fail: they are here.
    pub(super) async fn leave_sockets(self: &Arc<Self>, record: &ContainerRecord) {
        let Some(running) = self.running(&record.id) else {
            return;
        };
        let (machine, name) = (self.clone(), record.name.clone());
        let path = self.world.container(&self.project, &record.id).running();
        let kept = blocking(move || machine.traffic.leave_with_monitor(&name, &running, &path)).await;
        match kept {
            Ok(running) => self.note_running(&record.id, running),
            Err(error) => {
                tracing::warn!(container = record.name, %error, "a supervisor that takes over may find a port taken");
            }
        }
    }

    /// What is known of the present run of a container has changed.
    pub(super) fn note_running(&self, id: &str, running: RunningRecord) {
        if let Some(live) = self.live().get_mut(id) {
            live.running = running;
        }
    }

    /// Starts a container that its restart policy wants running. A failure is
    /// heard of as an exit.
    pub async fn start_again(self: &Arc<Self>, id: &str) {
        let Ok(Some(record)) = self.record(id) else { return };
        if record.stopped {
            return;
        }
        if let Err(error) = start::start(self, id, true).await {
            tracing::warn!(container = record.name, %error, "could not be started again");
            (self.hear)(News::Exited {
                id: id.to_owned(),
                code: error.exit_code(),
                stopped: false,
            });
        }
    }

    /// Runs a health probe; `None` when the container does not run any more.
    pub async fn probe(&self, id: &str, check: &Check) -> Option<Probed> {
        // Frozen, it can answer nothing: it is asked when it goes on.
        let _ = self
            .paused
            .subscribe()
            .wait_for(|paused| !paused.contains(id))
            .await;
        let (Some(running), Ok(Some(record))) = (self.running(id), self.record(id)) else {
            return None;
        };
        // On its own: whoever gives up waiting for the answer leaves a process
        // that is still to be reaped.
        let (world, check) = (self.world.clone(), check.clone());
        let probe = tokio::spawn(async move { probe::run(&world, &record, &running, &check).await });
        probe.await.ok()
    }

    /// A plan has come to its end. Containers that it has stopped and, having
    /// failed or been cancelled, not started again are their restart policy's.
    pub fn plan_done(&self) {
        let left: Vec<String> = self.resting().drain().collect();
        for id in left {
            let Ok(Some(record)) = self.record(&id) else {
                continue;
            };
            if record.stopped || self.live().contains_key(&id) {
                continue;
            }
            if let Ok(ContainerState::Exited { code, .. }) =
                state(&self.world.container(&self.project, &id), record.stopped)
            {
                self.hear(News::Exited {
                    id,
                    code,
                    stopped: false,
                });
            }
        }
    }

    /// Removes the containers of `pre_start` hooks that nobody waits for any more:
    /// whoever did was cut off.
    ///
    /// # Errors
    /// [`HostError`] when records cannot be read or one cannot be removed.
    pub async fn clear_hooks(self: &Arc<Self>) -> Result<(), HostError> {
        prepare::clear(self).await
    }

    /// Notes a health verdict where `ps` finds it.
    pub fn note_health(&self, id: &str, record: &HealthRecord) {
        let path = health::path(&self.world.container(&self.project, id));
        if let Err(error) = write_record(&path, record) {
            tracing::warn!(%error, "a container's health was not recorded");
        }
    }

    /// How a monitor brings the supervisor back.
    pub(super) fn revive(&self) -> Revive {
        self.revive.clone()
    }

    /// Lets everybody know what a hook of a container prints.
    pub(super) fn teller(&self, name: &str) -> hook::Say {
        let (hear, name) = (self.hear.clone(), name.to_owned());
        Arc::new(move |line| {
            hear(News::Said {
                name: name.clone(),
                line,
            });
        })
    }

    pub(super) fn hear(&self, news: News) {
        (self.hear)(news);
    }

    pub(super) fn live(&self) -> std::sync::MutexGuard<'_, HashMap<String, Live>> {
        // Every change under the lock is one insertion or removal.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present run of a container.
    pub(super) fn running(&self, id: &str) -> Option<RunningRecord> {
        self.live().get(id).map(|live| live.running.clone())
    }

    /// What the containers do that run, by id: at hand, where anybody else has to
    /// read records and the kernel's files for it.
    fn running_states(&self) -> HashMap<String, ContainerState> {
        let paused = self.paused.borrow().clone();
        let live = self.live();
        // The end of one may not have been heard of yet.
        let running = live.iter().filter(|(_, live)| !live.monitor.has_ended());
        let state = |(id, live): (&String, &Live)| {
            let state = ContainerState::Running {
                started: live.running.started_at,
                paused: paused.contains(id),
            };
            (id.clone(), state)
        };
        running.map(state).collect()
    }

    /// Whether a container runs.
    pub fn runs(&self, id: &str) -> bool {
        self.live().contains_key(id)
    }

    /// Runs a command in a container as a hook, to its end; `kind` is what its
    /// failure calls it. Nothing is done in a container that does not run.
    ///
    /// # Errors
    /// [`HostError::Hook`] when it cannot be run or ends with another status
    /// than 0.
    pub async fn run_hook(&self, id: &str, kind: &'static str, command: &Hook) -> Result<(), HostError> {
        let (Some(running), Some(record)) = (self.running(id), self.record(id)?) else {
            return Ok(());
        };
        let hooks = std::slice::from_ref(command);
        hook::run(&running, &record.name, kind, hooks, self.teller(&record.name)).await
    }

    /// Containers that are stopped to be started again by the same plan.
    pub(super) fn resting(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, id: &str) -> Result<Option<ContainerRecord>, HostError> {
        Ok(read_record(&self.world.container(&self.project, id).record())?)
    }

    /// The right to change one container.
    pub(super) async fn lock(&self, id: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.entry(id.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// The record of a container that an action is about.
    fn target(&self, target: &Target) -> Result<ContainerRecord, HostError> {
        let found = match &target.id {
            Some(id) => self.record(id)?,
            // An earlier action of the same plan made it: the newest of that number.
            None => {
                let key = lease_key(&self.project, &target.service, target.number);
                let mut newest: Option<ContainerRecord> = None;
                for id in self.holders().of(&key) {
                    let found = self.record(&id)?;
                    if found.as_ref().map(|found| found.created)
                        > newest.as_ref().map(|newest| newest.created)
                    {
                        newest = found;
                    }
                }
                newest
            }
        };
        found.ok_or_else(|| HostError::NoContainer {
            name: target.name.clone(),
        })
    }

    pub(super) fn record_of(&self, target: &Target) -> Result<Option<ContainerRecord>, HostError> {
        match self.target(target) {
            Ok(record) => Ok(Some(record)),
            Err(HostError::NoContainer { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// Who has which lease.
    pub(super) fn holders(&self) -> std::sync::MutexGuard<'_, Holders> {
        // Every change under the lock is one insertion or removal.
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the configs and secrets of a container up to date before it is
    /// started by a command, which knows values that no record has.
    async fn give_again(&self, project: &Project, record: &ContainerRecord) -> Result<(), HostError> {
        let Some(service) = project.services.get(&record.config.name) else {
            return Ok(());
        };
        let same = service.configs == record.config.configs && service.secrets == record.config.secrets;
        if record.given.is_empty() || !same {
            return Ok(());
        }
        let _guard = self.lock(&record.id).await;
        let Some(mut record) = self.record(&record.id)? else {
            return Ok(());
        };
        let given = given::of(project, service)?;
        let paths = self.world.container(&self.project, &record.id);
        given::write(&paths, &given)?;
        if record.given != given {
            record.given = given;
            write_record(&paths.record(), &record)?;
        }
        Ok(())
    }
}

impl Host for Machine {
    async fn observe(self: &Arc<Self>, project: &Arc<Project>) -> Result<Observed, HostError> {
        // What is being stopped would be seen running.
        let stopping = std::mem::take(&mut *self.stopping.lock().unwrap_or_else(PoisonError::into_inner));
        for stop in stopping {
            let _ = stop.await;
        }
        let (machine, project) = (self.clone(), project.clone());
        blocking(move || view::observe_with(&machine.world, &project, &machine.running_states())).await
    }

    async fn perform(
        self: &Arc<Self>,
        project: &Project,
        operation: &Operation,
    ) -> Result<Vec<String>, HostError> {
        match operation {
            Operation::PullImage { image, always } => {
                if *always || self.images.resolve(image)?.is_none() {
                    self.images.pull(image, |_| {}).await?;
                }
                Ok(vec![])
            }
            Operation::CreateNetwork { network, .. } => create::network(self, project, network).await,
            Operation::RemoveNetwork { id, .. } => {
                let (world, id) = (self.world.clone(), id.clone());
                blocking(move || Ok(bridge::remove(&world, &[&id])?)).await?;
                Ok(vec![])
            }
            Operation::CreateVolume { volume, .. } => create::volume(self, project, volume).await,
            Operation::RemoveVolume { name } => {
                let (world, name) = (self.world.clone(), name.clone());
                let project = self.project.clone();
                blocking(move || match others::user_of_volume(&world, &project, &name)? {
                    Some(user) => Err(HostError::VolumeInUse { name, user }),
                    None => Ok(Volumes::new(&world).remove(&name)?),
                })
                .await?;
                Ok(vec![])
            }
            Operation::CreateContainer {
                service,
                number,
                name,
                inherit,
                one_off,
            } => {
                let wanted = create::Wanted {
                    number: *number,
                    name,
                    inherit: inherit.as_deref(),
                    one_off: one_off.as_ref(),
                };
                create::container(self, project, service, &wanted).await
            }
            Operation::UpdateContainer { container, .. } => update::container(self, project, container).await,
            Operation::Prepare { service, number } => prepare::run(self, project, service, *number).await,
            Operation::StartContainer { container } => {
                let record = self.target(container)?;
                self.give_again(project, &record).await?;
                let warnings = start::start(self, &record.id, false).await?;
                if !record.config.post_start.is_empty()
                    && let Some(running) = self.running(&record.id)
                {
                    let (hooks, say) = (&record.config.post_start, self.teller(&record.name));
                    hook::run(&running, &record.name, "post_start", hooks, say).await?;
                }
                Ok(warnings)
            }
            Operation::SignalContainer { container, signal } => self.signal(container, signal).await,
            Operation::PauseContainer { container } => self.freeze(container, true).await,
            Operation::UnpauseContainer { container } => self.freeze(container, false).await,
            Operation::StopContainer {
                container,
                timeout,
                signal,
                again,
            } => self.stop(container, *timeout, signal.as_deref(), *again).await,
            Operation::RemoveContainer {
                container,
                volumes,
                replaced,
            } => {
                if *replaced {
                    self.hand_on_volumes(container).await?;
                }
                self.remove(container, *volumes).await.map(|()| vec![])
            }
            // Waits are the supervisor's: it knows who is healthy.
            Operation::Await { .. } | Operation::Settle { .. } => Ok(vec![]),
        }
    }
}

/// Tells who would bring this supervisor back that nobody needs to.
fn goodbye(mut link: &UnixStream) {
    // One that is gone needs not be told.
    let _ = std::io::Write::write_all(&mut link, b"\n");
}

/// Runs system calls that may take a while on a thread for such.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, HostError> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(HostError::Interrupted {
            reason: error.to_string(),
        }),
    }
}

//! What has happened to the containers of a stack, for `rcompose events`.
//!
//! One JSON object a line in `<stack>/events`, appended with one write each by
//! the supervisor (and by `exec`, which needs none). When the file has grown to
//! [`LONGEST`] it becomes `events.old` in place of the one before, so that two
//! of them bound what is kept. Followers read on through that: [`Follower`].
//!
//! Losing a line harms nobody, so nothing is synced, and what cannot be written
//! (a full disk) is left out: no event ever holds up what it tells of. A torn
//! line is skipped by readers. A supervisor that takes over compares the journal
//! with what is there and adds what the one before could not ([`Journal::mend`]).
//!
//! Weak: the journal goes with the stack's last container, so that `down` leaves
//! nothing behind; only who follows sees its end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::host::{ContainerRecord, View};
use crate::lifecycle::Health;
use crate::plan::ContainerState;
use crate::runtime::ExitRecord;
use crate::store::World;

/// When a file has so many bytes, the next event begins another one.
pub const LONGEST: u64 = 1 << 20;

/// Something that happened. The words are docker's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// `container`, `network` or `volume`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What: `create`, `start`, `die`, `health_status: healthy`, ….
    pub action: String,
    /// Service key; empty for what belongs to none.
    #[serde(default)]
    pub service: String,
    /// Container or network id, or the volume's name.
    pub id: String,
    /// Name, image, the user's labels, and what the action adds (`exitCode`).
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// The journal of a stack.
pub fn path(world: &World, project: &str) -> PathBuf {
    world.stack(project).join("events")
}

/// The journal before that one.
pub fn old_path(world: &World, project: &str) -> PathBuf {
    world.stack(project).join("events.old")
}

/// Removes the journal of a stack that is no more.
pub(super) fn remove(world: &World, project: &str) {
    let _ = fs::remove_file(path(world, project));
    let _ = fs::remove_file(old_path(world, project));
}

/// Adds an event of a container from outside of the supervisor; nothing when
/// the stack has no journal.
pub fn note(world: &World, record: &ContainerRecord, action: &str, more: &[(&str, String)]) {
    let mut event = of_container(&Facts::of(record), &record.id, action, now());
    for (name, value) in more {
        event.attributes.insert((*name).to_owned(), value.clone());
    }
    if let Ok(line) = line(&event)
        && let Ok(mut file) = OpenOptions::new().append(true).open(path(world, &record.project))
    {
        let _ = file.write_all(&line);
    }
}

fn line(event: &Event) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line)
}

fn of_container(facts: &Facts, id: &str, action: &str, time: u64) -> Event {
    Event {
        time,
        kind: "container".to_owned(),
        action: action.to_owned(),
        service: facts.service.clone(),
        id: id.to_owned(),
        attributes: facts.attributes.clone(),
    }
}

/// Nanoseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What every event of a container says of it.
#[derive(Clone, Debug, Default)]
struct Facts {
    service: String,
    attributes: BTreeMap<String, String>,
}

impl Facts {
    fn of(record: &ContainerRecord) -> Self {
        let own = |name: &str| !name.starts_with("com.docker.compose.");
        let labels = record.labels.iter().filter(|(name, _)| own(name));
        let mut attributes: BTreeMap<String, String> = labels
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        attributes.insert("image".to_owned(), record.config.image.clone());
        attributes.insert("name".to_owned(), record.name.clone());
        Self {
            service: record.config.name.clone(),
            attributes,
        }
    }
}

/// The supervisor's end of the journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    old: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    file: Option<File>,
    length: u64,
    /// The last write may have left a piece of a line.
    torn: bool,
    facts: HashMap<String, Facts>,
    /// Containers whose last event says that they run.
    running: HashSet<String>,
    /// Containers that were stopped to be started again.
    resting: HashSet<String>,
}

impl Journal {
    /// The journal of a stack. Nothing is made before there is something to tell.
    pub(super) fn new(world: &World, project: &str) -> Self {
        Self {
            path: path(world, project),
            old: old_path(world, project),
            inner: Mutex::default(),
        }
    }

    /// Adds what a former supervisor, killed, could not: `views` is what is there.
    pub(super) fn mend(&self, views: &[View], exits: impl Fn(&ContainerRecord) -> Option<ExitRecord>) {
        let mut last: BTreeMap<String, Event> = BTreeMap::new();
        for path in [&self.old, &self.path] {
            for event in read(path) {
                if event.kind == "container" && tells_state(&event.action) {
                    last.insert(event.id.clone(), event);
                }
            }
        }
        for view in views {
            let record = &view.record;
            self.learn(record);
            let last = last.remove(&record.id);
            let action = last.as_ref().map(|event| event.action.as_str());
            if action.is_none() {
                self.add(&record.id, "create", record.created, &[]);
            }
            let ran = matches!(action, Some("start" | "restart" | "pause" | "unpause"));
            match &view.state {
                ContainerState::Running { started, .. } if ran => {
                    self.lock().running.insert(record.id.clone());
                    // It may have been started again since.
                    if last.is_some_and(|event| event.time < *started && event.action == "start") {
                        self.died(record, None);
                        self.started(record, *started);
                    }
                }
                ContainerState::Running { started, .. } => self.started(record, *started),
                ContainerState::Exited { .. } if ran => {
                    self.lock().running.insert(record.id.clone());
                    self.died(record, exits(record));
                }
                _ => {}
            }
        }
        for (id, event) in last {
            if event.action != "destroy" {
                let facts = Facts {
                    service: event.service,
                    attributes: event.attributes,
                };
                self.lock().facts.insert(id.clone(), facts);
                self.destroyed(&id);
            }
        }
    }

    /// Takes in what a container is, for later events.
    pub(super) fn learn(&self, record: &ContainerRecord) {
        self.lock()
            .facts
            .entry(record.id.clone())
            .or_insert_with(|| Facts::of(record));
    }

    pub(super) fn created(&self, record: &ContainerRecord) {
        self.learn(record);
        self.add(&record.id, "create", now(), &[]);
    }

    pub(super) fn started(&self, record: &ContainerRecord, time: u64) {
        self.learn(record);
        self.lock().running.insert(record.id.clone());
        self.add(&record.id, "start", time, &[]);
        if self.lock().resting.remove(&record.id) {
            self.add(&record.id, "restart", time, &[]);
        }
    }

    /// A run has ended; nothing when no event says that it had begun.
    pub(super) fn died(&self, record: &ContainerRecord, exit: Option<ExitRecord>) {
        self.learn(record);
        if !self.lock().running.remove(&record.id) {
            return;
        }
        let exit = exit.unwrap_or(ExitRecord {
            code: 137,
            finished_at: now(),
            ..ExitRecord::default()
        });
        if exit.oom_killed {
            self.add(&record.id, "oom", exit.finished_at, &[]);
        }
        let passed = match exit.started_at {
            0 => 0,
            started => exit.finished_at.saturating_sub(started) / 1_000_000_000,
        };
        let more = [
            ("execDuration", passed.to_string()),
            ("exitCode", exit.code.to_string()),
        ];
        self.add(&record.id, "die", exit.finished_at, &more);
    }

    /// Whether the last event of a container says that it runs.
    pub(super) fn runs(&self, id: &str) -> bool {
        self.lock().running.contains(id)
    }

    /// A container that runs is being stopped; with `again`, to be started once more.
    pub(super) fn stopping(&self, record: &ContainerRecord, signal: i32, again: bool) {
        self.learn(record);
        if again {
            self.lock().resting.insert(record.id.clone());
        }
        self.signalled(record, signal);
    }

    /// A container that runs is sent a signal.
    pub(super) fn signalled(&self, record: &ContainerRecord, signal: i32) {
        self.learn(record);
        self.add(&record.id, "kill", now(), &[("signal", signal.to_string())]);
    }

    /// A container is `pause`d, `unpause`d.
    pub(super) fn changed(&self, record: &ContainerRecord, action: &str) {
        self.learn(record);
        self.add(&record.id, action, now(), &[]);
    }

    pub(super) fn stopped(&self, id: &str) {
        self.add(id, "stop", now(), &[]);
    }

    pub(super) fn health(&self, id: &str, health: Health) {
        let action = match health {
            Health::Starting => "health_status: starting",
            Health::Healthy => "health_status: healthy",
            Health::Unhealthy => "health_status: unhealthy",
        };
        self.add(id, action, now(), &[]);
    }

    pub(super) fn destroyed(&self, id: &str) {
        self.add(id, "destroy", now(), &[]);
        let mut inner = self.lock();
        inner.facts.remove(id);
        inner.running.remove(id);
        inner.resting.remove(id);
    }

    /// An event of a network or a volume.
    pub(super) fn resource(&self, kind: &str, action: &str, id: &str, attributes: &[(&str, &str)]) {
        let attributes = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.append(&Event {
            time: now(),
            kind: kind.to_owned(),
            action: action.to_owned(),
            service: String::new(),
            id: id.to_owned(),
            attributes: attributes.collect(),
        });
    }

    /// An event of a container that is known.
    fn add(&self, id: &str, action: &str, time: u64, more: &[(&str, String)]) {
        let facts = self.lock().facts.get(id).cloned().unwrap_or_default();
        let mut event = of_container(&facts, id, action, time);
        for (name, value) in more {
            event.attributes.insert((*name).to_owned(), value.clone());
        }
        self.append(&event);
    }

    fn append(&self, event: &Event) {
        let Ok(line) = line(event) else { return };
        if let Err(error) = self.write(&line) {
            tracing::warn!(%error, "an event was not noted");
        }
    }

    fn write(&self, line: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.file.is_some() && inner.length >= LONGEST {
            inner.file = None;
            fs::rename(&self.path, &self.old)?;
        }
        if inner.file.is_none() {
            let mut file = OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&self.path)?;
            inner.length = file.metadata()?.len();
            // The one before may have been killed in the middle of a line.
            let mut end = [b'\n'];
            if inner.length > 0 {
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut end)?;
            }
            inner.torn = end != [b'\n'];
            inner.file = Some(file);
        }
        let torn = inner.torn;
        let Some(file) = &mut inner.file else {
            return Ok(());
        };
        if torn {
            file.write_all(b"\n")?;
        }
        let written = file.write_all(line);
        inner.torn = written.is_err();
        inner.length += u64::try_from(line.len()).unwrap_or(0);
        written
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change under the lock is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an action says whether a container runs, or is there.
fn tells_state(action: &str) -> bool {
    matches!(
        action,
        "create" | "start" | "die" | "stop" | "destroy" | "restart" | "pause" | "unpause"
    )
}

/// The events in a file; none when it is not there.
fn read(path: &Path) -> Vec<Event> {
    let bytes = fs::read(path).unwrap_or_default();
    bytes.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

fn parse(line: &[u8]) -> Option<Event> {
    serde_json::from_slice(line).ok()
}

/// Reads a journal, and what is added to it, across its renewals.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Follower {
    /// Everything that is kept, and then what is added.
    pub fn from_start(world: &World, project: &str) -> (Self, Vec<Event>) {
        let path = path(world, project);
        // The present one is opened first: what is renamed meanwhile is read
        // twice rather than not at all, and told once.
        let mut follower = Self {
            file: File::open(&path).ok(),
            path,
            rest: Vec::new(),
        };
        let mut events = read(&old_path(world, project));
        let newer = follower.next();
        events.retain(|event| !newer.contains(event));
        events.extend(newer);
        (follower, events)
    }

    /// Only what is added from now on.
    pub fn from_end(world: &World, project: &str) -> Self {
        let path = path(world, project);
        let file = File::open(&path).and_then(|mut file| {
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        });
        Self {
            file: file.ok(),
            path,
            rest: Vec::new(),
        }
    }

    /// The file that is read now, to wait for its change.
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// What has been added since the last call.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator that has ended cannot go on"
    )]
    pub fn next(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            if let Some(file) = &mut self.file {
                let _ = file.read_to_end(&mut self.rest);
                let whole = self
                    .rest
                    .iter()
                    .rposition(|byte| *byte == b'\n')
                    .map_or(0, |end| end + 1);
                let lines: Vec<u8> = self.rest.drain(..whole).collect();
                events.extend(lines.split(|byte| *byte == b'\n').filter_map(parse));
            }
            // Another one has taken its place, or it is the first.
            let Ok(next) = File::open(&self.path) else {
                return events;
            };
            if same(self.file.as_ref(), &next) {
                return events;
            }
            self.file = Some(next);
            self.rest.clear();
        }
    }
}

fn same(old: Option<&File>, new: &File) -> bool {
    let id = |file: &File| file.metadata().ok().map(|file| (file.dev(), file.ino()));
    old.is_some_and(|old| id(old).is_some() && id(old) == id(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> (tempfile::TempDir, World) {
        let folder = tempfile::tempdir().unwrap();
        let world = World::new(Some(folder.path()));
        fs::create_dir_all(world.stack("p")).unwrap();
        (folder, world)
    }

    fn network(journal: &Journal, name: &str) {
        journal.resource("network", "create", name, &[("name", name)]);
    }

    fn ids(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.id.as_str()).collect()
    }

    #[test]
    fn what_is_added_is_read_once_and_tears_are_skipped() {
        let (_folder, world) = world();
        let mut early = Follower::from_end(&world, "p");
        assert!(early.next().is_empty());
        let journal = Journal::new(&world, "p");
        network(&journal, "a");
        assert_eq!(ids(&early.next()), ["a"]);
        // A supervisor was killed while it wrote.
        let mut file = OpenOptions::new().append(true).open(path(&world, "p")).unwrap();
        file.write_all(b"{\"time\":1,\"ty").unwrap();
        let journal = Journal::new(&world, "p");
        network(&journal, "b");
        assert_eq!(ids(&early.next()), ["b"]);
        let (mut follower, events) = Follower::from_start(&world, "p");
        assert_eq!(ids(&events), ["a", "b"]);
        let mut late = Follower::from_end(&world, "p");
        network(&journal, "c");
        assert_eq!(ids(&follower.next()), ["c"]);
        assert_eq!(ids(&late.next()), ["c"]);
        remove(&world, "p");
        assert!(follower.next().is_empty());
        network(&Journal::new(&world, "p"), "d");
        assert_eq!(
            ids(&follower.next()),
            ["d"],
            "a journal that is made anew is followed"
        );
    }

    #[test]
    fn it_is_bounded_and_followers_read_on() {
        let (_folder, world) = world();
        let journal = Journal::new(&world, "p");
        let mut follower = Follower::from_end(&world, "p");
        let long = "x".repeat(64 << 10);
        let mut seen = 0;
        for number in 0..100 {
            journal.resource("volume", "create", &number.to_string(), &[("name", &long)]);
            if number % 7 == 0 {
                seen += follower.next().len();
            }
        }
        seen += follower.next().len();
        assert_eq!(seen, 100);
        let size = |path: PathBuf| fs::metadata(path).unwrap().len();
        assert!(size(path(&world, "p")) <= LONGEST + (70 << 10));
        assert!(size(old_path(&world, "p")) <= LONGEST + (70 << 10));
        let (_, events) = Follower::from_start(&world, "p");
        assert_eq!(events.last().unwrap().id, "99");
        assert!(events.len() > 16 && events.len() < 40, "{}", events.len());
    }
}

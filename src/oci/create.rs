//! `create`, `run` and `start`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd, IntoRawFd as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::{ContainerState, LinuxNamespace, LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
use serde_json::value::RawValue;

use super::arguments::Invocation;
use super::container::{Container, Folder, Record, Status, mount_of};
use super::error::OciError;
use super::log::Log;
use super::notify::{self, Ready};
use super::{lifecycle, terminal, wait};
use crate::runtime::bundle::{self, BundleRequest, Created};
use crate::runtime::{Process, RuntimeError, Step, capability};
use crate::sys::process;

/// How long a process may take to end when it has nothing left to do.
const GOING: Duration = Duration::from_secs(5);

/// `create`: everything but the program.
pub(super) fn create(invocation: &Invocation, log: &Log) -> Result<i32, OciError> {
    let folder = Folder::named(invocation)?;
    let console = Console::of(invocation, true)?;
    let (made, record, _) = make(&folder, invocation, &console, true, log)?;
    let finish = || -> Result<(), OciError> {
        if let (Console::Socket(socket), Some(master)) = (&console, &made.terminal) {
            terminal::send(socket, master.as_fd())?;
        }
        hand_out(invocation, Some(&record), &made.init)
    };
    if let Err(error) = finish() {
        // It waits for a start that nobody can ask for.
        clear_up(folder, log);
        return Err(error);
    }
    Ok(0)
}

/// `run`: `create` and `start` in one, and without `--detach` all of its life.
pub(super) fn run(invocation: &Invocation, log: &Log) -> Result<i32, OciError> {
    let folder = Folder::named(invocation)?;
    let detach = invocation.has("detach");
    let console = Console::of(invocation, detach)?;
    if !detach && !invocation.has("no-subreaper") {
        // What the container leaves behind is ours to reap.
        process::become_subreaper().map_err(OciError::io("become subreaper of", &folder.id))?;
    }
    let (made, record, ready) = make(&folder, invocation, &console, false, log)?;
    let go_on = || -> Result<Option<i32>, OciError> {
        if let (Console::Socket(socket), Some(master)) = (&console, &made.terminal) {
            terminal::send(socket, master.as_fd())?;
        }
        hand_out(invocation, Some(&record), &made.init)?;
        poststart(&Folder::named(invocation)?.load()?)?;
        if detach {
            await_ready(ready.as_ref(), &made.init, log);
            return Ok(None);
        }
        let master = made.terminal.filter(|_| matches!(console, Console::Relay));
        wait::until_end(&made.init, master, ready.as_ref()).map(Some)
    };
    match go_on() {
        Ok(None) => Ok(0),
        Ok(Some(status)) => {
            if !invocation.has("keep") {
                lifecycle::remove_ended(folder, record, log)?;
            }
            Ok(status)
        }
        Err(error) => {
            clear_up(folder, log);
            Err(error)
        }
    }
}

/// `start`: the program of a created container.
pub(super) fn start(invocation: &Invocation, log: &Log) -> Result<i32, OciError> {
    let folder = Folder::named(invocation)?;
    let held = folder.lock()?;
    let container = folder.load()?;
    match container.status {
        Status::Created => {}
        // The words of the runtimes before us.
        Status::Stopped => {
            return Err(OciError::Usage(format!(
                "cannot start a container that has stopped: {}",
                container.folder.id
            )));
        }
        _ => return Err(container.wrong_status("start")),
    }
    let ready = Ready::listen(&container.folder.path)?;
    if let Err(error) = bundle::start(&container.folder.path) {
        if matches!(&error, RuntimeError::Failed(failure) if failure.step == Step::Hook) {
            // To the runtimes before us it was started when its own hooks run: those
            // that follow run, too. What they come to changes nothing any more.
            let _ = poststart(&container);
        }
        // It has said so and ends: whoever hears of it deletes it next.
        if let Some(process) = &container.process {
            process.ends_within(Some(GOING));
        }
        return Err(error.into());
    }
    if let Err(error) = poststart(&container) {
        drop(held);
        clear_up(Folder::named(invocation)?, log);
        return Err(error);
    }
    // Others may stop it meanwhile.
    drop(held);
    if let Some(process) = &container.process {
        await_ready(ready.as_ref(), process, log);
    }
    Ok(0)
}

/// Waits until a program that tells when it is ready has said so. It runs whether
/// the manager hears of it or not.
fn await_ready(ready: Option<&Ready>, process: &Process, log: &Log) {
    if let Some(Err(error)) = ready.map(|ready| ready.wait(process)) {
        log.warn_aloud(&format!("NOTIFY_SOCKET: {}", crate::runtime::describe(&error)));
    }
}

/// The hooks that follow the start. One that fails ends the container, with all
/// that was made for it (OCI runtime spec 1.3, "Lifecycle", step 9).
fn poststart(container: &Container) -> Result<(), OciError> {
    let mut state = container.state();
    state.set_status(ContainerState::Running);
    Ok(bundle::run_poststart(&container.record.poststart, &state)?)
}

/// Where the terminal of a container goes.
#[derive(Debug)]
enum Console {
    /// There is none.
    None,
    /// To whoever listens on this socket.
    Socket(PathBuf),
    /// To our own terminal.
    Relay,
}

impl Console {
    fn of(invocation: &Invocation, detach: bool) -> Result<Self, OciError> {
        Ok(match invocation.value("console-socket") {
            Some(path) if !path.is_empty() => Self::Socket(path.into()),
            _ if detach => Self::None,
            _ => Self::Relay,
        })
    }

    fn fits(&self, terminal: bool) -> Result<(), OciError> {
        match (self, terminal) {
            (Self::None, true) => Err(OciError::Usage(
                "cannot allocate tty if rcompose-oci will detach without setting console socket".into(),
            )),
            (Self::Socket(_), false) => Err(OciError::Usage(
                "cannot use console socket if rcompose-oci will not detach or allocate tty".into(),
            )),
            _ => Ok(()),
        }
    }
}

/// Makes the container with its record, and the socket of a program that runs at
/// once and tells when it is ready.
fn make(
    folder: &Folder,
    invocation: &Invocation,
    console: &Console,
    wait: bool,
    log: &Log,
) -> Result<(Created, Record, Option<Ready>), OciError> {
    let preserved = preserved(invocation)?;
    let place = fs::canonicalize(invocation.value("bundle").unwrap_or(".")).map_err(OciError::io(
        "open bundle",
        invocation.value("bundle").unwrap_or("."),
    ))?;
    let config = invocation.value("config").unwrap_or("config.json");
    let (mut spec, ignored) = read_spec(&place.join(config))?;
    let own_users = spec.linux().iter().any(|linux| {
        let all = linux.namespaces().iter().flatten();
        all.into_iter().any(|one| one.typ() == LinuxNamespaceType::User)
    });
    for warning in ignored.into_iter().chain(
        spec.process()
            .iter()
            .flat_map(|process| not_granted(process, own_users)),
    ) {
        log.warn_aloud(&warning);
    }
    let systemd = invocation.has("systemd-cgroup") || invocation.value("cgroup-manager") == Some("systemd");
    if systemd && !rustix::process::geteuid().is_root() {
        return Err(OciError::Usage(
            "--systemd-cgroup is supported for root only: the systemd of other users is not asked".into(),
        ));
    }
    if let Some(process) = spec.process_mut() {
        console.fits(process.terminal() == Some(true))?;
        listening_descriptors(process);
    }
    let root = spec.root().as_ref().map(|root| place.join(root.path()));
    for mount in spec.mounts_mut().iter_mut().flatten() {
        // One that is written as a path of the host is the container's all the same,
        // as with runc.
        let inside = root
            .as_ref()
            .and_then(|root| mount.destination().strip_prefix(root).ok())
            .map(|inside| Path::new("/").join(inside));
        if let Some(inside) = inside {
            mount.set_destination(inside);
        }
        if mount.destination().is_relative() {
            // Below the root, as the runtimes before us take it.
            mount.set_destination(Path::new("/").join(mount.destination()));
        }
        let bind = mount.typ().as_deref() == Some("bind")
            || mount
                .options()
                .iter()
                .flatten()
                .any(|option| matches!(option.as_str(), "bind" | "rbind"));
        if let Some(source) = mount
            .source()
            .clone()
            .filter(|source| bind && source.is_relative())
        {
            mount.set_source(Some(place.join(source)));
        }
    }
    // What `exec` starts has no socket to tell anything.
    let process = spec.process().clone().unwrap_or_default();
    let notifies = notify::prepare(&mut spec, &folder.path);
    let request = BundleRequest {
        id: &folder.id,
        spec: &spec,
        bundle: &place,
        state_folder: &folder.path,
        wait,
        no_pivot: invocation.has("no-pivot"),
        keep_keyring: invocation.has("no-new-keyring"),
        relayed: matches!(console, Console::Relay),
        preserved,
        outlives: wait || invocation.has("detach"),
        systemd,
    };
    // All that can be wrong with the configuration, before anything is made.
    let (plan, fixed) = bundle::check(&request)?;
    if let Some(flags) = plan.filter_flags() {
        log.debug(&format!("seccomp filter flags: {flags}"));
    }
    let hooks = spec.hooks().clone().unwrap_or_default();
    let namespaces: Vec<&LinuxNamespace> = spec
        .linux()
        .iter()
        .flat_map(|linux| linux.namespaces().iter().flatten())
        .collect();
    let own_pids = namespaces
        .iter()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none());
    let on_host = !namespaces
        .iter()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Mount);
    let held = folder.make()?;
    let make = || -> Result<(Created, Record, Option<Ready>), OciError> {
        if notifies {
            notify::make_folder(&folder.path)?;
        }
        let ready = if wait { None } else { Ready::listen(&folder.path)? };
        let rootfs = place.join(spec.root().as_ref().map_or(Path::new(""), |root| root.path()));
        let mut record = Record {
            state: bundle::state(&folder.id, &spec, &place, ContainerState::Creating, None),
            root_is_in: on_host.then(|| mount_of(&rootfs)).flatten(),
            rootfs,
            created: jiff::Timestamp::now().to_string(),
            owner: rustix::process::geteuid().as_raw(),
            poststart: hooks.poststart().clone().unwrap_or_default(),
            poststop: hooks.poststop().clone().unwrap_or_default(),
            own_pids,
            process: process.clone(),
            fixed: fixed.clone(),
        };
        folder.write("record.json", &record)?;
        let mut fixed = fixed;
        let created = bundle::create(&request, plan, &mut fixed, &mut |_, init| {
            folder.write("init.json", &init).map_err(|error| match error {
                OciError::Io { source, .. } => RuntimeError::io("write", "record of container")(source),
                other => RuntimeError::io("write", other.to_string())(std::io::ErrorKind::Other.into()),
            })
        })?;
        for warning in &created.warnings {
            log.warn(warning);
        }
        let pid = created.init.id().pid;
        log.debug(&format!("container {} has process {pid}", folder.id));
        record.fixed = fixed;
        Ok((created, record, ready))
    };
    let made = make();
    if made.is_err() {
        if let Some(record) = folder.read::<Record>("record.json")? {
            record.unmount_root()?;
        }
        folder.remove()?;
    }
    drop(held);
    made
}

/// Reads a bundle's configuration.
fn read_spec(path: &Path) -> Result<(Spec, Vec<String>), OciError> {
    let wrong = |reason: String| OciError::Config {
        subject: path.display().to_string(),
        reason,
    };
    let bytes = fs::read(path).map_err(OciError::io("open", path.display().to_string()))?;
    parse_spec(&bytes).map_err(wrong)
}

/// A configuration from its text, and what of it is passed over.
///
/// # Errors
/// What is wrong, and where.
pub(super) fn parse_spec(bytes: &[u8]) -> Result<(Spec, Vec<String>), String> {
    // The crate fills in defaults for a container of its own; what a bundle
    // leaves out is not there.
    let fields: BTreeMap<Cow<'_, str>, &RawValue> =
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    // From the text where that can be: then errors say in which line.
    let mut ignored = Vec::new();
    let spec = serde_json::from_slice(bytes).or_else(|error| {
        let mut value: serde_json::Value = serde_json::from_slice(bytes)?;
        ignored = value
            .get_mut("process")
            .map(as_others_take_it)
            .unwrap_or_default();
        serde_json::from_value(value).map_err(|_| error)
    });
    let spec: Spec = spec.map_err(|error: serde_json::Error| match wrong_memory_policy(bytes) {
        Some(reason) => format!("{reason}: {error}"),
        None => error.to_string(),
    })?;
    for field in ["ociVersion", "root"] {
        if !fields.contains_key(field) {
            return Err(format!("{field} is missing"));
        }
    }
    Ok((spec, ignored))
}

/// What is wrong with the memory policy of a configuration that was not understood,
/// in the words callers know; `None` when it is something else.
fn wrong_memory_policy(bytes: &[u8]) -> Option<String> {
    use oci_spec::runtime::{MemoryPolicyFlagType, MemoryPolicyModeType};
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let policy = value.get("linux")?.get("memoryPolicy")?;
    let mode = policy.get("mode").cloned().unwrap_or_else(|| "".into());
    if serde_json::from_value::<MemoryPolicyModeType>(mode.clone()).is_err() {
        return Some(format!("invalid memory policy mode {mode}"));
    }
    let flags = policy.get("flags")?.as_array()?;
    let wrong =
        |flag: &&serde_json::Value| serde_json::from_value::<MemoryPolicyFlagType>((*flag).clone()).is_err();
    Some(format!(
        "invalid memory policy flag {}",
        flags.iter().find(wrong)?
    ))
}

/// Makes a process what the crate takes, where that is stricter than the runtimes
/// before us: flags of the scheduler by the spec's names, no user (root then), and
/// capabilities of other kernels, which are passed over. What is.
pub(super) fn as_others_take_it(process: &mut serde_json::Value) -> Vec<String> {
    rename_scheduler_flags(process);
    let Some(object) = process.as_object_mut() else {
        return Vec::new();
    };
    object
        .entry("user")
        .or_insert_with(|| serde_json::json!({"uid": 0, "gid": 0}));
    let mut ignored = std::collections::BTreeSet::new();
    let sets = object
        .get_mut("capabilities")
        .and_then(|sets| sets.as_object_mut());
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()) {
        let Some(list) = set.as_array_mut() else { continue };
        list.retain(|name| {
            // What is no text is an error of the whole.
            let Some(name) = name.as_str() else { return true };
            let known = capability::bit(name).is_some();
            if !known {
                ignored.insert(name.to_owned());
            }
            known
        });
    }
    ignoring(ignored.into_iter().collect()).into_iter().collect()
}

/// What of a process's capabilities it will not get, one warning a reason: what we
/// lack ourselves (in a user namespace of its own nothing), and ambient ones that
/// are not inheritable.
pub(super) fn not_granted(process: &oci_spec::runtime::Process, own_users: bool) -> Vec<String> {
    let Some(sets) = process.capabilities() else {
        return Vec::new();
    };
    let bits = |set: &Option<_>| capability::from_spec(set.as_ref());
    let (ambient, inheritable) = (bits(sets.ambient()), bits(sets.inheritable()));
    let asked =
        bits(sets.bounding()) | bits(sets.effective()) | bits(sets.permitted()) | inheritable | ambient;
    let own = match rustix::thread::capabilities(None) {
        Ok(own) if !own_users => own.permitted.bits(),
        _ => u64::MAX,
    };
    let names = |bits: u64| capability::names(bits).map(|name| format!("CAP_{name}"));
    let mut warnings = Vec::from_iter(ignoring(names(asked & !own).collect()));
    let raised = ambient & !(inheritable & bits(sets.permitted())) & own;
    warnings.extend(names(raised).map(|name| {
        format!("can't raise ambient capability {name}: not in its inheritable and permitted sets")
    }));
    warnings
}

/// In the words that people who know the runtimes before us look for.
fn ignoring(names: Vec<String>) -> Option<String> {
    let list = names.join(" ");
    (!list.is_empty()).then(|| format!("ignoring unknown or unavailable capabilities: [{list}]"))
}

/// Flags of `process.scheduler` that the crate knows by other names than the
/// spec: that one, and the crate's.
const SCHEDULER_FLAGS: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// Gives the flags of a process's scheduler the names that the crate knows.
fn rename_scheduler_flags(process: &mut serde_json::Value) {
    let flags = process.pointer_mut("/scheduler/flags");
    let flags = flags.and_then(serde_json::Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        let known = SCHEDULER_FLAGS.iter().find(|(name, _)| flag == name);
        if let Some((_, name)) = known {
            *flag = (*name).into();
        }
    }
}

/// How many descriptors from 3 on go to the program. Those that are not open are
/// not for it either: nothing of ours may take such a number.
pub(super) fn preserved(invocation: &Invocation) -> Result<u32, OciError> {
    let asked: u32 = invocation.number("preserve-fds")?.unwrap_or(0);
    let listening = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|text| text.parse::<u32>().ok())
        .unwrap_or(0);
    let count = asked.saturating_add(listening).min(1 << 16);
    let is_open = |number: &u32| fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
    let Some(last) = (3..3 + count).rev().find(is_open) else {
        return Ok(0);
    };
    while (3..last).any(|number| !is_open(&number)) {
        // The lowest that is free. Closed when a program is executed.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let place = rustix::fs::open("/", flags, Mode::empty())
            .map_err(|error| OciError::io("open", "/")(error.into()))?;
        let _held = place.into_raw_fd();
    }
    Ok(last - 2)
}

/// Tells the program of the sockets it was started with, as systemd does.
fn listening_descriptors(process: &mut oci_spec::runtime::Process) {
    if let Ok(count) = std::env::var("LISTEN_FDS") {
        let env = process.env_mut().get_or_insert_with(Vec::new);
        env.push(format!("LISTEN_FDS={count}"));
        env.push("LISTEN_PID=1".into());
    }
}

/// Writes the pid file and sends the pidfd, for the first process of a container
/// where its annotations say, too.
pub(super) fn hand_out(
    invocation: &Invocation,
    record: Option<&Record>,
    process: &Process,
) -> Result<(), OciError> {
    let annotations = record.and_then(|record| record.state.annotations().as_ref());
    let receiver = annotations.and_then(|all| all.get(bundle::PIDFD_RECEIVER));
    let receiver = receiver.map(String::as_str);
    for path in invocation.value("pidfd-socket").into_iter().chain(receiver) {
        let pidfd: BorrowedFd<'_> = process.as_fd();
        terminal::send_over(Path::new(path), pidfd)?;
    }
    let Some(path) = invocation.value("pid-file").map(Path::new) else {
        return Ok(());
    };
    // Whole or not at all: callers wait for the file to appear.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}"));
    fs::write(&part, process.id().pid.to_string())
        .and_then(|()| fs::rename(&part, path))
        .map_err(OciError::io("write pid file", path.display().to_string()))
}

/// Removes a container that was made and must not stay.
fn clear_up(folder: Folder, log: &Log) {
    if let Err(error) = lifecycle::destroy(folder, log) {
        log.warn(&error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_names_what_it_lacks() {
        for (text, expected) in [
            ("{}", "missing"),
            ("{", "EOF"),
            ("[]", "invalid type"),
            (r#"{"ociVersion": "1.0.0"}"#, "root is missing"),
            (r#"{"ociVersion": 1, "root": {"path": "x"}}"#, "invalid type"),
        ] {
            let error = parse_spec(text.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(parse_spec(br#"{"ociVersion": "1.0.0", "root": {"path": "rootfs"}}"#).is_ok());
    }

    #[test]
    fn flags_of_the_scheduler_have_the_names_of_the_spec() {
        let flags = |list: &str| {
            let text = format!(
                r#"{{"ociVersion": "1.0.0", "root": {{"path": "rootfs"}}, "process": {{"cwd": "/", "user": {{"uid": 0,
                "gid": 0}}, "scheduler": {{"policy": "SCHED_BATCH", "flags": {list}}}}}}}"#
            );
            let (spec, _) = parse_spec(text.as_bytes())?;
            let process = spec.process().clone().unwrap_or_default();
            let flags = process.scheduler().as_ref().and_then(|one| one.flags().clone());
            Ok::<_, String>(flags.unwrap_or_default().len())
        };
        assert_eq!(
            flags(r#"["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_RECLAIM"]"#),
            Ok(3)
        );
        assert!(flags(r#"["SCHED_FLAG_NOSUCH"]"#).is_err());
    }

    #[test]
    fn a_process_may_have_no_user_and_capabilities_of_other_kernels() {
        let text = br#"{"ociVersion": "1.0.0", "root": {"path": "rootfs"}, "process": {"cwd": "/",
            "capabilities": {"bounding": ["CAP_KILL", "CAP_TO_COME"], "effective": ["CAP_TO_COME"]}}}"#;
        let (spec, ignored) = parse_spec(text).unwrap();
        let process = spec.process().clone().unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
        let sets = process.capabilities().clone().unwrap();
        assert_eq!(sets.bounding().as_ref().map(|set| set.len()), Some(1));
        assert_eq!(sets.effective().as_ref().map(|set| set.len()), Some(0));
        assert_eq!(ignored.len(), 1);
        assert!(ignored[0].contains("CAP_TO_COME"));
        // What is wrong otherwise is still said with its line.
        let wrong = br#"{"ociVersion": "1.0.0", "root": {"path": "rootfs"}, "process": {"cwd": 1}}"#;
        assert!(parse_spec(wrong).unwrap_err().contains("line"));
    }
}

//! Containers of the OCI command line: a bundle's configuration as it is, its
//! root file system as it is, and no process of ours beside it. Who called us
//! (a shim) is the container's parent once we have ended.
//!
//! The way is that of a stack's container, from spec to blueprint to the init
//! stage; what differs is a [`BundlePlan`]. Between `create` and `start` the
//! init stage listens on a socket in the container's state folder: `start`
//! connects to it and hears over the same connection whether the program could
//! be executed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{ContainerState, Hooks, LinuxDeviceCgroup, LinuxResources, Process, Spec, State};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

pub(crate) use super::blueprint::processors;
use super::blueprint::{Blueprint, BundlePlan, DeviceNode, Mappings, ProcessPlan, process_plan};
use super::cgroup::systemd::{self, Scope, Unit};
use super::cgroup::{Below, Cgroup, CgroupError, Version, Warning};
use super::error::{Failure, RuntimeError, Step};
use super::exec::{DirectExec, exec_directly};
use super::executable;
use super::hooks;
use super::init::report::{Beginning, Errand};
use super::init::{devices, mounts};
use super::launch::{Handed, Launch, Stage};
use super::links;
use super::order;
use super::process::{Process as OwnProcess, ProcessId};
use super::record::{Fixed, boot};
use super::request::Rootfs;
use super::seccomp::{self, SeccompPolicy};
use super::spec::SpecError;
use super::start::{filter, layout};
use crate::sys::stub::{self, Stub};
use crate::sys::{fd, pidfd};

/// Name of the socket on which `start` is waited for, in the state folder.
const START: &str = "start.sock";

/// A container to be made.
#[derive(Debug)]
pub struct BundleRequest<'a> {
    /// Its id.
    pub id: &'a str,
    /// `config.json`.
    pub spec: &'a Spec,
    /// The bundle's folder, absolute.
    pub bundle: &'a Path,
    /// Where its record is, and the start socket.
    pub state_folder: &'a Path,
    /// The program is executed by [`start`], not at once.
    pub wait: bool,
    /// The root is changed without pivot_root(2).
    pub no_pivot: bool,
    /// The program keeps our session keyring.
    pub keep_keyring: bool,
    /// Its terminal is joined with ours.
    pub relayed: bool,
    /// The first descriptors from 3 on are the program's.
    pub preserved: u32,
    /// It outlives us.
    pub outlives: bool,
    /// systemd makes the cgroup.
    pub systemd: bool,
}

/// A container that was made.
#[derive(Debug)]
pub struct Created {
    /// Its process 1, a child of ours.
    pub init: OwnProcess,
    /// The side of its terminal to read from and write to.
    pub terminal: Option<OwnedFd>,
    /// Wishes that could not be fulfilled.
    pub warnings: Vec<String>,
}

/// The state of a container as hooks and callers see it.
pub fn state(id: &str, spec: &Spec, bundle: &Path, status: ContainerState, pid: Option<u32>) -> State {
    let mut state = State::default();
    state.set_version(spec.version().clone());
    state.set_id(id.to_owned());
    state.set_status(status);
    state.set_pid(pid.and_then(|pid| i32::try_from(pid).ok()));
    state.set_bundle(bundle.to_owned());
    state.set_annotations(spec.annotations().clone());
    state
}

/// Checks a bundle's configuration whole; what is to be done, and what is known
/// before anything is made (for the record).
///
/// # Errors
/// [`SpecError`], or what is wrong with the cgroup's path.
pub fn check(request: &BundleRequest<'_>) -> Result<(Plan, Fixed), RuntimeError> {
    let spec = request.spec;
    check_version(spec.version())?;
    let linux = spec.linux().as_ref().ok_or(SpecError::Missing("linux"))?;
    let root = spec.root().as_ref().ok_or(SpecError::Missing("root"))?;
    let rootfs = request.bundle.join(root.path());
    if !rootfs.is_dir() {
        return Err(SpecError::Mount {
            target: rootfs,
            reason: "the root file system is not a directory".into(),
        }
        .into());
    }
    let process = spec.process().as_ref().ok_or(SpecError::Missing("process"))?;
    let mut process = bundle_process(process, request.keep_keyring)?;
    let annotated = |name: &str| {
        let annotations = spec.annotations().as_ref();
        annotations
            .and_then(|all| all.get(name))
            .is_some_and(|value| value != "0")
    };
    process.keep_groups = annotated(KEEP_GROUPS);
    process.lines_as_written = request.relayed;
    let mut profile = linux.seccomp().clone();
    let unknown = profile
        .as_mut()
        .map(seccomp::leave_out_unknown)
        .unwrap_or_default();
    if let Some(name) = unknown.first().filter(|_| annotated(REFUSE_UNKNOWN_CALLS)) {
        return Err(
            SpecError::from(seccomp::SeccompError::Unsupported(format!("system call {name}"))).into(),
        );
    }
    process.filter_by(profile.as_ref())?;
    let rootfs = Rootfs::Directory {
        path: rootfs,
        readonly: root.readonly() == Some(true),
    };
    let mut blueprint = Blueprint::of_spec(spec, &rootfs, process, &BTreeMap::new(), false)?;
    blueprint.mount_for_callers();
    let hooks = spec.hooks().clone().unwrap_or_default();
    let list = |hooks: &Option<Vec<_>>| hooks.clone().unwrap_or_default();
    blueprint.bundle = Some(BundlePlan {
        wait: None,
        runtime_hooks: !before_pivot(&hooks).iter().all(|(_, list)| list.is_empty()),
        create_container: list(hooks.create_container()),
        start_container: list(hooks.start_container()),
        state: state(request.id, spec, request.bundle, ContainerState::Creating, None),
        no_pivot: request.no_pivot,
        trees: Vec::new(),
        device_trees: Vec::new(),
        preserved: request.preserved,
        monitored: false,
    });
    let path = linux.cgroups_path().as_deref();
    let unit = request
        .systemd
        .then(|| Unit::of_path(path, request.id).map_err(CgroupError::Systemd))
        .transpose()?;
    let path = match &unit {
        Some(unit) => unit.path(),
        None => cgroup_path(path, request.id)?,
    };
    if unit.is_some() && layout()?.hierarchies.iter().all(|one| one.version == Version::V1) {
        return Err(CgroupError::Systemd("its cgroups are used in version 2 only".into()).into());
    }
    let fixed = Fixed {
        id: request.id.to_owned(),
        boot: boot().to_owned(),
        cgroup: Cgroup::locate(layout()?, &path)?,
        unit,
        kept: BTreeMap::new(),
        foreign: None,
        takes_orders: false,
        namespaces: blueprint.namespaces.all(false),
        process: blueprint.process.clone(),
        seccomp: SeccompPolicy::Spec,
        profile,
    };
    let resources = linux.resources().clone().map(with_usual_devices);
    let links = links::plan(linux, blueprint.namespaces.all(false) & libc::CLONE_NEWNET != 0)?;
    Ok((
        Plan {
            blueprint,
            cgroup: path,
            resources,
            hooks,
            links,
            unknown,
            filtered: fixed.profile.is_some(),
        },
        fixed,
    ))
}

/// Annotations of callers, in the names of the runtime that has them first: the
/// program keeps the groups of whoever calls us (podman's `keep-groups`), and a
/// system call that nobody here knows is an error.
const KEEP_GROUPS: &str = "run.oci.keep_original_groups";
const REFUSE_UNKNOWN_CALLS: &str = "run.oci.seccomp_fail_unknown_syscall";
/// As above: a socket that is sent the pidfd of process 1.
pub const PIDFD_RECEIVER: &str = "run.oci.pidfd_receiver";
/// All annotations that change what we do.
pub const ANNOTATIONS: [&str; 5] = [
    hooks::STDERR,
    hooks::STDOUT,
    KEEP_GROUPS,
    PIDFD_RECEIVER,
    REFUSE_UNKNOWN_CALLS,
];

/// What is to be done for a container; made by [`check`].
#[derive(Debug)]
pub struct Plan {
    blueprint: Blueprint,
    cgroup: PathBuf,
    resources: Option<LinuxResources>,
    hooks: Hooks,
    /// Network devices that are given: name outside to name inside.
    links: BTreeMap<String, String>,
    /// System calls that are banned by names which are not known here.
    unknown: Vec<String>,
    /// There is a system call filter.
    filtered: bool,
}

impl Plan {
    /// Flags of seccomp(2) for the system call filter; `None` without one.
    pub fn filter_flags(&self) -> Option<u64> {
        self.filtered.then_some(self.blueprint.process.filter_flags)
    }
}

/// The hooks that run before the root is changed, in their order.
fn before_pivot(hooks: &Hooks) -> [(&'static str, Vec<oci_spec::runtime::Hook>); 2] {
    [
        ("prestart", hooks.prestart().clone().unwrap_or_default()),
        (
            "createRuntime",
            hooks.create_runtime().clone().unwrap_or_default(),
        ),
    ]
}

/// Runs the `poststart` hooks of a container, to the first that fails.
///
/// # Errors
/// [`RuntimeError::Failed`] of that one.
pub fn run_poststart(list: &[oci_spec::runtime::Hook], state: &State) -> Result<(), RuntimeError> {
    Ok(hooks::run("poststart", list, state, state.bundle())?)
}

/// Runs the `poststop` hooks of a container, all of them.
///
/// # Errors
/// [`RuntimeError::Failed`] of the first that failed.
pub fn run_poststop(list: &[oci_spec::runtime::Hook], state: &State) -> Result<(), RuntimeError> {
    let mut first = Ok(());
    for hook in list {
        let ran = hooks::run("poststop", std::slice::from_ref(hook), state, state.bundle());
        first = first.and(ran);
    }
    Ok(first?)
}

/// Makes the container: cgroup, process, namespaces, root file system. `made`
/// is told of the process before it is let go on, to write it down.
///
/// # Errors
/// [`RuntimeError`]; then nothing is left but the state folder.
pub fn create(
    request: &BundleRequest<'_>,
    plan: Plan,
    fixed: &mut Fixed,
    made: &mut dyn FnMut(&Fixed, ProcessId) -> Result<(), RuntimeError>,
) -> Result<Created, RuntimeError> {
    let created = create_in(request, plan, fixed, made);
    if created.is_err() {
        let _ = fixed.cgroup.kill(super::recover::PATIENCE);
        if let Some(unit) = &fixed.unit {
            let _ = systemd::stop(unit);
        }
        let _ = fixed.cgroup.remove_own();
    }
    created
}

fn create_in(
    request: &BundleRequest<'_>,
    plan: Plan,
    fixed: &mut Fixed,
    made: &mut dyn FnMut(&Fixed, ProcessId) -> Result<(), RuntimeError>,
) -> Result<Created, RuntimeError> {
    let failed = |operation| RuntimeError::io(operation, "container");
    let Plan {
        mut blueprint,
        cgroup,
        resources,
        hooks,
        links,
        unknown,
        filtered: _,
    } = plan;
    let scope = match &fixed.unit {
        Some(unit) => match Scope::start(unit, resources.as_ref()) {
            Ok(scope) => Some(scope),
            Err(error) => {
                // Perhaps another's of this name.
                (fixed.unit, fixed.cgroup) = (None, Cgroup::default());
                return Err(error.into());
            }
        },
        None => None,
    };
    let known = scope.as_ref().map(Scope::process);
    // Its folders are known before they are made.
    blueprint.cgroups = if blueprint.namespaces.cgroup {
        fixed.cgroup.view()
    } else {
        fixed.cgroup.view_of_host()
    };
    let mut held = Vec::new();
    let own_ids = own_mappings(&blueprint);
    open_beforehand(&mut blueprint, request.state_folder, own_ids.as_ref(), &mut held)?;
    if request.wait {
        let socket = listen(request.state_folder).map_err(failed("make start socket of"))?;
        if let Some(bundle) = &mut blueprint.bundle {
            bundle.wait = Some(socket.as_raw_fd());
        }
        held.push(socket);
    }
    let filter = filter(
        fixed.seccomp,
        fixed.profile.as_ref(),
        blueprint.process.capabilities.bounding,
    )?;
    let calls = seccomp::allows(fixed.seccomp, fixed.profile.as_ref(), &stub::CALLS);
    let stub = blueprint.is_alone(calls).then(Stub::new).flatten();
    let file;
    let stage = match stub {
        Some(stub) => Stage::Cloned {
            stub,
            blueprint: Handed::Known(&blueprint),
            // Devices are given to a network namespace that is there.
            early: links.is_empty(),
        },
        None => {
            file = order::write(&blueprint).map_err(failed("write order of"))?;
            Stage::Executed {
                executable: executable::open().map_err(RuntimeError::io("open", "own executable"))?,
                blueprint: file.as_fd(),
            }
        }
    };
    let (report, inner) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| failed("make socket for")(error.into()))?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let early = matches!(stage, Stage::Cloned { early: true, .. });
    let launch = Launch {
        namespaces: &blueprint.namespaces,
        cgroup: &fixed.cgroup.clone(),
        stage,
        report: inner.as_fd(),
        control: report.as_fd(),
        filter: filter.as_ref().map(|fd| fd.as_fd()),
        network: None,
        standard: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        passed: held.iter().map(|fd| fd.as_fd()).collect(),
        preserved: request.preserved,
        outlives: request.outlives,
    };
    let mut launched = None;
    let made_cgroup = Cgroup::create_at(layout()?, &cgroup, resources.as_ref(), known, |_| {
        launched = early.then(|| launch.make());
    });
    let (cgroup, warnings) = match made_cgroup {
        Ok(made) => made,
        Err(error) => {
            if let Some(Ok(child)) = launched {
                let _ = pidfd::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
                let _ = rustix::process::waitid(
                    rustix::process::WaitId::PidFd(child.pidfd.as_fd()),
                    rustix::process::WaitIdOptions::EXITED,
                );
            }
            if matches!(error, CgroupError::NotEmpty(_) | CgroupError::Frozen(_)) {
                // Not ours: it must not be killed with what we clear up.
                fixed.cgroup = Cgroup::default();
            }
            return Err(error.into());
        }
    };
    fixed.cgroup = cgroup.clone();
    let mut warnings: Vec<String> = warnings.iter().map(Warning::to_string).collect();
    warnings.extend(
        unknown
            .iter()
            .map(|name| format!("seccomp profile: system call {name} is not known, so it is not filtered")),
    );
    let child = match launched {
        Some(launched) => launched?,
        None => launch.make()?,
    };
    drop(launch);
    drop(scope);
    drop(inner);
    drop(held);
    let id = ProcessId::of(child.pid).map_err(failed("open process of"))?;
    let init = OwnProcess::given(id, child.pidfd);
    let end = |error: RuntimeError| {
        let _ = init.signal(libc::SIGKILL);
        let _ = init.wait();
        Err(error)
    };
    if let Err(error) = made(fixed, id) {
        return end(error);
    }
    if let Err(error) = give_links(&blueprint, &links, child.pid) {
        return end(error);
    }
    // It waits for its number as we see it.
    let told = fd::send(report.as_fd(), child.pid.to_string().as_bytes(), None);
    // The spec counts the hooks that follow the making of the environment (steps 3 to
    // 5 of its lifecycle) as those of a created container.
    let state = state(
        request.id,
        request.spec,
        request.bundle,
        ContainerState::Created,
        Some(child.pid),
    );
    let beginning = match told {
        // It has failed already: it says why.
        Ok(()) | Err(_) => Beginning::listen_and(report.as_fd(), |errand| match errand {
            Errand::Hooks => before_pivot(&hooks)
                .iter()
                .try_for_each(|(kind, list)| hooks::run(kind, list, &state, request.bundle)),
            Errand::Map(number, tree) => match blueprint.mounts.get(number) {
                Some(step) => mounts::map_for(step, tree.as_fd(), own_ids.as_ref()),
                None => Ok(()),
            },
        }),
    };
    let beginning = match beginning {
        Ok(beginning) => beginning,
        Err(error) => return end(failed("listen to")(error)),
    };
    if let Some(mut failure) = beginning.failure {
        let bound = resources
            .as_ref()
            .and_then(|resources| resources.cpu().as_ref()?.cpus().as_deref())
            .is_some_and(|list| !list.is_empty());
        if bound && failure.step == Step::Schedule && failure.errno == Some(libc::EPERM) {
            // The kernel's way to say so (sched_setattr(2)).
            let more = "process scheduler can't be used together with AllowedCPUs";
            failure.reason = format!("{} ({more})", failure.reason);
        }
        return end(failure.into());
    }
    if !beginning.created && !beginning.executing {
        let reason = if cgroup.oom_kills() > 0 {
            "killed for want of memory"
        } else {
            "killed"
        };
        return end(Failure::because(Step::Exec, "init stage", reason).into());
    }
    warnings.extend(beginning.warnings);
    Ok(Created {
        init,
        terminal: beginning.terminal,
        warnings,
    })
}

/// Moves network devices into the container's namespace, which is its process's
/// or was given by path.
fn give_links(blueprint: &Blueprint, links: &BTreeMap<String, String>, pid: u32) -> Result<(), RuntimeError> {
    if links.is_empty() {
        return Ok(());
    }
    let given = blueprint
        .namespaces
        .join
        .iter()
        .find(|(kind, _)| *kind == libc::CLONE_NEWNET);
    let path = given.map_or_else(|| format!("/proc/{pid}/ns/net").into(), |(_, path)| path.clone());
    let namespace =
        std::fs::File::open(&path).map_err(RuntimeError::io("open", path.display().to_string()))?;
    Ok(links::give(links, namespace.as_fd())?)
}

/// Opens what the init stage cannot open: in a user namespace everything of the
/// host, and idmapped mounts.
fn open_beforehand(
    blueprint: &mut Blueprint,
    state_folder: &Path,
    own: Option<&Mappings>,
    held: &mut Vec<OwnedFd>,
) -> Result<(), RuntimeError> {
    let user = blueprint.namespaces.has_user();
    let Some(bundle) = &mut blueprint.bundle else {
        return Ok(());
    };
    for (number, step) in blueprint.mounts.iter().enumerate() {
        if (user || step.mapped.is_some())
            && let Some(tree) = mounts::open_for(step, &blueprint.rootfs, own)?
        {
            bundle.trees.push((number, tree.as_raw_fd()));
            held.push(tree);
        }
    }
    if !user {
        return Ok(());
    }
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| Failure::new(Step::Device, path, &error)
    };
    let mut add = |path: PathBuf, tree: OwnedFd| {
        bundle.device_trees.push((path, tree.as_raw_fd()));
        held.push(tree);
    };
    for name in devices::usual() {
        let path = Path::new("/dev").join(name);
        let tree = devices::open_node(&path, 0).map_err(failed(&path))?;
        add(path, tree);
    }
    for (number, device) in blueprint.devices.iter().enumerate() {
        let mut node = device.clone();
        if let Some(own) = own {
            node.uid = outside(&own.uid, device.uid).ok_or_else(|| unmapped(device))?;
            node.gid = outside(&own.gid, device.gid).ok_or_else(|| unmapped(device))?;
        }
        let tree = devices::make_elsewhere(&state_folder.join(format!("device-{number}")), &node)
            .map_err(failed(&device.path))?;
        add(device.path.clone(), tree);
    }
    Ok(())
}

/// Who an id of the container is on the host.
fn outside(mapping: &[(u32, u32, u32)], id: u32) -> Option<u32> {
    let (inside, outside, _) = mapping
        .iter()
        .find(|(inside, _, size)| id.checked_sub(*inside).is_some_and(|at| at < *size))?;
    outside.checked_add(id - inside)
}

fn unmapped(device: &DeviceNode) -> SpecError {
    SpecError::Device {
        path: device.path.clone(),
        reason: "its owner is not mapped in the user namespace".into(),
    }
}

/// The ids of the container's user namespace, if it has one of its own.
fn own_mappings(blueprint: &Blueprint) -> Option<Mappings> {
    match &blueprint.namespaces.mappings {
        Some(mappings) => Some(mappings.clone()),
        None if blueprint.namespaces.has_user() => entered_mappings(blueprint),
        None => None,
    }
}

/// The ids of a user namespace that is entered by path: they are in `/proc` of
/// whoever made it, when the path is one of `/proc/PID/ns/user`.
fn entered_mappings(blueprint: &Blueprint) -> Option<Mappings> {
    let (_, path) = blueprint
        .namespaces
        .join_first
        .iter()
        .find(|(kind, _)| *kind == libc::CLONE_NEWUSER)?;
    let folder = path.parent()?.parent()?;
    let read = |name: &str| -> Option<Vec<(u32, u32, u32)>> {
        let text = std::fs::read_to_string(folder.join(name)).ok()?;
        text.lines()
            .map(|line| {
                let mut numbers = line.split_whitespace().map(str::parse::<u32>);
                Some((
                    numbers.next()?.ok()?,
                    numbers.next()?.ok()?,
                    numbers.next()?.ok()?,
                ))
            })
            .collect()
    };
    Some(Mappings {
        uid: read("uid_map")?,
        gid: read("gid_map")?,
    })
}

/// The socket in the state folder; by descriptor, since the names of sockets
/// are short.
fn address(folder: BorrowedFd<'_>) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!(
        "/proc/self/fd/{}/{START}",
        folder.as_raw_fd()
    ))?)
}

fn open_folder(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(folder, flags, Mode::empty())?)
}

fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn listen(folder: &Path) -> io::Result<OwnedFd> {
    let folder = open_folder(folder)?;
    let socket = socket()?;
    match rustix::fs::unlinkat(&folder, START, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    rustix::net::bind(&socket, &address(folder.as_fd())?)?;
    rustix::net::listen(&socket, 1)?;
    Ok(socket)
}

/// Whether a container still waits for its start.
pub fn waits(state_folder: &Path) -> bool {
    state_folder.join(START).exists()
}

/// Has a created container execute its program; returns when it runs.
///
/// # Errors
/// [`RuntimeError::Failed`] when it could not be executed, [`RuntimeError::Io`]
/// when nobody waits for a start.
pub fn start(state_folder: &Path) -> Result<(), RuntimeError> {
    let failed = |operation| RuntimeError::io(operation, "container's init stage");
    let connect = || -> io::Result<OwnedFd> {
        let folder = open_folder(state_folder)?;
        let socket = socket()?;
        rustix::net::connect(&socket, &address(folder.as_fd())?)?;
        fd::send(socket.as_fd(), b"start", None)?;
        Ok(socket)
    };
    let socket = connect().map_err(failed("connect to"))?;
    let beginning = Beginning::listen(socket.as_fd()).map_err(failed("listen to"))?;
    let _ = std::fs::remove_file(state_folder.join(START));
    match beginning {
        Beginning {
            failure: Some(failure),
            ..
        } => Err(failure.into()),
        Beginning { executing: true, .. } => Ok(()),
        _ => Err(RuntimeError::Silent("init stage")),
    }
}

/// A further process in a container.
#[derive(Debug)]
pub struct BundleExec<'a> {
    /// The container's process 1.
    pub target: &'a OwnProcess,
    /// From the record.
    pub fixed: &'a Fixed,
    /// What is to be run.
    pub process: &'a Process,
    /// Folders below the container's cgroup to run it in.
    pub below: &'a [Below],
    /// The first descriptors from 3 on are the program's.
    pub preserved: u32,
    /// Its terminal is joined with ours.
    pub relayed: bool,
    /// The container's state.
    pub state: State,
}

/// Runs a further process in a container, as a child of ours with our standard
/// descriptors; with it the terminal, if it has one.
///
/// # Errors
/// [`RuntimeError`].
pub fn exec(request: BundleExec<'_>) -> Result<Created, RuntimeError> {
    let mut plan = bundle_process(request.process, false)?;
    let first = &request.fixed.process;
    plan.filter_flags = first.filter_flags;
    plan.listener.clone_from(&first.listener);
    plan.personality = first.personality;
    plan.keep_groups = first.keep_groups;
    // Only a container makes the folder that it names.
    plan.cwd_exists = true;
    plan.lines_as_written = request.relayed;
    plan.memory_policy.clone_from(&first.memory_policy);
    let (init, beginning) = exec_directly(DirectExec {
        target: request.target,
        fixed: request.fixed,
        process: plan,
        cgroup: request.fixed.cgroup.below(request.below)?,
        preserved: request.preserved,
        state: request.state,
    })?;
    Ok(Created {
        init,
        terminal: beginning.terminal,
        warnings: beginning.warnings,
    })
}

/// A process of a bundle: exactly what is written.
fn bundle_process(process: &Process, keep_keyring: bool) -> Result<ProcessPlan, SpecError> {
    let mut plan = process_plan(process)?;
    plan.exact = true;
    plan.env = each_once(plan.env);
    plan.keep_keyring = keep_keyring;
    Ok(plan)
}

/// Of entries with one name the last, as programs would find the first.
fn each_once(env: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let name = |entry: &str| entry.split_once('=').map_or(entry, |(name, _)| name).to_owned();
    let mut list: Vec<String> = env
        .into_iter()
        .rev()
        .filter(|entry| seen.insert(name(entry)))
        .collect();
    list.reverse();
    list
}

/// Version 1 of the spec, whatever minor one: they are compatible.
fn check_version(version: &str) -> Result<(), SpecError> {
    let mut numbers = version
        .split(['-', '+'])
        .next()
        .unwrap_or_default()
        .split('.')
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(1)), Some(Ok(_)), Some(Ok(_)), None) => Ok(()),
        _ => Err(SpecError::Unsupported(format!("ociVersion {version:?}"))),
    }
}

/// Below each hierarchy's root for an absolute path; a relative one is taken
/// the same way, since that root is our base.
fn cgroup_path(path: Option<&Path>, id: &str) -> Result<PathBuf, SpecError> {
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(Path::new("rcompose-oci").join(id));
    };
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => plain.push(name),
            std::path::Component::ParentDir => {
                plain.pop();
            }
            _ => {}
        }
    }
    let text = path.to_string_lossy();
    if text.contains(':') && !text.contains('/') {
        return Err(SpecError::Unsupported(format!(
            "linux.cgroupsPath {text} (a path for systemd, which is asked for with --systemd-cgroup)"
        )));
    }
    if plain.as_os_str().is_empty() {
        return Err(SpecError::Unsupported(format!(
            "linux.cgroupsPath {text} (the root of the hierarchy)"
        )));
    }
    Ok(plain)
}

/// The devices every container may use, whatever the rules before say.
fn with_usual_devices(mut resources: LinuxResources) -> LinuxResources {
    let rule =
        |kind: &str, major: Option<i64>, minor: Option<i64>, access: &str| -> Option<LinuxDeviceCgroup> {
            serde_json::from_value(serde_json::json!({
                "allow": true, "type": kind, "major": major, "minor": minor, "access": access
            }))
            .ok()
        };
    if let Some(rules) = resources.devices_mut()
        && !rules.is_empty()
    {
        rules.extend(rule("c", None, None, "m"));
        rules.extend(rule("b", None, None, "m"));
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
            rules.extend(rule("c", Some(major), Some(minor), "rwm"));
        }
        rules.extend(rule("c", Some(136), None, "rwm"));
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_the_spec_are_compared() {
        for good in ["1.0.0", "1.0.2-dev", "1.2.1", "1.3.0-rc.1+x"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for wrong in ["", "0.5.0", "2.0.0", "1", "1.0", "1.0.x", "1.0.0.0"] {
            assert!(check_version(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cgroup_paths_stay_below_the_root() {
        let path = |text: &str| cgroup_path(Some(Path::new(text)), "id");
        assert_eq!(path("/a/b").unwrap(), Path::new("a/b"));
        assert_eq!(path("a/../b").unwrap(), Path::new("b"));
        assert_eq!(path("../../x").unwrap(), Path::new("x"));
        assert_eq!(cgroup_path(None, "id").unwrap(), Path::new("rcompose-oci/id"));
        assert!(path("/").is_err());
        assert!(path("system.slice:x:y").is_err());
    }
}

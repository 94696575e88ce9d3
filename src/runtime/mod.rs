//! One container: root file system, namespaces, cgroup, exec.
//!
//! ```text
//! caller ──start()──▶ __monitor ──clone3──▶ init stage ──execve──▶ program
//!    ▲  (posix_spawn)     │  (all namespaces,     │
//!    └──────answer────────┴───────cgroup)─────────┘ reports
//! ```
//!
//! A [`RunRequest`] holds an OCI runtime spec ([`default_spec`] makes one with
//! Docker's defaults) and what the spec has no word for. [`start`] checks it
//! whole (`blueprint`), makes the cgroup ([`cgroup`]), compiles the system call
//! filter ([`seccomp`]), and starts the monitor ([`crate::monitor`]), which is
//! the container's parent. The monitor makes the init stage ([`init`]) inside
//! new namespaces. Errors of any of them come back as one [`RuntimeError`];
//! when [`start`] returns `Ok`, the program runs.
//!
//! From then on a run is its [`RunningRecord`]: [`probe`], [`signal`],
//! [`kill_all`], [`exec`], [`update`], [`Orders`] need nothing else, whoever started it.
//! It ends with an [`ExitRecord`]; [`reap_lost`] writes one when the monitor was
//! killed, and [`cleanup`] removes what is left, also after a start that was
//! killed half way.
//!
//! Order of writing: the cgroup's path is known from the request before it is
//! made; the running record is written before the program runs; a stale exit
//! record is removed before anything else.
//!
//! [`bundle`] is the same way for callers of the OCI command line
//! ([`crate::oci`]): a configuration and a root file system as they are, no
//! monitor, and a wait between `create` and `start`. Both make their process 1
//! by `launch`.
//!
//! A request may name another OCI runtime ([`foreign`]): then its command line
//! makes the process, and all around it stays.
//!
//! Weak: Linux 5.12 or newer. In stacks no user namespaces and no idmapped
//! mounts yet, nor cgroups made by systemd; no checkpoint. The orders between our
//! processes are JSON in memory files: some 50 µs a start. The monitor is an
//! execution of our file: some 0.7 ms in a virtual machine, most of which is what
//! glibc asks the processor (see [`crate::sys::stub`]).

mod blueprint;
pub mod bundle;
pub mod capability;
pub mod cgroup;
pub(crate) mod change;
mod error;
pub mod exec;
mod executable;
pub(crate) mod foreign;
#[doc(hidden)]
pub mod fuzz;
pub(crate) mod hooks;
pub mod init;
pub(crate) mod launch;
mod links;
pub(crate) mod order;
mod process;
mod record;
mod recover;
mod request;
pub mod seccomp;
mod spec;
mod start;
mod usage;

pub use self::blueprint::ProcessPlan;
pub use self::change::{Orders, adjust_oom_score, limit_processes, raises_limits};
pub(crate) use self::error::describe;
pub use self::error::{Failure, FailureKind, RuntimeError, Step};
pub use self::exec::{Exec, ExecRequest, ExecStdio, exec};
pub use self::executable::use_executable;
pub use self::foreign::Foreign;
pub use self::init::{OfflineMount, mount_offline};
pub use self::process::{Process, ProcessId};
pub use self::record::{ExitRecord, ExitStatus, Fixed, RunningRecord};
pub use self::recover::{Liveness, cleanup, earlier, is_running, kill_all, probe, reap_lost, signal, update};
pub use self::request::{
    CgroupRequest, LogFormat, LogForward, LogPlan, Populate, Revive, Rootfs, RunRequest, SyslogAddress,
    SyslogFormat,
};
pub use self::seccomp::SeccompPolicy;
pub use self::spec::{
    DEFAULT_PATH, DEFAULT_SHM_SIZE, Device, Limits, Settings, Share, SpecError, bind_mount, bounding_set,
    default_spec, describe_device, seccomp_file, tmpfs_mount,
};
pub use self::start::{
    ESTATE, FIRST_CLIENT, MONITOR_ROLE, Started, attach, check_machine, link, retrieve_kept, start,
};
pub use self::usage::Usage;

pub(crate) use self::init::report::{Beginning, Errand};
pub(crate) use self::launch::{Handed, Launch, Stage};
pub(crate) use self::record::now;
pub(crate) use self::recover::reserve;
pub(crate) use self::start::CLIENT;

//! rcompose runs compose files on a container runtime of its own: no daemon,
//! no external program, one static binary.
//!
//! # The way of the data
//!
//! ```text
//! files + env ─▶ stack ─▶ project ─▶ graph ─┐
//!                                           ├─▶ plan ─▶ [actions, a DAG] ─▶ reconcile ─▶ host ─▶ containers
//!        cli ─▶ Intent ─────────────────────┤                                 ▲
//!       host ─▶ Observed ───────────────────┘            watch, exits, health ┘ (a wake-up, never a fact)
//! ```
//!
//! # Modules
//!
//! | module | kind | what it is |
//! | --- | --- | --- |
//! | [`stack`] | pure | stack files to one merged document; every value knows its origin |
//! | [`project`] | pure | document to typed, normalised, validated [`project::Project`] |
//! | [`graph`] | pure | project to dependency graph: order, closure, cycles |
//! | [`plan`] | pure | (project, observed, intent) to a DAG of actions with causes, and holds |
//! | [`lifecycle`] | pure | state machines: health, restart policy |
//! | [`image`] | effect | references, registries, archives, the layer store, unpacking |
//! | [`network`] | effect | bridges, veth pairs, addresses, names, published ports, firewall |
//! | [`volume`] | effect | named volumes |
//! | [`runtime`] | effect | one container: root file system, namespaces, cgroup, exec |
//! | [`monitor`] | effect | the process that holds one container's stdio, log and exit status |
//! | [`watch`] | effect | file system events to one debounced change; sources into containers |
//! | [`store`] | effect | the state directory: layout, records, locks |
//! | [`sys`] | effect | system calls, the only unsafe code |
//! | [`host`] | join | observes this machine and performs one action at a time |
//! | [`reconcile`] | join | walks a plan with all the parallelism it has |
//! | [`supervisor`] | join | one process a stack: the loop, health, restarts, names, ports, watching |
//! | [`oci`] | join | the command line of OCI runtimes, over the same runtime |
//! | [`cli`] | join | arguments to intents, and everything that is printed |
//!
//! # Arrows
//!
//! Who may import whom; `tests/layering.rs` reads this table and the `use`
//! lines. What is not listed is forbidden. Everything may use `sys` and `store`
//! but the pure modules, which use nothing that has an effect.
//!
//! ```arrows
//! main -> cli oci supervisor monitor runtime sys
//! oci -> runtime sys
//! cli -> supervisor reconcile stack project graph plan host image runtime monitor lifecycle store sys
//! supervisor -> reconcile host watch lifecycle network stack project graph plan runtime monitor store sys
//! reconcile -> plan graph project lifecycle host
//! host -> plan project graph lifecycle image network volume runtime monitor store sys
//! monitor -> runtime lifecycle store sys
//! image -> store sys
//! network -> store sys
//! volume -> store sys
//! runtime -> store sys
//! watch -> sys
//! store -> sys
//! plan -> graph project lifecycle
//! graph -> project
//! project -> stack
//! stack ->
//! lifecycle ->
//! sys ->
//! ```
//!
//! # Words
//!
//! *stack*: what a stack file describes. *project*: its typed, resolved form.
//! *intent*: what a command asks for. *observed*: what the host says is there
//! now. *action*: one step of a plan. *hold*: why a resource is left alone.
//! *monitor*: the parent process of one container run. *world*: one state root;
//! two worlds never meet.

pub mod cli;
pub mod graph;
pub mod host;
pub mod image;
pub mod lifecycle;
pub mod monitor;
pub mod network;
pub mod oci;
pub mod plan;
pub mod project;
pub mod reconcile;
pub mod runtime;
pub mod stack;
pub mod store;
pub mod supervisor;
pub mod sys;
pub mod volume;
pub mod watch;

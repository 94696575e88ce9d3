//! The process that holds one container's stdio, log and exit status.
//!
//! One a run, single-threaded, the parent of the container's process 1. It is
//! started by [`runtime::start`](crate::runtime::start), which tells it what to
//! do in a memory file. It makes the init stage inside new namespaces, writes
//! the running record, tells its caller how it went, and then waits in one
//! poll(2) for:
//!
//! * output: appended to the [`log`], one write for what was read in one go. A
//!   full disk costs lines (counted and noted), never the container. What is read
//!   and not written yet is in memory that outlives the monitor, and the supervisor
//!   has the pipes too: it goes on where a killed monitor was ([`Estate`]);
//! * the end of the container: the pipes are emptied, then the exit record takes
//!   the room that was reserved for it at the start, and the monitor ends with
//!   the same status. When process 1 is gone its pid namespace is, so all there
//!   will ever be is in the pipes: the monitor never waits for their end. Somebody
//!   stays behind until the supervisor says goodbye ([`standin`]);
//! * the end of the supervisor: a link that closes without a goodbye. One of the
//!   stack's monitors starts a new supervisor, which takes the name service's and
//!   other sockets over from the monitors that keep them, and links itself
//!   through the door. Without a link the monitors try again, in pauses that
//!   double up to half a minute: the new supervisor may be killed too;
//! * orders of the supervisor: the log goes somewhere else from now on, sockets of
//!   published ports are kept that came later, or are let go;
//! * clients ([`attach`]): they get what is printed from now on, and give input.
//!   One that is slow is dropped; the container never waits for them.
//!
//! A line may go elsewhere, too: to syslog or the journal (`forward`).
//!
//! It outlives its caller, belongs to no terminal, and keeps out of the
//! container's cgroup. It knows nothing of stacks.
//!
//! Small on purpose: one of it is there for each container. Buffers grow only
//! when a container prints; while it prints faster than that is read, they and
//! its pipes are large, so that the two do not wait for each other at every
//! turn. After a second without anything to do all that is given back, and the
//! pages of its executable that it has run through: some 80 KiB of its own and
//! 400 KiB of the file's stay resident.
//!
//! Weak: killed with SIGKILL it takes the container with it (the kernel sends
//! process 1 SIGKILL), and the `poststop` hooks of devices are not run. A terminal
//! that all its users have closed is not read again until the container ends.

pub mod attach;
mod estate;
mod forward;
pub mod log;
mod output;
mod run;
pub mod standin;

pub use self::estate::{Estate, KEPT as ESTATE_KEPT};
pub use self::run::main;

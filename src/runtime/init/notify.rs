//! Handing the descriptor of system call notifications to who asked for it.
//!
//! From the moment the filter is loaded, any call of ours may wait for an answer
//! from whoever holds that descriptor, which is us. So a process that shares our
//! table of descriptors and has no filter sends it, and we wait without a call:
//! by looking at a word in shared memory.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::atomic::Ordering;

use oci_spec::runtime::State;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::runtime::blueprint::Listener;
use crate::runtime::error::{Failure, Step, describe};
use crate::sys::shared::SharedNumber;
use crate::sys::{clone, fd, process};

/// A connection to the listener, made while the host's paths can be seen.
#[derive(Debug)]
pub(in crate::runtime) struct Notifier {
    socket: OwnedFd,
    metadata: String,
}

/// No descriptor yet.
const WAITING: i32 = -1;
/// It has been sent.
const SENT: i32 = -2;
/// It could not be sent.
const LOST: i32 = -3;

impl Notifier {
    /// Connects to the listener.
    pub(in crate::runtime) fn connect(listener: &Listener) -> Result<Self, Failure> {
        let connect = || -> io::Result<OwnedFd> {
            let socket = rustix::net::socket_with(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            )?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(&listener.path)?)?;
            Ok(socket)
        };
        let socket = connect().map_err(|error| {
            // The words callers know.
            let reason = format!("failed to connect with seccomp agent: {}", describe(&error));
            Failure {
                errno: error.raw_os_error(),
                ..Failure::because(
                    Step::Seccomp,
                    format!("listener {}", listener.path.display()),
                    reason,
                )
            }
        })?;
        Ok(Self {
            socket,
            metadata: listener.metadata.clone(),
        })
    }

    /// Calls `load`, which loads the filter, and has what it returns sent,
    /// with the state of the container (OCI runtime spec, "Container Process
    /// State").
    pub(super) fn hand_over(
        &self,
        state: &State,
        load: impl FnOnce() -> io::Result<Option<OwnedFd>>,
    ) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::new(Step::Seccomp, "listener", &error);
        let message = serde_json::to_vec(&serde_json::json!({
            "ociVersion": state.version(),
            "fds": ["seccompFd"],
            "pid": state.pid(),
            "metadata": self.metadata,
            "state": state,
        }))
        .map_err(|error| failed(error.into()))?;
        let number = SharedNumber::new(WAITING).map_err(failed)?;
        let helper = clone::clone_sharing_descriptors(|| {
            let _ = process::die_with_parent();
            let word = number.get();
            let descriptor = loop {
                match word.load(Ordering::SeqCst) {
                    WAITING => std::thread::yield_now(),
                    LOST => return 0,
                    descriptor => break descriptor,
                }
            };
            let sent = fd::borrow_of(descriptor)
                .and_then(|listener| fd::send(self.socket.as_fd(), &message, Some(listener.as_fd())));
            word.store(if sent.is_ok() { SENT } else { LOST }, Ordering::SeqCst);
            0
        })
        .map_err(failed)?;
        let listener = match load() {
            Ok(listener) => listener,
            Err(error) => {
                number.get().store(LOST, Ordering::SeqCst);
                return Err(failed(error));
            }
        };
        let descriptor = listener.as_ref().map_or(LOST, |fd| fd.as_raw_fd());
        number.get().store(descriptor, Ordering::SeqCst);
        // No call from here on but those of the program: what is not closed now
        // is closed by execve(2).
        while number.get().load(Ordering::SeqCst) == descriptor {
            std::hint::spin_loop();
        }
        let sent = number.get().load(Ordering::SeqCst) == SENT;
        std::mem::forget((number, listener, helper));
        if sent {
            Ok(())
        } else {
            Err(Failure::because(
                Step::Seccomp,
                "listener",
                "it did not take the descriptor",
            ))
        }
    }
}

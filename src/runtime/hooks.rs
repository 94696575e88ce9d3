//! Hooks of the OCI runtime spec: programs that are told the container's state
//! on standard input and run at points of its life.
//!
//! What a hook prints is kept in memory and becomes part of the error when it
//! fails, or goes to files that the container's annotations name; it never reaches
//! the container's or the caller's output. A hook gets
//! the environment it names and no other; one that names none that of whoever
//! runs it, and inside the container the program's.

use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use oci_spec::runtime::{Hook, State};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags};

use super::error::{Failure, Step};

/// How much of a hook's output is shown.
const SHOWN: u64 = 2 << 10;

/// Annotations with the files that take what hooks outside the container print, in
/// the names of the runtime that has them first.
pub(super) const STDOUT: &str = "run.oci.hooks.stdout";
pub(super) const STDERR: &str = "run.oci.hooks.stderr";

/// Runs hooks one after the other, in the folder `place`; ends at the first
/// that fails.
///
/// # Errors
/// A [`Failure`] of [`Step::Hook`] that names the hook and says what it printed.
pub(crate) fn run(kind: &str, hooks: &[Hook], state: &State, place: &Path) -> Result<(), Failure> {
    if hooks.is_empty() {
        return Ok(());
    }
    let failed = |error: io::Error| Failure::new(Step::Hook, kind, &error);
    // Inside the container the path would lead elsewhere.
    let annotations = state.annotations().as_ref().filter(|_| kind != "startContainer");
    let sink = |name| annotations.and_then(|all| all.get(name)).map(String::as_str);
    let sinks = [sink(STDOUT), sink(STDERR)];
    let state = serde_json::to_vec(state).map_err(|error| failed(error.into()))?;
    for (number, hook) in hooks.iter().enumerate() {
        one(hook, &state, sinks, place).map_err(|reason| {
            let subject = format!("{kind} hook #{number}");
            Failure::because(
                Step::Hook,
                subject,
                format!("{}: {reason}", hook.path().display()),
            )
        })?;
    }
    Ok(())
}

fn one(hook: &Hook, state: &[u8], sinks: [Option<&str>; 2], place: &Path) -> Result<(), String> {
    let words = |error: io::Error| super::error::describe(&error);
    if !hook.path().is_absolute() {
        return Err("its path is not absolute".into());
    }
    let memory =
        || -> io::Result<std::fs::File> { Ok(rustix::fs::memfd_create("hook", MemfdFlags::CLOEXEC)?.into()) };
    let mut input = memory().map_err(words)?;
    input
        .write_all(state)
        .and_then(|()| input.rewind())
        .map_err(words)?;
    let mut output = memory().map_err(words)?;
    let sink = |path: Option<&str>| -> Result<Stdio, String> {
        let file = match path {
            Some(path) => std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(path)
                .map_err(|error| format!("open {path}: {}", words(error)))?,
            None => output.try_clone().map_err(words)?,
        };
        Ok(file.into())
    };
    let [stdout, stderr] = sinks.map(sink);
    let mut command = Command::new(hook.path());
    if let Some((name, further)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(name).args(further);
    }
    if let Some(list) = hook.env() {
        command.env_clear();
        command.envs(list.iter().filter_map(|entry| entry.split_once('=')));
    }
    command
        .current_dir(place)
        .stdin(Stdio::from(input))
        .stdout(stdout?)
        .stderr(stderr?);
    let mut child = command.spawn().map_err(words)?;
    if let Some(seconds) = hook.timeout() {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let ended = match pid.map(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty())) {
            Some(Ok(fd)) => {
                let mut fds = [PollFd::new(&fd, PollFlags::IN)];
                let time = Timespec {
                    tv_sec: seconds.max(0),
                    tv_nsec: 0,
                };
                rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&time)))
                    .is_ok_and(|ready| ready > 0)
            }
            _ => true,
        };
        if !ended {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("still runs after {seconds} s"));
        }
    }
    let status = child.wait().map_err(words)?;
    if status.success() {
        return Ok(());
    }
    let mut printed = String::new();
    let _ = output.rewind();
    let _ = output.take(SHOWN).read_to_string(&mut printed);
    let printed = printed.trim();
    let status = match status.signal() {
        // Of a filter of system calls.
        Some(libc::SIGSYS) => format!("{status}: bad system call"),
        _ => status.to_string(),
    };
    Err(if printed.is_empty() {
        status
    } else {
        format!("{status}: {printed}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        serde_json::from_value(serde_json::json!({
            "path": "/bin/sh", "args": ["hook", "-c", script], "env": ["A=b"], "timeout": timeout
        }))
        .unwrap()
    }

    #[test]
    fn a_hook_gets_the_state_its_environment_and_its_folder() {
        let place = tempfile::tempdir().unwrap();
        let mut state = State::default();
        state.set_id("it".into());
        let script = "cat > state; env | grep -v -e PWD -e ^_ -e SHLVL > env; echo $0 > name";
        run("prestart", &[hook(script, Some(10))], &state, place.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(place.path().join(name)).unwrap();
        assert!(read("state").contains("\"id\":\"it\""));
        assert_eq!(read("env"), "A=b\n");
        assert_eq!(read("name"), "hook\n");
    }

    #[test]
    fn the_first_that_fails_is_named_with_what_it_said() {
        let place = tempfile::tempdir().unwrap();
        let hooks = [
            hook("true", None),
            hook("echo no luck >&2; exit 3", None),
            hook("touch ran", None),
        ];
        let error = run("poststart", &hooks, &State::default(), place.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "error running poststart hook #1: /bin/sh: exit status: 3: no luck"
        );
        assert!(!place.path().join("ran").exists());
        let error = run(
            "poststart",
            &[hook("sleep 60", Some(0))],
            &State::default(),
            place.path(),
        );
        assert!(error.unwrap_err().to_string().contains("still runs"));
    }
}

//! Hooks: commands that are run inside a container after its start and before
//! its stop. Commands of ours run them, restart policies do not. What they print
//! is told line by line (to `up` in the foreground, as docker compose shows it),
//! and the end of it with a failure.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use super::HostError;
use super::machine::blocking;
use super::start::ended_process;
use crate::project::Hook;
use crate::runtime::{self, ExecRequest, ExecStdio, RunningRecord};

/// The last lines of a hook's output that its failure shows.
const LINES: usize = 10;
/// The most of its output that is kept in memory, in bytes.
const KEPT: usize = 64 * 1024;
/// The longest line that is told as one, in bytes.
const LONGEST: u64 = 16 * 1024;
/// How long the end of its output is waited for when it has ended: a child in
/// the background may hold it.
const REST: Duration = Duration::from_millis(200);

/// Hears every line that a hook prints.
pub(super) type Say = Arc<dyn Fn(String) + Send + Sync>;

/// Runs hooks one after the other, up to the first that fails.
///
/// # Errors
/// [`HostError::Hook`] when one cannot be run or ends with another status than
/// 0, with the end of what it printed.
pub(super) async fn run(
    running: &RunningRecord,
    container: &str,
    kind: &'static str,
    hooks: &[Hook],
    say: Say,
) -> Result<(), HostError> {
    for hook in hooks {
        let failed = |reason: String| HostError::Hook {
            container: container.to_owned(),
            kind,
            command: hook.command.join(" "),
            reason,
        };
        let request = ExecRequest {
            args: hook.command.clone(),
            env: hook
                .environment
                .iter()
                .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)))
                .collect(),
            cwd: hook.working_dir.clone(),
            user: hook.user.clone(),
            privileged: hook.privileged,
            ..ExecRequest::default()
        };
        let (running, io) = (running.clone(), failed("no pipe".to_owned()));
        let begun = blocking(move || {
            let (output, inside) =
                rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|_| io)?;
            let stdio = ExecStdio {
                stdout: Some(inside.as_fd()),
                stderr: Some(inside.as_fd()),
                ..ExecStdio::default()
            };
            Ok((runtime::exec(&running, &request, stdio), output))
        });
        let (exec, output) = begun.await?;
        let exec = exec.map_err(|error| failed(error.to_string()))?;
        // Until all that hold it have closed it, a child in the background too:
        // so not waited for.
        let say = say.clone();
        let printed = tokio::task::spawn_blocking(move || tail(File::from(output), &say));
        ended_process(&exec.process).await;
        let status = exec.process.wait();
        // What it has printed itself is there by now.
        let said = tokio::time::timeout(REST, printed).await;
        match status {
            Ok(0) => {}
            Ok(status) => {
                let said = said.ok().and_then(Result::ok).unwrap_or_default();
                return Err(failed(format!("exited with status {status}{said}")));
            }
            Err(error) => return Err(failed(error.to_string())),
        }
    }
    Ok(())
}

/// Tells the lines of a stream; the last of them, each on a line of its own.
fn tail(stream: File, say: &Say) -> String {
    let mut kept = Vec::new();
    let mut stream = BufReader::new(stream);
    loop {
        let from = kept.len();
        // A line without an end does not fill the memory.
        let mut part = (&mut stream).take(LONGEST);
        if !matches!(part.read_until(b'\n', &mut kept), Ok(1..)) {
            return last_lines(&kept);
        }
        let line = kept.get(from..).unwrap_or_default();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        say(String::from_utf8_lossy(line).into_owned());
        if kept.len() > 2 * KEPT {
            kept.drain(..kept.len() - KEPT);
        }
    }
}

/// The last lines of a text, each on a line of its own.
pub(super) fn last_lines(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(LINES);
    lines
        .iter()
        .skip(first)
        .map(|line| format!("\n  {line}"))
        .collect()
}

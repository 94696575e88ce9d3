//! The keys of a foreground `up`: docker compose's `w` and `d`.
//!
//! While the stack is shown on a terminal, keys arrive as they are pressed and
//! are not echoed; Ctrl-C and Ctrl-Z mean what they always do. Only the process
//! group that has the terminal touches it: an `up` that is sent to the
//! background (`bg`) neither reads nor sets it.

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::live::Line;
use super::terminal::{Style, Terminal};
use crate::sys::readiness::watch;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Leave; the stack goes on.
    Detach,
    /// Follow the sources, or no longer.
    Watch,
    /// An empty line among the logs.
    Line,
}

/// What the keys are, for the foot of the screen.
pub(super) fn line(watching: bool, colored: bool) -> Line {
    let keys = [
        ("w", if watching { "Disable Watch" } else { "Enable Watch" }),
        ("d", "Detach"),
    ];
    let plain = keys.map(|(key, does)| format!("{key} {does}")).join("   ");
    let text = keys.map(|(key, does)| {
        let does = Style::Dim.paint(does, colored);
        format!("{} {does}", Style::Cyan.paint(key, colored))
    });
    Line {
        text: text.join("   "),
        width: plain.len(),
    }
}

/// The keyboard, while keys mean something; as it was before when dropped.
#[derive(Debug)]
pub(super) struct Keyboard {
    keys: AsyncFd<OwnedFd>,
    before: Termios,
    /// After a stop (Ctrl-Z) the shell has set the terminal its own way.
    resumed: Signal,
}

impl Keyboard {
    /// Takes the keyboard; `None` where there is none to take: all three
    /// standard streams are to be the terminal, and it ours.
    ///
    /// # Errors
    /// What tcsetattr(3) and epoll_ctl(2) return.
    pub(super) fn new(terminal: &Terminal) -> io::Result<Option<Self>> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        if !terminal.is_live() || !stdin.is_terminal() || !stdout.is_terminal() || !in_foreground() {
            return Ok(None);
        }
        let keyboard = Self {
            keys: watch(stdin.as_fd().try_clone_to_owned()?, Interest::READABLE)?,
            before: tcgetattr(stdin.as_fd())?,
            resumed: signal(SignalKind::from_raw(libc::SIGCONT))?,
        };
        keyboard.set()?;
        Ok(Some(keyboard))
    }

    fn set(&self) -> io::Result<()> {
        let mut keys = self.before.clone();
        keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        keys.special_codes[SpecialCodeIndex::VMIN] = 1;
        tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &keys)?;
        Ok(())
    }

    /// The next key that means something.
    ///
    /// # Errors
    /// What read(2) returns of the terminal; at its end it says that.
    pub(super) async fn next(&mut self) -> io::Result<Key> {
        loop {
            tokio::select! {
                ready = self.keys.readable() => {
                    let mut ready = ready?;
                    ready.clear_ready();
                    if !in_foreground() {
                        continue;
                    }
                    let mut typed = [0_u8; 64];
                    let count = match rustix::io::read(io::stdin().as_fd(), &mut typed) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(count) => count,
                        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                        Err(error) => return Err(error.into()),
                    };
                    // Of keys that were pressed in one go, the first counts.
                    let keys = typed.get(..count).unwrap_or_default();
                    if let Some(key) = keys.iter().find_map(|key| means(*key)) {
                        return Ok(key);
                    }
                }
                _ = self.resumed.recv() => if in_foreground() { self.set()? },
            }
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        if in_foreground() {
            let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &self.before);
        }
    }
}

fn means(key: u8) -> Option<Key> {
    match key.to_ascii_lowercase() {
        b'd' => Some(Key::Detach),
        b'w' => Some(Key::Watch),
        b'\r' | b'\n' => Some(Key::Line),
        _ => None,
    }
}

/// Whether the terminal is ours to read and set: our process group has it, or it
/// is not one that hands itself from group to group.
fn in_foreground() -> bool {
    match rustix::termios::tcgetpgrp(io::stdin().as_fd()) {
        Ok(group) => group == rustix::process::getpgrp(),
        Err(error) => error == rustix::io::Errno::NOTTY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_they_do_in_docker_compose() {
        assert_eq!(
            [b'd', b'W', b'\r', b'q'].map(means),
            [Some(Key::Detach), Some(Key::Watch), Some(Key::Line), None]
        );
        let shown = line(false, false);
        assert_eq!(shown.text, "w Enable Watch   d Detach");
        assert_eq!(shown.width, shown.text.len());
        assert_eq!(line(true, true).width, "w Disable Watch   d Detach".len());
    }
}

//! Pseudo-terminals.

use std::io;
use std::os::fd::OwnedFd;

use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

/// Opens the side of the program of a fresh pseudo-terminal, by the side of
/// whoever watches it, wherever the file system is that it is in; with a size of
/// rows and columns.
///
/// # Errors
/// What the kernel says; `ENOTTY` for what is no such side.
pub fn open_other_side(master: &OwnedFd, size: Option<(u16, u16)>) -> io::Result<OwnedFd> {
    rustix::pty::unlockpt(master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(master, flags)?;
    if let Some((rows, columns)) = size {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(master, size)?;
    }
    Ok(slave)
}

/// Has a pseudo-terminal pass on the ends of lines as they are written.
///
/// # Errors
/// What tcsetattr(3) says.
pub fn keep_line_ends(master: &OwnedFd) -> io::Result<()> {
    let mut modes = tcgetattr(master)?;
    modes.output_modes &= !OutputModes::ONLCR;
    Ok(tcsetattr(master, OptionalActions::Now, &modes)?)
}

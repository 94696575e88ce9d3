//! The container's standard descriptors, as seen from outside.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;

use super::attach::{Clients, Input};
use super::log::{Stream, Writer};
use crate::runtime::now;

/// How much is read at once.
const BUFFER: usize = 32 << 10;

/// How much is read at once while a container prints faster than that is read,
/// and how much the kernel holds for us then. A pipe of the usual 64 KiB makes
/// the container and us wait for each other all the time.
const FLOOD_BUFFER: usize = 128 << 10;
const FLOOD_PIPE: usize = 1 << 20;

/// What a pipe has from the kernel (pipe(7)).
const USUAL_PIPE: usize = 64 << 10;

/// How often one stream is read before the others get their turn.
const TURNS: usize = 8;

/// What the container prints, and what keeps its input open.
#[derive(Debug)]
pub(super) struct Output {
    /// Read ends that have not come to their end.
    streams: Vec<(Stream, File)>,
    /// What keeps its input open, or the terminal.
    pub(super) input: Input,
    buffer: Vec<u8>,
}

/// The container's side.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Output {
    /// Pipes; with a terminal, nothing until [`Output::of_terminal`].
    pub(super) fn pipes(terminal: bool, stdin_open: bool) -> io::Result<(Self, Inside)> {
        let null = || rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        if terminal {
            let inside = Inside {
                stdin: null()?,
                stdout: null()?,
                stderr: null()?,
            };
            return Ok((
                Self {
                    streams: Vec::new(),
                    input: Input::default(),
                    buffer: Vec::new(),
                },
                inside,
            ));
        }
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
        let (stdin, input) = if stdin_open {
            let (read, write) = pipe()?;
            // Only our end: the other's flags are the container's business.
            rustix::io::ioctl_fionbio(&write, true)?;
            (read, Some(write))
        } else {
            (null()?, None)
        };
        let (stdout_read, stdout) = pipe()?;
        let (stderr_read, stderr) = pipe()?;
        // Only our ends: the other's flags are the container's business.
        rustix::io::ioctl_fionbio(&stdout_read, true)?;
        rustix::io::ioctl_fionbio(&stderr_read, true)?;
        let streams = vec![
            (Stream::Stdout, stdout_read.into()),
            (Stream::Stderr, stderr_read.into()),
        ];
        Ok((
            Self {
                streams,
                input: Input::new(input),
                buffer: Vec::new(),
            },
            Inside {
                stdin,
                stdout,
                stderr,
            },
        ))
    }

    /// The master side of a terminal.
    pub(super) fn of_terminal(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        let copy = master.try_clone()?;
        Ok(Self {
            streams: vec![(Stream::Stdout, master.into())],
            input: Input::new(Some(copy)),
            buffer: Vec::new(),
        })
    }

    /// What to wait for, in the order of [`Output::read`]'s numbers.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.streams.iter().map(|(_, file)| file.as_fd())
    }

    /// Reads what is there of the stream of that number. A stream at its end is
    /// closed when all have been read: [`Output::forget`].
    pub(super) fn read(&mut self, number: usize, log: &mut Writer, clients: &mut Clients) -> Progress {
        let Some((stream, file)) = self.streams.get_mut(number) else {
            return Progress::Ended;
        };
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER];
        }
        for _ in 0..TURNS {
            if clients.are_full() {
                return Progress::More;
            }
            match file.read(&mut self.buffer) {
                Ok(0) => return Progress::Ended,
                Ok(length) => {
                    let bytes = self.buffer.get(..length).unwrap_or_default();
                    log.feed(*stream, bytes, now());
                    clients.tell(*stream, bytes);
                    if length < self.buffer.len() {
                        return Progress::More;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Empty,
                // A terminal that nobody has open any more (EIO).
                Err(_) => return Progress::Ended,
            }
        }
        // Every buffer was full.
        if self.buffer.len() < FLOOD_BUFFER {
            self.buffer = vec![0; FLOOD_BUFFER];
            // A terminal is none, and one that many pipes have drained stays small.
            let _ = rustix::pipe::fcntl_setpipe_size(&*file, FLOOD_PIPE);
        }
        Progress::More
    }

    /// Gives the memory back that output has taken, ours and the kernel's.
    pub(super) fn rest(&mut self) {
        if self.buffer.len() > BUFFER {
            for (_, file) in &self.streams {
                let _ = rustix::pipe::fcntl_setpipe_size(file, USUAL_PIPE);
            }
        }
        self.buffer = Vec::new();
    }

    /// Closes the streams of these numbers.
    pub(super) fn forget(&mut self, mut ended: Vec<usize>) {
        ended.sort_unstable();
        for number in ended.into_iter().rev() {
            self.streams.remove(number);
        }
    }

    /// Reads all there is, once nobody is left who could write more. Does not
    /// wait: somebody outside may hold a write end.
    pub(super) fn drain(&mut self, log: &mut Writer, clients: &mut Clients) {
        for number in 0..self.streams.len() {
            clients.wait_for_room();
            while self.read(number, log, clients) == Progress::More {
                log.flush();
                clients.wait_for_room();
            }
        }
        clients.wait_for_room();
    }
}

/// How a read went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// There may be more.
    More,
    /// There is no more right now.
    Empty,
    /// There will be no more.
    Ended,
}

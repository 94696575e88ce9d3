//! The container's standard descriptors, as seen from outside.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;

use super::attach::{Clients, Input};
use super::estate;
use super::log::{LONGEST_READ, Stage, Stream, Writer};
use crate::runtime::now;

/// How much is read at once.
const BUFFER: usize = 32 << 10;

/// How much the kernel holds for us while a container prints faster than that is
/// read. A pipe of the usual 64 KiB makes the container and us wait for each other
/// all the time.
const FLOOD_PIPE: usize = 1 << 20;
/// And how much the pipe in between takes: twice what is read at once, since not
/// every page of it is full.
const FLOOD_STAGE: usize = 2 * LONGEST_READ;

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
    /// What pipes are emptied through; a terminal is read as it is.
    stage: Option<Stage>,
    /// It prints faster than is read.
    flood: bool,
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
                    stage: None,
                    flood: false,
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
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let streams = vec![
            (Stream::Stdout, stdout_read.into()),
            (Stream::Stderr, stderr_read.into()),
        ];
        Ok((
            Self {
                streams,
                input: Input::new(input),
                stage: Some(Stage { read, write }),
                flood: false,
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
            stage: None,
            flood: false,
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
        let most = if self.flood { LONGEST_READ } else { BUFFER };
        for _ in 0..TURNS {
            if clients.are_full() {
                return Progress::More;
            }
            let taken = match &self.stage {
                Some(stage) => log.take_from(*stream, most, now(), file.as_fd(), stage),
                None => log.take(*stream, most, now(), |room| file.read(room)),
            };
            match taken {
                Ok(0) => return Progress::Ended,
                Ok(length) => {
                    clients.tell(*stream, log.latest());
                    if length < most {
                        return Progress::More;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Empty,
                // A terminal that nobody has open any more (EIO).
                Err(_) => return Progress::Ended,
            }
        }
        // There was as much as we could take each time.
        if !self.flood {
            self.flood = true;
            // A terminal is none, and one that many pipes have drained stays small.
            let _ = rustix::pipe::fcntl_setpipe_size(&*file, FLOOD_PIPE);
            if let Some(stage) = &self.stage {
                let _ = rustix::pipe::fcntl_setpipe_size(&stage.write, FLOOD_STAGE);
            }
        }
        Progress::More
    }

    /// Gives the kernel's memory back that output has taken.
    pub(super) fn rest(&mut self) {
        if std::mem::take(&mut self.flood) {
            let stage = self.stage.iter().map(|stage| stage.write.as_fd());
            for pipe in self.streams.iter().map(|(_, file)| file.as_fd()).chain(stage) {
                let _ = rustix::pipe::fcntl_setpipe_size(pipe, USUAL_PIPE);
            }
        }
    }

    /// What whoever goes on with it needs beside the log's memory, by name.
    pub(super) fn left(&self) -> impl Iterator<Item = (&'static [u8], BorrowedFd<'_>)> {
        let stage = self.stage.iter().map(|stage| (estate::STAGE, stage.read.as_fd()));
        let streams = self.streams.iter().map(|(stream, file)| match stream {
            Stream::Stdout => (estate::STDOUT, file.as_fd()),
            Stream::Stderr => (estate::STDERR, file.as_fd()),
        });
        streams.chain(stage)
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

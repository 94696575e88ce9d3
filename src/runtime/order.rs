//! What is handed to the roles: orders in memory files, descriptors by number.
//!
//! A role is started with descriptors at fixed places and the rest named in its
//! order. The monitor's order is separate from the init stage's
//! [`Blueprint`](super::blueprint::Blueprint), which the monitor passes on
//! unread: it stays small.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::{Hooks, State};
use rustix::fs::{MemfdFlags, SealFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::blueprint::Namespaces;
use super::cgroup::Cgroup;
use super::error::Failure;
use super::foreign::Foreign;
use super::process::ProcessId;
use super::request::{LogPlan, Revive};
use crate::sys::seccomp::Instruction;

/// The monitor's descriptors: its order.
pub(crate) const ORDER: usize = 3;
/// The init stage's blueprint.
pub(crate) const BLUEPRINT: usize = 4;
/// The packet socket to whoever starts the container.
pub(crate) const ANSWER: usize = 5;
/// Our executable.
pub(crate) const EXECUTABLE: usize = 6;
/// The packet socket through which a supervisor hands a new link.
pub(crate) const DOOR: usize = 7;
/// Its other end, for supervisors to take a copy of.
pub(crate) const DOOR_OUTSIDE: usize = 8;
/// The first of those that the order names.
pub(crate) const FURTHER: usize = 9;

/// What the monitor does.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MonitorOrder {
    /// Id of the container.
    pub(crate) id: String,
    /// The namespaces of the container's process.
    pub(crate) namespaces: Namespaces,
    pub(crate) cgroup: Cgroup,
    pub(crate) terminal: bool,
    pub(crate) stdin_open: bool,
    pub(crate) log: PathBuf,
    pub(crate) log_plan: LogPlan,
    pub(crate) exit_record: PathBuf,
    pub(crate) running_record: PathBuf,
    pub(crate) revive: Option<Revive>,
    /// The init stage may be a clone of the monitor.
    pub(crate) alone: bool,
    /// Numbers of descriptors that may be there.
    pub(crate) filter: Option<usize>,
    pub(crate) network: Option<usize>,
    pub(crate) link: Option<usize>,
    /// Hooks that the monitor runs.
    #[serde(default)]
    pub(crate) hooks: Option<Box<HookOrder>>,
    /// Another runtime that makes the container.
    #[serde(default)]
    pub(crate) foreign: Option<Foreign>,
    /// The client that is there from the beginning.
    #[serde(default)]
    pub(crate) client: Option<usize>,
    /// Where it puts what it leaves when it is killed.
    #[serde(default)]
    pub(crate) estate: Option<usize>,
    /// The part of the running record that is known beforehand, as it is written.
    pub(crate) fixed: Box<RawValue>,
}

/// Hooks that are run outside of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HookOrder {
    pub(crate) state: State,
    pub(crate) hooks: Hooks,
}

/// What the monitor answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    /// The program runs.
    Started {
        monitor: ProcessId,
        init: ProcessId,
        started_at: u64,
        warnings: Vec<String>,
    },
    /// It does not.
    Failed(Failure),
}

/// The longest answer.
pub(crate) const LONGEST_ANSWER: usize = 64 << 10;

/// A sealed memory file with a value in it.
pub(crate) fn write<T: Serialize>(value: &T) -> io::Result<OwnedFd> {
    memory_file(&serde_json::to_vec(value)?)
}

/// A sealed memory file with a filter in it.
pub(crate) fn write_filter(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    memory_file(&bytes)
}

fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("rcompose", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file)
}

/// The value in a memory file.
pub(crate) fn read<T: DeserializeOwned>(file: BorrowedFd<'_>) -> io::Result<T> {
    Ok(serde_json::from_slice(&content(file)?)?)
}

/// The filter in a memory file.
pub(crate) fn read_filter(file: BorrowedFd<'_>) -> io::Result<Vec<Instruction>> {
    let content = content(file)?;
    let instruction = |bytes: &[u8]| match *bytes {
        [code0, code1, jt, jf, k0, k1, k2, k3] => Ok(Instruction {
            code: u16::from_ne_bytes([code0, code1]),
            jt,
            jf,
            k: u32::from_ne_bytes([k0, k1, k2, k3]),
        }),
        _ => Err(io::ErrorKind::InvalidData.into()),
    };
    content.chunks(8).map(instruction).collect()
}

/// All bytes of a memory file, whose position is shared with others.
fn content(file: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let size = usize::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or_default();
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        let offset = u64::try_from(filled).unwrap_or_default();
        let read = rustix::io::pread(file.as_fd(), bytes.get_mut(filled..).unwrap_or_default(), offset)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_survive_the_way() {
        let program = vec![
            Instruction {
                code: 0x20,
                jt: 1,
                jf: 2,
                k: 0x8000_0001,
            },
            Instruction {
                code: 6,
                jt: 255,
                jf: 0,
                k: 0x7fff_0000,
            },
        ];
        let file = write_filter(&program).unwrap();
        assert_eq!(read_filter(file.as_fd()).unwrap(), program);
        assert_eq!(read_filter(file.as_fd()).unwrap(), program);
        assert!(rustix::io::write(&file, b"x").is_err());
    }
}

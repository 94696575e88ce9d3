//! The device programs of version 2 cgroups.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// One instruction of an extended BPF program, as in `linux/bpf.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low half, source register in the high half.
    pub registers: u8,
    /// Jump or memory offset.
    pub offset: i16,
    /// Operand.
    pub immediate: i32,
}

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads.
#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The part of `union bpf_attr` that BPF_PROG_ATTACH reads.
#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// Loads a program that decides which devices a cgroup may use, and attaches it
/// to the version 2 cgroup folder `cgroup`. The program lives as long as the
/// cgroup does.
///
/// # Errors
/// What bpf(2) returns.
pub fn attach_device_program(program: &[Instruction], cgroup: BorrowedFd<'_>) -> io::Result<()> {
    let load = Load {
        program_type: CGROUP_DEVICE_PROGRAM,
        count: u32::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: the attributes are as large as said, and the program and licence
    // they point to live through the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    let fd = match RawFd::try_from(fd) {
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => unsafe { OwnedFd::from_raw_fd(fd) },
        _ => return Err(io::Error::last_os_error()),
    };
    let attach = Attach {
        target: cgroup.as_raw_fd().cast_unsigned(),
        program: fd.as_raw_fd().cast_unsigned(),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the attributes are as large as said.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

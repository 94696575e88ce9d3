//! A program of a few instructions that becomes another program.
//!
//! A process that was cloned and never executed anything still runs the file of
//! whoever cloned it, and `/proc/self/exe` leads to that file. A container that
//! executes that path (a script with `#!/proc/self/exe`) must not get hold of
//! it. So such a process executes a stub first: an image of its own in a sealed
//! memory file, that tries the paths it was made for and says what went wrong.
//! It links no C library, whose start asks the processor some eighty questions
//! (`cpuid`), each of which is an exit to the hypervisor in a virtual machine:
//! executing a stub takes 40 µs where an empty static C program takes 700.
//!
//! Only on x86-64, where that is so; elsewhere there is no stub.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::FdFlags;

/// Where the image is mapped: anywhere is fine, it is alone.
const BASE: u64 = 0x40_0000;
/// Length of the ELF header and of the one program header.
const HEADERS: u64 = 64 + 56;

/// The memory file that a stub will be in.
#[derive(Debug)]
pub struct Stub(OwnedFd);

/// The system calls a stub needs beside execve(2), exit_group(2) and those of the
/// program: where a filter refuses one, no stub can be used.
pub const CALLS: [&str; 3] = ["execveat", "fcntl", "writev"];

/// What a stub does.
#[derive(Debug)]
pub struct Attempts<'a> {
    /// The files to execute, in order: the next one is tried when a file is not
    /// there or may not be executed.
    pub paths: &'a [CString],
    /// Arguments of the program.
    pub arguments: &'a [CString],
    /// Its environment.
    pub environment: &'a [CString],
    /// The packet socket that is told of a failure, and closed by success.
    pub report: BorrowedFd<'a>,
    /// What is sent when a file cannot be executed, before [`NUMBER`] bytes
    /// with the negative error number.
    pub failed: &'a [u8],
    /// What is sent when there was none, in the same way.
    pub missing: &'a [u8],
}

/// How many bytes at the end of what a stub sends are the error number.
pub const NUMBER: usize = 8;

impl Stub {
    /// Makes the file; `None` where there are no stubs or memory files may not
    /// be executed (`vm.memfd_noexec`).
    pub fn new() -> Option<Self> {
        if !cfg!(target_arch = "x86_64") {
            return None;
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // The flag is new in Linux 6.3; before, every memory file is executable.
        let file = match rustix::fs::memfd_create("program", flags | MemfdFlags::EXEC) {
            Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("program", flags),
            other => other,
        };
        file.ok().map(Self)
    }

    /// A stub by its descriptor, in a process that has inherited it.
    pub fn of(file: OwnedFd) -> Self {
        Self(file)
    }

    /// Writes down what is to be done. From then on the report socket stays open
    /// across execve(2), until the stub runs.
    ///
    /// # Errors
    /// What write(2) and fcntl(2) return.
    pub fn write(&self, attempts: &Attempts<'_>) -> io::Result<()> {
        let image = image(attempts);
        if rustix::io::write(&self.0, &image)? != image.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&self.0, seals)?;
        rustix::io::fcntl_setfd(attempts.report, FdFlags::empty())?;
        Ok(())
    }

    /// Becomes the stub, and through it the program: with execveat(2), fcntl(2),
    /// execve(2) and, if that fails, writev(2). Returns only when the first does.
    pub fn execute(&self) -> io::Error {
        // The empty name is how the stub knows that it was us who started it.
        super::clone::execute_fd(self.0.as_fd(), &[CString::default()], &[])
    }
}

impl AsRawFd for Stub {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The whole file: headers, code, what the code reads.
fn image(attempts: &Attempts<'_>) -> Vec<u8> {
    let code = code();
    let start = HEADERS + code.len() as u64;
    let mut words: Vec<u64> = Vec::new();
    let mut bytes: Vec<u8> = Vec::new();
    let lists = [attempts.arguments, attempts.environment, attempts.paths];
    // Eight words, then each list and its end.
    let length = 8 + lists.iter().map(|list| list.len() as u64 + 1).sum::<u64>();
    let first = BASE + start + length * 8;
    let mut put = |text: &[u8]| {
        let place = first + bytes.len() as u64;
        bytes.extend_from_slice(text);
        place
    };
    let (failed, missing) = (put(attempts.failed), put(attempts.missing));
    let list = |number: usize| {
        let before: usize = lists.iter().take(number).map(|list| list.len() + 1).sum();
        BASE + start + (8 + before as u64) * 8
    };
    words.extend([
        u64::from(attempts.report.as_raw_fd().cast_unsigned()),
        list(0),
        list(1),
        list(2),
        failed,
        attempts.failed.len() as u64,
        missing,
        attempts.missing.len() as u64,
    ]);
    for list in lists {
        for text in list {
            words.push(put(text.as_bytes_with_nul()));
        }
        words.push(0);
    }
    let size = start + length * 8 + bytes.len() as u64;
    let mut image = headers(size);
    image.extend_from_slice(code);
    image.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    image.extend_from_slice(&bytes);
    image
}

/// The headers of an executable that is mapped whole, for reading and executing:
/// elf(5).
fn headers(size: u64) -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
    put(&2_u16.to_le_bytes()); // an executable at a fixed place
    put(&62_u16.to_le_bytes()); // of x86-64
    put(&1_u32.to_le_bytes());
    put(&(BASE + HEADERS).to_le_bytes()); // where it begins
    put(&64_u64.to_le_bytes()); // the program header follows
    put(&0_u64.to_le_bytes());
    put(&0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        put(&half.to_le_bytes());
    }
    put(&1_u32.to_le_bytes()); // PT_LOAD
    put(&5_u32.to_le_bytes()); // read and execute
    for word in [0, BASE, BASE, size, size, 0x1000_u64] {
        put(&word.to_le_bytes());
    }
    file
}

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.rcompose_stub, \"a\"",
    ".balign 8",
    "rcompose_stub_begin:",
    // Started by its own path in a container it does nothing.
    "mov rax, [rsp + 8]",
    "test rax, rax",
    "jz 9f",
    "cmp byte ptr [rax], 0",
    "jne 9f",
    "lea rbx, [rip + rcompose_stub_end]",
    "mov rbp, [rbx + 32]", // what is said of a failure
    "mov r12, [rbx + 40]",
    // fcntl(report, F_SETFD, FD_CLOEXEC)
    "mov rdi, [rbx]",
    "mov esi, 2",
    "mov edx, 1",
    "mov eax, 72",
    "syscall",
    "test rax, rax",
    "jnz 6f",
    "xor r14d, r14d", // the failure to tell when no path is left
    "mov r13, [rbx + 24]",
    "2:",
    "mov rdi, [r13]",
    "test rdi, rdi",
    "jz 5f",
    // execve(path, arguments, environment)
    "mov rsi, [rbx + 8]",
    "mov rdx, [rbx + 16]",
    "mov eax, 59",
    "syscall",
    "cmp rax, -13", // EACCES
    "jne 3f",
    "mov r14, rax",
    "jmp 4f",
    "3:",
    "cmp rax, -2", // ENOENT
    "je 4f",
    "cmp rax, -20", // ENOTDIR
    "jne 6f",
    "4:",
    "mov r15, rax",
    "add r13, 8",
    "jmp 2b",
    "5:",
    "mov rax, r14",
    "test rax, rax",
    "jnz 6f",
    "mov rax, r15",
    "mov rbp, [rbx + 48]", // nothing was there
    "mov r12, [rbx + 56]",
    // writev(report, {text, the number}, 2)
    "6:",
    "push rax",
    "mov rax, rsp",
    "push 8",
    "push rax",
    "push r12",
    "push rbp",
    "mov rdi, [rbx]",
    "mov rsi, rsp",
    "mov edx, 2",
    "mov eax, 20",
    "syscall",
    // exit_group(126)
    "9:",
    "mov edi, 126",
    "mov eax, 231",
    "syscall",
    "hlt",
    ".balign 8",
    "rcompose_stub_end:",
    ".popsection",
);

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    static rcompose_stub_begin: u8;
    static rcompose_stub_end: u8;
}

/// The code, whose length is a multiple of eight.
#[cfg(target_arch = "x86_64")]
fn code() -> &'static [u8] {
    let (begin, end) = (&raw const rcompose_stub_begin, &raw const rcompose_stub_end);
    // SAFETY: both are labels of one read-only section, the second behind the
    // first; what is between is never changed.
    unsafe { std::slice::from_raw_parts(begin, end as usize - begin as usize) }
}

#[cfg(not(target_arch = "x86_64"))]
fn code() -> &'static [u8] {
    &[]
}

#[cfg(target_arch = "x86_64")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{clone, fd};

    /// What a child says that becomes a stub, and how it ends.
    fn said(paths: &[&str]) -> (Vec<u8>, i32) {
        let texts = |list: &[&str]| -> Vec<CString> {
            list.iter().map(|text| CString::new(*text).unwrap()).collect()
        };
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let (paths, arguments) = (texts(paths), texts(&["sh", "-c", "exit $STATUS"]));
        let environment = texts(&["STATUS=42"]);
        let stub = Stub::new().unwrap();
        let child = clone::fork(|| {
            let attempts = Attempts {
                paths: &paths,
                arguments: &arguments,
                environment: &environment,
                report: theirs.as_fd(),
                failed: b"failed",
                missing: b"missing",
            };
            if stub.write(&attempts).is_ok() {
                let _ = stub.execute();
            }
            1
        })
        .unwrap();
        drop(theirs);
        let mut buffer = [0; 64];
        let (length, _) = fd::receive(ours.as_fd(), &mut buffer).unwrap();
        let child = rustix::process::Pid::from_raw(i32::try_from(child).unwrap());
        let end = rustix::process::waitpid(child, rustix::process::WaitOptions::empty());
        let (_, status) = end.unwrap().unwrap();
        let status = status.exit_status().unwrap();
        (buffer[..length].to_vec(), status)
    }

    fn with(text: &[u8], number: i32) -> Vec<u8> {
        [text, &i64::from(-number).to_le_bytes()].concat()
    }

    #[test]
    fn a_stub_becomes_the_first_program_there_is() {
        assert_eq!(said(&["/bin/sh"]), (Vec::new(), 42));
        assert_eq!(
            said(&["/nowhere/sh", "/etc/passwd/sh", "/etc/passwd", "/bin/sh"]),
            (Vec::new(), 42)
        );
    }

    #[test]
    fn a_stub_says_what_is_wrong() {
        assert_eq!(said(&["/nowhere"]), (with(b"missing", libc::ENOENT), 126));
        assert_eq!(
            said(&["/etc/passwd", "/nowhere"]),
            (with(b"failed", libc::EACCES), 126)
        );
        assert_eq!(
            said(&["/proc/self/exe/x"]),
            (with(b"missing", libc::ENOTDIR), 126)
        );
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("odd");
        std::fs::write(&odd, "\0").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&odd, mode).unwrap();
        assert_eq!(
            said(&[odd.to_str().unwrap()]),
            (with(b"failed", libc::ENOEXEC), 126)
        );
    }

    #[test]
    fn a_stub_that_a_container_starts_does_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, "#!/proc/self/exe\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).unwrap();
        for path in [script.to_str().unwrap(), "/proc/self/exe"] {
            assert_eq!(said(&[path]), (Vec::new(), 126));
        }
    }
}

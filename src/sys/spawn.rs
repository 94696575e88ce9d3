//! Starting programs from a process that has threads.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::ptr;

/// The lowest number the descriptors are parked at on their way into the new
/// process, above every number they are given there.
const PARKED: i32 = 256;

/// A program to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// Path of the file to execute. `/proc/self/fd/N` names a descriptor of the
    /// new process, so `N` is an index into `fds`.
    pub path: &'a CStr,
    /// Arguments, the program's own name first.
    pub argv: &'a [CString],
    /// The descriptors of the new process: the first becomes 0, the second 1
    /// and so on. At most 256.
    pub fds: &'a [BorrowedFd<'a>],
    /// Start it as the leader of a session of its own.
    pub new_session: bool,
}

/// Starts a program with posix_spawn(3): the caller's memory is not copied, no
/// code of ours runs in the child, and the caller may have threads.
///
/// The child gets the caller's environment, but for `NOTIFY_SOCKET` (what a manager
/// waits for, no service of a stack says), an empty signal mask and default
/// signal dispositions. Descriptors of the caller that are not marked
/// close-on-exec reach it too: a long-lived child closes what it was not given.
///
/// # Errors
/// What posix_spawn(3) returns, `EMFILE` when descriptors run out, and
/// [`io::ErrorKind::InvalidInput`] for more than 256 of them.
pub fn spawn(program: &Program<'_>) -> io::Result<u32> {
    if program.fds.len() > PARKED as usize {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors",
        ));
    }
    // Copies above every target number: no dup2 can overwrite a source.
    let parked: Vec<OwnedFd> = program
        .fds
        .iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, PARKED))
        .collect::<Result<_, _>>()?;
    let environment: Vec<CString> = std::env::vars_os()
        .filter(|(name, _)| name != "NOTIFY_SOCKET")
        .filter_map(|(name, value)| {
            let mut entry = name.into_vec();
            entry.push(b'=');
            entry.extend(value.into_vec());
            CString::new(entry).ok()
        })
        .collect();
    let argv = pointers(program.argv);
    let envp = pointers(&environment);
    let actions = Actions::new()?;
    for (number, fd) in parked.iter().enumerate() {
        let number = i32::try_from(number).unwrap_or(PARKED);
        // SAFETY: `actions` is initialised and lives until the end of the function.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(actions.get(), fd.as_raw_fd(), number) })?;
    }
    let attributes = Attributes::new(program.new_session)?;
    let mut pid = 0;
    // SAFETY: every pointer is to a live, NUL-terminated string or to a
    // NULL-terminated array of such, and the actions and attributes are
    // initialised; posix_spawn only reads them.
    check(unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.path.as_ptr(),
            actions.get(),
            attributes.get(),
            argv.as_ptr(),
            envp.as_ptr(),
        )
    })?;
    u32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// A NULL-terminated array of pointers to `strings`, which must outlive it.
pub(super) fn pointers(strings: &[CString]) -> Vec<*mut c_char> {
    let mut list: Vec<*mut c_char> = strings.iter().map(|string| string.as_ptr().cast_mut()).collect();
    list.push(ptr::null_mut());
    list
}

fn check(code: i32) -> io::Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(code))
    }
}

/// File actions, freed when dropped.
struct Actions(Box<MaybeUninit<libc::posix_spawn_file_actions_t>>);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = Self(Box::new(MaybeUninit::uninit()));
        // SAFETY: the pointer is to memory of the right size, which init fills.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.0.as_mut_ptr()) })?;
        Ok(actions)
    }

    fn get(&self) -> *mut libc::posix_spawn_file_actions_t {
        self.0.as_ptr().cast_mut()
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(self.get()) };
    }
}

/// Spawn attributes, freed when dropped.
struct Attributes(Box<MaybeUninit<libc::posix_spawnattr_t>>);

impl Attributes {
    fn new(new_session: bool) -> io::Result<Self> {
        let mut attributes = Self(Box::new(MaybeUninit::uninit()));
        // SAFETY: the pointer is to memory of the right size, which init fills.
        check(unsafe { libc::posix_spawnattr_init(attributes.0.as_mut_ptr()) })?;
        let mut flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        if new_session {
            flags |= libc::c_int::from(libc::POSIX_SPAWN_SETSID);
        }
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset and sigfillset initialise the set they are given;
        // the attributes were initialised above.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            check(libc::posix_spawnattr_setsigmask(attributes.get(), set.as_ptr()))?;
            libc::sigfillset(set.as_mut_ptr());
            check(libc::posix_spawnattr_setsigdefault(
                attributes.get(),
                set.as_ptr(),
            ))?;
            #[expect(clippy::cast_possible_truncation, reason = "all flags fit in 16 bits")]
            check(libc::posix_spawnattr_setflags(attributes.get(), flags as i16))?;
        }
        Ok(attributes)
    }

    fn get(&self) -> *mut libc::posix_spawnattr_t {
        self.0.as_ptr().cast_mut()
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, destroyed once.
        unsafe { libc::posix_spawnattr_destroy(self.get()) };
    }
}

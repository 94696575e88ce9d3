//! What the tests over the built program and the kernel share: a private world
//! for each test, the test images, waiting.
//!
//! Every test binary compiles its own copy and uses a part of it.
#![allow(dead_code, unreachable_pub)]
// Clippy takes only functions marked as tests for tests.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

pub mod push;
pub mod registry;
pub mod stack;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long one command may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(180);

/// How a command ended.
#[derive(Debug)]
pub struct Output {
    /// Exit status; 128 + n after signal n.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Itself, if the command ended well; fails the test with all it said if not.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// A state root and a network namespace of a test's own. What is left when the
/// test ends, well or not, is removed.
#[derive(Debug)]
pub struct World {
    folder: tempfile::TempDir,
    /// Keeps the namespace: ends with its standard input, and so with this process.
    namespace: Child,
}

/// Whether tests that need root can run; prints why not.
pub fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

impl World {
    /// A new world; `None`, with the reason printed, when this is not root.
    pub fn new() -> Option<Self> {
        if !root() {
            return None;
        }
        let folder = tempfile::Builder::new()
            .prefix("rcompose-test.")
            .tempdir()
            .unwrap();
        for name in ["state", "home", "work"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut namespace = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        namespace.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        Some(Self { folder, namespace })
    }

    /// The state root.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Where the test puts its files; commands run there.
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// What [`rcompose::store::World::id`] says of this world.
    pub fn id(&self) -> String {
        rcompose::store::World::new(Some(&self.state())).id().to_owned()
    }

    /// Writes a file into [`World::work`], with its folders.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.work().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// A program inside the world's network namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.namespace.id()))
            .arg("--")
            .arg(program)
            .current_dir(self.work())
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", self.folder.path().join("home"))
            // No device of this machine's vendors is a test's.
            .env("CDI_SPEC_DIRS", self.folder.path().join("work/cdi"))
            .env("LANG", "C.UTF-8")
            .env("RCOMPOSE_STATE_ROOT", self.state());
        command
    }

    /// Does something on a thread in the world's network namespace.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = rcompose::sys::netns::of_process(self.namespace.id()).unwrap();
        rcompose::sys::netns::within(netns.as_fd(), work).unwrap()
    }

    /// The built program inside the world.
    pub fn rcompose(&self, args: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_rcompose"));
        command.args(args);
        command
    }

    /// Runs the built program to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        finish(&mut self.rcompose(args))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let mark = self.folder.path().as_os_str().as_encoded_bytes().to_vec();
        let id = self.id();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            // Supervisors before what they would start again.
            let mut pids = marked(&mark);
            let cgroups = cgroups(&id);
            for cgroup in &cgroups {
                let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
                pids.extend(members.lines().filter_map(|line| line.parse::<i32>().ok()));
            }
            pids.remove(&0);
            for pid in pids.iter().filter_map(|&pid| Pid::from_raw(pid)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            for cgroup in &cgroups {
                let _ = fs::remove_dir(cgroup);
            }
            if pids.is_empty() && self::cgroups(&id).is_empty() {
                break;
            }
            if Instant::now() > deadline {
                eprintln!("left behind: processes {pids:?}, cgroups {cgroups:?}");
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        drop(self.namespace.stdin.take());
        let _ = self.namespace.wait();
        // What is mounted for volumes stays when everything was killed.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().rev().filter_map(|line| line.split(' ').nth(4));
        for point in points.filter(|point| Path::new(point).starts_with(self.folder.path())) {
            let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Processes, others than this, that name the world on their command line or in
/// their environment.
fn marked(mark: &[u8]) -> BTreeSet<i32> {
    let own = std::process::id();
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let names = |file: &str| {
            let content = fs::read(entry.path().join(file)).unwrap_or_default();
            content.windows(mark.len()).any(|window| window == mark)
        };
        // The tests of this binary share one process and its environment.
        if pid != own && (names("cmdline") || names("environ")) {
            found.extend(i32::try_from(pid));
        }
    }
    found
}

/// Control groups with the world's id in their path, deepest first.
fn cgroups(id: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, inside: bool, id: &str, depth: u32, found: &mut Vec<PathBuf>) {
        if depth == 0 {
            return;
        }
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let inside = inside || entry.file_name().to_string_lossy().contains(id);
            walk(&entry.path(), inside, id, depth - 1, found);
            if inside {
                found.push(entry.path());
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), false, id, 8, &mut found);
    found
}

/// Runs a command to its end, which must come within three minutes.
pub fn finish(command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    fn collect(mut stream: impl std::io::Read + Send + 'static) -> thread::JoinHandle<String> {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    let pid = child.id();
    let status = thread::spawn(move || child.wait().unwrap());
    let deadline = Instant::now() + PATIENCE;
    while !status.is_finished() {
        if Instant::now() > deadline {
            let _ = kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL);
            panic!("{command:?} does not end");
        }
        thread::sleep(Duration::from_millis(2));
    }
    let status = status.join().unwrap();
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
    // A background process may hold the pipes open; what it says later is not this command's.
    let until = Instant::now() + Duration::from_secs(1);
    let take = |reader: thread::JoinHandle<String>| {
        while !reader.is_finished() {
            if Instant::now() > until {
                return "(a process in the background keeps the pipe open)".to_owned();
            }
            thread::sleep(Duration::from_millis(2));
        }
        reader.join().unwrap()
    };
    Output {
        code,
        stdout: take(stdout),
        stderr: take(stderr),
    }
}

/// Waits until `look` finds what the test is about; fails the test when it does
/// not within a minute.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The folder with the test images, made on the first use: one OCI layout for
/// each of `busybox`, `nginx`, `redis`, `postgres`, `pyapp`. Needs root.
pub fn images() -> &'static Path {
    static IMAGES: OnceLock<PathBuf> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = std::env::var_os("RCOMPOSE_TEST_IMAGES").map(PathBuf::from);
        let folder = folder.unwrap_or_else(|| own.join("target/test-images"));
        // Takes a lock: several test binaries may come here at once.
        let status = Command::new(own.join("tests/images/make"))
            .arg(&folder)
            .status()
            .unwrap();
        assert!(status.success(), "tests/images/make has failed");
        folder
    })
}

/// A script of `tests/images`.
pub fn script(name: &str) -> Command {
    let mut command = Command::new(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/images")
            .join(name),
    );
    command.env("RCOMPOSE_TEST_IMAGES", images());
    command
}

/// A port of loopback that is free now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

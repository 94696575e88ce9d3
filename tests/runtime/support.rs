//! One container a test.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rcompose::monitor::log::{From, Reader, Stream};
use rcompose::runtime::{
    self, CgroupRequest, Exec, ExecRequest, ExecStdio, ExitRecord, Rootfs, RunRequest, RunningRecord,
    RuntimeError, SeccompPolicy, Settings, Started, default_spec,
};
use rcompose::store::read_record;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The image's folder, or why there is none.
fn image() -> Result<&'static Path, &'static str> {
    static IMAGE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    IMAGE
        .get_or_init(make_image)
        .as_ref()
        .map(PathBuf::as_path)
        .map_err(String::as_str)
}

/// The binary under test; a release build may be named instead.
pub(crate) fn executable() -> PathBuf {
    std::env::var_os("RCOMPOSE_TEST_EXECUTABLE")
        .map_or_else(|| env!("CARGO_BIN_EXE_rcompose").into(), PathBuf::from)
}

fn make_image() -> Result<PathBuf, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("not root".into());
    }
    runtime::use_executable(&executable());
    let find = || {
        ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| Path::new(path).exists())
    };
    if find().is_none() {
        let _ = Command::new("apt-get")
            .args(["install", "-y", "-q", "busybox-static"])
            .output();
    }
    let busybox = find().ok_or("no busybox, and busybox-static cannot be installed")?;
    let ready = Path::new(env!("CARGO_TARGET_TMPDIR")).join("runtime-image");
    if ready.exists() {
        return Ok(ready);
    }
    let part = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|error| error.to_string())?;
    let root = part.path().join("root");
    for folder in ["bin", "etc", "root", "tmp", "srv/data/sub", "opt"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    let applets = Command::new(busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8_lossy(&applets.stdout)
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        root.join("etc/group"),
        "root:x:0:\nweb:x:102:\nextra:x:77:web\nlog:x:88:\n",
    )
    .unwrap();
    fs::write(root.join("opt/text"), "not a program\n").unwrap();
    fs::write(root.join("srv/data/file"), "from the image\n").unwrap();
    fs::write(root.join("srv/data/sub/deep"), "deep\n").unwrap();
    // Another test process may have been faster; both made the same.
    if fs::rename(&root, &ready).is_err() && !ready.exists() {
        return Err("cannot place the image".into());
    }
    Ok(ready)
}

/// A container to be run, with everything it makes in one temporary folder.
pub(crate) struct Container {
    folder: tempfile::TempDir,
    pub(crate) settings: Settings,
    change: Vec<Change>,
    layers: Vec<PathBuf>,
    pub(crate) readonly: bool,
    /// The log of one run is the beginning of the next one's.
    pub(crate) keep_log: bool,
    name: String,
}

/// A change to the request that settings have no word for.
type Change = Box<dyn FnOnce(&mut RunRequest)>;

/// What a finished run has left.
pub(crate) struct Finished {
    pub(crate) exit: ExitRecord,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) warnings: Vec<String>,
}

/// A container for this test, or `None` (with the reason printed) where it
/// cannot be run.
pub(crate) fn container() -> Option<Container> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let image = match image() {
        Ok(image) => image,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return None;
        }
    };
    Some(Container {
        folder: tempfile::tempdir().unwrap(),
        settings: Settings::default(),
        change: Vec::new(),
        layers: vec![image.to_owned()],
        readonly: false,
        keep_log: false,
        name: format!("c{}", NUMBER.fetch_add(1, Ordering::Relaxed)),
    })
}

impl Container {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a layer on top of the image.
    pub(crate) fn layer(&mut self, fill: impl FnOnce(&Path)) {
        let layer = self.path(&format!("layer{}", self.layers.len()));
        fs::create_dir(&layer).unwrap();
        fill(&layer);
        self.layers.insert(0, layer);
    }

    pub(crate) fn only_layer(&mut self, layer: &Path) {
        self.layers = vec![layer.to_owned()];
    }

    pub(crate) fn cgroup(&self) -> PathBuf {
        Path::new(&format!("rcompose-test-{}", std::process::id())).join(&self.name)
    }

    pub(crate) fn on_request(&mut self, change: impl FnOnce(&mut RunRequest) + 'static) {
        self.change.push(Box::new(change));
    }

    pub(crate) fn request(&mut self, args: &[&str]) -> Result<RunRequest, RuntimeError> {
        self.settings.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let (spec, seccomp): (_, SeccompPolicy) = default_spec(&self.settings)?;
        let mut request = RunRequest {
            foreign: None,
            shm_of: None,
            layered: std::collections::BTreeMap::new(),
            id: self.name.clone(),
            spec,
            rootfs: Rootfs::Overlay {
                layers: self.layers.clone(),
                upper: self.path("upper"),
                work: self.path("work"),
                mountpoint: self.path("run/root"),
                readonly: self.readonly,
            },
            populate: Vec::new(),
            confined: std::collections::BTreeMap::new(),
            user: None,
            group_add: Vec::new(),
            seccomp,
            cgroup: CgroupRequest {
                path: self.cgroup(),
                strict: false,
            },
            init: false,
            stdin_open: false,
            log: self.path("log"),
            log_plan: rcompose::runtime::LogPlan::default(),
            exit_record: self.path("exit.json"),
            running_record: self.path("run/run.json"),
            revive: None,
        };
        for change in self.change.drain(..) {
            change(&mut request);
        }
        Ok(request)
    }

    pub(crate) fn start(&mut self, args: &[&str]) -> Result<Started, RuntimeError> {
        self.start_with(args, &[], None)
    }

    pub(crate) fn start_with(
        &mut self,
        args: &[&str],
        kept: &[(String, BorrowedFd<'_>)],
        supervisor: Option<BorrowedFd<'_>>,
    ) -> Result<Started, RuntimeError> {
        let request = self.request(args)?;
        runtime::start(&request, None, kept, supervisor)
    }

    pub(crate) fn running(&self) -> RunningRecord {
        read_record(&self.path("run/run.json")).unwrap().unwrap()
    }

    pub(crate) fn exit(&self) -> ExitRecord {
        read_record(&self.path("exit.json")).unwrap().unwrap()
    }

    /// Waits for the end and looks at what is left.
    pub(crate) fn finish(&mut self, started: Started) -> Finished {
        assert!(
            started.monitor.ends_within(Some(PATIENCE)),
            "the container does not end"
        );
        let exit = self.exit();
        assert_eq!(started.monitor.wait().unwrap(), exit.code);
        let (stdout, stderr) = self.output();
        self.clean();
        if !self.keep_log {
            fs::remove_file(self.path("log")).unwrap();
        }
        Finished {
            exit,
            stdout,
            stderr,
            warnings: started.warnings,
        }
    }

    pub(crate) fn run(&mut self, args: &[&str]) -> Finished {
        let started = self.start(args).unwrap();
        self.finish(started)
    }

    pub(crate) fn sh(&mut self, script: &str) -> Finished {
        self.run(&["sh", "-c", script])
    }

    /// What was printed so far.
    pub(crate) fn output(&self) -> (String, String) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut reader = Reader::open(&self.path("log"), From::Start).unwrap().unwrap();
        while let Some(entry) = reader.next().unwrap() {
            let to = if entry.stream == Stream::Stdout {
                &mut stdout
            } else {
                &mut stderr
            };
            to.extend(entry.text);
            if !entry.partial {
                to.push(b'\n');
            }
        }
        (
            String::from_utf8_lossy(&stdout).into_owned(),
            String::from_utf8_lossy(&stderr).into_owned(),
        )
    }

    /// Waits until a line has been printed.
    pub(crate) fn wait_for(&self, line: &str) {
        wait_until(&format!("{line:?} in the log"), || {
            self.output().0.lines().any(|found| found.trim_end() == line)
        });
    }

    /// Removes the run and checks that nothing of it is left.
    pub(crate) fn clean(&self) {
        runtime::cleanup(
            &self.cgroup(),
            &self.path("run/run.json"),
            &self.path("exit.json"),
            &self.path("run/root"),
        )
        .unwrap();
        let cgroup = self.cgroup();
        let unified = Path::new("/sys/fs/cgroup").join(&cgroup);
        assert!(!unified.exists(), "{} is left", unified.display());
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
            let place = hierarchy.unwrap().path().join(&cgroup);
            assert!(!place.exists(), "{} is left", place.display());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(self.folder.path().to_str().unwrap()),
            "a mount is left"
        );
        assert!(!self.path("run/run.json").exists());
        assert!(!self.path(".exit.json.reserve").exists());
    }

    pub(crate) fn exec(&self, request: &ExecRequest) -> Result<Executed, RuntimeError> {
        let (out_read, out) = std::io::pipe().unwrap();
        let (err_read, err) = std::io::pipe().unwrap();
        let stdio = ExecStdio {
            stdin: None,
            stdout: Some(out.as_fd()),
            stderr: Some(err.as_fd()),
        };
        let exec = runtime::exec(&self.running(), request, stdio)?;
        drop((out, err));
        let stdout = std::io::read_to_string(out_read).unwrap();
        let stderr = std::io::read_to_string(err_read).unwrap();
        Ok(Executed {
            code: end_of(&exec),
            stdout,
            stderr,
        })
    }

    pub(crate) fn exec_sh(&self, script: &str) -> Executed {
        self.exec(&exec_request(&["sh", "-c", script])).unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // After a failed check too: nothing may be left on the machine.
        let _ = runtime::cleanup(
            &self.cgroup(),
            &self.path("run/run.json"),
            &self.path("exit.json"),
            &self.path("run/root"),
        );
    }
}

pub(crate) struct Executed {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn exec_request(args: &[&str]) -> ExecRequest {
    ExecRequest {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..ExecRequest::default()
    }
}

pub(crate) fn end_of(exec: &Exec) -> i32 {
    assert!(
        exec.process.ends_within(Some(PATIENCE)),
        "the process does not end"
    );
    exec.process.wait().unwrap()
}

/// Waits for a state, with a deadline.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reads a terminal until its other side is closed.
pub(crate) fn read_terminal(master: &OwnedFd) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = rustix::io::read(master, &mut buffer) {
        text.extend(&buffer[..length]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

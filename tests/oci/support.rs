//! A bundle a test.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A bundle with a busybox root, and a state root of its own.
pub(crate) struct Bundle {
    folder: tempfile::TempDir,
    pub(crate) config: Value,
    pub(crate) id: String,
}

/// What a command has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The busybox to fill root file systems with, or `None` with the reason printed.
pub(crate) fn busybox() -> Option<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: not root");
        return None;
    }
    let find = || {
        ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
    };
    if find().is_none() {
        let _ = Command::new("apt-get")
            .args(["install", "-y", "-q", "busybox-static"])
            .output();
    }
    let found = find();
    if found.is_none() {
        eprintln!("skipped: no busybox, and busybox-static cannot be installed");
    }
    found
}

/// The binary under test, called by the name of its role.
pub(crate) fn program(folder: &Path) -> PathBuf {
    let link = folder.join("rcompose-oci");
    if !link.exists() {
        let target = std::env::var_os("RCOMPOSE_TEST_EXECUTABLE")
            .map_or_else(|| env!("CARGO_BIN_EXE_rcompose").into(), PathBuf::from);
        symlink(target, &link).unwrap();
    }
    link
}

/// Fills a root file system.
pub(crate) fn fill(root: &Path, busybox: &Path) {
    for place in ["bin", "etc", "root", "tmp", "data", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join(place)).unwrap();
    }
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "true", "false", "sleep", "cat", "ls", "id", "env", "mount", "umount", "echo", "test",
        "readlink", "touch", "kill", "hostname", "grep", "stat", "pwd", "tty", "stty", "mkdir", "mknod",
        "dd", "uname", "wc", "head", "ps", "unshare", "chown", "trap", "ln", "rm", "taskset", "nice", "cut",
        "sort", "tr", "seq",
    ] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
}

/// A bundle for this test.
pub(crate) fn bundle() -> Option<Bundle> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let busybox = busybox()?;
    let folder = tempfile::tempdir().unwrap();
    program(folder.path());
    fill(&folder.path().join("rootfs"), &busybox);
    let id = format!(
        "t{}-{}",
        std::process::id(),
        NUMBER.fetch_add(1, Ordering::Relaxed)
    );
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_KILL",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
        "CAP_MKNOD",
        "CAP_NET_RAW"
    ]);
    let config = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/bin", "HOME=/root"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "ipc"},
                           {"type": "network"}, {"type": "cgroup"}],
            "cgroupsPath": format!("/rcompose-test-oci/{id}"),
        },
    });
    Some(Bundle { folder, config, id })
}

impl Bundle {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn args(&mut self, args: &[&str]) {
        self.config["process"]["args"] = json!(args);
    }

    pub(crate) fn sh(&mut self, script: &str) {
        self.args(&["sh", "-c", script]);
    }

    pub(crate) fn mount(&mut self, mount: Value) {
        self.config["mounts"].as_array_mut().unwrap().push(mount);
    }

    pub(crate) fn namespace(&mut self, namespace: Value) {
        let list = self.config["linux"]["namespaces"].as_array_mut().unwrap();
        list.retain(|known| known["type"] != namespace["type"]);
        list.push(namespace);
    }

    pub(crate) fn save(&self) {
        fs::write(self.path("config.json"), self.config.to_string()).unwrap();
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program(self.folder.path()));
        command
            .arg("--root")
            .arg(self.path("state"))
            .args(args)
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn call(&self, args: &[&str]) -> Said {
        said(self.command(args).output().unwrap())
    }

    /// As [`Self::call`]; must succeed and say nothing on standard error.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let said = self.call(args);
        assert!(said.code == 0 && said.err.is_empty(), "{args:?}: {said:?}");
        said.out
    }

    /// `run` in the foreground.
    pub(crate) fn run(&self) -> Said {
        self.save();
        let said = self.call(&["run", "--bundle", ".", &self.id]);
        assert!(!self.path("state").join(&self.id).exists(), "{said:?}");
        said
    }

    /// What the script prints; it must succeed.
    pub(crate) fn prints(&mut self, script: &str) -> String {
        self.sh(script);
        let said = self.run();
        assert!(said.code == 0 && said.err.is_empty(), "{script}: {said:?}");
        said.out
    }

    /// The error of `create`, which must leave nothing.
    pub(crate) fn refused(&self) -> String {
        self.save();
        let said = self.call(&["create", &self.id]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(!self.path("state").join(&self.id).exists());
        said.err
    }

    /// `create`, its output going to a file (it outlives the command).
    pub(crate) fn create(&self) {
        self.save();
        let output = fs::File::create(self.path("output")).unwrap();
        let status = self
            .command(&["create", "--bundle", ".", "--pid-file", "pid", &self.id])
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .status()
            .unwrap();
        assert!(status.success(), "{}", self.output());
        assert_eq!(self.output(), "");
    }

    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.path("output")).unwrap()
    }

    pub(crate) fn start(&self) {
        self.create();
        self.ok(&["start", &self.id]);
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", &self.id])).unwrap()
    }

    pub(crate) fn wait_for(&self, status: &str) {
        wait_until(status, || self.state()["status"] == status);
    }

    pub(crate) fn wait_for_output(&self, text: &str) {
        wait_until(text, || self.output().contains(text));
    }

    pub(crate) fn delete(&self) {
        self.ok(&["delete", "--force", &self.id]);
    }

    pub(crate) fn exec(&self, args: &[&str]) -> Said {
        let mut all = vec!["exec", &self.id];
        all.extend(args);
        self.call(&all)
    }

    pub(crate) fn exec_with(&self, options: &[&str], args: &[&str]) -> Said {
        let all = ["exec"].iter().chain(options).copied().chain([self.id.as_str()]);
        self.call(&all.chain(args.iter().copied()).collect::<Vec<_>>())
    }

    /// The container's folders in the hierarchies that are there.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let mut list = Vec::new();
        let own = Path::new("rcompose-test-oci").join(&self.id);
        list.push(Path::new("/sys/fs/cgroup").join(&own));
        for entry in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            list.push(entry.path().join(&own));
        }
        list.retain(|path| path.is_dir());
        list
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // After a failed check too: nothing may be left on the machine.
        let _ = self.command(&["delete", "--force", &self.id]).output();
        if std::thread::panicking() {
            // Others that the test has made.
            let _ = self.command(&["delete", "--force", "--regex", ".*"]).output();
        }
        assert!(
            std::thread::panicking() || self.cgroups().is_empty(),
            "a cgroup is left"
        );
        for place in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(place.path().join("rcompose-test-oci"));
        }
        let _ = fs::remove_dir("/sys/fs/cgroup/rcompose-test-oci");
    }
}

pub(crate) fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits for a state, with a deadline.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process in namespaces of its own, killed when dropped.
pub(crate) struct Elsewhere(std::process::Child);

impl Elsewhere {
    pub(crate) fn new(options: &[&str]) -> Self {
        let child = Command::new("unshare")
            .args(options)
            .args(["--fork", "--kill-child", "sleep", "1000"])
            .process_group(0)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        wait_until("unshare", || {
            fs::read_to_string(&children).is_ok_and(|list| !list.trim().is_empty())
        });
        Self(child)
    }

    /// The process inside.
    pub(crate) fn pid(&self) -> String {
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        let list = fs::read_to_string(children).unwrap();
        list.split_whitespace().next().unwrap().to_owned()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

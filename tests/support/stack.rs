//! What tests of whole stacks share: a stack file in a world, what is there of
//! it, and that nothing is left of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{Output, World, cgroups, finish, images, marked, wait_for};

impl World {
    /// The image of a static busybox, from its OCI layout.
    pub fn busybox(&self) -> String {
        format!("oci:{}", images().join("busybox").display())
    }

    /// A registry inside the world with these test images; its `HOST:PORT`.
    pub fn registry(&self, names: &[&str]) -> String {
        let host = "127.0.0.1:5000";
        let folder = self.work().join("registry");
        let scripts = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images");
        let mut start = self.command(scripts.join("registry"));
        start.env("RCOMPOSE_TEST_IMAGES", images());
        finish(start.arg("start").arg(folder).arg("5000")).ok();
        for name in names {
            let mut push = self.command(scripts.join("push"));
            finish(push.arg(images().join(name)).arg(format!("{host}/{name}:latest"))).ok();
        }
        host.to_owned()
    }

    /// What a URL answers, asked from the host's side of the world.
    pub fn get(&self, url: &str) -> Output {
        finish(self.command("curl").args(["-sS", "--max-time", "20", url]))
    }

    /// The containers of the stack in the working folder: one object each.
    pub fn ps(&self) -> Vec<serde_json::Value> {
        let output = self.run(&["ps", "-a", "--format", "json"]).ok();
        output
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The id of a container by name; fails the test when it is not there.
    #[track_caller]
    pub fn id_of(&self, name: &str) -> String {
        let list = self.ps();
        let found = list.iter().find(|container| container["Name"] == name);
        found.unwrap_or_else(|| panic!("{name} is not in {list:?}"))["ID"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// The processes of ours in this world now: those of the program in its
    /// network namespace, and what they have made that is in a container's.
    pub fn ours(&self) -> Vec<Process> {
        let inode = |pid: u32| {
            fs::metadata(format!("/proc/{pid}/ns/net"))
                .ok()
                .map(|file| file.ino())
        };
        let home = inode(self.namespace.id());
        let id = self.id();
        let mut all = BTreeMap::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let Some(role) = Role::of(&line) else { continue };
            let parent = fs::read_to_string(entry.path().join("stat"))
                .ok()
                .and_then(|stat| stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok());
            let group = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            let here = (home.is_some() && inode(pid) == home) || group.contains(&id);
            all.insert(pid, (role, parent, here));
        }
        let belongs = |pid: u32| {
            let mut at = Some(pid);
            while let Some((_, parent, here)) = at.and_then(|pid| all.get(&pid)) {
                if *here {
                    return true;
                }
                at = *parent;
            }
            false
        };
        let ours = all.iter().filter(|(pid, _)| belongs(**pid));
        ours.map(|(&pid, &(role, ..))| Process { pid, role }).collect()
    }

    /// The processes of one role.
    pub fn of_role(&self, role: Role) -> Vec<u32> {
        let ours = self.ours().into_iter().filter(|process| process.role == role);
        ours.map(|process| process.pid).collect()
    }

    /// Fails the test unless nothing of any stack is left: no process, cgroup,
    /// interface, firewall table, mount, nor file of a stack.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let mark = self.state().as_os_str().as_encoded_bytes().to_vec();
        // The last supervisor ends a moment after its last client.
        wait_for("the end of every process", || {
            let left: Vec<String> = marked(&mark)
                .iter()
                .map(|pid| describe(*pid))
                .filter(|line| is_ours(line))
                .collect();
            (left.is_empty() && self.ours().is_empty()).then_some(())
        });
        let groups: Vec<_> = cgroups(&self.id());
        assert!(groups.is_empty(), "cgroups are left: {groups:?}");
        let links = finish(self.command("ip").args(["-o", "link"])).ok().stdout;
        let links: Vec<&str> = links
            .lines()
            .filter(|line| {
                ["veth", "bridge", ": rc-", ": rv"]
                    .iter()
                    .any(|kind| line.contains(kind))
            })
            .collect();
        assert!(links.is_empty(), "links are left: {links:?}");
        let tables = finish(self.command("nft").args(["list", "tables"])).ok().stdout;
        assert_eq!(tables, "", "firewall tables are left");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let state = self.state().display().to_string();
        let mounts: Vec<&str> = mounts.lines().filter(|line| line.contains(&state)).collect();
        assert!(mounts.is_empty(), "mounts are left: {mounts:?}");
        for folder in ["stacks", "run/stacks", "networks", "run/published"] {
            let files = files(&self.state().join(folder));
            assert!(files.is_empty(), "files are left: {files:?}");
        }
    }
}

/// What a process of ours does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A command.
    Command,
    /// Looks after a stack.
    Supervisor,
    /// The parent of a container.
    Monitor,
    /// Brings the supervisor back while no container runs.
    StandIn,
    /// Becomes process 1 of a container, or (with `init: true`) is it.
    Init,
    /// Becomes a further process of a container.
    Exec,
}

impl Role {
    /// By command line; `None` for a program that is not ours.
    fn of(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|byte| *byte == 0);
        let program = words.next()?;
        if program != b"rcompose" && program != env!("CARGO_BIN_EXE_rcompose").as_bytes() {
            return None;
        }
        Some(match words.next() {
            Some(b"__supervisor") => Self::Supervisor,
            Some(b"__monitor") => Self::Monitor,
            Some(b"__standin") => Self::StandIn,
            Some(b"__init") => Self::Init,
            Some(b"__exec") => Self::Exec,
            _ => Self::Command,
        })
    }
}

/// A process of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// What it does.
    pub role: Role,
}

impl Process {
    /// Kills it; whether it still was there.
    pub fn kill(self) -> bool {
        kill(self.pid)
    }
}

/// Sends SIGKILL; whether the process still was there.
pub fn kill(pid: u32) -> bool {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok()
}

/// Every file below a folder.
fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&entry.path()));
        } else if !entry.file_name().to_string_lossy().ends_with(".lock") {
            found.push(entry.path());
        }
    }
    found
}

fn describe(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid}: {}", String::from_utf8_lossy(&line).replace('\0', " "))
}

/// Not a tool of the test itself, which has the world in its environment too.
fn is_ours(line: &str) -> bool {
    !line.contains("docker-registry") && !line.ends_with(": ")
}

/// A command in the foreground whose lines are read as they come.
#[derive(Debug)]
pub struct Foreground {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// Everything it has said so far.
    pub said: Vec<String>,
}

impl Foreground {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let streams: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Self {
            child,
            lines,
            said: vec![],
        }
    }

    /// Waits for a line that contains `text`; fails the test when none comes
    /// within a minute.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("no line with {text:?} in:\n{}", self.said.join("\n")),
            }
        }
    }

    /// Whether a line that contains `text` has come by now.
    pub fn try_for(&mut self, text: &str) -> bool {
        self.said.extend(self.lines.try_iter());
        self.said.iter().any(|line| line.contains(text))
    }

    /// Sends a signal to it.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Waits for its end; its exit status.
    #[track_caller]
    pub fn end(self) -> i32 {
        self.finish().0
    }

    /// Waits for its end; its exit status (-1 after a signal) and all it has said.
    #[track_caller]
    pub fn finish(mut self) -> (i32, Vec<String>) {
        let status = wait_for("the end of the command", || self.child.try_wait().unwrap());
        self.said.extend(self.lines.iter());
        (status.code().unwrap_or(-1), std::mem::take(&mut self.said))
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

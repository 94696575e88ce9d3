//! Both ways between us and docker, where a docker daemon is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Own;
use super::support::registry::RealRegistry;
use super::support::{finish, images, root, wait_for};

/// A daemon with a place of its own; ends when dropped.
struct Docker {
    folder: tempfile::TempDir,
    host: String,
    daemon: Option<Child>,
}

impl Docker {
    /// The one that `RCOMPOSE_TEST_DOCKER_HOST` names, which shares our network,
    /// or one of our own; `None`, with the reason printed, where there is none or
    /// it does not start.
    fn start() -> Option<Self> {
        if let Ok(host) = std::env::var("RCOMPOSE_TEST_DOCKER_HOST") {
            return Some(Self {
                folder: tempfile::tempdir().unwrap(),
                host,
                daemon: None,
            });
        }
        let found = |name: &str| {
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
                .any(|folder| folder.join(name).is_file())
        };
        if !found("dockerd") || !found("docker") {
            println!("skipped: docker is not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let log = fs::File::create(at("log")).unwrap();
        // In a mount namespace of its own, whose mounts go with it; images need no network of it.
        let daemon = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "dockerd",
            ])
            .args([
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
                "--storage-driver=overlay2",
            ])
            .arg(format!("--host=unix://{}", at("socket").display()))
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut this = Self {
            host: format!("unix://{}", at("socket").display()),
            folder,
            daemon: Some(daemon),
        };
        let up = wait_for("docker's daemon", || {
            let daemon = this.daemon.as_mut().unwrap();
            if daemon.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let mut version = this.command(&["version"]);
            let version = version.stdout(Stdio::null()).stderr(Stdio::null()).status();
            version.unwrap().success().then_some(true)
        });
        if !up {
            let log = fs::read_to_string(this.folder.path().join("log")).unwrap_or_default();
            println!(
                "skipped: docker's daemon does not run here: {}",
                log.lines().last().unwrap_or_default()
            );
            return None;
        }
        Some(this)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .env("DOCKER_HOST", &self.host)
            .env("DOCKER_CONFIG", self.folder.path().join("config"))
            .args(arguments);
        command
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        finish(&mut self.command(arguments)).ok().stdout
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// What an image is: its id, its configuration, its layers.
fn facts(inspected: &str) -> serde_json::Value {
    let value: serde_json::Value = serde_json::from_str(inspected).unwrap();
    let one = &value[0];
    serde_json::json!({
        "id": one["Id"], "layers": one["RootFS"]["Layers"], "env": one["Config"]["Env"],
        "cmd": one["Config"]["Cmd"], "architecture": one["Architecture"],
    })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn docker_and_we_understand_each_other() {
    if !root() {
        return;
    }
    let Some(docker) = Docker::start() else { return };
    let registry = RealRegistry::start();
    let own = Own::new(None);
    let name = |of: &str| format!("{}/{of}:1", registry.host);
    let archive: PathBuf = own.at("archive.tar");

    // What we push docker pulls, what we save docker loads.
    let ours = name("ours");
    own.load("nginx", &[&ours]);
    own.ok(&["image", "push", "-q", &ours]);
    docker.ok(&["pull", "-q", &ours]);
    let same = facts(&own.ok(&["image", "inspect", &ours]));
    assert_eq!(facts(&docker.ok(&["image", "inspect", &ours])), same);
    docker.ok(&["image", "rm", &ours]);
    own.ok(&["image", "save", "-o", &text(&archive), &ours]);
    docker.ok(&["load", "-q", "-i", &text(&archive)]);
    assert_eq!(facts(&docker.ok(&["image", "inspect", &ours])), same);

    // What docker pushes we pull, what docker saves we load.
    let theirs = name("theirs");
    docker.ok(&["tag", &ours, &theirs]);
    docker.ok(&["push", "-q", &theirs]);
    let fresh = Own::new(None);
    fresh.ok(&["image", "pull", "-q", &theirs]);
    assert_eq!(facts(&fresh.ok(&["image", "inspect", &theirs])), same);
    docker.ok(&["save", "-o", &text(&archive), &theirs]);
    let other = Own::new(None);
    other.ok(&["image", "load", "-q", "-i", &text(&archive)]);
    assert_eq!(facts(&other.ok(&["image", "inspect", &theirs])), same);

    // One that docker makes of an archive, with instructions.
    let layer = own.at("layer.tar");
    let busybox = images().join("busybox");
    own.ok(&["image", "pull", "-q", &format!("oci:{}", busybox.display())]);
    fs::write(&layer, super::support::registry::archive(&[("file", b"x")])).unwrap();
    let made = name("made");
    docker.ok(&[
        "import",
        "-c",
        "CMD [\"/file\"]",
        "-c",
        "ENV A=b",
        &text(&layer),
        &made,
    ]);
    docker.ok(&["push", "-q", &made]);
    own.ok(&["image", "pull", "-q", &made]);
    assert_eq!(
        facts(&own.ok(&["image", "inspect", &made])),
        facts(&docker.ok(&["image", "inspect", &made]))
    );
}

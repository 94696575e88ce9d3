//! Cgroups that systemd makes, with a real one in a machine of ours.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::support::{Bundle, bundle, wait_until};
use crate::vm;

fn booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

#[test]
fn on_a_machine_with_systemd() {
    vm::run(
        vm::Layout::Systemd,
        &["systemd::scopes_", "systemd::a_killed_create_leaves_no_scope"],
    );
}

#[test]
fn without_systemd_it_is_refused() {
    let Some(mut bundle) = bundle() else { return };
    if booted() {
        return;
    }
    bundle.config["linux"]["cgroupsPath"] = format!("system.slice:test:{}", bundle.id).into();
    bundle.save();
    let said = bundle.call(&["--systemd-cgroup", "create", &bundle.id]);
    assert!(
        said.code == 1 && said.err.contains("systemd does not run"),
        "{said:?}"
    );
    // And the other way round.
    assert!(bundle.refused().contains("--systemd-cgroup"));
    bundle.config["linux"]["cgroupsPath"] = "/plain/path".into();
    bundle.save();
    let said = bundle.call(&["--systemd-cgroup", "create", &bundle.id]);
    assert!(said.err.contains("slice:prefix:name"), "{said:?}");
}

/// A container in a scope, and the scope's folder.
fn scope(bundle: &mut Bundle) -> PathBuf {
    bundle.config["linux"]["cgroupsPath"] = format!("machine-test.slice:rcompose:{}", bundle.id).into();
    bundle.config["linux"]["resources"] = json!({
        "memory": {"limit": 64 << 20}, "pids": {"limit": 50}, "cpu": {"shares": 512, "quota": 50_000, "period": 100_000}});
    bundle.args(&["sleep", "1000"]);
    bundle.save();
    format!(
        "/sys/fs/cgroup/machine.slice/machine-test.slice/rcompose-{}.scope",
        bundle.id
    )
    .into()
}

/// As [`Bundle::create`].
fn create(bundle: &Bundle) {
    let output = fs::File::create(bundle.path("output")).unwrap();
    let status = bundle
        .command(&["--systemd-cgroup", "create", &bundle.id])
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .status()
        .unwrap();
    assert!(status.success(), "{}", bundle.output());
}

#[test]
fn scopes_hold_containers_with_their_limits() {
    let Some(mut bundle) = bundle() else { return };
    if !booted() {
        return;
    }
    let folder = scope(&mut bundle);
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    create(&bundle);
    assert_eq!(read("cgroup.procs"), format!("{}\n", bundle.state()["pid"]));
    assert_eq!(read("memory.max"), "67108864\n");
    assert_eq!(read("pids.max"), "50\n");
    assert_eq!(read("cpu.max"), "50000 100000\n");
    bundle.ok(&["start", &bundle.id]);
    // The name is taken while it lives.
    let second = super::support::bundle().unwrap();
    let mut config = bundle.config.clone();
    config["root"]["path"] = bundle.path("rootfs").to_str().unwrap().into();
    fs::write(second.path("config.json"), config.to_string()).unwrap();
    let said = second.call(&["--systemd-cgroup", "create", &second.id]);
    assert!(said.code == 1 && said.err.contains(".scope"), "{said:?}");
    assert_eq!(bundle.state()["status"], "running");
    bundle.ok(&["update", "--memory", "32m", "--cpu-quota", "25000", &bundle.id]);
    // systemd writes all it knows again when it reads its units anew (SIGHUP), and
    // when one of them changes.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(1), nix::sys::signal::Signal::SIGHUP).unwrap();
    bundle.ok(&["update", "--pids-limit", "60", &bundle.id]);
    assert_eq!(read("pids.max"), "60\n");
    assert_eq!(read("memory.max"), "33554432\n");
    assert_eq!(read("cpu.max"), "25000 100000\n");
    bundle.ok(&["pause", &bundle.id]);
    assert_eq!(bundle.state()["status"], "paused");
    bundle.delete();
    assert!(!folder.exists());
    // It can be made again, and is gone by itself when all has ended.
    create(&bundle);
    bundle.ok(&["start", &bundle.id]);
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    wait_until("the end of the scope", || !folder.exists());
    assert_eq!(bundle.state()["status"], "stopped");
    bundle.ok(&["delete", &bundle.id]);
}

#[test]
fn a_killed_create_leaves_no_scope() {
    let Some(mut bundle) = bundle() else { return };
    if !booted() {
        return;
    }
    let folder = scope(&mut bundle);
    // It is stopped where the scope is there and the container is not yet.
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"]}]});
    bundle.save();
    let mut create = bundle
        .command(&["--systemd-cgroup", "create", &bundle.id])
        .spawn()
        .unwrap();
    wait_until("the scope", || folder.exists());
    create.kill().unwrap();
    create.wait().unwrap();
    bundle.delete();
    wait_until("the end of the scope", || !folder.exists());
}

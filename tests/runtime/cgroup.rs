//! Control groups beyond limits: what is counted, freezing, and subtrees that
//! are delegated to us. Some of it only where version 2 has all controllers,
//! which is in the machine of `tests/vm`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use rcompose::runtime::cgroup::{Cgroup, Layout, Version};
use rcompose::runtime::{self, Usage, bind_mount};
use serde_json::json;

use crate::support::{container, wait_until};
use crate::vm;

#[test]
fn on_version_2_alone() {
    vm::run(
        vm::Layout::Two,
        &[
            "limit::",
            "cgroup::",
            "life::everything_is_killed_even_what_forks",
            "life::a_killed_monitor_is_noticed_and_cleared_up_after",
            "root::the_cgroup_view_is_the_containers_own",
            "root::devices_are_the_usual_ones_and_those_given",
            "exec::it_is_where_the_container_is_and_its_status_comes_back",
        ],
    );
}

#[test]
fn on_version_1_alone() {
    vm::run(
        vm::Layout::One,
        &[
            "limit::a_fork_bomb_is_stopped",
            "limit::too_much_memory_is_recorded",
            "limit::limits_reach_the_kernel_and_change_in_place",
            "cgroup::what_is_used_is_counted",
            "cgroup::a_frozen_container_does_nothing_until_it_goes_on",
            "life::everything_is_killed_even_what_forks",
            "root::the_cgroup_view_is_the_containers_own",
            "attack::version_1_cgroups_give_no_way_out",
        ],
    );
}

fn is_pure(version: Version) -> bool {
    let layout = Layout::detect().unwrap();
    layout.hierarchies.iter().all(|each| each.version == version)
}

#[test]
fn what_is_used_is_counted() {
    let Some(mut container) = container() else { return };
    let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000 & echo ready; wait";
    let started = container.start(&["sh", "-c", script]).unwrap();
    container.wait_for("ready");
    let running = container.running();
    let usage = Usage::read(&running, false);
    assert!(usage.processes >= 2, "{usage:?}");
    assert!(!usage.cpu.is_zero(), "{usage:?}");
    assert!(usage.memory > 0 && usage.memory < 64 << 20, "{usage:?}");
    assert_eq!(usage.memory_limit, None);
    let stats = running.fixed.cgroup.stats();
    assert!(stats["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{stats}");
    assert!(stats["pids"]["current"].as_u64().unwrap() >= 2, "{stats}");
    assert!(stats["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{stats}");
    if is_pure(Version::V2) {
        for kind in ["cpu", "memory", "blkio"] {
            let total = &stats[kind]["psi"]["some"]["total"];
            assert!(total.is_number(), "pressure of {kind}: {stats}");
        }
    }
    runtime::kill_all(&running).unwrap();
    container.finish(started);
}

#[test]
fn a_frozen_container_does_nothing_until_it_goes_on() {
    let Some(mut container) = container() else { return };
    let script = "trap 'echo told; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    let started = container.start(&["sh", "-c", script]).unwrap();
    container.wait_for("ready");
    let running = container.running();
    let cgroup = &running.fixed.cgroup;
    cgroup.freeze(true).unwrap();
    assert!(cgroup.is_frozen());
    let used = || Usage::read(&running, false).cpu;
    let before = used();
    runtime::signal(&running, libc::SIGTERM).unwrap();
    let refused = container.exec(&crate::support::exec_request(&["true"]));
    assert!(refused.is_err_and(|error| error.to_string().contains("paused")));
    // Interrupts are counted for it all the same.
    assert!(used() - before < Duration::from_millis(2));
    assert!(!container.output().0.contains("told"));
    cgroup.freeze(false).unwrap();
    assert!(!cgroup.is_frozen());
    assert_eq!(container.finish(started).exit.code, 3);
    // A frozen one is killed at once.
    let started = container.start(&["sh", "-c", "echo ready; sleep 1000"]).unwrap();
    container.wait_for("ready");
    let running = container.running();
    running.fixed.cgroup.freeze(true).unwrap();
    runtime::kill_all(&running).unwrap();
    assert_eq!(container.finish(started).exit.signal, Some(9));
}

/// The case of a container in a container: the root of its cgroup namespace is
/// a subtree of somebody else's, and has processes in it.
#[test]
fn a_subtree_that_has_processes_of_its_own_takes_containers() {
    let Some(mut container) = container() else { return };
    if !is_pure(Version::V2) {
        eprintln!("skipped: version 1 has no such rule");
        return;
    }
    let own = std::env::current_exe().unwrap();
    container.settings.privileged = true;
    container
        .settings
        .mounts
        .push(bind_mount(&own, "/opt/tests", &["ro"]));
    let inside = "cgroup::inside_of_a_delegated_subtree";
    let run = container.run(&["/opt/tests", "--ignored", "--exact", inside, "--show-output"]);
    assert_eq!(run.exit.code, 0, "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("1 passed"), "{}", run.stdout);
}

/// The same as a user other than root, who was given some controllers.
#[test]
fn a_users_subtree_has_the_controllers_that_it_was_given() {
    if !is_pure(Version::V2) || !vm::is_inside() {
        eprintln!("skipped: only where version 2 has all controllers");
        return;
    }
    let top = Path::new("/sys/fs/cgroup");
    let (outer, given) = (top.join("given"), top.join("given/user"));
    fs::create_dir_all(&given).unwrap();
    fs::write(top.join("cgroup.subtree_control"), "+memory +pids +cpu").unwrap();
    fs::write(outer.join("cgroup.subtree_control"), "+memory +pids").unwrap();
    for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        chown(given.join(name), Some(1000), Some(1000)).unwrap();
    }
    let mut child = Command::new("sh")
        .args([
            "-c",
            "read go; exec \"$0\" --ignored --exact cgroup::inside_of_a_delegated_subtree --show-output",
        ])
        .arg(std::env::current_exe().unwrap())
        .uid(1000)
        .gid(1000)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    fs::write(given.join("cgroup.procs"), child.id().to_string()).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    for folder in [given.join("init"), given, outer] {
        wait_until("the end of its processes", || fs::remove_dir(&folder).is_ok());
    }
}

/// Run by the two tests above, in a process that is in the subtree.
#[test]
#[ignore = "run by other tests"]
fn inside_of_a_delegated_subtree() {
    let layout = Layout::detect().unwrap();
    let base = layout.hierarchies[0].base.clone();
    let own = || fs::read_to_string("/proc/self/cgroup").unwrap();
    let before = own();
    assert!(!before.trim().ends_with("/init"), "{before}");
    let resources: LinuxResources =
        serde_json::from_value(json!({"memory": {"limit": 32 << 20}, "pids": {"limit": 9}})).unwrap();
    let path = Path::new("rcompose-inside/one");
    let (made, warnings) = Cgroup::create(&layout, path, Some(&resources), true).unwrap();
    assert_eq!(warnings, []);
    let read = |name: &str| fs::read_to_string(base.join(path).join(name)).unwrap();
    assert_eq!(read("memory.max").trim(), (32 << 20).to_string());
    assert_eq!(read("pids.max").trim(), "9");
    assert!(own().trim().ends_with("/init"), "{}", own());
    made.remove().unwrap();
    assert!(!base.join("rcompose-inside").exists());
    let offered = fs::read_to_string(base.join("cgroup.controllers")).unwrap();
    if !offered.split_whitespace().any(|name| name == "cpu") {
        let resources: LinuxResources = serde_json::from_value(json!({"cpu": {"shares": 512}})).unwrap();
        let (made, warnings) = Cgroup::create(&layout, path, Some(&resources), false).unwrap();
        made.remove().unwrap();
        assert_eq!(warnings.len(), 1);
        assert_eq!(
            warnings[0].to_string(),
            "cpu shares has no effect: no cpu controller"
        );
    }
}

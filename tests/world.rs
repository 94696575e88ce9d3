//! The tests' own world: it is private, and nothing of it is left.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use support::{World, finish, wait_for};

#[test]
fn a_world_is_private_and_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let links = finish(world.command("ip").args(["-o", "link"])).ok().stdout;
    assert_eq!(links.lines().count(), 1, "only its own loopback: {links}");
    let path = finish(
        world
            .command("sh")
            .args(["-c", "echo $RCOMPOSE_STATE_ROOT; exit 3"]),
    );
    assert_eq!(
        (path.code, path.stdout.trim()),
        (3, world.state().to_str().unwrap())
    );

    // A daemon, and a process in a control group that names the world.
    let mut daemon = world.command("setsid");
    let mut daemon = daemon
        .args(["sleep", "1000"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let cgroup = control_group(&world);
    let mut member = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    if let Some(cgroup) = &cgroup {
        fs::create_dir_all(cgroup.join("inner")).unwrap();
        fs::write(cgroup.join("inner/cgroup.procs"), member.id().to_string()).unwrap();
    } else {
        println!("no control group can be made here");
        member.kill().unwrap();
    }
    drop(world);
    for child in [&mut daemon, &mut member] {
        // Killed, not ended: `wait` gives it away.
        let status = wait_for("the end of the process", || child.try_wait().unwrap());
        assert!(!status.success());
    }
    assert!(!cgroup.is_some_and(|cgroup| cgroup.exists()));
}

/// A control group of ours wherever this machine has some.
fn control_group(world: &World) -> Option<PathBuf> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids"]
        .iter()
        .find_map(|root| {
            let path = PathBuf::from(root).join(format!("rcompose-test-{}", world.id()));
            fs::create_dir(&path).ok()?;
            if path.join("cgroup.procs").exists() {
                return Some(path);
            }
            fs::remove_dir(&path).ok()?;
            None
        })
}

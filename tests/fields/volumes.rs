//! Volumes with driver options, seen from inside and on the machine.

use std::fs;

use rustix::process::{Pid, Signal};

use super::{World, down, inside, refused, write};
use crate::support::stack::{Role, kill};
use crate::support::wait_for;

/// The places of volumes that something is mounted on.
fn mounted(world: &World) -> Vec<String> {
    let state = world.state().join("volumes").display().to_string();
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let places = all.lines().filter_map(|line| line.split(' ').nth(4));
    let mut names: Vec<String> = places
        .filter_map(|place| Some(place.strip_prefix(&state)?.trim_matches('/').to_owned()))
        .collect();
    names.sort();
    names
}

fn stack(world: &World) {
    let device = world.work().join("device");
    fs::create_dir_all(&device).unwrap();
    fs::write(device.join("row"), "kept\n").unwrap();
    write(
        world,
        &"name: vol
services:
  one:
    image: BUSYBOX
    command: SERVE
    volumes: [\"memory:/memory\", \"folder:/folder\", \"fixed:/fixed\", \"filled:/bin\"]
  two:
    image: BUSYBOX
    command: SERVE
    volumes: [\"memory:/memory\"]
volumes:
  memory:
    driver_opts: {type: tmpfs, device: tmpfs, o: \"size=100k,uid=1000,mode=750\"}
  folder:
    driver: local
    driver_opts: {type: none, o: bind, device: DEVICE}
  fixed:
    driver: local
    driver_opts: {type: none, o: \"bind,ro\", device: DEVICE}
  filled:
    driver_opts: {type: tmpfs, device: tmpfs}
"
        .replace("DEVICE", device.to_str().unwrap()),
    );
}

#[test]
fn volumes_are_what_their_driver_options_say() {
    let Some(world) = World::new() else { return };
    stack(&world);
    world.run(&["up", "-d"]).ok();
    assert_eq!(
        inside(
            &world,
            "one",
            "stat -c '%u %a' /memory; df -k /memory | awk 'END {print $2}'"
        ),
        "1000 750\n100"
    );
    // What one writes the other reads.
    inside(&world, "one", "echo shared > /memory/file");
    assert_eq!(inside(&world, "two", "cat /memory/file"), "shared");
    inside(&world, "one", "echo more >> /folder/row");
    let row = fs::read_to_string(world.work().join("device/row")).unwrap();
    assert_eq!(row, "kept\nmore\n");
    assert_eq!(
        inside(
            &world,
            "one",
            "cat /fixed/row; echo x 2>/dev/null > /fixed/x || echo no"
        ),
        "kept\nmore\nno"
    );
    // An empty one has what the image has there.
    assert!(inside(&world, "one", "mount | grep -c ' on /bin type tmpfs'") == "1");
    let all = [
        "vol_filled/data",
        "vol_fixed/data",
        "vol_folder/data",
        "vol_memory/data",
    ];
    assert_eq!(mounted(&world), all);
    let inspected = world.run(&["volume", "inspect", "vol_memory"]).ok().stdout;
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected[0]["Options"]["o"], "size=100k,uid=1000,mode=750");
    // The last one unmounts.
    world.run(&["stop", "-t", "2", "one"]).ok();
    wait_for("the end of what only one had", || {
        (mounted(&world) == ["vol_memory/data"]).then_some(())
    });
    assert_eq!(inside(&world, "two", "cat /memory/file"), "shared");
    world.run(&["stop", "-t", "2"]).ok();
    wait_for("the end of all mounts", || {
        mounted(&world).is_empty().then_some(())
    });
    // Nothing of the folder is lost; memory begins anew.
    world.run(&["start"]).ok();
    assert_eq!(inside(&world, "one", "ls /memory; tail -n 1 /folder/row"), "more");
    down(&world);
    let row = fs::read_to_string(world.work().join("device/row")).unwrap();
    assert_eq!(row, "kept\nmore\n", "removing the volume leaves the folder alone");
}

#[test]
fn what_is_mounted_for_volumes_survives_no_kill() {
    let Some(world) = World::new() else { return };
    stack(&world);
    world.run(&["up", "-d"]).ok();
    // Nobody sees the others end, nor brings the supervisor back.
    for pid in world.of_role(Role::Monitor) {
        let pid = Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
    }
    for role in [Role::Supervisor, Role::Monitor] {
        for pid in world.of_role(role) {
            kill(pid);
        }
    }
    wait_for("the end of every process", || {
        world.ours().is_empty().then_some(())
    });
    assert_eq!(mounted(&world).len(), 4, "nobody was there to unmount");
    world.run(&["down", "-t", "2"]).ok();
    assert_eq!(mounted(&world), [""; 0]);
    // The volumes are there still.
    let names = world.run(&["volume", "ls", "-q"]).ok().stdout;
    assert_eq!(names, "vol_filled\nvol_fixed\nvol_folder\nvol_memory\n");
    world.run(&["up", "-d"]).ok();
    assert_eq!(inside(&world, "one", "cat /folder/row"), "kept");
    let used = world.run(&["volume", "rm", "vol_folder"]);
    assert!(
        used.code != 0 && used.stderr.contains("in use"),
        "{}",
        used.stderr
    );
    // A volume keeps the options that it was made with.
    let file = fs::read_to_string(world.work().join("compose.yaml")).unwrap();
    world.write("compose.yaml", file.replace("size=100k", "size=200k"));
    let said = world.run(&["up", "-d"]).ok().stderr;
    assert!(
        said.contains("\"vol_memory\" exists and keeps its driver options"),
        "{said}"
    );
    down(&world);
    assert!(world.work().join("device/row").exists());
}

#[test]
fn options_that_cannot_be_are_refused() {
    let Some(world) = World::new() else { return };
    let web = "    volumes: [\"data:/v\"]\nvolumes:\n  data:\n    driver_opts: ";
    for (options, expected) in [
        (
            "{type: none, o: bind, devise: /x}",
            "volumes.data.driver_opts: there is no option \"devise\"",
        ),
        ("{type: none, o: bind, devise: /x}", "did you mean `device`?"),
        ("{type: tmpfs}", "missing required option: \"device\""),
        ("{size: 10m}", "needs a quota"),
        (
            "{type: none, o: bind, device: /no/such/folder}",
            "device of volume data does not exist: /no/such/folder",
        ),
        (
            "{type: none-such, device: /x}",
            "volume no_data: mount /x of type none-such: No such device",
        ),
        (
            "{type: nfs, device: \":/x\", o: addr=no.such.host.invalid}",
            "volume no_data: mount :/x of type nfs: resolve no.such.host.invalid",
        ),
        (
            "{type: tmpfs, device: tmpfs, o: no-such-option}",
            "volume no_data: mount tmpfs of type tmpfs: Invalid argument",
        ),
    ] {
        let said = refused(&world, &format!("{web}{options}\n"));
        assert!(said.contains(expected), "{options}: {said}");
        // A volume that was made keeps its options.
        world.run(&["volume", "rm", "-f", "no_data"]).ok();
    }
    world.assert_nothing_left();
}

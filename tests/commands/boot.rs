//! Stacks that come back after a boot.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::World;
use super::support::stack::kill;
use super::{down, out, stack, vm, wait_for};

/// Takes away what a boot takes away: every process, the run folder, and all
/// that the kernel had.
fn boot(world: &World) {
    wait_for("the end of every process", || {
        let all = world.ours();
        for process in &all {
            kill(process.pid);
        }
        all.is_empty().then_some(())
    });
    fs::remove_dir_all(world.state().join("run")).unwrap();
    let links = super::support::finish(world.command("ip").args(["-o", "link"]))
        .ok()
        .stdout;
    for line in links.lines().filter(|line| !line.contains("lo:")) {
        let name = line.split(": ").nth(1).unwrap().split('@').next().unwrap();
        // The end of a pair may have gone with the other one.
        super::support::finish(world.command("ip").args(["link", "delete", name]));
    }
    super::support::finish(world.command("nft").args(["flush", "ruleset"])).ok();
}

fn running(world: &World) -> Vec<String> {
    let list = world.ps();
    let running = list.iter().filter(|one| one["State"] == "running");
    let mut names: Vec<String> = running
        .map(|one| one["Service"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn policies_decide_what_runs_after_a_boot() {
    let Some(world) = stack(
        "name: b
services:
  always:
    image: BUSYBOX
    command: SERVE
    restart: always
    ports: ['127.0.0.1:18099:80']
    depends_on: {unless: {condition: service_healthy}, never: {condition: service_started}}
  always-stopped: {image: BUSYBOX, command: SERVE, restart: always}
  unless:
    image: BUSYBOX
    command: SERVE
    restart: unless-stopped
    healthcheck: {test: [CMD, 'true'], interval: 1s}
  unless-stopped: {image: BUSYBOX, command: SERVE, restart: unless-stopped}
  failing: {image: BUSYBOX, command: SERVE, restart: on-failure}
  finished: {image: BUSYBOX, command: 'true', restart: on-failure}
  never: {image: BUSYBOX, command: SERVE}
  guest: {image: BUSYBOX, command: SERVE, restart: always, network_mode: 'service:never'}
",
    ) else {
        return;
    };
    world.run(&["up", "-d"]).ok();
    world
        .run(&["stop", "-t", "2", "always-stopped", "unless-stopped"])
        .ok();
    wait_for("the end of the one that ends", || {
        (!running(&world).contains(&"finished".to_owned())).then_some(())
    });
    boot(&world);
    assert!(running(&world).is_empty());
    let dry = out(&world, &["--dry-run", "system", "resume"]);
    assert!(
        dry.contains("would start b-failing-1") && !dry.contains("b-never-1"),
        "{dry}"
    );
    assert!(running(&world).is_empty(), "a dry run starts nothing");

    world.run(&["system", "resume"]).ok();
    let wanted = ["always", "always-stopped", "failing", "unless"];
    assert_eq!(running(&world), wanted);
    // They find each other, on the network as it was.
    let found = ["exec", "-T", "always", "nslookup", "unless"];
    wait_for("names to resolve", || (world.run(&found).code == 0).then_some(()));
    let ids: Vec<String> = wanted.map(|name| world.id_of(&format!("b-{name}-1"))).into();
    // What runs is left alone.
    world.run(&["system", "resume"]).ok();
    assert_eq!(running(&world), wanted);
    assert_eq!(ids, wanted.map(|name| world.id_of(&format!("b-{name}-1"))));
    // The next `up` has nothing against what it finds.
    world.run(&["up", "-d"]).ok();
    assert_eq!(running(&world).len(), 7);
    down(&world);
}

#[test]
fn a_unit_is_installed_below_a_folder_and_taken_back() {
    let Some(world) = World::new() else { return };
    let root = world.work().join("image");
    let root = root.to_str().unwrap();
    let install = [
        "system",
        "install",
        "--root",
        root,
        "--program",
        "/usr/bin/rcompose",
    ];
    let dry = [&["--dry-run"], &install[..]].concat();
    out(&world, &dry);
    assert!(!world.work().join("image").exists(), "a dry run writes nothing");
    for _ in 0..2 {
        let said = out(&world, &install);
        assert!(
            said.contains("wrote") && said.contains("multi-user.target.wants"),
            "{said}"
        );
    }
    let units = world.work().join("image/etc/systemd/system");
    let text = fs::read_to_string(units.join("rcompose.service")).unwrap();
    let state = world.state().display().to_string();
    let line = format!("ExecStart=/usr/bin/rcompose --state-root {state} system resume\n");
    assert!(text.contains(&line), "{text}");
    let link = fs::read_link(units.join("multi-user.target.wants/rcompose.service")).unwrap();
    assert_eq!(link.to_str(), Some("/etc/systemd/system/rcompose.service"));
    out(&world, &["system", "uninstall", "--root", root]);
    assert!(!units.join("rcompose.service").exists());
    assert!(
        units
            .join("multi-user.target.wants/rcompose.service")
            .symlink_metadata()
            .is_err()
    );
    let again = world.run(&["system", "uninstall", "--root", root]).ok();
    assert!(again.stderr.contains("not installed"), "{}", again.stderr);
    let user = [&install[..], &["--user"]].concat();
    let said = finish_user(&world, &user);
    assert!(
        said.contains("image/home/me/.config/systemd/user/default.target.wants/"),
        "{said}"
    );
    let relative = world.run(&["system", "install", "--root", root, "--program", "bin/rcompose"]);
    assert_eq!(relative.code, 1);
    assert!(relative.stderr.contains("absolute"), "{}", relative.stderr);
}

fn finish_user(world: &World, arguments: &[&str]) -> String {
    let mut command = world.rcompose(arguments);
    command.env("HOME", "/home/me").env_remove("XDG_CONFIG_HOME");
    super::support::finish(&mut command).ok().stdout
}

#[test]
fn on_a_machine_with_systemd() {
    vm::run(vm::Layout::Systemd, &["boot::the_unit_brings_stacks_back"]);
}

/// Inside of it, at the places where a user has everything.
#[test]
fn the_unit_brings_stacks_back() {
    if !vm::is_inside() {
        return;
    }
    let program = std::env::var("RCOMPOSE_TEST_EXECUTABLE").unwrap();
    let work = Path::new("/root/shop");
    fs::create_dir_all(work.join("image/bin")).unwrap();
    let call = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        super::support::finish(command.args(arguments).current_dir(work))
    };
    let rcompose = |arguments: &[&str]| call(&program, arguments).ok().stdout;
    let systemctl = |arguments: &[&str]| call("systemctl", arguments);
    fs::copy("/bin/busybox", work.join("image/bin/busybox")).unwrap();
    call("tar", &["-c", "-f", "image.tar", "-C", "image", "bin"]).ok();
    rcompose(&["image", "import", "image.tar", "box"]);
    let file = "services:
  web: {image: box, command: [/bin/busybox, sleep, '1000000'], network_mode: none, restart: always}
  stopped: {image: box, command: [/bin/busybox, sleep, '1000000'], network_mode: none}
";
    fs::write(work.join("compose.yaml"), file).unwrap();
    rcompose(&["up", "-d"]);
    let running = || rcompose(&["ps", "--services", "--status", "running"]);
    assert_eq!(running(), "stopped\nweb\n");
    rcompose(&["system", "install"]);
    assert_eq!(systemctl(&["is-enabled", "rcompose.service"]).stdout, "enabled\n");

    // What a shutdown does to it; what is mounted goes with the run folder.
    wait_for("the end of every process", || {
        let ours = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.starts_with(b"rcompose\0") || line.starts_with(program.as_bytes())
        });
        let ours: Vec<u32> = ours
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        for pid in &ours {
            kill(*pid);
        }
        ours.is_empty().then_some(())
    });
    assert_eq!(running(), "");
    systemctl(&["start", "rcompose.service"]).ok();
    assert_eq!(running(), "web\n");
    // It stays when the unit is stopped, and the unit has done its work then.
    assert_eq!(systemctl(&["is-active", "rcompose.service"]).stdout, "active\n");
    let id = rcompose(&["ps", "-q"]);
    systemctl(&["stop", "rcompose.service"]).ok();
    assert_eq!(rcompose(&["ps", "-q"]), id);
    rcompose(&["restart", "-t", "0", "web"]);
    assert_eq!(running(), "web\n");
    rcompose(&["system", "uninstall"]);
    assert_ne!(systemctl(&["cat", "rcompose.service"]).code, 0);
    rcompose(&["down", "-t", "0"]);
}

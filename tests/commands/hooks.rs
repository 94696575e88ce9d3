//! Hooks before the start, each in a container of its own.

use super::support::stack::Foreground;
use super::support::{World, wait_for};
use super::{down, out, stack, write};

fn file(hooks: &str) -> String {
    format!(
        "name: hk
services:
  db:
    image: BUSYBOX
    command: SERVE
    healthcheck: {{x-probe: {{log: up}}}}
  web:
    image: BUSYBOX
    command: [sh, -c, 'cat /data/log; sleep 1000']
    stop_signal: SIGKILL
    environment: {{A: service}}
    depends_on: [db]
    volumes: ['data:/data']
    deploy: {{replicas: 2}}
    pre_start: {hooks}
volumes: {{data: {{}}}}
"
    )
    .replace("    healthcheck: {x-probe: {log: up}}\n", "")
}

const HOOKS: &str = "
      - command: [sh, -c, 'echo first $$A $$B >> /data/log; ping -c 1 db > /dev/null']
        environment: {B: hook}
      - {command: [sh, -c, 'echo second $$(id -u) >> /data/log'], user: '5'}
      - {command: [sh, -c, 'echo each >> /data/log'], per_replica: true}
";

fn log(world: &World) -> Vec<String> {
    let text = out(world, &["exec", "web", "cat", "/data/log"]);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn hooks_run_once_before_the_start() {
    let Some(world) = stack(&file(&HOOKS.replace(", user: '5'", ""))) else {
        return;
    };
    let plan = out(&world, &["--dry-run", "up", "-d"]);
    assert!(
        plan.contains("web pre_start") && plan.contains("web pre_start #2"),
        "{plan}"
    );
    world.run(&["up", "-d"]).ok();
    let once = ["each", "each", "first service hook", "second 0"];
    assert_eq!(log(&world), once);
    assert_eq!(world.ps().len(), 3, "their containers are gone: {:?}", world.ps());

    // Not again for a start, nor for what is up to date.
    world.run(&["restart", "-t", "0", "web"]).ok();
    world.run(&["stop", "-t", "0", "web"]).ok();
    world.run(&["up", "-d"]).ok();
    assert_eq!(log(&world), once);
    // For a replica of its own kind only what runs for each.
    world.run(&["up", "-d", "--scale", "web=3"]).ok();
    assert_eq!(log(&world).len(), 5);
    // Changed, they run again.
    write(
        &world,
        &file("\n      - {command: [sh, -c, 'echo third >> /data/log']}\n"),
    );
    world.run(&["up", "-d", "-t", "0"]).ok();
    assert_eq!(log(&world).len(), 6);
    // And all of them for a stack that is made anew.
    world.run(&["down", "-v", "-t", "0"]).ok();
    world.run(&["up", "-d"]).ok();
    assert_eq!(log(&world), ["third"]);
    down(&world);
}

#[test]
fn a_failed_hook_keeps_its_service_from_starting() {
    let Some(world) = stack(&file("\n      - {command: [sh, -c, 'echo no luck; exit 3']}\n")) else {
        return;
    };
    let failed = world.run(&["up", "-d"]);
    assert_eq!(failed.code, 1);
    for said in ["pre_start", "exited with status 3", "no luck"] {
        assert!(failed.stderr.contains(said), "{}", failed.stderr);
    }
    let running = out(&world, &["ps", "--services"]);
    assert_eq!(running, "db\n");

    // One that is cut off leaves nothing.
    write(&world, &file("\n      - {command: [sh, -c, 'sleep 1000']}\n"));
    let mut up = Foreground::start(&mut world.rcompose(&["up"]));
    up.wait_for("Service web  Preparing");
    wait_for("its container", || {
        out(&world, &["ps", "-a"]).contains("pre-start").then_some(())
    });
    up.signal(rustix::process::Signal::INT);
    assert_eq!(up.end(), 130);
    assert!(!out(&world, &["ps", "-a"]).contains("pre-start"));
    down(&world);
}

#[test]
fn what_hooks_print_is_shown_where_the_services_are() {
    let Some(world) = stack(
        "name: hp
services:
  web:
    image: BUSYBOX
    command: SERVE
    pre_start: [{command: [echo, before the start]}]
    post_start: [{command: [sh, -c, 'echo after the start; echo badly >&2']}]
    pre_stop: [{command: [echo, before the stop]}]
",
    ) else {
        return;
    };
    let mut up = Foreground::start(&mut world.rcompose(&["up"]));
    up.wait_for("web -> | before the start");
    up.wait_for("web-1 -> | after the start");
    up.wait_for("web-1 -> | badly");
    up.signal(rustix::process::Signal::INT);
    up.wait_for("web-1 -> | before the stop");
    assert_eq!(up.end(), 130);
    down(&world);
}

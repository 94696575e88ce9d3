//! Updates in groups, what becomes of those that fail, and the way back.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::support::{World, finish};
use super::{down, out, stack, write};

/// A stack of three containers of `web`, updated so, that run `command`.
fn file(update: &str, command: &str) -> String {
    format!(
        "name: up
services:
  web:
    image: BUSYBOX
    command: {command}
    stop_signal: SIGKILL
    deploy:
      replicas: 3
      update_config: {update}
"
    )
}

const OLD: &str = "[sh, -c, 'sleep 1000; old']";
const NEW: &str = "[sh, -c, 'sleep 1000; new']";

/// Each container by name with the last word of its command, and whether it runs.
fn state(world: &World) -> Vec<String> {
    let word = |one: &Value| {
        let command = one["Command"]
            .as_str()
            .unwrap()
            .trim_matches(['"', '\''])
            .to_owned();
        let word = command.split(' ').next_back().unwrap().to_owned();
        format!(
            "{} {word} {}",
            one["Name"].as_str().unwrap(),
            one["State"].as_str().unwrap()
        )
    };
    let text = out(world, &["ps", "-a", "--no-trunc", "--format", "json"]);
    let mut list: Vec<String> = text
        .lines()
        .map(|line| word(&serde_json::from_str(line).unwrap()))
        .collect();
    list.sort();
    list
}

#[test]
fn a_failed_update_stops_or_is_taken_back() {
    let Some(world) = stack(&file("{monitor: 300ms}", OLD)) else {
        return;
    };
    world.run(&["up", "-d"]).ok();
    let all = |word: &str| [1, 2, 3].map(|number| format!("up-web-{number} {word} running"));
    assert_eq!(state(&world), all("old"));

    write(&world, &file("{monitor: 300ms}", "[sh, -c, 'exit 3']"));
    let failed = world.run(&["up", "-d"]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    assert!(
        failed
            .stderr
            .contains("the update of service \"web\" is not gone on with: container up-web-1 exited (3)"),
        "{}",
        failed.stderr
    );
    assert_eq!(
        state(&world),
        [
            "up-web-1 3 exited",
            "up-web-2 old running",
            "up-web-3 old running"
        ]
    );
    assert_eq!(out(&world, &["history", "-q"]), "1\n", "it is no generation");

    write(
        &world,
        &file(
            "{monitor: 300ms, parallelism: 2, failure_action: rollback}",
            "[sh, -c, 'exit 3']",
        ),
    );
    let failed = world.run(&["up", "-d"]);
    assert_eq!(failed.code, 1);
    assert!(
        failed.stderr.contains("service \"web\" goes back to what it was"),
        "{}",
        failed.stderr
    );
    assert_eq!(state(&world), all("old"));

    down(&world);
}

#[test]
fn the_new_one_may_be_started_first() {
    let Some(world) = stack(&file("{order: start-first, parallelism: 2, delay: 50ms}", OLD)) else {
        return;
    };
    world.run(&["up", "-d"]).ok();
    write(
        &world,
        &file("{order: start-first, parallelism: 2, delay: 50ms}", NEW),
    );
    world.run(&["up", "-d"]).ok();
    assert_eq!(
        state(&world),
        [
            "up-web-4 new running",
            "up-web-5 new running",
            "up-web-6 new running"
        ]
    );
    // No old one ended before its successor ran.
    let mut running: i32 = 0;
    for event in super::objects(&out(
        &world,
        &["events", "--json", "--since", "1h", "--until", "0s"],
    )) {
        match event["action"].as_str() {
            Some("start") => running += 1,
            Some("die") => {
                running -= 1;
                assert!(running >= 3, "{event}");
            }
            _ => {}
        }
    }
    assert!(out(&world, &["--dry-run", "up", "-d"]).contains("nothing to do"));

    // And back again, by the number of a generation.
    assert_eq!(out(&world, &["history", "-q"]), "1\n2\n");
    assert_eq!(world.run(&["diff", "1", "2"]).code, 2);
    world.run(&["rollback"]).ok();
    let old: Vec<String> = [1, 2, 3]
        .map(|number| format!("up-web-{number} old running"))
        .into();
    assert_eq!(state(&world), old);
    assert_eq!(world.run(&["diff", "1", "3"]).code, 0);
    assert_eq!(world.run(&["rollback", "9"]).code, 1);
    down(&world);
}

#[test]
fn a_saved_plan_is_run_as_it_is_or_not_at_all() {
    let Some(world) = stack(&file("{parallelism: 0}", OLD)) else {
        return;
    };
    assert_eq!(world.run(&["plan", "--out", "p.json"]).code, 2);
    world.run(&["apply", "p.json"]).ok();
    assert_eq!(state(&world).len(), 3);
    let stale = world.run(&["apply", "p.json"]);
    assert!(
        stale.code == 1 && stale.stderr.contains("the saved plan is stale"),
        "{}",
        stale.stderr
    );
    write(&world, &file("{parallelism: 0}", NEW));
    assert_eq!(world.run(&["plan", "--out", "p.json"]).code, 2);
    write(&world, &file("{parallelism: 0}", OLD));
    let stale = world.run(&["apply", "p.json"]);
    assert!(
        stale.code == 1 && stale.stderr.contains("nothing more"),
        "{}",
        stale.stderr
    );
    down(&world);
}

#[test]
fn what_fails_as_a_whole_is_taken_back_as_a_whole() {
    const FIRST: &str = "name: at
services:
  db: {image: BUSYBOX, command: SERVE}
";
    const SECOND: &str = "name: at
services:
  db: {image: BUSYBOX, command: SERVE, environment: {A: b}}
  web:
    image: BUSYBOX
    command: SERVE
    healthcheck: {test: 'false', interval: 50ms, retries: 1}
";
    let Some(world) = stack(SECOND) else { return };
    let failed = world.run(&["up", "-d", "--atomic", "-t", "1"]);
    assert!(
        failed.code == 1 && failed.stderr.contains("what was begun is taken back"),
        "{}",
        failed.stderr
    );
    assert!(world.ps().is_empty());
    write(&world, FIRST);
    world.run(&["up", "-d", "--atomic"]).ok();
    write(&world, SECOND);
    let failed = world.run(&["up", "-d", "--atomic", "-t", "1"]);
    assert!(
        failed.code == 1 && failed.stderr.contains("the stack goes back to what it was"),
        "{}",
        failed.stderr
    );
    let ps = world.ps();
    assert_eq!(ps.len(), 1, "{ps:?}");
    assert_eq!(out(&world, &["exec", "db", "sh", "-c", "echo -$A-"]), "--\n");
    down(&world);
}

#[test]
fn a_rollback_brings_back_what_secrets_were_and_prunes_leave_its_image() {
    let stack_of = |image: &str| {
        format!(
            "name: sr
services:
  web:
    image: {image}
    command: SERVE
    healthcheck: {{disable: true}}
    stop_signal: SIGKILL
    secrets: [file, variable]
secrets:
  file: {{file: ./password}}
  variable: {{environment: PASSWORD}}
"
        )
    };
    let Some(world) = stack(&stack_of("BUSYBOX")) else {
        return;
    };
    let up = |file: &str, variable: &str| {
        world.write("password", file);
        let mut command = world.rcompose(&["up", "-d"]);
        finish(command.env("PASSWORD", variable)).ok();
    };
    let read = || {
        let files = ["/run/secrets/file", "/run/secrets/variable"];
        out(&world, &[&["exec", "-T", "web", "cat"], &files[..]].concat())
    };
    up("one", "1");
    let id = world.id_of("sr-web-1");
    up("two", "2");
    assert_eq!((read().as_str(), world.id_of("sr-web-1")), ("two2", id.clone()));
    let diff = world.run(&["diff", "1", "2"]);
    assert_eq!(diff.code, 2, "{}", diff.stderr);
    let changed: Vec<&str> = diff
        .stdout
        .lines()
        .filter(|line| line.contains("sha256:"))
        .collect();
    assert_eq!(changed.len(), 2, "{}", diff.stdout);
    assert!(changed[0].contains("secrets.file.content"), "{}", diff.stdout);
    world.run(&["rollback", "1"]).ok();
    assert_eq!((read().as_str(), world.id_of("sr-web-1")), ("one1", id));
    assert_eq!(out(&world, &["history", "-q"]), "1\n2\n3\n");
    assert_eq!(world.run(&["diff", "1", "3"]).code, 0);
    // Nothing of it is printed, or read by anybody else.
    let folder = world.state().join("stacks/sr/generations/contents");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 4);
    for entry in std::fs::read_dir(&folder).unwrap().flatten() {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    // What the stack file says is what `up` brings.
    up("two", "2");
    assert_eq!(read(), "two2");

    write(&world, &stack_of("PYTHON"));
    up("two", "2");
    world.run(&["image", "prune", "-a", "-f"]).ok();
    let images = out(&world, &["image", "ls", "--no-trunc"]);
    assert!(images.contains("busybox"), "{images}");
    down(&world);
    world.run(&["image", "prune", "-a", "-f"]).ok();
    assert!(!out(&world, &["image", "ls"]).contains("busybox"));
}

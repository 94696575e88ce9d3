//! The commands that look at a stack and touch it, on real stacks.
// Clippy takes only functions marked as tests for tests.
#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::{World, wait_for};

/// Serves until SIGTERM.
const SERVE: &str = "[\"sh\", \"-c\", \"trap 'exit 0' TERM; while :; do sleep 1 & wait; done\"]";

/// A world whose stack file is this one, with the image's reference for
/// `BUSYBOX` and a program that serves until SIGTERM for `SERVE`.
fn stack(file: &str) -> Option<World> {
    let world = World::new()?;
    write(&world, file);
    Some(world)
}

fn write(world: &World, file: &str) {
    let file = file.replace("BUSYBOX", &world.busybox()).replace("SERVE", SERVE);
    world.write("compose.yaml", file);
}

/// What a command prints on standard output; it must end well.
#[track_caller]
fn out(world: &World, args: &[&str]) -> String {
    world.run(args).ok().stdout
}

/// One JSON object a line.
#[track_caller]
fn objects(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[track_caller]
fn down(world: &World) {
    world.run(&["down", "-v", "-t", "2"]).ok();
    world.assert_nothing_left();
}

#[test]
fn projects_ports_and_volumes_are_listed() {
    let Some(world) = stack(
        "name: shop
services:
  web:
    image: BUSYBOX
    command: SERVE
    ports: ['127.0.0.1:18080:80', '18443:443', '18053:53/udp']
    volumes: ['data:/data', '/anonymous']
  once: {image: BUSYBOX, command: 'true'}
volumes: {data: }
",
    ) else {
        return;
    };
    assert_eq!(out(&world, &["ls"]), "NAME   STATUS   CONFIG FILES\n");
    assert_eq!(out(&world, &["ls", "--format", "json"]), "[]\n");
    world.run(&["up", "-d"]).ok();
    wait_for("the end of once", || {
        out(&world, &["ls", "-a"])
            .contains("exited(1), running(1)")
            .then_some(())
    });
    let file = world.work().join("compose.yaml").display().to_string();
    let list: Value = serde_json::from_str(&out(&world, &["ls", "--format", "json"])).unwrap();
    assert_eq!(
        list,
        serde_json::json!([{"Name": "shop", "Status": "running(1)", "ConfigFiles": file}])
    );
    assert_eq!(out(&world, &["ls", "-q", "--filter", "name=^sh"]), "shop\n");
    assert_eq!(out(&world, &["ls", "-q", "--filter", "name=^hop"]), "");
    assert_eq!(world.run(&["ls", "--filter", "label=x"]).code, 1);

    assert_eq!(out(&world, &["port", "web", "80"]), "127.0.0.1:18080\n");
    assert_eq!(out(&world, &["port", "web", "443"]), "0.0.0.0:18443\n");
    assert_eq!(
        out(&world, &["port", "--protocol", "udp", "web", "53"]),
        "0.0.0.0:18053\n"
    );
    let missing = world.run(&["port", "--index", "1", "web", "81"]);
    assert_eq!(missing.code, 1);
    assert!(
        missing
            .stderr
            .contains("no port 81/tcp for container shop-web-1: 18080->80/tcp"),
        "{}",
        missing.stderr
    );
    assert_eq!(world.run(&["port", "--index", "2", "web", "80"]).code, 1);

    let text = out(&world, &["volumes"]);
    assert!(text.starts_with("DRIVER   VOLUME NAME\nlocal    "), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
    let names = out(&world, &["volumes", "-q", "web"]);
    assert!(names.lines().any(|name| name == "shop_data"), "{names}");
    assert_eq!(out(&world, &["volumes", "-q", "once"]), "");
    let volumes = objects(&out(&world, &["volumes", "--format", "json"]));
    let data = volumes
        .iter()
        .find(|volume| volume["Name"] == "shop_data")
        .unwrap();
    assert_eq!(
        (&data["Driver"], &data["Scope"]),
        (&"local".into(), &"local".into())
    );
    assert!(std::path::Path::new(data["Mountpoint"].as_str().unwrap()).is_dir());

    let ps = objects(&out(&world, &["ps", "--format", "json"]));
    let publishers = ps[0]["Publishers"].to_string();
    assert!(
        publishers.contains(r#"{"URL":"127.0.0.1","TargetPort":80,"PublishedPort":18080,"Protocol":"tcp"}"#)
            && publishers.contains(r#"{"URL":"::","TargetPort":443,"PublishedPort":18443,"Protocol":"tcp"}"#),
        "{publishers}"
    );
    let keys: Vec<&String> = ps[0].as_object().unwrap().keys().collect();
    let docker = [
        "Command",
        "CreatedAt",
        "ExitCode",
        "Health",
        "ID",
        "Image",
        "Labels",
        "LocalVolumes",
        "Mounts",
        "Name",
        "Names",
        "Networks",
        "Ports",
        "Project",
        "Publishers",
        "RunningFor",
        "Service",
        "Size",
        "State",
        "Status",
    ];
    assert_eq!(keys, docker);
    down(&world);
    assert_eq!(out(&world, &["ls", "-aq"]), "");
}

#[test]
fn ps_knows_every_state_and_orphans() {
    let file = "name: s
services:
  web: {image: BUSYBOX, command: SERVE}
  again: {image: BUSYBOX, command: [sh, -c, 'exit 3'], restart: always}
  once: {image: BUSYBOX, command: 'true'}
  never: {image: BUSYBOX, command: SERVE}
  orphan: {image: BUSYBOX, command: SERVE}
";
    let Some(world) = stack(file) else { return };
    world.run(&["up", "-d", "web", "again", "once", "orphan"]).ok();
    world.run(&["up", "--no-start", "never"]).ok();
    let services = |args: &[&str]| -> BTreeSet<String> {
        let mut all = vec!["ps", "--services"];
        all.extend(args);
        out(&world, &all).lines().map(str::to_owned).collect()
    };
    let set = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|&name| name.to_owned()).collect() };
    wait_for("the end of once", || {
        (services(&["--status", "exited"]) == set(&["once"])).then_some(())
    });
    // The pauses between restarts grow, so it is found waiting sooner or later.
    let text = wait_for("a restart that is waited for", || {
        let text = out(&world, &["ps", "--status", "restarting"]);
        text.contains("Restarting (3) ").then_some(text)
    });
    assert!(text.contains("s-again-1"), "{text}");
    assert_eq!(services(&["--status", "created"]), set(&["never"]));
    assert_eq!(services(&["--filter", "status=dead"]), set(&[]));
    assert_eq!(services(&["--status", "created,exited"]), set(&["never", "once"]));
    let bad = world.run(&["ps", "--status", "sleeping"]);
    assert_eq!(bad.code, 1, "{}", bad.stderr);

    write(
        &world,
        &file.replace("  orphan: {image: BUSYBOX, command: SERVE}\n", ""),
    );
    assert!(services(&[]).contains("orphan"));
    assert!(!services(&["--orphans=false"]).contains("orphan"));
    assert!(services(&["--orphans=true"]).contains("orphan"));
    world.run(&["down", "-t", "2", "--remove-orphans"]).ok();
    world.assert_nothing_left();
}

#[test]
fn processes_and_their_use_are_shown_without_tools_in_the_image() {
    let Some(world) = stack(
        "name: t
services:
  web: {image: BUSYBOX, command: SERVE}
  busy:
    image: BUSYBOX
    user: '4242'
    mem_limit: 64m
    network_mode: none
    command: [sh, -c, 'while :; do :; done']
",
    ) else {
        return;
    };
    world.run(&["up", "-d"]).ok();
    let text = wait_for("processor time", || {
        let text = out(&world, &["top"]);
        let busy = text.lines().find(|line| line.starts_with("busy"))?;
        let percent: u32 = busy.split_whitespace().nth(5)?.parse().ok()?;
        (percent > 10).then_some(text)
    });
    let heading: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        heading,
        [
            "SERVICE", "#", "UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"
        ]
    );
    let busy: Vec<&str> = text
        .lines()
        .find(|line| line.starts_with("busy"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!((busy[1], busy[2], busy[7]), ("1", "4242", "?"));
    assert!(text.contains("sh -c while :; do :; done"), "{text}");
    // The shell, and what it waits for.
    assert!(
        text.lines().filter(|line| line.starts_with("web")).count() >= 2,
        "{text}"
    );
    assert!(!out(&world, &["top", "web"]).contains("busy"));

    let list = objects(&out(&world, &["stats", "--no-stream", "--format", "json"]));
    let of = |name: &str| list.iter().find(|one| one["Name"] == name).unwrap();
    let percent =
        |one: &Value, key: &str| -> f64 { one[key].as_str().unwrap().trim_end_matches('%').parse().unwrap() };
    let busy = of("t-busy-1");
    assert!(percent(busy, "CPUPerc") > 5.0, "{busy}");
    assert!(busy["MemUsage"].as_str().unwrap().ends_with(" / 64MiB"), "{busy}");
    assert!(percent(busy, "MemPerc") > 0.0, "{busy}");
    assert_eq!((&busy["PIDs"], &busy["NetIO"]), (&"1".into(), &"0B / 0B".into()));
    assert_eq!(busy["ID"].as_str().unwrap().len(), 12);
    let text = out(&world, &["stats", "--no-stream", "--no-trunc", "web"]);
    assert!(text.starts_with("CONTAINER ID"), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
    assert_eq!(
        text.lines()
            .nth(1)
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .len(),
        64
    );
    world.run(&["stop", "-t", "0"]).ok();
    assert_eq!(out(&world, &["top"]), "");
    assert_eq!(out(&world, &["stats", "--no-stream"]).lines().count(), 1);
    assert_eq!(out(&world, &["stats", "--no-stream", "-a"]).lines().count(), 3);
    down(&world);
}

#[test]
fn logs_are_cut_by_time_and_by_container() {
    let Some(world) = stack(
        "name: l
services:
  say: {image: BUSYBOX, scale: 2, command: [sh, -c, 'echo early; sleep 1.2; echo late; sleep 0.1']}
",
    ) else {
        return;
    };
    world.run(&["up", "-d"]).ok();
    wait_for("both lines", || {
        (out(&world, &["logs"]).matches("late").count() == 2).then_some(())
    });
    let line = out(&world, &["logs", "-t", "--no-log-prefix", "--index", "1"]);
    assert_eq!(line.lines().count(), 2, "{line}");
    let late = line
        .lines()
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned();
    let since = out(&world, &["logs", "--index", "1", "--since", &late]);
    assert!(since.contains("late") && !since.contains("early"), "{since}");
    let until = out(&world, &["logs", "--index", "2", "--until", &late]);
    assert!(until.contains("early"), "{until}");
    assert!(out(&world, &["logs", "--since", "1h"]).matches("early").count() == 2);
    assert_eq!(out(&world, &["logs", "--until", "1h"]), "");
    assert_eq!(out(&world, &["logs", "--since", "2100-01-01"]), "");
    let bad = world.run(&["logs", "--since", "yesterday"]);
    assert_eq!(bad.code, 1);
    assert!(
        bad.stderr.contains("invalid time \"yesterday\""),
        "{}",
        bad.stderr
    );
    down(&world);
}

#[test]
fn wait_says_how_containers_end() {
    let Some(world) = stack(
        "name: w
services:
  first: {image: BUSYBOX, command: [sh, -c, 'exit 3']}
  last: {image: BUSYBOX, command: [sh, -c, 'while ! test -e /go; do sleep 0.1; done; exit 5']}
  web: {image: BUSYBOX, command: SERVE}
",
    ) else {
        return;
    };
    let none = world.run(&["wait", "first"]);
    assert_eq!(none.code, 1);
    assert!(
        none.stderr.contains("no containers for project \"w\""),
        "{}",
        none.stderr
    );
    assert_eq!(world.run(&["wait"]).code, 1);
    world.run(&["up", "-d"]).ok();
    let first = world.run(&["wait", "first"]);
    assert_eq!(first.code, 3);
    assert_eq!(
        first.stdout,
        format!(
            "container \"{}\" exited with status code 3\n",
            long_id(&world, "w-first-1")
        )
    );
    let mut waiting = world.rcompose(&["wait", "first", "last"]);
    let mut waiting = waiting.stdout(std::process::Stdio::piped()).spawn().unwrap();
    assert_eq!(waiting.try_wait().unwrap(), None);
    out(&world, &["exec", "-T", "last", "touch", "/go"]);
    assert_eq!(waiting.wait().unwrap().code(), Some(5));
    let mut text = String::new();
    std::io::Read::read_to_string(&mut waiting.stdout.take().unwrap(), &mut text).unwrap();
    assert!(text.contains("code 3") && text.ends_with("code 5\n"), "{text}");
    assert_eq!(world.run(&["wait", "--down-project", "first", "last"]).code, 5);
    assert!(world.ps().is_empty());
    world.assert_nothing_left();
}

/// The whole id of a container, by name.
#[track_caller]
fn long_id(world: &World, name: &str) -> String {
    let short = world.id_of(name);
    let ids = out(world, &["ps", "-aq"]);
    ids.lines().find(|id| id.starts_with(&short)).unwrap().to_owned()
}

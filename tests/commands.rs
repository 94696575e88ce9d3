//! The commands that look at a stack and touch it, on real stacks.
// Clippy takes only functions marked as tests for tests.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

#[path = "commands/boot.rs"]
mod boot;
#[path = "commands/digests.rs"]
mod digests;
#[path = "commands/health.rs"]
mod health;
#[path = "commands/hooks.rs"]
mod hooks;
#[path = "commands/in_place.rs"]
mod in_place;
#[path = "commands/live.rs"]
mod live;
#[path = "commands/named.rs"]
mod named;
#[path = "commands/reload.rs"]
mod reload;
#[path = "commands/run.rs"]
mod run;
mod support;
#[path = "commands/update.rs"]
mod update;
#[path = "vm/mod.rs"]
mod vm;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;

use serde_json::Value;
use support::stack::{Foreground, Role};
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
    let python = world.busybox().replace("busybox", "pyapp");
    let file = file
        .replace("BUSYBOX", &world.busybox())
        .replace("PYTHON", &python)
        .replace("SERVE", SERVE);
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
    // For a moment it has ended and nobody has asked its restart policy.
    let mut ended = services(&["--status", "created,exited"]);
    ended.remove("again");
    assert_eq!(ended, set(&["never", "once"]));
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

/// The past events of the stack.
#[track_caller]
fn past(world: &World) -> Vec<Value> {
    objects(&out(
        world,
        &["events", "--json", "--since", "1h", "--until", "0s"],
    ))
}

/// The actions on a container, in order.
fn actions(events: &[Value], id: &str) -> Vec<String> {
    let of = events.iter().filter(|event| event["id"] == id);
    of.map(|event| event["action"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn events_tell_the_life_of_containers() {
    let Some(world) = stack(
        "name: e
services:
  web:
    image: BUSYBOX
    command: SERVE
    labels: {color: blue}
    healthcheck: {test: 'true', interval: 1h}
  once: {image: BUSYBOX, command: [sh, -c, 'exit 4']}
volumes: {unused: }
",
    ) else {
        return;
    };
    let mut following = Foreground::start(&mut world.rcompose(&["events", "--json"]));
    let mut only = Foreground::start(&mut world.rcompose(&["events", "web"]));
    world.run(&["up", "-d", "--wait", "web"]).ok();
    following.wait_for("health_status: healthy");
    let id = long_id(&world, "e-web-1");
    world.run(&["up", "-d"]).ok();
    wait_for("the end of once", || {
        out(&world, &["ps", "-a", "--status", "exited"])
            .contains("e-once-1")
            .then_some(())
    });
    let once = long_id(&world, "e-once-1");
    let events = past(&world);
    assert_eq!(
        actions(&events, &id),
        ["create", "start", "health_status: healthy"]
    );
    assert_eq!(actions(&events, &once), ["create", "start", "die"]);
    assert_eq!(actions(&events, "e_default"), ["create"]);
    let start = events.iter().find(|event| event["id"] == id.as_str()).unwrap();
    assert_eq!(
        (&start["type"], &start["service"]),
        (&"container".into(), &"web".into())
    );
    assert_eq!(
        start["attributes"],
        serde_json::json!({"color": "blue", "image": world.busybox(), "name": "e-web-1"})
    );
    let died = events.iter().find(|event| event["action"] == "die").unwrap();
    assert_eq!(died["attributes"]["exitCode"], "4");
    let keys: Vec<&String> = died.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["action", "attributes", "id", "service", "time", "type"]);

    world.run(&["exec", "-T", "web", "true"]).ok();
    world.run(&["restart", "web"]).ok();
    let mut now = actions(&past(&world), &id);
    // Its health may be known again already.
    now.truncate(11);
    assert_eq!(
        now[3..],
        [
            "exec_create: true",
            "exec_start: true",
            "exec_die",
            "kill",
            "die",
            "stop",
            "start",
            "restart"
        ]
        .map(str::to_owned),
        "{now:?}"
    );
    // A supervisor that is killed misses nothing that another one cannot find out.
    for pid in world.of_role(Role::Supervisor) {
        support::stack::kill(pid);
    }
    wait_for("another supervisor", || world.of_role(Role::Supervisor).pop());
    // Whoever starts it is a second monitor for a moment.
    wait_for("one monitor", || {
        (world.of_role(Role::Monitor).len() == 1).then_some(())
    });
    world.run(&["exec", "-T", "web", "kill", "-KILL", "1"]);
    world.run(&["stop", "-t", "0"]).ok();
    wait_for("the end that was missed", || {
        let now = actions(&past(&world), &id);
        let count = |action: &str| now.iter().filter(|one| *one == action).count();
        (count("die") == 2 && count("start") == 2 && count("create") == 1).then_some(())
    });
    world.run(&["down", "-v", "-t", "2"]).ok();
    following.wait_for("\"action\":\"destroy\"");
    following.signal(rustix::process::Signal::KILL);
    let (_, said) = following.finish();
    let all: Vec<Value> = said
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(actions(&all, &id).last().unwrap(), "destroy");
    let times: Vec<&str> = all.iter().map(|event| event["time"].as_str().unwrap()).collect();
    assert!(
        times.iter().all(|time| time.len() == 30 && time.ends_with('Z')),
        "{times:?}"
    );
    let line = only.wait_for("container create");
    assert!(line.ends_with(&format!(
        "container create {id} (color=blue, image={}, name=e-web-1)",
        world.busybox()
    )));
    only.signal(rustix::process::Signal::KILL);
    assert!(only.finish().1.iter().all(|line| line.contains("e-web-1")));
    world.assert_nothing_left();
}

#[test]
fn attached_clients_see_and_type() {
    let Some(world) = stack(
        "name: a
services:
  say:
    image: BUSYBOX
    stdin_open: true
    command: [sh, -c, 'while read line; do echo got $$line; echo err $$line >&2; test $$line = end && exit 7; done']
  deaf: {image: BUSYBOX, command: [sh, -c, \"trap 'exit 9' TERM; while :; do echo tick; sleep 0.1 & wait; done\"]}
",
    ) else {
        return;
    };
    assert_eq!(world.run(&["attach", "say"]).code, 1);
    world.run(&["up", "-d"]).ok();
    let mut watching = world.rcompose(&["attach", "--no-stdin", "say"]);
    let mut watching = Foreground::start(&mut watching);
    let mut typing = world
        .rcompose(&["attach", "say"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = typing.stdin.take().unwrap();
    wait_for("the connection of both", || {
        writeln!(stdin, "again").unwrap();
        watching.try_for("got again").then_some(())
    });
    writeln!(stdin, "end").unwrap();
    watching.wait_for("got end");
    let ended = typing.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(7));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&ended.stdout), text(&ended.stderr));
    assert!(
        stdout.ends_with("got again\ngot end\n") && !stdout.contains("err"),
        "{stdout}"
    );
    assert!(stderr.ends_with("err again\nerr end\n"), "{stderr}");
    assert_eq!(watching.end(), 7);

    let mut passing = Foreground::start(&mut world.rcompose(&["attach", "deaf"]));
    passing.wait_for("tick");
    let keeping = world
        .rcompose(&["attach", "--sig-proxy=false", "deaf"])
        .stdout(Stdio::piped())
        .spawn();
    let mut keeping = keeping.unwrap();
    let mut first = [0; 5];
    std::io::Read::read_exact(keeping.stdout.as_mut().unwrap(), &mut first).unwrap();
    keeping.kill().unwrap();
    keeping.wait().unwrap();
    passing.wait_for("tick");
    passing.signal(rustix::process::Signal::TERM);
    assert_eq!(passing.end(), 9);
    assert_eq!(world.run(&["attach", "--index", "2", "deaf"]).code, 1);
    assert_eq!(world.run(&["attach", "--detach-keys", "xx", "deaf"]).code, 1);
    down(&world);
}

#[test]
fn a_terminal_is_joined_and_left() {
    let Some(world) = stack(
        "name: y
services:
  shell:
    image: BUSYBOX
    tty: true
    stdin_open: true
    command: [sh, -c, \"while read line; do echo =$$line=; stty size; done\"]
",
    ) else {
        return;
    };
    world.run(&["up", "-d"]).ok();
    let master =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let size = rustix::termios::Winsize {
        ws_row: 31,
        ws_col: 97,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&slave, size).unwrap();
    let before = rustix::termios::tcgetattr(&slave).unwrap();
    let end = || Stdio::from(slave.try_clone().unwrap());
    let mut attached = world.rcompose(&["attach", "shell"]);
    let mut attached = attached.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    let mut master = std::fs::File::from(master);
    wait_for("raw mode", || {
        let now = rustix::termios::tcgetattr(&slave).unwrap();
        (!now.local_modes.contains(rustix::termios::LocalModes::ICANON)).then_some(())
    });
    master.write_all(b"hello\r").unwrap();
    let mut shown = String::new();
    let mut buffer = [0; 1024];
    while !shown.contains("31 97") {
        let count = std::io::Read::read(&mut master, &mut buffer).unwrap();
        shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    assert!(shown.contains("=hello="), "{shown}");
    master.write_all(&[16, 17]).unwrap();
    assert_eq!(attached.wait().unwrap().code(), Some(0));
    let after = rustix::termios::tcgetattr(&slave).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    assert!(out(&world, &["ps"]).contains("y-shell-1"));
    down(&world);
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let Some(world) = stack(
        "name: z
services:
  much:
    image: BUSYBOX
    command: [sh, -c, 'while ! test -e /go; do sleep 0.05; done; head -c 16000000 /dev/zero | tr \"\\\\0\" x | fold; exit 6']
",
    ) else {
        return;
    };
    world.run(&["up", "-d"]).ok();
    let mut stuck = world
        .rcompose(&["attach", "much"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    out(&world, &["exec", "-T", "much", "touch", "/go"]);
    assert_eq!(world.run(&["wait", "much"]).code, 6);
    assert!(stuck.try_wait().unwrap().is_none());
    stuck.kill().unwrap();
    stuck.wait().unwrap();
    down(&world);
}

#[test]
fn files_are_copied_in_and_out_running_or_not() {
    let Some(world) = stack(
        "name: c
services:
  web:
    image: BUSYBOX
    command: SERVE
    scale: 2
    volumes: ['data:/data', './bound:/bound']
volumes: {data: }
",
    ) else {
        return;
    };
    let inside = |service: &str, line: &str| out(&world, &["exec", "-T", service, "sh", "-c", line]);
    world.write("bound/here", "bound");
    world.write("site/index.html", "hello");
    world.write("site/deep/page", "page");
    std::os::unix::fs::symlink("deep/page", world.work().join("site/link")).unwrap();
    std::os::unix::fs::chown(world.work().join("site/index.html"), Some(77), Some(78)).unwrap();
    world.run(&["up", "-d"]).ok();

    // A folder that is not there takes the content; one that is takes the folder.
    world.run(&["cp", "site", "web:/srv"]).ok();
    world.run(&["cp", "site", "web:/srv"]).ok();
    world.run(&["cp", "site/.", "web:/data/"]).ok();
    assert_eq!(
        inside(
            "web",
            "cat /srv/index.html /srv/site/link /data/deep/page; readlink /srv/link"
        ),
        "hellopagepagedeep/page\n"
    );
    assert_eq!(inside("web", "stat -c %u:%g /srv/index.html"), "0:0\n");
    let second = out(
        &world,
        &["exec", "-T", "--index", "2", "web", "cat", "/srv/index.html"],
    );
    assert_eq!(second, "hello", "every container of the service");
    world
        .run(&["cp", "-a", "--index", "1", "site/index.html", "web:/srv/kept"])
        .ok();
    assert_eq!(inside("web", "stat -c %u:%g /srv/kept"), "77:78\n");
    assert_eq!(
        world
            .run(&["exec", "-T", "--index", "2", "web", "test", "-e", "/srv/kept"])
            .code,
        1
    );
    world
        .run(&["cp", "-L", "--index", "1", "site/link", "web:/srv/followed"])
        .ok();
    assert_eq!(
        inside("web", "test -L /srv/followed || cat /srv/followed"),
        "page"
    );
    for (from, to, why) in [
        ("none", "web:/x", "no such file or directory"),
        ("site", "web:/srv/index.html", "cannot copy a directory"),
        ("site/index.html", "web:/none/", "must exist"),
        ("site", "other:/x", "no such service: other"),
        ("web:/a", "web:/b", "between services is not supported"),
        ("a", "b", "unknown copy direction"),
    ] {
        let failed = world.run(&["cp", from, to]);
        assert_eq!(failed.code, 1, "{from} {to}");
        assert!(
            failed.stderr.to_lowercase().contains(why),
            "{from} {to}: {}",
            failed.stderr
        );
    }

    world.run(&["cp", "web:/srv/site", "."]).ok();
    world.run(&["cp", "web:/bound/here", "copied"]).ok();
    let read = |name: &str| std::fs::read_to_string(world.work().join(name)).unwrap();
    assert_eq!(
        (read("site/deep/page").as_str(), read("copied").as_str()),
        ("page", "bound")
    );

    // Archives.
    let mut archive = world.rcompose(&["cp", "web:/srv/site", "-"]);
    let archive = archive.stdin(Stdio::null()).output().unwrap().stdout;
    std::fs::write(world.work().join("site.tar"), &archive).unwrap();
    let listed = support::finish(world.command("tar").args(["tf", "site.tar"]))
        .ok()
        .stdout;
    assert!(listed.lines().any(|line| line == "site/deep/page"), "{listed}");
    let mut unpack = world.rcompose(&["cp", "--index", "2", "-", "web:/tmp"]);
    let tar = std::fs::File::open(world.work().join("site.tar")).unwrap();
    assert!(unpack.stdin(tar).status().unwrap().success());
    assert_eq!(
        out(
            &world,
            &["exec", "-T", "--index", "2", "web", "cat", "/tmp/site/index.html"]
        ),
        "hello"
    );
    let many = world.run(&["cp", "-", "web:/tmp"]);
    assert!(many.stderr.contains("--index"), "{}", many.stderr);

    // Without a running container: its writable layer, and its volumes.
    world.run(&["stop", "-t", "1"]).ok();
    world.write("late", "late");
    world.run(&["cp", "late", "web:/srv/late"]).ok();
    world.run(&["cp", "late", "web:/data/late"]).ok();
    world.run(&["cp", "web:/data/deep/page", "page"]).ok();
    assert_eq!(read("page"), "page");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&world.state().display().to_string()), "{mounts}");
    world.run(&["start"]).ok();
    assert_eq!(inside("web", "cat /srv/late /data/late"), "latelate");
    down(&world);
}

#[test]
fn no_link_of_a_container_leads_a_copy_to_the_host() {
    let Some(world) = stack(
        "name: m
services:
  evil:
    image: BUSYBOX
    command: [sh, -c, 'mkdir -p /real /x; while :; do ln -sfn /real /swap; ln -sfn /proc/1/root/HOST /swap; ln -sfn ../../../../../../HOST /swap; done']
",
    ) else {
        return;
    };
    // A folder of the host, by its own path.
    let host = world.work().join("victim");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("secret"), "secret").unwrap();
    let file = std::fs::read_to_string(world.work().join("compose.yaml")).unwrap();
    let path = host.display().to_string();
    world.write("compose.yaml", file.replace("HOST", path.trim_start_matches('/')));
    world.write("payload", "payload");
    world.run(&["up", "-d"]).ok();
    for round in 0..40 {
        let name = format!("evil:/swap/in{round}");
        world.run(&["cp", "payload", &name]);
        let taken = world.work().join("taken");
        let _ = std::fs::remove_file(&taken);
        world.run(&["cp", "evil:/swap/secret", "taken"]);
        assert!(!taken.exists(), "round {round}");
    }
    let names: Vec<_> = std::fs::read_dir(&host)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["secret"]);
    down(&world);
}

#[test]
fn the_graph_is_drawn_and_causes_are_told() {
    let Some(world) = stack(
        "name: g
services:
  web:
    image: BUSYBOX
    command: SERVE
    depends_on: {api: {condition: service_healthy}, cache: {condition: service_started}}
  api:
    image: BUSYBOX
    command: [sh, -c, \"echo cannot find the data; trap 'exit 0' TERM; while :; do sleep 1 & wait; done\"]
    depends_on: {cache: {condition: service_started, required: false}}
    healthcheck: {test: 'test -e /ready', interval: 100ms, retries: 2}
  cache: {image: BUSYBOX, command: SERVE}
  crashing: {image: BUSYBOX, command: [sh, -c, 'echo the disk is full; exit 3'], restart: always}
  off: {image: BUSYBOX, command: SERVE, profiles: [debug]}
",
    ) else {
        return;
    };
    let before = out(&world, &["graph"]);
    assert_eq!(
        before,
        "g
├─ crashing  no container
└─ web  no container
   ├─ api (service_healthy)  no container
   │  └─ cache (service_started, optional)  no container
   └─ cache  no container
"
    );
    let up = world.run(&["up", "-d"]);
    assert_eq!(up.code, 1);
    let text = wait_for("the restart that is waited for", || {
        let text = out(&world, &["graph"]);
        text.contains("crashing  restarting").then_some(text)
    });
    assert!(text.contains("api (service_healthy)  unhealthy"), "{text}");
    assert!(text.contains("   └─ cache  running"), "{text}");
    let dot = out(&world, &["graph", "--format", "dot"]);
    assert!(
        dot.starts_with("digraph \"g\" {")
            && dot.contains("\"web\" -> \"api\" [label=\"service_healthy\", style=solid];"),
        "{dot}"
    );
    assert!(
        dot.contains("\"api\" -> \"cache\" [label=\"service_started\", style=dashed];"),
        "{dot}"
    );
    let mermaid = out(&world, &["graph", "--format", "mermaid", "api"]);
    assert!(
        mermaid.starts_with("flowchart LR\n") && mermaid.contains("-.->|service_started|"),
        "{mermaid}"
    );
    assert!(!mermaid.contains("web"), "{mermaid}");
    let json: Value = serde_json::from_str(&out(&world, &["graph", "--format", "json"])).unwrap();
    let api = json["services"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["service"] == "api")
        .unwrap();
    assert_eq!(
        (&api["state"], &api["containers"][0]["health"]),
        (&"unhealthy".into(), &"unhealthy".into())
    );
    assert_eq!(api["depends_on"][0]["required"], false);

    let why = out(&world, &["why", "web"]);
    for part in [
        "web: created",
        "it waits for:",
        "api: unhealthy (must be service_healthy)",
        "its health check fails: ",
        "| cannot find the data",
    ] {
        assert!(why.contains(part), "{part:?} in\n{why}");
    }
    assert!(!why.contains("cache: "), "{why}");
    let why = wait_for("a crash loop", || {
        let why = out(&world, &["why", "crashing"]);
        (why.contains("a crash loop") && why.contains("about to be started again")).then_some(why)
    });
    assert!(
        why.contains("| the disk is full") && why.contains("Restarting (3)"),
        "{why}"
    );
    assert!(out(&world, &["why", "off"]).contains("profiles debug"));
    assert_eq!(world.run(&["why", "none"]).code, 1);
    world.run(&["stop", "-t", "1", "cache"]).ok();
    assert!(out(&world, &["why", "cache"]).contains("a command stopped it"));
    down(&world);
}

#[test]
fn up_attaches_and_aborts_as_asked() {
    let file = "name: u
services:
  web: {image: BUSYBOX, command: [sh, -c, \"echo of web; exec sleep 1000\"], stop_signal: SIGKILL, depends_on: [db]}
  db: {image: BUSYBOX, command: [sh, -c, \"echo of db; exec sleep 1000\"], stop_signal: SIGKILL}
  quiet: {image: BUSYBOX, attach: false, command: [sh, -c, \"echo of quiet\"]}
  fails: {image: BUSYBOX, command: [sh, -c, 'while ! test -e /go; do sleep 0.05; done; exit 6'], profiles: [f]}
";
    let Some(world) = stack(file) else { return };
    let mut up = Foreground::start(&mut world.rcompose(&["up", "--attach-dependencies", "web"]));
    up.wait_for("of db");
    // Whichever comes first.
    if !up.said.iter().any(|line| line.contains("of web")) {
        up.wait_for("of web");
    }
    up.signal(rustix::process::Signal::INT);
    assert_eq!(up.end(), 130);
    let mut up =
        Foreground::start(&mut world.rcompose(&["--profile", "f", "up", "--abort-on-container-failure"]));
    // The one that ends well stops nobody.
    wait_for("the end of quiet", || {
        out(&world, &["ps", "-a", "--status", "exited"])
            .contains("u-quiet-1")
            .then_some(())
    });
    up.wait_for("of web");
    assert!(!up.try_for("of quiet"), "{:?}", up.said);
    world
        .run(&["--profile", "f", "exec", "-T", "fails", "touch", "/go"])
        .ok();
    assert_eq!(up.end(), 6);
    assert_eq!(out(&world, &["ps", "-q"]), "");

    // Where there is no terminal, there are no keys.
    world.run(&["up", "--menu", "-d", "db"]).ok();
    world
        .run(&["up", "-d", "--menu=false", "--no-build", "--quiet-pull", "db"])
        .ok();
    write(
        &world,
        "name: u\nservices: {web: {image: 'localhost:1/none:latest', command: x}}\n",
    );
    let never = world.run(&["up", "-d", "--pull", "never", "--remove-orphans"]);
    assert!(never.stderr.contains("pull_policy is never"), "{}", never.stderr);
    write(&world, file);
    world.run(&["--profile", "f", "down", "-t", "0"]).ok();
    world.assert_nothing_left();
}

#[test]
fn an_exec_makes_no_folder_to_run_in() {
    let Some(world) =
        stack("name: w\nservices:\n  web: {image: BUSYBOX, command: SERVE, working_dir: /made}\n")
    else {
        return;
    };
    world.run(&["up", "-d"]).ok();
    assert_eq!(out(&world, &["exec", "-T", "web", "pwd"]), "/made\n");
    let refused = world.run(&["exec", "-T", "-w", "/nothing", "web", "pwd"]);
    assert!(
        refused.code == 127 && refused.stderr.contains("chdir to /nothing"),
        "{refused:?}"
    );
    assert_eq!(
        world.run(&["exec", "-T", "web", "test", "-e", "/nothing"]).code,
        1
    );
    down(&world);
}

#[test]
fn a_wait_fails_for_what_ends_at_once_and_does_not_wait_again() {
    let file = "name: w
services:
  web: {image: BUSYBOX, command: SERVE}
  done: {image: BUSYBOX, command: 'true'}
  job: {image: BUSYBOX, command: [sh, -c, 'sleep 0.05; exit 3']}
";
    let Some(world) = stack(file) else { return };
    // On a machine that is busy enough it lasts for longer than the moment that counts.
    let failed = wait_for("a wait that fails", || {
        let waited = world.run(&["up", "-d", "--wait"]);
        (waited.code != 0).then_some(waited)
    });
    assert!(
        failed.code == 1 && failed.stderr.contains("container w-job-1 exited (3)"),
        "{failed:?}"
    );
    write(&world, &file.replace("exit 3", "exit 0"));
    world.run(&["up", "-d", "--wait"]).ok();
    down(&world);
}

//! What small stacks do: the promises of a stack file, seen from inside the
//! containers and from the host.
// Clippy takes only functions marked as tests for tests.
#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::stack::Foreground;
use support::{World, finish, wait_for};

/// Ends at once on SIGTERM; `BODY` runs first.
fn serve(body: &str) -> String {
    format!("[\"sh\", \"-c\", \"{body}trap 'exit 0' TERM; while :; do sleep 1 & wait; done\"]")
}

/// Writes the stack file, with the image's reference for `BUSYBOX` and a
/// program that serves until SIGTERM for `SERVE`.
fn write(world: &World, file: &str) {
    let file = file
        .replace("BUSYBOX", &world.busybox())
        .replace("SERVE", &serve(""));
    world.write("compose.yaml", file);
}

/// What a command inside a service's container prints, without the line's end.
#[track_caller]
fn inside(world: &World, service: &str, line: &str) -> String {
    let output = world.run(&["exec", "-T", service, "sh", "-c", line]).ok();
    output.stdout.trim_end().to_owned()
}

#[track_caller]
fn field(world: &World, name: &str, field: &str) -> String {
    let list = world.ps();
    let found = list.iter().find(|container| container["Name"] == name);
    let found = found.unwrap_or_else(|| panic!("{name} is not in {list:?}"));
    match &found[field] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[track_caller]
fn down(world: &World) {
    world.run(&["down", "-v", "-t", "2"]).ok();
    world.assert_nothing_left();
}

/// The number of the first line that contains a text.
#[track_caller]
fn at(lines: &str, text: &str) -> usize {
    let found = lines.lines().position(|line| line.contains(text));
    found.unwrap_or_else(|| panic!("no {text:?} in:\n{lines}"))
}

#[test]
fn services_start_in_order_and_stop_in_reverse() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: o
services:
  web:
    image: BUSYBOX
    command: SERVE
    depends_on:
      app: {condition: service_started}
  app:
    image: BUSYBOX
    command: SERVE
    depends_on:
      db: {condition: service_healthy}
      prepare: {condition: service_completed_successfully}
  db:
    image: BUSYBOX
    command: [sh, -c, \"sleep 0.3; touch /ready; trap 'exit 0' TERM; while :; do sleep 1 & wait; done\"]
    healthcheck: {test: test -e /ready, interval: 50ms, start_period: 5s, start_interval: 50ms}
  prepare:
    image: BUSYBOX
    command: sleep 0.2
",
    );
    let up = world.run(&["up", "-d"]).ok().stderr;
    for (first, then) in [
        ("Service db  Healthy", "o-app-1  Starting"),
        ("Service prepare  Exited", "o-app-1  Starting"),
        ("o-app-1  Started", "o-web-1  Starting"),
    ] {
        assert!(at(&up, first) < at(&up, then), "{first} before {then}:\n{up}");
    }
    let stop = world.run(&["stop"]).ok().stderr;
    assert!(
        at(&stop, "o-web-1  Stopped") < at(&stop, "o-app-1  Stopping"),
        "{stop}"
    );
    assert!(
        at(&stop, "o-app-1  Stopped") < at(&stop, "o-db-1  Stopping"),
        "{stop}"
    );
    world.run(&["start"]).ok();
    assert_eq!(field(&world, "o-web-1", "State"), "running");
    down(&world);
}

#[test]
fn restart_policies_hold() {
    let Some(world) = World::new() else { return };
    let count = |limit: &str, code: u32| {
        format!(
            "[sh, -c, \"echo run >> /count; test $(wc -l < /count) -lt {limit} && exit {code}; exec sleep 1000\"]"
        )
    };
    write(
        &world,
        &format!(
            "name: r
services:
  always: {{image: BUSYBOX, restart: always, stop_signal: SIGKILL, command: {}}}
  failing: {{image: BUSYBOX, restart: on-failure, stop_signal: SIGKILL, command: {}}}
  twice: {{image: BUSYBOX, restart: \"on-failure:2\", command: [sh, -c, \"echo again; exit 9\"]}}
  fine: {{image: BUSYBOX, restart: on-failure, command: \"true\"}}
  never: {{image: BUSYBOX, command: \"false\"}}
",
            count("3", 0),
            count("3", 4)
        ),
    );
    world.run(&["up", "-d"]).ok();
    wait_for("three runs of each", || {
        let three = |service| {
            let output = world.run(&["exec", "-T", service, "cat", "/count"]);
            output.stdout.lines().count() == 3
        };
        (three("always") && three("failing")).then_some(())
    });
    wait_for("the end of the retries", || {
        (world.run(&["logs", "twice"]).stdout.matches("again").count() == 3
            && field(&world, "r-twice-1", "State") == "exited")
            .then_some(())
    });
    assert_eq!(field(&world, "r-twice-1", "ExitCode"), "9");
    assert_eq!(field(&world, "r-fine-1", "ExitCode"), "0");
    assert_eq!(field(&world, "r-never-1", "ExitCode"), "1");
    // What is stopped by hand stays stopped.
    world.run(&["stop", "always"]).ok();
    assert_eq!(field(&world, "r-always-1", "State"), "exited");
    down(&world);
}

#[test]
fn scaling_keeps_the_containers_that_stay() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: s\nservices:\n  web: {image: BUSYBOX, command: SERVE}\n",
    );
    let ids = || {
        let mut ids: Vec<String> = world
            .run(&["ps", "-q"])
            .ok()
            .stdout
            .lines()
            .map(str::to_owned)
            .collect();
        ids.sort();
        ids
    };
    world.run(&["up", "-d", "--scale", "web=2"]).ok();
    let two = ids();
    world.run(&["up", "-d", "--scale", "web=4"]).ok();
    let four = ids();
    assert_eq!((two.len(), four.len()), (2, 4));
    assert!(two.iter().all(|id| four.contains(id)));
    let addresses = inside(&world, "web", "nslookup web | grep -c '^Address.*: *1'");
    assert!(addresses.parse::<u32>().unwrap() >= 4, "{addresses}");
    world.run(&["up", "-d", "--scale", "web=1"]).ok();
    assert_eq!(ids().len(), 1);
    assert!(two.contains(&ids()[0]), "the oldest stay");
    world.run(&["up", "-d", "--scale", "web=0"]).ok();
    assert!(ids().is_empty());
    down(&world);
}

#[test]
fn a_recreated_container_keeps_its_data_and_its_address() {
    let Some(world) = World::new() else { return };
    let file = "name: k
services:
  db:
    image: BUSYBOX
    command: SERVE
    environment: {X: \"VALUE\"}
    volumes: [\"named:/named\", /anonymous]
volumes: {named: }
";
    write(&world, &file.replace("VALUE", "1"));
    world.run(&["up", "-d"]).ok();
    let address = inside(&world, "db", "ip -4 -o addr show eth0 | awk '{print $4}'");
    assert!(address.contains('/'), "{address}");
    inside(
        &world,
        "db",
        "echo a > /named/f; echo b > /anonymous/f; echo c > /f",
    );
    let before = world.id_of("k-db-1");
    write(&world, &file.replace("VALUE", "2"));
    world.run(&["up", "-d"]).ok();
    assert_ne!(world.id_of("k-db-1"), before);
    assert_eq!(
        inside(
            &world,
            "db",
            "echo $X; cat /named/f /anonymous/f; test -e /f || echo gone"
        ),
        "2\na\nb\ngone"
    );
    assert_eq!(
        inside(&world, "db", "ip -4 -o addr show eth0 | awk '{print $4}'"),
        address
    );
    world.run(&["up", "-d", "-V", "--force-recreate"]).ok();
    assert_eq!(
        inside(&world, "db", "cat /named/f; test -e /anonymous/f || echo fresh"),
        "a\nfresh"
    );
    // Named volumes outlive `down`, until `-v`.
    world.run(&["down"]).ok();
    world.run(&["up", "-d"]).ok();
    assert_eq!(inside(&world, "db", "cat /named/f"), "a");
    down(&world);
    assert!(!world.state().join("volumes/k_named").exists());
}

#[test]
fn what_the_file_says_holds_inside() {
    let Some(world) = World::new() else { return };
    world.write("greeting", "from the host\n");
    write(
        &world,
        "name: i
services:
  a:
    image: BUSYBOX
    command: SERVE
    environment: {GREETING: \"hello there\"}
    user: \"1000:1001\"
    working_dir: /srv
    hostname: named
    read_only: true
    cap_drop: [ALL]
    cap_add: [NET_BIND_SERVICE]
    tmpfs: [\"/scratch:size=1m,mode=1777\"]
    volumes: [\"./greeting:/greeting:ro\"]
    mem_limit: 64m
    pids_limit: 50
    extra_hosts: [\"elsewhere:192.0.2.7\"]
    ulimits: {nofile: 123}
",
    );
    world.run(&["up", "-d"]).ok();
    let seen = inside(
        &world,
        "a",
        "echo $GREETING; id -u; id -g; pwd; hostname; ulimit -n; cat /greeting; \
         grep -c 'elsewhere' /etc/hosts; grep CapBnd /proc/self/status | cut -f2; \
         touch /x 2>&1; touch /scratch/x && echo written; echo x 2>&1 > /greeting; \
         df -k /scratch | tail -1 | awk '{print $2}'",
    );
    assert_eq!(
        seen,
        "hello there
1000
1001
/srv
named
123
from the host
1
0000000000000400
touch: /x: Read-only file system
written
sh: can't create /greeting: Read-only file system
1024",
        "seen"
    );
    // The limits, where this machine has the controllers.
    let warned = |controller: &str| {
        let text = world.run(&["up", "-d", "--force-recreate"]).ok().stderr;
        text.contains(&format!("{controller} limit has no effect"))
    };
    let limit = inside(
        &world,
        "a",
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true",
    );
    assert!(limit == "67108864" || warned("memory"), "{limit:?}");
    down(&world);
}

#[test]
fn networks_keep_services_apart() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: n
services:
  web: {image: BUSYBOX, command: [httpd, -f, -p, \"80\"], stop_signal: SIGKILL, networks: [front]}
  app: {image: \"rootfs:/\", command: SERVE, networks: {front: {aliases: [middle]}, back: }}
  db: {image: BUSYBOX, command: [httpd, -f, -p, \"80\"], stop_signal: SIGKILL, networks: [back]}
  lone: {image: BUSYBOX, command: SERVE, network_mode: none}
  near: {image: \"rootfs:/\", command: SERVE, network_mode: \"service:web\"}
  host: {image: BUSYBOX, command: SERVE, network_mode: host}
networks: {front: , back: }
",
    );
    world.run(&["up", "-d"]).ok();
    let address = |of: &str| {
        inside(
            &world,
            of,
            "ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1",
        )
    };
    // 404 is an answer too: somebody listens.
    let reach = |from: &str, to: &str| {
        let url = format!("http://{to}/");
        let args = [
            "exec",
            "-T",
            from,
            "curl",
            "-s",
            "-m",
            "2",
            "-o",
            "/dev/null",
            &url,
        ];
        world.run(&args).code == 0
    };
    let db = address("db");
    // It may not listen yet.
    for (from, to) in [
        ("app", "web"),
        ("app", "db"),
        ("app", db.as_str()),
        ("near", "127.0.0.1"),
    ] {
        wait_for(&format!("{from} to reach {to}"), || reach(from, to).then_some(()));
    }
    assert!(!reach("near", "db"));
    assert!(!reach("near", &db));
    // By the address it has on the network that both are on.
    let all = inside(&world, "app", "ip -4 -o addr show");
    for name in ["app", "middle"] {
        let answer = inside(&world, "web", &format!("nslookup {name}"));
        let found = answer.lines().filter_map(|line| line.strip_prefix("Address: "));
        assert!(
            found.clone().count() == 1 && found.clone().all(|address| all.contains(address.trim())),
            "{answer}"
        );
    }
    assert!(
        !world
            .run(&["exec", "-T", "web", "nslookup", "db"])
            .stdout
            .contains(&db)
    );
    assert_eq!(inside(&world, "lone", "ls /sys/class/net"), "lo");
    let links = inside(&world, "host", "ip -o link | wc -l");
    let ours = finish(world.command("sh").args(["-c", "ip -o link | wc -l"]))
        .ok()
        .stdout;
    assert_eq!(links, ours.trim());
    down(&world);
}

#[test]
fn published_ports_answer_on_loopback_and_on_the_hosts_addresses() {
    let Some(world) = World::new() else { return };
    finish(
        world
            .command("ip")
            .args(["link", "add", "uplink", "type", "bridge"]),
    )
    .ok();
    finish(
        world
            .command("ip")
            .args(["addr", "add", "192.0.2.1/24", "dev", "uplink"]),
    )
    .ok();
    finish(world.command("ip").args(["link", "set", "uplink", "up"])).ok();
    write(
        &world,
        "name: p
services:
  web:
    image: BUSYBOX
    command: [sh, -c, \"echo everywhere > /index.html; exec httpd -f -p 80 -h /\"]
    stop_signal: SIGKILL
    ports: [\"8080:80\"]
  local:
    image: BUSYBOX
    command: [sh, -c, \"echo here > /index.html; exec httpd -f -p 80 -h /\"]
    stop_signal: SIGKILL
    ports: [\"127.0.0.1:8081:80\", \"80\"]
",
    );
    world.run(&["up", "-d"]).ok();
    let get = |url: &str| {
        let output = finish(world.command("curl").args(["-sS", "--max-time", "5", url]));
        (output.code == 0).then_some(output.stdout)
    };
    for url in ["http://127.0.0.1:8080/", "http://192.0.2.1:8080/"] {
        wait_for(url, || {
            (get(url).as_deref() == Some("everywhere\n")).then_some(())
        });
    }
    wait_for("the local port", || {
        (get("http://127.0.0.1:8081/").as_deref() == Some("here\n")).then_some(())
    });
    assert_eq!(get("http://192.0.2.1:8081/"), None);
    // A port that the machine chose is shown, and answers.
    let ports = field(&world, "p-local-1", "Ports");
    let chosen = ports
        .split(", ")
        .find_map(|port| port.strip_prefix("0.0.0.0:")?.split_once("->"));
    let (chosen, _) = chosen.unwrap_or_else(|| panic!("{ports}"));
    assert_eq!(
        get(&format!("http://127.0.0.1:{chosen}/")).as_deref(),
        Some("here\n")
    );
    world.run(&["stop"]).ok();
    assert_eq!(get("http://127.0.0.1:8080/"), None);
    world.run(&["down"]).ok();
    finish(world.command("ip").args(["link", "del", "uplink"])).ok();
    world.assert_nothing_left();
}

#[test]
fn the_foreground_follows_the_file_with_the_smallest_change() {
    let Some(world) = World::new() else { return };
    let file = "name: f
services:
  db: {image: BUSYBOX, command: SERVE}
  web:
    image: BUSYBOX
    command: SERVE
    environment: {X: one}
    depends_on: [db]
";
    write(&world, file);
    let mut up = Foreground::start(&mut world.rcompose(&["up"]));
    up.wait_for("Container f-web-1  Started");
    let (db, web) = (world.id_of("f-db-1"), world.id_of("f-web-1"));

    // Changed in place: a label, a policy, a check.
    let labelled = file.replace(
        "depends_on: [db]",
        "depends_on: [db]\n    labels: {v: \"2\"}\n    restart: on-failure",
    );
    write(&world, &labelled);
    up.wait_for("stack file changed:");
    up.wait_for("Container f-web-1  Updated");
    assert_eq!(
        (world.id_of("f-db-1"), world.id_of("f-web-1")),
        (db.clone(), web.clone())
    );
    assert!(field(&world, "f-web-1", "Labels").contains("v=2"));

    // Replaced: one container, the other is not touched.
    write(&world, &labelled.replace("X: one", "X: two"));
    up.wait_for("Container f-web-1  Started");
    assert_eq!(world.id_of("f-db-1"), db);
    let replaced = world.id_of("f-web-1");
    assert_ne!(replaced, web);

    // A broken save, of either kind, keeps everything.
    write(&world, &file.replace("environment:", "enviroment:"));
    up.wait_for("compose.yaml:7:5");
    up.wait_for("the stack file has errors; the running stack is left as it was");
    write(&world, &file.replace("db: {", "db: {depends_on: [web], "));
    up.wait_for("error: dependency cycle detected: db -> web -> db");
    up.wait_for("the stack file has errors");
    // What needs no file goes on by name.
    let ids = world.run(&["-p", "f", "ps", "-q"]).ok().stdout;
    assert!(ids.contains(&replaced[..12]) && ids.contains(&db[..12]), "{ids}");
    assert!(world.run(&["ps"]).stderr.contains("hint: with -p NAME"));
    write(&world, &labelled.replace("X: one", "X: two"));
    up.wait_for("the stack file is in order again, and changes nothing");
    assert_eq!(
        (world.id_of("f-db-1"), world.id_of("f-web-1")),
        (db.clone(), replaced.clone())
    );

    // One more service, and one less.
    write(
        &world,
        &(labelled.replace("X: one", "X: two")
            + "  extra: {image: BUSYBOX, command: [echo, \"I am new\"]}\n"),
    );
    up.wait_for("extra-1  | I am new");
    write(&world, &labelled.replace("X: one", "X: two"));
    up.wait_for("Container f-extra-1  Removed");
    assert_eq!(world.id_of("f-web-1"), replaced);

    up.signal(Signal::INT);
    up.wait_for("Gracefully stopping... (press Ctrl+C again to force)");
    assert_eq!(up.end(), 130);
    assert_eq!(field(&world, "f-db-1", "State"), "exited");
    down(&world);
}

#[test]
fn a_second_interrupt_kills_at_once() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: x\nservices:\n  deaf:\n    image: BUSYBOX\n    stop_grace_period: 10m\n    command: [sh, -c, \"trap 'echo asked' TERM; echo ready; \
         while :; do sleep 1 & wait; done\"]\n",
    );
    let mut up = Foreground::start(&mut world.rcompose(&["up"]));
    up.wait_for("| ready");
    up.signal(Signal::INT);
    up.wait_for("| asked");
    up.signal(Signal::INT);
    let began = Instant::now();
    assert_eq!(up.end(), 130);
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(field(&world, "x-deaf-1", "ExitCode"), "137");
    down(&world);
}

#[test]
fn the_background_follows_the_file_when_asked() {
    let Some(world) = World::new() else { return };
    let file = "name: b\nservices:\n  a: {image: BUSYBOX, command: SERVE, environment: {X: \"VALUE\"}}\n";
    write(&world, &file.replace("VALUE", "1"));
    world.run(&["up", "-d"]).ok();
    let first = world.id_of("b-a-1");
    write(&world, &file.replace("VALUE", "2"));
    // Not asked: the change is for the next `up`.
    assert_eq!(world.run(&["plan"]).code, 2);
    world.run(&["up", "-d", "--watch"]).ok();
    let second = world.id_of("b-a-1");
    assert_ne!(first, second);
    write(&world, &file.replace("VALUE", "3"));
    wait_for("the change to be applied", || {
        let output = world.run(&["exec", "-T", "a", "sh", "-c", "echo $X"]);
        (output.stdout == "3\n").then_some(())
    });
    assert_eq!(world.run(&["plan"]).code, 0);
    down(&world);
}

#[test]
fn an_attached_up_ends_as_its_services_say() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: e
services:
  job: {image: BUSYBOX, command: [sh, -c, \"echo out; echo err >&2; exit 7\"]}
  side: {image: BUSYBOX, command: SERVE}
",
    );
    let output = world.run(&[
        "up",
        "--exit-code-from",
        "job",
        "--no-log-prefix",
        "--no-attach",
        "side",
    ]);
    assert_eq!(output.code, 7, "{output:?}");
    assert_eq!(
        output.stdout,
        "Attaching to job-1\nout\nerr\njob-1 exited with code 7\n"
    );
    assert_ne!(field(&world, "e-side-1", "State"), "running");
    assert_eq!(world.run(&["up", "--abort-on-container-exit"]).code, 7);
    // All have ended: so does `up`, well.
    assert_eq!(world.run(&["up", "job"]).code, 0);
    // Also while others run, which it does not touch.
    world.run(&["up", "-d", "side"]).ok();
    assert_eq!(world.run(&["up", "--no-deps", "job"]).code, 0);
    assert_eq!(field(&world, "e-side-1", "State"), "running");
    down(&world);
}

#[test]
fn restarting_a_dependency_restarts_those_that_say_so() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: d
services:
  db: {image: BUSYBOX, command: SERVE}
  with: {image: BUSYBOX, command: SERVE, depends_on: {db: {condition: service_started, restart: true}}}
  without: {image: BUSYBOX, command: SERVE, depends_on: [db]}
",
    );
    world.run(&["up", "-d"]).ok();
    let said = world.run(&["restart", "db"]).ok().stderr;
    assert!(said.contains("d-with-1  Started"), "{said}");
    assert!(!said.contains("d-without-1"), "{said}");
    assert!(
        at(&said, "d-db-1  Started") < at(&said, "d-with-1  Starting"),
        "{said}"
    );
    let said = world.run(&["restart", "--no-deps", "db"]).ok().stderr;
    assert!(!said.contains("d-with-1"), "{said}");
    down(&world);
}

#[test]
fn two_stacks_and_two_worlds_do_not_meet() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "services:\n  web: {image: \"rootfs:/\", command: [python3, -m, http.server, \"80\"], stop_signal: SIGKILL}\n",
    );
    let other = world.work().join("other-state").display().to_string();
    world.run(&["-p", "one", "up", "-d"]).ok();
    world.run(&["-p", "two", "up", "-d"]).ok();
    world.run(&["-p", "one", "--state-root", &other, "up", "-d"]).ok();
    let id = |args: &[&str]| world.run(&[args, &["ps", "-q"]].concat()).ok().stdout;
    let (one, two) = (id(&["-p", "one"]), id(&["-p", "two"]));
    let third = id(&["-p", "one", "--state-root", &other]);
    assert!(one != two && two != third && one != third);
    let address = |args: &[&str]| {
        let line = "ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1";
        world
            .run(&[args, &["exec", "-T", "web", "sh", "-c", line]].concat())
            .ok()
            .stdout
    };
    let addresses = [
        address(&["-p", "one"]),
        address(&["-p", "two"]),
        address(&["-p", "one", "--state-root", &other]),
    ];
    assert!(addresses[0] != addresses[1] && addresses[1] != addresses[2] && addresses[0] != addresses[2]);
    let reach = |to: &str| {
        let url = format!("http://{to}/");
        let args = [
            "-p",
            "one",
            "exec",
            "-T",
            "web",
            "curl",
            "-s",
            "-m",
            "1",
            "-o",
            "/dev/null",
            &url,
        ];
        world.run(&args).code == 0
    };
    let [own, neighbour, stranger] = addresses.each_ref().map(|address| address.trim());
    wait_for("the server to listen", || reach(own).then_some(()));
    assert!(!reach(neighbour));
    assert!(!reach(stranger));

    world.run(&["-p", "one", "down", "-t", "2"]).ok();
    assert_eq!(id(&["-p", "two"]), two);
    assert_eq!(id(&["-p", "one", "--state-root", &other]), third);
    world
        .run(&["-p", "one", "--state-root", &other, "down", "-t", "2"])
        .ok();
    assert_eq!(id(&["-p", "two"]), two);
    world.run(&["-p", "two", "down", "-t", "2"]).ok();
    world.assert_nothing_left();
}

#[test]
fn configs_and_secrets_are_given_and_follow_their_source() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: g
services:
  app:
    image: BUSYBOX
    command: SERVE
    configs:
      - settings
      - {source: greeting, target: /etc/greeting, mode: 0440, uid: '7', gid: '8'}
    secrets: [password, {source: token, target: api_token}]
configs:
  settings: {file: ./settings.ini}
  greeting: {content: \"hello $NAME\"}
secrets:
  password: {file: ./password}
  token: {environment: TOKEN}
",
    );
    world.write("settings.ini", "a=1\n");
    world.write("password", "one");
    world.write(".env", "NAME=world\nTOKEN=t0ken\n");
    world.run(&["up", "-d"]).ok();
    assert_eq!(inside(&world, "app", "cat /settings"), "a=1");
    assert_eq!(inside(&world, "app", "cat /etc/greeting"), "hello world");
    assert_eq!(
        inside(&world, "app", "stat -c '%a %u %g' /etc/greeting"),
        "440 7 8"
    );
    assert_eq!(inside(&world, "app", "stat -c %a /run/secrets/password"), "444");
    assert_eq!(inside(&world, "app", "cat /run/secrets/api_token"), "t0ken");
    let refused = world.run(&["exec", "-T", "app", "sh", "-c", "echo x > /run/secrets/password"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    // New content arrives in the container that runs, and is nobody's to see.
    let id = field(&world, "g-app-1", "ID");
    world.write("password", "zwei");
    let plan = world.run(&["plan"]);
    assert!(
        plan.stdout.contains("secrets.password") && !plan.stdout.contains("zwei"),
        "{plan:?}"
    );
    world.run(&["up", "-d"]).ok();
    assert_eq!(inside(&world, "app", "cat /run/secrets/password"), "zwei");
    assert_eq!(field(&world, "g-app-1", "ID"), id);
    assert_eq!(world.run(&["plan"]).code, 0, "nothing is left to do");
    // A stop and a start find everything again, the variable's value too.
    world.run(&["restart"]).ok();
    assert_eq!(inside(&world, "app", "cat /run/secrets/api_token"), "t0ken");
    down(&world);
}

#[test]
fn a_secret_that_is_not_there_is_said_before_anything_is_made() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: g
services:
  app: {image: BUSYBOX, command: SERVE, secrets: [password]}
secrets:
  password: {file: ./password}
",
    );
    let up = world.run(&["up", "-d"]);
    assert_eq!(up.code, 1);
    assert!(
        up.stderr.contains("secrets.password: ") && up.stderr.contains("No such file"),
        "{up:?}"
    );
    world.assert_nothing_left();
}

#[test]
fn hooks_run_after_the_start_and_before_the_stop() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: h
services:
  app:
    image: BUSYBOX
    command: SERVE
    volumes: [./out:/out]
    post_start:
      - {command: [sh, -c, 'echo started $$WHO $$(pwd) > /out/started'], environment: [WHO=me], working_dir: /etc}
    pre_stop:
      - {command: [sh, -c, 'echo stopping > /out/stopping']}
  after:
    image: BUSYBOX
    command: sh -c 'cat /out/started'
    volumes: [./out:/out]
    depends_on: [app]
",
    );
    world.run(&["up", "-d"]).ok();
    wait_for("what the hook wrote", || {
        world
            .run(&["logs", "--no-log-prefix", "after"])
            .stdout
            .contains("started me /etc")
            .then_some(())
    });
    // A frozen container goes on first.
    world.run(&["pause", "app"]).ok();
    world.run(&["stop", "app"]).ok();
    let out = world.work().join("out/stopping");
    assert_eq!(std::fs::read_to_string(out).unwrap(), "stopping\n");
    let file = std::fs::read_to_string(world.work().join("compose.yaml")).unwrap();
    world.write(
        "compose.yaml",
        file.replace("echo stopping", "echo oh no; exit 3; #")
            .replace("pre_stop", "post_start_")
            .replace("post_start:", "pre_stop:")
            .replace("post_start_", "post_start"),
    );
    let up = world.run(&["up", "-d"]);
    assert_eq!(up.code, 1);
    assert!(
        up.stderr.contains("post_start hook")
            && up.stderr.contains("exited with status 3")
            && up.stderr.contains("oh no"),
        "{up:?}"
    );
    down(&world);
}

#[test]
fn containers_are_paused_killed_scaled_and_removed() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: l
services:
  app:
    image: BUSYBOX
    command: [sh, -c, \"trap 'echo hup' HUP; trap 'exit 0' TERM; while :; do sleep 1 & wait; done\"]
    restart: always
    depends_on: [db]
    healthcheck: {test: 'true', interval: 50ms, retries: 1, timeout: 1s}
  db: {image: BUSYBOX, command: SERVE}
",
    );
    world.run(&["create"]).ok();
    assert_eq!(field(&world, "l-app-1", "State"), "created");
    world.run(&["up", "-d", "--wait"]).ok();
    // A frozen container is not asked for its health, and stays what it is.
    world.run(&["pause", "app"]).ok();
    assert!(field(&world, "l-app-1", "Status").contains("(Paused)"));
    let refused = world.run(&["exec", "-T", "app", "true"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("is paused"),
        "{refused:?}"
    );
    assert_eq!(field(&world, "l-db-1", "Status").find("Paused"), None);
    let again = world.run(&["pause"]).ok();
    assert!(again.stderr.contains("l-db-1  Paused"), "{again:?}");
    world.run(&["unpause"]).ok();
    wait_for("health after the pause", || {
        (field(&world, "l-app-1", "Health") == "healthy").then_some(())
    });
    // A signal that is for the program.
    world.run(&["kill", "-s", "HUP", "app"]).ok();
    wait_for("the program's answer", || {
        world.run(&["logs", "app"]).stdout.contains("hup").then_some(())
    });
    let wrong = world.run(&["kill", "-s", "NOPE"]);
    assert!(
        wrong.code == 1 && wrong.stderr.contains("no signal is called \"NOPE\""),
        "{wrong:?}"
    );
    // One that ends it, which its restart policy takes as the user's wish; a
    // frozen one dies too.
    world.run(&["pause", "app"]).ok();
    world.run(&["kill", "app"]).ok();
    wait_for("the end", || {
        (field(&world, "l-app-1", "State") == "exited").then_some(())
    });
    assert_eq!(field(&world, "l-app-1", "ExitCode"), "137");
    let nobody = world.run(&["kill", "app"]);
    assert!(
        nobody.code == 0 && nobody.stderr == "no container to kill\n",
        "{nobody:?}"
    );
    // Only what does not run is removed, and only after a yes.
    let asked = world.run(&["rm"]);
    assert!(
        asked.code == 0 && asked.stderr.contains("Going to remove l-app-1"),
        "{asked:?}"
    );
    assert_eq!(world.ps().len(), 2);
    let said = world.run(&["rm", "-f"]).ok().stdout;
    assert_eq!(said, "Going to remove l-app-1\n");
    assert_eq!(world.ps().len(), 1);
    world.run(&["scale", "db=3"]).ok();
    assert_eq!(world.ps().len(), 3);
    world.run(&["scale", "db=1"]).ok();
    world.run(&["pause", "db"]).ok();
    // Also frozen containers stop.
    world.run(&["rm", "-fsv"]).ok();
    assert_eq!(world.ps().len(), 0);
    down(&world);
}

#[test]
fn limits_change_under_a_running_container() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: m
services:
  app: {image: BUSYBOX, command: SERVE, mem_limit: 32m, pids_limit: 50}
",
    );
    world.run(&["up", "-d"]).ok();
    let id = field(&world, "m-app-1", "ID");
    let memory = || {
        inside(
            &world,
            "app",
            "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || true",
        )
    };
    assert_eq!(memory(), "33554432");
    for (limit, bytes) in [("256m", "268435456"), ("16m", "16777216")] {
        let file = std::fs::read_to_string(world.work().join("compose.yaml")).unwrap();
        let (before, rest) = file.split_once("mem_limit: ").unwrap();
        let (_, after) = rest.split_once(',').unwrap();
        world.write("compose.yaml", format!("{before}mem_limit: {limit},{after}"));
        world.run(&["up", "-d"]).ok();
        assert_eq!(
            (memory(), field(&world, "m-app-1", "ID")),
            (bytes.to_owned(), id.clone())
        );
    }
    // What was there without a limit is not known: that needs a new container.
    let file = std::fs::read_to_string(world.work().join("compose.yaml")).unwrap();
    world.write("compose.yaml", file.replace("mem_limit: 16m, ", ""));
    world.run(&["up", "-d"]).ok();
    assert_ne!(field(&world, "m-app-1", "ID"), id);
    down(&world);
}

//! Health without tools in the image, and what comes of it.

use super::support::stack::Foreground;
use super::support::wait_for;
use super::{down, out, stack};

#[test]
fn built_in_probes_find_what_is_ready() {
    let Some(world) = stack(
        "name: h
services:
  tcp:
    image: BUSYBOX
    command: [sh, -c, 'sleep 0.2; exec httpd -f -p 127.0.0.1:7000']
    healthcheck: {x-probe: {tcp: 7000}}
  http:
    image: BUSYBOX
    command: [sh, -c, 'mkdir /w; echo ok > /w/ready; exec httpd -f -p 8080 -h /w']
    healthcheck: {x-probe: {http: 'localhost:8080/ready'}}
  file:
    image: BUSYBOX
    command: [sh, -c, 'ln -s /var /link; sleep 0.2; touch /var/ready; sleep 1000']
    healthcheck: {x-probe: {file: /link/ready}}
  log:
    image: BUSYBOX
    command: [sh, -c, 'sleep 0.2; echo it is ready now; sleep 1000']
    healthcheck: {x-probe: {log: is ready}}
  unix:
    image: PYTHON
    command: [python3, -c, \"import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('/tmp/s'); s.listen(); time.sleep(1000)\"]
    healthcheck: {x-probe: {unix: /tmp/s}}
  missing:
    image: BUSYBOX
    command: [sh, -c, 'mkdir /w; httpd -p 8080 -h /w; sleep 1000']
    healthcheck: {x-probe: {http: '8080/nothing'}, interval: 100ms, retries: 2}
",
    ) else {
        return;
    };
    world
        .run(&[
            "up", "-d", "--wait", "-t", "1", "tcp", "http", "file", "log", "unix",
        ])
        .ok();
    world.run(&["up", "-d", "missing"]).ok();
    wait_for("the verdict", || {
        out(&world, &["ps"]).contains("(unhealthy)").then_some(())
    });
    let why = out(&world, &["why", "missing"]);
    assert!(why.contains("http://127.0.0.1:8080/nothing"), "{why}");
    world.run(&["stop", "-t", "0"]).ok();
    down(&world);
}

#[test]
fn how_the_last_probes_went_is_kept_and_told() {
    let Some(world) = stack(
        "name: k
services:
  says:
    image: BUSYBOX
    command: [sh, -c, 'exec sleep 1000']
    # What it leaves behind prints for ever; its own output is longer than what is kept.
    healthcheck:
      test: 'yes left & i=0; while [ $$i -lt 1000 ]; do echo line $$i; i=$$((i+1)); done; echo no luck >&2; exit 3'
      interval: 100ms
      retries: 2
  late:
    image: BUSYBOX
    command: [sh, -c, 'exec sleep 1000']
    healthcheck: {test: 'echo so far; sleep 1000', interval: 100ms, timeout: 200ms, retries: 1}
  lacks:
    image: BUSYBOX
    command: [sh, -c, 'exec sleep 1000']
    healthcheck: {test: [CMD, curl, localhost], interval: 100ms, retries: 1}
  port:
    image: BUSYBOX
    command: [sh, -c, 'exec sleep 1000']
    healthcheck: {x-probe: {tcp: 7000}, interval: 100ms, retries: 1}
  well:
    image: BUSYBOX
    command: [sh, -c, 'exec sleep 1000']
    healthcheck: {test: echo fine, interval: 50ms}
  after:
    image: BUSYBOX
    depends_on: {lacks: {condition: service_healthy}}
",
    ) else {
        return;
    };
    let up = world.run(&["up", "-d"]);
    assert_eq!(up.code, 1, "{}", up.stderr);
    let cause = "dependency failed to start: container k-lacks-1 is unhealthy\n  \
                 its health check: exec curl: executable file not found in $PATH\n";
    assert!(up.stderr.contains(cause), "{}", up.stderr);

    let health = |service: &str| -> serde_json::Value {
        let name = format!("k-{service}-1");
        let all: serde_json::Value =
            serde_json::from_str(&out(&world, &["container", "inspect", &name])).expect("JSON");
        all[0]["State"]["Health"].clone()
    };
    let unhealthy = |service: &str| {
        wait_for("the verdict", || {
            let health = health(service);
            (health["Status"] == "unhealthy").then_some(health)
        })
    };
    let said = unhealthy("says");
    let log = said["Log"].as_array().expect("probes");
    assert!(
        said["FailingStreak"].as_u64() >= Some(2) && (2..=5).contains(&log.len()),
        "{said}"
    );
    for probe in log {
        let output = probe["Output"].as_str().unwrap_or_default();
        assert_eq!(
            (&probe["ExitCode"], output.len()),
            (&3.into(), 4096 + 3),
            "{probe}"
        );
        assert!(probe["Start"].as_str() < probe["End"].as_str(), "{probe}");
    }
    let late = &unhealthy("late")["Log"][0];
    assert_eq!(late["ExitCode"], -1, "{late}");
    assert_eq!(late["Output"], "Health check exceeded timeout (200ms): so far\n");
    let port = &unhealthy("port")["Log"][0];
    assert_eq!(port["Output"], "tcp 127.0.0.1:7000: connection refused");
    let why = out(&world, &["why", "port"]);
    assert!(
        why.contains("the last time: tcp 127.0.0.1:7000: connection refused"),
        "{why}"
    );
    let five = wait_for("five probes", || {
        let health = health("well");
        (health["Log"].as_array().map(Vec::len) == Some(5)).then_some(health)
    });
    assert_eq!(
        (&five["Status"], &five["FailingStreak"]),
        (&"healthy".into(), &0.into())
    );
    assert_eq!(five["Log"][4]["Output"], "fine\n");
    world.run(&["stop", "-t", "0"]).ok();
    down(&world);
}

#[test]
fn wrong_probes_are_refused_where_they_are_written() {
    let Some(world) = stack(
        "name: w
services:
  a: {image: BUSYBOX, healthcheck: {x-probe: {tcp: 99999}}}
  b: {image: BUSYBOX, healthcheck: {x-probe: {ftp: 21}}}
  c: {image: BUSYBOX, healthcheck: {x-probe: {file: relative}}}
  d: {image: BUSYBOX, healthcheck: {test: 'true', x-restart: true}}
",
    ) else {
        return;
    };
    let refused = world.run(&["up", "-d"]);
    assert_eq!(refused.code, 1);
    for said in [
        "compose.yaml:3:",
        "tcp: 99999",
        "compose.yaml:4:",
        "ftp: 21",
        "file: relative",
        "compose.yaml:6:",
    ] {
        assert!(refused.stderr.contains(said), "{said} in {}", refused.stderr);
    }
}

#[test]
fn an_unhealthy_container_is_started_again_and_one_that_keeps_ending_is_told_of() {
    let Some(world) = stack(
        "name: u
services:
  sick:
    image: BUSYBOX
    command: [sh, -c, 'echo run >> /runs; touch /ready; exec sleep 1000']
    stop_signal: SIGKILL
    restart: on-failure
    healthcheck: {x-probe: {file: /ready}, x-restart: true, interval: 100ms, retries: 1}
  fails:
    image: BUSYBOX
    command: [sh, -c, 'exit 4']
    deploy: {restart_policy: {condition: any, delay: 50ms, max_attempts: 5}}
",
    ) else {
        return;
    };
    let mut up = Foreground::start(&mut world.rcompose(&["up"]));
    up.wait_for("it keeps ending: 4 restarts so far, the next in 0.1 s");
    wait_for("the last attempt", || {
        out(&world, &["ps", "-a", "--status", "exited"])
            .contains("Exited (4)")
            .then_some(())
    });
    world.run(&["exec", "sick", "rm", "/ready"]).ok();
    wait_for("the second run", || {
        let runs = world.run(&["exec", "sick", "cat", "/runs"]);
        (runs.code == 0 && runs.stdout == "run\nrun\n").then_some(())
    });
    up.signal(rustix::process::Signal::INT);
    assert_eq!(up.end(), 130);
    down(&world);
}

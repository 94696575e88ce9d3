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

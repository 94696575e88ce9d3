//! What changes under a running container.

use super::support::stack::{Role, kill};
use super::support::{World, wait_for};
use super::{down, out, stack, write};

fn file(ports: &str, hosts: &str, aliases: &str) -> String {
    format!(
        "name: ip
services:
  web:
    image: BUSYBOX
    command: [sh, -c, 'mkdir /w; echo hello > /w/index.html; exec httpd -f -p 80 -h /w']
    stop_signal: SIGKILL
    ports: {ports}
    extra_hosts: {hosts}
    networks: {{front: {{aliases: {aliases}}}}}
  other:
    image: BUSYBOX
    command: SERVE
    networks: [front]
networks: {{front: {{}}}}
"
    )
}

fn reaches(world: &World, port: u16) -> bool {
    world.get(&format!("http://127.0.0.1:{port}/")).stdout == "hello\n"
}

#[test]
fn ports_names_and_static_hosts_change_without_a_new_container() {
    let Some(world) = stack(&file(
        "['18301:80', '127.0.0.1:18302:80']",
        "{one: 10.9.9.1}",
        "[a]",
    )) else {
        return;
    };
    world.run(&["up", "-d"]).ok();
    wait_for("the server", || reaches(&world, 18301).then_some(()));
    let id = world.id_of("ip-web-1");
    write(
        &world,
        &file("['127.0.0.1:18302:80', '18303:80']", "{two: 10.9.9.2}", "[b]"),
    );
    let plan = out(&world, &["--dry-run", "up", "-d"]);
    assert!(
        plan.contains("1 to update") && plan.contains("0 to replace"),
        "{plan}"
    );
    let up = world.run(&["up", "-d"]).ok();
    assert!(up.stderr.contains("Updated in place"), "{}", up.stderr);
    assert_eq!(world.id_of("ip-web-1"), id);
    assert!(reaches(&world, 18302) && reaches(&world, 18303));
    let refused = world.get("http://127.0.0.1:18301/");
    assert!(
        refused.stderr.contains("refused") || refused.stderr.contains("connect"),
        "{}",
        refused.stderr
    );
    assert_eq!(out(&world, &["port", "web", "80"]), "127.0.0.1:18302\n");
    let hosts = out(&world, &["exec", "web", "cat", "/etc/hosts"]);
    assert!(
        hosts.contains("10.9.9.2\ttwo") && !hosts.contains("one"),
        "{hosts}"
    );
    let asked = |name: &str| world.run(&["exec", "other", "nslookup", name]).code;
    assert_eq!((asked("b"), asked("a")), (0, 1));
    assert!(out(&world, &["--dry-run", "up", "-d"]).contains("nothing to do"));

    // A supervisor that takes over serves them as they are now.
    for pid in world.of_role(Role::Supervisor) {
        assert!(kill(pid));
    }
    wait_for("the next supervisor", || reaches(&world, 18303).then_some(()));
    assert!(reaches(&world, 18302) && !reaches(&world, 18301));
    down(&world);
}

#[test]
fn an_update_that_starts_first_refuses_nobody() {
    let stack_of = |word: &str| {
        format!(
            "name: zd
services:
  web:
    image: BUSYBOX
    command: [sh, -c, 'mkdir /w; echo hello > /w/index.html; exec httpd -f -p 80 -h /w; {word}']
    stop_signal: SIGTERM
    stop_grace_period: 200ms
    ports: ['18311:80']
    healthcheck: {{x-probe: {{http: 80/}}}}
    deploy: {{update_config: {{order: start-first}}}}
"
        )
    };
    let Some(world) = stack(&stack_of("old")) else {
        return;
    };
    world.run(&["up", "-d", "--wait"]).ok();
    write(&world, &stack_of("new"));
    let mut up = world.rcompose(&["up", "-d"]).spawn().unwrap();
    let mut asked = 0;
    while up.try_wait().unwrap().is_none() {
        let answer = world.get("http://127.0.0.1:18311/");
        assert_eq!(answer.stdout, "hello\n", "request {asked}: {}", answer.stderr);
        asked += 1;
    }
    assert!(up.wait().unwrap().success() && asked > 2, "{asked} requests");
    assert!(reaches(&world, 18311));
    let ps = world.ps();
    assert_eq!((ps.len(), ps[0]["Name"].as_str()), (1, Some("zd-web-2")));
    assert_eq!(out(&world, &["port", "web", "80"]), "0.0.0.0:18311\n");
    down(&world);
}

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

/// A server and somebody on each of its networks. `web` is what differs.
fn networked(web: &str, networks: &str) -> String {
    format!(
        "name: nw
services:
  web:
    image: BUSYBOX
    command: [sh, -c, 'mkdir /w; echo hello > /w/index.html; exec httpd -f -p 80 -h /w']
    stop_signal: SIGKILL
    ports: ['127.0.0.1:18331:80']
    {web}
  a: {{image: BUSYBOX, command: SERVE, networks: [front]}}
  b: {{image: BUSYBOX, command: SERVE, networks: [back]}}
networks: {{{networks}}}
"
    )
}

const TWO: &str = "front: {}, back: {}";

/// Whether a service reaches the server under this name.
fn finds(world: &World, from: &str, name: &str) -> bool {
    let url = format!("http://{name}/");
    world.run(&["exec", "-T", from, "wget", "-qO-", &url]).stdout == "hello\n"
}

/// What a command prints in the server.
fn inside(world: &World, command: &[&str]) -> String {
    out(world, &[&["exec", "-T", "web"], command].concat())
}

/// The interface of the default route.
fn default_route(world: &World) -> String {
    let routes = inside(world, &["ip", "route"]);
    let mut defaults = routes.lines().filter(|line| line.starts_with("default"));
    let first = defaults.next().unwrap_or_default().to_owned();
    assert_eq!(defaults.next(), None, "{routes}");
    first.split_whitespace().last().unwrap_or_default().to_owned()
}

/// Brings the stack to what is written, in place.
fn update(world: &World) -> String {
    let up = world.run(&["up", "-d"]).ok();
    assert!(up.stderr.contains("Updated in place"), "{}", up.stderr);
    assert!(!up.stderr.contains("Started"), "{}", up.stderr);
    let again = out(world, &["--dry-run", "up", "-d"]);
    assert!(again.contains("nothing to do"), "{again}");
    up.stderr
}

#[test]
fn networks_are_joined_and_left_without_a_new_container() {
    let Some(world) = stack(&networked("networks: [front]", TWO)) else {
        return;
    };
    world.run(&["up", "-d"]).ok();
    wait_for("the server", || reaches(&world, 18331).then_some(()));
    assert!(finds(&world, "a", "web") && !finds(&world, "b", "web"));
    let (id, pid) = (world.id_of("nw-web-1"), inside(&world, &["cat", "/proc/1/stat"]));
    assert_eq!(default_route(&world), "eth0");

    let both = "networks: {front: {}, back: {aliases: [site], gw_priority: 5}}";
    write(&world, &networked(both, TWO));
    let plan = out(&world, &["--dry-run", "up", "-d"]);
    assert!(
        plan.contains("in place") && plan.contains("compose.yaml:8:"),
        "{plan}"
    );
    update(&world);
    assert!(finds(&world, "a", "web") && finds(&world, "b", "web") && finds(&world, "b", "site"));
    assert!(reaches(&world, 18331));
    assert_eq!(default_route(&world), "eth1");
    // Its own name has an address on each, and it sees who is there.
    let hosts = inside(&world, &["cat", "/etc/hosts"]);
    assert_eq!(
        hosts.lines().filter(|line| line.contains(&id[..12])).count(),
        2,
        "{hosts}"
    );
    assert!(inside(&world, &["nslookup", "b"]).contains("Address"));

    // Which way is the default, and back.
    let front = "networks: {front: {gw_priority: 9}, back: {aliases: [site], gw_priority: 5}}";
    write(&world, &networked(front, TWO));
    update(&world);
    assert_eq!(default_route(&world), "eth0");

    // Away from where its port was led to.
    write(&world, &networked("networks: {back: {}}", TWO));
    update(&world);
    assert_eq!(default_route(&world), "eth1");
    assert!(!finds(&world, "a", "web") && finds(&world, "b", "web") && !finds(&world, "b", "site"));
    assert!(reaches(&world, 18331));
    let links = inside(&world, &["ip", "-o", "link"]);
    assert!(links.contains("eth1") && !links.contains("eth0"), "{links}");
    assert_eq!(world.run(&["exec", "-T", "web", "nslookup", "a"]).code, 1);
    let hosts = inside(&world, &["cat", "/etc/hosts"]);
    assert_eq!(
        hosts.lines().filter(|line| line.contains(&id[..12])).count(),
        1,
        "{hosts}"
    );

    // To one that is made for it.
    let three = "front: {}, back: {}, third: {internal: true}";
    write(&world, &networked("networks: [back, third]", three));
    update(&world);
    assert!(inside(&world, &["ip", "-o", "link"]).contains("eth0"));

    // A supervisor that takes over leaves all as it is.
    for pid in world.of_role(Role::Supervisor) {
        assert!(kill(pid));
    }
    wait_for("the next supervisor", || finds(&world, "b", "web").then_some(()));
    assert!(reaches(&world, 18331));
    assert_eq!(world.id_of("nw-web-1"), id);
    assert_eq!(
        inside(&world, &["cat", "/proc/1/stat"]).split(' ').nth(21),
        pid.split(' ').nth(21)
    );
    down(&world);
}

#[test]
fn a_supervisor_that_is_killed_while_networks_change_loses_none() {
    let Some(world) = stack(&networked("networks: [front]", TWO)) else {
        return;
    };
    world.run(&["up", "-d"]).ok();
    wait_for("the server", || reaches(&world, 18331).then_some(()));
    let id = world.id_of("nw-web-1");
    let choices = ["networks: [front]", "networks: [front, back]", "networks: [back]"];
    for round in 0..12_u64 {
        let wanted = choices[usize::try_from(round % 3).unwrap()];
        write(&world, &networked(wanted, TWO));
        let mut up = world.rcompose(&["up", "-d"]).spawn().unwrap();
        let begun = std::time::Instant::now();
        let moment = std::time::Duration::from_millis(round * 11 % 90);
        while begun.elapsed() < moment && up.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        for pid in world.of_role(Role::Supervisor) {
            kill(pid);
        }
        up.wait().unwrap();
        world.run(&["up", "-d"]).ok();
        assert_eq!(world.id_of("nw-web-1"), id, "round {round}");
        assert!(out(&world, &["--dry-run", "up", "-d"]).contains("nothing to do"));
        let on = |key: &str| wanted.contains(key);
        assert_eq!(finds(&world, "a", "web"), on("front"), "round {round}");
        assert_eq!(finds(&world, "b", "web"), on("back"), "round {round}");
        let links = inside(&world, &["ip", "-o", "link"]);
        let interfaces = links.lines().filter(|line| line.contains(": eth")).count();
        let wanted = usize::from(on("front")) + usize::from(on("back"));
        assert_eq!(interfaces, wanted, "round {round}: {links}");
        assert!(reaches(&world, 18331), "round {round}");
    }
    // No address is still given to somebody who has left.
    down(&world);
    world.assert_nothing_left();
}

#[test]
fn limits_of_processes_change_where_they_run() {
    let file = |more: &str| {
        format!(
            "name: li
services:
  web:
    image: BUSYBOX
    command: SERVE
    {more}
"
        )
    };
    let first = "ulimits: {nofile: {soft: 100, hard: 200}}";
    let Some(world) = stack(&file(first)) else { return };
    world.run(&["up", "-d"]).ok();
    let id = world.id_of("li-web-1");
    let limit = |of: &str| {
        let limits = inside(&world, &["cat", of]);
        let line = limits.lines().find(|line| line.starts_with("Max open files"));
        line.unwrap_or_default()
            .split_whitespace()
            .skip(3)
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(limit("/proc/1/limits"), "100 200");
    let rest = "oom_score_adj: 77\n    cpuset: '0'\n    pids_limit: 50";
    let with = |ulimits: &str| write(&world, &file(&format!("ulimits: {ulimits}\n    {rest}")));
    with("{nofile: {soft: 150, hard: 180}}");
    update(&world);
    assert_eq!(limit("/proc/1/limits"), "150 180");
    // What is executed in it, too.
    assert_eq!(limit("/proc/self/limits"), "150 180");
    assert_eq!(inside(&world, &["cat", "/proc/1/oom_score_adj"]), "77\n");
    assert_eq!(inside(&world, &["cat", "/proc/self/oom_score_adj"]), "77\n");
    with("{nofile: 50}");
    update(&world);
    assert_eq!(limit("/proc/1/limits"), "50 50");
    // Above what there was needs a right that not every machine gives; then it
    // needs a new container.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .unwrap();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
    with("{nofile: 500}");
    if effective & (1 << 24) != 0 {
        update(&world);
        assert_eq!(world.id_of("li-web-1"), id);
        // What the kernel gives nobody: then nothing has changed.
        with("{nofile: 2000000000}");
        let refused = world.run(&["up", "-d"]);
        assert!(
            refused.code != 0 && refused.stderr.contains("nofile"),
            "{}",
            refused.stderr
        );
    } else {
        world.run(&["up", "-d"]).ok();
        assert_ne!(world.id_of("li-web-1"), id);
    }
    assert_eq!(limit("/proc/1/limits"), "500 500");
    down(&world);
}

#[test]
fn a_log_goes_on_by_another_plan() {
    let file = |logging: &str| {
        format!(
            "name: lo
services:
  web:
    image: BUSYBOX
    command: [sh, -c, 'mkfifo /tmp/go; i=0; while :; do read line < /tmp/go; i=$$((i+1)); seq $$((i*1000)) $$((i*1000+199)); echo $$i > /tmp/done; done']
    stop_signal: SIGKILL
    {logging}
"
        )
    };
    let Some(world) = stack(&file("")) else { return };
    let printed = || {
        let logs = out(&world, &["logs", "--no-log-prefix", "web"]);
        let is_number = |line: &&str| line.parse::<u32>().is_ok();
        logs.lines()
            .filter(is_number)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    world.run(&["up", "-d"]).ok();
    let id = world.id_of("lo-web-1");
    wait_for("its pipe", || {
        let there = world.run(&["exec", "-T", "web", "test", "-p", "/tmp/go"]);
        (there.code == 0).then_some(())
    });
    let say = |last: &str| {
        inside(&world, &["sh", "-c", "echo > /tmp/go"]);
        wait_for("what it prints", || {
            printed().iter().any(|line| line == last).then_some(())
        });
    };
    say("1199");
    write(
        &world,
        &file("logging: {driver: json-file, options: {max-size: 3k, max-file: '30'}}"),
    );
    update(&world);
    say("2199");
    let containers = std::fs::read_dir(world.state().join("stacks/lo/containers")).unwrap();
    let folder = containers.flatten().next().unwrap().path();
    let log = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    assert!(log("log").starts_with("{\"log\":"), "{}", log("log"));
    assert!(!log("log.1").is_empty());
    // Both are one log.
    assert_eq!(printed().len(), 400);
    // A server that is not there is refused, and nothing has changed.
    write(
        &world,
        &file("logging: {driver: syslog, options: {syslog-address: 'tcp://127.0.0.1:9'}}"),
    );
    let refused = world.run(&["up", "-d"]);
    assert!(refused.code != 0, "{}", refused.stderr);
    say("3199");
    assert!(log("log").starts_with("{\"log\":"));
    write(&world, &file("logging: {driver: none}"));
    update(&world);
    inside(&world, &["sh", "-c", "echo > /tmp/go"]);
    wait_for("the end of what nobody keeps", || {
        (inside(&world, &["cat", "/tmp/done"]) == "4\n").then_some(())
    });
    write(&world, &file(""));
    update(&world);
    say("5199");
    assert_eq!(printed().len(), 800);
    assert_eq!(world.id_of("lo-web-1"), id);
    down(&world);
}

#[test]
fn ports_of_udp_change_and_late_ones_outlive_the_supervisor() {
    let file = |ports: &str| {
        format!(
            "name: up
services:
  web:
    image: PYTHON
    healthcheck: {{disable: true}}
    command:
      - python3
      - -c
      - |
        import socket, threading
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(('', 5353))
        tcp = socket.create_server(('', 5353))
        def greet():
            while True:
                tcp.accept()[0].sendall(b'hello')
        threading.Thread(target=greet, daemon=True).start()
        while True:
            said, who = udp.recvfrom(100)
            udp.sendto(said, who)
    stop_signal: SIGKILL
    ports: {ports}
"
        )
    };
    let Some(world) = stack(&file("['18341:5353/udp']")) else {
        return;
    };
    let ask = |port: u16| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let patience = std::time::Duration::from_millis(300);
        socket.set_read_timeout(Some(patience)).unwrap();
        let mut answer = [0; 4];
        socket.send_to(b"ping", ("127.0.0.1", port)).unwrap();
        socket.recv(&mut answer).is_ok() && answer == *b"ping"
    };
    let answers = |port: u16| world.within(|| ask(port));
    let is_free = |port: u16| world.within(|| std::net::UdpSocket::bind(("0.0.0.0", port)).is_ok());
    world.run(&["up", "-d"]).ok();
    let id = world.id_of("up-web-1");
    wait_for("the server", || answers(18341).then_some(()));
    write(&world, &file("['18342:5353/udp', '18343:5353']"));
    update(&world);
    wait_for("the new port", || answers(18342).then_some(()));
    // The old one is given up by all, and by the monitor too.
    assert!(is_free(18341) && !is_free(18342));
    for _ in 0..3 {
        for pid in world.of_role(Role::Supervisor) {
            assert!(kill(pid));
        }
        // Whoever comes meanwhile waits, and is not refused.
        let said = world.within(|| {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:18343").unwrap();
            let mut said = [0; 5];
            std::io::Read::read_exact(&mut stream, &mut said).unwrap();
            said
        });
        assert_eq!(&said, b"hello");
        wait_for("datagrams", || answers(18342).then_some(()));
    }
    assert_eq!(world.id_of("up-web-1"), id);
    // Once more after that: what a new supervisor has taken over is given up as well.
    write(&world, &file("['18341:5353/udp']"));
    update(&world);
    wait_for("the first port", || answers(18341).then_some(()));
    assert!(is_free(18342));
    assert!(world.within(|| std::net::TcpStream::connect("127.0.0.1:18343").is_err()));
    down(&world);
}

#[test]
fn a_resolver_changes_without_a_new_container() {
    let file = |dns: &str| {
        format!(
            "name: re
services:
  web: {{image: BUSYBOX, command: SERVE{dns}}}
  other: {{image: BUSYBOX, command: SERVE}}
"
        )
    };
    let Some(world) = stack(&file("")) else { return };
    world.run(&["up", "-d"]).ok();
    let id = world.id_of("re-web-1");
    write(
        &world,
        &file(", dns: [127.0.0.1], dns_search: [example.org], dns_opt: ['ndots:2'], links: ['other:friend']"),
    );
    update(&world);
    let resolver = inside(&world, &["cat", "/etc/resolv.conf"]);
    assert!(
        resolver.contains("search example.org") && resolver.contains("ndots:2"),
        "{resolver}"
    );
    // Ours are answered all the same, by the new links too.
    assert!(inside(&world, &["nslookup", "other."]).contains("Address"));
    assert!(inside(&world, &["nslookup", "friend."]).contains("Address"));
    write(&world, &file(""));
    update(&world);
    assert_eq!(world.run(&["exec", "-T", "web", "nslookup", "friend."]).code, 1);
    assert_eq!(world.id_of("re-web-1"), id);
    down(&world);
}

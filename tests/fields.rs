//! What single fields of a service do, seen from inside its containers.
// Clippy takes only functions marked as tests for tests.
#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

#[path = "fields/elsewhere.rs"]
mod elsewhere;
#[path = "fields/foreign.rs"]
mod foreign;
#[path = "fields/networks.rs"]
mod networks;
#[path = "fields/others.rs"]
mod others;
mod support;
#[path = "fields/volumes.rs"]
mod volumes;

use std::fs;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use support::stack::{Foreground, Role};
use support::{World, wait_for};

/// A program that serves until SIGTERM.
const SERVE: &str = "[sh, -c, \"trap 'exit 0' TERM; while :; do sleep 1 & wait; done\"]";

/// Writes the stack file, with the image's reference for `BUSYBOX` and a
/// program that serves for `SERVE`.
pub(crate) fn write(world: &World, file: &str) {
    let file = file.replace("BUSYBOX", &world.busybox()).replace("SERVE", SERVE);
    world.write("compose.yaml", file);
}

/// What a command inside a service's container prints, without the line's end.
#[track_caller]
pub(crate) fn inside(world: &World, service: &str, line: &str) -> String {
    let output = world.run(&["exec", "-T", service, "sh", "-c", line]).ok();
    output.stdout.trim_end().to_owned()
}

#[track_caller]
pub(crate) fn down(world: &World) {
    world.run(&["down", "-v", "-t", "2"]).ok();
    world.assert_nothing_left();
}

/// What `up` says that must fail.
#[track_caller]
pub(crate) fn refused(world: &World, fields: &str) -> String {
    write(
        world,
        &format!("name: no\nservices:\n  web:\n    image: BUSYBOX\n    command: SERVE\n{fields}"),
    );
    let output = world.run(&["up", "-d"]);
    assert_ne!(output.code, 0, "{fields}: {}", output.stderr);
    // Some things are found wrong only when the container is started.
    world.run(&["-p", "no", "down", "-t", "1"]);
    output.stderr
}

/// A resolver on an address of the world's side: knows one address for every
/// name, and tells what it is asked for.
fn resolver(world: &World, address: &str) -> mpsc::Receiver<Vec<u8>> {
    let supervisor = world.of_role(Role::Supervisor)[0];
    let namespace = fs::File::open(format!("/proc/{supervisor}/ns/net")).unwrap();
    let (sender, asked) = mpsc::channel();
    let (ready, bound) = mpsc::channel();
    let address = format!("{address}:53");
    std::thread::spawn(move || {
        rustix::thread::move_into_link_name_space(
            namespace.as_fd(),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )
        .unwrap();
        let socket = UdpSocket::bind(address).unwrap();
        ready.send(()).unwrap();
        let mut packet = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut packet) {
            let mut answer = packet[..length].to_vec();
            // A response without additional records; an address for type A.
            let end = 12 + answer[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
            let known = answer[end - 4..end - 2] == [0, 1];
            answer.truncate(end);
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            answer[6..12].copy_from_slice(&[0, u8::from(known), 0, 0, 0, 0]);
            if known {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, 77]);
            }
            let _ = socket.send_to(&answer, client);
            if sender.send(packet[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    bound.recv().unwrap();
    asked
}

#[test]
fn resolvers_names_and_hosts_are_as_written() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: dns
services:
  web:
    image: BUSYBOX
    command: SERVE
    dns: [127.0.0.9]
    dns_search: [shop.example, example.org]
    dns_opt: [\"ndots:2\", \"timeout:1\"]
    extra_hosts: [\"gate=host-gateway\", \"fixed=192.0.2.7\"]
    links: [\"db:database\"]
  plain:
    image: BUSYBOX
    command: SERVE
    dns_search: .
  db:
    image: BUSYBOX
    command: SERVE
  side:
    image: BUSYBOX
    command: [sh, -c, \"trap 'exit 0' TERM; while :; do sleep 1 & wait; done\"]
    network_mode: service:db
    extra_hosts: [\"fixed=192.0.2.9\"]
  lone:
    image: BUSYBOX
    command: SERVE
    network_mode: host
    dns: 192.0.2.53
    extra_hosts: [\"fixed=192.0.2.8\"]
networks:
  default: {ipam: {config: [{subnet: 10.87.3.0/24}]}}
",
    );
    let up = world.run(&["up", "-d"]).ok().stderr;
    assert!(
        up.find("dns-db-1  Started") < up.find("dns-web-1  Starting"),
        "links order starts:\n{up}"
    );
    let conf = inside(&world, "web", "cat /etc/resolv.conf");
    assert_eq!(
        conf,
        "nameserver 127.0.0.11\nsearch shop.example example.org\noptions ndots:2 timeout:1"
    );
    let conf = inside(&world, "plain", "cat /etc/resolv.conf");
    assert!(!conf.contains("search"), "{conf}");
    assert_eq!(
        inside(&world, "lone", "grep nameserver /etc/resolv.conf"),
        "nameserver 192.0.2.53"
    );
    assert_eq!(inside(&world, "lone", "grep -c fixed /etc/hosts"), "1");
    // On the network of another service it has that one's name, and its hosts.
    let names = "hostname; cat /etc/hostname; grep $(hostname) /etc/hosts";
    assert_eq!(inside(&world, "side", names), inside(&world, "db", names));
    assert_eq!(inside(&world, "side", "grep -c fixed /etc/hosts"), "1");
    // On the host's network it has the host's name.
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(
        inside(&world, "lone", "hostname; cat /etc/hostname; echo $HOSTNAME"),
        [machine.trim(); 3].join("\n")
    );
    assert_eq!(
        inside(&world, "web", "awk '/gate/ {print $1}' /etc/hosts"),
        "10.87.3.1"
    );
    // A link is a name for this container alone.
    let address = inside(
        &world,
        "web",
        "nslookup database. | awk '/^Address/ {a = $NF} END {print a}'",
    );
    let own = inside(&world, "db", "hostname -i");
    assert_eq!(address, own);
    let other = world.run(&["exec", "-T", "plain", "nslookup", "database."]);
    assert!(!other.stdout.contains(&own), "{}", other.stdout);
    // A question for another name goes to the resolver that was written.
    let asked = resolver(&world, "127.0.0.9");
    let found = inside(
        &world,
        "web",
        "nslookup far.example.net. | awk '/^Address/ {a = $NF} END {print a}'",
    );
    assert_eq!(found, "192.0.2.77");
    let packet = asked.recv().unwrap();
    assert!(packet.windows(4).any(|bytes| bytes == b"\x03far"), "{packet:?}");
    down(&world);
    let said = refused(
        &world,
        "    network_mode: service:db\n    dns: 192.0.2.1\n  db: {image: BUSYBOX, command: SERVE}\n",
    );
    assert!(
        said.contains("services.web.dns") && said.contains("network it shares"),
        "{said}"
    );
}

#[test]
fn devices_are_given_by_path_and_by_rule() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: dev
services:
  web:
    image: BUSYBOX
    command: SERVE
    devices: [\"/dev/null:/dev/nothing:r\", \"/dev/net:/dev/network\"]
    device_cgroup_rules: [\"c 10:229 rwm\"]
    cap_add: [MKNOD]
  plain: {image: BUSYBOX, command: SERVE, cap_add: [MKNOD]}
",
    );
    world.run(&["up", "-d"]).ok();
    assert_eq!(
        inside(&world, "web", "test -c /dev/nothing && wc -c < /dev/nothing"),
        "0"
    );
    let number = |service: &str| {
        inside(
            &world,
            service,
            "stat -c %t:%T /dev/network/tun 2>/dev/null || echo none",
        )
    };
    assert_eq!(
        (number("web").as_str(), number("plain").as_str()),
        ("a:c8", "none")
    );
    // /dev/fuse, where the machine has it: opening asks the controller.
    if Path::new("/dev/fuse").exists() {
        let open = |service: &str| {
            inside(
                &world,
                service,
                "mknod /fuse c 10 229 2>/dev/null; (: <> /fuse) 2>&1 | grep -o 'not permitted' || echo opens",
            )
        };
        assert_eq!(
            (open("web").as_str(), open("plain").as_str()),
            ("opens", "not permitted")
        );
    }
    down(&world);
    let said = refused(&world, "    devices: [\"/dev/no-such-device\"]\n");
    assert!(said.contains("/dev/no-such-device"), "{said}");
    let said = refused(&world, "    devices: [\"vendor.com/gpu=0\"]\n");
    assert!(
        said.contains("device vendor.com/gpu=0: no specification"),
        "{said}"
    );
}

#[test]
fn namespaces_are_shared_with_the_host_and_between_services() {
    let Some(world) = World::new() else { return };
    let namespace = |kind: &str| {
        fs::read_link(format!("/proc/self/ns/{kind}"))
            .unwrap()
            .display()
            .to_string()
    };
    write(
        &world,
        "name: ns
services:
  host: {image: BUSYBOX, command: SERVE, ipc: host, pid: host, uts: host, cgroup: host}
  giver: {image: BUSYBOX, command: SERVE, ipc: shareable, shm_size: 3m}
  taker: {image: BUSYBOX, command: SERVE, ipc: \"service:giver\", pid: \"service:giver\"}
  bare: {image: BUSYBOX, command: SERVE, ipc: none, uts: private, cgroup: private}
",
    );
    world.run(&["up", "-d"]).ok();
    let seen = |service: &str, kind: &str| inside(&world, service, &format!("readlink /proc/self/ns/{kind}"));
    for kind in ["ipc", "pid", "uts", "cgroup"] {
        assert_eq!(seen("host", kind), namespace(kind), "{kind}");
        assert_ne!(seen("bare", kind), namespace(kind), "{kind}");
        let shared = matches!(kind, "ipc" | "pid");
        assert_eq!(seen("giver", kind) == seen("taker", kind), shared, "{kind}");
    }
    assert_eq!(
        inside(&world, "host", "hostname"),
        fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim()
    );
    // Shared memory goes with the IPC namespace.
    inside(&world, "giver", "echo shared > /dev/shm/file");
    assert_eq!(inside(&world, "taker", "cat /dev/shm/file"), "shared");
    assert_eq!(
        inside(&world, "taker", "df -k /dev/shm | awk 'END {print $2}'"),
        "3072"
    );
    assert_eq!(
        inside(
            &world,
            "bare",
            "test -e /dev/shm/. && grep -c ' /dev/shm ' /proc/mounts || echo none"
        )
        .trim(),
        "none"
    );
    // Another's processes are seen, and go when process 1 of the namespace does.
    let seen: u32 = inside(&world, "taker", "ps | grep -c 'trap.*TERM'")
        .parse()
        .unwrap();
    assert!(seen >= 2, "{seen}");
    world.run(&["kill", "giver"]).ok();
    wait_for("the end of both", || {
        let gone = world.ps().iter().filter(|one| one["State"] == "exited").count();
        (gone == 2).then_some(())
    });
    let said = world.run(&["up", "-d", "--no-deps", "taker"]);
    assert!(said.code != 0 && said.stderr.contains("giver"), "{}", said.stderr);
    down(&world);
    for (fields, expected) in [
        (
            "    pid: \"container:x\"\n",
            "services.web.pid: no such container: x",
        ),
        ("    uts: host\n    hostname: me\n", "hostname"),
        (
            "    ipc: host\n    sysctls: {kernel.shmmax: 1000}\n",
            "kernel.shmmax",
        ),
    ] {
        let said = refused(&world, fields);
        assert!(said.contains(expected), "{fields}: {said}");
    }
}

/// The durable folder of a container.
#[track_caller]
pub(crate) fn folder(world: &World, project: &str, name: &str) -> PathBuf {
    let id = world.id_of(name);
    let all = world.state().join("stacks").join(project).join("containers");
    let found = fs::read_dir(all).unwrap().flatten().map(|entry| entry.path());
    let mut found = found.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&id));
    found.next().unwrap()
}

/// A controller's file of a container's cgroup on version 1 or 2.
fn limit(world: &World, id: &str, below: &str, names: [(&str, &str); 2]) -> Option<String> {
    let path = format!("{below}rcompose-{}/{id}", world.id());
    let [(controller, v1), (_, v2)] = names;
    [
        format!("/sys/fs/cgroup/{controller}/{path}/{v1}"),
        format!("/sys/fs/cgroup/{path}/{v2}"),
    ]
    .iter()
    .find_map(|file| fs::read_to_string(file).ok())
    .map(|text| text.trim().to_owned())
}

#[test]
fn limits_and_scores_reach_the_kernel() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: lim
services:
  web:
    image: BUSYBOX
    command: SERVE
    oom_score_adj: 321
    cpu_period: 50000
    cpu_quota: 20000
    mem_swappiness: 7
    mem_limit: 64m
    cgroup_parent: /rcompose-fields-test/inner
    annotations: {org.example.note: kept}
",
    );
    world.run(&["up", "-d"]).ok();
    assert_eq!(inside(&world, "web", "cat /proc/1/oom_score_adj"), "321");
    let full = folder(&world, "lim", "lim-web-1");
    let full = full.file_name().unwrap().to_str().unwrap();
    let parent = "rcompose-fields-test/inner/";
    if let Some(quota) = limit(
        &world,
        full,
        parent,
        [("cpu", "cpu.cfs_quota_us"), ("", "cpu.max")],
    ) {
        assert!(matches!(quota.as_str(), "20000" | "20000 50000"), "{quota}");
    } else {
        println!("skipped: no cpu controller");
    }
    if let Some(value) = limit(
        &world,
        full,
        parent,
        [("memory", "memory.swappiness"), ("", "none")],
    ) {
        assert_eq!(value, "7");
    }
    down(&world);
    // The parent is the user's: it is left, empty.
    for root in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        for path in ["rcompose-fields-test/inner", "rcompose-fields-test"] {
            let _ = fs::remove_dir(root.path().join(path));
            let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(path));
        }
    }
    for (fields, expected) in [
        ("    cgroup_parent: ../up\n", "`..`"),
        ("    cpus: 1\n    cpu_quota: 1000\n", "write one of them"),
        (
            "    blkio_config: {device_read_bps: [{path: /dev/null, rate: 1m}]}\n",
            "not a block device",
        ),
    ] {
        let said = refused(&world, fields);
        assert!(said.contains(expected), "{fields}: {said}");
    }
}

#[test]
fn a_profile_of_system_calls_is_followed_as_docker_writes_it() {
    let Some(world) = World::new() else { return };
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []}],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args": [], "includes": {}, "excludes": {}},
            {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "includes": {"caps": ["CAP_SYS_ADMIN"]}}]}"#;
    world.write("rules/profile.json", profile);
    write(
        &world,
        "name: sec
services:
  web: {image: BUSYBOX, command: SERVE, security_opt: [\"seccomp=rules/profile.json\"]}
  admin: {image: BUSYBOX, command: SERVE, cap_add: [SYS_ADMIN], security_opt: [\"seccomp:./rules/profile.json\"]}
",
    );
    world.run(&["up", "-d"]).ok();
    let tried = |service: &str| {
        inside(
            &world,
            service,
            "mkdir /x 2>/dev/null && echo made || echo not; chmod 700 /etc 2>/dev/null && echo changed || echo not",
        )
    };
    assert_eq!(tried("web"), "not\nchanged");
    assert_eq!(tried("admin"), "not\nnot");
    // What it was made with stays, whatever becomes of the file.
    fs::remove_file(world.work().join("rules/profile.json")).unwrap();
    world.run(&["restart", "-t", "1", "web"]).ok();
    assert_eq!(tried("web"), "not\nchanged");
    down(&world);
    let said = refused(&world, "    security_opt: [\"seccomp=none.json\"]\n");
    assert!(said.contains("none.json"), "{said}");
    world.write("bad.json", "{\"defaultAction\": 1}");
    let said = refused(&world, "    security_opt: [\"seccomp=bad.json\"]\n");
    assert!(said.contains("seccomp profile"), "{said}");
}

#[test]
fn volumes_are_taken_over_from_services() {
    let Some(world) = World::new() else { return };
    fs::create_dir(world.work().join("files")).unwrap();
    write(
        &world,
        "name: vol
services:
  base:
    image: BUSYBOX
    command: SERVE
    volumes: [\"data:/data\", /anonymous, ./files:/files]
  second: {image: BUSYBOX, command: SERVE, volumes_from: [base]}
  third: {image: BUSYBOX, command: SERVE, volumes_from: [\"second:ro\"], volumes: [\"other:/data\"]}
volumes: {data: , other: }
",
    );
    world.run(&["up", "-d"]).ok();
    inside(
        &world,
        "base",
        "echo d > /data/f; echo a > /anonymous/f; echo b > /files/f",
    );
    assert_eq!(
        inside(&world, "second", "cat /data/f /anonymous/f /files/f"),
        "d\na\nb"
    );
    assert_eq!(
        inside(&world, "second", "echo more > /data/g; cat /data/g"),
        "more"
    );
    assert_eq!(
        inside(
            &world,
            "third",
            "cat /anonymous/f; ls /data; (: > /files/x) 2>/dev/null || echo read-only"
        ),
        "a\nread-only"
    );
    assert_eq!(fs::metadata(world.work().join("files/f")).unwrap().size(), 2);
    down(&world);
}

#[test]
fn logs_rotate_without_losing_a_line_and_are_followed() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: log
services:
  many:
    image: BUSYBOX
    command: [sh, -c, \"trap 'exit 0' TERM; while [ ! -e /go ]; do sleep 0.05; done; for i in $$(seq 1 3000); do echo line $$i; done; echo the end; while :; do sleep 1 & wait; done\"]
    logging: {driver: json-file, options: {max-size: 20k, max-file: \"40\"}}
  few:
    image: BUSYBOX
    command: [sh, -c, \"i=0; while [ $$i -lt 2000 ]; do i=$$((i+1)); echo few $$i; done\"]
    logging: {driver: local, options: {max-size: 5k, max-file: 3}}
  quiet:
    image: BUSYBOX
    command: [sh, -c, \"echo secret; exec sleep 1000\"]
    stop_signal: SIGKILL
    logging: {driver: none}
",
    );
    world.run(&["up", "-d"]).ok();
    let mut follow = Foreground::start(&mut world.rcompose(&["logs", "-f", "--no-log-prefix", "many"]));
    // It follows when it has shown what there is; nothing so far.
    inside(&world, "many", "touch /go");
    follow.wait_for("the end");
    let lines: Vec<String> = follow
        .said
        .iter()
        .filter(|line| line.starts_with("line "))
        .cloned()
        .collect();
    let expected: Vec<String> = (1..=3000).map(|number| format!("line {number}")).collect();
    assert_eq!(lines, expected);
    follow.signal(rustix::process::Signal::TERM);
    follow.end();
    // The same for who comes later, and for other tools.
    let all = world.run(&["logs", "--no-log-prefix", "many"]).ok().stdout;
    assert_eq!(all.lines().count(), 3001);
    let tail = world
        .run(&["logs", "--no-log-prefix", "-n", "1000", "many"])
        .ok()
        .stdout;
    assert_eq!(tail.lines().next().unwrap(), "line 2002");
    let many = folder(&world, "log", "log-many-1");
    assert!(many.join("log.5").exists());
    for name in ["log", "log.1", "log.5"] {
        let text = fs::read_to_string(many.join(name)).unwrap();
        assert!(text.len() <= 20_000, "{name}: {}", text.len());
        for line in text.lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(record["stream"], "stdout");
            assert!(record["log"].as_str().unwrap().ends_with('\n'));
            assert!(record["time"].as_str().unwrap().ends_with('Z'));
        }
    }
    // No more is kept than was asked for.
    let few = folder(&world, "log", "log-few-1");
    wait_for("the end of few", || {
        let all = world.run(&["logs", "--no-log-prefix", "few"]).ok().stdout;
        (all.lines().last() == Some("few 2000")).then_some(())
    });
    let mut files: Vec<String> = fs::read_dir(&few)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name.starts_with("log"))
        .collect();
    files.sort();
    assert_eq!(files, ["log", "log.1", "log.2"]);
    let quiet = world.run(&["logs", "quiet"]).ok();
    assert!(
        quiet.stderr.contains("log-quiet-1") && quiet.stderr.contains("none"),
        "{}",
        quiet.stderr
    );
    assert!(!quiet.stdout.contains("secret"));
    down(&world);
    for (fields, expected) in [
        (
            "    logging: {driver: fluentd}\n",
            "json-file, local, none, syslog and journald",
        ),
        (
            "    logging: {driver: json-file, options: {max-size: much}}\n",
            "max-size",
        ),
        (
            "    logging: {options: {labels: a}}\n",
            "services.web.logging.options",
        ),
    ] {
        let said = refused(&world, fields);
        assert!(said.contains(expected), "{fields}: {said}");
    }
}

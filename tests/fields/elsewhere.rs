//! What a container gets from elsewhere: devices of vendors, files of other
//! images, and where its output goes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::{World, down, inside, refused, write};
use crate::support::wait_for;

const NULL: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.example/null
containerEdits:
  env: [VENDOR=example]
devices:
- name: one
  containerEdits:
    env: [DEVICE=one]
    deviceNodes:
    - {path: /dev/vendor/null, type: c, major: 1, minor: 3, fileMode: 0o600, uid: 7, permissions: r}
    - {path: /dev/vendor/zero, hostPath: /dev/zero}
    mounts:
    - {hostPath: LIBRARY, containerPath: /opt/vendor, options: [ro, nosuid]}
    hooks:
    - {hookName: createContainer, path: HOOK, args: [hook, created]}
    - {hookName: poststop, path: HOOK, args: [hook, ended]}
    additionalGids: [4242]
"#;

const GPUS: &str = r#"{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [
    {"name": "0", "containerEdits": {"env": ["GPU0=yes"]}},
    {"name": "1", "containerEdits": {"env": ["GPU1=yes"]}},
    {"name": "all", "containerEdits": {"env": ["GPUS=all"]}}]}"#;

#[test]
fn devices_of_vendors_come_with_all_their_edits() {
    let Some(world) = World::new() else { return };
    let (library, hook, told) = (
        world.work().join("library"),
        world.work().join("hook"),
        world.work().join("told"),
    );
    fs::create_dir_all(world.work().join("cdi")).unwrap();
    fs::create_dir(&library).unwrap();
    fs::write(library.join("lib.so"), "code\n").unwrap();
    let script = format!("#!/bin/sh\necho \"$1 $(cat)\" >> {}\n", told.display());
    fs::write(&hook, script).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let text = NULL
        .replace("LIBRARY", library.to_str().unwrap())
        .replace("HOOK", hook.to_str().unwrap());
    fs::write(world.work().join("cdi/vendor.yaml"), text).unwrap();
    fs::write(world.work().join("cdi/gpus.json"), GPUS).unwrap();
    write(
        &world,
        "name: cdi
services:
  web:
    image: BUSYBOX
    command: SERVE
    devices: [\"vendor.example/null=one\"]
  all:
    image: BUSYBOX
    command: SERVE
    gpus: all
  one:
    image: BUSYBOX
    command: SERVE
    deploy: {resources: {reservations: {devices: [{capabilities: [gpu], count: 1}]}}}
  named:
    image: BUSYBOX
    command: SERVE
    deploy: {resources: {reservations: {devices: [{capabilities: [gpu], driver: cdi, device_ids: [\"nvidia.com/gpu=1\"]}]}}}
",
    );
    world.run(&["up", "-d"]).ok();
    assert_eq!(inside(&world, "web", "echo $VENDOR $DEVICE"), "example one");
    assert_eq!(
        inside(&world, "web", "stat -c '%A %u %t:%T' /dev/vendor/null"),
        "crw------- 7 1:3"
    );
    assert_eq!(
        inside(
            &world,
            "web",
            "head -c 2 /dev/vendor/zero | wc -c; cat /opt/vendor/lib.so"
        ),
        "2\ncode"
    );
    assert_eq!(
        inside(&world, "web", "touch /opt/vendor/x 2>/dev/null || echo no"),
        "no"
    );
    assert!(inside(&world, "web", "id -G").split(' ').any(|gid| gid == "4242"));
    let state = fs::read_to_string(&told).unwrap();
    assert!(state.starts_with("created {"), "{state}");
    assert!(state.contains(&world.id_of("cdi-web-1")), "{state}");
    assert_eq!(inside(&world, "all", "echo $GPUS $GPU0"), "all");
    assert_eq!(inside(&world, "one", "echo $GPUS $GPU0 $GPU1"), "yes");
    assert_eq!(inside(&world, "named", "echo $GPU0 $GPU1"), "yes");
    down(&world);
    wait_for("the hook after the end", || {
        fs::read_to_string(&told)
            .unwrap()
            .contains("\nended {")
            .then_some(())
    });
    let said = refused(&world, "    devices: [\"vendor.example/null=two\"]\n");
    assert!(
        said.contains("device vendor.example/null=two: no specification"),
        "{said}"
    );
    let said = refused(&world, "    gpus: [{driver: amd, count: 1}]\n");
    assert!(said.contains("could not select device driver"), "{said}");
}

#[test]
fn files_of_an_image_are_mounted() {
    let Some(world) = World::new() else { return };
    // An image of several layers, and one of a single layer.
    let tools = format!("oci:{}", crate::support::images().join("redis").display());
    write(
        &world,
        &format!(
            "name: files
services:
  web:
    image: BUSYBOX
    command: SERVE
    volumes:
    - {{type: image, source: '{tools}', target: /opt/redis}}
    - {{type: image, source: BUSYBOX, target: /opt/box}}
    - {{type: image, source: '{tools}', target: /opt/part, image: {{subpath: usr/bin}}}}
"
        ),
    );
    world.run(&["up", "-d"]).ok();
    assert_eq!(
        inside(
            &world,
            "web",
            "test -x /opt/redis/usr/bin/redis-server && echo there"
        ),
        "there"
    );
    assert_eq!(
        inside(
            &world,
            "web",
            "test -d /opt/redis/etc && test -d /opt/box/bin && echo there"
        ),
        "there"
    );
    assert_eq!(
        inside(&world, "web", "test -e /opt/part/redis-server && echo there"),
        "there"
    );
    for place in ["redis", "box", "part"] {
        let line = format!("touch /opt/{place}/x 2>&1 | grep -o 'Read-only'");
        assert_eq!(inside(&world, "web", &line), "Read-only");
    }
    down(&world);
}

#[test]
fn output_goes_to_syslog_and_can_still_be_read() {
    let Some(world) = World::new() else { return };
    let path = world.work().join("syslog");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write(
        &world,
        &format!(
            "name: far
services:
  web:
    image: BUSYBOX
    command: [sh, -c, \"echo out; echo err >&2\"]
    logging:
      driver: syslog
      options: {{syslog-address: 'unixgram://{}', syslog-facility: local1, syslog-format: rfc5424micro, tag: '{{{{.Name}}}}'}}
  attributes:
    image: BUSYBOX
    command: [sh, -c, \"echo out\"]
    environment: {{STAGE: test}}
    labels: {{team: blue}}
    logging: {{driver: json-file, options: {{labels: team, env: 'STAGE,NONE', tag: '{{{{.ImageName}}}}'}}}}
",
            path.display()
        ),
    );
    world.run(&["up", "-d"]).ok();
    let mut lines = Vec::new();
    for _ in 0..2 {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        lines.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
    }
    lines.sort();
    // local1 is 17: 17 * 8 + 3 and + 6.
    assert!(
        lines[0].starts_with("<139>1 ") && lines[0].ends_with(" far-web-1 - err\n"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("<142>1 ") && lines[1].ends_with(" far-web-1 - out\n"),
        "{lines:?}"
    );
    wait_for("the container's end", || {
        let logs = world.run(&["logs", "--no-log-prefix", "web"]).ok().stdout;
        (logs.contains("out") && logs.contains("err")).then_some(())
    });
    let log = wait_for("the record", || {
        let found = super::folder(&world, "far", "far-attributes-1").join("log");
        fs::read_to_string(found).ok().filter(|text| text.contains("out"))
    });
    let record: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(record["attrs"]["team"], "blue");
    assert_eq!(record["attrs"]["STAGE"], "test");
    assert!(
        record["attrs"]["tag"].as_str().unwrap().contains("busybox"),
        "{record}"
    );
    assert_eq!(record["attrs"].as_object().unwrap().len(), 3);
    down(&world);
    let said = refused(
        &world,
        "    logging: {driver: syslog, options: {syslog-address: 'tcp+tls://127.0.0.1:1'}}\n",
    );
    assert!(said.contains("logging.options"), "{said}");
    if !std::path::Path::new("/run/systemd/journal/socket").exists() {
        let said = refused(&world, "    logging: {driver: journald}\n");
        assert!(said.contains("the journal of systemd"), "{said}");
    }
    let said = refused(&world, "    logging: {driver: gelf}\n");
    assert!(said.contains("gelf"), "{said}");
}

#[test]
fn real_time_is_granted_where_the_kernel_has_it() {
    let Some(world) = World::new() else { return };
    let root = std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us");
    // One with chrt(1).
    let image = format!("oci:{}", crate::support::images().join("redis").display());
    write(
        &world,
        &"name: soon
services:
  web:
    image: IMAGE
    command: SERVE
    cap_add: [SYS_NICE]
    cpu_rt_runtime: 20000
    cpu_rt_period: 1000000
    userns_mode: host
    runtime: runc
    volumes: [\"./shared:/shared:z\"]
"
        .replace("IMAGE", &image),
    );
    let up = world.run(&["up", "-d"]).ok();
    if root.exists() {
        assert_eq!(inside(&world, "web", "chrt -f 10 echo soon"), "soon");
    } else {
        assert!(
            up.stderr.contains("real-time processor limit has no effect"),
            "{}",
            up.stderr
        );
    }
    assert_eq!(
        inside(&world, "web", "touch /shared/x && echo written"),
        "written"
    );
    down(&world);
}

#[test]
fn anonymous_volumes_have_options_and_labels_go_by_pattern() {
    let Some(world) = World::new() else { return };
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    write(
        &world,
        &"name: small
services:
  web:
    image: BUSYBOX
    command: SERVE
    labels: {org.example.team: front, org.other: x}
    environment: {APP_MODE: test, OTHER: x}
    volumes:
    - {type: volume, target: /etc, volume: {nocopy: true, labels: {kind: scratch}}}
    - {type: volume, target: /fixed, read_only: true}
    - {type: volume, target: /bin}
    logging:
      driver: json-file
      options: {labels-regex: \"^org[.]example\", env-regex: ^APP_}
    deploy:
      endpoint_mode: dnsrr
      labels: {service: level}
      placement:
        constraints: [node.role == manager, node.platform.os == linux, node.hostname == HOSTNAME]
        preferences: [{spread: node.labels.zone}]
        max_replicas_per_node: 1
  say: {image: BUSYBOX, command: [echo, hello], logging: {driver: json-file, options: {env-regex: ^PA}}}
"
        .replace("HOSTNAME", hostname.trim()),
    );
    let said = world.run(&["up", "-d"]).ok().stderr;
    assert!(
        said.contains("services.web.deploy.labels has no effect"),
        "{said}"
    );
    // Nothing was copied into the first: only what is made for each container is there.
    assert_eq!(inside(&world, "web", "ls /etc"), "hostname\nhosts\nresolv.conf");
    assert_eq!(
        inside(&world, "web", "touch /fixed/x 2>/dev/null || echo fixed"),
        "fixed"
    );
    let named = world.run(&["volume", "ls", "-q", "--filter", "label=kind=scratch"]);
    assert_eq!(named.ok().stdout.lines().count(), 1);
    let log = super::folder(&world, "small", "small-say-1").join("log");
    let line = wait_for("its line", || {
        fs::read_to_string(&log)
            .ok()
            .filter(|text| text.contains("hello"))
    });
    assert!(line.contains("\"attrs\":{\"PATH\":"), "{line}");
    down(&world);
    for (fields, expected) in [
        (
            "    deploy: {placement: {constraints: [node.labels.a == b]}}\n",
            "this machine is a manager",
        ),
        (
            "    deploy: {placement: {constraints: [node.hostname == elsewhere]}}\n",
            "does not hold of this machine",
        ),
        (
            "    deploy: {replicas: 2, placement: {max_replicas_per_node: 1}}\n",
            "there is one machine",
        ),
        ("    deploy: {endpoint_mode: vip}\n", "which is dnsrr"),
        (
            "    logging: {driver: json-file, options: {env-regex: \"(\"}}\n",
            "patterns of them in labels-regex and env-regex",
        ),
        (
            "    logging: {driver: syslog, options: {syslog-tls-ca-cert: /x}}\n",
            "for TLS, a relay on this machine",
        ),
    ] {
        let said = refused(&world, fields);
        assert!(said.contains(expected), "{fields}: {said}");
    }
}

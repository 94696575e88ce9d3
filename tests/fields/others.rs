//! What a container has of containers of other stacks.

use super::{World, down, inside, write};

/// A stack in a folder of its own.
fn other(world: &World, name: &str, file: &str) {
    let file = file
        .replace("BUSYBOX", &world.busybox())
        .replace("SERVE", super::SERVE);
    world.write(&format!("{name}.yaml"), format!("name: {name}\n{file}"));
}

#[test]
fn namespaces_mounts_and_links_are_those_of_containers_of_other_stacks() {
    let Some(world) = World::new() else { return };
    other(
        &world,
        "base",
        "services:
  vpn:
    image: BUSYBOX
    command: SERVE
    container_name: vpn
    networks: {shared: {aliases: [tunnel]}}
    ipc: shareable
    volumes: [\"data:/data\", /own]
volumes: {data: {}}
networks: {shared: {name: shared-net}}
",
    );
    write(
        &world,
        "name: user
services:
  joined: {image: BUSYBOX, command: SERVE, network_mode: \"container:vpn\"}
  spaces: {image: BUSYBOX, command: SERVE, ipc: \"container:vpn\", pid: \"container:vpn\"}
  mounts: {image: BUSYBOX, command: SERVE, volumes_from: [\"container:vpn:ro\"]}
  linked: {image: BUSYBOX, command: SERVE, networks: [shared], external_links: [\"vpn:gate\"]}
networks: {shared: {external: true, name: shared-net}}
",
    );
    // Refused before anything is made.
    world.run(&["network", "create", "shared-net"]).ok();
    let said = world.run(&["up", "-d"]);
    assert_ne!(said.code, 0);
    for field in [
        "joined.network_mode",
        "spaces.ipc",
        "spaces.pid",
        "mounts.volumes_from",
        "linked.external_links",
    ] {
        let line = said.stderr.lines().find(|line| line.contains(field));
        let line = line.unwrap_or_else(|| panic!("{field}: {}", said.stderr));
        assert!(
            line.contains("no such container: vpn") && line.contains("compose.yaml:"),
            "{line}"
        );
    }
    assert_eq!(world.ps().len(), 0, "nothing was made");
    world.run(&["network", "rm", "shared-net"]).ok();

    world.run(&["-f", "base.yaml", "up", "-d"]).ok();
    world.run(&["up", "-d"]).ok();
    let of_base = |line: &str| {
        let args = ["-f", "base.yaml", "exec", "-T", "vpn", "sh", "-c", line];
        world.run(&args).ok().stdout.trim().to_owned()
    };
    for (service, kind, same) in [
        ("joined", "net", true),
        ("joined", "ipc", false),
        ("spaces", "ipc", true),
        ("spaces", "pid", true),
        ("spaces", "net", false),
    ] {
        let line = format!("readlink /proc/self/ns/{kind}");
        assert_eq!(
            inside(&world, service, &line) == of_base(&line),
            same,
            "{service} {kind}"
        );
    }
    of_base("echo shared > /dev/shm/file; echo row > /data/row; echo own > /own/file");
    assert_eq!(inside(&world, "spaces", "cat /dev/shm/file"), "shared");
    assert_eq!(
        inside(
            &world,
            "mounts",
            "cat /data/row /own/file; touch /data/x 2>/dev/null || echo fixed"
        ),
        "row\nown\nfixed"
    );
    // Names of the other stack are known on the network that both are on, and a
    // link is a name for one container alone.
    let vpn = of_base("hostname -i");
    let look = |service: &str, name: &str| {
        let line =
            format!("nslookup -type=a {name}. 2>/dev/null | awk '/^Address/ {{a = $NF}} END {{print a}}'");
        inside(&world, service, &line)
    };
    for name in ["gate", "vpn", "tunnel", "tunnel.shared-net"] {
        assert_eq!(look("linked", name), vpn, "{name}");
    }
    assert_eq!(
        inside(&world, "joined", "grep -c 127.0.0.11 /etc/resolv.conf"),
        "1"
    );
    assert_ne!(look("joined", "gate"), vpn);
    assert_eq!(look("joined", "tunnel"), vpn);
    // One that does not run has no namespace to join.
    world.run(&["-f", "base.yaml", "stop", "-t", "2"]).ok();
    let said = world.run(&["up", "-d", "--force-recreate", "joined"]);
    assert!(
        said.code != 0 && said.stderr.contains("container vpn does not run"),
        "{}",
        said.stderr
    );
    world.run(&["down", "-t", "2"]).ok();
    world.run(&["-f", "base.yaml", "down", "-v", "-t", "2"]).ok();
    world.assert_nothing_left();
}

#[test]
fn a_container_of_the_same_stack_has_a_name_too() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: same
services:
  vpn: {image: BUSYBOX, command: SERVE, container_name: tunnel}
  user: {image: BUSYBOX, command: SERVE, network_mode: \"container:tunnel\", depends_on: [vpn]}
",
    );
    world.run(&["up", "-d"]).ok();
    let line = "readlink /proc/self/ns/net";
    assert_eq!(inside(&world, "user", line), inside(&world, "vpn", line));
    down(&world);
}

#[test]
fn a_volume_that_another_stack_uses_is_not_removed() {
    let Some(world) = World::new() else { return };
    other(
        &world,
        "owner",
        "services:
  web: {image: BUSYBOX, command: SERVE, volumes: [\"data:/data\"]}
volumes: {data: {}}
",
    );
    write(
        &world,
        "name: user
services:
  web: {image: BUSYBOX, command: SERVE, volumes: [\"data:/data\"]}
volumes: {data: {external: true, name: owner_data}}
",
    );
    world.run(&["-f", "owner.yaml", "up", "-d"]).ok();
    world.run(&["up", "-d"]).ok();
    inside(&world, "web", "echo kept > /data/file");
    let refused = world.run(&["-f", "owner.yaml", "down", "-v", "-t", "1"]);
    assert_eq!(refused.code, 1);
    let reason = "volume owner_data is still used by container user-web-1";
    assert!(refused.stderr.contains(reason), "{}", refused.stderr);
    assert_eq!(inside(&world, "web", "cat /data/file"), "kept");
    world.run(&["down", "-t", "1"]).ok();
    world.run(&["-f", "owner.yaml", "down", "-v", "-t", "1"]).ok();
    let volumes = world.run(&["volume", "ls", "-q"]).ok().stdout;
    assert_eq!(volumes, "");
    world.assert_nothing_left();
}

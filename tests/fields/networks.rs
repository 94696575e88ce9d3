//! How a container is on its networks, seen from inside.

use std::fs;
use std::process::Stdio;

use super::{World, down, inside, refused, write};
use crate::support::stack::Role;
use crate::support::{finish, wait_for};

#[test]
fn the_bridge_of_docker_is_a_network_apart() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: br
services:
  one: {image: BUSYBOX, command: SERVE, network_mode: bridge, ports: ['127.0.0.1:18099:80']}
  two: {image: BUSYBOX, command: SERVE, network_mode: bridge}
  other: {image: BUSYBOX, command: SERVE}
",
    );
    world.run(&["up", "-d"]).ok();
    let networks = world.run(&["network", "ls", "--format", "{{.Name}}"]).ok().stdout;
    assert!(
        networks.contains("br_bridge") && networks.contains("br_default"),
        "{networks}"
    );
    assert_eq!(
        inside(&world, "one", "nslookup two >/dev/null && echo found"),
        "found"
    );
    assert_eq!(
        inside(
            &world,
            "one",
            "nslookup other >/dev/null 2>&1 || echo out of reach"
        ),
        "out of reach"
    );
    assert_eq!(world.run(&["port", "one", "80"]).ok().stdout, "127.0.0.1:18099\n");
    assert!(
        world
            .run(&["up", "-d"])
            .ok()
            .stderr
            .lines()
            .all(|line| !line.contains("Recreate"))
    );
    down(&world);
}

#[test]
fn the_address_of_a_service_is_that_of_its_main_network() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: mac
services:
  web:
    image: BUSYBOX
    command: SERVE
    mac_address: 02:42:AC:11:65:43
    networks: {a: {}, b: {priority: 5}}
  only:
    image: BUSYBOX
    command: SERVE
    mac_address: 02-42-ac-11-65-44
    networks: {a: {mac_address: 02:42:ac:11:65:44}}
networks: {a: {}, b: {}}
",
    );
    world.run(&["up", "-d"]).ok();
    let address = |service: &str, interface: &str| {
        inside(
            &world,
            service,
            &format!("cat /sys/class/net/{interface}/address"),
        )
    };
    assert_eq!(address("web", "eth0"), "02:42:ac:11:65:43");
    assert_ne!(address("web", "eth1"), "02:42:ac:11:65:43");
    assert_eq!(address("only", "eth0"), "02:42:ac:11:65:44");
    down(&world);
    for (fields, expected) in [
        (
            "    mac_address: 02:42:ac:11:65:43\n    networks: {default: {mac_address: 02:42:ac:11:65:44}}\n",
            "services.web.mac_address is not supported: the address of its main network",
        ),
        (
            "    mac_address: 02:42:ac:11:65:43\n    network_mode: host\n",
            "conflicting options: mac-address and the network mode",
        ),
        (
            "    mac_address: 02:42:ac:11:65:43\n    scale: 2\n",
            "2 containers cannot share one address",
        ),
        (
            "    cpu_quota: 1000\n    deploy: {resources: {limits: {cpus: '1'}}}\n",
            "write one of them",
        ),
    ] {
        let said = refused(&world, fields);
        assert!(said.contains(expected), "{fields}: {said}");
    }
}

/// What a program prints on the world's side.
fn outside(world: &World, program: &str, args: &[&str]) -> String {
    finish(world.command(program).args(args)).stdout.trim().to_owned()
}

#[test]
fn bridges_are_as_their_options_say() {
    let Some(world) = World::new() else { return };
    outside(&world, "ip", &["link", "add", "lent0", "type", "bridge"]);
    write(
        &world,
        "name: br
services:
  one: &service {image: BUSYBOX, command: SERVE, networks: [apart], ports: [\"8080\"]}
  two: *service
  small:
    image: BUSYBOX
    command: SERVE
    networks:
      small:
        interface_name: wan0
        link_local_ips: [169.254.7.7, \"fe80::77\"]
        driver_opts:
          com.docker.network.endpoint.sysctls: net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.arp_ignore=2
      lent: {}
networks:
  apart:
    attachable: true
    driver_opts:
      com.docker.network.bridge.enable_icc: \"false\"
      com.docker.network.bridge.host_binding_ipv4: 127.0.0.1
    ipam: {config: [{subnet: 10.87.5.0/29, aux_addresses: {router: 10.87.5.2, printer: 10.87.5.3}}]}
  small:
    driver_opts:
      com.docker.network.bridge.name: br-small
      com.docker.network.driver.mtu: 1380
      com.docker.network.bridge.enable_ip_masquerade: \"false\"
      com.docker.network.bridge.inhibit_ipv4: \"true\"
  lent:
    driver_opts:
      com.docker.network.bridge.name: lent0
      com.docker.network.container_iface_prefix: lan
    ipam: {config: [{subnet: 10.87.6.0/24}]}
",
    );
    world.run(&["up", "-d"]).ok();
    // Set aside are .2 and .3, the gateway is .1.
    let of = |service: &str| inside(&world, service, "hostname -i");
    let mut addresses = [of("one"), of("two")];
    addresses.sort();
    assert_eq!(addresses, ["10.87.5.4", "10.87.5.5"]);
    let reach = |from: &str, to: &str| {
        let line = format!("ping -c 1 -W 1 {to} > /dev/null 2>&1 && echo yes || echo no");
        inside(&world, from, &line)
    };
    assert_eq!(reach("one", &of("two")), "no");
    assert_eq!(reach("one", "10.87.5.1"), "yes");
    // Nor by way of the gateway, which has the other's address in its table.
    let line = format!(
        "ip route add {}/32 via 10.87.5.1 2>/dev/null; ping -c 1 -W 1 {} > /dev/null && echo yes || echo no",
        of("two"),
        of("two")
    );
    assert_eq!(inside(&world, "one", &line), "no");
    let ps = world.run(&["ps", "--format", "json"]).ok().stdout;
    assert!(ps.contains("127.0.0.1:") && !ps.contains("0.0.0.0:"), "{ps}");
    assert_eq!(inside(&world, "small", "cat /sys/class/net/wan0/mtu"), "1380");
    assert_eq!(inside(&world, "small", "ls /sys/class/net"), "lan0\nlo\nwan0");
    let seen = inside(&world, "small", "ip addr show dev wan0");
    assert!(
        seen.contains("169.254.7.7/16") && seen.contains("fe80::77/64"),
        "{seen}"
    );
    assert_eq!(
        inside(
            &world,
            "small",
            "cat /proc/sys/net/ipv4/conf/wan0/log_martians /proc/sys/net/ipv4/conf/wan0/arp_ignore"
        ),
        "1\n2"
    );
    let bridge = outside(&world, "ip", &["-o", "addr", "show", "dev", "br-small"]);
    assert!(!bridge.contains("inet "), "{bridge}");
    let lent = outside(&world, "ip", &["-o", "addr", "show", "dev", "lent0"]);
    assert!(lent.contains("10.87.6.1/24"), "{lent}");
    let rules = outside(&world, "nft", &["list", "ruleset"]);
    let masqueraded = rules.split("set masqueraded {").nth(1).unwrap();
    let masqueraded = masqueraded.split('}').next().unwrap();
    assert!(masqueraded.contains("10.87.6.0/24"), "{rules}");
    let subnet = inside(
        &world,
        "small",
        "ip route | awk '/dev wan0 .*src/ {print $1}' | grep -v 169.254",
    );
    assert!(
        !masqueraded.contains(&subnet) && rules.contains(&subnet),
        "{subnet}: {rules}"
    );
    let inspected = world.run(&["network", "inspect", "br_apart"]).ok().stdout;
    assert!(
        inspected.contains("\"com.docker.network.bridge.enable_icc\": \"false\""),
        "{inspected}"
    );
    world.run(&["down", "-t", "2"]).ok();
    // What was there before is there still, as it was.
    let lent = outside(&world, "ip", &["-o", "addr", "show", "dev", "lent0"]);
    assert!(!lent.contains("10.87.6.1"), "{lent}");
    assert!(outside(&world, "ip", &["-o", "link"]).contains("lent0"));
    outside(&world, "ip", &["link", "del", "lent0"]);
    world.assert_nothing_left();
}

#[test]
fn options_of_networks_that_cannot_be_are_refused() {
    let Some(world) = World::new() else { return };
    for (options, expected) in [
        (
            "driver_opts: {com.docker.network.driver.mut: 1400}",
            "did you mean `com.docker.network.driver.mtu`?",
        ),
        (
            "driver_opts: {com.docker.network.driver.mtu: big}",
            "\"big\" is no number of bytes",
        ),
        (
            "driver_opts: {com.docker.network.bridge.gateway_mode_ipv4: isolated}",
            "gateway mode isolated is for networks that are internal",
        ),
        (
            "driver_opts: {com.docker.network.bridge.name: lo}",
            "network no_default: interface lo belongs to somebody else",
        ),
        (
            "ipam: {config: [{subnet: 10.87.7.0/24, aux_addresses: {a: 10.88.0.1}}]}",
            "network no_default: the address 10.88.0.1 that is set aside for a is in none of its subnets",
        ),
    ] {
        let said = refused(&world, &format!("networks:\n  default:\n    {options}\n"));
        assert!(said.contains(expected), "{options}: {said}");
    }
    for (attachment, expected) in [
        (
            "ipv4_address: 10.87.7.9",
            "address 10.87.7.9 for no/web-1 is taken by a",
        ),
        (
            "driver_opts: {com.docker.network.endpoint.sysctls: net.ipv4.ip_forward=1}",
            "is not of the form",
        ),
    ] {
        let fields = format!(
            "    networks: {{default: {{{attachment}}}}}\nnetworks:\n  default:\n    \
             ipam: {{config: [{{subnet: 10.87.7.0/24, aux_addresses: {{a: 10.87.7.9}}}}]}}\n"
        );
        let said = refused(&world, &fields);
        assert!(said.contains(expected), "{attachment}: {said}");
    }
    world.assert_nothing_left();
}

#[test]
fn an_isolated_network_has_no_gateway_and_an_open_one_has_no_walls() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: gw
services:
  shut: {image: BUSYBOX, command: SERVE, networks: [shut]}
  open: {image: BUSYBOX, command: [httpd, -f, -p, '8000', -h, /bin], networks: [open]}
networks:
  shut:
    internal: true
    driver_opts: {com.docker.network.bridge.gateway_mode_ipv4: isolated, com.docker.network.bridge.name: br-shut}
  open:
    driver_opts: {com.docker.network.bridge.gateway_mode_ipv4: nat-unprotected}
    ipam: {config: [{subnet: 10.87.8.0/24}]}
",
    );
    world.run(&["up", "-d"]).ok();
    let bridge = outside(&world, "ip", &["-o", "addr", "show", "dev", "br-shut"]);
    assert!(!bridge.contains("inet"), "{bridge}");
    // From a neighbour that routes there.
    let Some(far) = World::new() else { return };
    let mut inside_far = far.command("cat");
    let mut inside_far = inside_far.stdin(Stdio::piped()).spawn().unwrap();
    let pid = inside_far.id();
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    wait_for("the neighbour", || {
        (namespace(pid) != namespace(std::process::id())).then_some(())
    });
    for (world, line) in [
        (
            &world,
            format!("link add near0 type veth peer name far0 netns {pid}"),
        ),
        (&world, "addr add 10.87.9.1/24 dev near0".to_owned()),
        (&world, "link set near0 up".to_owned()),
        (&far, "addr add 10.87.9.2/24 dev far0".to_owned()),
        (&far, "link set far0 up".to_owned()),
        (&far, "route add default via 10.87.9.1".to_owned()),
    ] {
        finish(world.command("ip").args(line.split(' '))).ok();
    }
    let line = format!(
        "exec 3<>/dev/tcp/{}/8000 && echo reached",
        inside(&world, "open", "hostname -i")
    );
    let reached = outside(&far, "timeout", &["5", "bash", "-c", &line]);
    drop(inside_far.stdin.take());
    inside_far.wait().unwrap();
    assert_eq!(reached, "reached");
    // With it goes the link to it.
    outside(&world, "ip", &["link", "del", "near0"]);
    down(&world);
}

#[test]
fn networks_called_host_and_none_are_dockers() {
    let Some(world) = World::new() else { return };
    write(
        &world,
        "name: modes
services:
  host: {image: BUSYBOX, command: SERVE, networks: [machine]}
  none: {image: BUSYBOX, command: SERVE, networks: [nothing]}
networks:
  machine: {external: true, name: host}
  nothing: {external: true, name: none}
",
    );
    world.run(&["up", "-d"]).ok();
    let own = fs::read_link(format!("/proc/{}/ns/net", world.of_role(Role::Supervisor)[0])).unwrap();
    assert_eq!(
        inside(&world, "host", "readlink /proc/self/ns/net"),
        own.display().to_string()
    );
    assert_eq!(inside(&world, "none", "ls /sys/class/net"), "lo");
    down(&world);
    for (fields, expected) in [
        ("    networks: [host, default]\n", "cannot be joined together"),
        (
            "    networks: [host]\n    ports: [\"80\"]\n",
            "ports cannot be published on network host",
        ),
    ] {
        let file = format!("{fields}networks: {{host: {{external: true, name: host}}, default: {{}}}}\n");
        let said = refused(&world, &file);
        assert!(said.contains(expected), "{fields}: {said}");
    }
}

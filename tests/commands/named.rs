//! Containers, networks and volumes by name, as docker has them.

use super::support::{images, wait_for};
use super::{objects, out, stack};

/// Prints a line to each of its streams, changes files, and ends with 3 when it
/// is told to end.
const STACK: &str = "
name: n
services:
  web:
    image: BUSYBOX
    command: [sh, -c, 'echo out; echo err >&2; rm /etc/group; echo x > /etc/new; trap \"exit 3\" TERM; trap \"echo hup\" HUP; while :; do sleep 0.05; done']
    labels: {kind: web}
    ports: ['127.0.0.1:8080:80']
    volumes: [data:/data, /anonymous]
  job: {image: BUSYBOX, command: [sh, -c, 'echo done; exit 7']}
volumes: {data: {}}
";

#[test]
fn containers_by_name() {
    let Some(world) = stack(STACK) else { return };
    world.run(&["up", "-d"]).ok();
    let c = |args: &[&str]| world.run(&[&["container"], args].concat());
    let said = |args: &[&str]| c(args).ok().stdout;
    let state = |name: &str| {
        said(&["inspect", "-f", "{{.State.Status}}", name])
            .trim()
            .to_owned()
    };
    wait_for("the web container's files", || {
        (c(&["exec", "n-web-1", "cat", "/etc/new"]).stdout == "x\n").then_some(())
    });
    wait_for("the end of the job", || {
        (state("n-job-1") == "exited").then_some(())
    });

    // What only looks.
    assert_eq!(said(&["ls", "--format", "{{.Names}}"]), "n-web-1\n");
    assert_eq!(
        said(&["ls", "-a", "--filter", "exited=7", "--format", "{{.Names}}"]),
        "n-job-1\n"
    );
    assert_eq!(
        said(&["ls", "-aq", "--filter", "label=kind=web", "--no-trunc"])
            .trim()
            .len(),
        64
    );
    assert_eq!(
        said(&[
            "ls",
            "--filter",
            "publish=8080",
            "--filter",
            "network=n_default",
            "--format",
            "{{.Names}}"
        ]),
        "n-web-1\n"
    );
    assert_eq!(
        said(&[
            "ls",
            "-a",
            "--filter",
            "volume=n_data",
            "--filter",
            "name=job",
            "-q"
        ]),
        ""
    );
    assert!(
        c(&["ls", "--filter", "status=gone"])
            .stderr
            .contains("it is one of created")
    );
    assert!(said(&["ls", "-s"]).contains("virtual"));
    assert_eq!(said(&["port", "n-web-1"]), "80/tcp -> 127.0.0.1:8080\n");
    assert_eq!(said(&["port", "n-web-1", "80/tcp"]), "127.0.0.1:8080\n");
    assert_eq!(c(&["port", "n-web-1", "81"]).code, 1);
    assert_eq!(said(&["wait", "n-job-1"]), "7\n");
    let logs = c(&["logs", "n-web-1"]).ok();
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(said(&["logs", "-n", "0", "n-web-1"]), "");
    assert!(said(&["top", "n-web-1"]).contains("sleep 0.05"));
    assert!(c(&["top", "n-web-1", "aux"]).stderr.contains("-ef"));
    assert!(said(&["stats", "--no-stream"]).contains("n-web-1"));
    // What scripts know a container by is neither its change nor its image's.
    let mark = c(&[
        "exec",
        "n-web-1",
        "sh",
        "-c",
        "test -f /.dockerenv && ! test -s /.dockerenv",
    ]);
    assert_eq!(mark.code, 0, "{}", mark.stderr);
    let diff = said(&["diff", "n-web-1"]);
    assert!(!diff.contains(".dockerenv"), "{diff}");
    for line in ["C /etc", "D /etc/group", "A /etc/new"] {
        assert!(diff.lines().any(|one| one == line), "{line} of {diff}");
    }
    let address = said(&[
        "inspect",
        "-f",
        "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
        "n-web-1",
    ]);
    assert!(address.starts_with("172."), "{address}");
    assert_eq!(
        said(&[
            "exec",
            "-e",
            "A=b",
            "-w",
            "/etc",
            "n-web-1",
            "sh",
            "-c",
            "echo $A; pwd"
        ]),
        "b\n/etc\n"
    );
    assert_eq!(c(&["exec", "n-web-1", "false"]).code, 1);
    world.write("file", "here");
    said(&["cp", "-q", "file", "n-web-1:/tmp-file"]);
    assert_eq!(said(&["exec", "n-web-1", "cat", "/tmp-file"]), "here");

    // What changes them: each for itself, the others all the same.
    let mixed = c(&["pause", "n-web-1", "n-job-1", "nobody"]);
    assert_eq!((mixed.code, mixed.stdout.as_str()), (1, "n-web-1\n"));
    assert!(
        mixed.stderr.contains("n-job-1 is not running") && mixed.stderr.contains("no such container: nobody")
    );
    assert_eq!(state("n-web-1"), "paused");
    assert!(c(&["exec", "n-web-1", "true"]).code != 0, "nothing runs in it");
    assert_eq!(said(&["unpause", "n-web-1"]), "n-web-1\n");
    let made = said(&["commit", "n-web-1", "made:1"]);
    assert!(made.starts_with("sha256:"), "{made}");
    assert_eq!(state("n-web-1"), "running", "it goes on after the commit");
    assert!(said(&["kill", "-s", "HUP", "n-web-1"]).contains("n-web-1"));
    wait_for("the signal", || {
        said(&["logs", "n-web-1"]).contains("hup").then_some(())
    });
    assert!(c(&["kill", "-s", "NONE", "n-web-1"]).stderr.contains("no signal"));
    assert!(c(&["rm", "n-web-1"]).stderr.contains("it is running"));
    said(&["stop", "n-web-1"]);
    assert_eq!(
        said(&["inspect", "-f", "{{.State.ExitCode}}", "n-web-1"]).trim(),
        "3"
    );
    assert_eq!(c(&["exec", "n-web-1", "true"]).code, 1);
    assert_eq!(c(&["start", "--attach", "n-job-1"]).code, 7);
    said(&["start", "n-web-1"]);
    let pid = said(&["inspect", "-f", "{{.State.Pid}}", "n-web-1"]);
    said(&["restart", "--signal", "KILL", "n-web-1"]);
    assert_ne!(said(&["inspect", "-f", "{{.State.Pid}}", "n-web-1"]), pid);
    let plan = world
        .run(&["--dry-run", "container", "rm", "-f", "n-web-1"])
        .ok()
        .stdout;
    assert!(plan.contains("container  n-web-1  removed"), "{plan}");
    assert_eq!(state("n-web-1"), "running");
    for (verb, hint) in [
        ("rename", "container_name"),
        ("update", "rcompose up"),
        ("create", "rcompose create"),
        ("run", "rcompose run SERVICE"),
    ] {
        let refused = c(&[verb, "--name", "x", "n-web-1"]);
        assert!(
            refused.code == 1 && refused.stderr.contains(hint),
            "{verb}: {refused:?}"
        );
    }
    let removed = c(&["rm", "-fv", "n-web-1", "nobody"]).ok();
    assert_eq!(removed.stdout, "n-web-1\n");
    assert_eq!(
        out(&world, &["volume", "ls", "-q"]),
        "n_data\n",
        "the anonymous one went with it"
    );
    let pruned = said(&["prune", "-f"]);
    assert!(pruned.starts_with("Deleted Containers:\n"), "{pruned}");
    assert_eq!(said(&["ls", "-aq"]), "");
    // The stack is what it was: the next command makes what is missing.
    world.run(&["up", "-d"]).ok();
    assert_eq!(state("n-web-1"), "running");
    world.run(&["down", "-v"]).ok();
}

#[test]
fn networks_and_volumes_by_name_and_all_that_nobody_uses() {
    let Some(world) = stack("") else { return };
    let fails = |args: &[&str], reason: &str| {
        let failed = world.run(args);
        assert!(
            failed.code == 1 && failed.stderr.contains(reason),
            "{args:?}: {failed:?}"
        );
    };
    // Made by name, used as external, and only then removed.
    out(
        &world,
        &[
            "network",
            "create",
            "--subnet",
            "10.99.0.0/24",
            "--label",
            "kind=own",
            "front",
        ],
    );
    fails(&["network", "create", "front"], "exists already");
    fails(
        &["network", "create", "-d", "macvlan", "x"],
        "macvlan is not supported",
    );
    fails(&["network", "connect", "front", "x"], "stack file");
    assert_eq!(
        out(&world, &["volume", "create", "--label", "kind=own", "store"]),
        "store\n"
    );
    let nameless = out(&world, &["volume", "create"]);
    let nameless = nameless.trim();
    fails(&["volume", "create", "-d", "nfs"], "nfs is not supported");
    let busybox = images().join("busybox");
    world.write(
        "compose.yaml",
        format!(
            "name: e
services:
  app: {{image: 'oci:{}', command: [sleep, '1000'], networks: [front], volumes: ['store:/store'], stop_grace_period: 0s}}
networks: {{front: {{external: true}}}}
volumes: {{store: {{external: true}}}}
",
            busybox.display()
        ),
    );
    world.run(&["up", "-d"]).ok();
    let inspected = out(&world, &["network", "inspect", "front"]);
    assert!(
        inspected.contains("e-app-1") && inspected.contains("10.99.0.0/24"),
        "{inspected}"
    );
    fails(&["network", "rm", "front"], "in use by");
    fails(&["volume", "rm", "store"], "in use by e-app-1");
    assert_eq!(
        out(&world, &["volume", "ls", "-q", "--filter", "dangling=true"]),
        format!("{nameless}\n")
    );
    assert_eq!(
        out(
            &world,
            &[
                "network",
                "ls",
                "--filter",
                "label=kind=own",
                "--format",
                "{{.Name}}"
            ]
        ),
        "front\n"
    );
    let volume = &objects(&out(&world, &["volume", "inspect", "store", "--format", "json"]))[0][0];
    assert_eq!(
        (volume["Name"].as_str(), volume["Labels"]["kind"].as_str()),
        (Some("store"), Some("own"))
    );

    // Nothing that is used goes, whatever is asked.
    fails(
        &["system", "prune", "--filter", "until=1h", "--volumes", "-f"],
        "until",
    );
    let pruned = out(&world, &["system", "prune", "-af", "--volumes"]);
    assert!(
        pruned.contains(nameless) && !pruned.contains("front") && !pruned.contains("store"),
        "{pruned}"
    );
    assert_eq!(
        out(&world, &["container", "ls", "--format", "{{.State}}"]),
        "running\n"
    );
    world.run(&["stop"]).ok();
    // Then the container, the network that only it was on, and its image.
    let pruned = out(&world, &["system", "prune", "-af"]);
    for wanted in [
        "Deleted Containers:",
        "front",
        "Deleted Images:",
        "Total reclaimed space:",
    ] {
        assert!(pruned.contains(wanted), "{wanted}: {pruned}");
    }
    assert_eq!(
        out(&world, &["volume", "ls", "-q"]),
        "store\n",
        "data that has a name stays"
    );
    assert!(out(&world, &["volume", "prune", "-af"]).contains("store"));
    assert_eq!(out(&world, &["volume", "ls", "-q"]), "");
    world.run(&["-p", "e", "down"]);
}

/// Killed while it commits, a command leaves no container frozen.
#[test]
fn a_commit_that_is_killed_leaves_nothing_frozen() {
    let Some(world) = stack(
        "
name: k
services:
  app: {image: BUSYBOX, command: [sh, -c, 'dd if=/dev/urandom of=/big bs=1M count=64 2>/dev/null; touch /ready; exec sleep 1000'], stop_grace_period: 0s}
",
    ) else {
        return;
    };
    world.run(&["up", "-d"]).ok();
    wait_for("the file", || {
        (world
            .run(&["container", "exec", "k-app-1", "test", "-e", "/ready"])
            .code
            == 0)
            .then_some(())
    });
    let state = || {
        out(
            &world,
            &["container", "inspect", "-f", "{{.State.Status}}", "k-app-1"],
        )
    };
    let mut commit = world.command(env!("CARGO_BIN_EXE_rcompose"));
    let mut commit = commit
        .args(["container", "commit", "k-app-1", "made:1"])
        .spawn()
        .unwrap();
    wait_for("the pause", || (state() == "paused\n").then_some(()));
    // `nsenter` has become it.
    commit.kill().unwrap();
    commit.wait().unwrap();
    wait_for("its end", || (state() == "running\n").then_some(()));
    out(
        &world,
        &["container", "commit", "--pause=false", "k-app-1", "made:1"],
    );
    world.run(&["down"]).ok();
}

//! Containers that another OCI runtime makes.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::pty::OpenptFlags;

use super::{World, down, folder, inside, refused, write};
use crate::support::stack::{Role, kill};
use crate::support::wait_for;

/// The runtimes to try: Debian's, where it is, and our own command line.
fn runtimes(world: &World) -> Vec<PathBuf> {
    let own = world.work().join("rcompose-oci");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_rcompose"), &own).unwrap();
    let mut all = vec![own];
    let runc = Path::new("/usr/sbin/runc");
    if runc.exists() {
        all.push(runc.into());
    } else {
        println!("skipped: no {}", runc.display());
    }
    all
}

const STACK: &str = "name: other
services:
  web:
    image: BUSYBOX
    command: SERVE
    runtime: RUNTIME
    user: \"1000:1001\"
    group_add: [\"1002\"]
    environment: {GREETING: hello}
    mem_limit: 32m
    restart: on-failure
    volumes: [\"data:/data\", \"filled:/bin\"]
    cap_drop: [ALL]
    healthcheck: {test: [CMD, test, -e, /tmp/well], interval: 200ms, retries: 1000}
  plain: {image: BUSYBOX, command: SERVE}
  ends: {image: BUSYBOX, command: [sh, -c, \"echo out; echo err >&2; exit 7\"], runtime: RUNTIME}
  terminal: {image: BUSYBOX, command: [sh, -c, \"tty; stty size\"], tty: true, runtime: RUNTIME}
volumes: {data: {}, filled: {}}
";

/// The folder in which a container's runtime keeps what it has.
fn state(world: &World, name: &str) -> PathBuf {
    let id = folder(world, "other", name);
    let id = id.file_name().unwrap();
    let run = world.state().join("run/stacks/other/containers").join(id);
    run.join("oci/state").join(id)
}

/// Status and output of a command on a terminal of 30 lines of 100, which has 40 of
/// 120 once the command has said the first size.
fn on_terminal(world: &World, args: &[&str]) -> (i32, String) {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let fit = |ws_row, ws_col| {
        let size = rustix::termios::Winsize {
            ws_row,
            ws_col,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&master, size).unwrap();
    };
    fit(30, 100);
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = || {
        let mut options = fs::OpenOptions::new();
        let path = Path::new(name.to_str().unwrap());
        options.read(true).write(true).open(path).unwrap()
    };
    let mut command = world.rcompose(args);
    command.stdin(slave()).stdout(slave()).stderr(slave());
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut said = String::new();
    let mut bytes = [0; 256];
    let mut first = true;
    // An error is the end: nobody has the other side open.
    while let Ok(count) = rustix::io::read(&master, &mut bytes) {
        said.push_str(&String::from_utf8_lossy(&bytes[..count]));
        if first && said.contains("30 100") {
            first = false;
            fit(40, 120);
            // It is no terminal of its session, whose kernel would tell it.
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
        }
    }
    (child.wait().unwrap().code().unwrap(), said.trim().to_owned())
}

fn health(world: &World) -> String {
    let all = world.ps();
    let web = all.iter().find(|one| one["Service"] == "web").unwrap();
    web["Health"].as_str().unwrap().to_owned()
}

#[test]
fn another_runtime_runs_containers_as_ours_does() {
    let Some(world) = World::new() else { return };
    for runtime in runtimes(&world) {
        let name = runtime.display().to_string();
        write(&world, &STACK.replace("RUNTIME", &name));
        world.run(&["up", "-d"]).ok();
        assert!(
            state(&world, "other-web-1").exists(),
            "{name} keeps its state there"
        );
        // Who it is, what it has.
        let said = inside(
            &world,
            "web",
            "id -u; id -g; id -G; echo $GREETING; hostname; grep CapEff /proc/1/status",
        );
        let id = world.id_of("other-web-1");
        assert_eq!(
            said.lines().collect::<Vec<_>>(),
            [
                "1000",
                "1001",
                "1001 1002",
                "hello",
                &id[..12],
                "CapEff:\t0000000000000000"
            ],
            "{name}"
        );
        assert_eq!(
            inside(&world, "web", "grep Seccomp: /proc/1/status"),
            "Seccomp:\t2",
            "{name}"
        );
        assert_eq!(
            inside(&world, "web", "nslookup -type=a plain. > /dev/null && echo yes"),
            "yes",
            "{name}"
        );
        assert!(
            !inside(&world, "web", "ls /data; mount | grep ' /data '").is_empty(),
            "{name}"
        );
        // Output and status.
        wait_for("the end of two", || {
            let ended = world.ps();
            let ended = ended.iter().filter(|one| one["State"] == "exited").count();
            (ended == 2).then_some(())
        });
        let logs = world.run(&["logs", "--no-log-prefix", "ends"]).ok().stdout;
        assert!(logs.contains("out") && logs.contains("err"), "{name}: {logs}");
        let logs = world.run(&["logs", "--no-log-prefix", "terminal"]).ok().stdout;
        assert!(logs.contains("/dev/"), "{name}: {logs}");
        let all = world.ps();
        let ends = all.iter().find(|one| one["Service"] == "ends").unwrap();
        assert_eq!(ends["ExitCode"], 7, "{name}");
        // Further processes: their status, input, and what is not there.
        let run = world.run(&["exec", "-T", "web", "sh", "-c", "exit 9"]);
        assert_eq!(run.code, 9, "{name}");
        let run = world.run(&["exec", "-T", "web", "no-such-program"]);
        assert_eq!(run.code, 127, "{name}: {}", run.stderr);
        let run = world.run(&["exec", "-T", "-u", "0", "web", "id", "-u"]).ok();
        assert_eq!(run.stdout.trim(), "0", "{name}");
        assert_eq!(
            on_terminal(
                &world,
                &[
                    "exec",
                    "web",
                    "sh",
                    "-c",
                    "until stty size 2> /dev/null; do sleep 0.1; done
                    until [ \"$(stty size)\" = '40 120' ]; do sleep 0.1; done; exit 4"
                ]
            ),
            (4, "30 100".to_owned()),
            "{name}"
        );
        // Health, pause, limits in place.
        assert_ne!(health(&world), "healthy", "{name}");
        inside(&world, "web", "touch /tmp/well");
        wait_for("health", || (health(&world) == "healthy").then_some(()));
        world.run(&["pause", "web"]).ok();
        let refused = world.run(&["exec", "-T", "web", "true"]);
        assert!(refused.stderr.contains("paused"), "{name}: {}", refused.stderr);
        world.run(&["unpause", "web"]).ok();
        let file = fs::read_to_string(world.work().join("compose.yaml")).unwrap();
        world.write("compose.yaml", file.replace("32m", "48m"));
        let before = world.id_of("other-web-1");
        world.run(&["up", "-d"]).ok();
        assert_eq!(world.id_of("other-web-1"), before, "{name}: changed in place");
        // A signal, and a stop.
        world.run(&["stop", "-t", "5", "web"]).ok();
        let all = world.ps();
        let web = all.iter().find(|one| one["Service"] == "web").unwrap();
        assert_eq!(web["ExitCode"], 0, "{name}: the trap");
        assert!(
            !state(&world, "other-web-1").exists(),
            "{name}: deleted at its end"
        );
        world.run(&["start", "web"]).ok();
        assert_eq!(inside(&world, "web", "echo again"), "again", "{name}");
        down(&world);
    }
}

#[test]
fn another_runtime_leaves_nothing_when_all_of_ours_is_killed() {
    let Some(world) = World::new() else { return };
    for runtime in runtimes(&world) {
        let name = runtime.display().to_string();
        let file = "name: other\nservices:\n  web: {image: BUSYBOX, command: SERVE, runtime: RUNTIME}\n";
        write(&world, &file.replace("RUNTIME", &name));
        world.run(&["up", "-d"]).ok();
        for role in [Role::Supervisor, Role::Monitor] {
            for pid in world.of_role(role) {
                kill(pid);
            }
        }
        // Its process goes on, without a parent of ours: the next command ends it.
        world.run(&["up", "-d"]).ok();
        assert_eq!(inside(&world, "web", "echo again"), "again", "{name}");
        for role in [Role::Supervisor, Role::Monitor] {
            for pid in world.of_role(role) {
                kill(pid);
            }
        }
        down(&world);
    }
}

#[test]
fn a_runtime_that_cannot_be_is_refused() {
    let Some(world) = World::new() else { return };
    for (fields, expected) in [
        (
            "    runtime: no-such-runtime\n",
            "runtime no-such-runtime: it is neither in /etc/docker/daemon.json nor",
        ),
        (
            "    runtime: /no/such/runtime\n",
            "runtime /no/such/runtime: /no/such/runtime: No such file",
        ),
        (
            "    runtime: /bin/sh\n    init: true\n",
            "only the built-in runtime does it",
        ),
        ("    runtime: /bin/false\n", "call runtime to create"),
    ] {
        let said = refused(&world, fields);
        assert!(said.contains(expected), "{fields}: {said}");
    }
    world.assert_nothing_left();
}

//! The command line as a new user meets it: one clear message for each mistake
//! (what, where, what to do), an exit status, and nothing half made.
// Clippy takes only functions marked as tests for tests.
#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt as _;

use support::{Output, World, finish};

/// Runs a command that must fail; what it said, with the world's folders and
/// the image's reference by their names.
#[track_caller]
fn refused(world: &World, args: &[&str]) -> String {
    plain(world, world.run(args))
}

#[track_caller]
fn plain(world: &World, output: Output) -> String {
    assert_eq!(output.code, 1, "{output:?}");
    assert_eq!(output.stdout, "");
    output
        .stderr
        .replace(&world.busybox(), "[busybox]")
        .replace(&world.work().display().to_string(), "[work]")
}

/// What an `up` of this file says, which must fail; afterwards nothing is left
/// after `down`.
#[track_caller]
fn up_refused(world: &World, file: &str) -> String {
    world.write("compose.yaml", file.replace("BUSYBOX", &world.busybox()));
    let said = refused(world, &["up", "-d"]);
    let down = world.run(&["down", "-v"]);
    // A file that does not load has nothing to take down either.
    if down.code != 0 {
        assert!(said.contains("compose.yaml:"), "{said}{}", down.stderr);
    }
    world.assert_nothing_left();
    said
}

/// The lines that are no progress.
fn errors(said: &str) -> String {
    let lines = said.lines().filter(|line| !line.starts_with(' '));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_stack_file_that_cannot_be_read_is_named() {
    let Some(world) = World::new() else { return };
    let said = refused(&world, &["up", "-d"]);
    assert!(
        said.starts_with("error: no configuration file provided: not found (looked for compose.yaml,"),
        "{said}"
    );
    assert!(said.ends_with(" = help: name a file with -f\n"), "{said}");
    assert_eq!(
        refused(&world, &["-f", "gone.yaml", "up", "-d"]),
        "error: open [work]/gone.yaml: no such file or directory\n"
    );
    assert_eq!(
        refused(&world, &["-f", ".", "up", "-d"]),
        "error: open [work]: is a directory\n"
    );
    let path = world.write("compose.yaml", "services: {}\n");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o0)).unwrap();
    let said = plain(&world, finish(&mut as_nobody(&world, &["config"])));
    assert_eq!(said, "error: open [work]/compose.yaml: permission denied\n");
}

/// The program without any privilege.
fn as_nobody(world: &World, args: &[&str]) -> std::process::Command {
    let folder = world.work().parent().unwrap().to_owned();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    // The build folder may be out of its reach.
    let program = folder.join("rcompose");
    if !program.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_rcompose"), &program).unwrap();
    }
    let mut command = world.command("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.arg(program).args(args);
    command
}

#[test]
fn without_privilege_it_says_so_and_does_what_needs_none() {
    let Some(world) = World::new() else { return };
    let file = "name: p\nservices:\n  a: {image: \"BUSYBOX\", command: sleep 99}\n";
    world.write("compose.yaml", file.replace("BUSYBOX", &world.busybox()));
    let expected = "error: containers need root: this process has no permission to make namespaces and networks\n  \
                    hint: run it with sudo; 'config', 'plan' and '--help' need no privilege\n";
    for args in [
        &["up", "-d"] as &[&str],
        &["up"],
        &["down"],
        &["stop"],
        &["restart"],
    ] {
        assert_eq!(
            plain(&world, finish(&mut as_nobody(&world, args))),
            expected,
            "{args:?}"
        );
    }
    finish(&mut as_nobody(&world, &["config", "-q"])).ok();
    assert_eq!(finish(&mut as_nobody(&world, &["plan"])).code, 2);
    world.assert_nothing_left();
}

#[test]
fn mistakes_in_the_file_are_shown_where_they_are() {
    let Some(world) = World::new() else { return };
    let cases = [
        (
            "services:\n\ta: {image: x}\n",
            "error: failed to parse compose.yaml: line 2: found a tab character that violates indentation
  --> compose.yaml:2:1
   |
 2 |  a: {image: x}
   | ^
   = help: indent with spaces
",
        ),
        (
            "services:\n  a:\n    imag: x\n",
            "error: services.a additional properties 'imag' not allowed
  --> compose.yaml:3:5
   |
 3 |     imag: x
   |     ^
   = help: did you mean `image`?
",
        ),
        (
            "services:\n  a:\n    image: [x]\n",
            "error: services.a.image must be a string
  --> compose.yaml:3:12
   |
 3 |     image: [x]
   |            ^
",
        ),
        (
            "services:\n  a:\n    image: x\n    networks: [back]\n",
            "error: service \"a\" refers to undefined network back: invalid compose project
  --> compose.yaml:4:16
   |
 4 |     networks: [back]
   |                ^
   = help: define it under the top-level `networks`
",
        ),
        (
            "services:\n  a:\n    image: x\n    volumes: [\"data:/x\"]\n",
            "error: service \"a\" refers to undefined volume data: invalid compose project
  --> compose.yaml:4:15
   |
 4 |     volumes: [\"data:/x\"]
   |               ^
   = help: define it under the top-level `volumes`
",
        ),
        (
            "services:\n  a:\n    image: x\n    depends_on: [b]\n",
            "error: service \"a\" depends on undefined service \"b\": invalid compose project
  --> compose.yaml:4:18
   |
 4 |     depends_on: [b]
   |                  ^
",
        ),
        (
            "services:\n  a:\n    image: x\n    depends_on: [b]\n  b:\n    image: x\n    depends_on: [a]\n",
            "error: dependency cycle detected: a -> b -> a
  --> compose.yaml:4:18
   |
 4 |     depends_on: [b]
   |                  ^
   = help: take one of these away: a -> b (compose.yaml:4:18), b -> a (compose.yaml:7:18)
",
        ),
        (
            "services:\n  a:\n    image: x\n    container_name: cc\n  b:\n    image: x\n    container_name: cc\n",
            "error: services.b: container name \"cc\" is already in use by service a
  --> compose.yaml:7:21
   |
 7 |     container_name: cc
   |                     ^
",
        ),
        (
            "services:\n  a:\n    image: x\n    container_name: cc\n    scale: 2\n",
            "error: services.a: can't set container_name and scale as container name must be unique: invalid compose project
  --> compose.yaml:4:21
   |
 4 |     container_name: cc
   |                     ^
",
        ),
        (
            "services:\n  a:\n    image: x\n    ports: [\"8081:80\"]\n    scale: 2\n",
            "error: services.a.ports.0: 2 containers cannot share the published port 8081
  --> compose.yaml:4:13
   |
 4 |     ports: [\"8081:80\"]
   |             ^
   = help: publish a range, such as \"8000-8010:80\", or no host port
",
        ),
    ];
    for (file, expected) in cases {
        world.write("compose.yaml", file);
        assert_eq!(refused(&world, &["up", "-d"]), expected);
        // The check of a file says the same.
        if !expected.contains("published port") {
            assert_eq!(refused(&world, &["config", "-q"]), expected);
        }
    }
    world.assert_nothing_left();
}

#[test]
fn an_image_that_cannot_be_had_leaves_nothing_behind() {
    let Some(world) = World::new() else { return };
    let registry = world.registry(&[]);
    let unknown = format!("{registry}/nothing:1");
    let cases = [
        (
            "127.0.0.1:1/x",
            "error: image 127.0.0.1:1/x: connect to 127.0.0.1:1: connection refused\n",
        ),
        ("oci:/nope", "error: image oci:/nope: /nope does not exist\n"),
        (
            "rootfs:/nope",
            "error: image rootfs:/nope: /nope does not exist\n",
        ),
        (
            "docker-archive:/nope.tar",
            "error: image docker-archive:/nope.tar: /nope.tar does not exist\n",
        ),
        (
            &unknown,
            "error: image 127.0.0.1:5000/nothing:1 not found in registry 127.0.0.1:5000\n",
        ),
    ];
    for (image, expected) in cases {
        // The other image is there; its container is not made either.
        let file = format!(
            "name: i\nservices:\n  a: {{image: \"{image}\"}}\n  b: {{image: \"BUSYBOX\", command: sleep 99}}\n"
        );
        let said = up_refused(&world, &file);
        assert!(errors(&said).starts_with(expected), "{said}");
        assert!(!said.contains("Container"), "{said}");
        assert_eq!(said.matches("error:").count(), 1, "{said}");
    }
}

#[test]
fn a_port_in_use_is_refused_before_anything_is_made() {
    let Some(world) = World::new() else { return };
    let listen = "import socket, time
taken = socket.create_server(('127.0.0.1', 8099))
print('listening', flush=True)
time.sleep(600)";
    let mut holder = support::stack::Foreground::start(world.command("python3").args(["-c", listen]));
    holder.wait_for("listening");
    let file = "name: p\nservices:\n  a: {image: \"BUSYBOX\", command: sleep 99, ports: [\"8099:80\"]}\n";
    world.write("compose.yaml", file.replace("BUSYBOX", &world.busybox()));
    let said = refused(&world, &["up", "-d"]);
    assert!(
        errors(&said)
            .starts_with("error: service \"a\": port 0.0.0.0:8099/tcp is in use by python3 (process "),
        "{said}"
    );
    assert!(!said.contains("Network"), "{said}");
    holder.signal(rustix::process::Signal::KILL);
    holder.end();
    world.run(&["down", "-v"]).ok();
    world.assert_nothing_left();
    let said = up_refused(
        &world,
        "name: p\nservices:\n  a: {image: \"BUSYBOX\", command: sleep 99, ports: [\"8098:80\"]}\n  \
         b: {image: \"BUSYBOX\", command: sleep 99, ports: [\"8098:81\"]}\n",
    );
    assert_eq!(
        errors(&said),
        "error: service \"b\": port 8098 is already published by container p-a-1\n"
    );
    assert!(!said.contains("Network"), "{said}");
}

#[test]
fn what_a_container_cannot_begin_with_is_named() {
    let Some(world) = World::new() else { return };
    let cases = [
        (
            "command: nosuchprog",
            "exec nosuchprog: executable file not found in $PATH",
        ),
        (
            "command: /bin/nosuchprog",
            "exec /bin/nosuchprog: no such file or directory",
        ),
        ("command: /etc/passwd", "exec /etc/passwd: permission denied"),
        (
            "command: sleep 99\n    user: nobodyx",
            "find user nobodyx: no such user in /etc/passwd of the container",
        ),
        (
            "command: sleep 99\n    working_dir: /etc/passwd",
            "chdir to /etc/passwd: not a directory",
        ),
    ];
    for (lines, expected) in cases {
        let said = up_refused(
            &world,
            &format!("name: c\nservices:\n  a:\n    image: \"BUSYBOX\"\n    {lines}\n"),
        );
        assert_eq!(errors(&said), format!("error: container c-a-1: {expected}\n"));
    }
}

#[test]
fn a_dependency_that_fails_keeps_its_dependents_down() {
    let Some(world) = World::new() else { return };
    let cases = [
        (
            "command: sleep 99\n    healthcheck: {test: \"false\", interval: 50ms, retries: 2}",
            "service_healthy",
            "error: dependency failed to start: container d-a-1 is unhealthy\n",
        ),
        (
            "command: \"false\"",
            "service_completed_successfully",
            "error: service \"a\" didn't complete successfully: exit 1\n",
        ),
        (
            "command: sleep 99",
            "service_healthy",
            "error: dependency failed to start: container d-a-1 has no healthcheck configured\n",
        ),
    ];
    for (lines, condition, expected) in cases {
        let said = up_refused(
            &world,
            &format!(
                "name: d\nservices:\n  a:\n    image: \"BUSYBOX\"\n    stop_signal: SIGKILL\n    {lines}\n  b:\n    \
                 image: \"BUSYBOX\"\n    depends_on: {{a: {{condition: {condition}}}}}\n"
            ),
        );
        assert_eq!(errors(&said), expected);
        assert!(!said.contains("d-b-1  Started"), "{said}");
    }
}

#[test]
fn a_machine_without_control_groups_is_named() {
    let Some(world) = World::new() else { return };
    let file = "name: g\nservices:\n  a:\n    image: \"BUSYBOX\"\n    command: sleep 99\n    stop_signal: SIGKILL\n    mem_limit: 64m\n";
    world.write("compose.yaml", file.replace("BUSYBOX", &world.busybox()));
    let hidden = |which: &str, args: &str| {
        // In a mount namespace of its own: nothing changes for anybody else.
        let script = format!("{which}; exec {} {args}", env!("CARGO_BIN_EXE_rcompose"));
        finish(world.command("unshare").args(["--mount", "sh", "-c", &script]))
    };
    let none =
        "for line in $(grep -o '/sys/fs/cgroup[^ ]*' /proc/self/mounts | sort -r); do umount $line; done";
    let output = hidden(none, "up -d");
    assert_eq!(output.code, 1, "{output:?}");
    assert!(
        output
            .stderr
            .starts_with("error: no cgroup hierarchy is mounted that can be written to: 'mount"),
        "{output:?}"
    );
    hidden(none, "down").ok();
    world.assert_nothing_left();

    if !std::path::Path::new("/sys/fs/cgroup/memory").exists() {
        println!("skipped in part: no cgroup v1 memory controller to hide");
        return;
    }
    let output = hidden("umount /sys/fs/cgroup/memory", "up -d").ok();
    assert!(
        output.stderr.contains("warning: container g-a-1: memory"),
        "{output:?}"
    );
    world.run(&["down"]).ok();
    world.assert_nothing_left();
}

#[test]
fn mistyped_commands_are_told_what_there_is() {
    let Some(world) = World::new() else { return };
    let file =
        "name: t\nservices:\n  web: {image: \"BUSYBOX\", command: sleep 99}\n  db: {image: \"BUSYBOX\"}\n";
    world.write("compose.yaml", file.replace("BUSYBOX", &world.busybox()));
    let help = "For more information, try '--help'.\n";
    let cases: [(&[&str], &str); 8] = [
        (
            &["up", "-d", "wbe"],
            "error: no such service: wbe\n = help: did you mean `web`?\n",
        ),
        (
            &["logs", "cache"],
            "error: no such service: cache\n = help: the services of the stack are web, db\n",
        ),
        (
            &["up", "--foo"],
            "error: unexpected argument '--foo' found\n\nUsage: rcompose up [OPTIONS] [SERVICES]...\n\n",
        ),
        (
            &["upp"],
            "error: unrecognized subcommand 'upp'\n\n  tip: a similar subcommand exists: 'up'\n\nUsage: rcompose [OPTIONS] <COMMAND>\n\n",
        ),
        (
            &["up", "--force-recreate", "--no-recreate"],
            "error: the argument '--force-recreate' cannot be used with '--no-recreate'\n\nUsage: rcompose up --force-recreate [SERVICES]...\n\n",
        ),
        (
            &["up", "-d", "--abort-on-container-exit"],
            "error: the argument '--detach' cannot be used with '--abort-on-container-exit'\n\nUsage: rcompose up --detach [SERVICES]...\n\n",
        ),
        (
            &["up", "--scale", "web"],
            "error: invalid value 'web' for '--scale <SERVICE=NUM>': use SERVICE=NUM\n\n",
        ),
        (
            &["exec", "web", "true"],
            "error: service \"web\" is not running\n  hint: 'rcompose up -d web' starts it\n",
        ),
    ];
    for (args, expected) in cases {
        let said = refused(&world, args);
        let expected = if expected.ends_with("\n\n") {
            format!("{expected}{help}")
        } else {
            expected.to_owned()
        };
        assert_eq!(said, expected, "{args:?}");
    }
    world.assert_nothing_left();
}

#[test]
fn down_of_nothing_says_so() {
    let Some(world) = World::new() else { return };
    let output = world.run(&["-p", "ghost", "down"]).ok();
    assert_eq!(
        output.stderr,
        "warning: no resource found to remove for project \"ghost\"\n"
    );
    assert_eq!(world.run(&["-p", "ghost", "ps", "-q"]).ok().stdout, "");
    world.assert_nothing_left();
}

#[test]
fn every_command_explains_itself() {
    let Some(world) = World::new() else { return };
    let commands = [
        "up", "down", "ps", "logs", "exec", "stop", "start", "restart", "config", "plan", "version",
    ];
    let overview = world.run(&["--help"]).ok().stdout;
    for command in commands {
        assert!(overview.contains(&format!("\n  {command} ")), "{overview}");
        let help = world.run(&[command, "--help"]).ok().stdout;
        assert!(help.contains(&format!("Usage: rcompose {command}")), "{help}");
    }
    let number = env!("CARGO_PKG_VERSION");
    assert_eq!(
        world.run(&["--version"]).ok().stdout,
        format!("rcompose {number}\n")
    );
    assert_eq!(
        world.run(&["version", "--short"]).ok().stdout,
        format!("{number}\n")
    );
}

#[test]
fn config_of_a_service_has_what_it_uses_and_no_more() {
    let Some(world) = World::new() else { return };
    world.write(
        "compose.yaml",
        "name: s\nservices:\n  web: {image: w, networks: [front], depends_on: [app]}\n  app: {image: a, networks: [back], \
         volumes: [\"code:/srv\"]}\n  db: {image: d, networks: [store], volumes: [\"rows:/rows\"]}\nnetworks: {front: , back: , store: }\n\
         volumes: {code: , rows: }\n",
    );
    let list = |flag: &str, service: &str| {
        let lines = world.run(&["config", flag, service]).ok().stdout;
        lines.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    // Lists are of the whole stack, as docker compose prints them.
    assert_eq!(list("--services", "web"), ["app", "db", "web"]);
    assert_eq!(list("--networks", "db"), ["back", "front", "store"]);
    assert_eq!(list("--volumes", "web"), ["code", "rows"]);
    let whole = world.run(&["config", "db"]).ok().stdout;
    assert!(whole.contains("s_rows") && !whole.contains("s_code"), "{whole}");
}

#[test]
fn several_files_standard_input_and_the_environment_make_one_stack() {
    let Some(world) = World::new() else { return };
    world.write(
        "base.yaml",
        "name: n\nservices:\n  a: {image: \"${IMAGE}\", environment: {X: base}}\n",
    );
    world.write(
        "more.yaml",
        "services:\n  a: {environment: {X: more}}\n  b: {image: b, profiles: [extra]}\n",
    );
    world.write("vars", "IMAGE=from-file\n");
    let merged = world
        .run(&[
            "-f",
            "base.yaml",
            "-f",
            "more.yaml",
            "--env-file",
            "vars",
            "config",
        ])
        .ok()
        .stdout;
    assert!(
        merged.contains("image: from-file") && merged.contains("X: more"),
        "{merged}"
    );
    let services = |args: &[&str]| {
        let files = ["-f", "base.yaml", "-f", "more.yaml", "--env-file", "vars"];
        world.run(&[&files, args].concat()).ok().stdout
    };
    assert_eq!(services(&["config", "--services"]), "a\n");
    assert_eq!(
        services(&["--profile", "extra", "config", "--services"]),
        "a\nb\n"
    );
    let piped = finish(world.command("sh").args([
        "-c",
        &format!(
            "printf 'services: {{a: {{image: x}}}}' | {} -p piped -f - config --images",
            env!("CARGO_BIN_EXE_rcompose")
        ),
    ]));
    assert_eq!(piped.ok().stdout, "x\n");
}

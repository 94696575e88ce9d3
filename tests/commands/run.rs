//! `run`: one-off containers.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use super::support::stack::{Foreground, Role, kill};
use super::support::{World, wait_for};
use super::{down, out, stack};

const SHOP: &str = "name: shop
services:
  db:
    image: BUSYBOX
    command: SERVE
    healthcheck: {test: 'true', interval: 1s}
  web:
    image: BUSYBOX
    command: SERVE
    container_name: fixed
    environment: {PLACE: file, KEPT: 'yes'}
    depends_on: {db: {condition: service_healthy}}
    ports: ['127.0.0.1:18090:80']
    volumes: ['/scratch']
    restart: always
";

/// Names of the containers that there are.
fn names(world: &World) -> Vec<String> {
    let list = world.ps();
    let mut names: Vec<String> = list
        .iter()
        .filter_map(|one| Some(one["Name"].as_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

#[test]
fn a_one_off_has_our_streams_its_own_definition_and_its_status() {
    let Some(world) = stack(SHOP) else { return };
    let ended = world.run(&[
        "run",
        "--rm",
        "-e",
        "PLACE=$HOME",
        "-u",
        "7",
        "-w",
        "/tmp",
        "web",
        "sh",
        "-c",
        "echo $PLACE $KEPT $(id -u) $(pwd); echo err >&2; exit 7",
    ]);
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (7, "$HOME yes 7 /tmp\n"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.ends_with("err\n"), "{}", ended.stderr);
    wait_for("its removal", || (names(&world) == ["shop-db-1"]).then_some(()));

    // Its input and the end of it, and more output than any buffer holds while
    // nobody reads.
    let mut child = world
        .rcompose(&["run", "--rm", "-T", "--quiet", "web", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent: Vec<u8> = (0..8 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
    let (mut stdout, wanted) = (child.stdout.take().unwrap(), sent.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let mut first = [0; 4096];
    stdout.read_exact(&mut first).unwrap();
    let mut got = first.to_vec();
    stdout.read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(got == wanted, "{} bytes of {}", got.len(), wanted.len());
    assert!(child.wait().unwrap().success());

    // The definition in the file counts where nothing else is said, and names
    // of the stack are known to it; it has none of the service's ports.
    let listed = out(&world, &["run", "--rm", "web", "nslookup", "db"]);
    assert!(listed.contains("Address"), "{listed}");
    let id = out(&world, &["run", "-d", "--name", "other", "web", "sleep", "100"]);
    let ps = world.ps();
    let other = ps.iter().find(|one| one["Name"] == "other").unwrap();
    assert!(
        id.len() == 65 && id.starts_with(other["ID"].as_str().unwrap()),
        "{id}"
    );
    assert_eq!(other["Publishers"], serde_json::json!([]));
    assert!(
        other["Labels"]
            .to_string()
            .contains("com.docker.compose.oneoff=True")
    );
    assert!(!out(&world, &["ps"]).contains("other"));
    let taken = world.run(&["run", "--name", "other", "web", "true"]);
    assert!(
        taken.code == 1 && taken.stderr.contains("taken"),
        "{}",
        taken.stderr
    );
    let published = out(
        &world,
        &["run", "-d", "-p", "127.0.0.1:18091:80", "web", "sleep", "100"],
    );
    let ps = world.ps();
    let one = ps
        .iter()
        .find(|one| published.starts_with(one["ID"].as_str().unwrap()))
        .unwrap();
    assert_eq!(one["Publishers"][0]["PublishedPort"], 18091);

    // The stack file may come from standard input, and paths from where they are typed.
    std::fs::create_dir_all(world.work().join("deep")).unwrap();
    std::fs::write(world.work().join("deep/file"), "x").unwrap();
    let mut piped = world.rcompose(&[
        "-f",
        "-",
        "-p",
        "shop",
        "run",
        "--rm",
        "-T",
        "--no-deps",
        "-v",
        "./deep:/here",
        "web",
        "ls",
        "/here",
    ]);
    let mut child = piped
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = std::fs::read(world.work().join("compose.yaml")).unwrap();
    child.stdin.take().unwrap().write_all(&text).unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"file\n");

    // Neither `up` nor `stop` mind it; what has ended goes with orphans.
    world.run(&["run", "web", "true"]).ok();
    world.run(&["up", "-d"]).ok();
    world.run(&["stop", "-t", "1"]).ok();
    assert_eq!(names(&world).len(), 5, "{:?}", names(&world));
    world.run(&["up", "-d", "--remove-orphans"]).ok();
    assert_eq!(names(&world).len(), 4, "{:?}", names(&world));
    let wrong = world.run(&["run", "--rm", "-v", "nowhere:/x", "web", "true"]);
    assert!(
        wrong.code == 1 && wrong.stderr.contains("undefined volume nowhere"),
        "{}",
        wrong.stderr
    );
    down(&world);
}

#[test]
fn a_one_off_without_its_dependencies_leaves_them_alone() {
    let Some(world) = stack(SHOP) else { return };
    assert_eq!(
        out(
            &world,
            &["run", "--rm", "--no-deps", "--entrypoint", "echo only", "web"]
        ),
        "only\n"
    );
    wait_for("its removal", || names(&world).is_empty().then_some(()));
    let plan = out(&world, &["--dry-run", "run", "web", "true"]);
    assert!(
        plan.contains("until db is healthy") && plan.contains("shop-web-run-"),
        "{plan}"
    );
    assert!(names(&world).is_empty());
    let failed = world.run(&["run", "--rm", "--no-deps", "web", "no-such-program"]);
    assert!(
        failed.code == 1 && failed.stderr.contains("not found in $PATH"),
        "{}",
        failed.stderr
    );
    wait_for("its removal", || names(&world).is_empty().then_some(()));
    down(&world);
}

#[test]
fn a_one_off_outlives_who_asked_and_who_made_it() {
    let Some(world) = stack(SHOP) else { return };
    let mut foreground = Foreground::start(&mut world.rcompose(&[
        "run",
        "--rm",
        "web",
        "sh",
        "-c",
        "echo begun; sleep 1; exit 3",
    ]));
    foreground.wait_for("begun");
    for pid in world.of_role(Role::Supervisor) {
        assert!(kill(pid));
    }
    wait_for("the next supervisor", || {
        (!world.of_role(Role::Supervisor).is_empty()).then_some(())
    });
    assert_eq!(foreground.end(), 3);
    wait_for("its removal", || (names(&world) == ["shop-db-1"]).then_some(()));

    let mut child = world.rcompose(&[
        "run",
        "--rm",
        "-T",
        "web",
        "sh",
        "-c",
        "cat; echo end > /scratch/end; sleep 0.2",
    ]);
    let mut child = child
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // Its input has ended with the client; when it has ended itself, it goes.
    wait_for("its end and removal", || {
        (names(&world) == ["shop-db-1"]).then_some(())
    });
    down(&world);
}

#[test]
fn start_waits_and_down_takes_images_along() {
    let Some(world) = stack("name: rmi\nservices: {web: {image: x}}\n") else {
        return;
    };
    let host = world.registry(&["busybox"]);
    world.write(
        "compose.yaml",
        format!(
            "name: rmi
services:
  web:
    image: {host}/busybox
    command: [sh, -c, 'sleep 0.3; touch /ready; sleep 1000']
    stop_signal: SIGKILL
    healthcheck: {{x-probe: {{file: /ready}}, interval: 1s}}
"
        ),
    );
    world.run(&["create", "--pull", "missing", "--quiet-pull"]).ok();
    world.run(&["start", "--wait", "--wait-timeout", "60"]).ok();
    assert!(out(&world, &["ps"]).contains("(healthy)"));
    world.run(&["down", "--rmi", "local"]).ok();
    assert_eq!(out(&world, &["image", "ls", "-q"]).lines().count(), 1);
    world.run(&["up", "-d", "--build", "--quiet-build"]).ok();
    let removed = world.run(&["down", "--rmi", "all"]).ok();
    assert!(removed.stderr.contains("busybox  Removed"), "{}", removed.stderr);
    assert_eq!(out(&world, &["image", "ls", "-q"]), "");
    let again = world.run(&["down", "--rmi", "all"]).ok();
    assert!(
        again.stderr.contains("no resource found to remove for image"),
        "{}",
        again.stderr
    );
    world.assert_nothing_left();
}

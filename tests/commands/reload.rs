//! Live reload: whichever file of the stack is saved, in whichever way.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use super::support::stack::Foreground;
use super::support::{World, wait_for};
use super::{down, stack};

const FILE: &str = "name: r
include: [parts/more.yaml]
services:
  web:
    extends: {file: base/base.yaml, service: base}
    image: BUSYBOX
    command: SERVE
    environment: {FROM_ENV: '${WORD}'}
    env_file: [own.env]
    label_file: [labels]
    configs: [settings]
    secrets: [password]
configs:
  settings: {file: ./mounted/settings}
secrets:
  password: {file: ./hidden/password}
";

/// Everything but the stack file itself.
fn world() -> Option<World> {
    let world = stack(FILE)?;
    for folder in ["parts", "base", "hidden", "mounted/..1"] {
        fs::create_dir_all(world.work().join(folder)).unwrap();
    }
    world.write(".env", "WORD=one\n");
    world.write("own.env", "OWN=one\n");
    world.write("labels", "l=one\n");
    world.write("base/base.yaml", "services: {base: {environment: {BASE: one}}}\n");
    let more = "services: {more: {image: BUSYBOX, command: SERVE, environment: {MORE: one}}}\n";
    world.write(
        "parts/more.yaml",
        more.replace("BUSYBOX", &world.busybox())
            .replace("SERVE", super::SERVE),
    );
    world.write("hidden/password", "one");
    world.write("mounted/..1/settings", "one");
    symlink("..1", world.work().join("mounted/..data")).unwrap();
    symlink("..data/settings", world.work().join("mounted/settings")).unwrap();
    Some(world)
}

#[track_caller]
fn shows(world: &World, service: &str, script: &str, expected: &str) {
    let mut last = String::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        // By name: the stack file may have errors.
        let output = world.run(&["-p", "r", "exec", "-T", service, "sh", "-c", script]);
        last = output.stdout;
        if last.trim() == expected {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{script} printed {last:?}, not {expected:?}");
}

#[test]
fn every_file_of_the_stack_is_followed_however_it_is_saved() {
    let Some(world) = world() else { return };
    let at = |name: &str| world.work().join(name);
    let mut up = Foreground::start(&mut world.rcompose(&["up"]));
    up.wait_for("Container r-web-1  Started");
    shows(&world, "web", "echo $FROM_ENV $OWN $BASE", "one one one");

    // Renamed over.
    world.write("fresh", "WORD=two\n");
    fs::rename(at("fresh"), at(".env")).unwrap();
    shows(&world, "web", "echo $FROM_ENV $OWN $BASE", "two one one");
    // Truncated and written.
    world.write("own.env", "OWN=two\n");
    shows(&world, "web", "echo $FROM_ENV $OWN $BASE", "two two one");
    // As vim does it: can the folder be written, the old one kept as a backup.
    world.write("base/4913", "");
    fs::remove_file(at("base/4913")).unwrap();
    world.write("base/.base.yaml.swp", "b0VIM");
    fs::rename(at("base/base.yaml"), at("base/base.yaml~")).unwrap();
    world.write("base/base.yaml", "services: {base: {environment: {BASE: two}}}\n");
    fs::remove_file(at("base/base.yaml~")).unwrap();
    fs::remove_file(at("base/.base.yaml.swp")).unwrap();
    shows(&world, "web", "echo $FROM_ENV $OWN $BASE", "two two two");
    // Removed, and made again.
    fs::remove_file(at("labels")).unwrap();
    up.wait_for("the stack file has errors; the running stack is left as it was");
    world.write("labels", "l=two\n");
    wait_for("the label", || {
        let list = world.ps();
        let web = list.iter().find(|one| one["Service"] == "web")?;
        web["Labels"].as_str()?.contains("l=two").then_some(())
    });
    // Swapped under it, as configuration maps are.
    let web = world.id_of("r-web-1");
    for (folder, word) in [("..2", "two"), ("..3", "three")] {
        fs::create_dir(at("mounted").join(folder)).unwrap();
        fs::write(at("mounted").join(folder).join("settings"), word).unwrap();
        symlink(folder, at("mounted/..fresh")).unwrap();
        fs::rename(at("mounted/..fresh"), at("mounted/..data")).unwrap();
        shows(&world, "web", "cat /settings", word);
    }
    // Its folder moved away, changed there, and moved back.
    fs::rename(at("hidden"), at("away")).unwrap();
    world.write("away/password", "two");
    fs::rename(at("away"), at("hidden")).unwrap();
    shows(&world, "web", "cat /run/secrets/password", "two");
    world.write("hidden/password", "three");
    shows(&world, "web", "cat /run/secrets/password", "three");
    assert_eq!(world.id_of("r-web-1"), web, "both change in place");
    // An included file that goes, and appears.
    let more = fs::read_to_string(at("parts/more.yaml")).unwrap();
    fs::remove_file(at("parts/more.yaml")).unwrap();
    up.wait_for("parts/more.yaml");
    up.wait_for("the stack file has errors; the running stack is left as it was");
    world.write("parts/more.yaml", more.replace("MORE: one", "MORE: two"));
    shows(&world, "more", "echo $MORE", "two");
    up.signal(rustix::process::Signal::INT);
    assert_eq!(up.end(), 130);
    down(&world);
}

#[test]
fn a_save_with_a_pause_in_it_and_two_at_once_end_as_the_last_one() {
    let Some(world) = world() else { return };
    let file = fs::read_to_string(world.work().join("compose.yaml")).unwrap();
    let mut up = Foreground::start(&mut world.rcompose(&["up"]));
    up.wait_for("Container r-web-1  Started");
    let more = world.id_of("r-more-1");
    // Truncated, and half of it written: what is there has errors, and nothing happens.
    let text = file.replace("'${WORD}'", "late");
    let (first, second) = text.split_at(text.find("image: ").unwrap());
    let mut saved = fs::File::create(world.work().join("compose.yaml")).unwrap();
    saved.write_all(first.as_bytes()).unwrap();
    up.wait_for("the stack file has errors; the running stack is left as it was");
    shows(&world, "more", "echo $MORE", "one");
    saved.write_all(second.as_bytes()).unwrap();
    drop(saved);
    shows(&world, "web", "echo $FROM_ENV", "late");
    // At once.
    for number in 0..20 {
        let text = file.replace("'${WORD}'", &format!("n{number}"));
        world.write("compose.yaml", &text);
    }
    shows(&world, "web", "echo $FROM_ENV", "n19");
    assert_eq!(world.id_of("r-more-1"), more, "the other one is not touched");
    drop(up);
    down(&world);
}

#[test]
fn a_checkout_of_a_thousand_files_is_one_reload() {
    const FILES: usize = 1000;
    let list: String = (0..FILES)
        .map(|number| format!("      - env/{number}\n"))
        .collect();
    let Some(world) = stack(&format!(
        "name: r\nservices:\n  web:\n    image: BUSYBOX\n    command: SERVE\n    env_file:\n{list}"
    )) else {
        return;
    };
    fs::create_dir_all(world.work().join("env")).unwrap();
    let check_out = |word: &str| {
        let lock = world.write(".git/index.lock", "");
        for number in 0..FILES {
            // As git does it.
            let path = world.work().join(format!("env/{number}"));
            let _ = fs::remove_file(&path);
            fs::write(path, format!("V{number}={word}\n")).unwrap();
        }
        fs::remove_file(lock).unwrap();
    };
    check_out("one");
    let count = |word: &str| format!("env | grep -c '^V[0-9]*={word}$'");
    let mut up = Foreground::start(&mut world.rcompose(&["up"]));
    up.wait_for("Container r-web-1  Started");
    shows(&world, "web", &count("one"), "1000");
    check_out("two");
    shows(&world, "web", &count("two"), "1000");
    up.signal(rustix::process::Signal::INT);
    let (code, said) = up.finish();
    assert_eq!(code, 130);
    let made = said
        .iter()
        .filter(|line| line.contains("Container r-web-1  Recreated"));
    assert_eq!(made.count(), 1, "{said:?}");
    down(&world);
}

/// A stack in which nothing that depends on `a` starts until `/ready` is in it.
fn waits() -> Option<(World, String)> {
    let world = stack(
        "name: r
services:
  a:
    image: BUSYBOX
    command: SERVE
    healthcheck: {test: 'test -e /ready', interval: 100ms, retries: 100000}
  more: {image: BUSYBOX, command: SERVE, environment: {MORE: one}}
",
    )?;
    let file = fs::read_to_string(world.work().join("compose.yaml")).unwrap();
    let b = "  b: {image: BUSYBOX, command: SERVE, depends_on: {a: {condition: service_healthy}}}\n";
    let b = b
        .replace("BUSYBOX", &world.busybox())
        .replace("SERVE", super::SERVE);
    Some((world, file + &b))
}

#[test]
fn a_save_overtakes_a_reload_that_takes_its_time() {
    let Some((world, longer)) = waits() else { return };
    let mut up = Foreground::start(&mut world.rcompose(&["up"]));
    up.wait_for("Container r-more-1  Started");
    world.write("compose.yaml", &longer);
    up.wait_for("Service a  Waiting");
    // One with errors is told of at once.
    world.write("compose.yaml", longer.replace("MORE: one", "MORE: ["));
    up.wait_for("the stack file has errors; the running stack is left as it was");
    // One without is what counts.
    world.write("compose.yaml", longer.replace("MORE: one", "MORE: two"));
    shows(&world, "more", "echo $MORE", "two");
    world.run(&["exec", "a", "touch", "/ready"]).ok();
    up.wait_for("Container r-b-1  Started");
    up.signal(rustix::process::Signal::INT);
    assert_eq!(up.end(), 130);
    down(&world);
}

#[test]
fn what_is_taken_back_while_a_container_stops_runs_again() {
    let Some(world) = stack(
        "name: r
services:
  web:
    image: BUSYBOX
    command: [sh, -c, 'trap \"sleep 5; exit 0\" TERM; echo ready; while :; do sleep 0.1; done']
    environment: {A: one}
",
    ) else {
        return;
    };
    let file = fs::read_to_string(world.work().join("compose.yaml")).unwrap();
    let mut up = Foreground::start(&mut world.rcompose(&["up"]));
    up.wait_for("| ready");
    world.write("compose.yaml", file.replace("A: one", "A: two"));
    up.wait_for("Container r-web-1  Stopping");
    world.write("compose.yaml", file);
    // As it was, but another run of it.
    up.wait_for("was being stopped");
    up.wait_for("| ready");
    shows(&world, "web", "echo $A", "one");
    up.signal(rustix::process::Signal::INT);
    assert_eq!(up.end(), 130);
    down(&world);
}

#[test]
fn what_is_stopped_by_hand_while_a_reload_stops_it_stays_stopped() {
    let Some(world) = stack(
        "name: r
services:
  web:
    image: BUSYBOX
    command: [sh, -c, 'trap \"sleep 5; exit 0\" TERM; echo ready; while :; do sleep 0.1; done']
    environment: {A: one}
  more: {image: BUSYBOX, command: SERVE, environment: {MORE: one}}
",
    ) else {
        return;
    };
    let file = fs::read_to_string(world.work().join("compose.yaml")).unwrap();
    let mut up = Foreground::start(&mut world.rcompose(&["up"]));
    up.wait_for("| ready");
    world.write("compose.yaml", file.replace("A: one", "A: two"));
    up.wait_for("Container r-web-1  Stopping");
    world.write("compose.yaml", file.replace("MORE: one", "MORE: two"));
    world.run(&["stop", "web"]).ok();
    // The reload goes on, and is over.
    shows(&world, "more", "echo $MORE", "two");
    let list = world.ps();
    let web = list.iter().find(|one| one["Service"] == "web").unwrap();
    assert_eq!(web["State"], "exited", "{web}");
    up.signal(rustix::process::Signal::INT);
    assert_eq!(up.end(), 130);
    down(&world);
}

#[test]
fn a_save_overtakes_the_first_start() {
    let Some((world, longer)) = waits() else { return };
    world.write("compose.yaml", &longer);
    let mut up = Foreground::start(&mut world.rcompose(&["up"]));
    up.wait_for("Service a  Waiting");
    world.write("compose.yaml", longer.replace("test -e /ready", "true"));
    up.wait_for("stack file changed");
    up.wait_for("Container r-b-1  Started");
    up.signal(rustix::process::Signal::INT);
    assert_eq!(up.end(), 130);
    down(&world);
}

#[test]
fn a_reload_gives_way_to_commands_and_goes_on_after_them() {
    let Some((world, longer)) = waits() else { return };
    let mut up = Foreground::start(&mut world.rcompose(&["up"]));
    up.wait_for("Container r-more-1  Started");
    world.write("compose.yaml", &longer);
    up.wait_for("Service a  Waiting");
    let restart = world.run(&["restart", "-t", "0", "more"]).ok();
    assert!(!restart.stderr.contains("another command"), "{}", restart.stderr);
    up.wait_for("Service a  Waiting");
    world.run(&["exec", "a", "touch", "/ready"]).ok();
    up.wait_for("Container r-b-1  Started");

    // Ctrl-C in the middle of one is the end of it.
    let last = longer.lines().last().unwrap().replace("  b:", "  c:");
    let third = longer.replace("/ready", "/other") + &last + "\n";
    world.write("compose.yaml", &third);
    up.wait_for("Service a  Waiting");
    up.signal(rustix::process::Signal::INT);
    let (code, said) = up.finish();
    assert_eq!(code, 130);
    assert!(
        !said.iter().any(|line| line.contains("another command")),
        "{said:?}"
    );
    assert!(world.ps().iter().all(|one| one["State"] != "running"));
    down(&world);
}

#[test]
fn a_reload_is_about_what_was_asked_for() {
    let Some(world) = stack(
        "name: r
services:
  a: {image: BUSYBOX, command: SERVE, environment: {A: one}, depends_on: [needed]}
  needed: {image: BUSYBOX, command: SERVE}
  other: {image: BUSYBOX, command: SERVE, environment: {A: one}}
",
    ) else {
        return;
    };
    let file = fs::read_to_string(world.work().join("compose.yaml")).unwrap();
    let save = |word: &str| world.write("compose.yaml", file.replace("A: one", &format!("A: {word}")));
    let names = || {
        let list = world.ps();
        let mut names: Vec<String> = list
            .iter()
            .filter_map(|one| Some(one["Name"].as_str()?.to_owned()))
            .collect();
        names.sort();
        names.join(" ")
    };
    let mut up = Foreground::start(&mut world.rcompose(&["up", "--scale", "a=2", "a"]));
    up.wait_for("Container r-a-2  Started");
    let needed = world.id_of("r-needed-1");
    save("two");
    shows(&world, "a", "echo $A", "two");
    wait_for("both", || (names() == "r-a-1 r-a-2 r-needed-1").then_some(()));
    // What others ask for is followed too, and a number of theirs stays.
    world
        .run(&[
            "up",
            "-d",
            "--no-recreate",
            "--scale",
            "other=2",
            "--scale",
            "a=3",
        ])
        .ok();
    save("three");
    shows(&world, "other", "echo $A", "three");
    up.wait_for("Container r-a-3  Started");
    assert_eq!(names(), "r-a-1 r-a-2 r-a-3 r-needed-1 r-other-1 r-other-2");
    // Until the file says another one; what is gone from it is gone.
    let (without, _) = file.split_at(file.find("  other:").unwrap());
    world.write(
        "compose.yaml",
        without.replace("{A: one}", "{A: three}, scale: 4"),
    );
    wait_for("four", || {
        (names() == "r-a-1 r-a-2 r-a-3 r-a-4 r-needed-1").then_some(())
    });
    assert_eq!(world.id_of("r-needed-1"), needed);
    drop(up);
    down(&world);
}

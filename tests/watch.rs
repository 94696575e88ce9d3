//! Sources that are followed, on real stacks.
// Clippy takes only functions marked as tests for tests.
#![allow(clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use support::stack::{Foreground, Role};
use support::{World, wait_for};

/// Serves until SIGTERM, and has said when it was started.
const SERVE: &str =
    "[\"sh\", \"-c\", \"echo started >> /starts; trap 'exit 0' TERM; while :; do sleep 1 & wait; done\"]";

fn stack(file: &str) -> Option<World> {
    let world = World::new()?;
    write(&world, file);
    fs::create_dir(world.work().join("src")).unwrap();
    Some(world)
}

fn write(world: &World, file: &str) {
    let file = file.replace("BUSYBOX", &world.busybox()).replace("SERVE", SERVE);
    world.write("compose.yaml", file);
}

/// What a shell in the container prints.
fn inside(world: &World, service: &str, script: &str) -> String {
    world.run(&["exec", "-T", service, "sh", "-c", script]).stdout
}

/// The root of a container as its process 1 sees it.
fn root(world: &World) -> std::path::PathBuf {
    let monitors = world.of_role(Role::Monitor);
    let pid = wait_for("process 1", || {
        let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", monitors[0])).unwrap();
        list.split_whitespace().next().map(str::to_owned)
    });
    Path::new("/proc").join(pid).join("root")
}

#[track_caller]
fn shows(world: &World, service: &str, script: &str, expected: &str) {
    let mut last = String::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        last = inside(world, service, script);
        if last == expected {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{script} printed {last:?}, not {expected:?}");
}

#[track_caller]
fn down(world: &World) {
    world.run(&["down", "-v", "-t", "2"]).ok();
    world.assert_nothing_left();
}

#[test]
fn files_folders_and_links_are_synced_and_removed() {
    let Some(world) = stack(
        "name: w
services:
  web:
    image: BUSYBOX
    command: SERVE
    develop:
      watch:
        - {path: ./src, action: sync, target: /app, ignore: [skip/, '*.tmp', '!keep.tmp'], initial_sync: true}
        - {path: ./one.conf, action: sync+exec, target: /etc/, exec: {command: [sh, -c, 'cat /etc/one.conf >> /ran']}}
",
    ) else {
        return;
    };
    let src = world.work().join("src");
    fs::write(src.join("first"), "1").unwrap();
    fs::write(src.join("no.tmp"), "1").unwrap();
    world.write("one.conf", "a");
    let mut watch = Foreground::start(&mut world.rcompose(&["watch", "--explain"]));
    watch.wait_for("Watch enabled for web");
    shows(&world, "web", "cat /app/*", "1");

    // Directories, permissions, links.
    fs::create_dir_all(src.join("d/e")).unwrap();
    fs::write(src.join("d/e/run"), "#!").unwrap();
    fs::set_permissions(src.join("d/e/run"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("e/run", src.join("d/link")).unwrap();
    shows(
        &world,
        "web",
        "cd /app; stat -c %a d/e/run; readlink d/link",
        "755\ne/run\n",
    );
    // What is ignored is not, what is taken back is; and it is said.
    fs::create_dir(src.join("skip")).unwrap();
    fs::write(src.join("skip/x"), "1").unwrap();
    fs::write(src.join("other.tmp"), "1").unwrap();
    watch.wait_for("other.tmp (ignore: *.tmp)");
    fs::write(src.join("keep.tmp"), "kept").unwrap();
    watch.wait_for("keep.tmp -> /app/keep.tmp");
    shows(&world, "web", "cd /app; ls", "d\nfirst\nkeep.tmp\n");
    // A folder is renamed; what only the container has stays.
    inside(&world, "web", "touch /app/d/own");
    fs::rename(src.join("d"), src.join("n")).unwrap();
    shows(
        &world,
        "web",
        "cd /app; find . -type f | sort",
        "./d/own\n./first\n./keep.tmp\n./n/e/run\n",
    );
    fs::remove_dir_all(src.join("n")).unwrap();
    shows(&world, "web", "cd /app; ls", "d\nfirst\nkeep.tmp\n");
    // One file, saved as editors do, into a folder, and a command after it.
    world.write("one.conf.new", "b");
    fs::rename(world.work().join("one.conf.new"), world.work().join("one.conf")).unwrap();
    watch.wait_for("web: command run");
    shows(&world, "web", "cat /etc/one.conf /ran", "bb");
    drop(watch);
    down(&world);
}

#[test]
fn nothing_is_lost_over_restarts_replacements_and_absence() {
    let file = "name: w
services:
  web:
    image: BUSYBOX
    command: SERVE
    environment: {A: a}
    develop:
      watch:
        - {path: ./src, action: sync, target: /app}
        - {path: ./conf, action: sync+restart, target: /conf}
        - {path: ./trigger, action: restart}
";
    let Some(world) = stack(file) else { return };
    let src = world.work().join("src");
    fs::create_dir(world.work().join("conf")).unwrap();
    fs::write(src.join("image"), "0").unwrap();
    world.run(&["up", "-d", "--watch"]).ok();
    // It has what the image has: nothing is copied that did not change.
    let mut watch = Foreground::start(&mut world.rcompose(&["watch", "--no-up"]));
    watch.wait_for("Watch enabled");
    fs::write(src.join("f"), "1").unwrap();
    shows(&world, "web", "cd /app; cat *; wc -l < /starts", "11\n");
    world.write("conf/c", "1");
    watch.wait_for("web: restarted");
    shows(&world, "web", "cat /conf/c; wc -l < /starts", "12\n");
    world.write("trigger", "1");
    watch.wait_for("web: restarted");
    shows(&world, "web", "cat /conf/c; wc -l < /starts", "13\n");
    // Saved in the middle of a restart.
    world.write("conf/c", "2");
    for number in 0..50 {
        fs::write(src.join("f"), format!("{number}")).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    watch.wait_for("web: restarted");
    shows(&world, "web", "cat /app/f /conf/c", "492");
    drop(watch);

    // The supervisor is killed; what changes meanwhile is there afterwards.
    let supervisor = world.of_role(Role::Supervisor);
    fs::remove_file(src.join("f")).unwrap();
    fs::write(src.join("g"), "3").unwrap();
    for pid in supervisor {
        support::stack::kill(pid);
    }
    fs::write(src.join("h"), "4").unwrap();
    shows(&world, "web", "cd /app; cat *", "34");

    // Nobody watches.
    world.run(&["up", "-d"]).ok();
    fs::write(src.join("h"), "5").unwrap();
    fs::remove_file(src.join("g")).unwrap();
    fs::write(src.join("i"), "6").unwrap();
    world.run(&["up", "-d", "--watch"]).ok();
    shows(&world, "web", "cd /app; cat *", "56");

    // A container that replaces it has all that was copied.
    write(&world, &file.replace("A: a", "A: b"));
    wait_for("the replacement", || {
        (inside(&world, "web", "echo $A") == "b\n").then_some(())
    });
    shows(&world, "web", "cd /app; cat *; cat /conf/c", "562");
    // Stopped, which ends the watching too, and brought up again.
    world.run(&["stop", "-t", "2"]).ok();
    fs::write(src.join("i"), "7").unwrap();
    world.run(&["up", "-d", "--watch"]).ok();
    shows(&world, "web", "cd /app; cat *", "57");
    down(&world);
}

#[test]
fn a_save_is_there_at_once_and_a_checkout_is_one_batch() {
    let Some(world) = stack(
        "name: w
services:
  web:
    image: BUSYBOX
    command: SERVE
    develop: {watch: [{path: ./src, action: sync, target: /app}]}
",
    ) else {
        return;
    };
    let src = world.work().join("src");
    fs::create_dir(world.work().join(".git")).unwrap();
    let mut watch = Foreground::start(&mut world.rcompose(&["up", "--watch"]));
    watch.wait_for("Watch enabled");
    let app = root(&world).join("app");
    let mut times = Vec::new();
    for number in 0..20 {
        let path = src.join(format!("one{number}"));
        fs::write(&path, "x").unwrap();
        let since = Instant::now();
        wait_fast(|| app.join(format!("one{number}")).exists());
        times.push(since.elapsed());
    }
    times.sort();
    // 10 ms is for a release build on a machine of its own.
    println!("one file: median {:?}, worst {:?}", times[10], times[19]);
    assert!(times[10] < Duration::from_millis(100), "{times:?}");
    // As git does it, however long the machine takes.
    let lock = world.write(".git/index.lock", "");
    for number in 0..1000 {
        fs::write(src.join(format!("f{number}")), format!("{number}")).unwrap();
    }
    fs::remove_file(lock).unwrap();
    let since = Instant::now();
    wait_fast(|| fs::read_dir(&app).is_ok_and(|list| list.count() >= 1020));
    println!("1,000 files: {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(3));
    watch.wait_for("1000 copied");
    watch.signal(rustix::process::Signal::INT);
    assert_eq!(watch.end(), 130);
    down(&world);
}

#[track_caller]
fn wait_fast(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "it never came");
        std::thread::sleep(Duration::from_micros(300));
    }
}

#[test]
fn what_cannot_be_followed_is_refused() {
    let Some(world) = stack("name: w\nservices: {web: {image: BUSYBOX}}\n") else {
        return;
    };
    for command in [&["watch"][..], &["up", "--watch"]] {
        let output = world.run(command);
        assert_eq!(output.code, 1);
        assert!(
            output
                .stderr
                .contains("none of the selected services is configured for watch"),
            "{}",
            output.stderr
        );
    }
    write(
        &world,
        "name: w
services:
  web:
    image: BUSYBOX
    develop: {watch: [{path: ./src, action: rebuild}]}
",
    );
    let output = world.run(&["watch"]);
    assert_eq!(output.code, 1);
    assert!(
        output.stderr.contains("\"rebuild\" is not supported") && output.stderr.contains("compose.yaml:5"),
        "{}",
        output.stderr
    );
    write(
        &world,
        "name: w
services:
  web:
    image: BUSYBOX
    volumes: ['./src:/app']
    develop: {watch: [{path: ./src, action: sync, target: /app}]}
",
    );
    let output = world.run(&["--dry-run", "watch"]);
    assert!(
        output.stderr.contains("is mounted into the container already"),
        "{}",
        output.stderr
    );
    world.assert_nothing_left();
}

#[test]
fn every_way_of_saving_a_source_reaches_the_container_and_nothing_else_does() {
    let Some(world) = stack(
        "name: w
services:
  web:
    image: BUSYBOX
    command: SERVE
    develop: {watch: [{path: ./src, action: sync, target: /app, initial_sync: true}]}
",
    ) else {
        return;
    };
    let src = world.work().join("src");
    let save = |name: &str, text: &str| fs::write(src.join(name), text).unwrap();
    save("f", "one");
    world.run(&["up", "-d", "--watch"]).ok();
    shows(&world, "web", "cat /app/f", "one");
    inside(&world, "web", "chown 7:8 /app; chown 9:9 /app/f");
    // Renamed over it; the file in the container keeps its owner.
    save(".f.fresh", "two");
    fs::rename(src.join(".f.fresh"), src.join("f")).unwrap();
    shows(&world, "web", "cat /app/f; stat -c ' %u:%g' /app/f", "two 9:9\n");
    // Truncated, and written with a pause in it.
    {
        use std::io::Write as _;
        let mut file = fs::File::create(src.join("g")).unwrap();
        file.write_all(b"half").unwrap();
        shows(&world, "web", "cat /app/g", "half");
        file.write_all(b" and half").unwrap();
    }
    shows(
        &world,
        "web",
        "cat /app/g; stat -c ' %u:%g' /app/g",
        "half and half 7:8\n",
    );
    // As vim does it.
    save("4913", "");
    fs::remove_file(src.join("4913")).unwrap();
    save(".f.swp", "b0VIM");
    fs::rename(src.join("f"), src.join("f~")).unwrap();
    save("f", "three");
    shows(&world, "web", "cat /app/f", "three");
    fs::remove_file(src.join(".f.swp")).unwrap();
    // Of the same size, with the same time, under the same inode number: as two
    // saves within a tick of the clock are.
    let file = fs::File::options().write(true).open(src.join("f")).unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    for text in ["TEHRE", "there"] {
        std::os::unix::fs::FileExt::write_all_at(&file, text.as_bytes(), 0).unwrap();
        file.set_modified(time).unwrap();
        shows(&world, "web", "cat /app/f", text);
    }
    drop(file);
    // Removed, and made again.
    fs::remove_file(src.join("f")).unwrap();
    shows(&world, "web", "test -e /app/f || echo gone", "gone\n");
    save("f", "five");
    shows(&world, "web", "cat /app/f", "five");
    // All of it moved away, changed there, and moved back.
    fs::create_dir(src.join("d")).unwrap();
    save("d/x", "1");
    shows(&world, "web", "cat /app/d/x", "1");
    let away = world.work().join("away");
    fs::rename(&src, &away).unwrap();
    shows(&world, "web", "ls /app", "");
    fs::write(away.join("d/x"), "2").unwrap();
    fs::rename(&away, &src).unwrap();
    shows(&world, "web", "cat /app/d/x /app/f", "2five");
    save("d/x", "3");
    shows(&world, "web", "cat /app/d/x", "3");
    shows(
        &world,
        "web",
        "cd /app; find . -type f | sort",
        "./d/x\n./f\n./g\n",
    );
    down(&world);
}

#[test]
fn several_rules_on_one_path_each_take_what_is_theirs() {
    let Some(world) = stack(
        "name: w
services:
  web:
    image: BUSYBOX
    command: SERVE
    develop:
      watch:
        - {path: ./src, action: sync, target: /js, include: ['**/*.js'], initial_sync: true}
        - {path: ./src, action: sync, target: /all, initial_sync: true}
        - {path: ./src, action: sync+restart, target: /conf, include: ['*.conf', '!own.conf']}
",
    ) else {
        return;
    };
    let src = world.work().join("src");
    let save = |name: &str, text: &str| fs::write(src.join(name), text).unwrap();
    fs::create_dir(src.join("lib")).unwrap();
    save("lib/a.js", "1");
    save("b.css", "1");
    save("kept", "1");
    // Everything but what is taken back.
    save(".dockerignore", "# none\n*.css\n!kept\n");
    let mut watch = Foreground::start(&mut world.rcompose(&["watch", "--explain"]));
    watch.wait_for("Watch enabled");
    let list = "cd /$1; find . -type f ! -name .dockerignore | sort | tr '\\n' ' '";
    let of = |folder: &str| list.replace("$1", folder);
    shows(&world, "web", &of("js"), "./lib/a.js ");
    shows(&world, "web", &of("all"), "./kept ./lib/a.js ");
    save("lib/c.js", "2");
    shows(&world, "web", &of("js"), "./lib/a.js ./lib/c.js ");
    shows(&world, "web", &of("all"), "./kept ./lib/a.js ./lib/c.js ");
    save("own.conf", "2");
    watch.wait_for("own.conf -> /all/own.conf");
    shows(&world, "web", "wc -l < /starts", "1\n");
    save("web.conf", "2");
    watch.wait_for("web: restarted");
    shows(&world, "web", "cat /conf/web.conf; wc -l < /starts", "22\n");
    // What is ignored changes while it is followed.
    save(".dockerignore", "*\n!lib\n");
    save("d.css", "3");
    save("lib/e.css", "3");
    shows(&world, "web", "cat /all/lib/e.css", "3");
    shows(&world, "web", "test -e /all/d.css || echo ignored", "ignored\n");
    drop(watch);
    down(&world);
}

//! Any process of ours may be killed at any instruction: what runs goes on, the
//! next command converges, and nothing is left behind.

// Clippy takes only functions marked as tests for tests.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use support::World;
use support::stack::{Foreground, Process, Role, kill};

/// Rounds of the random test. `RCOMPOSE_KILL_ROUNDS=1000` does more of them, with
/// no limit of time; `RCOMPOSE_KILL_SEED`, which every run prints, repeats one as
/// far as the machine lets it. `RCOMPOSE_KILL_RUNTIME` is another OCI runtime that
/// one of the services is run by.
const ROUNDS: u32 = 100;
/// No further round is begun after this, unless the number was chosen.
const BUDGET: Duration = Duration::from_secs(170);

/// Several services: two networks, a volume, a published port, a health
/// condition, restart policies, replicas, an anonymous volume, a user of its
/// own, an init process, and one that ends.
fn stack(image: &str, greeting: &str) -> String {
    let runtime = std::env::var("RCOMPOSE_KILL_RUNTIME").unwrap_or_else(|_| "runc".to_owned());
    format!(
        r#"name: shop
services:
  web:
    image: {image}
    command: [sh, -c, "mkdir -p /www && echo $$GREETING > /www/index.html && exec httpd -f -p 80 -h /www"]
    environment: {{GREETING: {greeting}}}
    ports: ["127.0.0.1:8080:80"]
    networks: [front, back]
    restart: always
    stop_signal: SIGKILL
    depends_on:
      store: {{condition: service_healthy}}
      once: {{condition: service_completed_successfully}}
  store:
    image: {image}
    command: [sh, -c, "trap 'exit 0' TERM; test -e /data/row || echo first > /data/row; touch /tmp/ready; while :; do sleep 1 & wait $$!; done"]
    volumes: ["data:/data", "/scratch"]
    runtime: {runtime}
    networks: [back]
    restart: always
    healthcheck: {{test: [CMD, test, -e, /tmp/ready], interval: 300ms}}
  worker:
    image: {image}
    command: [sleep, "100000"]
    init: true
    user: "1000:1000"
    networks: [front]
    volumes: ["memory:/memory"]
    environment: {{GREETING: {greeting}}}
    restart: unless-stopped
    deploy:
      replicas: 2
      update_config: {{order: start-first, parallelism: 1, monitor: 50ms}}
  once:
    image: {image}
    command: ["true"]
    networks: [back]
networks:
  front:
  back:
    internal: true
volumes:
  data:
  memory:
    driver_opts: {{type: tmpfs, device: tmpfs, o: size=1m}}
"#
    )
}

/// Two more services for that stack. One prints numbered lines, and notes for each
/// of its runs the last that was printed; the other ends with a status of its own.
fn with_witnesses(world: &World, greeting: &str) -> String {
    let image = world.busybox();
    std::fs::create_dir_all(world.work().join("notes")).unwrap();
    let witnesses = format!(
        r#"
  writer:
    image: {image}
    command:
      - sh
      - -c
      - |
        run=$$(cat /proc/sys/kernel/random/uuid)
        notes=/notes/$$(hostname).$$run
        i=0
        while echo "out $$run $$i" && echo "err $$run $$i" >&2
        do
          echo $$i >> $$notes
          i=$$((i + 1))
          [ $$((i % 50)) -ne 0 ] || sleep 0.05
        done
    volumes: ["./notes:/notes"]
    network_mode: none
    restart: always
    stop_signal: SIGKILL
  seven:
    image: {image}
    command: [sh, -c, "exit 7"]
    network_mode: none
networks:
  front:
"#
    );
    stack(&image, greeting).replace("\nnetworks:\n  front:\n", &witnesses)
}

/// What containers that are there have printed and how they have ended, beside what
/// they say themselves.
#[derive(Debug, Default)]
struct Witnesses {
    /// Runs whose monitor was killed with nobody there who could go on for it.
    excused: BTreeSet<String>,
    /// The supervisor was killed, and may not have been followed by another yet.
    alone: bool,
    /// How many runs were looked at after their monitor was killed alone.
    killed: usize,
}

impl Witnesses {
    /// The runs there have been, by the beginning of the container's id: the last
    /// number that each has noted.
    fn notes(world: &World) -> Vec<(String, String, u64)> {
        let folder = world.work().join("notes");
        let mut notes = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let (id, run) = name.split_once('.').unwrap();
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            // Its last line may be half written.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            if let Some(last) = whole.lines().last() {
                notes.push((id.to_owned(), run.to_owned(), last.parse().unwrap()));
            }
        }
        notes
    }

    /// Takes in whom this round has killed, and whether a supervisor has answered
    /// all that it was asked.
    fn round(&mut self, world: &World, killed: &[Role], answered: bool) {
        let supervisor = killed.contains(&Role::Supervisor);
        if killed.contains(&Role::Monitor) {
            if supervisor || self.alone {
                self.excused
                    .extend(Self::notes(world).into_iter().map(|(_, run, _)| run));
            } else {
                self.killed += 1;
            }
        }
        // One that answers has taken over before.
        self.alone = supervisor || (self.alone && !answered);
    }

    /// Everything runs, so a supervisor has taken over.
    fn settled(&mut self) {
        self.alone = false;
    }

    /// Fails the test unless every line that a run has noted is in the log of its
    /// container, once and in its place, in both streams.
    #[track_caller]
    fn look(&self, world: &World, monitors: bool) {
        support::wait_for("every line that was printed to be in the log", || {
            let notes = Self::notes(world);
            let text = world.run(&["logs", "--no-log-prefix", "writer"]).stdout;
            let mut next: BTreeMap<(&str, &str), u64> = BTreeMap::new();
            for line in text.lines() {
                let words: Vec<&str> = line.split(' ').collect();
                let [stream @ ("out" | "err"), run, number] = words[..] else {
                    panic!("{line:?}")
                };
                let expected = next.entry((stream, run)).or_default();
                let number: u64 = number.parse().unwrap();
                assert!(
                    number == *expected || self.excused.contains(run),
                    "{line:?} where {expected} comes next"
                );
                *expected = number + 1;
            }
            let there: Vec<String> = world
                .ps()
                .iter()
                .map(|one| one["ID"].as_str().unwrap().to_owned())
                .collect();
            let whole = notes.iter().all(|(id, run, last)| {
                let has = |stream| next.get(&(stream, run.as_str())).is_some_and(|next| next > last);
                self.excused.contains(run)
                    || !there.iter().any(|one| one.starts_with(id) || id.starts_with(one))
                    || (has("out") && has("err"))
            });
            whole.then_some(())
        });
        for container in world.ps() {
            if container["Service"] == "seven" && container["State"] == "exited" {
                let code = &container["ExitCode"];
                // Its monitor may have taken it along before it came to its end.
                assert!(*code == 7 || (monitors && *code == 137), "{container}");
            }
        }
    }
}

/// Numbers that a seed repeats (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(u64::try_from(count).unwrap())).unwrap()
    }
}

/// Shows what supervisors had to complain about.
fn show_log(world: &World) {
    let log = world.state().join("stacks/shop/supervisor.log");
    if let Ok(text) = std::fs::read_to_string(log) {
        print!("{text}");
    }
}

/// Whom to kill: mostly one process, of a role chosen first since most are
/// monitors; now and then all of them at once.
fn victims(world: &World, random: &mut Random) -> Vec<Process> {
    let all = world.ours();
    let mut roles: Vec<Role> = all.iter().map(|process| process.role).collect();
    roles.sort();
    roles.dedup();
    if roles.is_empty() || random.below(15) == 0 {
        return all;
    }
    let role = roles[random.index(roles.len())];
    let among: Vec<Process> = all.into_iter().filter(|process| process.role == role).collect();
    vec![among[random.index(among.len())]]
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Lets so much time pass, to the microsecond.
fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::thread::yield_now();
    }
}

/// Waits until everything of the stack runs, is healthy, answers and is found,
/// with one supervisor.
#[track_caller]
fn assert_up(world: &World, greeting: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut list = world.ps();
        list.retain(|container| container["Service"] != "writer" && container["Service"] != "seven");
        // Numbers may have gaps: a new replica gets the next higher one.
        let running = |service: &str, health: &str| {
            let meant = list.iter().filter(|container| {
                container["Service"] == service
                    && container["State"] == "running"
                    && container["Health"] == health
            });
            meant.count()
        };
        if list.len() == 5
            && running("web", "") == 1
            && running("store", "healthy") == 1
            && running("worker", "") == 2
        {
            break;
        }
        if Instant::now() > deadline {
            show_log(world);
            let shown = world.run(&["ps", "-a"]).stdout;
            panic!(
                "not every container runs and is healthy:\n{shown}\n{:?}",
                world.ours()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    support::wait_for("the published port to answer", || {
        let answer = world.get("http://127.0.0.1:8080/");
        (answer.stdout.trim() == greeting).then_some(())
    });
    let inside = |script: &str| world.run(&["exec", "-T", "web", "sh", "-c", script]);
    support::wait_for("names to resolve", || {
        let found =
            inside("nslookup store >/dev/null && nslookup worker >/dev/null && wget -qO- http://web/");
        (found.code == 0 && found.stdout.trim() == greeting).then_some(())
    });
    support::wait_for("exactly one supervisor", || {
        (world.of_role(Role::Supervisor).len() == 1).then_some(())
    });
    let row = world
        .run(&["exec", "-T", "store", "cat", "/data/row"])
        .ok()
        .stdout;
    assert_eq!(row.trim(), "first", "the volume keeps its data");
}

fn world(greeting: &str) -> Option<World> {
    let world = World::new()?;
    world.write("compose.yaml", stack(&world.busybox(), greeting));
    Some(world)
}

#[test]
fn random_kills_leave_nothing_and_lose_nothing() {
    let Some(world) = World::new() else { return };
    world.write("compose.yaml", with_witnesses(&world, "one"));
    let seed = number_from("RCOMPOSE_KILL_SEED")
        .unwrap_or_else(|| u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap());
    let chosen = number_from("RCOMPOSE_KILL_ROUNDS").map(|rounds| u32::try_from(rounds).unwrap());
    let rounds = chosen.unwrap_or(ROUNDS);
    println!("RCOMPOSE_KILL_SEED={seed}");
    let mut random = Random(seed | 1);
    let begun = Instant::now();
    let (mut greeting, mut kills, mut monitors) = ("one", 0, false);
    let mut witnesses = Witnesses::default();
    for round in 1..=rounds {
        if chosen.is_none() && begun.elapsed() > BUDGET {
            println!("{} rounds only: this machine is slow or busy", round - 1);
            break;
        }
        // Another greeting is saved while the supervisor follows the file.
        let mut saves = false;
        let command: &[&str] = match random.below(15) {
            10 => &["run", "--rm", "-T", "once", "sleep", "0.1"],
            11 => &["run", "--rm", "-T", "worker", "true"],
            12 => &["scale", "worker=3"],
            13 => &["scale", "worker=1"],
            14 => {
                saves = true;
                &["up", "-d", "--watch"]
            }
            0..3 => &["up", "-d"],
            3..6 => {
                greeting = if greeting == "one" { "two" } else { "one" };
                world.write("compose.yaml", with_witnesses(&world, greeting));
                &["up", "-d"]
            }
            6 => &["restart"],
            7 => &["stop"],
            8 => &["restart", "store", "worker"],
            _ => &["down"],
        };
        let mut commands = vec![command];
        // Sometimes two at once.
        if random.below(5) == 0 {
            let second: &[&str] = [&["up", "-d"][..], &["down"], &["stop", "web"]][random.index(3)];
            commands.push(second);
        }
        let mut log = format!("round {round}: {commands:?}");
        let mut killed = Vec::new();
        let running: Vec<Foreground> = commands
            .iter()
            .map(|command| Foreground::start(&mut world.rcompose(command)))
            .collect();
        for _ in 0..=random.below(4) {
            spin(Duration::from_micros(random.below(250_000)));
            if saves {
                greeting = if greeting == "one" { "two" } else { "one" };
                world.write("compose.yaml", with_witnesses(&world, greeting));
            }
            for victim in victims(&world, &mut random) {
                if victim.kill() {
                    kills += 1;
                    killed.push(victim.role);
                    log += &format!(", {:?} killed", victim.role);
                }
            }
        }
        let mut answered = false;
        for command in running {
            let (code, said) = command.finish();
            answered |= code == 0;
            log += &format!(": {code}");
            for line in said.iter().filter(|line| line.contains("rror")) {
                log += &format!("\n    {line}");
            }
        }
        println!("{log} at {:?}", begun.elapsed());
        witnesses.round(&world, &killed, answered);
        monitors |= killed.contains(&Role::Monitor);
        witnesses.look(&world, monitors);
        match random.below(6) {
            0 => {
                show_log(&world);
                world.run(&["down"]).ok();
                world.assert_nothing_left();
                witnesses.settled();
                monitors = false;
            }
            1 | 2 => {
                world.run(&["up", "-d"]).ok();
                assert_up(&world, greeting);
                witnesses.settled();
                witnesses.look(&world, monitors);
            }
            _ => {}
        }
    }
    println!(
        "{kills} processes killed; in {} rounds a monitor that had to be gone on for",
        witnesses.killed
    );
    world.run(&["up", "-d"]).ok();
    assert_up(&world, greeting);
    witnesses.look(&world, monitors);
    world.run(&["down", "-v"]).ok();
    world.assert_nothing_left();
    let volumes = world.state().join("volumes");
    let left: Vec<_> = std::fs::read_dir(&volumes).unwrap().flatten().collect();
    assert!(left.is_empty(), "volumes are left: {left:?}");
}

#[test]
fn a_killed_supervisor_comes_back_without_a_command() {
    let Some(world) = world("one") else { return };
    world.run(&["up", "-d", "--wait"]).ok();
    assert_up(&world, "one");
    let before: Vec<_> = world.of_role(Role::Monitor);
    let old = world.of_role(Role::Supervisor)[0];
    assert!(kill(old));
    // A connection made while nobody serves waits in the backlog.
    assert_eq!(world.get("http://127.0.0.1:8080/").ok().stdout.trim(), "one");
    let new = support::wait_for("another supervisor", || {
        world
            .of_role(Role::Supervisor)
            .into_iter()
            .find(|pid| *pid != old)
    });
    assert_ne!(new, old);
    assert_up(&world, "one");
    assert_eq!(world.of_role(Role::Monitor), before, "containers have gone on");
    // It goes on restarting what ends.
    let id = world.id_of("shop-worker-1");
    world.run(&["exec", "-T", "web", "true"]).ok();
    let started = started(&world, "shop-worker-1");
    assert!(kill(init_of(&world, &id)));
    support::wait_for("the restart policy to act", || {
        let again = running(&world, "shop-worker-1")?;
        (again > started).then_some(())
    });
    // And it is brought back as often as it is killed, also before it is ready.
    for _ in 0..5 {
        kill(support::wait_for("a supervisor", || {
            world.of_role(Role::Supervisor).first().copied()
        }));
    }
    assert_up(&world, "one");
    world.run(&["down", "-v"]).ok();
    world.assert_nothing_left();
}

#[test]
fn what_ends_while_no_supervisor_is_there_is_started_again() {
    let Some(world) = world("one") else { return };
    world.run(&["up", "-d", "--wait"]).ok();
    let id = world.id_of("shop-worker-1");
    let started = started(&world, "shop-worker-1");
    let supervisor = world.of_role(Role::Supervisor)[0];
    let (monitor, init) = (monitor_of(&world, &id), init_of(&world, &id));
    assert!(kill(supervisor));
    kill(init);
    kill(monitor);
    support::wait_for("the restart policy to act", || {
        let again = running(&world, "shop-worker-1")?;
        (again > started).then_some(())
    });
    assert_up(&world, "one");
    world.run(&["down", "-v"]).ok();
    world.assert_nothing_left();
}

#[test]
fn a_killed_monitor_takes_its_container_along_and_the_policy_brings_it_back() {
    let Some(world) = World::new() else { return };
    let image = world.busybox();
    let service = |policy: &str| {
        format!(
            "image: {image}\n    command: [sleep, \"100000\"]\n    user: \"1000\"\n    restart: \"{policy}\"\n"
        )
    };
    let text = format!(
        "name: shop\nservices:\n  left:\n    {}  kept:\n    {}",
        service("no"),
        service("always")
    );
    world.write("compose.yaml", text);
    world.run(&["up", "-d"]).ok();
    let (left, kept) = (world.id_of("shop-left-1"), world.id_of("shop-kept-1"));
    let inits = [init_of(&world, &left), init_of(&world, &kept)];
    let before = started(&world, "shop-kept-1");
    for id in [&left, &kept] {
        assert!(kill(monitor_of(&world, id)));
    }
    support::wait_for("the end of both", || {
        inits
            .iter()
            .all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
            .then_some(())
    });
    support::wait_for("the exit status", || {
        let list = world.ps();
        let left = list.iter().find(|container| container["Name"] == "shop-left-1")?;
        (left["State"] == "exited" && left["ExitCode"] == 137).then_some(())
    });
    support::wait_for("the restart policy to act", || {
        (running(&world, "shop-kept-1")? > before).then_some(())
    });
    world.run(&["down"]).ok();
    world.assert_nothing_left();
}

/// Whether the kernel says how a process has ended that somebody else has reaped.
fn statuses_outlive_parents() -> bool {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    child.wait().unwrap();
    rcompose::sys::pidfd::exit_status(std::os::fd::AsFd::as_fd(&pidfd)).is_ok()
}

#[test]
fn what_a_killed_monitor_had_not_written_is_not_lost() {
    let Some(world) = World::new() else { return };
    let notes = world.work().join("notes");
    std::fs::create_dir_all(&notes).unwrap();
    let text = format!(
        r#"name: shop
services:
  says:
    image: {}
    command:
      - sh
      - -c
      - |
        echo begun
        printf 'no end yet, '
        while [ ! -e /notes/go ]; do sleep 0.05; done
        i=0
        while [ $$i -lt 500 ]; do echo out $$i; echo err $$i >&2; i=$$((i + 1)); done
        printf 'no end'
        exit 7
    volumes: ["./notes:/notes"]
    network_mode: none
"#,
        world.busybox()
    );
    world.write("compose.yaml", text);
    world.run(&["up", "-d"]).ok();
    let logs = || world.run(&["logs", "--no-log-prefix"]).ok().stdout;
    support::wait_for("its first words", || {
        logs().contains("no end yet, ").then_some(())
    });
    let id = world.id_of("shop-says-1");
    let (monitor, init) = (monitor_of(&world, &id), init_of(&world, &id));
    let pid = rustix::process::Pid::from_raw(i32::try_from(monitor).unwrap()).unwrap();
    // Nothing is read, and nobody is reaped, from now on.
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    std::fs::write(notes.join("go"), "").unwrap();
    support::wait_for("the end of its process 1", || {
        let stat = std::fs::read_to_string(format!("/proc/{init}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.starts_with('Z').then_some(())
    });
    assert!(kill(monitor));
    let code = if statuses_outlive_parents() { 7 } else { 137 };
    support::wait_for("its status", || {
        let list = world.ps();
        (list[0]["State"] == "exited" && list[0]["ExitCode"] == code).then_some(())
    });
    let said = logs();
    let of = |stream: &str| -> Vec<&str> { said.lines().filter(|line| line.contains(stream)).collect() };
    let expected = |stream: &str| -> Vec<String> { (0..500).map(|i| format!("{stream} {i}")).collect() };
    // The unfinished line was written as a piece, and has found its end.
    assert_eq!(of("err "), expected("err"), "{said}");
    let out = of("out ");
    assert_eq!(out[0], "no end yet, out 0");
    assert_eq!(out[1..], expected("out")[1..]);
    assert_eq!(said.lines().filter(|line| *line == "no end").count(), 1, "{said}");
    assert_eq!(said.lines().count(), 1 + 1000 + 1, "{said}");
    world.run(&["down"]).ok();
    world.assert_nothing_left();
}

#[test]
fn a_supervisor_that_is_killed_while_nothing_runs_comes_back() {
    let Some(world) = World::new() else { return };
    let notes = world.work().join("notes");
    std::fs::create_dir_all(&notes).unwrap();
    let service = |attempts: &str| {
        format!(
            "name: shop\nservices:\n  fails:\n    image: {}\n    command: [sh, -c, \"echo >> /notes/runs; exit              3\"]\n    volumes: [\"./notes:/notes\"]\n    network_mode: none\n    deploy:\n                   restart_policy: {attempts}\n",
            world.busybox()
        )
    };
    let runs = || std::fs::read_to_string(notes.join("runs")).map_or(0, |text| text.len());
    let waits = || {
        support::wait_for("it to wait for its restart", || {
            let list = world.ps();
            (list.first()?["State"] == "restarting").then_some(())
        });
    };
    let another = |old: u32| {
        support::wait_for("another supervisor", || {
            let mut all = world.of_role(Role::Supervisor).into_iter();
            all.find(|pid| *pid != old)
        })
    };
    // The time of the next run stays what it was, however often that happens.
    world.write("compose.yaml", service("{condition: any, delay: 1h}"));
    world.run(&["up", "-d"]).ok();
    waits();
    let due = || std::fs::read(path_in_run(&world, "restarting")).unwrap();
    let before = due();
    let mut supervisor = another(0);
    for round in 0..4 {
        if round == 2 {
            // Whoever is to bring it back may be killed before.
            for pid in [world.of_role(Role::StandIn), world.of_role(Role::Monitor)].concat() {
                kill(pid);
            }
            support::wait_for("somebody to stand in", || {
                (!world.of_role(Role::StandIn).is_empty()).then_some(())
            });
        }
        assert!(kill(supervisor));
        supervisor = another(supervisor);
        waits();
        assert_eq!(due(), before);
    }
    assert_eq!(runs(), 1);
    world.run(&["down"]).ok();
    world.assert_nothing_left();
    // And so does the number of the runs that are left.
    std::fs::remove_file(notes.join("runs")).unwrap();
    world.write(
        "compose.yaml",
        service("{condition: on-failure, delay: 1s, max_attempts: 2}"),
    );
    world.run(&["up", "-d"]).ok();
    for run in 1..=2 {
        support::wait_for("the next run", || (runs() == run).then_some(()));
        waits();
        kill(another(0));
    }
    let ended = || runs() == 3 && world.ps()[0]["State"] == "exited";
    let deadline = Instant::now() + Duration::from_secs(60);
    while !ended() {
        if Instant::now() > deadline {
            show_log(&world);
            panic!("{} runs, {:?}, {:?}", runs(), world.ps(), world.ours());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    support::wait_for("the supervisor's end", || world.ours().is_empty().then_some(()));
    assert_eq!(runs(), 3);
    world.run(&["down"]).ok();
    world.assert_nothing_left();
}

/// A file of the only container, among those of this boot.
fn path_in_run(world: &World, name: &str) -> std::path::PathBuf {
    let folder = world.state().join("run/stacks/shop/containers");
    let mut entries = std::fs::read_dir(folder).unwrap().flatten();
    entries.next().unwrap().path().join(name)
}

#[test]
fn a_killed_command_leaves_what_the_next_one_completes() {
    let Some(world) = world("one") else { return };
    for victim in [Role::Command, Role::Supervisor, Role::Monitor] {
        let up = Foreground::start(&mut world.rcompose(&["up", "-d"]));
        support::wait_for("the first containers", || {
            (!world.of_role(Role::Monitor).is_empty()).then_some(())
        });
        for pid in world.of_role(victim) {
            kill(pid);
        }
        up.finish();
        world.run(&["up", "-d", "--wait"]).ok();
        assert_up(&world, "one");
        world.run(&["down"]).ok();
        world.assert_nothing_left();
    }
}

#[test]
fn a_killed_foreground_up_leaves_the_stack_running() {
    let Some(world) = world("one") else { return };
    let mut up = Foreground::start(&mut world.rcompose(&["up"]));
    up.wait_for("Container shop-web-1  Started");
    let before: Vec<String> = world.ps().iter().map(|one| one["ID"].to_string()).collect();
    up.signal(rustix::process::Signal::KILL);
    up.finish();
    assert_up(&world, "one");
    let after: Vec<String> = world.ps().iter().map(|one| one["ID"].to_string()).collect();
    assert_eq!(before, after);
    world.run(&["down", "-v"]).ok();
    world.assert_nothing_left();
}

#[test]
fn a_stop_goes_on_when_the_supervisor_is_killed() {
    let Some(world) = World::new() else { return };
    let image = world.busybox();
    world.write(
        "compose.yaml",
        format!(
            "name: shop\nservices:\n  deaf:\n    image: {image}\n    command: [sleep, \"100000\"]\n    \
             restart: always\n    stop_grace_period: 1s\n  other:\n    image: {image}\n    \
             command: [sleep, \"100000\"]\n    init: true\n"
        ),
    );
    world.run(&["up", "-d"]).ok();
    let stop = Foreground::start(&mut world.rcompose(&["stop", "deaf"]));
    let records = world.state().join("stacks/shop/containers");
    support::wait_for("the stop to be recorded", || {
        let mut entries = std::fs::read_dir(&records).ok()?.flatten();
        entries
            .any(|entry| {
                std::fs::read_to_string(entry.path().join("record.json"))
                    .is_ok_and(|record| record.contains(r#""stopped":true"#))
            })
            .then_some(())
    });
    for pid in world.of_role(Role::Supervisor) {
        kill(pid);
    }
    assert_ne!(stop.finish().0, 0);
    support::wait_for("the stop", || {
        running(&world, "shop-deaf-1").is_none().then_some(())
    });
    // Nobody brings it back, and who asks for it gets it.
    let plan = world.run(&["plan"]).stdout;
    assert!(plan.contains("shop-deaf-1"), "{plan}");
    world.run(&["up", "-d"]).ok();
    assert!(running(&world, "shop-deaf-1").is_some());
    world.run(&["down"]).ok();
    world.assert_nothing_left();
}

#[test]
fn a_replaced_container_keeps_its_anonymous_volumes() {
    let Some(world) = world("one") else { return };
    world.run(&["up", "-d", "--wait"]).ok();
    let store = |script: &str| {
        world
            .run(&["exec", "-T", "store", "sh", "-c", script])
            .ok()
            .stdout
    };
    store("echo kept > /scratch/row");
    let old = world.id_of("shop-store-1");
    let text = stack(&world.busybox(), "one")
        .replace("interval: 300ms}", "interval: 300ms}\n    environment: {A: b}");
    world.write("compose.yaml", text);
    world.run(&["up", "-d", "--wait"]).ok();
    assert_ne!(world.id_of("shop-store-1"), old, "it was replaced");
    assert_eq!(store("cat /scratch/row").trim(), "kept");
    // Wherever a replacement is cut off, the next command goes on with them.
    for round in 0..12 {
        let up =
            Foreground::start(&mut world.rcompose(&["up", "-d", "--force-recreate", "-t", "0", "store"]));
        spin(Duration::from_millis(20 + 9 * round));
        for pid in world.of_role(Role::Supervisor) {
            kill(pid);
        }
        up.finish();
        world.run(&["up", "-d", "--wait"]).ok();
        assert_eq!(store("cat /scratch/row").trim(), "kept", "round {round}");
    }
    world
        .run(&["up", "-d", "--wait", "--force-recreate", "--renew-anon-volumes"])
        .ok();
    assert_eq!(store("ls /scratch").trim(), "");
    world.run(&["down", "-v"]).ok();
    world.assert_nothing_left();
    let left = std::fs::read_dir(world.state().join("volumes")).unwrap().count();
    assert_eq!(left, 0, "volumes are left");
}

/// The running record of a container, by the beginning of its id.
fn run_record(world: &World, id: &str) -> Option<serde_json::Value> {
    let folder = world.state().join("run/stacks/shop/containers");
    let mut entries = std::fs::read_dir(folder).ok()?.flatten();
    let found = entries.find(|entry| entry.file_name().to_string_lossy().starts_with(id))?;
    serde_json::from_slice(&std::fs::read(found.path().join("run.json")).ok()?).ok()
}

#[track_caller]
fn pid_of(world: &World, id: &str, which: &str) -> u32 {
    let record = run_record(world, id).expect("it runs");
    u32::try_from(record[which]["pid"].as_u64().unwrap()).unwrap()
}

#[track_caller]
fn init_of(world: &World, id: &str) -> u32 {
    pid_of(world, id, "init")
}

#[track_caller]
fn monitor_of(world: &World, id: &str) -> u32 {
    pid_of(world, id, "monitor")
}

/// When the present run of a container began; `None` when it does not run.
fn running(world: &World, name: &str) -> Option<u64> {
    let list = world.ps();
    let found = list.iter().find(|container| container["Name"] == name)?;
    if found["State"] != "running" {
        return None;
    }
    run_record(world, found["ID"].as_str()?)?["started_at"].as_u64()
}

#[track_caller]
fn started(world: &World, name: &str) -> u64 {
    running(world, name).expect("it runs")
}

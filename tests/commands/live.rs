//! The live list of `up`, on a pseudo-terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{down, stack};
use crate::support::World;

/// Our end of a pseudo-terminal, and the other one.
fn terminal(rows: u16, columns: u16) -> (File, File) {
    let master =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let size = rustix::termios::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&slave, size).unwrap();
    (File::from(master), slave)
}

/// What a terminal shows, with all that was scrolled away: as much of one as
/// the list needs.
#[derive(Default)]
struct Screen {
    lines: Vec<String>,
    row: usize,
    column: usize,
    /// An escape sequence that has not come to its end.
    escape: Option<String>,
}

impl Screen {
    fn feed(&mut self, text: &str) {
        for letter in text.chars() {
            if let Some(mut escape) = self.escape.take() {
                escape.push(letter);
                if !(letter.is_ascii_alphabetic()) {
                    self.escape = Some(escape);
                    continue;
                }
                match letter {
                    'A' => self.row -= escape[1..escape.len() - 1].parse::<usize>().unwrap(),
                    'J' => {
                        assert_eq!(self.column, 0);
                        self.lines.truncate(self.row);
                    }
                    'm' => {}
                    other => panic!("the sequence {other:?}"),
                }
                continue;
            }
            match letter {
                '\u{1b}' => self.escape = Some(String::new()),
                '\r' => self.column = 0,
                '\n' => {
                    self.row += 1;
                    self.column = 0;
                }
                letter => {
                    while self.lines.len() <= self.row {
                        self.lines.push(String::new());
                    }
                    let line = &mut self.lines[self.row];
                    let mut letters: Vec<char> = line.chars().collect();
                    if self.column < letters.len() {
                        letters[self.column] = letter;
                    } else {
                        letters.push(letter);
                    }
                    *line = letters.into_iter().collect();
                    self.column += 1;
                }
            }
        }
    }
}

/// A command whose standard streams are a terminal of ours.
struct OnTerminal {
    child: std::process::Child,
    /// Where keys are pressed.
    keys: File,
    pieces: mpsc::Receiver<Vec<u8>>,
    raw: Vec<u8>,
}

impl OnTerminal {
    fn start(world: &World, arguments: &[&str]) -> Self {
        let (mut master, slave) = terminal(40, 76);
        let end = || Stdio::from(slave.try_clone().unwrap());
        let mut command = world.rcompose(arguments);
        command
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .env_remove("COMPOSE_PROGRESS")
            .env_remove("COMPOSE_ANSI");
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let keys = master.try_clone().unwrap();
        let (sender, pieces) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The kernel says so when nobody has the other end any more.
            while let Ok(count) = master.read(&mut buffer) {
                if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            keys,
            pieces,
            raw: Vec::new(),
        }
    }

    /// Waits until this has been printed.
    fn read_until(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !String::from_utf8_lossy(&self.raw).contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.raw.extend(piece),
                Err(_) => panic!("no {text:?} in {}", String::from_utf8_lossy(&self.raw)),
            }
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn interrupt(&self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }

    /// How it ended, and what the terminal shows then.
    fn end(mut self) -> (Option<i32>, Screen) {
        let code = self.child.wait().unwrap().code();
        self.raw.extend(self.pieces.iter().flatten());
        let mut screen = Screen::default();
        screen.feed(&String::from_utf8(self.raw).unwrap());
        (code, screen)
    }
}

#[test]
fn keys_switch_watching_and_leave_the_stack_running() {
    let Some(world) = stack(
        "name: k
services:
  web:
    image: BUSYBOX
    command: [sh, -c, \"trap 'exit 0' TERM USR1; echo begun; while :; do sleep 1 & wait; done\"]
    develop: {watch: [{action: sync, path: ./src, target: /src}]}
",
    ) else {
        return;
    };
    world.write("src/a", "1");
    let keys = "w Enable Watch   d Detach";
    let mut up = OnTerminal::start(&world, &["up"]);
    up.read_until("begun");
    up.read_until("Enable");
    up.press("w");
    up.read_until("Disable");
    up.press("w");
    up.read_until("Watch disabled");
    up.press("xd");
    up.read_until("goes on in the background");
    let (code, screen) = up.end();
    let shown = screen.lines.join("\n");
    assert_eq!(code, Some(0), "{shown}");
    let lines = |text: &str| screen.lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(lines("begun"), 1, "{shown}");
    assert_eq!(lines(keys), 0, "the keys are gone with the command:\n{shown}");
    let running = world
        .run(&["ps", "--services", "--filter", "status=running"])
        .ok();
    assert_eq!(running.stdout, "web\n");

    // Who does not want them has none.
    world.run(&["down", "-t", "2"]).ok();
    let mut up = OnTerminal::start(&world, &["up", "--menu=false"]);
    up.read_until("begun");
    // It may be gone before it has said that it is done.
    world.run(&["exec", "web", "kill", "-USR1", "1"]);
    up.read_until("exited with code");
    let (code, screen) = up.end();
    let shown = screen.lines.join("\n");
    assert_eq!(code, Some(0), "{shown}");
    assert!(!shown.contains("Detach"), "{shown}");
    down(&world);
}

#[test]
fn the_list_says_what_is_waited_for_and_tears_no_log() {
    let Some(world) = stack(
        "name: l
services:
  db:
    image: BUSYBOX
    command: [sh, -c, \"trap 'exit 0' TERM; i=0; while [ $$i -lt 200 ]; do echo line-$$i-end; i=$$((i+1)); [ $$i = 100 ] && sleep 0.7 && touch /ready; done; while :; do sleep 1 & wait; done\"]
    healthcheck: {test: [CMD, test, -e, /ready], interval: 100ms, retries: 1000}
  web:
    image: BUSYBOX
    command: SERVE
    depends_on: {db: {condition: service_healthy}}
    deploy: {replicas: 2}
",
    ) else {
        return;
    };
    let mut up = OnTerminal::start(&world, &["up"]);
    let mut read_until = |text: &str| up.read_until(text);
    read_until("waits for db (healthy)");
    read_until("until it is healthy, for web");
    read_until("[+] 5/5");
    // The list has settled when the last line of the log stands below it.
    read_until("line-199-end");
    up.interrupt();
    up.read_until("[+] 3/3");
    let (code, screen) = up.end();
    assert_eq!(code, Some(130));
    let shown = screen.lines.join("\n");
    for number in 0..200 {
        let line = format!("line-{number}-end");
        let whole = |shown: &&String| shown.ends_with(&format!("| {line}"));
        assert_eq!(screen.lines.iter().filter(whole).count(), 1, "{line} in\n{shown}");
    }
    for line in &screen.lines {
        assert!(line.chars().count() < 76, "{line}");
    }
    let has = |words: &[&str]| {
        let fits = |line: &&String| words.iter().all(|word| line.contains(word));
        screen.lines.iter().filter(fits).count()
    };
    assert_eq!(has(&["✔ Container l-db-1", "Healthy"]), 1, "{shown}");
    assert_eq!(has(&["✔   Container l-web-", "Started"]), 2, "{shown}");
    assert_eq!(has(&["✔", "Container l-", "Stopped"]), 3, "{shown}");
    assert_eq!(
        has(&["waits for"]),
        0,
        "nothing is waited for in the end:\n{shown}"
    );
    assert_eq!(has(&["⠋"]) + has(&["⠙"]), 0, "nothing moves in the end:\n{shown}");
    down(&world);
}

#[test]
fn progress_is_as_it_was_asked_for() {
    let Some(world) = stack("name: q\nservices:\n  a: {image: BUSYBOX, command: SERVE}\n") else {
        return;
    };
    for (arguments, reason) in [
        (
            ["--progress", "tty", "--ansi", "never"],
            "can't use --progress tty",
        ),
        (
            ["--progress", "plain", "--ansi", "always"],
            "can't use --progress plain",
        ),
    ] {
        let refused = world.run(&[&arguments[..], &["up", "-d"]].concat());
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains(reason), "{}", refused.stderr);
    }
    let drawn = world.run(&["--progress", "tty", "up", "-d"]).ok().stderr;
    assert!(
        drawn.contains("\u{1b}[J") && drawn.contains("✔ Container q-a-1"),
        "{drawn:?}"
    );
    assert!(drawn.trim_end().lines().count() >= 2, "{drawn:?}");
    let plain = world.run(&["restart", "-t", "1"]).ok().stderr;
    assert!(
        plain.contains(" Container q-a-1  Started\n") && !plain.contains('\u{1b}'),
        "{plain:?}"
    );
    let quiet = world
        .run(&["--progress", "none", "restart", "-t", "1"])
        .ok()
        .stderr;
    assert_eq!(quiet, "");
    let json = world.run(&["--progress", "json", "down", "-t", "1"]).ok().stderr;
    assert!(
        json.lines()
            .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
        "{json}"
    );
    let picture = world.run(&["graph", "--format", "svg"]).ok().stdout;
    assert!(
        picture.starts_with("<svg") && picture.contains("no container"),
        "{picture}"
    );
    down(&world);
}

//! Stories: `tests/plan/*.txt`, each a script of what happens to a stack, with
//! the plan that every command gives written below it.
//!
//! ```text
//! # What the story is about.
//! stack:                       the stack file from here on, indented (stack.rs)
//!   services:
//!     web:
//!       image: nginx
//! $ up web --force-recreate    plans, prints every action, and does them
//! $ up --crash 3               … but dies after three actions
//! $ plan up                    plans, prints the overview, and does nothing
//! $ exit shop-web-1 3          something happens to the simulated host (world.rs)
//! $ ps                         prints the containers
//! ```
//!
//! Every plan must pass the checker. What differs from the file is a failure;
//! with `UPDATE_STORIES=1` in the environment the file is written anew instead,
//! to be reviewed as a diff.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcompose::lifecycle::Health;
use rcompose::plan::{
    ContainerState, Down, Intent, OneOff, Plan, PlanError, Run, Up, Verb, check, plan, recall, render,
};
use rcompose::project::Project;

use crate::stack;
use crate::world::World;

#[test]
fn every_story_goes_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 25, "stories got lost: {}", paths.len());
    let update = std::env::var_os("UPDATE_STORIES").is_some();
    let mut different = Vec::new();
    for path in paths {
        let written = std::fs::read_to_string(&path).unwrap();
        let told = tell(&path, &written);
        if update {
            std::fs::write(&path, told).unwrap();
        } else if told != written {
            different.push(first_difference(&path, &written, &told));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

fn first_difference(path: &Path, written: &str, told: &str) -> String {
    let (mut left, mut right) = (written.lines(), told.lines());
    for number in 1.. {
        match (left.next(), right.next()) {
            (Some(a), Some(b)) if a == b => {}
            (None, None) => break,
            (a, b) => {
                let show = |line: Option<&str>| line.unwrap_or("(end)").to_owned();
                return format!(
                    "{}:{number}:\n  written: {}\n  now:     {}",
                    path.display(),
                    show(a),
                    show(b)
                );
            }
        }
    }
    format!("{}: only the ends of lines differ", path.display())
}

/// Runs a script; returns it with fresh output.
fn tell(path: &Path, script: &str) -> String {
    let mut story = Story::default();
    let mut told = String::new();
    let mut lines = script.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        if let Some(command) = line.strip_prefix("$ ") {
            let place = format!("{}:{}: {command}", path.display(), number + 1);
            let output = story.run(command, &place);
            let _ = writeln!(told, "{line}");
            told.push_str(&output);
            if !output.is_empty() {
                told.push('\n');
            }
        } else if line == "stack:" {
            let _ = writeln!(told, "{line}");
            let mut text = String::new();
            while let Some((_, line)) = lines.next_if(|(_, line)| line.starts_with("  ")) {
                let _ = writeln!(told, "{line}");
                let _ = writeln!(text, "{}", &line[2..]);
            }
            told.push('\n');
            story.project = stack::read(&text);
        } else if line.starts_with('#') {
            let _ = writeln!(told, "{line}");
            if lines.peek().is_none_or(|(_, next)| !next.starts_with('#')) {
                told.push('\n');
            }
        }
    }
    while told.ends_with("\n\n") {
        told.pop();
    }
    told
}

#[derive(Default)]
struct Story {
    project: Project,
    world: World,
}

impl Story {
    fn run(&mut self, command: &str, place: &str) -> String {
        let mut words = command.split_whitespace().collect::<Vec<_>>();
        let show = words.first() == Some(&"plan");
        if show {
            words.remove(0);
        }
        let Some((verb, words)) = words.split_first() else {
            panic!("{place}: what?")
        };
        let crash = words
            .iter()
            .position(|word| *word == "--crash")
            .map(|at| words[at + 1].parse().unwrap());
        let asked = match *verb {
            "container" => Some(self.of_containers(words, place)),
            verb => intent(verb, words),
        };
        let Some(intent) = asked else {
            return self.happen(verb, words, place);
        };
        match plan(&self.project, &self.world.observed, &intent) {
            Err(error) => failure(&error),
            Ok(plan) => {
                let faults = check(&self.project, &self.world.observed, &plan);
                assert!(faults.is_empty(), "{place}: {faults:#?}\n{plan:#?}");
                if show {
                    return text(&render::overview(&plan));
                }
                self.perform(&plan, crash);
                text(&render::steps(&plan))
            }
        }
    }

    /// `container VERB NAME…`, `--force` and `--signal NAME` among the names.
    fn of_containers(&mut self, words: &[&str], place: &str) -> Intent {
        let (mut force, mut signal, mut ids) = (false, None, Vec::new());
        let mut rest = words.iter().skip(1);
        while let Some(&word) = rest.next() {
            match word {
                "--force" => force = true,
                "--signal" => signal = rest.next().map(|name| (*name).to_owned()),
                name => ids.push(self.world.named(name).id.clone()),
            }
        }
        let timeout = None;
        let verb = match words.first() {
            Some(&"start") => Verb::Start,
            Some(&"stop") => Verb::Stop { timeout, signal },
            Some(&"restart") => Verb::Restart { timeout, signal },
            Some(&"kill") => Verb::Kill {
                signal: signal.unwrap_or_else(|| "KILL".to_owned()),
            },
            Some(&"rm") => Verb::Remove {
                force,
                volumes: false,
            },
            _ => panic!("{place}: unknown verb"),
        };
        Intent::Containers { ids, verb }
    }

    fn perform(&mut self, plan: &Plan, crash: Option<usize>) {
        self.world.apply(&self.project, plan, crash.unwrap_or(usize::MAX));
    }

    fn happen(&mut self, verb: &str, words: &[&str], place: &str) -> String {
        let world = &mut self.world;
        match (verb, words) {
            ("exit", [name, code]) => {
                let finished = world.tick();
                let state = ContainerState::Exited {
                    code: code.parse().unwrap(),
                    finished,
                    stopped: false,
                };
                world.named(name).state = state;
                world.named(name).health = None;
            }
            ("unhealthy", [name]) => world.named(name).health = Some(Health::Unhealthy),
            ("reboot", []) => world.reboot(),
            ("duplicate", [name]) => world.duplicate(name),
            ("newer-image", [image]) => {
                let id = format!("sha256:{image}-2");
                world.registry.insert((*image).to_owned(), id);
            }
            ("fetched", [image]) => {
                world
                    .observed
                    .images
                    .insert((*image).to_owned(), format!("sha256:{image}-3"));
            }
            ("bridge-lost", [name]) => {
                let networks = &mut world.observed.networks;
                networks
                    .iter_mut()
                    .find(|network| network.name == *name)
                    .unwrap()
                    .alive = false;
            }
            ("network-lost", [name]) => world.observed.networks.retain(|network| network.name != *name),
            ("volume-lost", [name]) => world.observed.volumes.retain(|volume| volume.name != *name),
            ("network-of", [project, name]) => world.foreign_network(name, Some(project)),
            ("network-of-nobody", [name]) => world.foreign_network(name, None),
            ("volume-of", [project, name]) => world.foreign_volume(name, Some(project)),
            ("forget-the-file", []) => self.project = recall("shop", &world.observed),
            ("ps", []) => return self.list(),
            _ => panic!("{place}: unknown command"),
        }
        String::new()
    }

    fn list(&self) -> String {
        let mut lines: Vec<String> = self
            .world
            .observed
            .containers
            .iter()
            .map(|container| {
                let state = match container.state {
                    ContainerState::Created => "created".to_owned(),
                    ContainerState::Running { .. } => "running".to_owned(),
                    ContainerState::Exited { stopped: true, .. } => "stopped".to_owned(),
                    ContainerState::Exited { code, .. } => format!("exited ({code})"),
                };
                format!("     {}  {state}\n", container.name)
            })
            .collect();
        lines.sort();
        if lines.is_empty() {
            "     nothing\n".to_owned()
        } else {
            lines.concat()
        }
    }
}

fn text(lines: &[render::Line]) -> String {
    lines.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{}", line.to_string().trim_end());
        text
    })
}

fn failure(error: &PlanError) -> String {
    let mut text = format!("error: {error}\n");
    for origin in error.origins() {
        let _ = writeln!(text, "  at {origin}");
    }
    text
}

fn intent(verb: &str, words: &[&str]) -> Option<Intent> {
    let mut up = Up::default();
    let mut down = Down::default();
    let mut services = Vec::new();
    let mut timeout = None;
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        match word {
            "--no-deps" => up.no_deps = true,
            "--no-start" => up.no_start = true,
            "--force-recreate" => up.force_recreate = true,
            "--no-recreate" => up.no_recreate = true,
            "--always-recreate-deps" => up.always_recreate_deps = true,
            "--renew-anon-volumes" => up.renew_anon_volumes = true,
            "--remove-orphans" => {
                up.remove_orphans = true;
                down.remove_orphans = true;
            }
            "--wait" => up.wait = true,
            "--reload" => up.reload = true,
            "--pulled" => up.pulled = true,
            "--volumes" => down.volumes = true,
            "--scale" => {
                let (service, count) = words.next()?.split_once('=')?;
                up.scale.insert(service.to_owned(), count.parse().ok()?);
            }
            "--timeout" => timeout = Some(Duration::from_secs(words.next()?.parse().ok()?)),
            "--crash" => {
                words.next();
            }
            option if option.starts_with('-') => panic!("unknown option {option}"),
            service => services.push(service.to_owned()),
        }
    }
    match verb {
        "up" => Some(Intent::Up(Up {
            services,
            timeout,
            ..up
        })),
        "down" => Some(Intent::Down(Down {
            services,
            timeout,
            ..down
        })),
        "run" => {
            let service = services.pop()?;
            Some(Intent::Run(Run {
                name: format!("shop-{service}-run-1"),
                one_off: OneOff {
                    id: "one-off".to_owned(),
                    ..OneOff::default()
                },
                service,
                up,
            }))
        }
        "stop" => Some(Intent::Stop { services, timeout }),
        "start" => Some(Intent::Start {
            services,
            wait: up.wait,
        }),
        "restart" => Some(Intent::Restart {
            services,
            timeout,
            no_deps: up.no_deps,
        }),
        _ => None,
    }
}

//! How long a stack takes, beside the kernel's floor and, where they are
//! installed, docker compose and podman-compose, in one run:
//! `cargo bench --bench stack` (as root; `-- --quick` for fewer rounds).
//!
//! Everything happens in a network and mount namespace of its own, where folders
//! of this benchmark's stand for the state root (on disk) and the run directory
//! (in memory). Each figure is the median of whole-process wall times; the rounds
//! go through all tools in turn, so that a machine whose speed drifts drifts for
//! all of them. The last table has what issues promise, with the promise beside it;
//! `-- --goals` prints that alone.

#![allow(clippy::print_stdout, reason = "its table is what it is for")]
#![allow(clippy::exit, reason = "it stands for the process it has started")]

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rcompose::plan::{
    ContainerState, Intent, Observed, ObservedContainer, ObservedNetwork, Owner, Recorded, Up, plan,
};
use rcompose::project::{Attachment, Condition, Dependency, Network, Project, Service};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Numbers of services.
const SIZES: [usize; 3] = [1, 10, 50];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return Ok(());
    }
    if std::env::var_os("RCOMPOSE_BENCH_INSIDE").is_none() {
        let status = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "sh", "-c"])
            .arg("ip link set lo up; exec \"$0\" \"$@\"")
            .arg(std::env::current_exe()?)
            .args(&arguments)
            .env("RCOMPOSE_BENCH_INSIDE", "1")
            .status()?;
        std::process::exit(status.code().unwrap_or(1));
    }
    let rounds = if arguments.iter().any(|argument| argument == "--quick") {
        3
    } else {
        9
    };
    let bench = Bench::prepare()?;
    let mut tools: Vec<Tool> = vec![Tool::rcompose(&bench)];
    tools.extend(Tool::peer(
        "docker compose",
        &["docker", "compose"],
        &["docker", "info"],
    ));
    tools.extend(Tool::peer(
        "podman-compose",
        &["podman-compose"],
        &["podman-compose", "version"],
    ));
    println!(
        "{} rounds, median wall time of the whole process, milliseconds\n",
        rounds
    );
    let mut head = "| what | floor |".to_owned();
    let mut rule = "| --- | ---: |".to_owned();
    for tool in &tools {
        write!(head, " {} |", tool.name)?;
        rule.push_str(" ---: |");
    }
    println!("{head} rcompose / floor |\n{rule} ---: |");
    let all = !arguments.iter().any(|argument| argument == "--goals");
    for size in SIZES.into_iter().filter(|_| all) {
        bench.stack(size, &tools, rounds)?;
    }
    println!("\nMonitor (one a container) and supervisor (one a stack), 50 services, memory in KiB:\n");
    bench.memory(&tools[0])?;
    println!("\nWhat has a goal, rcompose alone:\n\n| what | measured | goal |\n| --- | ---: | ---: |");
    bench.goals(&tools[0], rounds)
}

struct Bench {
    folder: tempfile::TempDir,
    floor: PathBuf,
    rootfs: PathBuf,
}

struct Tool {
    name: &'static str,
    command: Vec<String>,
    image: String,
}

impl Tool {
    fn rcompose(bench: &Bench) -> Self {
        Self {
            name: "rcompose",
            command: vec![env!("CARGO_BIN_EXE_rcompose").to_owned()],
            image: format!("rootfs:{}", bench.rootfs.display()),
        }
    }

    /// A peer, when it is installed and works. It needs an image named
    /// `sleeper` of its own.
    fn peer(name: &'static str, command: &[&str], probe: &[&str]) -> Option<Self> {
        let [program, rest @ ..] = probe else { return None };
        let works = Command::new(program)
            .args(rest)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        works.is_ok_and(|status| status.success()).then(|| Self {
            name,
            command: command.iter().map(|&word| word.to_owned()).collect(),
            image: "sleeper".to_owned(),
        })
    }

    fn run(&self, bench: &Bench, size: usize, arguments: &[&str]) -> Result<f64> {
        let file = bench.file(self, size)?;
        let mut command = Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .arg("-f")
            .arg(file)
            .args(arguments)
            .env_remove("RCOMPOSE_STATE_ROOT")
            .stdin(Stdio::null());
        time(&mut command)
    }
}

/// Milliseconds that a command takes; its output when it fails.
fn time(command: &mut Command) -> Result<f64> {
    let begun = Instant::now();
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output()?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(took)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Bench {
    fn prepare() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let state = folder.path().join("state");
        std::fs::create_dir(&state)?;
        mount(&["--bind"], &state, "/var/lib/rcompose")?;
        mount(&["-t", "tmpfs"], "tmpfs", "/run/rcompose")?;
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
        let rootfs = folder.path().join("rootfs");
        for part in ["bin", "proc", "dev", "sys", "etc", "tmp"] {
            std::fs::create_dir_all(rootfs.join(part))?;
        }
        let floor = folder.path().join("floor");
        compile(source.join("floor.c"), &floor)?;
        compile(source.join("sleeper.c"), rootfs.join("bin/sleeper"))?;
        Ok(Self {
            folder,
            floor,
            rootfs,
        })
    }

    /// The stack file of so many services on one network.
    fn file(&self, tool: &Tool, size: usize) -> Result<PathBuf> {
        let folder = self.folder.path().join(format!("bench{size}"));
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{}.yaml", tool.name.replace(' ', "-")));
        let mut text = "services:\n".to_owned();
        for number in 0..size {
            writeln!(
                text,
                "  s{number}:\n    image: \"{}\"\n    command: [/bin/sleeper]",
                tool.image
            )?;
        }
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// One size: a row for each command.
    fn stack(&self, size: usize, tools: &[Tool], rounds: usize) -> Result<()> {
        let rows = ["up -d", "up -d, nothing to do", "exec true", "down"];
        let mut floors: [Vec<f64>; 2] = Default::default();
        let mut times: Vec<[Vec<f64>; 4]> = tools.iter().map(|_| Default::default()).collect();
        for _ in 0..rounds {
            let [up, down] = self.floor(size)?;
            floors[0].push(up);
            floors[1].push(down);
            for (tool, times) in tools.iter().zip(&mut times) {
                times[0].push(tool.run(self, size, &["up", "-d"])?);
                times[1].push(tool.run(self, size, &["up", "-d"])?);
                times[2].push(tool.run(self, size, &["exec", "-T", "s0", "/bin/sleeper", "x"])?);
                times[3].push(tool.run(self, size, &["down"])?);
            }
        }
        let floors = floors.map(median);
        for (row, name) in rows.iter().enumerate() {
            let floor = match row {
                0 => Some(floors[0]),
                3 => Some(floors[1]),
                _ => None,
            };
            let ours = median(times[0][row].clone());
            let mut line = format!("| {name}, {size} |");
            line.push_str(&floor.map_or(" - |".to_owned(), |floor| format!(" {floor:.1} |")));
            for times in &times {
                write!(line, " {:.1} |", median(times[row].clone()))?;
            }
            line.push_str(&floor.map_or(" - |".to_owned(), |floor| format!(" {:.1} |", ours / floor)));
            println!("{line}");
        }
        Ok(())
    }

    fn floor(&self, size: usize) -> Result<[f64; 2]> {
        let work = self.folder.path().join("floor-work");
        let script = "\"$0\" \"$@\"";
        let output = Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .arg(&self.floor)
            .args([size.to_string(), "2".to_owned()])
            .args([self.rootfs.as_os_str(), work.as_os_str()])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<f64> = text
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        match numbers.as_slice() {
            [up, down] => Ok([*up, *down]),
            _ => Err(format!("floor: {}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }

    fn memory(&self, tool: &Tool) -> Result<()> {
        tool.run(self, 50, &["up", "-d"])?;
        // They give back what they do not need when nothing has happened for a while.
        std::thread::sleep(Duration::from_secs(4));
        println!("| process | resident | private, dirty |\n| --- | ---: | ---: |");
        for role in ["__monitor", "__supervisor"] {
            let (mut resident, mut private, mut count) = (0, 0, 0);
            for process in self.processes(role) {
                let rollup =
                    std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
                resident += field(&rollup, "Rss:");
                private += field(&rollup, "Private_Dirty:");
                count += 1;
            }
            let each = |sum: u64| sum / count.max(1);
            println!("| {role} ({count}) | {} | {} |", each(resident), each(private));
        }
        tool.run(self, 50, &["down"])?;
        Ok(())
    }

    /// Rows of what is promised, each with the promise beside it.
    fn goals(&self, tool: &Tool, rounds: usize) -> Result<()> {
        let row = |what: &str, measured: String, goal: &str| println!("| {what} | {measured} | {goal} |");
        let milliseconds = |times: Vec<f64>| format!("{:.1} ms", median(times));
        let folder = self.folder.path().join("goals");
        let out = folder.join("out");
        std::fs::create_dir_all(&out)?;
        let path = folder.join("compose.yaml");
        let command = |arguments: &[&str]| {
            let mut command = Command::new(&tool.command[0]);
            command.arg("-f").arg(&path).args(arguments);
            command.env_remove("RCOMPOSE_STATE_ROOT").stdin(Stdio::null());
            command
        };
        let run = |arguments: &[&str]| time(&mut command(arguments));
        // Fifty services, the first of which says when it runs.
        let write = |mark: usize| -> Result<()> {
            let mut text = format!(
                "services:\n  s0:\n    image: \"{}\"\n    command: [/bin/sleeper]\n    environment: {{MARK: \"{mark}\"}}\n    volumes: [\"{}:/out\"]\n",
                tool.image,
                out.display()
            );
            for number in 1..50 {
                writeln!(
                    text,
                    "  s{number}:\n    image: \"{}\"\n    command: [/bin/sleeper]",
                    tool.image
                )?;
            }
            let fresh = folder.join("fresh");
            std::fs::write(&fresh, text)?;
            Ok(std::fs::rename(fresh, &path)?)
        };
        let marked = |mark: usize| wait_until(&out.join("mark"), mark.to_string().as_bytes());
        write(0)?;
        run(&["up", "-d"])?;
        let mut same = Vec::new();
        let mut changed = Vec::new();
        for round in 1..=rounds {
            same.push(run(&["up", "-d"])?);
            write(round)?;
            changed.push(run(&["up", "-d"])?);
        }
        row("up -d of 50, nothing to do", milliseconds(same), "15 ms");
        row("up -d of 50, one changed", milliseconds(changed), "60 ms");
        // Nobody has asked for anything for a while: it rests.
        std::thread::sleep(Duration::from_secs(4));
        let supervisor = self
            .processes("__supervisor")
            .into_iter()
            .next()
            .ok_or("no supervisor")?;
        let supervised = supervisor.to_string();
        let (before, begun) = (spent(&supervised)?, Instant::now());
        std::thread::sleep(Duration::from_secs(5));
        let share = (spent(&supervised)? - before) / begun.elapsed().as_secs_f64() * 100.0;
        row(
            "a supervisor of 50 when idle",
            format!("{share:.3} % of a core"),
            "0.1 %",
        );
        let rollup = std::fs::read_to_string(format!("/proc/{supervisor}/smaps_rollup"))?;
        let resident = format!(
            "{:.1} MiB ({:.1} of its own)",
            field(&rollup, "Rss:") as f64 / 1024.0,
            field(&rollup, "Private_Dirty:") as f64 / 1024.0
        );
        row("its memory", resident, "8 MiB");
        run(&["up", "-d", "--watch"])?;
        let mut saves = Vec::new();
        for round in rounds + 1..=2 * rounds {
            // What a supervisor has just read it reads again, once.
            std::thread::sleep(Duration::from_millis(500));
            let begun = Instant::now();
            write(round)?;
            marked(round)?;
            saves.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        row(
            "from the save of its file to the new container, 50",
            milliseconds(saves),
            "150 ms",
        );
        run(&["down"])?;
        // A chain in which each waits for the health of the one before.
        let mut text = "services:\n".to_owned();
        for number in 0..10 {
            writeln!(
                text,
                "  c{number}:\n    image: \"{}\"\n    command: [/bin/sleeper]\n    healthcheck: {{test: [CMD, /bin/sleeper, x], interval: 1s}}",
                tool.image
            )?;
            if number > 0 {
                writeln!(
                    text,
                    "    depends_on: {{c{}: {{condition: service_healthy}}}}",
                    number - 1
                )?;
            }
        }
        std::fs::write(&path, text)?;
        let mut chains = Vec::new();
        for _ in 0..rounds {
            chains.push(run(&["up", "-d"])?);
            run(&["down"])?;
        }
        row(
            "up -d of a chain of 10, each healthy at once",
            milliseconds(chains),
            "1000 ms",
        );
        for count in [1_000, 10_000] {
            let [first, none, all] = plans(count)?;
            row(
                &format!("plan {count} services: first up, nothing to do, all changed"),
                format!("{first:.1}, {none:.1}, {all:.1} ms"),
                if count == 10_000 { "100 ms" } else { "" },
            );
        }
        Ok(())
    }

    /// Processes of a role in this mount namespace.
    fn processes(&self, role: &str) -> Vec<u32> {
        let own = std::fs::read_link("/proc/self/ns/mnt").ok();
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers
            .filter(|pid: &u32| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let space = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
                line.split(|byte| *byte == 0).nth(1) == Some(role.as_bytes()) && space == own
            })
            .collect()
    }
}

/// Waits for a file to have this content.
fn wait_until(path: &Path, content: &[u8]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::read(path).ok().as_deref() != Some(content) {
        if Instant::now() > deadline {
            return Err(format!("{}: what was waited for does not come", path.display()).into());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Seconds that a process or thread has had of a processor: proc(5), `schedstat`.
fn spent(who: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{who}/schedstat"))?;
    let first = text.split_whitespace().next().ok_or("no schedstat")?;
    Ok(first.parse::<f64>()? / 1e9)
}

/// How much of a processor it takes to plan so many services: made for the first
/// time, as they are, and all replaced. The best of five, in milliseconds.
fn plans(count: usize) -> Result<[f64; 3]> {
    let project = |version: usize| {
        let mut project = Project {
            name: "bench".into(),
            ..Project::default()
        };
        let network = Network {
            name: "bench_default".into(),
            ..Network::default()
        };
        project.networks.insert("default".into(), network);
        for number in 0..count {
            let name = format!("s{number:05}");
            let mut service = Service {
                name: name.clone(),
                image: "sleeper".into(),
                command: Some(vec!["/bin/sleeper".into(), "--verbose".into()]),
                replicas: 1,
                networks: [("default".to_owned(), Attachment::default())].into(),
                ..Service::default()
            };
            for variable in 0..10 {
                service.environment.insert(
                    format!("VARIABLE_{variable}"),
                    format!("value {variable} of {version}"),
                );
            }
            if number % 10 > 0 {
                let dependency = Dependency {
                    condition: Condition::ServiceStarted,
                    restart: false,
                    required: true,
                };
                service
                    .depends_on
                    .insert(format!("s{:05}", number - 1), dependency);
            }
            project.services.insert(name, service);
        }
        project
    };
    let (first, second) = (project(1), project(2));
    let intent = Intent::Up(Up::default());
    let empty = Observed::default();
    let mut observed = Observed {
        networks: vec![ObservedNetwork {
            id: "0123456789ab".into(),
            name: "bench_default".into(),
            owner: Some(Owner {
                project: "bench".into(),
                key: "default".into(),
            }),
            config: Recorded::of(&first.networks["default"]),
            alive: true,
        }],
        ..Observed::default()
    };
    observed.images.insert("sleeper".into(), "sha256:1".into());
    for (number, service) in first.services.values().enumerate() {
        observed.containers.push(ObservedContainer {
            id: format!("{number:064x}"),
            name: format!("bench-{}-1", service.name),
            service: service.name.clone(),
            number: 1,
            config: Recorded::of(service),
            image: "sha256:1".into(),
            state: ContainerState::Running {
                started: 1,
                paused: false,
            },
            health: None,
            networks: [("default".to_owned(), "0123456789ab".to_owned())].into(),
            volumes: BTreeMap::new(),
            contents: BTreeMap::new(),
            created: 1,
            one_off: false,
        });
    }
    let best = |project: &Project, observed: &Observed, actions: usize| -> Result<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let before = spent("thread-self")?;
            let plan = plan(project, observed, &intent)?;
            best = best.min((spent("thread-self")? - before) * 1e3);
            if plan.actions.len() != actions {
                return Err(format!("{} actions, not {actions}", plan.actions.len()).into());
            }
        }
        Ok(best)
    };
    Ok([
        best(&first, &empty, 2 * count + 2)?,
        best(&first, &observed, 0)?,
        best(&second, &observed, 4 * count)?,
    ])
}

fn field(rollup: &str, name: &str) -> u64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Mounts at a place that is there only for this, and is left when it is empty.
fn mount(options: &[&str], source: impl AsRef<OsStr>, place: &str) -> Result<()> {
    std::fs::create_dir_all(place)?;
    time(
        Command::new("mount")
            .args(options)
            .arg(source.as_ref())
            .arg(place),
    )
    .map(drop)
}

fn compile(source: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Result<()> {
    time(
        Command::new("cc")
            .args(["-O2", "-static", "-o"])
            .arg(to.as_ref())
            .arg(source.as_ref()),
    )
    .map(|_| ())
}

//! How long a stack takes, beside the kernel's floor and, where they are
//! installed, docker compose and podman-compose, in one run:
//! `cargo bench --bench stack` (as root; `-- --quick` for fewer rounds).
//!
//! Everything happens in a network and mount namespace of its own, where folders
//! of this benchmark's stand for the state root (on disk) and the run directory
//! (in memory). Each figure is the median of whole-process wall times; the rounds
//! go through all tools in turn, so that a machine whose speed drifts drifts for
//! all of them.

#![allow(clippy::print_stdout, reason = "its table is what it is for")]
#![allow(clippy::exit, reason = "it stands for the process it has started")]

use std::error::Error;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

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
    for size in SIZES {
        bench.stack(size, &tools, rounds)?;
    }
    println!("\nMonitor (one a container) and supervisor (one a stack), memory in KiB:\n");
    bench.memory(&tools[0])
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
        tool.run(self, 10, &["up", "-d"])?;
        let own = std::fs::read_link("/proc/self/ns/mnt").ok();
        println!("| process | resident | private, dirty |\n| --- | ---: | ---: |");
        for role in ["__monitor", "__supervisor"] {
            let (mut resident, mut private, mut count) = (0, 0, 0);
            for process in std::fs::read_dir("/proc")?.flatten() {
                let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
                let mut words = line.split(|byte| *byte == 0);
                let space = std::fs::read_link(process.path().join("ns/mnt")).ok();
                if words.nth(1) == Some(role.as_bytes()) && space == own {
                    let rollup =
                        std::fs::read_to_string(process.path().join("smaps_rollup")).unwrap_or_default();
                    resident += field(&rollup, "Rss:");
                    private += field(&rollup, "Private_Dirty:");
                    count += 1;
                }
            }
            let each = |sum: u64| sum / count.max(1);
            println!("| {role} ({count}) | {} | {} |", each(resident), each(private));
        }
        tool.run(self, 10, &["down"])?;
        Ok(())
    }
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

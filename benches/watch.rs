//! How long a saved source file takes to be visible inside a container
//! (`develop.watch`, `action: sync`), beside docker compose watch where that is
//! installed: `cargo bench --bench watch` (as root; `-- --quick` for fewer
//! rounds). `RCOMPOSE_BENCH_BINARY` names another build to measure.
//!
//! Time is taken from just before the write to the moment at which the last
//! file reads so through the root of the container's process 1, which is looked
//! at every 200 microseconds; of the many files also from the end of the last
//! write, since a busy disk can take longer to write them than all the rest.
//! (Where `/dev/shm` is, sources and containers are there.) Everything happens
//! in a network and mount namespace of its own.

#![allow(clippy::print_stdout, reason = "its table is what it is for")]
#![allow(clippy::exit, reason = "it stands for the process it has started")]

use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Files of the many.
const MANY: usize = 1_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
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
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let rounds = if quick { 5 } else { 25 };
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        tempfile::tempdir_in(memory)?
    } else {
        tempfile::tempdir()?
    };
    let rootfs = folder.path().join("rootfs");
    for part in ["bin", "proc", "dev", "sys", "etc", "tmp", "app"] {
        fs::create_dir_all(rootfs.join(part))?;
    }
    let sleeper = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/sleeper.c");
    let compiled = Command::new("cc")
        .args(["-O2", "-static", "-o"])
        .arg(rootfs.join("bin/sleeper"))
        .arg(sleeper)
        .status()?;
    if !compiled.success() {
        return Err("the sleeper does not compile".into());
    }
    println!("{rounds} rounds, median, milliseconds\n");
    println!(
        "| tool | one file (goal 10) | worst | {MANY} files (goal 300) | worst | after the last write | worst |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let image = format!("rootfs:{}", rootfs.display());
    let ours = Tool {
        name: "rcompose",
        command: vec![
            std::env::var("RCOMPOSE_BENCH_BINARY")
                .unwrap_or_else(|_| env!("CARGO_BIN_EXE_rcompose").to_owned()),
        ],
        image,
    };
    ours.measure(folder.path(), rounds)?;
    let works = Command::new("docker").arg("info").output();
    if works.is_ok_and(|output| output.status.success()) {
        // It needs an image named `sleeper` of its own, with a `tar` in it.
        let peer = Tool {
            name: "docker compose",
            command: vec!["docker".to_owned(), "compose".to_owned()],
            image: "sleeper".to_owned(),
        };
        peer.measure(folder.path(), rounds)?;
    }
    Ok(())
}

struct Tool {
    name: &'static str,
    command: Vec<String>,
    image: String,
}

/// A command that is ended with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Tool {
    fn measure(&self, folder: &Path, rounds: usize) -> Result<()> {
        let folder = folder.join(self.name.replace(' ', "-"));
        let source = folder.join("src");
        fs::create_dir_all(&source)?;
        let file = folder.join("compose.yaml");
        fs::write(
            &file,
            format!(
                "name: benchwatch\nservices:\n  web:\n    image: \"{}\"\n    command: [/bin/sleeper]\n    develop:\n      \
                 watch:\n        - {{path: ./src, action: sync, target: /app}}\n",
                self.image
            ),
        )?;
        let command = |arguments: &[&str]| {
            let mut command = Command::new(&self.command[0]);
            command
                .args(&self.command[1..])
                .arg("-f")
                .arg(&file)
                .args(arguments);
            command
                .env("RCOMPOSE_STATE_ROOT", folder.join("state"))
                .stdin(Stdio::null());
            command
        };
        let mut watch = Running(
            command(&["watch"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?,
        );
        let lines = (watch.0.stdout.take(), watch.0.stderr.take());
        let (sender, said) = std::sync::mpsc::channel();
        let read = |stream: Option<Box<dyn std::io::Read + Send>>| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let lines = stream
                    .into_iter()
                    .flat_map(|stream| BufReader::new(stream).lines());
                for line in lines.map_while(std::result::Result::ok) {
                    let _ = sender.send(line);
                }
            });
        };
        read(lines.0.map(|stream| Box::new(stream) as _));
        read(lines.1.map(|stream| Box::new(stream) as _));
        while !said
            .recv_timeout(Duration::from_secs(60))?
            .contains("Watch enabled")
        {}
        let app = root()?.join("app");
        let mut one = Vec::new();
        let mut many = Vec::new();
        let mut rest = Vec::new();
        for round in 0..rounds {
            let text = format!("round {round}");
            let begun = Instant::now();
            fs::write(source.join("one"), &text)?;
            wait(&app.join("one"), &text)?;
            one.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        for round in 0..rounds.div_ceil(3) {
            let text = format!("round {round}");
            let begun = Instant::now();
            for number in 0..MANY {
                let folder = source.join(format!("d{}", number % 20));
                if number < 20 {
                    fs::create_dir_all(&folder)?;
                }
                fs::write(folder.join(number.to_string()), &text)?;
            }
            let written = Instant::now();
            for number in (0..MANY).rev() {
                wait(&app.join(format!("d{}/{number}", number % 20)), &text)?;
            }
            many.push(begun.elapsed().as_secs_f64() * 1e3);
            rest.push(written.elapsed().as_secs_f64() * 1e3);
        }
        drop(watch);
        let down = command(&["down", "-t", "1"]).output()?;
        if !down.status.success() {
            return Err(String::from_utf8_lossy(&down.stderr).into());
        }
        let figures = |mut times: Vec<f64>| {
            times.sort_by(f64::total_cmp);
            let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
            format!(
                "{:.1} | {:.1}",
                at(times.len() / 2),
                at(times.len().saturating_sub(1))
            )
        };
        println!(
            "| {} | {} | {} | {} |",
            self.name,
            figures(one),
            figures(many),
            figures(rest)
        );
        Ok(())
    }
}

/// The root of the one container, as its process 1 sees it.
fn root() -> Result<PathBuf> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let own = fs::read_link("/proc/self/ns/mnt")?;
    while Instant::now() < deadline {
        for entry in fs::read_dir("/proc")?.flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let place = entry.path().join("root");
            let elsewhere = fs::read_link(entry.path().join("ns/mnt")).is_ok_and(|space| space != own);
            if line == b"/bin/sleeper\0" && elsewhere && place.join("app").is_dir() {
                return Ok(place);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err("the container does not run".into())
}

/// Waits for a file to read so.
fn wait(path: &Path, text: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while fs::read(path).ok().as_deref() != Some(text.as_bytes()) {
        if Instant::now() > deadline {
            return Err(format!("{}: it does not come", path.display()).into());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

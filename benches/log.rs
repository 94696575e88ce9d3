//! How fast a container may print, and how fast that is read back: a service
//! prints 2,000,000 lines of 100 bytes, `logs` shows them; beside a C program
//! that moves the same bytes through a pipe into a file, and `cat`:
//! `cargo bench --bench log` (as root; `-- --quick` for fewer rounds).
//!
//! Everything happens in a network and mount namespace of its own. The rounds go
//! through all of them in turn; best and median are printed. That no line is
//! lost or torn is checked each time.

#![allow(clippy::print_stdout, reason = "its table is what it is for")]
#![allow(clippy::exit, reason = "it stands for the process it has started")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const LINES: usize = 2_000_000;
/// What a container of Docker's prints to.
const DRIVERS: [&str; 2] = ["local", "json-file"];

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
    let rounds = if arguments.iter().any(|text| text == "--quick") {
        3
    } else {
        9
    };
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    fs::create_dir_all(place.join("rootfs/bin"))?;
    let flood = place.join("rootfs/bin/flood");
    let made = Command::new("cc")
        .args(["-O2", "-static", "-o"])
        .arg(&flood)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/flood.c"))
        .status()?;
    if !made.success() {
        return Err("no C compiler: nothing to print with".into());
    }
    let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds {
        let mut note = |what: &str, seconds: f64| times.entry(what.to_owned()).or_default().push(seconds);
        let kept = place.join("kept");
        note(
            "print, floor",
            seconds(Command::new(&flood).arg(LINES.to_string()).arg(&kept))?,
        );
        let begin = Instant::now();
        Command::new("cat").arg(&kept).stdout(Stdio::null()).status()?;
        note("read, floor", begin.elapsed().as_secs_f64());
        for driver in DRIVERS {
            let (print, read) = round(place, driver)?;
            note(&format!("print, {driver}"), print);
            note(&format!("read, {driver}"), read);
        }
    }
    println!("{LINES} lines of 100 bytes\n");
    println!("| s, best / median | floor | {} |", DRIVERS.join(" | "));
    println!("| --- | ---: | ---: | ---: |");
    for what in ["print", "read"] {
        let cells: Vec<String> = std::iter::once("floor")
            .chain(DRIVERS)
            .filter_map(|who| {
                let mut all = times.get(&format!("{what}, {who}"))?.clone();
                all.sort_by(f64::total_cmp);
                Some(format!("{:.2} / {:.2}", all.first()?, all.get(all.len() / 2)?))
            })
            .collect();
        println!("| {what} | {} |", cells.join(" | "));
    }
    Ok(())
}

/// What a program says on standard error.
fn seconds(command: &mut Command) -> Result<f64> {
    let output = command.stdout(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", output.status).into());
    }
    Ok(String::from_utf8_lossy(&output.stderr).trim().parse()?)
}

/// One service that prints; how long that took by its own clock, and how long
/// it took to read.
fn round(place: &Path, driver: &str) -> Result<(f64, f64)> {
    let file = place.join("compose.yaml");
    fs::write(
        &file,
        format!(
            "name: flood\nservices:\n  flood:\n    image: \"rootfs:{}\"\n    command: [/bin/flood, \"{LINES}\"]\n    \
             logging: {{driver: {driver}, options: {{max-size: 1g}}}}\n",
            place.join("rootfs").display()
        ),
    )?;
    let call = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rcompose"));
        command
            .args(["--state-root".as_ref(), place.join("state").as_os_str()])
            .args(["-f".as_ref(), file.as_os_str()])
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let shown = place.join("shown");
    let measure = || -> Result<(f64, f64)> {
        call(&["up", "-d"]).stdout(Stdio::null()).status()?;
        call(&["wait", "flood"]).stdout(Stdio::null()).status()?;
        let begin = Instant::now();
        call(&["logs", "--no-log-prefix"])
            .stdout(Stdio::null())
            .status()?;
        let read = begin.elapsed().as_secs_f64();
        call(&["logs", "--no-log-prefix"])
            .stdout(File::create(&shown)?)
            .status()?;
        Ok((check(&shown)?, read))
    };
    let measured = measure();
    call(&["down"]).stdout(Stdio::null()).status()?;
    measured
}

/// Every line, whole and once; the time the program says it took.
fn check(shown: &Path) -> Result<f64> {
    let (mut next, mut took) = (0, None);
    for line in BufReader::with_capacity(1 << 20, File::open(shown)?).lines() {
        let line = line?;
        match line.strip_prefix(&format!("{next:010} ")) {
            Some(rest) if rest.len() == 88 && rest.bytes().all(|byte| byte == b'x') => next += 1,
            _ if took.is_none() => took = Some(line.parse()?),
            _ => return Err(format!("line {next} is {line:?}").into()),
        }
    }
    if next != LINES {
        return Err(format!("{next} lines of {LINES}").into());
    }
    took.ok_or_else(|| "the program did not say how long it took".into())
}

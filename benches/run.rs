//! How long `run` of a static `true` takes, as a whole process: ours, crun's and
//! runc's where they are installed, and the kernel's floor by a C program, in
//! one run: `cargo bench --bench run` (as root; `-- --quick` for fewer rounds).
//! With `-- --many`, how long each of 1,000 containers takes to come up that go
//! on running, the first and the last of them, beside the kernel's floor (the
//! same program, with a cgroup in every hierarchy), and 50 started by one and by
//! two at a time.
//!
//! The rounds go through all of them in turn, so that a machine whose speed
//! drifts drifts for all; best and median are printed. crun refuses machines
//! with both versions of cgroups: everything runs in a mount namespace in which
//! the version 2 hierarchy is hidden when there are both.

#![allow(clippy::print_stdout, reason = "its table is what it is for")]
#![allow(clippy::exit, reason = "it stands for the process it has started")]

use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Before each call: what the one before leaves to the kernel is not its cost.
const CLEARED: Duration = Duration::from_millis(20);
/// Docker's profile as Debian's container packages have it.
const PROFILE: &str = "/usr/share/containers/seccomp.json";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|text| text != "--bench")
        .collect();
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return Ok(());
    }
    if std::env::var_os("RCOMPOSE_BENCH_INSIDE").is_none() {
        let hide = "mount --make-rprivate /; if mountpoint -q /sys/fs/cgroup/unified && test -d /sys/fs/cgroup/memory; \
            then umount /sys/fs/cgroup/unified; fi; exec \"$0\" \"$@\"";
        let status = Command::new("unshare")
            .args(["--mount", "sh", "-c", hide])
            .arg(std::env::current_exe()?)
            .args(&arguments)
            .env("RCOMPOSE_BENCH_INSIDE", "1")
            .status()?;
        std::process::exit(status.code().unwrap_or(1));
    }
    let rounds = if arguments.iter().any(|text| text == "--quick") {
        20
    } else {
        100
    };
    let folder = tempfile::tempdir()?;
    prepare(folder.path())?;
    let ours = folder.path().join("rcompose-oci");
    symlink(env!("CARGO_BIN_EXE_rcompose"), &ours)?;
    let mut tools = vec![("rcompose", ours)];
    for name in ["crun", "runc"] {
        if let Some(path) = find(name) {
            tools.push((name, path));
        }
    }
    if arguments.iter().any(|text| text == "--many") {
        return many(folder.path());
    }
    let mut rows: Vec<(String, Vec<Duration>)> = Vec::new();
    let mut commands: Vec<Command> = Vec::new();
    if let Some(floor) = floor(folder.path())? {
        let mut command = Command::new(floor);
        command.arg(folder.path().join("rootfs")).arg("/bin/true");
        rows.push(("floor".into(), Vec::new()));
        commands.push(command);
    }
    for (name, path) in &tools {
        for config in ["plain", "filtered"] {
            let bundle = folder.path().join(config);
            if !bundle.exists() {
                continue;
            }
            let mut command = Command::new(path);
            command
                .arg("--root")
                .arg(folder.path().join(format!("state-{name}")))
                .args(["run", "--bundle"])
                .arg(bundle)
                .arg(format!("bench-{}", std::process::id()));
            rows.push((format!("{name}, {config}"), Vec::new()));
            commands.push(command);
        }
    }
    for round in 0..rounds {
        for (command, (name, times)) in commands.iter_mut().zip(&mut rows) {
            std::thread::sleep(CLEARED);
            let begin = Instant::now();
            let output = command.stdin(Stdio::null()).output()?;
            let time = begin.elapsed();
            if !output.status.success() {
                return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)).into());
            }
            // The first fills caches.
            if round > 0 {
                times.push(time);
            }
        }
    }
    println!("{:24} {:>9} {:>9}", "run of true, ms", "best", "median");
    for (name, mut times) in rows {
        times.sort();
        let of = |at: usize| times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
        println!("{name:24} {:9.2} {:9.2}", of(0), of(times.len() / 2));
    }
    Ok(())
}

/// Containers that stay.
fn many(folder: &Path) -> Result<()> {
    const ALL: usize = 1000;
    const SOME: usize = 50;
    let ours = folder.join("rcompose-oci");
    let state = folder.join("state");
    let bundle = folder.join("sleeping");
    let mut config: Value = serde_json::from_slice(&fs::read(folder.join("plain/config.json"))?)?;
    config["process"]["args"] = json!(["/bin/sleep", "10000"]);
    symlink("busybox", folder.join("rootfs/bin/sleep"))?;
    fs::create_dir(&bundle)?;
    fs::write(bundle.join("config.json"), config.to_string())?;
    let call = |arguments: &[&str]| -> std::io::Result<bool> {
        let mut command = Command::new(&ours);
        command.arg("--root").arg(&state).args(arguments);
        let quiet = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(quiet.status()?.success())
    };
    let place = bundle.display().to_string();
    let start = |number: usize| call(&["run", "--detach", "--bundle", &place, &format!("many-{number}")]);
    let end = |count: usize| {
        for number in 0..count {
            let _ = call(&["delete", "--force", &format!("many-{number}")]);
        }
    };
    let mut times = Vec::new();
    for number in 0..ALL {
        let begin = Instant::now();
        if !start(number)? {
            end(ALL);
            return Err(format!("container {number} does not start").into());
        }
        times.push(begin.elapsed());
    }
    end(ALL);
    let below = match floor(folder)? {
        Some(floor) => many_of_the_floor(&floor, folder, ALL)?,
        None => Vec::new(),
    };
    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort();
        times
            .get(times.len() / 2)
            .map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    };
    for begin in [0, ALL / 4, ALL / 2, ALL - 100] {
        let some = |times: &[Duration]| median(times.get(begin..begin + 100).unwrap_or_default());
        println!(
            "containers {:4} to {:4}: {:6.2} ms each (median), floor {:6.2}",
            begin + 1,
            begin + 100,
            some(&times),
            some(&below)
        );
    }
    for workers in [1, 2] {
        let begin = Instant::now();
        let fine = std::thread::scope(|scope| {
            let start = &start;
            let worker = |worker: usize| {
                scope.spawn(move || {
                    (0..SOME)
                        .filter(|number| number % workers == worker)
                        .all(|number| start(number).unwrap_or(false))
                })
            };
            let all: Vec<_> = (0..workers).map(worker).collect();
            all.into_iter().all(|one| one.join().unwrap_or(false))
        });
        println!(
            "{SOME} containers, {workers} at a time: {:.0} ms",
            begin.elapsed().as_secs_f64() * 1000.0
        );
        end(SOME);
        if !fine {
            return Err("some did not start".into());
        }
    }
    Ok(())
}

/// As many containers by the C program alone; how long each took.
fn many_of_the_floor(floor: &Path, folder: &Path, count: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut processes = Vec::new();
    let number = folder.join("number");
    let mut fine = true;
    for name in 0..count {
        let begin = Instant::now();
        let status = Command::new(floor)
            .arg(folder.join("rootfs"))
            .arg("/bin/sleep")
            .arg(name.to_string())
            .arg(&number)
            .status()?;
        times.push(begin.elapsed());
        if !status.success() {
            fine = false;
            break;
        }
        let pid = fs::read_to_string(&number)?.parse()?;
        processes.push(nix::unistd::Pid::from_raw(pid));
    }
    for process in processes {
        let _ = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL);
    }
    for name in 0..times.len() {
        Command::new(floor).arg("--end").arg(name.to_string()).status()?;
    }
    if !fine {
        return Err("the floor does not start".into());
    }
    Ok(times)
}

fn find(name: &str) -> Option<std::path::PathBuf> {
    std::env::var("PATH")
        .ok()?
        .split(':')
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
}

/// The C program, where there is a compiler.
fn floor(folder: &Path) -> Result<Option<std::path::PathBuf>> {
    if find("cc").is_none() {
        println!("no C compiler: without the kernel's floor");
        return Ok(None);
    }
    let binary = folder.join("floor");
    let status = Command::new("cc")
        .args(["-O2", "-static", "-o"])
        .arg(&binary)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/run-floor.c"))
        .status()?;
    Ok(status.success().then_some(binary))
}

/// Bundles with the configuration a runtime's `spec` writes, without a terminal.
fn prepare(folder: &Path) -> Result<()> {
    let busybox = find("busybox").ok_or("no busybox (package busybox-static)")?;
    let root = folder.join("rootfs");
    for place in ["bin", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join(place))?;
    }
    fs::copy(busybox, root.join("bin/busybox"))?;
    symlink("busybox", root.join("bin/true"))?;
    let made = Command::new(env!("CARGO_BIN_EXE_rcompose"))
        .args(["oci", "spec", "--bundle"])
        .arg(folder)
        .status()?;
    if !made.success() {
        return Err("no configuration".into());
    }
    let mut config: Value = serde_json::from_slice(&fs::read(folder.join("config.json"))?)?;
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/true"]);
    config["root"] = json!({"path": root});
    config["ociVersion"] = json!("1.0.2");
    if let Some(mounts) = config["mounts"].as_array_mut() {
        // What the others need more for.
        mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
    }
    config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    let save = |name: &str, config: &Value| -> Result<()> {
        fs::create_dir(folder.join(name))?;
        fs::write(folder.join(name).join("config.json"), config.to_string())?;
        Ok(())
    };
    save("plain", &config)?;
    match fs::read(PROFILE) {
        Ok(text) => {
            config["linux"]["seccomp"] = profile(&serde_json::from_slice(&text)?);
            save("filtered", &config)
        }
        Err(_) => {
            println!("no {PROFILE}: without the system call filter");
            Ok(())
        }
    }
}

/// The rules of a profile that hold on this machine without any capability.
fn profile(all: &Value) -> Value {
    let own = if cfg!(target_arch = "x86_64") {
        "amd64"
    } else {
        "arm64"
    };
    let mut rules = Vec::new();
    for rule in all["syscalls"].as_array().into_iter().flatten() {
        let conditional = |name: &str| rule[name].as_object().is_some_and(|map| !map.is_empty());
        let of_machine = rule["includes"]["arches"]
            .as_array()
            .is_some_and(|list| list.iter().any(|name| name == own));
        let included = !conditional("includes") || of_machine;
        if !included || conditional("excludes") || rule["action"] != "SCMP_ACT_ALLOW" {
            continue;
        }
        rules.push(json!({"names": rule["names"], "action": rule["action"], "args": rule["args"]}));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}

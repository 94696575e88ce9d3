//! How long it takes to bring an image here: 300 MB, 10,000 files, five gzip
//! layers, from a registry on loopback and from an archive, beside the floor and
//! the peers that are installed (podman, skopeo; docker when
//! `RCOMPOSE_BENCH_DOCKER_HOST` names a daemon, which must share this network
//! and should have its data on a tmpfs too), in one run:
//! `cargo bench --bench pull` (as root; `-- --quick` for fewer rounds).
//!
//! The floor is what no program can leave out: the layers are read, digested,
//! inflated, digested again and written as files, on all cores, a layer each.
//! Everything is on a tmpfs of its own, so that no disk decides; the rounds go
//! through all in turn. Figures are medians: wall time, and processor time of
//! the process and its children.

#![allow(clippy::print_stdout, reason = "its table is what it is for")]
#![allow(clippy::exit, reason = "it stands for the process it has started")]

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use rcompose::image::Digest;
use sha2::{Digest as _, Sha256};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const LAYERS: usize = 5;
const FILES: usize = 2000;
const FILE_SIZE: usize = 30_000;

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
    if let [one, at, reference] = arguments.as_slice()
        && one == "--one"
    {
        // A process of its own: what its only child took is what is asked.
        let mut command = Command::new(env!("CARGO_BIN_EXE_rcompose"));
        run(command
            .args(["image", "pull", "-q", reference])
            .env("RCOMPOSE_STATE_ROOT", at))?;
        println!("{}", getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss());
        return Ok(());
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let folder = tempfile::tempdir()?;
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=6g", "none"])
        .arg(folder.path()))?;
    let result = measure(folder.path(), if quick { 3 } else { 7 });
    // What podman may have left mounted goes with the namespace.
    let _ = Command::new("umount").arg("-l").arg(folder.path()).status();
    result
}

fn measure(folder: &Path, rounds: usize) -> Result<()> {
    let layout = folder.join("layout");
    let blobs = make_image(&layout)?;
    let archive = folder.join("image.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(&layout)
        .arg("-cf")
        .arg(&archive)
        .arg("."))?;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images");
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let registry = folder.join("registry");
    run(Command::new(scripts.join("registry"))
        .arg("start")
        .arg(&registry)
        .arg(port.to_string()))?;
    let reference = format!("127.0.0.1:{port}/bench:latest");
    let result = rounds_of(folder, &layout, &archive, &blobs, &reference, &scripts, rounds);
    run(Command::new(scripts.join("registry")).arg("stop").arg(&registry))?;
    result
}

fn rounds_of(
    folder: &Path,
    layout: &Path,
    archive: &Path,
    blobs: &[PathBuf],
    reference: &str,
    scripts: &Path,
    rounds: usize,
) -> Result<()> {
    run(Command::new(scripts.join("push")).arg(layout).arg(reference))?;
    let own = |source: String| {
        move |at: &Path| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_rcompose"));
            command
                .args(["image", "pull", "-q", &source])
                .env("RCOMPOSE_STATE_ROOT", at);
            run(&mut command)
        }
    };
    let podman = |arguments: Vec<String>| {
        move |at: &Path| {
            let mut command = Command::new("podman");
            command
                .arg("--root")
                .arg(at.join("root"))
                .arg("--runroot")
                .arg(at.join("run"))
                .args(["--cgroup-manager", "cgroupfs", "--storage-driver", "overlay"])
                .args(&arguments);
            run(&mut command)
        }
    };
    let docker = std::env::var("RCOMPOSE_BENCH_DOCKER_HOST").ok();
    let docker = match docker {
        Some(host) if installed("docker") => Some(Docker::new(&host)?),
        _ => None,
    };
    type Task<'a> = Box<dyn Fn(&Path) -> Result<()> + 'a>;
    let mut tasks: Vec<(&str, Task<'_>)> = vec![
        ("rcompose, registry", Box::new(own(reference.to_owned()))),
        (
            "rcompose, archive",
            Box::new(own(format!("oci-archive:{}", archive.display()))),
        ),
        ("floor", Box::new(|at| floor(blobs, at))),
    ];
    let at = folder.join("first");
    let mut one = Command::new(std::env::current_exe()?);
    let output = one.arg("--one").arg(&at).arg(reference).output()?;
    let memory: u64 = String::from_utf8(output.stdout)?.trim().parse()?;
    fs::remove_dir_all(&at)?;
    if installed("podman") {
        let pull = ["pull", "-q", "--tls-verify=false", reference]
            .map(str::to_owned)
            .to_vec();
        let load = [
            "pull".to_owned(),
            "-q".to_owned(),
            format!("oci-archive:{}", archive.display()),
        ]
        .to_vec();
        tasks.push(("podman, registry", Box::new(podman(pull))));
        tasks.push(("podman, archive", Box::new(podman(load))));
    }
    if installed("skopeo") {
        tasks.push((
            "skopeo copy to a layout (not unpacked)",
            Box::new(|at| {
                let mut command = Command::new("skopeo");
                command
                    .args(["copy", "-q", "--src-tls-verify=false"])
                    .arg(format!("docker://{reference}"))
                    .arg(format!("oci:{}", at.join("copy").display()));
                run(&mut command)
            }),
        ));
    }
    if let Some(docker) = &docker {
        tasks.push((
            "docker, registry",
            Box::new(|_| docker.run(&["pull", "-q", reference])),
        ));
        // Its classic store loads its own form only.
        let saved = folder.join("docker.tar");
        docker.run(&["pull", "-q", reference])?;
        docker.run(&["save", "-o", &saved.display().to_string(), reference])?;
        docker.forget(reference);
        tasks.push((
            "docker, archive",
            Box::new(move |_| docker.run(&["load", "-q", "-i", &saved.display().to_string()])),
        ));
    }
    let mut figures: Vec<Vec<(Duration, Duration)>> = vec![Vec::new(); tasks.len()];
    for round in 0..rounds {
        for ((name, task), figures) in tasks.iter().zip(&mut figures) {
            let at = folder.join(format!("round{round}"));
            fs::create_dir(&at)?;
            let all = || -> Result<Duration> {
                let daemon = docker.as_ref().map_or(Ok(Duration::ZERO), Docker::processor)?;
                Ok(processor()? + daemon)
            };
            let (before, start) = (all()?, Instant::now());
            if let Err(error) = task(&at) {
                println!("{name} failed: {error}");
                return Err(error);
            }
            let wall = start.elapsed();
            figures.push((wall, all()?.saturating_sub(before)));
            if let Some(docker) = docker.as_ref().filter(|_| name.starts_with("docker")) {
                docker.forget(reference);
            }
            fs::remove_dir_all(&at)?;
        }
    }
    let median = |list: &mut Vec<Duration>| {
        list.sort();
        list.get(list.len() / 2).copied().unwrap_or_default()
    };
    let medians: Vec<(Duration, Duration)> = figures
        .into_iter()
        .map(|list| {
            let (mut wall, mut cpu): (Vec<_>, Vec<_>) = list.into_iter().unzip();
            (median(&mut wall), median(&mut cpu))
        })
        .collect();
    let (floor_wall, floor_cpu) = medians.get(2).copied().unwrap_or_default();
    println!("| what | wall, s | CPU, s | wall / floor | CPU / floor |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for ((name, _), (wall, cpu)) in tasks.iter().zip(&medians) {
        println!(
            "| {name} | {:.2} | {:.2} | {:.2} | {:.2} |",
            wall.as_secs_f64(),
            cpu.as_secs_f64(),
            wall.as_secs_f64() / floor_wall.as_secs_f64(),
            cpu.as_secs_f64() / floor_cpu.as_secs_f64(),
        );
    }
    println!("\nMost memory of rcompose: {} MiB", memory / 1024);
    Ok(())
}

/// A docker daemon, whose processor time counts as its client's.
struct Docker {
    host: String,
    daemon: i32,
}

impl Docker {
    fn new(host: &str) -> Result<Self> {
        let path = host
            .strip_prefix("unix://")
            .ok_or("the daemon's socket is unix://PATH")?;
        let socket = std::os::unix::net::UnixStream::connect(path)?;
        let peer = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials)?;
        Ok(Self {
            host: host.to_owned(),
            daemon: peer.pid(),
        })
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        run(Command::new("docker")
            .env("DOCKER_HOST", &self.host)
            .args(arguments))
    }

    fn forget(&self, reference: &str) {
        let _ = self.run(&["image", "rm", "-f", reference]);
    }

    /// Of the daemon and what it has waited for (proc_pid_stat(5), fields 14 to 17).
    fn processor(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.daemon))?;
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11);
        let ticks: u64 = fields.take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
        // A tick is 10 ms to every user of the file.
        Ok(Duration::from_millis(ticks * 10))
    }
}

/// Processor time of this process and its ended children.
fn processor() -> Result<Duration> {
    let mut total = Duration::ZERO;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who)?;
        for time in [usage.user_time(), usage.system_time()] {
            let micros = time.tv_sec() * 1_000_000 + i64::from(time.tv_usec() as i32);
            total += Duration::from_micros(u64::try_from(micros)?);
        }
    }
    Ok(total)
}

fn installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// The image as a layout; its layers.
fn make_image(layout: &Path) -> Result<Vec<PathBuf>> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut words: u64 = 88_172_645_463_325_252;
    // Compresses to some 40 %, as programs do.
    let mut text = move |length: usize| {
        let mut data = Vec::with_capacity(length + 16);
        while data.len() < length {
            words ^= words << 13;
            words ^= words >> 7;
            words ^= words << 17;
            data.extend_from_slice(&words.to_le_bytes()[..4]);
            data.extend_from_slice(b"\0\x01lib/");
        }
        data.truncate(length);
        data
    };
    let mut descriptors = Vec::new();
    let mut diffs = Vec::new();
    let mut paths = Vec::new();
    for layer in 0..LAYERS {
        let mut builder = tar::Builder::new(Vec::new());
        for file in 0..FILES {
            let mut header = tar::Header::new_gnu();
            if file % 100 == 0 {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                header.set_size(0);
                let name = format!("layer{layer}/folder{}/", file / 100);
                builder.append_data(&mut header, name, std::io::empty())?;
                header = tar::Header::new_gnu();
            }
            let size = FILE_SIZE / 2 + file * FILE_SIZE / FILES;
            header.set_mode(0o644);
            header.set_mtime(1_700_000_000);
            header.set_size(size as u64);
            let name = format!("layer{layer}/folder{}/file{file}", file / 100);
            builder.append_data(&mut header, name, &*text(size))?;
        }
        let plain = builder.into_inner()?;
        diffs.push(Digest::of(&plain).to_string());
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&plain)?;
        let packed = encoder.finish()?;
        let digest = Digest::of(&packed);
        let path = blobs.join(digest.hex());
        fs::write(&path, &packed)?;
        paths.push(path);
        descriptors.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest.to_string(), "size": packed.len(),
        }));
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let blob = |value: serde_json::Value, kind: &str| -> Result<serde_json::Value> {
        let bytes = serde_json::to_vec(&value)?;
        let digest = Digest::of(&bytes);
        fs::write(blobs.join(digest.hex()), &bytes)?;
        Ok(serde_json::json!({"mediaType": kind, "digest": digest.to_string(), "size": bytes.len()}))
    };
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diffs},
    });
    let config = blob(config, "application/vnd.oci.image.config.v1+json")?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": kind, "config": config, "layers": descriptors,
    });
    let manifest = blob(manifest, kind)?;
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(paths)
}

/// A reader that digests.
struct Hashed<R>(R, Sha256);

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

/// Digest, inflate, digest, write; a thread for each core.
fn floor(blobs: &[PathBuf], at: &Path) -> Result<()> {
    let pending = Mutex::new(blobs.to_vec());
    let work = || -> Result<()> {
        loop {
            let next = pending
                .lock()
                .map(|mut pending| pending.pop())
                .unwrap_or_default();
            let Some(blob) = next else { return Ok(()) };
            let packed = Hashed(File::open(&blob)?, Sha256::new());
            let packed = std::io::BufReader::with_capacity(128 << 10, packed);
            let plain = Hashed(flate2::bufread::GzDecoder::new(packed), Sha256::new());
            let plain = std::io::BufReader::with_capacity(256 << 10, plain);
            let mut archive = tar::Archive::new(plain);
            for entry in archive.entries()? {
                let mut entry = entry?;
                let path = at.join(entry.path()?);
                if entry.header().entry_type().is_dir() {
                    fs::create_dir_all(&path)?;
                } else {
                    std::io::copy(&mut entry, &mut File::create_new(&path)?)?;
                }
            }
            let mut rest = archive.into_inner();
            std::io::copy(&mut rest, &mut std::io::sink())?;
        }
    };
    let threads = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err("a thread has failed".into()))
        })
    })
}

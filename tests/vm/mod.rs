//! A virtual machine with one version of control groups and no other, on request
//! with systemd as process 1, in which
//! tests of this very binary are run: software emulation, Debian's kernel and an
//! initial root of our own. Up in a few seconds.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long all the tests of one machine may take when others use the
/// processors too.
const PATIENCE: Duration = Duration::from_secs(400);

/// Set inside.
const INSIDE: &str = "RCOMPOSE_TEST_MACHINE";

/// Which control groups a machine has. Not every test binary asks for each.
#[allow(dead_code)]
#[derive(Clone, Copy)]
pub(crate) enum Layout {
    /// Version 1 and no other.
    One,
    /// Version 2 and no other.
    Two,
    /// The same, and systemd is process 1.
    Systemd,
}

/// What there is to boot, or why there is nothing.
fn kernel() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-vm");
    let have = |name: &str| {
        std::env::var("PATH")
            .unwrap_or_default()
            .split(':')
            .any(|place| Path::new(place).join(name).exists())
    };
    if !have("qemu-system-x86_64") {
        let _ = Command::new("apt-get")
            .args([
                "install",
                "-y",
                "-q",
                "--no-install-recommends",
                "qemu-system-x86",
            ])
            .output();
    }
    if !have("qemu-system-x86_64") {
        return Err("no qemu-system-x86_64, and it cannot be installed".into());
    }
    let prepare = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/prepare");
    let output = Command::new(prepare)
        .arg(&folder)
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(format!("no kernel to boot: {why}"));
    }
    Ok(folder)
}

/// Whether this is a machine of ours.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs the tests with these filters in a machine; each filter must be that of
/// at least one test. Says why where there can be no machine, and is silent
/// inside of one.
pub(crate) fn run(layout: Layout, filters: &[&str]) {
    if is_inside() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let kernel = match kernel() {
        Ok(kernel) => kernel,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    if matches!(layout, Layout::Systemd) && !kernel.join("systemd.cpio").exists() {
        eprintln!("skipped: no systemd to boot");
        return;
    }
    // One at a time, with one processor: what is emulated is slow, and much
    // slower when processors of the same machine wait for each other.
    let turn = fs::File::create(kernel.join("turn")).unwrap();
    turn.lock().unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let initial = folder.path().join("initial");
    write_initial_root(&initial, &kernel, layout, filters, folder.path());
    let mut machine = Command::new("qemu-system-x86_64")
        .args([
            "-accel", "tcg", "-cpu", "max", "-M", "pc", "-m", "2048", "-smp", "1",
        ])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-nographic",
            "-no-reboot",
            "-serial",
            "stdio",
        ])
        .arg("-kernel")
        .arg(kernel.join("vmlinuz"))
        .arg("-initrd")
        .arg(&initial)
        .args([
            "-append",
            "console=ttyS0 quiet panic=-1 reboot=t tsc=unstable random.trust_cpu=on",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let output = machine.stdout.take().unwrap();
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + PATIENCE;
    let mut said = String::new();
    while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        said.push_str(&line);
        said.push('\n');
    }
    let _ = machine.kill();
    let _ = machine.wait();
    reader.join().unwrap();
    eprintln!("{said}");
    assert!(
        said.contains("machine: ended with 0 "),
        "the tests failed in the machine"
    );
    let skipped = said.lines().any(|line| line.contains("skipped: "));
    assert!(!skipped, "a test was skipped in the machine");
    for filter in filters.iter().filter(|filter| !filter.starts_with('-')) {
        let ran = |line: &str| line.contains(filter) && line.ends_with(" ... ok");
        assert!(said.lines().any(ran), "no test of the name {filter:?} was run");
    }
}

/// An archive of what the machine begins with, in the form the kernel takes
/// (cpio, "newc").
fn write_initial_root(path: &Path, kernel: &Path, layout: Layout, filters: &[&str], scratch: &Path) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("package busybox-static");
    let stripped = |from: &Path, name: &str| {
        let to = scratch.join(name);
        let done = Command::new("strip").arg("-o").arg(&to).arg(from).status();
        if !done.is_ok_and(|status| status.success()) {
            fs::copy(from, &to).unwrap();
        }
        fs::read(to).unwrap()
    };
    let environment = format!(
        "export {INSIDE}=1 RCOMPOSE_TEST_EXECUTABLE=/files/rcompose CARGO_TARGET_TMPDIR={}\n",
        env!("CARGO_TARGET_TMPDIR")
    );
    let further = match layout {
        Layout::Systemd => fs::read(kernel.join("systemd.cpio")).unwrap(),
        _ => Vec::new(),
    };
    let layout = match layout {
        Layout::One => "1",
        Layout::Two => "2",
        Layout::Systemd => "systemd",
    };
    let own = std::env::current_exe().unwrap();
    let program = fs::read(busybox).unwrap();
    let files: [(&str, u32, Vec<u8>); 11] = [
        ("bin", 0o040_755, Vec::new()),
        ("files", 0o040_755, Vec::new()),
        ("dev", 0o040_755, Vec::new()),
        ("bin/busybox", 0o100_755, program),
        ("init", 0o100_755, include_bytes!("init").to_vec()),
        ("layout", 0o100_644, layout.into()),
        ("filters", 0o100_644, filters.join(" ").into()),
        (
            "overlay.ko",
            0o100_644,
            fs::read(kernel.join("overlay.ko")).unwrap(),
        ),
        ("files/environment", 0o100_644, environment.into()),
        ("files/tests", 0o100_755, stripped(&own, "tests")),
        (
            "files/rcompose",
            0o100_755,
            stripped(Path::new(env!("CARGO_BIN_EXE_rcompose")), "rcompose"),
        ),
    ];
    let mut archive = std::io::BufWriter::new(fs::File::create(path).unwrap());
    let end = [("TRAILER!!!", 0, Vec::new())];
    for (number, (name, mode, content)) in files.iter().chain(&end).enumerate() {
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
            number + 1,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0
        );
        let mut put = |bytes: &[u8], behind: usize| {
            archive.write_all(bytes).unwrap();
            let length = bytes.len() + behind;
            archive.write_all(&[0; 4][..(4 - length % 4) % 4]).unwrap();
        };
        let named = [header.as_bytes(), name.as_bytes(), b"\0"].concat();
        put(&named, 0);
        put(content, 0);
    }
    // The kernel takes several archives one behind the other.
    archive.write_all(&further).unwrap();
    archive.flush().unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

//! The callers of runtimes: podman (with conmon) and containerd's shim, as
//! Debian packages them, each with a root of its own and no network.
//!
//! podman refuses machines with both versions of cgroups; it gets a mount
//! namespace in which the version 2 hierarchy is not to be seen.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::support::{Said, busybox, fill, program, said, wait_until};

/// Whether a program of a package is there, or can be installed.
fn has(program: &str, packages: &[&str]) -> bool {
    let found = || {
        std::env::var("PATH")
            .unwrap_or_default()
            .split(':')
            .any(|folder| Path::new(folder).join(program).exists())
    };
    if !found() {
        let _ = Command::new("apt-get")
            .args(["install", "-y", "-q", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output();
    }
    if !found() {
        eprintln!("skipped: no {program}, and {packages:?} cannot be installed");
    }
    found()
}

/// Runs a script with only loopback, and only version 1 cgroups where there are
/// both.
fn script(folder: &Path, text: &str) -> Said {
    let both = "mount --make-rprivate / && ip link set lo up && \
        { mountpoint -q /sys/fs/cgroup/unified && test -d /sys/fs/cgroup/memory && umount /sys/fs/cgroup/unified; true; } && ";
    let output = Command::new("timeout")
        .args(["-k", "5", "120", "unshare", "--mount", "--net", "sh", "-c"])
        .arg(format!("{both}{text}"))
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    said(output)
}

#[test]
fn podman_runs_execs_and_removes() {
    let Some(busybox) = busybox() else { return };
    if !has("podman", &["podman", "conmon"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fill(&folder.path().join("rootfs"), &busybox);
    let runtime = program(folder.path());
    // Rights that root may lack here cannot be asked for.
    let podman = format!(
        "podman --root {0}/store --runroot {0}/run --tmpdir {0}/tmp --cgroup-manager cgroupfs --events-backend none \
         --runtime {1}",
        folder.path().display(),
        runtime.display()
    );
    let options = "--network none --ulimit nofile=1024:1024 --ulimit nproc=1000:1000 --log-driver k8s-file";
    let text = format!(
        "set -e; trap '{podman} rm -fa -t 0 >/dev/null 2>&1' EXIT
         {podman} run {options} --rm --rootfs $PWD/rootfs echo from inside
         {podman} run {options} -d --name one --rootfs $PWD/rootfs sh -c 'echo started; sleep 1000' >/dev/null
         {podman} exec one sh -c 'echo exec $(id -u)'
         {podman} pause one >/dev/null
         {podman} inspect --format '{{{{.State.Status}}}}' one
         {podman} unpause one >/dev/null
         {podman} update --memory 64m one >/dev/null 2>&1 || true
         {podman} logs one
         {podman} exec -t one tty
         {podman} kill one >/dev/null
         {podman} wait one
         {podman} rm one >/dev/null
         {podman} run {options} --rm --rootfs $PWD/rootfs sh -c 'exit 9' || echo status $?
         {podman} run {options} --rm --rootfs $PWD/rootfs nosuch 2>/dev/null || echo status $?
         {podman} run {options} --rm --rootfs $PWD/rootfs /etc/passwd 2>/dev/null || echo status $?"
    );
    let said = script(folder.path(), &text);
    assert_eq!(
        said.out.replace('\r', ""),
        "from inside\nexec 0\npaused\nstarted\n/dev/pts/0\n137\nstatus 9\nstatus 127\nstatus 126\n",
        "{}",
        said.err
    );
}

#[test]
fn containerds_shim_runs_and_execs() {
    let Some(busybox) = busybox() else { return };
    if !has("containerd", &["containerd", "runc"]) || !has("ctr", &["containerd"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fill(&folder.path().join("rootfs"), &busybox);
    let runtime = program(folder.path());
    let place = folder.path().display();
    fs::write(
        folder.path().join("config.toml"),
        format!(
            "version = 2\nroot = \"{place}/root\"\nstate = \"{place}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{place}/sock\"\n"
        ),
    )
    .unwrap();
    let ctr = format!("ctr --address {place}/sock");
    let run = format!(
        "--runtime io.containerd.runc.v2 --runc-binary {} --rootfs {place}/rootfs",
        runtime.display()
    );
    let text = format!(
        "containerd --config config.toml >containerd.log 2>&1 & daemon=$!
         trap '{ctr} task kill -s KILL one >/dev/null 2>&1; {ctr} task rm -f one >/dev/null 2>&1; kill $daemon; wait $daemon' EXIT
         tries=0; until {ctr} version >/dev/null 2>&1; do tries=$((tries+1)); test $tries -lt 300 || exit 1; sleep 0.1; done
         {ctr} run --rm {run} hello echo from inside
         {ctr} run -d {run} one sleep 1000
         {ctr} task exec --exec-id e1 one echo exec
         {ctr} task pause one; {ctr} task ls | grep -o PAUSED; {ctr} task resume one
         {ctr} task metrics one >/dev/null && echo metrics
         {ctr} task ps one | grep -c '[0-9]'
         {ctr} task kill -s KILL one; 
         tries=0; until {ctr} task ls | grep -q STOPPED; do tries=$((tries+1)); test $tries -lt 300 || exit 1; sleep 0.1; done
         {ctr} task rm one >/dev/null 2>&1; {ctr} container rm one; {ctr} task ls -q"
    );
    let said = script(folder.path(), &text);
    let log = fs::read_to_string(folder.path().join("containerd.log")).unwrap_or_default();
    let tail: Vec<&str> = log.lines().rev().take(10).collect();
    assert!(
        said.out.starts_with("from inside\nexec\nPAUSED\n") && said.out.ends_with("metrics\n1\n"),
        "{said:?} {tail:#?}"
    );
    // The shim has ended with its containers.
    wait_until("the shim's end", || {
        !fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            fs::read(entry.path().join("cmdline"))
                .is_ok_and(|text| String::from_utf8_lossy(&text).contains(&place.to_string()))
        })
    });
}

//! A container without any option is what Docker's is: what a process sees and
//! may do, compared with a table (`docker-defaults.txt`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use rcompose::runtime::bind_mount;

use crate::support::{Container, container};

/// The lines of the table of one kind, without the kind.
fn table(kind: &str) -> BTreeSet<String> {
    include_str!("docker-defaults.txt")
        .lines()
        .filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))
        .map(str::to_owned)
        .collect()
}

/// What a script prints: lines with single spaces.
fn lines(container: &mut Container, script: &str) -> BTreeSet<String> {
    let run = container.sh(script);
    assert_eq!((run.exit.code, run.stderr.as_str()), (0, ""));
    let tidy = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    run.stdout.lines().map(tidy).collect()
}

const STATUS: &str = "grep -E '^(Cap...|NoNewPrivs|Seccomp|Groups):' /proc/self/status";

#[test]
fn a_process_is_who_it_is_in_docker() {
    let Some(mut container) = container() else { return };
    assert_eq!(lines(&mut container, STATUS), table("status"));
    assert_eq!(lines(&mut container, "umask"), table("umask"));
    assert_eq!(lines(&mut container, "pwd"), table("cwd"));
    // What a shell adds is not the container's.
    let env = "env | grep -v -E '^(SHLVL|PWD|HOSTNAME)='";
    assert_eq!(lines(&mut container, env), table("env"));
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(
        lines(&mut container, "cat /proc/self/oom_score_adj"),
        BTreeSet::from([own.trim().to_owned()])
    );
    // Limits are those of whoever starts it.
    let limits = |text: &str| -> BTreeMap<String, String> {
        let row = |line: &str| (line[..26].trim().to_owned(), line[26..].to_owned());
        text.lines().skip(1).map(row).collect()
    };
    let run = container.sh("cat /proc/self/limits");
    assert_eq!(
        limits(&run.stdout),
        limits(&fs::read_to_string("/proc/self/limits").unwrap())
    );
    container.on_request(|request| request.user = Some("101".into()));
    let capabilities = "grep -E '^Cap' /proc/self/status";
    assert_eq!(lines(&mut container, capabilities), table("other"));
}

#[test]
fn devices_and_parameters_are_those_of_docker() {
    let Some(mut container) = container() else { return };
    let devices = "for f in /dev/*; do n=$(stat -c %t:%T $f); [ $n = 0:0 ] && n=; \
        echo $(stat -c '%n %A %u:%g' $f) $n $(readlink $f); done";
    let mut expected = table("dev");
    if Path::new("/proc/kcore").exists() {
        expected.insert("/dev/core lrwxrwxrwx 0:0 /proc/kcore".into());
    }
    assert_eq!(lines(&mut container, devices), expected);
    let parameters = "cd /proc/sys; for f in net/ipv4/ping_group_range net/ipv4/ip_unprivileged_port_start; \
        do echo $f $(cat $f); done";
    assert_eq!(lines(&mut container, parameters), table("sysctl"));
}

#[test]
fn mounts_are_those_of_docker() {
    let Some(mut container) = container() else { return };
    let run = container.sh("cat /proc/self/mountinfo");
    let (mut mounts, mut cgroups) = (BTreeSet::new(), BTreeSet::new());
    let (mut readonly, mut masked) = (BTreeSet::new(), BTreeSet::new());
    for line in run.stdout.lines() {
        let (place, kind) = line.split_once(" - ").unwrap();
        let place: Vec<&str> = place.split(' ').collect();
        let kind: Vec<&str> = kind.split(' ').collect();
        let (root, point, flags) = (place[3], place[4], place[5]);
        if point.starts_with("/sys/fs/cgroup") {
            // The folder that holds version 1 hierarchies is a tmpfs.
            if kind[0] != "tmpfs" {
                cgroups.insert(flags.to_owned());
            }
        } else if point.starts_with("/proc/") && kind[0] == "proc" {
            assert_eq!(flags, "ro,nosuid,nodev,noexec,relatime", "{point}");
            assert_eq!(root, &point["/proc".len()..]);
            readonly.insert(point.to_owned());
        } else if point.starts_with("/proc/") || point.starts_with("/sys/") {
            if Path::new(point).is_dir() {
                assert!(flags.starts_with("ro,") && kind[0] == "tmpfs", "{line}");
            } else {
                assert_eq!(root, "/null", "{line}");
            }
            masked.insert(point.to_owned());
        } else if point != "/" {
            mounts.insert(format!("{point} {flags} {} {}", kind[0], kind[2]));
        }
    }
    assert_eq!(mounts, table("mount"));
    assert_eq!(cgroups, table("cgroup"));
    let there = |kind: &str| -> BTreeSet<String> {
        let there = |path: &String| Path::new(path).exists();
        table(kind).into_iter().filter(there).collect()
    };
    assert_eq!(readonly, there("readonly"));
    let mut expected = there("masked");
    for processor in fs::read_dir("/sys/devices/system/cpu").unwrap().flatten() {
        let path = processor.path().join("thermal_throttle");
        if path.exists() {
            expected.insert(path.to_str().unwrap().to_owned());
        }
    }
    assert_eq!(masked, expected);
    // What is masked is empty, and what is read-only is not written.
    for path in readonly {
        let run = container.sh(&format!("touch {path} 2>&1"));
        assert!(run.stdout.contains("Read-only file system"), "{}", run.stdout);
    }
    for path in masked {
        let run = container.sh(&format!("if [ -d {path} ]; then ls {path}; else cat {path}; fi"));
        assert_eq!((run.exit.code, run.stdout.as_str()), (0, ""), "{path}");
    }
}

/// Every system call there is, and those whose arguments decide.
#[cfg(target_arch = "x86_64")]
#[test]
fn system_calls_are_judged_as_by_docker() {
    let Some(mut container) = container() else { return };
    let program = container.path("probe");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/runtime/probe.c");
    let made = Command::new("cc")
        .args(["-O2", "-static", "-o"])
        .arg(&program)
        .arg(source)
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no C compiler");
        return;
    }
    container
        .settings
        .mounts
        .push(bind_mount(&program, "/opt/probe", &["ro"]));
    let mut verdicts = |options: &[&str]| -> BTreeMap<String, String> {
        container.settings.security_opt = options.iter().map(|option| (*option).to_owned()).collect();
        let run = container.run(&["/opt/probe"]);
        assert_eq!(run.exit.code, 0);
        let line = |line: &str| {
            let (call, verdict) = line.rsplit_once(' ').unwrap();
            (call.to_owned(), verdict.to_owned())
        };
        run.stdout.lines().map(line).collect()
    };
    let (ours, free) = (verdicts(&[]), verdicts(&["seccomp=unconfined"]));
    assert_eq!(ours.len(), 503);
    let docker: BTreeMap<String, String> = table("call")
        .iter()
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(call, verdict)| (call.to_owned(), verdict.to_owned()))
        .collect();
    let mut different = Vec::new();
    for (call, verdict) in &ours {
        // What this kernel does not have cannot be let through.
        if free[call] == "missing" {
            continue;
        }
        let expected = docker.get(call).map_or("passes", String::as_str);
        if verdict != expected {
            different.push(format!("{call}: {verdict}, in Docker {expected}"));
        }
    }
    assert!(different.is_empty(), "{different:#?}");
}

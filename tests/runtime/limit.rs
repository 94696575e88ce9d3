//! Limits.

use std::fs;
use std::path::PathBuf;

use rcompose::runtime::{CgroupRequest, Limits, cgroup};

use crate::support::container;

/// Whether this machine has a controller that we can use.
fn has(controller: &str) -> bool {
    let layout = cgroup::Layout::detect().unwrap();
    layout
        .hierarchies
        .iter()
        .any(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
}

fn read(folders: &[cgroup::Folder], v1: &str, v2: &str) -> String {
    folders
        .iter()
        .find_map(|folder| {
            let name = if folder.version == cgroup::Version::V1 {
                v1
            } else {
                v2
            };
            fs::read_to_string(PathBuf::from(&folder.path).join(name)).ok()
        })
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[test]
fn a_fork_bomb_is_stopped() {
    let Some(mut container) = container() else { return };
    if !has("pids") {
        eprintln!("skipped: no pids controller");
        return;
    }
    container.settings.resources.pids = Some(8);
    let run = container.sh("i=0; while [ $i -lt 50 ]; do sleep 5 & i=$((i+1)); done; echo $i");
    assert!(run.stderr.contains("can't fork"), "{}", run.stderr);
    assert_ne!(run.exit.code, 0);
}

#[test]
fn too_much_memory_is_recorded() {
    let Some(mut container) = container() else { return };
    if !has("memory") {
        eprintln!("skipped: no memory controller");
        return;
    }
    container.settings.resources.memory = Some(8 << 20);
    let run = container.run(&["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]);
    assert_eq!(
        (run.exit.code, run.exit.signal, run.exit.oom_killed),
        (137, Some(9), true)
    );
    // The next run begins from nothing.
    container.settings.resources.memory = None;
    assert!(!container.run(&["true"]).exit.oom_killed);
}

#[test]
fn limits_reach_the_kernel_and_change_in_place() {
    let Some(mut container) = container() else { return };
    container.settings.resources = Limits {
        memory: Some(64 << 20),
        cpus_milli: Some(500),
        cpu_shares: Some(512),
        cpuset: has("cpuset").then(|| "0".to_owned()),
        pids: Some(100),
        ..Limits::default()
    };
    let started = container
        .start(&["sh", "-c", "echo ready; while :; do sleep 1; done"])
        .unwrap();
    container.wait_for("ready");
    let running = container.running();
    let folders = &running.fixed.cgroup.folders;
    if has("memory") {
        assert_eq!(
            read(folders, "memory.limit_in_bytes", "memory.max"),
            (64 << 20).to_string()
        );
    }
    if has("pids") {
        assert_eq!(read(folders, "pids.max", "pids.max"), "100");
    }
    if has("cpu") {
        assert!(["50000", "50000 100000"].contains(&read(folders, "cpu.cfs_quota_us", "cpu.max").as_str()));
    }
    if has("cpuset") {
        assert_eq!(
            container
                .exec_sh("grep Cpus_allowed_list /proc/1/status | cut -f2")
                .stdout,
            "0\n"
        );
    }
    for limit in [32 << 20, 128 << 20] {
        let changed = Limits {
            memory: Some(limit),
            pids: Some(50),
            ..Limits::default()
        };
        let warnings = rcompose::runtime::update(&running, &changed.to_spec()).unwrap();
        if has("memory") {
            assert_eq!(warnings, []);
            assert_eq!(
                read(folders, "memory.limit_in_bytes", "memory.max"),
                limit.to_string()
            );
        }
    }
    rcompose::runtime::kill_all(&running).unwrap();
    container.finish(started);
}

#[test]
fn what_the_machine_cannot_enforce_is_a_warning_or_an_error() {
    let Some(mut container) = container() else { return };
    container.on_request(|request| {
        let linux = request.spec.linux_mut().as_mut().unwrap();
        let resources = linux.resources_mut().as_mut().unwrap();
        resources.set_unified(Some([("nosuch.max".to_owned(), "1".to_owned())].into()));
    });
    // Version 2 says that it has no such file; without version 2 it is a warning.
    match container.start(&["true"]) {
        Ok(started) => assert!(started.warnings.iter().any(|warning| warning.contains("unified"))),
        Err(error) => {
            let error = error.to_string();
            assert!(
                error.contains("invalid configuration: resources.unified: no file \"nosuch.max\""),
                "{error}"
            );
        }
    }
    container.clean();
    if has("memory") && has("pids") && has("cpu") {
        let path = container.cgroup();
        container.on_request(move |request| request.cgroup = CgroupRequest { path, strict: true });
        container.settings.resources = Limits {
            memory: Some(64 << 20),
            pids: Some(10),
            ..Limits::default()
        };
        assert_eq!(container.run(&["true"]).exit.code, 0);
    }
}

#[test]
fn resource_limits_are_set_or_the_best_is_made_of_them() {
    let Some(mut container) = container() else { return };
    container.settings.ulimits.insert("nofile".into(), (100, 200));
    container.settings.ulimits.insert("core".into(), (0, 0));
    let run = container.sh("ulimit -Sn; ulimit -Hn; ulimit -c");
    assert_eq!(run.stdout, "100\n200\n0\n");
    assert_eq!(run.warnings, [""; 0]);
    container
        .settings
        .ulimits
        .insert("nofile".into(), (100, 1_000_000_000));
    match container.start(&["sh", "-c", "ulimit -Hn"]) {
        Ok(started) => {
            let run = container.finish(started);
            let hard: u64 = run.stdout.trim().parse().unwrap();
            if hard < 1_000_000_000 {
                assert_eq!(
                    run.warnings,
                    [format!("ulimit nofile is {hard}: no right to raise it further")]
                );
            }
        }
        // Above what the kernel allows at all (fs.nr_open).
        Err(error) => assert_eq!(
            error.to_string(),
            "set resource limit nofile: operation not permitted"
        ),
    }
}

#[test]
fn the_out_of_memory_score() {
    let Some(mut container) = container() else { return };
    container.settings.oom_score_adj = Some(500);
    assert_eq!(
        container.run(&["cat", "/proc/self/oom_score_adj"]).stdout,
        "500\n"
    );
}

#[test]
fn a_program_of_version_2_decides_about_devices() {
    let Some(container) = container() else { return };
    let layout = cgroup::Layout::detect().unwrap();
    let only_v2 = cgroup::Layout {
        hierarchies: layout
            .hierarchies
            .into_iter()
            .filter(|each| each.version == cgroup::Version::V2)
            .collect(),
    };
    if only_v2.hierarchies.is_empty() {
        eprintln!("skipped: no version 2 hierarchy");
        return;
    }
    let rules = serde_json::json!({"devices": [
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"},
    ]});
    let resources: oci_spec::runtime::LinuxResources = serde_json::from_value(rules).unwrap();
    let path = container.cgroup();
    let (made, warnings) = cgroup::Cgroup::create(&only_v2, &path, Some(&resources), false).unwrap();
    assert_eq!(warnings, []);
    let procs = made.unified().unwrap().join("cgroup.procs");
    let script = format!(
        "echo $$ > {} && cat /dev/null && echo null; cat /dev/zero | head -c 1 || true",
        procs.display()
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .output()
        .unwrap();
    made.remove().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "null\n");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("/dev/zero") && errors.contains("Operation not permitted"),
        "{errors}"
    );
}

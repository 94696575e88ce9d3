//! Control groups: limits as written, changed in place, and what is used.

use std::fs;

use serde_json::{Value, json};

use super::support::{Bundle, bundle, wait_until};
use crate::vm;

/// A value in whichever hierarchy has the file.
fn value(bundle: &Bundle, files: &[&str]) -> Option<String> {
    bundle.cgroups().iter().find_map(|folder| {
        files
            .iter()
            .find_map(|file| fs::read_to_string(folder.join(file)).ok())
            .map(|text| text.trim().to_owned())
    })
}

#[test]
fn on_version_2_alone() {
    vm::run(
        vm::Layout::Two,
        &[
            "limits::",
            // Version 1 has other freezers.
            "--skip=limits::a_process_that_somebody_froze",
            "--skip=limits::real_time",
            "lifecycle::processes_are_added_listed_and_paused",
            "lifecycle::a_paused_container_can_be_killed",
            "lifecycle::signals_reach_created_and_running_containers",
            "users::its_root_is_nobody_outside",
            "users::exec_and_a_second_container_join_it",
        ],
    );
}

#[test]
fn on_version_1_alone() {
    vm::run(
        vm::Layout::One,
        &[
            "limits::",
            // Its kernel has no real-time groups.
            "--skip=limits::real_time",
            "lifecycle::processes_are_added_listed_and_paused",
            "lifecycle::a_paused_container_can_be_killed",
        ],
    );
}

#[test]
fn no_number_of_tasks_is_no_limit() {
    let Some(mut bundle) = bundle() else { return };
    for pids in [json!({"limit": 0}), json!({"limit": -1}), json!({})] {
        bundle.config["linux"]["resources"] = json!({"pids": pids});
        bundle.args(&["sleep", "1000"]);
        bundle.start();
        assert_eq!(value(&bundle, &["pids.max"]).as_deref(), Some("max"), "{pids}");
        bundle.delete();
    }
}

#[test]
fn real_time_is_changed_with_the_period_it_is_counted_in() {
    let Some(mut bundle) = bundle() else { return };
    bundle.args(&["sleep", "1000"]);
    bundle.config["linux"]["resources"] =
        json!({"cpu": {"realtimePeriod": 1_000_000, "realtimeRuntime": 20_000}});
    bundle.save();
    bundle.start();
    let seen = |file| value(&bundle, &[file]);
    if seen("cpu.rt_runtime_us").is_none() {
        eprintln!("skipped: no real-time groups");
        bundle.delete();
        return;
    }
    for (period, runtime) in [("10000", "400"), ("100000", "3000"), ("20000", "500")] {
        bundle.ok(&[
            "update",
            &bundle.id,
            "--cpu-rt-period",
            period,
            "--cpu-rt-runtime",
            runtime,
        ]);
        assert_eq!(seen("cpu.rt_period_us").as_deref(), Some(period));
        assert_eq!(seen("cpu.rt_runtime_us").as_deref(), Some(runtime));
    }
    bundle.delete();
}

#[test]
fn nobody_is_made_in_a_cgroup_that_is_frozen() {
    let Some(mut bundle) = bundle() else { return };
    let own = format!("rcompose-frozen-{}", std::process::id());
    bundle.args(&["true"]);
    // Which hierarchies there are on this machine.
    bundle.create();
    let hierarchies: Vec<_> = bundle
        .cgroups()
        .iter()
        .filter_map(|folder| Some(folder.parent()?.parent()?.to_owned()))
        .collect();
    bundle.delete();
    bundle.config["linux"]["cgroupsPath"] = format!("/{own}/inner").into();
    for (file, frozen, thawed) in [("freezer.state", "FROZEN", "THAWED"), ("cgroup.freeze", "1", "0")] {
        for hierarchy in &hierarchies {
            let above = hierarchy.join(&own);
            let inner = above.join("inner");
            fs::create_dir_all(&inner).unwrap();
            if inner.join(file).exists() {
                for place in [&inner, &above] {
                    fs::write(place.join(file), frozen).unwrap();
                    bundle.save();
                    for command in ["create", "run"] {
                        let said = bundle.call(&[command, &bundle.id]);
                        let refused = said.code == 1 && said.err.contains("unexpectedly frozen");
                        assert!(refused, "{place:?}: {said:?}");
                    }
                    // It stays as somebody has left it.
                    assert!(place.exists());
                    fs::write(place.join(file), thawed).unwrap();
                    // Then the one above it is frozen, and this one not there.
                    let _ = fs::remove_dir(&inner);
                }
            }
            let _ = fs::remove_dir(&inner);
            fs::remove_dir(&above).unwrap();
        }
    }
}

#[test]
fn limits_are_set_changed_and_counted() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["linux"]["resources"] = json!({
        "memory": {"limit": 64 << 20}, "pids": {"limit": 50}, "cpu": {"shares": 512, "quota": 20000, "period": 50000},
        "devices": [{"allow": false, "access": "rwm"}]});
    bundle.sh("cat /dev/zero | head -c 5 | wc -c; mknod /data/disk b 8 0; cat /data/disk 2>/dev/null || echo denied; sleep 1000");
    bundle.start();
    bundle.wait_for_output("denied");
    assert!(bundle.output().starts_with("5\n"), "{}", bundle.output());
    let memory = ["memory.limit_in_bytes", "memory.max"];
    assert_eq!(value(&bundle, &memory).unwrap(), (64 << 20).to_string());
    assert_eq!(value(&bundle, &["pids.max"]).unwrap(), "50");
    let quota = value(&bundle, &["cpu.cfs_quota_us", "cpu.max"]).unwrap();
    assert!(quota.starts_with("20000"), "{quota}");
    bundle.ok(&[
        "update",
        "--memory",
        "128m",
        "--pids-limit",
        "60",
        "--cpu-quota",
        "30000",
        &bundle.id,
    ]);
    assert_eq!(value(&bundle, &memory).unwrap(), (128 << 20).to_string());
    assert_eq!(value(&bundle, &["pids.max"]).unwrap(), "60");
    fs::write(bundle.path("new.json"), r#"{"pids": {"limit": 70}}"#).unwrap();
    bundle.ok(&["update", "-r", "new.json", &bundle.id]);
    assert_eq!(value(&bundle, &["pids.max"]).unwrap(), "70");
    let stats: Value = serde_json::from_str(&bundle.ok(&["events", "--stats", &bundle.id])).unwrap();
    assert_eq!(stats["type"], "stats");
    assert_eq!(stats["id"], bundle.id);
    assert!(stats["data"]["pids"]["current"].as_u64().unwrap() >= 1, "{stats}");
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 128 << 20);
    assert!(
        stats["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0,
        "{stats}"
    );
    // Without a limit of memory there is none of memory and swap.
    bundle.ok(&["update", "--memory", "64m", "--memory-swap", "64m", &bundle.id]);
    bundle.ok(&["update", "--memory", "-1", &bundle.id]);
    let unlimited = value(&bundle, &memory).unwrap();
    assert!(
        unlimited == "max" || unlimited.parse::<u64>().unwrap() > 1 << 60,
        "{unlimited}"
    );
    bundle.delete();
    assert!(bundle.cgroups().is_empty());
}

#[test]
fn a_container_that_runs_out_of_memory_is_reported() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["linux"]["resources"] = json!({"memory": {"limit": 8 << 20, "swap": 8 << 20}});
    bundle.sh("while ! test -e /data/go; do sleep 0.01; done; sh -c 'x=$(cat /dev/zero | tr \"\\0\" x | head -c 100000000)'; sleep 1000");
    bundle.start();
    let events = fs::File::create(bundle.path("events")).unwrap();
    let mut watcher = bundle
        .command(&["events", "--interval", "50ms", &bundle.id])
        .stdout(events)
        .spawn()
        .unwrap();
    wait_until("first stats", || {
        fs::read_to_string(bundle.path("events"))
            .unwrap()
            .contains("stats")
    });
    fs::write(bundle.path("rootfs/data/go"), "").unwrap();
    wait_until("oom", || {
        fs::read_to_string(bundle.path("events"))
            .unwrap()
            .contains("\"oom\"")
    });
    bundle.delete();
    assert!(watcher.wait().unwrap().success());
}

#[test]
fn somebody_elses_cgroup_is_left_alone() {
    let Some(mut bundle) = bundle() else { return };
    let Some(mut other) = self::bundle() else { return };
    other.args(&["sleep", "1000"]);
    other.start();
    bundle.config["linux"]["cgroupsPath"] = other.config["linux"]["cgroupsPath"].clone();
    let error = bundle.refused();
    assert!(error.contains("cgroup is not empty"), "{error}");
    assert_eq!(other.state()["status"], "running");
    other.delete();
}

#[test]
fn a_process_that_somebody_froze_elsewhere_is_deleted_all_the_same() {
    let Some(mut bundle) = bundle() else { return };
    let freezer = std::path::Path::new("/sys/fs/cgroup/freezer");
    if !freezer.join("cgroup.procs").exists() {
        // Version 2 has no freezer that a killed process would wait in.
        return;
    }
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    let elsewhere = freezer.join(format!("rcompose-test-frozen-{}", bundle.id));
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("cgroup.procs"), bundle.state()["pid"].to_string()).unwrap();
    fs::write(elsewhere.join("freezer.state"), "FROZEN").unwrap();
    let said = bundle.call(&["delete", "--force", &bundle.id]);
    fs::write(elsewhere.join("freezer.state"), "THAWED").unwrap();
    wait_until("an empty folder", || fs::remove_dir(&elsewhere).is_ok());
    assert!(said.code == 0 && said.err.is_empty(), "{said:?}");
}

#[test]
fn further_processes_join_folders_below_the_containers() {
    let Some(mut bundle) = bundle() else { return };
    bundle.args(&["sleep", "1000"]);
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|kind| kind["type"] != "cgroup");
    bundle.start();
    let folders = bundle.cgroups();
    for folder in &folders {
        fs::create_dir(folder.join("sub")).unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // Of version 1, where it is empty at first.
            if folder.starts_with("/sys/fs/cgroup/cpuset") {
                fs::copy(folder.join(file), folder.join("sub").join(file)).unwrap();
            }
        }
    }
    fs::create_dir(folders[0].join("alone")).unwrap();
    let inside = |option: &str, name: &str| {
        let said = bundle.exec_with(&["--cgroup", option], &["cat", "/proc/self/cgroup"]);
        assert_eq!(said.code, 0, "{option}: {said:?}");
        let end = format!("{}/{name}", bundle.id);
        said.out.lines().filter(|line| line.ends_with(&end)).count()
    };
    assert_eq!(inside("sub", "sub"), folders.len());
    assert_eq!(inside("/", ""), 0);
    // In the hierarchies where it is.
    assert_eq!(inside("alone", "alone"), 1);
    if let Some(name) = folders.iter().find_map(|folder| {
        let name = folder
            .strip_prefix("/sys/fs/cgroup")
            .unwrap()
            .iter()
            .next()?
            .to_str()?;
        (name == "pids").then_some(name)
    }) {
        assert_eq!(inside(&format!("{name}:sub"), "sub"), 1);
    }
    for wrong in ["nosuch", "../sub", "nosuch:sub"] {
        let said = bundle.exec_with(&["--cgroup", wrong], &["true"]);
        assert!(said.code == 255 && !said.err.is_empty(), "{wrong}: {said:?}");
    }
}

#[test]
fn without_a_cgroup_namespace_it_sees_its_own_folders() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|kind| kind["type"] != "cgroup");
    bundle.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro", "nosuid"]}));
    let said = bundle.prints(
        "cat /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs 2>/dev/null | sort -u | head -3; \
        mkdir /sys/fs/cgroup/memory/x 2>/dev/null || mkdir /sys/fs/cgroup/x 2>/dev/null || echo read-only",
    );
    assert!(said.starts_with("1\n") || said.contains("\n1\n"), "{said}");
    assert!(said.ends_with("read-only\n"), "{said}");
}

#[test]
fn real_time_is_granted_in_the_containers_own_period() {
    let Some(mut bundle) = bundle() else { return };
    // Not every kernel divides real time among groups, and none does in version 2.
    if !std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists() {
        return;
    }
    let cpu = json!({"realtimePeriod": 100_000, "realtimeRuntime": 1000});
    bundle.config["linux"]["resources"] = json!({"cpu": cpu});
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    assert_eq!(value(&bundle, &["cpu.rt_runtime_us"]).as_deref(), Some("1000"));
    assert_eq!(value(&bundle, &["cpu.rt_period_us"]).as_deref(), Some("100000"));
    bundle.delete();
}

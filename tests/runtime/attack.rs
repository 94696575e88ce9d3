//! Hostile images.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rcompose::runtime::{bind_mount, tmpfs_mount};

use crate::support::{container, exec_request, executable};

/// Everything below a folder, with sizes.
fn tree(folder: &Path) -> Vec<String> {
    let output = std::process::Command::new("find")
        .arg(folder)
        .args(["-printf", "%p %s %m\n"])
        .output()
        .unwrap();
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

#[test]
fn links_where_the_runtime_mounts_lead_nowhere() {
    for place in ["proc", "sys", "dev"] {
        let Some(mut container) = container() else { return };
        let host = container.path("host");
        fs::create_dir_all(host.join("shm")).unwrap();
        fs::write(host.join("file"), "host").unwrap();
        let before = tree(&host);
        container.layer(|layer| symlink(&host, layer.join(place)).unwrap());
        let error = container.start(&["true"]).unwrap_err().to_string();
        assert!(
            error.starts_with("mount ") && error.contains(&format!("on /{place}:")),
            "{error}"
        );
        container.clean();
        assert_eq!(tree(&host), before);
    }
}

#[test]
fn links_where_mounts_are_asked_for_stay_inside() {
    let Some(mut container) = container() else { return };
    let host = container.path("host");
    fs::create_dir_all(&host).unwrap();
    fs::write(host.join("secret"), "host secret").unwrap();
    fs::create_dir(container.path("share")).unwrap();
    fs::write(container.path("share/in"), "share\n").unwrap();
    let before = tree(&host);
    container.layer(|layer| {
        symlink(&host, layer.join("data")).unwrap();
        symlink("../../../../../../../../..", layer.join("up")).unwrap();
        symlink("/proc", layer.join("kernel")).unwrap();
    });
    container.settings.mounts = vec![
        bind_mount(&container.path("share"), "/data/x", &[]),
        tmpfs_mount("/up/y", &["mode=755"]),
    ];
    let run = container.sh("cat /data/x/in; touch /y/z && ls /y; ls /data");
    assert_eq!(run.stdout, "share\nz\nx\n");
    assert_eq!(tree(&host), before);
    for target in ["/kernel", "/kernel/sys", "/proc/sys", "/proc"] {
        container.settings.mounts = vec![bind_mount(&container.path("share"), target, &[])];
        let error = container.start(&["true"]).unwrap_err().to_string();
        assert!(error.contains("/proc"), "{target}: {error}");
        container.clean();
    }
}

#[test]
fn files_the_runtime_reads_are_not_the_hosts_and_not_waited_for() {
    let Some(mut container) = container() else { return };
    container.layer(|layer| {
        fs::create_dir(layer.join("etc")).unwrap();
        let fifo = layer.join("etc/passwd");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    });
    container.on_request(|request| request.user = Some("web".into()));
    let error = container.start(&["true"]).unwrap_err();
    assert_eq!(error.to_string(), "find user /etc/passwd: not a regular file");
}

#[test]
fn a_working_directory_through_a_leaked_descriptor_is_refused() {
    let Some(mut container) = container() else { return };
    for number in 3..20 {
        container.settings.cwd = format!("/proc/self/fd/{number}");
        let error = container.start(&["pwd"]).unwrap_err().to_string();
        assert!(error.starts_with("chdir to /proc/self/fd/"), "{error}");
        container.clean();
    }
}

#[test]
fn our_executable_cannot_be_written_from_inside() {
    let Some(mut container) = container() else { return };
    let own = executable();
    let before = fs::metadata(&own).unwrap();
    // The program is our executable: an attempt to keep it open for writing.
    container.layer(|layer| {
        let script = layer.join("bin/evil");
        fs::create_dir(layer.join("bin")).unwrap();
        fs::write(&script, "#!/proc/self/exe\n").unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    });
    if let Ok(started) = container.start(&["/bin/evil"]) {
        assert!(started.monitor.ends_within(Some(crate::support::PATIENCE)));
        started.monitor.reap();
        container.clean();
    }
    // With an init process ours stays process 1.
    container.on_request(|request| request.init = true);
    container.settings.cap_add = vec!["SYS_PTRACE".into()];
    let started = container
        .start(&["sh", "-c", "(echo x >> /proc/1/exe) 2>&1; (: > /proc/1/exe) 2>&1; echo ready; while :; do for p in /proc/[0-9]*/exe; do (echo x >> $p) 2>/dev/null; done; done"])
        .unwrap();
    container.wait_for("ready");
    for _ in 0..50 {
        container.exec(&exec_request(&["true"])).unwrap();
    }
    let output = container.output().0;
    let refused = ["Read-only file system", "Permission denied", "Text file busy"];
    let attempts: Vec<&str> = output.lines().take(2).collect();
    assert!(
        attempts
            .iter()
            .all(|line| refused.iter().any(|reason| line.contains(reason))),
        "{attempts:?}"
    );
    rcompose::runtime::kill_all(&container.running()).unwrap();
    container.finish(started);
    let after = fs::metadata(&own).unwrap();
    assert_eq!(
        (before.len(), before.modified().unwrap()),
        (after.len(), after.modified().unwrap())
    );
}

#[test]
fn a_target_that_is_swapped_while_it_is_mounted_stays_inside() {
    let Some(mut container) = container() else { return };
    let (share, host) = (container.path("share"), container.path("host"));
    fs::create_dir_all(share.join("real/deep")).unwrap();
    fs::create_dir_all(host.join("deep")).unwrap();
    symlink(&host, share.join("link")).unwrap();
    let before = tree(&host);
    // What a second container with the same volume could do.
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (swapper_stop, place) = (stop.clone(), share.clone());
    let swapper = std::thread::spawn(move || {
        let folder = fs::File::open(&place).unwrap();
        while !swapper_stop.load(std::sync::atomic::Ordering::Relaxed) {
            let _ = rustix::fs::renameat_with(
                &folder,
                "real",
                &folder,
                "link",
                rustix::fs::RenameFlags::EXCHANGE,
            );
        }
    });
    container.settings.mounts = vec![
        bind_mount(&share, "/v", &[]),
        tmpfs_mount("/v/real/deep/a", &[]),
        tmpfs_mount("/v/real/b", &[]),
    ];
    let mut started_some = 0;
    for _ in 0..60 {
        match container.start(&["true"]) {
            Ok(started) => {
                started_some += 1;
                container.finish(started);
            }
            Err(_) => container.clean(),
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    swapper.join().unwrap();
    assert!(started_some > 0);
    assert_eq!(tree(&host), before);
}

#[test]
fn version_1_cgroups_give_no_way_out() {
    let Some(mut container) = container() else { return };
    let run = container.sh(
        "mkdir /tmp/c; mount -t cgroup -o memory c /tmp/c; unshare -Ur true; for f in $(find /sys/fs/cgroup -name release_agent); do (echo /x > $f) 2>&1; done; (echo x > /sys/fs/cgroup/cgroup.procs) 2>&1",
    );
    assert!(run.stderr.contains("mount: permission denied"), "{}", run.stderr);
    assert!(run.stderr.contains("unshare"), "{}", run.stderr);
    assert!(
        run.stdout.lines().all(|line| line.contains("Read-only")
            || line.contains("Permission denied")
            || line.contains("nonexistent")),
        "{}",
        run.stdout
    );
}

//! Ends, killed processes, supervisors that come and go.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::Command;

use rcompose::runtime::{self, Liveness, Revive};

use crate::support::{Container, container, wait_until};

const LOOP: [&str; 3] = [
    "sh",
    "-c",
    "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done",
];

fn processes_of(container: &Container) -> usize {
    let layout = runtime::cgroup::Layout::detect().unwrap();
    runtime::cgroup::Cgroup::locate(&layout, &container.cgroup())
        .unwrap()
        .processes()
        .len()
}

#[test]
fn a_signal_reaches_the_program() {
    let Some(mut container) = container() else { return };
    let started = container.start(&LOOP).unwrap();
    container.wait_for("ready");
    let running = container.running();
    assert_eq!(
        (running.init, running.monitor),
        (started.init.id(), started.monitor.id())
    );
    assert!(matches!(
        runtime::probe(&running).unwrap(),
        Liveness::Running { init: Some(_), .. }
    ));
    runtime::signal(&running, libc::SIGTERM).unwrap();
    let run = container.finish(started);
    assert_eq!((run.exit.code, run.stdout.as_str()), (3, "ready\nbye\n"));
    assert!(matches!(runtime::probe(&running).unwrap(), Liveness::Ended));
    assert!(runtime::signal(&running, libc::SIGTERM).is_err());
}

#[test]
fn everything_is_killed_even_what_forks() {
    let Some(mut container) = container() else { return };
    let started = container
        .start(&["sh", "-c", "echo ready; while :; do sleep 100 & sleep 0.01; done"])
        .unwrap();
    container.wait_for("ready");
    runtime::kill_all(&container.running()).unwrap();
    assert_eq!(processes_of(&container), 0);
    let run = container.finish(started);
    assert_eq!(
        (run.exit.code, run.exit.signal, run.exit.oom_killed),
        (137, Some(9), false)
    );
}

#[test]
fn a_killed_monitor_is_noticed_and_cleared_up_after() {
    let Some(mut container) = container() else { return };
    let started = container.start(&LOOP).unwrap();
    container.wait_for("ready");
    let running = container.running();
    assert!(runtime::is_running(&running).unwrap());
    started.monitor.signal(libc::SIGKILL).unwrap();
    assert!(started.monitor.ends_within(Some(crate::support::PATIENCE)));
    let _ = started.monitor.wait();
    let record = runtime::reap_lost(
        Some(&running),
        &container.cgroup(),
        &container.path("exit.json"),
        || None,
    )
    .unwrap();
    assert_eq!((record.code, record.signal), (137, Some(9)));
    assert_eq!(record.error.as_deref(), Some("the monitor was killed"));
    assert_eq!(container.exit(), record);
    assert!(started.init.ends_within(Some(crate::support::PATIENCE)));
    assert!(matches!(runtime::probe(&running).unwrap(), Liveness::Ended));
    assert!(!runtime::is_running(&running).unwrap());
    container.clean();
    // Once more changes nothing.
    assert_eq!(
        runtime::reap_lost(
            Some(&running),
            &container.cgroup(),
            &container.path("exit.json"),
            || None
        )
        .unwrap(),
        record
    );
    container.clean();
    // And the container can be started again; until that is known, how it ended stays.
    assert_eq!(container.run(&["true"]).exit.code, 0);
    let earlier = runtime::earlier(&container.path("exit.json"));
    assert_eq!(
        rcompose::store::read_record::<runtime::ExitRecord>(&earlier).unwrap(),
        Some(record)
    );
}

#[test]
fn a_monitor_killed_at_any_moment_of_the_start_leaves_nothing() {
    let Some(mut container) = container() else { return };
    for round in 0..30u32 {
        let request = container.request(&LOOP).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let starter = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid()).unwrap();
            runtime::start(&request, None, &[], None)
        });
        let thread = told.recv().unwrap();
        let mut victim = None;
        wait_until("a monitor", || {
            victim = child_of(thread);
            victim.is_some() || starter.is_finished()
        });
        for _ in 0..round * 2000 {
            std::hint::black_box(round);
        }
        if let Some(pid) = victim {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        match starter.join().unwrap() {
            Ok(started) => {
                started.monitor.reap();
                runtime::reap_lost(None, &container.cgroup(), &container.path("exit.json"), || None).unwrap();
                assert!(started.init.ends_within(Some(crate::support::PATIENCE)));
            }
            Err(error) => assert!(error.to_string().contains("ended before it answered"), "{error}"),
        }
        container.clean();
        let _ = fs::remove_file(container.path("exit.json"));
    }
}

/// The child of one thread of ours.
fn child_of(thread: rustix::process::Pid) -> Option<i32> {
    let path = format!("/proc/self/task/{}/children", thread.as_raw_nonzero());
    fs::read_to_string(path)
        .ok()?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[test]
fn the_monitor_keeps_descriptors_for_the_next_supervisor() {
    let Some(mut container) = container() else { return };
    let (mut here, there) = UnixStream::pair().unwrap();
    let started = container
        .start_with(&LOOP, &[("socket".to_owned(), there.as_fd())], None)
        .unwrap();
    drop(there);
    let running = container.running();
    let mut taken = UnixStream::from(runtime::retrieve_kept(&running, "socket").unwrap());
    taken.write_all(b"x").unwrap();
    let mut byte = [0];
    here.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
    assert!(matches!(
        runtime::retrieve_kept(&running, "other"),
        Err(runtime::RuntimeError::NotKept(_))
    ));
    // The program has none of it.
    let inside = container.exec_sh("ls -l /proc/1/fd | grep -c socket");
    assert_eq!(inside.stdout, "0\n");
    runtime::kill_all(&running).unwrap();
    container.finish(started);
}

#[test]
fn a_supervisor_that_vanishes_is_brought_back_and_one_that_says_goodbye_is_not() {
    let Some(mut container) = container() else { return };
    let note = container.path("note");
    let script = format!("echo revived >> {}", note.display());
    let revive = Revive {
        command: vec!["/bin/sh".into(), "-c".into(), script],
        lock: container.path("lock"),
    };
    container.on_request(move |request| request.revive = Some(revive));
    let (here, there) = UnixStream::pair().unwrap();
    let started = container.start_with(&LOOP, &[], Some(there.as_fd())).unwrap();
    drop(there);
    container.wait_for("ready");
    drop(here);
    let revived = |times| {
        wait_until("a supervisor", || {
            fs::read_to_string(&note).unwrap_or_default().lines().count() == times
        })
    };
    revived(1);
    // The new one links itself, and vanishes as well.
    let (here, there) = UnixStream::pair().unwrap();
    runtime::link(&container.running(), there.as_fd()).unwrap();
    drop(there);
    drop(here);
    revived(2);
    let (mut here, there) = UnixStream::pair().unwrap();
    runtime::link(&container.running(), there.as_fd()).unwrap();
    drop(there);
    here.write_all(b"goodbye").unwrap();
    // The monitor's side closes when it has understood.
    assert_eq!(here.read(&mut [0]).unwrap_or(0), 0);
    runtime::kill_all(&container.running()).unwrap();
    container.finish(started);
    assert_eq!(fs::read_to_string(&note).unwrap().lines().count(), 2);
}

#[test]
fn a_full_disk_costs_lines_but_not_the_container_nor_its_status() {
    let Some(mut container) = container() else { return };
    let disk = container.path("disk");
    fs::create_dir(&disk).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(&disk)
        .status()
        .unwrap();
    assert!(mount.success());
    let (log, exit) = (disk.join("log"), disk.join("exit.json"));
    let (for_log, for_exit) = (log.clone(), exit.clone());
    container.on_request(move |request| (request.log, request.exit_record) = (for_log, for_exit));
    let started = container.start(&["sh", "-c", "seq 20000; exit 6"]).unwrap();
    let ended = started.monitor.ends_within(Some(crate::support::PATIENCE));
    started.monitor.reap();
    let record = fs::read_to_string(&exit);
    let text = fs::read_to_string(&log).unwrap_or_default();
    let unmounted = Command::new("umount").arg(&disk).status().unwrap();
    assert!(ended && unmounted.success());
    let record: runtime::ExitRecord = serde_json::from_str(&record.unwrap()).unwrap();
    assert_eq!(record.code, 6);
    assert!(text.len() > 30_000 && text.ends_with('\n'), "{}", text.len());
    assert!(text.contains(" stdout F 100\n") && !text.contains(" stdout F 20000\n"));
}

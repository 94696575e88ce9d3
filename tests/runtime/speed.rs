//! How long a start takes and how small a monitor is: printed, with generous
//! bounds. The numbers that count are those of a release build.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use crate::support::container;

/// What this thread and all children that have ended have used of the
/// processors: unlike the time on the wall it does not depend on neighbours.
fn processor_time() -> Duration {
    let used = |who| {
        let usage = getrusage(who).unwrap();
        let time = |value: nix::sys::time::TimeVal| {
            Duration::from_micros(u64::try_from(value.num_microseconds()).unwrap())
        };
        time(usage.user_time()) + time(usage.system_time())
    };
    used(UsageWho::RUSAGE_THREAD) + used(UsageWho::RUSAGE_CHILDREN)
}

#[test]
fn a_start_and_a_monitor() {
    let Some(mut container) = container() else { return };
    let mut starts = Vec::new();
    let mut whole = Vec::new();
    let before = processor_time();
    for _ in 0..50 {
        let request = container.request(&["/bin/true"]).unwrap();
        let begin = Instant::now();
        let started = rcompose::runtime::start(&request, None, &[], None).unwrap();
        starts.push(begin.elapsed());
        started.monitor.wait().unwrap();
        whole.push(begin.elapsed());
        container.clean();
    }
    let processor = (processor_time() - before) / 50;
    starts.sort();
    whole.sort();
    let started = container.start(&["sleep", "1000"]).unwrap();
    let pid = started.monitor.id().pid;
    // It gives back what it does not use once it rests.
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap()
    };
    let before_rest = resident();
    crate::support::wait_until("a monitor that rests", || resident() * 2 < before_rest);
    eprintln!("monitor: {before_rest} kB resident before it rests");
    let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let field = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let mut execs = Vec::new();
    for _ in 0..30 {
        let begin = Instant::now();
        let run = container
            .exec(&crate::support::exec_request(&["/bin/true"]))
            .unwrap();
        execs.push(begin.elapsed());
        assert_eq!(run.code, 0);
    }
    execs.sort();
    eprintln!(
        "start: min {:?}, median {:?}; start to end and cleanup: min {:?}, median {:?}, {processor:?} of a processor; exec to end: min {:?}, median {:?}",
        starts[0], starts[25], whole[0], whole[25], execs[0], execs[15]
    );
    eprintln!(
        "monitor: {} kB resident, {} kB private dirty, {} kB proportional",
        field("Rss:"),
        field("Private_Dirty:"),
        field("Pss:")
    );
    rcompose::runtime::kill_all(&container.running()).unwrap();
    container.finish(started);
    // A debug build runs through much more code.
    if std::env::var_os("RCOMPOSE_TEST_EXECUTABLE").is_some() {
        assert!(field("Rss:") < 1024, "{memory}");
    }
    assert!(starts[0].as_millis() < 500);
    assert!(field("Anonymous:") < 1024);
}

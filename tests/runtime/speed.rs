//! How long a start takes and how small a monitor is: printed, with generous
//! bounds. The numbers that count are those of a release build.

use std::fs;
use std::time::Instant;

use crate::support::container;

#[test]
fn a_start_and_a_monitor() {
    let Some(mut container) = container() else { return };
    let mut starts = Vec::new();
    let mut whole = Vec::new();
    for _ in 0..50 {
        let request = container.request(&["/bin/true"]).unwrap();
        let begin = Instant::now();
        let started = rcompose::runtime::start(&request, None, &[], None).unwrap();
        starts.push(begin.elapsed());
        started.monitor.wait().unwrap();
        whole.push(begin.elapsed());
        container.clean();
    }
    starts.sort();
    whole.sort();
    let started = container.start(&["sleep", "1000"]).unwrap();
    let pid = started.monitor.id().pid;
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
        "start: min {:?}, median {:?}; start to end: min {:?}, median {:?}; exec to end: min {:?}, median {:?}",
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
    assert!(starts[0].as_millis() < 500);
    assert!(field("Private_Dirty:") < 1024);
}

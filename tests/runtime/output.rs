//! What is printed, and the terminal.

use std::fs;
use std::time::Instant;

use rcompose::monitor::log::{From, LONGEST_PIECE, Reader, Stream};
use rcompose::runtime::{LogFormat, LogPlan, bind_mount};

use crate::support::container;

#[test]
fn the_log_is_exact() {
    let Some(mut container) = container() else { return };
    container.keep_log = true;
    let run = container.sh("echo out; echo err >&2; printf 'no end'");
    assert_eq!(
        (run.stdout.as_str(), run.stderr.as_str()),
        ("out\nno end", "err\n")
    );
    let mut reader = Reader::open(&container.path("log"), From::Last(1))
        .unwrap()
        .unwrap();
    let last = reader.next().unwrap().unwrap();
    assert_eq!(
        (last.stream, last.partial, last.text.as_slice()),
        (Stream::Stdout, true, b"no end".as_slice())
    );
    assert!(last.time >= run.exit.started_at && last.time <= run.exit.finished_at);
    // A line far longer than a record, and the next run goes on in the same log.
    let run = container.sh("head -c 100000 /dev/zero | tr '\\0' x; echo; echo next");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines[1].len(), "no end".len() + 100_000);
    assert_eq!(lines[2], "next");
    let text = fs::read_to_string(container.path("log")).unwrap();
    assert!(text.lines().all(|line| line.len() <= LONGEST_PIECE + 40));
    assert_eq!(
        text.lines().filter(|line| line.contains(" stdout P x")).count(),
        100_000 / LONGEST_PIECE
    );
}

#[test]
fn two_million_lines_are_all_there() {
    let Some(mut container) = container() else { return };
    let started = container.start(&["seq", "2000000"]).unwrap();
    assert!(started.monitor.ends_within(Some(crate::support::PATIENCE)));
    started.monitor.reap();
    let mut reader = Reader::open(&container.path("log"), From::Start)
        .unwrap()
        .unwrap();
    let mut expected = 1u32;
    let mut line = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        line.extend(entry.text);
        if !entry.partial {
            assert_eq!(line, expected.to_string().into_bytes());
            line.clear();
            expected += 1;
        }
    }
    assert_eq!(expected, 2_000_001);
    container.clean();
}

/// A writer that is as fast as it can be, in both formats. The speed is printed:
/// it means something with a release build (`RCOMPOSE_TEST_EXECUTABLE`) and much
/// more to write (`RCOMPOSE_TEST_MEGABYTES`).
#[test]
fn a_fast_writer_loses_and_tears_no_line() {
    const LINES: usize = 100_000;
    for format in [LogFormat::Text, LogFormat::Json] {
        let Some(mut container) = container() else { return };
        // Lines of 100 bytes, so ten megabytes.
        let text: String = (0..LINES).map(|number| format!("{number:0>99}\n")).collect();
        fs::write(container.path("lines"), text).unwrap();
        let mount = bind_mount(&container.path("lines"), "/opt/lines", &["ro"]);
        container.settings.mounts.push(mount);
        let megabytes = std::env::var("RCOMPOSE_TEST_MEGABYTES").ok();
        let times = megabytes.map_or(2, |text| text.parse::<usize>().unwrap() / 10);
        let mut args = vec!["cat"];
        args.resize(1 + times, "/opt/lines");
        container.on_request(move |request| {
            request.log_plan = LogPlan {
                format,
                ..LogPlan::default()
            };
        });
        let begin = Instant::now();
        let started = container.start(&args).unwrap();
        assert!(started.monitor.ends_within(Some(crate::support::PATIENCE)));
        let took = begin.elapsed();
        started.monitor.reap();
        let speed = 10.0 * times as f64 / took.as_secs_f64();
        eprintln!("{format:?}: {} MB in {took:?}, {speed:.0} MB/s", 10 * times);
        let mut reader = Reader::open(&container.path("log"), From::Start)
            .unwrap()
            .unwrap();
        let (mut expected, mut line) = (0, Vec::new());
        while let Some(entry) = reader.next().unwrap() {
            line.extend(entry.text);
            if !entry.partial {
                assert_eq!(line, format!("{:0>99}", expected % LINES).into_bytes());
                line.clear();
                expected += 1;
            }
        }
        assert_eq!(expected, LINES * times);
        container.clean();
    }
}

#[test]
fn an_unfinished_line_is_shown_after_a_while() {
    let Some(mut container) = container() else { return };
    let started = container
        .start(&["sh", "-c", "printf 'name? '; while :; do sleep 1; done"])
        .unwrap();
    container.wait_for("name?");
    rcompose::runtime::kill_all(&container.running()).unwrap();
    let run = container.finish(started);
    assert_eq!(run.stdout, "name? ");
    assert_eq!((run.exit.code, run.exit.signal), (137, Some(9)));
}

#[test]
fn a_terminal_is_a_terminal() {
    let Some(mut container) = container() else { return };
    container.settings.tty = true;
    let run = container.sh("tty; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all; echo $TERM; ls -l /dev/console | cut -c1; echo $$ $(cut -d' ' -f6 /proc/self/stat); echo err >&2");
    assert_eq!(run.stdout, "/dev/pts/0\r\nall\r\nxterm\r\nc\r\n1 1\r\nerr\r\n");
    container.on_request(|request| {
        request.user = Some("web".into());
        request.init = true;
    });
    let run = container.sh("echo own > /dev/tty; echo yes > $(tty); stat -c %U $(tty)");
    assert_eq!(run.stdout, "own\r\nyes\r\nweb\r\n");
}

#[test]
fn standard_input_is_empty_or_silent() {
    let Some(mut container) = container() else { return };
    assert_eq!(container.run(&["cat"]).exit.code, 0);
    container.on_request(|request| request.stdin_open = true);
    let started = container
        .start(&["sh", "-c", "echo ready; cat; echo ended"])
        .unwrap();
    container.wait_for("ready");
    rcompose::runtime::kill_all(&container.running()).unwrap();
    assert_eq!(container.finish(started).stdout, "ready\n");
}

#[test]
fn a_user_may_open_its_output_again() {
    let Some(mut container) = container() else { return };
    container.on_request(|request| request.user = Some("web".into()));
    let run = container.sh("echo a > /dev/stdout; echo b > /proc/self/fd/2");
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("a\n", "b\n"));
}

#[test]
fn a_process_that_holds_the_pipe_outside_does_not_keep_the_monitor() {
    let Some(mut container) = container() else { return };
    let started = container
        .start(&["sh", "-c", "echo ready; while :; do sleep 0.05; done"])
        .unwrap();
    container.wait_for("ready");
    let running = container.running();
    let holder = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{}/fd/1", running.init.pid))
        .unwrap();
    rcompose::runtime::signal(&running, libc::SIGKILL).unwrap();
    let run = container.finish(started);
    assert_eq!(run.exit.code, 137);
    drop(holder);
}

//! Further processes in a running container.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;

use rcompose::runtime::{self, ExecRequest, ExecStdio, FailureKind, RuntimeError, Started};

use crate::support::{Container, container, end_of, exec_request, read_terminal, wait_until};

fn running(change: impl FnOnce(&mut Container)) -> Option<(Container, Started)> {
    let mut container = container()?;
    change(&mut container);
    let started = container
        .start(&["sh", "-c", "echo ready; while :; do sleep 0.05; done"])
        .unwrap();
    container.wait_for("ready");
    Some((container, started))
}

fn end(mut container: Container, started: Started) {
    runtime::kill_all(&container.running()).unwrap();
    container.finish(started);
}

#[test]
fn it_is_where_the_container_is_and_its_status_comes_back() {
    let Some((container, started)) = running(|container| {
        container.settings.env = vec!["A=container".into(), "B=container".into()];
        container.settings.cwd = "/srv".into();
        container.settings.hostname = Some("box".into());
        container.readonly = true;
    }) else {
        return;
    };
    let run =
        container.exec_sh("echo $$ > /dev/null; hostname; pwd; echo $A $B; ps | grep -c '[r]eady'; exit 7");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (7, "box\n/srv\ncontainer container\n1\n")
    );
    for name in ["mnt", "pid", "uts", "ipc", "net", "cgroup"] {
        let inside = container.exec_sh(&format!(
            "(readlink /proc/self/ns/{name}; readlink /proc/1/ns/{name}) | sort -u | wc -l"
        ));
        assert_eq!(inside.stdout, "1\n", "{name}");
    }
    let request = ExecRequest {
        env: vec!["B=exec".into(), "C=d".into()],
        cwd: Some("/tmp".into()),
        user: Some("web".into()),
        ..exec_request(&[
            "sh",
            "-c",
            "echo $A $B $C $(pwd) $(id -u) $(id -G) $HOME; echo err >&2",
        ])
    };
    let run = container.exec(&request).unwrap();
    assert_eq!(
        (run.stdout.as_str(), run.stderr.as_str()),
        ("container exec d /tmp 101 102 77 /srv\n", "err\n")
    );
    let run = container.exec_sh("kill -9 $$");
    assert_eq!(run.code, 137);
    end(container, started);
}

#[test]
fn it_may_do_what_the_container_may() {
    let Some((container, started)) = running(|_| {}) else {
        return;
    };
    let script = "grep -E 'CapInh|CapEff|CapBnd|Seccomp:' /proc/self/status | cut -f2 | tr '\\n' ' '; ls /proc/self/fd | tr '\\n' ' '";
    let usual = "0000000000000000 00000000a80425fb 00000000a80425fb 2 0 1 2 3 ";
    assert_eq!(container.exec_sh(script).stdout, usual);
    let privileged = ExecRequest {
        privileged: true,
        ..exec_request(&["sh", "-c", script])
    };
    let run = container.exec(&privileged).unwrap();
    assert!(
        run.stdout.ends_with(" 0 0 1 2 3 ") && !run.stdout.contains("a80425fb"),
        "{}",
        run.stdout
    );
    // In the same cgroup: the pids file of the container counts it.
    let inside = container
        .exec_sh("cat /proc/self/cgroup | cut -d: -f3 | sort -u; cat /proc/1/cgroup | cut -d: -f3 | sort -u");
    let lines: Vec<&str> = inside.stdout.lines().collect();
    assert_eq!(lines[..lines.len() / 2], lines[lines.len() / 2..]);
    end(container, started);
}

#[test]
fn what_cannot_be_run_is_a_clear_error() {
    let Some((mut container, started)) = running(|_| {}) else {
        return;
    };
    let error = |request: &ExecRequest| container.exec(request).map(|run| run.code).unwrap_err();
    let missing = error(&exec_request(&["nosuch"]));
    assert_eq!(
        missing.to_string(),
        "exec nosuch: executable file not found in $PATH"
    );
    assert_eq!(missing.kind(), FailureKind::NotFound);
    assert_eq!(
        error(&exec_request(&["/opt/text"])).kind(),
        FailureKind::PermissionDenied
    );
    let nobody = ExecRequest {
        user: Some("nobody".into()),
        ..exec_request(&["true"])
    };
    assert!(
        error(&nobody)
            .to_string()
            .starts_with("find user nobody: no such user")
    );
    assert!(matches!(error(&exec_request(&[])), RuntimeError::Spec(_)));
    let record = container.running();
    runtime::kill_all(&record).unwrap();
    container.finish(started);
    let gone = runtime::exec(&record, &exec_request(&["true"]), ExecStdio::default()).unwrap_err();
    assert!(matches!(gone, RuntimeError::NotRunning(_)), "{gone}");
}

#[test]
fn its_input_ends_when_the_caller_closes_it() {
    let Some((container, started)) = running(|_| {}) else {
        return;
    };
    let (input_read, mut input) = std::io::pipe().unwrap();
    let (mut output, output_write) = std::io::pipe().unwrap();
    let stdio = ExecStdio {
        stdin: Some(input_read.as_fd()),
        stdout: Some(output_write.as_fd()),
        stderr: None,
    };
    let request = exec_request(&["sh", "-c", "cat; echo end"]);
    let exec = runtime::exec(&container.running(), &request, stdio).unwrap();
    drop((input_read, output_write));
    input.write_all(b"some input\n").unwrap();
    drop(input);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "some input\nend\n");
    assert_eq!(end_of(&exec), 0);
    end(container, started);
}

#[test]
fn a_terminal_of_its_own() {
    let Some((container, started)) = running(|_| {}) else {
        return;
    };
    let request = ExecRequest {
        tty: true,
        size: Some((33, 77)),
        ..exec_request(&[
            "sh",
            "-c",
            "stty size; tty; echo $TERM; read x; echo got $x; exit 4",
        ])
    };
    let exec = runtime::exec(&container.running(), &request, ExecStdio::default()).unwrap();
    let terminal = exec.terminal.as_ref().unwrap();
    rustix::io::write(terminal, b"word\n").unwrap();
    let text = read_terminal(terminal);
    for line in ["33 77", "/dev/pts/0", "xterm", "got word"] {
        assert!(text.contains(line), "{line} in {text:?}");
    }
    assert_eq!(end_of(&exec), 4);
    end(container, started);
}

#[test]
fn signals_go_in_and_killing_the_stage_kills_the_program() {
    let Some((container, started)) = running(|_| {}) else {
        return;
    };
    let (mut output, write) = std::io::pipe().unwrap();
    let stdio = ExecStdio {
        stdout: Some(write.as_fd()),
        ..ExecStdio::default()
    };
    let request = exec_request(&[
        "sh",
        "-c",
        "trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.02; done",
    ]);
    let exec = runtime::exec(&container.running(), &request, stdio).unwrap();
    drop(write);
    let mut buffer = [0; 6];
    output.read_exact(&mut buffer).unwrap();
    exec.process.signal(libc::SIGTERM).unwrap();
    assert_eq!(std::io::read_to_string(output).unwrap(), "term\n");
    assert_eq!(end_of(&exec), 5);
    let exec = runtime::exec(
        &container.running(),
        &exec_request(&["sleep", "1000"]),
        ExecStdio::default(),
    )
    .unwrap();
    exec.process.signal(libc::SIGKILL).unwrap();
    assert_eq!(end_of(&exec), 137);
    wait_until("no sleep", || {
        !container.exec_sh("ps").stdout.contains("sleep 1000")
    });
    end(container, started);
}

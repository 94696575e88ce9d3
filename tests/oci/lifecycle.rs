//! Operations and states (runtime.md), and what callers read off them.

use std::fs;
use std::process::Stdio;

use serde_json::Value;

use super::support::{bundle, said, wait_until};

#[test]
fn a_container_is_created_started_and_deleted() {
    let Some(mut bundle) = bundle() else { return };
    bundle.sh("echo hello; sleep 1000");
    bundle.create();
    let state = bundle.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["ociVersion"], "1.2.0");
    assert_eq!(state["id"], bundle.id);
    let bundle_path = fs::canonicalize(bundle.path(".")).unwrap();
    assert_eq!(state["bundle"], bundle_path.to_str().unwrap());
    assert_eq!(
        fs::read_to_string(bundle.path("pid")).unwrap(),
        state["pid"].to_string()
    );
    // The id is taken, the program has not run.
    assert!(bundle.call(&["create", &bundle.id]).err.contains("exists"));
    assert_eq!(bundle.output(), "");
    // What never ran needs no force, and the id is free again.
    bundle.ok(&["delete", &bundle.id]);
    assert!(bundle.cgroups().is_empty());
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    bundle.wait_for_output("hello");
    assert_eq!(bundle.state()["status"], "running");
    assert_ne!(bundle.call(&["start", &bundle.id]).code, 0);
    let said = bundle.call(&["delete", &bundle.id]);
    assert_eq!(said.code, 1, "{said:?}");
    assert_eq!(bundle.state()["status"], "running");
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    assert_eq!(bundle.state()["pid"], 0);
    for (args, text) in [
        (vec!["kill", &bundle.id], "container not running"),
        (vec!["start", &bundle.id], "stopped"),
        (vec!["exec", &bundle.id, "true"], "stopped"),
        (vec!["pause", &bundle.id], "not running"),
    ] {
        let said = bundle.call(&args);
        assert!(said.code != 0 && said.err.contains(text), "{args:?}: {said:?}");
    }
    bundle.ok(&["delete", &bundle.id]);
    for command in ["state", "start", "kill", "delete", "pause", "ps"] {
        let said = bundle.call(&[command, &bundle.id]);
        assert!(
            said.code == 1 && said.err.contains("does not exist"),
            "{command}: {said:?}"
        );
        let said = bundle.call(&[command]);
        assert!(
            said.code == 1 && said.err.contains("id is missing"),
            "{command}: {said:?}"
        );
    }
    bundle.ok(&["delete", "--force", &bundle.id]);
}

#[test]
fn a_run_gives_the_programs_status() {
    let Some(mut bundle) = bundle() else { return };
    for (script, code) in [("exit 7", 7), ("kill -9 $$; sleep 1000", 0), ("true", 0)] {
        // Process 1 is not killed by itself.
        let script = script.replace("kill -9 $$; sleep 1000", "sh -c 'kill -9 $$' 2>/dev/null; exit 0");
        bundle.sh(&script);
        assert_eq!(bundle.run().code, code, "{script}");
    }
}

#[test]
fn signals_reach_created_and_running_containers() {
    let Some(mut bundle) = bundle() else { return };
    bundle.args(&["sleep", "1000"]);
    bundle.create();
    assert_ne!(bundle.call(&["kill", &bundle.id, "NOSUCH"]).code, 0);
    bundle.ok(&["kill", &bundle.id, "SIGTERM"]);
    bundle.wait_for("stopped");
    bundle.ok(&["delete", &bundle.id]);
    bundle.sh("trap 'echo usr1; exit 3' USR1; echo ready; while true; do sleep 0.01; done");
    bundle.start();
    bundle.wait_for_output("ready");
    bundle.ok(&["kill", &bundle.id, "10"]);
    bundle.wait_for_output("usr1");
    bundle.wait_for("stopped");
    bundle.delete();
}

#[test]
fn a_program_that_cannot_be_run_fails_create_in_the_words_callers_know() {
    let Some(mut bundle) = bundle() else { return };
    for (args, text) in [
        (vec!["nosuch"], "executable file not found in $PATH"),
        (vec!["/nosuch"], "no such file or directory"),
        (vec!["/etc/passwd"], "permission denied"),
        (vec!["/etc"], "permission denied"),
    ] {
        bundle.args(&args);
        let error = bundle.refused();
        assert!(error.contains(text), "{args:?}: {error}");
    }
}

#[test]
fn what_is_wrong_goes_to_the_log_too() {
    let Some(bundle) = bundle() else { return };
    let said = bundle.call(&["--log", "log", "--log-format=json", "state", "nosuch"]);
    assert_eq!(said.code, 1);
    let log: Value = serde_json::from_str(&fs::read_to_string(bundle.path("log")).unwrap()).unwrap();
    assert_eq!(log["level"], "error");
    assert!(log["msg"].as_str().unwrap().contains("does not exist"));
    assert!(log["time"].is_string());
}

#[test]
fn processes_are_added_listed_and_paused() {
    let Some(mut bundle) = bundle() else { return };
    bundle.sh("echo ready; sleep 1000");
    bundle.start();
    bundle.wait_for_output("ready");
    let said = bundle.exec(&["sh", "-c", "echo $0 $HOME; exit 5"]);
    assert_eq!((said.code, said.out.as_str()), (5, "sh /root\n"), "{said:?}");
    let said = bundle.call(&[
        "exec",
        "-u",
        "5:6",
        "--cwd",
        "/tmp",
        "-e",
        "A=b",
        &bundle.id,
        "sh",
        "-c",
        "id; pwd; echo $A",
    ]);
    assert!(
        said.out.contains("uid=5 gid=6") && said.out.ends_with("/tmp\nb\n"),
        "{said:?}"
    );
    for (args, text) in [
        (vec!["nosuch"], "executable file not found in $PATH"),
        (vec!["/nosuch"], "no such file or directory"),
        (vec!["/etc/passwd"], "permission denied"),
    ] {
        let said = bundle.exec(&args);
        assert!(said.code == 255 && said.err.contains(text), "{args:?}: {said:?}");
    }
    let said = bundle.call(&["exec", "--user", "4294967296", &bundle.id, "true"]);
    assert!(said.code == 255, "{said:?}");
    fs::write(
        bundle.path("process.json"),
        r#"{"args": ["sleep", "1000"], "cwd": "/", "user": {"uid": 9, "gid": 9}, "env": ["PATH=/bin"]}"#,
    )
    .unwrap();
    // Its output is not ours to wait for.
    let status = bundle
        .command(&[
            "exec",
            "--detach",
            "--pid-file",
            "exec.pid",
            "--process",
            "process.json",
            &bundle.id,
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let pid: u64 = fs::read_to_string(bundle.path("exec.pid"))
        .unwrap()
        .parse()
        .unwrap();
    let listed: Vec<u64> = serde_json::from_str(&bundle.ok(&["ps", "--format", "json", &bundle.id])).unwrap();
    assert!(
        listed.contains(&pid) && listed.contains(&bundle.state()["pid"].as_u64().unwrap()),
        "{listed:?}"
    );
    assert!(bundle.ok(&["ps", &bundle.id]).contains("sleep 1000"));
    bundle.ok(&["pause", &bundle.id]);
    assert_eq!(bundle.state()["status"], "paused");
    let said = bundle.exec(&["true"]);
    assert!(said.code == 255 && said.err.contains("paused"), "{said:?}");
    bundle.ok(&["resume", &bundle.id]);
    assert_eq!(bundle.state()["status"], "running");
    assert_ne!(bundle.call(&["resume", &bundle.id]).code, 0);
    assert!(bundle.ok(&["list"]).contains(&bundle.id));
    assert_eq!(bundle.ok(&["list", "-q"]).trim(), bundle.id);
    let list: Value = serde_json::from_str(&bundle.ok(&["list", "--format", "json"])).unwrap();
    assert_eq!(list[0]["id"], bundle.id);
    bundle.ok(&["pause", &bundle.id]);
    bundle.delete();
    wait_until("the process's end", || {
        !std::path::Path::new(&format!("/proc/{pid}/root/bin")).exists()
    });
}

#[test]
fn a_paused_container_can_be_killed() {
    let Some(mut bundle) = bundle() else { return };
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    bundle.ok(&["pause", &bundle.id]);
    bundle.ok(&["kill", &bundle.id, "9"]);
    bundle.wait_for("stopped");
    bundle.ok(&["delete", &bundle.id]);
}

#[test]
fn only_standard_and_preserved_descriptors_reach_the_program() {
    let Some(mut bundle) = bundle() else { return };
    bundle.sh("ls /proc/self/fd; cat <&3");
    bundle.save();
    let script =
        "exec 3<kept 4<kept 7<kept; exec ./rcompose-oci --root state run --preserve-fds \"$1\" \"$2\"";
    fs::write(bundle.path("kept"), "kept\n").unwrap();
    for (count, expected) in [("1", "0\n1\n2\n3\n4\nkept\n"), ("0", "0\n1\n2\n3\n")] {
        let output = std::process::Command::new("sh")
            .args(["-c", script, "sh", count, &bundle.id])
            .current_dir(bundle.path("."))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        // One more is the folder that is listed.
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
    }
    // What is not open there is not open inside, and nothing of ours in its place.
    let said = bundle.call(&["run", "--preserve-fds", "9", &bundle.id]);
    assert!(
        said.code != 0 && said.err.contains("Bad file descriptor"),
        "{said:?}"
    );
}

#[test]
fn a_terminal_goes_to_the_console_socket() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    use std::os::fd::AsFd as _;
    let Some(mut bundle) = bundle() else { return };
    bundle.config["process"]["terminal"] = true.into();
    bundle.config["process"]["consoleSize"] = serde_json::json!({"height": 20, "width": 70});
    bundle.sh("tty; stty size; test -c /dev/console && echo console");
    bundle.save();
    let said = bundle.call(&["create", &bundle.id]);
    assert!(said.code == 1 && said.err.contains("console socket"), "{said:?}");
    let listener = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(bundle.path("console")).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    bundle.ok(&["create", "--console-socket", "console", &bundle.id]);
    let connection = rustix::net::accept(&listener).unwrap();
    let (_, master) = rcompose::sys::fd::receive(connection.as_fd(), &mut [0; 64]).unwrap();
    let master = master.unwrap();
    // What waits keeps no way to it.
    let waits = format!("/proc/{}/fd", bundle.state()["pid"]);
    for entry in fs::read_dir(waits).unwrap() {
        let open = fs::read_link(entry.unwrap().path()).unwrap_or_default();
        assert!(!open.to_string_lossy().contains("ptmx"), "{open:?}");
    }
    bundle.ok(&["start", &bundle.id]);
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = rustix::io::read(&master, &mut buffer) {
        text.extend(&buffer[..length]);
    }
    assert_eq!(
        String::from_utf8_lossy(&text),
        "/dev/pts/0\r\n20 70\r\nconsole\r\n"
    );
    bundle.delete();
}

#[test]
fn a_killed_create_can_be_done_again_and_deleted() {
    let Some(mut bundle) = bundle() else { return };
    bundle.args(&["sleep", "1000"]);
    bundle.save();
    for microseconds in (0..40).map(|step| step * 1500) {
        let mut child = bundle
            .command(&["create", &bundle.id])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(microseconds));
        let _ = child.kill();
        let _ = child.wait();
        bundle.ok(&["delete", "--force", &bundle.id]);
        assert!(!bundle.path("state").join(&bundle.id).exists());
    }
    bundle.create();
    bundle.delete();
}

#[test]
fn features_and_a_first_configuration() {
    let Some(mut bundle) = bundle() else { return };
    let features: Value = serde_json::from_str(&bundle.ok(&["features"])).unwrap();
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert!(
        features["hooks"]
            .as_array()
            .unwrap()
            .contains(&"createContainer".into())
    );
    assert!(bundle.ok(&["--version"]).contains("spec: 1.3.0"));
    bundle.ok(&["spec"]);
    assert_ne!(bundle.call(&["spec"]).code, 0);
    bundle.config = serde_json::from_str(&fs::read_to_string(bundle.path("config.json")).unwrap()).unwrap();
    bundle.config["process"]["terminal"] = false.into();
    bundle.config["linux"]["cgroupsPath"] = format!("/rcompose-test-oci/{}", bundle.id).into();
    assert_eq!(
        bundle.prints("touch /x 2>/dev/null || echo read-only; hostname"),
        "read-only\nrcompose\n"
    );
}

/// Its process is there before it has come into its own root and network.
#[test]
fn nothing_is_executed_in_a_container_that_is_being_made() {
    let Some(mut bundle) = bundle() else { return };
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    // What `create` and `run` hold while they are at work.
    let folder = fs::File::open(bundle.path("state").join(&bundle.id)).unwrap();
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let said = bundle.exec(&["true"]);
    assert_eq!(said.code, 255, "{said:?}");
    assert!(said.err.contains("creating"), "{said:?}");
    drop(folder);
    assert_eq!(bundle.exec(&["true"]).code, 0);
    bundle.delete();
}

#[test]
fn whoever_resolves_the_link_of_the_name_is_understood() {
    let Some(bundle) = bundle() else { return };
    let by_name = bundle.call(&["state", "nosuch"]);
    let resolved = std::process::Command::new(env!("CARGO_BIN_EXE_rcompose"))
        .current_dir(bundle.path(""))
        .args(["--root", "state", "state", "nosuch"])
        .output()
        .unwrap();
    let resolved = said(resolved);
    assert_eq!((resolved.code, resolved.err), (1, by_name.err));
}

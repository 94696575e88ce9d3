//! What callers and bundles rely on that the specification does not say, or leaves
//! open: as the runtimes before us have it.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::{Bundle, PATIENCE, bundle, program, said, wait_until};

/// The command of a bundle, called by way of another program.
fn by_way_of(bundle: &Bundle, words: &[&str], args: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .arg(program(&bundle.path("")))
        .arg("--root")
        .arg(bundle.path("state"))
        .args(args)
        .current_dir(bundle.path(""))
        .stdin(Stdio::null());
    command
}

#[test]
fn a_first_configuration_is_the_one_that_callers_change() {
    let Some(bundle) = bundle() else { return };
    bundle.ok(&["spec"]);
    let text = fs::read(bundle.path("config.json")).unwrap();
    let spec: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let process = &spec["process"];
    let few = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    for set in ["bounding", "effective", "permitted"] {
        let mut found: Vec<String> = serde_json::from_value(process["capabilities"][set].clone()).unwrap();
        found.sort();
        assert_eq!(json!(found), few, "{set}");
    }
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(
        process["rlimits"],
        json!([{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}])
    );
    assert_eq!(
        (&process["args"], &process["terminal"]),
        (&json!(["sh"]), &json!(true))
    );
    let linux = &spec["linux"];
    assert_eq!(
        linux["resources"],
        json!({"devices": [{"allow": false, "access": "rwm"}]})
    );
    assert!(linux["sysctl"].is_null() && linux["devices"].is_null(), "{linux}");
    let kinds: Vec<&str> = linux["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["type"].as_str())
        .collect();
    for kind in ["pid", "network", "ipc", "uts", "mount"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    assert_eq!(spec["root"], json!({"path": "rootfs", "readonly": true}));
}

#[test]
fn errors_say_so_and_what_is_asked_of_nobody_is_one() {
    let Some(mut bundle) = bundle() else { return };
    let said = bundle.call(&["state", &bundle.id]);
    assert!(said.code == 1 && said.err.contains("error: "), "{said:?}");
    fs::create_dir_all(bundle.path("state")).unwrap();
    bundle.ok(&["list"]);
    let nowhere = bundle.path("nowhere");
    let said = bundle.call(&["--root", nowhere.to_str().unwrap(), "list"]);
    assert!(said.code == 1 && said.err.contains("nowhere"), "{said:?}");
    assert!(
        bundle.call(&["delete", ".hidden"]).err.contains("invalid"),
        "an id"
    );
    // Signal 0 asks whether there is somebody.
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    bundle.ok(&["kill", &bundle.id, "0"]);
    assert!(bundle.ok(&["ps", &bundle.id]).starts_with("UID"));
    let head = bundle.ok(&["ps", &bundle.id]);
    let head: Vec<&str> = head.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    let said = bundle.call(&["kill", &bundle.id, "0"]);
    assert!(
        said.code == 1 && said.err.contains("container not running"),
        "{said:?}"
    );
    bundle.delete();
}

#[test]
fn who_is_left_without_a_first_process_is_killed_all_the_same() {
    let Some(mut bundle) = bundle() else { return };
    let list = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    list.retain(|one| one["type"] != "pid");
    bundle.sh("sleep 1000 & echo $! > /data/left; sleep 1000");
    bundle.start();
    let left = bundle.path("rootfs/data/left");
    crate::support::wait_until("left", || {
        fs::read_to_string(&left).is_ok_and(|text| !text.is_empty())
    });
    let left = fs::read_to_string(left).unwrap();
    let first = rustix::process::Pid::from_raw(bundle.state()["pid"].as_i64().unwrap() as i32).unwrap();
    rustix::process::kill_process(first, rustix::process::Signal::KILL).unwrap();
    bundle.wait_for("stopped");
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    crate::support::wait_until("gone", || {
        let status = fs::read_to_string(format!("/proc/{}/stat", left.trim()));
        status.map_or(true, |text| text.contains(") Z"))
    });
    bundle.delete();
}

#[test]
fn only_descriptors_that_are_open_are_preserved() {
    let Some(mut bundle) = bundle() else { return };
    bundle.sh("for n in 3 4 5 6 7 8; do if [ -e /proc/self/fd/$n ]; then echo $n; fi; done");
    bundle.save();
    let id = bundle.id.clone();
    let words = ["sh", "-c", "exec 5</dev/null; exec \"$@\"", "sh"];
    let output = by_way_of(&bundle, &words, &["run", "--preserve-fds", "10", &id]).output();
    let said = said(output.unwrap());
    assert!(
        said.code == 0 && said.err.is_empty() && said.out == "5\n",
        "{said:?}"
    );
}

#[test]
fn groups_are_those_that_are_written_or_kept() {
    let Some(mut bundle) = bundle() else { return };
    let groups = "grep ^Groups: /proc/self/status | tr -s '\\t ' ' '";
    bundle.config["process"]["user"]["additionalGids"] = json!([7, 5, 7]);
    assert_eq!(bundle.prints(groups).trim(), "Groups: 5 7 7");
    bundle.config["process"]["user"]["additionalGids"] = json!([]);
    bundle.config["annotations"] = json!({"run.oci.keep_original_groups": "1"});
    bundle.save();
    let id = bundle.id.clone();
    let output = by_way_of(&bundle, &["setpriv", "--groups", "31,32"], &["run", &id]).output();
    let said = said(output.unwrap());
    assert_eq!((said.code, said.out.trim()), (0, "Groups: 31 32"), "{said:?}");
}

#[test]
fn processors_of_the_caller_do_not_bind() {
    let Some(mut bundle) = bundle() else { return };
    let allowed = "grep ^Cpus_allowed_list: /proc/self/status";
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .find(|line| line.starts_with("Cpus_allowed_list:"))
        .unwrap()
        .to_owned();
    if !own.contains(['-', ',']) {
        eprintln!("skipped: one processor");
        return;
    }
    bundle.sh(allowed);
    bundle.save();
    let first: String = own.chars().filter(|letter| !letter.is_alphabetic()).collect();
    let first: String = first
        .chars()
        .skip_while(|letter| !letter.is_ascii_digit())
        .collect();
    let first: String = first.chars().take_while(char::is_ascii_digit).collect();
    let id = bundle.id.clone();
    let output = by_way_of(&bundle, &["taskset", "-c", &first], &["run", &id]).output();
    let said = said(output.unwrap());
    assert!(said.code == 0 && said.out.contains(['-', ',']), "{own}: {said:?}");
}

#[test]
fn places_of_mounts_are_taken_as_they_are_meant() {
    let Some(mut bundle) = bundle() else { return };
    let data = bundle.path("rootfs/data");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o710)).unwrap();
    bundle.mount(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs"}));
    bundle.mount(json!({"destination": "tmp/new", "type": "tmpfs", "source": "tmpfs"}));
    bundle
        .mount(json!({"destination": "/root", "type": "tmpfs", "source": "tmpfs", "options": ["mode=705"]}));
    assert_eq!(
        bundle.prints("stat -c %a /data /tmp/new /root"),
        "710\n1777\n705\n"
    );
    // A read-only /dev has its devices all the same.
    for mount in bundle.config["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/dev" {
            mount["options"] = json!(["nosuid", "mode=755", "ro"]);
        }
    }
    let script = "echo x > /dev/null && ls -d /dev/pts/ptmx && ! touch /dev/x 2> /dev/null && echo closed";
    assert_eq!(bundle.prints(script), "/dev/pts/ptmx\nclosed\n");
    // Hidden once, however often it is said.
    bundle.config["linux"]["maskedPaths"] = json!(["/etc", "/etc", "etc"]);
    assert_eq!(bundle.prints("grep -c ' /etc ' /proc/self/mounts"), "1\n");
    // Where the kernel's own file systems are to be is no link.
    bundle.config["linux"]["maskedPaths"] = json!([]);
    fs::remove_dir(bundle.path("rootfs/sys")).unwrap();
    symlink("/tmp", bundle.path("rootfs/sys")).unwrap();
    let refused = bundle.refused();
    assert!(
        refused.contains("must be mounted on ordinary directory"),
        "{refused}"
    );
}

#[test]
fn without_pivoting_nothing_that_is_masked_is_to_be_had() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/keys"]);
    // What it takes to make a user namespace with a root.
    let sets = json!(["CAP_SETFCAP", "CAP_SETGID", "CAP_SETUID"]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": sets, "effective": sets, "permitted": sets});
    bundle.args(&[
        "unshare", "-m", "-r", "-p", "-f", "mount", "-t", "proc", "none", "/proc",
    ]);
    bundle.save();
    for options in [&[][..], &["--no-pivot"][..]] {
        let mut words = vec!["run"];
        words.extend(options);
        words.push(&bundle.id);
        let said = bundle.call(&words);
        assert!(
            said.code != 0 && said.err.contains("mount"),
            "{options:?}: {said:?}"
        );
    }
}

#[test]
fn what_is_not_known_is_passed_over_and_told() {
    let Some(mut bundle) = bundle() else { return };
    let sets = json!(["CAP_KILL", "CAP_OF_TOMORROW"]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": sets, "effective": sets, "permitted": sets});
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["call_of_tomorrow", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22}],
    });
    bundle.sh("grep ^CapEff: /proc/self/status; mkdir /data/new 2> /dev/null || echo filtered");
    bundle.save();
    let said = bundle.call(&["--log", "log", "run", &bundle.id]);
    assert!(
        said.code == 0 && said.out == "CapEff:\t0000000000000020\nfiltered\n",
        "{said:?}"
    );
    let log = fs::read_to_string(bundle.path("log")).unwrap();
    assert!(
        log.contains("CAP_OF_TOMORROW") && log.contains("call_of_tomorrow"),
        "{log}"
    );
    bundle.config["annotations"] = json!({"run.oci.seccomp_fail_unknown_syscall": "1"});
    assert!(bundle.refused().contains("call_of_tomorrow"));
}

#[test]
fn what_contradicts_itself_is_refused_in_words() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["domainname"] = "one".into();
    bundle.config["linux"]["sysctl"] = json!({"kernel.domainname": "two"});
    assert!(bundle.refused().contains("kernel.domainname"));
    bundle.config["linux"]["sysctl"] = json!({"kernel.domainname": "one"});
    assert_eq!(bundle.prints("cat /proc/sys/kernel/domainname"), "one\n");
    for (times, words) in [
        (json!({"deadline": 5000, "period": 5000}), "requires `runtime`"),
        (json!({"runtime": 5000}), "requires `deadline`"),
        (json!({"runtime": 10, "deadline": 5000}), "between 1024"),
        (json!({"runtime": 6000, "deadline": 5000}), "must be <= deadline"),
        (
            json!({"runtime": 5000, "deadline": 6000, "period": 5500}),
            "must be <= period",
        ),
    ] {
        let mut scheduler = times;
        scheduler["policy"] = "SCHED_DEADLINE".into();
        bundle.config["process"]["scheduler"] = scheduler;
        let refused = bundle.refused();
        assert!(refused.contains(words), "{words}: {refused}");
    }
}

#[test]
fn an_environment_has_each_name_once_and_a_home() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["process"]["env"] = json!(["PATH=/bin", "A=1", "HOME=", "A=2"]);
    bundle.config["hooks"] = json!({"startContainer": [
        {"path": "/bin/sh", "args": ["sh", "-c", "echo $HOME $A > /data/hook"]}]});
    assert_eq!(
        bundle.prints("env | grep -E '^(A|HOME)=' | sort"),
        "A=2\nHOME=/root\n"
    );
    let hook = fs::read_to_string(bundle.path("rootfs/data/hook")).unwrap();
    assert_eq!(hook, "/root 2\n");
    // One that fails leaves what can be deleted at once.
    bundle.config["hooks"] = json!({"startContainer": [{"path": "/bin/false"}]});
    bundle.create();
    let said = bundle.call(&["start", &bundle.id]);
    assert!(
        said.err
            .contains("error running startContainer hook #0: /bin/false"),
        "{said:?}"
    );
    bundle.ok(&["delete", &bundle.id]);
}

#[test]
fn a_further_process_may_be_written_sparingly() {
    let Some(mut bundle) = bundle() else { return };
    let sets = &mut bundle.config["process"]["capabilities"];
    sets["inheritable"] = json!(["CAP_CHOWN", "CAP_FOWNER"]);
    sets["ambient"] = json!(["CAP_CHOWN"]);
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    let process = json!({"args": ["id", "-u"], "cwd": "/", "env": ["PATH=/bin"]});
    fs::write(bundle.path("process.json"), process.to_string()).unwrap();
    assert_eq!(bundle.ok(&["exec", "-p", "process.json", &bundle.id]), "0\n");
    let ambient = ["grep", "^CapAmb:", "/proc/self/status"];
    assert_eq!(bundle.exec(&ambient).out, "CapAmb:\t0000000000000001\n");
    let said = bundle.exec_with(&["--cap", "CAP_FOWNER"], &ambient);
    assert_eq!(said.out, "CapAmb:\t0000000000000009\n");
    let said = bundle.exec_with(&["--cwd", "/nothing"], &["true"]);
    assert!(
        said.code == 255 && said.err.contains("chdir to /nothing"),
        "{said:?}"
    );
    let said = bundle.exec_with(&["--cgroup", ".."], &["true"]);
    assert!(said.err.contains("bad sub cgroup path"), "{said:?}");
    // On a terminal, lines end as they were written: ours sees to the rest.
    let said = bundle.exec_with(&["--tty"], &["sh", "-c", "tty; echo end"]);
    assert!(
        said.out.contains("\nend\n") && !said.out.contains('\r'),
        "{said:?}"
    );
    bundle.delete();
}

#[test]
fn capabilities_that_cannot_be_given_are_told() {
    let Some(mut bundle) = bundle() else { return };
    let one = json!(["CAP_KILL"]);
    bundle.config["process"]["capabilities"] = json!({
        "bounding": ["CAP_KILL", "CAP_OF_TOMORROW"], "permitted": one, "effective": one,
        "inheritable": one, "ambient": ["CAP_KILL", "CAP_CHOWN"]});
    bundle.sh("grep -E '^Cap(Inh|Amb)' /proc/self/status");
    let run = bundle.run();
    assert_eq!(
        (run.code, run.out.as_str()),
        (0, "CapInh:\t0000000000000020\nCapAmb:\t0000000000000020\n"),
        "{run:?}"
    );
    for words in [
        "warning: ignoring unknown or unavailable capabilities: [CAP_OF_TOMORROW]",
        "can't raise ambient capability CAP_CHOWN",
    ] {
        assert!(run.err.contains(words), "{words}: {run:?}");
    }
    // What is inheritable must be in the bounding set (capabilities(7)).
    bundle.config["process"]["capabilities"]["inheritable"] = json!(["CAP_CHOWN"]);
    assert!(bundle.refused().contains("operation not permitted"));
    // What the caller lacks is told, too.
    let sets = json!(["CAP_KILL", "CAP_NET_RAW"]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": sets, "permitted": sets, "effective": sets});
    bundle.sh("true");
    bundle.save();
    let id = bundle.id.clone();
    let words = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"];
    let output = by_way_of(&bundle, &words, &["run", &id]).output();
    let said = said(output.unwrap());
    assert!(
        said.code == 0 && said.err.contains("capabilities: [CAP_NET_RAW]"),
        "{said:?}"
    );
}

#[test]
fn bind_mounts_take_options_of_file_systems_that_mean_nothing() {
    let Some(mut bundle) = bundle() else { return };
    fs::create_dir(bundle.path("source")).unwrap();
    let options = json!(["bind", "nosuid", "mode=755", "size=1k"]);
    bundle.mount(json!({"destination": "/data", "source": bundle.path("source"), "options": options}));
    bundle.prints("grep ' /data ' /proc/self/mounts | grep nosuid");
    // A bare word may have been meant for the mount.
    bundle.mount(json!({"destination": "/tmp", "source": "source", "options": ["bind", "readonly"]}));
    let refused = bundle.refused();
    assert!(refused.contains("readonly makes no sense"), "{refused}");
}

#[test]
fn ps_takes_the_options_of_the_hosts() {
    let Some(mut bundle) = bundle() else { return };
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    let pid = bundle.state()["pid"].to_string();
    let said = bundle.call(&["ps", &bundle.id, "-e", "-o", "pid,args"]);
    if said.err.contains("executable file not found") || said.err.contains("no such file") {
        eprintln!("skipped: no ps");
    } else {
        let words: Vec<&str> = said.out.split_whitespace().collect();
        assert_eq!(words, ["PID", "COMMAND", &pid, "sleep", "1000"], "{said:?}");
        let said = bundle.call(&["ps", &bundle.id, "-e", "-o", "comm"]);
        assert!(said.code == 1 && said.err.contains("PID"), "{said:?}");
    }
    bundle.delete();
}

#[test]
fn who_looks_for_a_mistake_is_told_more() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["process"]["execCPUAffinity"] = json!({"initial": "0"});
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    let id = &bundle.id;
    let said = bundle.call(&["exec", id, "true"]);
    assert!(said.code == 0 && said.err.is_empty(), "{said:?}");
    let said = bundle.call(&["--debug", "exec", id, "true"]);
    assert!(
        said.err.contains("level=debug msg=") && said.err.contains("affinity: 0x1"),
        "{said:?}"
    );
    assert!(said.err.contains("further process"), "{said:?}");
    bundle.ok(&["--debug", "--log", "log", "exec", id, "true"]);
    let log = fs::read_to_string(bundle.path("log")).unwrap();
    assert!(
        log.contains("level=debug") && log.contains("affinity: 0x1"),
        "{log}"
    );
    // Options of the program are none of ours.
    bundle.ok(&[
        "exec",
        id,
        "echo",
        "--debug",
        "--log",
        "programs",
        "--log-format",
        "x",
    ]);
    assert!(!bundle.path("programs").exists());
    bundle.delete();
}

#[test]
fn all_whose_id_has_a_match_are_deleted() {
    let Some(mut bundle) = bundle() else { return };
    let name = |end: &str| format!("{}-{end}", bundle.id);
    let (one, other, third) = (name("one"), name("other"), name("third"));
    for id in [&one, &other, &third] {
        bundle.config["linux"]["cgroupsPath"] = format!("/rcompose-test-oci/{id}").into();
        bundle.args(&["sleep", "1000"]);
        bundle.save();
        // Its output is not ours to wait for.
        let status = bundle
            .command(&["run", "--detach", id])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success());
    }
    let said = bundle.call(&["delete", "--regex", ".-o[nt]"]);
    assert!(said.code == 1 && said.err.contains("running"), "{said:?}");
    assert!(bundle.call(&["delete", "--regex", "("]).err.contains("--regex"));
    bundle.ok(&["delete", "-f", "--regex", ".-o[nt]"]);
    assert_eq!(bundle.ok(&["list", "-q"]).trim(), third);
    bundle.ok(&["delete", "--force", &third]);
}

#[test]
fn links_of_bind_mounts_are_copied_or_taken_as_they_are() {
    let Some(mut bundle) = bundle() else { return };
    let source = bundle.path("source");
    fs::write(&source, "content\n").unwrap();
    symlink("nowhere", bundle.path("broken")).unwrap();
    symlink(&source, bundle.path("link")).unwrap();
    for name in ["over", "under"] {
        symlink("nowhere", bundle.path("rootfs/data").join(name)).unwrap();
    }
    for (source, target, options) in [
        ("broken", "/new/place/link", &["rbind", "copy-symlink"][..]),
        ("link", "/data/under", &["bind", "src-nofollow", "dest-nofollow"]),
        ("link", "/data/over", &["bind", "dest-nofollow"]),
        ("source", "/data/file", &["bind", "copy-symlink"]),
    ] {
        let source = bundle.path(source);
        bundle.mount(json!({"destination": target, "source": source, "options": options}));
    }
    let script = "readlink /new/place/link; readlink /data/under; cat /data/over /data/file";
    let expected = format!("nowhere\n{}\ncontent\ncontent\n", source.display());
    assert_eq!(bundle.prints(script), expected);
    // What was made again stays, and is no mistake the next time.
    assert_eq!(bundle.prints(script), expected);
    symlink("elsewhere", bundle.path("rootfs/data/taken")).unwrap();
    let broken = bundle.path("broken");
    bundle
        .mount(json!({"destination": "/data/taken", "source": broken, "options": ["bind", "copy-symlink"]}));
    assert!(bundle.refused().contains("file exists"));
    bundle.config["mounts"].as_array_mut().unwrap().truncate(4);
    bundle.mount(json!({"destination": "/x", "type": "tmpfs", "options": ["copy-symlink"]}));
    assert!(bundle.refused().contains("links"));
}

#[test]
fn a_mount_that_is_to_be_shared_is_so_in_a_private_root() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["linux"]["rootfsPropagation"] = "rprivate".into();
    let source = bundle.path("");
    for (target, how) in [("/data", "rshared"), ("/tmp", "rslave"), ("/root", "rprivate")] {
        bundle.mount(json!({"destination": target, "source": source, "options": ["bind", how]}));
    }
    bundle.sh("cat /proc/self/mountinfo");
    bundle.save();
    let words = ["unshare", "--mount", "--propagation", "shared"];
    let said = said(by_way_of(&bundle, &words, &["run", &bundle.id]).output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    let fields = |target: &str| -> String {
        let line = said
            .out
            .lines()
            .find(|line| line.split(' ').nth(4) == Some(target));
        line.unwrap().split(" - ").next().unwrap().to_owned()
    };
    assert!(fields("/data").contains("shared:"), "{said:?}");
    assert!(fields("/tmp").contains("master:"), "{said:?}");
    for target in ["/", "/root", "/proc"] {
        let fields = fields(target);
        assert!(
            !fields.contains("shared:") && !fields.contains("master:"),
            "{fields}"
        );
    }
}

#[test]
fn a_user_namespace_may_be_written_sparingly() {
    let Some(mut bundle) = bundle() else { return };
    bundle.namespace(json!({"type": "user"}));
    let words = |text: String| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    let maps = bundle.prints("cat /proc/self/uid_map /proc/self/gid_map");
    assert_eq!(words(maps), ["0", "0", "1", "0", "0", "1"]);
    // On the network of the host it sees the host's sysfs.
    let list = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    list.retain(|one| one["type"] != "network");
    let said = bundle.prints("ls -d /sys/kernel; grep ' /sys ' /proc/self/mountinfo | cut -d' ' -f6");
    let said = words(said);
    assert_eq!(said[0], "/sys/kernel");
    assert!(said[1].starts_with("ro,"), "{said:?}");
}

#[test]
fn rights_that_are_denied_to_the_container_can_be_had_by_exec() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["process"]["noNewPrivileges"] = true.into();
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    let with = |options: &[&str]| {
        let said = bundle.exec_with(options, &["grep", "^NoNewPrivs:", "/proc/self/status"]);
        assert_eq!(said.code, 0, "{said:?}");
        said.out.trim().ends_with('1')
    };
    assert!(with(&[]) && with(&["--no-new-privs"]) && !with(&["--no-new-privs=false"]));
    bundle.delete();
}

#[test]
fn annotations_that_change_something_are_in_the_features() {
    let Some(mut bundle) = bundle() else { return };
    let features: serde_json::Value = serde_json::from_str(&bundle.ok(&["features"])).unwrap();
    let unsafe_ones = features["potentiallyUnsafeConfigAnnotations"].as_array().unwrap();
    let socket = bundle.path("pidfd");
    let (out, err) = (bundle.path("out"), bundle.path("err"));
    let annotations = json!({
        "run.oci.pidfd_receiver": socket,
        "run.oci.hooks.stdout": out,
        "run.oci.hooks.stderr": err,
    });
    for name in annotations.as_object().unwrap().keys() {
        assert!(unsafe_ones.contains(&name.as_str().into()), "{name}");
    }
    bundle.config["annotations"] = annotations;
    let hook = |kind: &str, path: &str| {
        let script = format!("echo {kind}; echo {kind} failed >&2");
        json!([{"path": path, "args": ["sh", "-c", script], "env": ["PATH=/bin"]}])
    };
    bundle.config["hooks"] = json!({
        "prestart": hook("prestart", "/bin/sh"),
        "createContainer": hook("createContainer", "/bin/sh"),
        "startContainer": hook("startContainer", "/bin/sh"),
        "poststop": hook("poststop", "/bin/sh"),
    });
    let listener = UnixListener::bind(&socket).unwrap();
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    let (connection, _) = listener.accept().unwrap();
    let (_, pidfd) = rcompose::sys::fd::receive(connection.as_fd(), &mut [0; 64]).unwrap();
    let pidfd = pidfd.unwrap();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    assert_eq!(pid.unwrap().trim(), bundle.state()["pid"].to_string());
    bundle.delete();
    // Those inside are not: the path leads elsewhere there.
    assert_eq!(
        fs::read_to_string(out).unwrap(),
        "prestart\ncreateContainer\npoststop\n"
    );
    assert!(fs::read_to_string(err).unwrap().contains("prestart failed\n"));
}

#[test]
fn a_program_tells_the_manager_that_it_is_ready() {
    let Some(mut bundle) = bundle() else { return };
    let path = bundle.path("manager");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut buffer = [0; 256];
        let (length, descriptor) = rcompose::sys::fd::receive(manager.as_fd(), &mut buffer).unwrap();
        // Closed at once: who waits at a barrier goes on.
        drop(descriptor);
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    // Busybox has no way to send datagrams: we do, where it looks like its folder.
    bundle.sh("test -S $NOTIFY_SOCKET && echo $NOTIFY_SOCKET; exec sleep 1000");
    bundle.save();
    let output = fs::File::create(bundle.path("output")).unwrap();
    let status = bundle
        .command(&["create", &bundle.id])
        .env("NOTIFY_SOCKET", &path)
        .stdout(output)
        .status();
    assert!(status.unwrap().success());
    let mut start = bundle
        .command(&["start", &bundle.id])
        .env("NOTIFY_SOCKET", &path)
        .spawn()
        .unwrap();
    bundle.wait_for_output("/run/notify/notify.sock\n");
    assert!(start.try_wait().unwrap().is_none());
    let inside = bundle.path("state").join(&bundle.id).join("notify/notify.sock");
    let program = UnixDatagram::unbound().unwrap();
    program.send_to(b"STATUS=soon", &inside).unwrap();
    program.send_to(b"STATUS=now\nREADY=1\n", &inside).unwrap();
    assert_eq!(heard(), "READY=1");
    assert_eq!(heard(), format!("MAINPID={}", bundle.state()["pid"]));
    assert_eq!(heard(), "BARRIER=1");
    assert!(start.wait().unwrap().success());
    assert!(!bundle.exec(&["env"]).out.contains("NOTIFY_SOCKET"));
    bundle.delete();
    // One that ends without a word is not waited for.
    bundle.args(&["true"]);
    bundle.save();
    let run = |bundle: &Bundle, options: &[&str]| {
        let words = [&["run"], options, &[bundle.id.as_str()]].concat();
        let mut command = bundle.command(&words);
        command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null());
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    assert!(run(&bundle, &["--detach"]).wait().unwrap().success());
    bundle.delete();
    // In the foreground the service is who runs it.
    bundle.args(&["sleep", "1000"]);
    bundle.save();
    let mut foreground = run(&bundle, &[]);
    wait_until("socket", || inside.exists());
    wait_until("listening", || program.send_to(b"READY=1", &inside).is_ok());
    assert_eq!(heard(), "READY=1");
    assert_eq!(heard(), format!("MAINPID={}", foreground.id()));
    wait_until("running", || bundle.call(&["kill", &bundle.id, "KILL"]).code == 0);
    assert_eq!(foreground.wait().unwrap().code(), Some(137));
}

#[test]
fn a_bind_mount_takes_the_place_of_the_root() {
    let Some(mut bundle) = bundle() else { return };
    let other = bundle.path("other");
    crate::support::fill(&other, std::path::Path::new(&bundle.path("rootfs/bin/busybox")));
    fs::write(other.join("etc/which"), "other\n").unwrap();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.insert(
        0,
        json!({"destination": "/", "type": "bind", "source": other, "options": ["rbind"]}),
    );
    bundle.config["root"]["readonly"] = true.into();
    bundle.config["linux"]["maskedPaths"] = json!(["/proc/keys", "/data"]);
    let script = "cat /etc/which; touch /etc/x 2>/dev/null || echo closed; test -c /dev/null && ls -d /dev/pts/ptmx; \
                  cat /proc/keys; pwd";
    let expected = "other\nclosed\n/dev/pts/ptmx\n/\n";
    assert_eq!(bundle.prints(script), expected);
    // The same when the root is changed late, or by moving it.
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/true"}]});
    assert_eq!(bundle.prints(script), expected);
    bundle.config["hooks"] = json!({});
    let said = bundle.call(&["run", "--no-pivot", &bundle.id]);
    assert_eq!((said.code, said.out.as_str()), (0, expected), "{said:?}");
    // Who joins is there, too.
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    let said = bundle.exec(&["sh", "-c", script]);
    assert_eq!((said.code, said.out.as_str()), (0, expected), "{said:?}");
    bundle.delete();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts[0] = json!({"destination": "/", "type": "tmpfs", "source": "tmpfs"});
    assert!(bundle.refused().contains("only a bind mount"));
}

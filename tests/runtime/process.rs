//! What the program is and may do.

use rcompose::runtime::{FailureKind, SpecError};

use crate::support::{Container, container};

#[test]
fn a_program_runs_and_its_status_is_recorded() {
    let Some(mut container) = container() else { return };
    let run = container.run(&["echo", "hello", "world"]);
    assert_eq!(
        (run.exit.code, run.exit.signal, run.exit.oom_killed),
        (0, None, false)
    );
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("hello world\n", ""));
    assert!(run.exit.started_at > 0 && run.exit.finished_at > run.exit.started_at);
    assert_eq!(run.warnings, [""; 0]);
    assert_eq!(container.sh("exit 37").exit.code, 37);
    let killed = container.sh("sleep 0.1 & wait; kill -9 $$; kill -TERM $$; exit 3");
    // Process 1 of a pid namespace cannot kill itself.
    assert_eq!(killed.exit.code, 3);
}

#[test]
fn a_program_that_cannot_be_run_is_a_clear_error() {
    let Some(mut container) = container() else { return };
    for (program, message, kind) in [
        (
            "/bin/nosuch",
            "exec /bin/nosuch: no such file or directory",
            FailureKind::NotFound,
        ),
        (
            "nosuch",
            "exec nosuch: executable file not found in $PATH",
            FailureKind::NotFound,
        ),
        (
            "/opt/text",
            "exec /opt/text: permission denied",
            FailureKind::PermissionDenied,
        ),
        (
            "/etc",
            "exec /etc: permission denied",
            FailureKind::PermissionDenied,
        ),
    ] {
        let error = container.start(&[program]).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert_eq!(error.kind(), kind);
        container.clean();
        assert!(!container.path("exit.json").exists());
    }
    let error = container.start(&[]).unwrap_err();
    assert_eq!(error.to_string(), "command is missing");
}

#[test]
fn who_it_is() {
    let Some(mut container) = container() else { return };
    let who = |container: &mut Container, user: &str, add: &[&str]| {
        let (user, add) = (
            user.to_owned(),
            add.iter().map(|name| (*name).to_owned()).collect(),
        );
        container.on_request(move |request| {
            request.user = Some(user);
            request.group_add = add;
        });
        container.sh("echo $(id -u) $(id -g) $(id -G) $HOME; grep -E 'Cap(Inh|Eff|Amb)' /proc/self/status | cut -f2").stdout
    };
    let none = "0000000000000000";
    let full = "00000000a80425fb";
    assert_eq!(
        who(&mut container, "", &[]),
        format!("0 0 0 /root\n{none}\n{full}\n{none}\n")
    );
    assert_eq!(
        who(&mut container, "web", &[]),
        format!("101 102 102 77 /srv\n{none}\n{none}\n{none}\n")
    );
    assert_eq!(
        who(&mut container, "7:8", &["log"]),
        format!("7 8 8 88 /\n{none}\n{none}\n{none}\n")
    );
    container.on_request(|request| request.user = Some("nosuch".into()));
    let error = container.start(&["true"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "find user nosuch: no such user in /etc/passwd of the container"
    );
}

#[test]
fn where_it_is() {
    let Some(mut container) = container() else { return };
    container.settings.cwd = "/srv/data".into();
    assert_eq!(container.run(&["pwd"]).stdout, "/srv/data\n");
    container.settings.cwd = "/made/for/it".into();
    assert_eq!(container.run(&["pwd"]).stdout, "/made/for/it\n");
    container.settings.cwd = "/etc/passwd".into();
    let error = container.start(&["pwd"]).unwrap_err();
    assert_eq!(error.to_string(), "chdir to /etc/passwd: not a directory");
    // Closed to the user, entered as root before.
    container.layer(|layer| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::create_dir(layer.join("closed")).unwrap();
        std::fs::set_permissions(layer.join("closed"), std::fs::Permissions::from_mode(0o700)).unwrap();
    });
    container.settings.cwd = "/closed".into();
    container.on_request(|request| request.user = Some("web".into()));
    assert_eq!(container.run(&["true"]).exit.code, 0);
}

#[test]
fn what_it_is_told() {
    let Some(mut container) = container() else { return };
    container.settings.env = vec!["A=b c".into(), "PATH=/bin".into()];
    container.settings.hostname = Some("box".into());
    container.settings.domainname = Some("example".into());
    let run = container.sh("echo $A; echo $PATH; echo $HOSTNAME; hostname; cat /proc/sys/kernel/domainname; umask; cat /proc/1/cmdline | tr '\\0' ' '");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines[..6], ["b c", "/bin", "box", "box", "example", "0022"]);
    assert!(lines[6].starts_with("sh -c"));
}

#[test]
fn what_it_may_do() {
    let Some(mut container) = container() else { return };
    let script = "grep -E 'CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp:' /proc/self/status | tr -s '\\t ' ' '";
    let run = container.sh(script);
    assert_eq!(
        run.stdout.lines().collect::<Vec<_>>(),
        [
            "CapInh: 0000000000000000",
            "CapPrm: 00000000a80425fb",
            "CapEff: 00000000a80425fb",
            "CapBnd: 00000000a80425fb",
            "CapAmb: 0000000000000000",
            "NoNewPrivs: 0",
            "Seccomp: 2",
        ]
    );
    let run = container.sh("unshare -m true; mount -t tmpfs x /tmp; mknod /tmp/null c 1 3 && echo made");
    assert_eq!(run.stdout, "made\n");
    assert!(
        run.stderr
            .contains("unshare: unshare(0x20000): Operation not permitted"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("mount: permission denied"), "{}", run.stderr);
    container.settings.cap_drop = vec!["ALL".into()];
    container.settings.cap_add = vec!["net_raw".into()];
    container.settings.security_opt = vec!["no-new-privileges:true".into()];
    let run = container.sh(script);
    assert!(run.stdout.contains("CapEff: 0000000000002000"), "{}", run.stdout);
    assert!(run.stdout.contains("NoNewPrivs: 1") && run.stdout.contains("Seccomp: 2"));
    container.settings.security_opt = vec!["seccomp=unconfined".into()];
    assert!(container.sh(script).stdout.contains("Seccomp: 0"));
    container.settings.security_opt.clear();
    container.settings.privileged = true;
    let run = container.sh(&format!(
        "{script}; unshare -m true && echo unshared; ls /dev | wc -l"
    ));
    assert!(
        run.stdout.contains("Seccomp: 0") && run.stdout.contains("unshared"),
        "{}",
        run.stdout
    );
}

#[test]
fn it_has_no_descriptor_of_ours() {
    let Some(mut container) = container() else { return };
    // One of ours that is not close-on-exec must not get there either.
    let leak = std::fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let run = container.sh("ls /proc/self/fd; ls -l /proc/1/fd | grep -c -v -E 'pipe|null|total'");
    assert_eq!(run.stdout, "0\n1\n2\n3\n0\n");
}

#[test]
fn it_is_alone() {
    let Some(mut container) = container() else { return };
    let run = container.sh(
        "echo $$; ps -o pid= | wc -l; ip -o link | cut -d: -f2 | tr -d ' ' | head -1; ip -o addr | grep -c 127.0.0.1; cat /proc/1/cgroup | cut -d: -f3 | sort -u; for n in mnt pid uts ipc net cgroup; do readlink /proc/self/ns/$n; done",
    );
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines[0], "1");
    assert_eq!(lines[2..4], ["lo", "1"]);
    // In its cgroup namespace it is at the root of each hierarchy it joined.
    assert!(lines[4..].contains(&"/"));
    assert!(!run.stdout.contains("rcompose-test"), "{}", run.stdout);
    for name in ["mnt", "pid", "uts", "ipc", "net", "cgroup"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(!lines.contains(&own.to_str().unwrap()), "{name} is the host's");
    }
}

#[test]
fn an_init_process_reaps_and_forwards() {
    let Some(mut container) = container() else { return };
    container.on_request(|request| request.init = true);
    let started = container.start(&["sh", "-c", "trap 'echo got; exit 9' USR1; (sleep 0.05 &); echo pid $$; echo ready; while :; do sleep 0.1; done"]).unwrap();
    container.wait_for("ready");
    assert!(!container.output().0.contains("pid 1\n"));
    crate::support::wait_until("no zombie", || {
        let run = container.exec_sh("cat /proc/[0-9]*/stat | grep -c ' Z '");
        run.stdout.trim() == "0"
    });
    rcompose::runtime::signal(&container.running(), libc::SIGUSR1).unwrap();
    let run = container.finish(started);
    assert_eq!(run.exit.code, 9);
    assert!(run.stdout.ends_with("got\n"));
    container.on_request(|request| request.init = true);
    let error = container.start(&["/bin/nosuch"]).unwrap_err();
    assert_eq!(error.to_string(), "exec /bin/nosuch: no such file or directory");
}

#[test]
fn what_is_not_done_is_refused() {
    let Some(mut container) = container() else { return };
    container.on_request(|request| {
        let hooks = serde_json::json!({"prestart": [{"path": "/bin/false"}]});
        request
            .spec
            .set_hooks(Some(serde_json::from_value(hooks).unwrap()));
    });
    let error = container.start(&["true"]).unwrap_err();
    assert!(
        error.to_string().contains("prestart hook #0: /bin/false"),
        "{error}"
    );
    container.clean();
    container
        .settings
        .sysctls
        .insert("kernel.panic".into(), "1".into());
    let error = container.start(&["true"]).unwrap_err();
    assert!(
        matches!(
            error,
            rcompose::runtime::RuntimeError::Spec(SpecError::Sysctl(..))
        ),
        "{error}"
    );
    container.settings.sysctls.clear();
    let root = rcompose::runtime::bind_mount("/etc".as_ref(), "/", &["ro"]);
    container.settings.mounts.push(root);
    let error = container.start(&["true"]).unwrap_err();
    assert!(
        error.to_string().contains("the root cannot be mounted over"),
        "{error}"
    );
}

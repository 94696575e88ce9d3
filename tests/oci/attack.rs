//! Attacks on runtimes that were published, run against ours. Those that need no
//! bundle of one's own are in `tests/runtime/attack.rs`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::support::{bundle, program};

/// Everything below a folder, with sizes.
fn listing(folder: &Path) -> Vec<String> {
    let mut list: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            format!("{:?} {}", entry.file_name(), entry.metadata().unwrap().len())
        })
        .collect();
    list.sort();
    list
}

/// CVE-2019-19921, CVE-2026-41579: the runtime's own places are links out.
#[test]
fn places_of_the_runtime_that_are_links_are_refused() {
    for name in ["proc", "sys", "dev"] {
        let Some(mut bundle) = bundle() else { return };
        let marker = bundle.path("marker");
        fs::create_dir(&marker).unwrap();
        fs::remove_dir(bundle.path("rootfs").join(name)).unwrap();
        symlink(&marker, bundle.path("rootfs").join(name)).unwrap();
        bundle.args(&["true"]);
        let error = bundle.refused();
        assert!(error.contains(name), "{error}");
        assert!(listing(&marker).is_empty());
    }
    for name in ["shm", "pts", "mqueue"] {
        let Some(mut bundle) = bundle() else { return };
        let marker = bundle.path("marker");
        fs::create_dir(&marker).unwrap();
        // A /dev of the image's own, as an attacker fills it.
        bundle.config["mounts"].as_array_mut().unwrap().truncate(1);
        bundle.mount(json!({"destination": format!("/dev/{name}"), "type": "tmpfs", "source": "x"}));
        symlink(&marker, bundle.path("rootfs/dev").join(name)).unwrap();
        bundle.args(&["true"]);
        bundle.refused();
        assert!(listing(&marker).is_empty());
    }
}

/// CVE-2025-31133: `/dev/null` of the container is what masks are made of.
#[test]
fn a_null_device_that_is_a_link_hides_nothing_else() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["mounts"].as_array_mut().unwrap().truncate(1);
    symlink("/proc/sys/kernel/core_pattern", bundle.path("rootfs/dev/null")).unwrap();
    fs::write(bundle.path("rootfs/data/secret"), "secret").unwrap();
    bundle.config["linux"]["maskedPaths"] = json!(["/data/secret"]);
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    bundle.sh("stat -c %t:%T /data/secret; echo x > /data/secret");
    let said = bundle.run();
    assert!(said.out.starts_with("1:3"), "{said:?}");
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
        before
    );
}

/// CVE-2024-21626: a working directory through a descriptor of the runtime's.
#[test]
fn working_directories_do_not_lead_out() {
    let Some(mut bundle) = bundle() else { return };
    for number in 0..24 {
        bundle.config["process"]["cwd"] = format!("/proc/self/fd/{number}").into();
        bundle.args(&["pwd"]);
        let said = bundle.run();
        assert!(said.code != 0, "{number}: {said:?}");
    }
    symlink("/proc/self/fd/7/../../..", bundle.path("rootfs/data/link")).unwrap();
    bundle.config["process"]["cwd"] = "/data/link".into();
    let said = bundle.run();
    assert!(said.code != 0, "{said:?}");
    bundle.config["process"]["cwd"] = "/".into();
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    for number in 3..24 {
        let cwd = format!("/proc/self/fd/{number}");
        let said = bundle.call(&["exec", "--cwd", &cwd, &bundle.id, "pwd"]);
        assert!(said.code != 0, "{cwd}: {said:?}");
    }
    bundle.delete();
}

/// CVE-2019-5736: the runtime's own binary, by way of `/proc/self/exe` and of
/// the process of `exec`.
#[test]
fn our_binary_cannot_be_written() {
    let Some(mut bundle) = bundle() else { return };
    let before = fs::metadata(program(&bundle.path(""))).unwrap();
    let script = "#!/proc/self/exe\n";
    fs::write(bundle.path("rootfs/bin/trap-door"), script).unwrap();
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    fs::set_permissions(
        bundle.path("rootfs/bin/trap-door"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    bundle.sh(
        "echo ready; while true; do for p in /proc/[0-9]*; do case $(readlink $p/exe 2>/dev/null) in /bin/*|'') ;; \
         *) (echo x > $p/exe) 2>/dev/null && echo WRITTEN; (exec 9<$p/exe) 2>/dev/null;; esac; \
         ls $p/fd $p/root/work 2>/dev/null | grep -q state && echo LEAK; done; done",
    );
    bundle.start();
    bundle.wait_for_output("ready");
    for _ in 0..30 {
        let _ = bundle.exec(&["true"]);
        let _ = bundle.exec(&["trap-door"]);
    }
    bundle.delete();
    assert_eq!(bundle.output(), "ready\n");
    // `run` executes nothing before the program: that path leads to a stub.
    for program in ["trap-door", "/proc/self/exe"] {
        bundle.args(&[program, "--root", "/x", "list"]);
        let said = bundle.run();
        assert_eq!((said.code, said.out.as_str()), (126, ""), "{program}: {said:?}");
    }
    let after = fs::metadata(program(&bundle.path(""))).unwrap();
    assert_eq!(
        (before.len(), before.mtime(), before.ctime()),
        (after.len(), after.mtime(), after.ctime())
    );
}

/// CVE-2021-30465, CVE-2024-45310: a mount's target is swapped for a link while
/// it is looked up.
#[test]
fn a_swapped_target_leads_nowhere() {
    let Some(mut bundle) = bundle() else { return };
    let (shared, marker) = (bundle.path("shared"), bundle.path("marker"));
    fs::create_dir_all(shared.join("a/deep")).unwrap();
    fs::create_dir(&marker).unwrap();
    symlink(&marker, shared.join("b")).unwrap();
    bundle.mount(json!({"destination": "/shared", "type": "bind", "source": shared, "options": ["rbind"]}));
    bundle.mount(json!({"destination": "/shared/a/deep/new", "type": "tmpfs", "source": "x"}));
    bundle.args(&["true"]);
    bundle.save();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (a, b) = (shared.join("a"), shared.join("b"));
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let _ = rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, flags);
            }
        });
        for _ in 0..60 {
            let status = bundle
                .command(&["run", &bundle.id])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            let _ = status;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(listing(&marker).is_empty(), "{:?}", listing(&marker));
}

/// CVE-2022-24769, CVE-2022-29162: capabilities that a program with file
/// capabilities would inherit; and a further process is no exception.
#[test]
fn nothing_is_inheritable_that_was_not_asked_for() {
    let Some(mut bundle) = bundle() else { return };
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    for options in [&[][..], &["--user", "5"], &["--cap", "CAP_SYS_ADMIN"]] {
        let mut args = vec!["exec"];
        args.extend(options);
        args.extend([
            bundle.id.as_str(),
            "grep",
            "-E",
            "CapInh|CapAmb",
            "/proc/self/status",
        ]);
        let said = bundle.call(&args);
        assert_eq!(
            said.out, "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n",
            "{said:?}"
        );
    }
    bundle.delete();
}

/// CVE-2022-2989 and its like: additional groups of the runtime's caller.
#[test]
fn groups_of_the_caller_do_not_stay() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["process"]["user"] = json!({"uid": 5, "gid": 6});
    assert_eq!(
        bundle.prints("grep Groups /proc/self/status; id -G"),
        "Groups:\t \n6\n"
    );
}

/// CVE-2019-16884, CVE-2025-52881: writes to procfs are led elsewhere by mounts.
#[test]
fn nothing_is_mounted_over_procfs() {
    let Some(mut bundle) = bundle() else { return };
    fs::create_dir(bundle.path("fake")).unwrap();
    for destination in [
        "/proc",
        "/proc/self",
        "/proc/sys",
        "/proc/1/attr",
        "/proc/../proc/self",
    ] {
        bundle.config["mounts"].as_array_mut().unwrap().truncate(4);
        bundle.mount(json!({"destination": destination, "type": "bind", "source": bundle.path("fake"), "options": ["rbind"]}));
        let error = bundle.refused();
        assert!(error.contains("proc"), "{destination}: {error}");
    }
    // By way of a link in the image.
    bundle.config["mounts"].as_array_mut().unwrap().truncate(4);
    symlink("/proc/self", bundle.path("rootfs/data/self")).unwrap();
    bundle.mount(json!({"destination": "/data/self", "type": "bind", "source": bundle.path("fake"), "options": ["rbind"]}));
    bundle.refused();
}

/// CVE-2020-15257: sockets that a container in the host's network reaches.
#[test]
fn no_socket_is_in_reach() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|kind| kind["type"] != "network");
    bundle.config["mounts"].as_array_mut().unwrap().truncate(3);
    assert_eq!(
        bundle.prints("grep -c '@.*rcompose' /proc/net/unix || true"),
        "0\n"
    );
    use std::os::unix::fs::PermissionsExt as _;
    bundle.args(&["sleep", "1000"]);
    bundle.create();
    let mode = fs::metadata(bundle.path("state").join(&bundle.id))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    bundle.delete();
}

/// CVE-2026-30892, CVE-2024-40635: a wanted user that is read as another.
#[test]
fn a_user_is_who_is_written_or_nobody() {
    let Some(mut bundle) = bundle() else { return };
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    let most = i32::MAX.to_string();
    for (user, expected) in [
        ("0", "0:0"),
        ("1000:7", "1000:7"),
        (most.as_str(), "2147483647:0"),
    ] {
        let said = bundle.call(&[
            "exec",
            "--user",
            user,
            &bundle.id,
            "sh",
            "-c",
            "echo $(id -u):$(id -g)",
        ]);
        assert_eq!(said.out.trim(), expected, "{user}: {said:?}");
    }
    for user in [
        "4294967296",
        "4294967295",
        "2147483648",
        "18446744073709551616",
        "0x0",
        "-1",
        "+1",
        " 0",
        "0 ",
        "0abc",
        "1e3",
        ":",
        "1000:",
        ":0",
        "0:0:0",
        "0:4294967296",
        "root:-1",
        "\u{0660}",
    ] {
        let said = bundle.call(&["exec", "--user", user, &bundle.id, "id", "-u"]);
        assert!(said.code == 255 && said.out.is_empty(), "{user:?}: {said:?}");
    }
    bundle.delete();
}

/// CVE-2021-43784: fields that are longer than some length in a message between
/// parent and child.
#[test]
fn long_fields_arrive_whole() {
    let Some(mut bundle) = bundle() else { return };
    let long = "x".repeat(100_000);
    bundle.config["process"]["env"] = json!(["PATH=/bin", format!("LONG={long}"), "AFTER=here"]);
    bundle.config["annotations"] = json!({"long": "y".repeat(70_000)});
    assert_eq!(bundle.prints("echo ${#LONG} $AFTER"), "100000 here\n");
    let (mut name, root) = (String::new(), bundle.path("rootfs"));
    for _ in 0..12 {
        name.push_str("/a-folder-with-a-name-of-two-hundred-letters-");
        name.push_str(&"z".repeat(150));
    }
    fs::create_dir_all(root.join(&name[1..])).unwrap();
    bundle.mount(json!({"destination": name, "type": "tmpfs", "source": "x"}));
    bundle.sh("grep -c a-folder-with /proc/self/mounts");
    let said = bundle.run();
    assert_eq!(said.out, "1\n", "{said:?}");
}

/// CVE-2025-52565: the console is put at a place that leads out.
#[test]
fn a_console_that_is_a_link_leads_nowhere() {
    use std::os::fd::AsFd as _;
    for target in [
        "marker/file",
        "../../../../../../../../tmp",
        "/proc/sys/kernel/core_pattern",
    ] {
        let Some(mut bundle) = bundle() else { return };
        let marker = bundle.path("marker");
        fs::create_dir(&marker).unwrap();
        fs::write(marker.join("file"), "host").unwrap();
        let target = match target {
            "marker/file" => marker.join("file"),
            other => other.into(),
        };
        // A /dev of the image's own, as an attacker fills it; and so that it is
        // swapped meanwhile: one that is a file now and then.
        bundle.config["mounts"].as_array_mut().unwrap().truncate(1);
        bundle.mount(
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}),
        );
        fs::create_dir(bundle.path("rootfs/dev/pts")).unwrap();
        let (place, other) = (bundle.path("rootfs/dev/console"), bundle.path("rootfs/dev/other"));
        symlink(&target, &place).unwrap();
        fs::write(&other, "").unwrap();
        bundle.config["process"]["terminal"] = true.into();
        bundle.args(&["true"]);
        bundle.save();
        let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    let _ =
                        rustix::fs::renameat_with(rustix::fs::CWD, &place, rustix::fs::CWD, &other, flags);
                }
            });
            for _ in 0..8 {
                let socket = bundle.path("console");
                let _ = fs::remove_file(&socket);
                let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
                let made = bundle.call(&["create", "--console-socket", "console", &bundle.id]);
                if made.code == 0 {
                    let (connection, _) = listener.accept().unwrap();
                    let _ = rcompose::sys::fd::receive(connection.as_fd(), &mut [0; 64]);
                    bundle.call(&["start", &bundle.id]);
                }
                bundle.call(&["delete", "--force", &bundle.id]);
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(listing(&marker), ["\"file\" 4"]);
        assert_eq!(fs::read_to_string(marker.join("file")).unwrap(), "host");
        assert_eq!(
            fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
            before
        );
    }
}

/// CVE-2025-31133, raced: what masks are made of is swapped for a link.
#[test]
fn a_null_device_that_is_swapped_hides_nothing_else() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["mounts"].as_array_mut().unwrap().truncate(1);
    let (null, other) = (bundle.path("rootfs/dev/null"), bundle.path("rootfs/dev/other"));
    symlink("/proc/sysrq-trigger", &null).unwrap();
    fs::write(&other, "").unwrap();
    fs::write(bundle.path("rootfs/data/secret"), "secret").unwrap();
    bundle.config["linux"]["maskedPaths"] = json!(["/data/secret"]);
    bundle.config["linux"]["readonlyPaths"] = json!(["/proc/sysrq-trigger"]);
    bundle.sh("stat -c %t:%T /data/secret; (echo x > /proc/sysrq-trigger) 2>/dev/null && echo WRITTEN; cat /data/secret");
    bundle.save();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let _ = rustix::fs::renameat_with(rustix::fs::CWD, &null, rustix::fs::CWD, &other, flags);
            }
        });
        for _ in 0..30 {
            let said = bundle.call(&["run", &bundle.id]);
            if said.code == 0 {
                assert_eq!(said.out, "1:3\n", "{said:?}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// CVE-2025-24965 and its like: files that runtimes write into a root file
/// system, at places that are links.
#[test]
fn files_in_etc_that_are_links_are_not_followed_out() {
    let Some(mut bundle) = bundle() else { return };
    let marker = bundle.path("marker");
    fs::create_dir(&marker).unwrap();
    for name in ["hosts", "hostname", "resolv.conf"] {
        fs::write(marker.join(name), "host").unwrap();
        symlink(marker.join(name), bundle.path("rootfs/etc").join(name)).unwrap();
        fs::write(bundle.path(name), "given\n").unwrap();
        bundle.mount(json!({"destination": format!("/etc/{name}"), "type": "bind",
            "source": bundle.path(name), "options": ["rbind"]}));
    }
    let before = listing(&marker);
    bundle.sh("cat /etc/hosts; echo more >> /etc/hostname");
    let said = bundle.run();
    // The link leads to a place inside of the container, made for it.
    assert!(said.code != 0 || said.out == "given\n", "{said:?}");
    assert_eq!(listing(&marker), before);
    assert_eq!(fs::read_to_string(marker.join("hostname")).unwrap(), "host");
}

/// CVE-2022-1227: tools of the image that a runtime might run with its own rights.
#[test]
fn no_tool_of_the_image_runs_for_us() {
    let Some(mut bundle) = bundle() else { return };
    use std::os::unix::fs::PermissionsExt as _;
    for name in [
        "ps",
        "nsenter",
        "tar",
        "xz",
        "sh-of-hooks",
        "newuidmap",
        "newgidmap",
        "mount",
        "iptables",
    ] {
        let path = bundle.path("rootfs/bin").join(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, "#!/bin/sh\necho ran $0 >> /data/ran\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    bundle.ok(&["ps", &bundle.id]);
    bundle.ok(&["events", "--stats", &bundle.id]);
    bundle.ok(&["pause", &bundle.id]);
    bundle.ok(&["resume", &bundle.id]);
    assert_eq!(bundle.exec(&["true"]).code, 0);
    bundle.delete();
    assert!(!bundle.path("rootfs/data/ran").exists());
}

/// CVE-2016-9962: a process of `exec` can be looked into before it is the
/// container's own.
#[test]
fn a_process_that_joins_shows_nothing_of_ours() {
    let Some(mut bundle) = bundle() else { return };
    let list = bundle.config["process"]["capabilities"].clone();
    let mut all = list["bounding"].as_array().unwrap().clone();
    all.push("CAP_SYS_PTRACE".into());
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set] = json!(all);
    }
    fs::write(bundle.path("secret-of-the-host"), "").unwrap();
    bundle.sh("echo ready; while true; do for p in /proc/[0-9]*; do \
         for d in $p/cwd $p/root $p/fd/*; do test -e $d/secret-of-the-host && echo OUT $d; \
         test -e $d/etc/machine-id && echo OUT $d; done; done 2>/dev/null; done");
    bundle.start();
    bundle.wait_for_output("ready");
    for _ in 0..60 {
        assert_eq!(bundle.exec(&["true"]).code, 0);
    }
    bundle.delete();
    assert_eq!(bundle.output(), "ready\n");
}

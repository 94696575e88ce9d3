//! The configuration (config.md, config-linux.md): what is written is what a
//! process inside finds.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::json;

use super::support::{Bundle, Elsewhere, bundle};

#[test]
fn the_process_is_what_is_written() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["process"]["user"] =
        json!({"uid": 5, "gid": 6, "additionalGids": [7, 8, 7], "umask": 0o77});
    bundle.config["process"]["cwd"] = "/data/made".into();
    bundle.config["process"]["env"] = json!(["PATH=/bin", "A=b c"]);
    bundle.config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    bundle.config["process"]["oomScoreAdj"] = json!(100);
    bundle.config["process"]["noNewPrivileges"] = json!(true);
    bundle.config["hostname"] = "inside".into();
    bundle.config["domainname"] = "domain".into();
    let said = bundle.prints(
        "id; pwd; echo $A $HOME; ulimit -n; ulimit -Hn; umask; cat /proc/self/oom_score_adj; hostname; \
         cat /proc/sys/kernel/domainname; grep -E 'NoNewPrivs|CapEff|CapInh|CapAmb|Groups' /proc/self/status",
    );
    for line in [
        "uid=5 gid=6 groups=7,7,8",
        "/data/made",
        "b c /",
        "100",
        "200",
        "0077",
        "inside",
        "domain",
        "NoNewPrivs:\t1",
        "CapEff:\t0000000000000000",
        "CapInh:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "Groups:\t7 7 8 ",
    ] {
        assert!(said.lines().any(|found| found == line), "{line:?} in {said}");
    }
}

#[test]
fn capabilities_are_what_is_written() {
    let Some(mut bundle) = bundle() else { return };
    let one = json!(["CAP_NET_RAW"]);
    bundle.config["process"]["capabilities"] = json!({"bounding": ["CAP_NET_RAW", "CAP_CHOWN"], "permitted": one, "effective": one, "inheritable": one, "ambient": one});
    bundle.config["process"]["user"] = json!({"uid": 5, "gid": 5});
    let said = bundle.prints("grep Cap /proc/self/status");
    for line in [
        "CapInh:\t0000000000002000",
        "CapPrm:\t0000000000002000",
        "CapEff:\t0000000000002000",
        "CapBnd:\t0000000000002001",
        "CapAmb:\t0000000000002000",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
}

#[test]
fn the_kernel_treats_the_process_as_is_written() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
    bundle.config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
    bundle.config["linux"]["personality"] = json!({"domain": "LINUX32"});
    // Policy is field 41 of stat, nice field 19.
    let said = bundle.prints("cut -d' ' -f19,41 /proc/$$/stat; uname -m");
    assert!(said.starts_with("7 3\n"), "{said}");
    if cfg!(target_arch = "x86_64") {
        assert!(said.ends_with("i686\n"), "{said}");
    }
    bundle.config["process"]["ioPriority"]["priority"] = json!(8);
    assert!(bundle.refused().contains("ioPriority"));
}

#[test]
fn clocks_of_a_time_namespace_are_ahead() {
    let Some(mut bundle) = bundle() else { return };
    bundle.namespace(json!({"type": "time"}));
    bundle.config["linux"]["timeOffsets"] =
        json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 5}});
    bundle.sh("cut -d. -f1 /proc/uptime; sleep 1000");
    bundle.start();
    bundle.wait_for_output("\n");
    let inside: u64 = bundle.output().trim().parse().unwrap();
    let outside = fs::read_to_string("/proc/uptime").unwrap();
    let outside: u64 = outside.split('.').next().unwrap().parse().unwrap();
    assert!(
        (999_000..1_001_000).contains(&(inside - outside)),
        "{inside} {outside}"
    );
    let said = bundle.exec(&["cut", "-d.", "-f1", "/proc/uptime"]);
    assert!(said.out.trim().parse::<u64>().unwrap() >= inside, "{said:?}");
    bundle.delete();
}

#[test]
fn namespaces_are_inherited_entered_and_checked() {
    let Some(mut bundle) = bundle() else { return };
    let own = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
    // Without the type: the runtime's.
    let kinds = [
        ("pid", "pid"),
        ("uts", "uts"),
        ("ipc", "ipc"),
        ("net", "network"),
        ("cgroup", "cgroup"),
    ];
    let list = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    list.retain(|kind| kind["type"] == "mount");
    bundle.args(&["sleep", "1000"]);
    bundle.create();
    let pid = bundle.state()["pid"].clone();
    for (name, _) in kinds {
        assert_eq!(
            fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap(),
            own(name),
            "{name}"
        );
    }
    bundle.delete();
    // With a path: that one, and only of that type.
    let other = Elsewhere::new(&["--pid", "--uts", "--ipc", "--net", "--cgroup", "--mount"]);
    for (name, kind) in kinds {
        bundle.namespace(json!({"type": kind, "path": format!("/proc/{}/ns/{name}", other.pid())}));
    }
    bundle.namespace(json!({"type": "mount", "path": format!("/proc/{}/ns/mnt", other.pid())}));
    bundle.create();
    let pid = bundle.state()["pid"].clone();
    for name in ["pid", "uts", "ipc", "net", "cgroup", "mnt"] {
        let theirs = fs::read_link(format!("/proc/{}/ns/{name}", other.pid())).unwrap();
        assert_eq!(
            fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap(),
            theirs,
            "{name}"
        );
    }
    bundle.delete();
    bundle.namespace(json!({"type": "uts", "path": format!("/proc/{}/ns/net", other.pid())}));
    let error = bundle.refused();
    assert!(error.contains("enter namespace"), "{error}");
}

#[test]
fn mounts_have_their_options() {
    let Some(mut bundle) = bundle() else { return };
    fs::create_dir_all(bundle.path("source/deep")).unwrap();
    fs::write(bundle.path("source/file"), "content\n").unwrap();
    fs::write(bundle.path("rootfs/data/below"), "below\n").unwrap();
    let source = bundle.path("source");
    bundle.mount(json!({"destination": "/folder", "type": "bind", "source": source, "options": ["rbind", "ro", "nosuid"]}));
    bundle.mount(
        json!({"destination": "/a/file", "type": "bind", "source": source.join("file"), "options": ["bind"]}),
    );
    bundle.mount(json!({"destination": "/relative", "source": "source", "options": ["bind"]}));
    bundle.mount(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m", "noexec"]}));
    bundle.mount(json!({"destination": "/folder", "options": ["remount", "bind", "rw"]}));
    let said = bundle.prints(
        "cat /folder/file /a/file /relative/file /data/below; touch /folder/new && echo written; \
         grep -E ' /(folder|data) ' /proc/mounts | cut -d' ' -f2,4",
    );
    assert!(
        said.starts_with("content\ncontent\ncontent\nbelow\nwritten\n"),
        "{said}"
    );
    assert!(
        said.contains("/data rw,noexec") && said.contains("size=1024k"),
        "{said}"
    );
    assert!(source.join("new").exists());
    assert!(
        !fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(bundle.path("").to_str().unwrap())
    );
    for (mount, text) in [
        (
            json!({"destination": "/x", "type": "tmpfs", "options": ["nosuch=1"]}),
            "tmpfs on /x",
        ),
        (json!({"destination": "/proc/sys", "type": "tmpfs"}), "/proc"),
        (
            json!({"destination": "/x", "source": "/nosuch", "options": ["bind"]}),
            "no such file",
        ),
        (
            json!({"destination": "/x", "source": "/", "options": ["bind", "idmap"]}),
            "idmapped",
        ),
    ] {
        bundle.config["mounts"].as_array_mut().unwrap().truncate(4);
        bundle.mount(mount);
        let error = bundle.refused();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn mounts_are_listed_in_their_order() {
    let Some(mut bundle) = bundle() else { return };
    fs::create_dir(bundle.path("source")).unwrap();
    fs::write(bundle.path("source/file"), "").unwrap();
    let bind = |to: &str, from: PathBuf| json!({"destination": to, "source": from, "options": ["bind"]});
    bundle.mount(bind("/one", bundle.path("source")));
    bundle.mount(json!({"destination": "/two", "type": "tmpfs", "source": "tmpfs"}));
    bundle.mount(bind("/three", bundle.path("source/file")));
    bundle.mount(json!({"destination": "/four", "type": "tmpfs", "source": "tmpfs"}));
    assert_eq!(
        bundle.prints("grep -oE ' (/proc|/dev|/dev/pts|/sys|/one|/two|/three|/four) ' /proc/self/mountinfo"),
        " /proc \n /dev \n /dev/pts \n /sys \n /one \n /two \n /three \n /four \n"
    );
}

/// The container's own root is on the host while mounts are made: nothing of that is
/// seen in a copy of what is around it.
#[test]
fn a_copy_of_the_host_has_nothing_of_the_container() {
    let Some(mut bundle) = bundle() else { return };
    bundle.mount(json!({"destination": "/data", "source": "/", "options": ["rbind", "ro"]}));
    let own = format!(" /data{}", bundle.path("rootfs").display());
    let seen = bundle.prints("cut -d' ' -f4- /proc/self/mountinfo");
    assert!(seen.contains(" /data ") && !seen.contains(&own), "{seen}");
}

/// A source below the root is what mounts before have put there; links on the way
/// are those of the container.
#[test]
fn a_bind_mount_takes_what_was_mounted_before() {
    let Some(mut bundle) = bundle() else { return };
    let source = bundle.path("source");
    fs::create_dir_all(source.join("deep")).unwrap();
    fs::write(source.join("deep/file"), "deep\n").unwrap();
    fs::create_dir(bundle.path("outside")).unwrap();
    fs::write(bundle.path("outside/secret"), "secret\n").unwrap();
    symlink(bundle.path("outside"), source.join("out")).unwrap();
    symlink("/data/deep", source.join("in")).unwrap();
    let rootfs = bundle.path("rootfs");
    let inside = |path: &str| rootfs.join(path);
    let bind = |to: PathBuf, from: PathBuf, how: &str| json!({"destination": to, "source": from, "options": how.split(',').collect::<Vec<_>>()});
    let mounts = [
        bind("/data".into(), source.clone(), "bind"),
        json!({"destination": "/data/deep/more", "type": "tmpfs", "source": "tmpfs"}),
        // A destination may be written as a path of the host, too.
        bind(inside("again"), inside("data"), "rbind"),
        bind("/alone".into(), inside("data/deep"), "bind"),
        bind("/linked".into(), inside("data/in"), "rbind"),
    ];
    for mount in &mounts {
        bundle.mount(mount.clone());
    }
    let script = "cat /again/deep/file /alone/file /linked/file; \
        grep -oE ' /(again/deep|alone|linked)/more ' /proc/self/mountinfo";
    let expected = "deep\ndeep\ndeep\n /again/deep/more \n /linked/more \n";
    assert_eq!(bundle.prints(script), expected);
    let last = bundle.config["mounts"].as_array().unwrap().len();
    bundle.mount(bind("/wrong".into(), inside("data/out"), "bind"));
    let error = bundle.refused();
    assert!(error.contains("no such file or directory"), "{error}");
    // With ids that are mapped, which only the host's root may do.
    bundle.config["mounts"][last] = bind("/mapped".into(), inside("data/deep"), "bind,idmap");
    bundle.config["mounts"][last]["uidMappings"] = json!([{"containerID": 0, "hostID": 7, "size": 1}]);
    bundle.config["mounts"][last]["gidMappings"] = json!([{"containerID": 0, "hostID": 8, "size": 1}]);
    let script = format!("{script}; stat -c %u:%g /mapped/file");
    assert_eq!(bundle.prints(&script), format!("{expected}7:8\n"));
    // And in a user namespace.
    crate::users::mapped(&mut bundle);
    bundle.config["mounts"][last] = bind("/mapped".into(), inside("data/deep"), "bind,idmap");
    assert_eq!(bundle.prints(&script), format!("{expected}0:0\n"));
}

/// What callers do not say of a bind mount is not so, whatever its source is mounted
/// with; where they say nothing at all, or are somebody else, it stays as it is.
#[test]
fn a_bind_mount_has_the_attributes_that_are_written() {
    let Some(mut bundle) = bundle() else { return };
    let source = bundle.path("rootfs/data");
    bundle.mount(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "noexec", "nodev", "noatime"]}));
    for (to, options) in [
        ("/plain", json!(["bind"])),
        ("/closed", json!(["bind", "ro", "rprivate"])),
        ("/open", json!(["bind", "nosuid", "dev", "relatime"])),
    ] {
        bundle.mount(json!({"destination": to, "source": source, "options": options}));
    }
    let script = "grep -E ' /(plain|closed|open) ' /proc/self/mountinfo | cut -d' ' -f5,6";
    assert_eq!(
        bundle.prints(script),
        "/plain rw,nosuid,nodev,noexec,noatime\n/closed ro,noatime\n/open rw,nosuid,relatime\n"
    );
    crate::users::mapped(&mut bundle);
    assert_eq!(
        bundle.prints(script),
        "/plain rw,nosuid,nodev,noexec,noatime\n/closed ro,nosuid,nodev,noexec,noatime\n\
         /open rw,nosuid,noexec,relatime\n"
    );
}

#[test]
fn an_idmapped_mount_shows_other_owners() {
    let Some(mut bundle) = bundle() else { return };
    fs::create_dir(bundle.path("source")).unwrap();
    fs::write(bundle.path("source/file"), "").unwrap();
    std::os::unix::fs::chown(bundle.path("source/file"), Some(1000), Some(1001)).unwrap();
    let map = |from: u32| json!([{"containerID": from, "hostID": 5, "size": 1}]);
    bundle.mount(
        json!({"destination": "/data", "type": "bind", "source": bundle.path("source"),
        "options": ["rbind", "ridmap"], "uidMappings": map(1000), "gidMappings": map(1001)}),
    );
    assert_eq!(bundle.prints("stat -c %u:%g /data/file"), "5:5\n");
}

#[test]
fn the_root_is_read_only_and_propagates_as_is_written() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["root"]["readonly"] = true.into();
    assert_eq!(
        bundle.prints("touch /x 2>/dev/null || echo no; touch /dev/x && echo yes"),
        "no\nyes\n"
    );
    for (name, field) in [
        ("shared", "shared:"),
        ("slave", "master:"),
        ("private", ""),
        ("unbindable", "unbindable"),
    ] {
        bundle.config["linux"]["rootfsPropagation"] = name.into();
        let said = bundle.prints("grep -E ' / / ' /proc/self/mountinfo || cat /proc/self/mountinfo");
        let root = said
            .lines()
            .find(|line| line.split(' ').nth(4) == Some("/"))
            .unwrap();
        if name == "slave" {
            // Only what the host shares has a master.
            continue;
        }
        assert!(root.contains(field), "{name}: {root}");
        assert!(name == "shared" || !root.contains("shared:"), "{name}: {root}");
    }
    bundle.config["linux"]["rootfsPropagation"] = "nosuch".into();
    assert!(bundle.refused().contains("rootfsPropagation"));
}

#[test]
fn the_root_can_be_moved_instead_of_pivoted() {
    let Some(mut bundle) = bundle() else { return };
    bundle.sh("ls /");
    bundle.save();
    let said = bundle.call(&["run", "--no-pivot", &bundle.id]);
    assert!(said.code == 0 && said.out.contains("data\n"), "{said:?}");
}

#[test]
fn paths_are_masked_and_read_only() {
    let Some(mut bundle) = bundle() else { return };
    fs::write(bundle.path("rootfs/data/secret"), "secret\n").unwrap();
    fs::create_dir_all(bundle.path("rootfs/data/folder/inner")).unwrap();
    bundle.config["linux"]["maskedPaths"] = json!(["/data/secret", "/data/folder", "/nosuch"]);
    bundle.config["linux"]["readonlyPaths"] = json!(["/proc/sys", "/etc"]);
    let said = bundle.prints(
        "cat /data/secret; ls /data/folder; touch /etc/x /data/folder/x 2>/dev/null || echo closed; \
         echo 1 2>/dev/null >/proc/sys/kernel/domainname || echo closed",
    );
    assert_eq!(said, "closed\nclosed\n");
    bundle.config["linux"]["maskedPaths"] = json!(["/link"]);
    symlink("/data", bundle.path("rootfs/link")).unwrap();
    assert!(bundle.refused().contains("mask"));
}

#[test]
fn devices_and_links_are_there() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["linux"]["devices"] = json!([
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5, "gid": 6},
        {"path": "/data/pipe", "type": "p", "fileMode": 0o600}]);
    let said = bundle.prints(
        "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done; \
         stat -c '%t:%T %a %u:%g' /dev/mine; test -p /data/pipe && echo pipe; for l in fd ptmx stdout; do readlink /dev/$l; done",
    );
    assert_eq!(
        said,
        "/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n\
         /dev/tty 5:0 666\n1:3 640 5:6\npipe\n/proc/self/fd\npts/ptmx\n/proc/self/fd/1\n"
    );
    // Without a mount at /dev they are made in the root file system.
    bundle.config["mounts"].as_array_mut().unwrap().truncate(1);
    assert_eq!(bundle.prints("stat -c %t:%T /dev/null"), "1:3\n");
}

#[test]
fn parameters_are_set_and_the_hosts_are_not() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "99"});
    assert_eq!(
        bundle.prints("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni"),
        "1\n99\n"
    );
    bundle.config["linux"]["sysctl"] = json!({"vm.swappiness": "1"});
    assert!(bundle.refused().contains("vm.swappiness"));
}

#[test]
fn system_calls_are_filtered() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]});
    for new_privileges in [true, false] {
        bundle.config["process"]["noNewPrivileges"] = new_privileges.into();
        let said = bundle.prints("mkdir /data/x 2>&1; grep -E 'Seccomp:|CapEff' /proc/self/status");
        assert!(
            said.contains("No space left") && said.contains("Seccomp:\t2"),
            "{said}"
        );
        // The right to load it is not kept.
        assert!(said.contains("CapEff:\t00000000080420eb"), "{said}");
    }
    // Nothing but what a program needs: our own last steps need no more.
    bundle.args(&["true"]);
    let base = [
        "execve",
        "exit_group",
        "exit",
        "capset",
        "brk",
        "arch_prctl",
        "set_tid_address",
        "mmap",
        "mprotect",
        "set_robust_list",
        "rseq",
        "prlimit64",
        "readlinkat",
        "readlink",
        "getrandom",
        "getuid",
        "geteuid",
        "rt_sigaction",
        "prctl",
        "setuid",
        "setgid",
        "getgid",
        "fstat",
        "ioctl",
        "write",
        "newfstatat",
        "uname",
        "access",
        "munmap",
    ];
    bundle.config["linux"]["seccomp"] =
        json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": base, "action": "SCMP_ACT_ALLOW"}]});
    let said = bundle.run();
    assert_eq!(said.code, 0, "{said:?}");
}

#[test]
fn a_listener_is_given_notifications() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let Some(mut bundle) = bundle() else { return };
    let listener = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(bundle.path("agent")).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": bundle.path("agent"), "listenerMetadata": "meta",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]});
    bundle.args(&["true"]);
    bundle.create();
    let connection = rustix::net::accept(&listener).unwrap();
    let mut buffer = vec![0; 16 << 10];
    let (length, fd) = rcompose::sys::fd::receive(connection.as_fd(), &mut buffer).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&buffer[..length]).unwrap();
    assert_eq!(state["metadata"], "meta");
    assert_eq!(state["fds"], json!(["seccompFd"]));
    assert_eq!(state["state"]["id"], bundle.id);
    assert_eq!(state["state"]["status"], "creating");
    assert_eq!(
        state["pid"].to_string(),
        fs::read_to_string(bundle.path("pid")).unwrap()
    );
    let fd = fd.unwrap();
    let what = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    assert_eq!(what.to_str(), Some("anon_inode:seccomp notify"));
    bundle.ok(&["start", &bundle.id]);
    bundle.delete();
    bundle.config["linux"]["seccomp"]["listenerPath"] = "/nosuch".into();
    assert!(bundle.refused().contains("failed to connect with seccomp agent"));
    assert!(bundle.refused().contains("listener"));
}

#[test]
fn in_the_mount_namespace_of_the_host_it_has_its_own_root_and_leaves_nothing() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|namespace| namespace["type"] != "mount");
    bundle.config["root"]["readonly"] = true.into();
    bundle.config["linux"]["maskedPaths"] = json!(["/proc/version"]);
    // Relative ones are below the root.
    bundle.config["linux"]["readonlyPaths"] = json!(["tmp", "nosuch"]);
    bundle.mount(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs"}));
    bundle.mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
    let before = fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .count();
    bundle.sh("touch /data/file; touch /file; touch /tmp/file; wc -c < /proc/version; echo up; sleep 1000");
    bundle.start();
    bundle.wait_for_output("up");
    let output = bundle.output();
    assert_eq!(output.matches("Read-only file system").count(), 2, "{output}");
    assert!(output.contains("0\nup\n"), "{output}");
    let mounts = fs::read_link(format!("/proc/{}/ns/mnt", bundle.state()["pid"])).unwrap();
    assert_eq!(mounts, fs::read_link("/proc/self/ns/mnt").unwrap());
    let said = bundle.exec(&["ls", "/", "/data"]);
    assert!(said.code == 0 && said.out.ends_with("/data:\nfile\n"), "{said:?}");
    // Its root is among the mounts of the host as long as it is there.
    let root = bundle.path("rootfs");
    let seen = || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.contains(root.to_str().unwrap())
    };
    assert!(seen());
    bundle.delete();
    assert!(!seen());
    // Others know that it has to be taken away, and do.
    bundle.start();
    nix::mount::umount2(&root, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert!(!seen());
    bundle.delete();
    bundle.config["process"]["args"] = json!(["/no/such/program"]);
    bundle.refused();
    assert!(!seen());
    assert_eq!(
        fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .count(),
        before
    );
    bundle.namespace(json!({"type": "user"}));
    bundle.config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100000, "size": 1000}]);
    bundle.config["linux"]["gidMappings"] = bundle.config["linux"]["uidMappings"].clone();
    assert!(bundle.refused().contains("mount namespace of the host"));
}

#[test]
fn further_processes_run_on_the_processors_that_are_written() {
    let Some(mut bundle) = bundle() else { return };
    bundle.args(&["sleep", "1000"]);
    let allowed = |bundle: &Bundle| {
        let said = bundle.exec(&["grep", "Cpus_allowed_list", "/proc/self/status"]);
        assert_eq!(said.code, 0, "{said:?}");
        said.out.split_whitespace().last().unwrap().to_owned()
    };
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let own = own.unwrap().trim().to_owned();
    let (first, last) = (
        own.split(['-', ',']).next().unwrap(),
        own.rsplit(['-', ',']).next().unwrap(),
    );
    for (affinity, expected) in [
        (json!({"initial": first}), first),
        (json!({"initial": first, "final": last}), last),
        (json!({"final": own}), own.as_str()),
    ] {
        bundle.config["process"]["execCPUAffinity"] = affinity;
        bundle.start();
        assert_eq!(allowed(&bundle), expected);
        // Its first process is not meant.
        let status = fs::read_to_string(format!("/proc/{}/status", bundle.state()["pid"])).unwrap();
        assert!(
            status.contains(&format!("Cpus_allowed_list:\t{own}\n")),
            "{status}"
        );
        bundle.delete();
    }
    bundle.config["process"]["execCPUAffinity"] = json!({"initial": "0-x"});
    assert!(bundle.refused().contains("0-x"));
}

#[test]
fn memory_comes_from_the_nodes_that_are_written() {
    let Some(mut bundle) = bundle() else { return };
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        eprintln!("skipped: this kernel knows no memory nodes");
        return;
    }
    for (policy, expected) in [
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
        (json!({"mode": "MPOL_PREFERRED", "nodes": "0"}), "prefer:0"),
        (
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}),
            "bind=static:0",
        ),
        (json!({"mode": "MPOL_LOCAL"}), "local"),
    ] {
        bundle.config["linux"]["memoryPolicy"] = policy;
        let seen = bundle.prints("cut -d' ' -f2 /proc/self/numa_maps | sort -u");
        assert_eq!(seen, format!("{expected}\n"));
    }
    // A further process has it too.
    bundle.args(&["sleep", "1000"]);
    bundle.start();
    let said = bundle.exec(&["sh", "-c", "cut -d' ' -f2 /proc/self/numa_maps | sort -u"]);
    assert_eq!(said.out, "local\n", "{said:?}");
    bundle.delete();
    for (policy, words) in [
        (json!({"mode": "MPOL_BIND", "nodes": "1000"}), "memoryPolicy"),
        (json!({}), "invalid memory policy mode \"\""),
        (
            json!({"mode": "INTERLEAVE", "nodes": "0"}),
            "invalid memory policy mode \"INTERLEAVE\"",
        ),
        (
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["odd"]}),
            "invalid memory policy flag \"odd\"",
        ),
        (
            json!({"mode": "MPOL_BIND", "nodes": "0-9876543210"}),
            "invalid memory policy nodes \"0-9876543210\"",
        ),
        (
            json!({"mode": "MPOL_LOCAL", "nodes": "0-7"}),
            "requires 0 nodes but got 8",
        ),
        (json!({"mode": "MPOL_BIND"}), "requires at least one node"),
    ] {
        bundle.config["linux"]["memoryPolicy"] = policy;
        let refused = bundle.refused();
        assert!(refused.contains(words), "{refused}");
    }
}

#[test]
fn labels_without_their_security_module_are_refused() {
    let Some(mut bundle) = bundle() else { return };
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    for (field, module) in [("apparmorProfile", "apparmor"), ("selinuxLabel", "selinux")] {
        if modules.contains(module) {
            continue;
        }
        bundle.config["process"][field] = "label".into();
        let error = bundle.refused();
        assert!(error.contains(field) && error.contains(module), "{error}");
        bundle.config["process"].as_object_mut().unwrap().remove(field);
    }
}

#[test]
fn what_is_not_understood_or_not_done_is_refused() {
    let Some(mut bundle) = bundle() else { return };
    let good = bundle.config.clone();
    for (pointer, value, text) in [
        ("/ociVersion", json!("0.1.0"), "ociVersion"),
        ("/ociVersion", json!("nosuch"), "ociVersion"),
        ("/root/path", json!("nosuch"), "not a directory"),
        ("/process/cwd", json!("relative"), "working directory"),
        ("/process/args", json!([]), "command"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_TEST", "soft": 1, "hard": 1}]),
            "RLIMIT_TEST",
        ),
        ("/linux/intelRdt", json!({"closID": "x"}), "intelRdt"),
        ("/linux/namespaces", json!([{"type": "nosuch"}]), "nosuch"),
        ("/linux/cgroupsPath", json!("/"), "root of the hierarchy"),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_NOSUCH"}),
            "SCMP_ACT_NOSUCH",
        ),
        ("/hostname", json!(5), "invalid type"),
    ] {
        bundle.config = good.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        bundle.config.pointer_mut(parent).unwrap()[name] = value;
        let error = bundle.refused();
        assert!(error.contains(text), "{pointer}: {error}");
    }
}

#[test]
fn network_devices_are_moved_in_with_their_addresses() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["linux"]["netDevices"] = json!({"rca0": {"name": "eth7"}, "rcc0": {}});
    let script = "for d in eth7 rcc0; do ip -o addr show dev $d | grep -o 'inet6* [^ ]*'; \
        ip -o link show dev $d | grep -o ',UP'; done";
    std::os::unix::fs::symlink("busybox", bundle.path("rootfs/bin/ip")).unwrap();
    bundle.sh(script);
    bundle.save();
    let state = bundle.path("state");
    let line = format!(
        "ip link set lo up; ip link add rca0 type veth peer name rcb0; ip link add rcc0 type veth peer name rcd0; \
         ip addr add 192.0.2.5/24 dev rca0; ip addr add 2001:db8::5/64 dev rca0 nodad; \
         {} --root {} run --bundle {} {}; ip -o link | grep -c -E 'rca0|rcc0'",
        super::support::program(&bundle.path("")).display(),
        state.display(),
        bundle.path("").display(),
        bundle.id
    );
    let output = std::process::Command::new("unshare")
        .args(["--net", "sh", "-c", &line])
        .output()
        .unwrap();
    let said = super::support::said(output);
    assert_eq!(
        said.out, "inet 192.0.2.5/24\ninet6 2001:db8::5/64\n,UP\n,UP\n0\n",
        "{said:?}"
    );
    bundle.config["linux"]["netDevices"] = json!({"no-such": {}});
    assert!(bundle.refused().contains("device no-such"));
    bundle.config["linux"]["netDevices"] = json!({"lo": {"name": "a/b"}});
    assert!(bundle.refused().contains("netDevices"));
}

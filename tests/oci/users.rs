//! User namespaces.

use std::fs;

use serde_json::json;

use super::support::{Bundle, Elsewhere, bundle};

pub(crate) fn mapped(bundle: &mut Bundle) {
    bundle.namespace(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    bundle.config["linux"]["uidMappings"] = map.clone();
    bundle.config["linux"]["gidMappings"] = map;
    for place in ["", "data", "dev", "proc", "sys"] {
        std::os::unix::fs::chown(bundle.path("rootfs").join(place), Some(100_000), Some(100_000)).unwrap();
    }
    // The temporary folder is private to root.
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(bundle.path(""), fs::Permissions::from_mode(0o711)).unwrap();
}

#[test]
fn its_root_is_nobody_outside() {
    let Some(mut bundle) = bundle() else { return };
    mapped(&mut bundle);
    let secret = bundle.path("source");
    fs::write(&secret, "bound\n").unwrap();
    bundle
        .mount(json!({"destination": "/data/bound", "type": "bind", "source": secret, "options": ["bind"]}));
    bundle.config["linux"]["devices"] = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]);
    let said = bundle.prints(
        "cat /proc/self/uid_map; id -u; touch /data/mine; cat /data/bound; echo x > /dev/null && echo null; \
         test -c /dev/kmsg && echo kmsg",
    );
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(
        words,
        ["0", "100000", "1000", "0", "bound", "null", "kmsg"],
        "{said}"
    );
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(
        fs::metadata(bundle.path("rootfs/data/mine")).unwrap().uid(),
        100_000
    );
}

#[test]
fn exec_and_a_second_container_join_it() {
    let Some(mut first) = bundle() else { return };
    mapped(&mut first);
    first.args(&["sleep", "1000"]);
    first.start();
    let said = first.exec(&["sh", "-c", "id -u; cat /proc/self/uid_map; touch /data/x"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("100000"), "{said:?}");
    let pid = first.state()["pid"].clone();
    let mut second = bundle().unwrap();
    mapped(&mut second);
    for (name, kind) in [("user", "user"), ("net", "network"), ("pid", "pid")] {
        second.namespace(json!({"type": kind, "path": format!("/proc/{pid}/ns/{name}")}));
    }
    let said =
        second.prints("readlink /proc/self/ns/user; ps | grep -c 'sleep 1000'; cat /proc/self/uid_map");
    let user = fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert!(
        said.contains(user.to_str().unwrap()) && said.contains("100000"),
        "{said}"
    );
    // Its number is that of the host, wherever it was made.
    second.args(&["sleep", "2000"]);
    second.start();
    let command = fs::read_to_string(format!("/proc/{}/cmdline", second.state()["pid"])).unwrap();
    assert_eq!(command, "sleep\x002000\0");
    assert_eq!(second.exec(&["true"]).code, 0);
    second.delete();
    first.delete();
}

#[test]
fn namespaces_are_joined_whoever_owns_them() {
    let Some(mut first) = bundle() else { return };
    mapped(&mut first);
    first.namespace(json!({"type": "time"}));
    first.config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 7777}});
    first.args(&["sleep", "1000"]);
    first.start();
    let pid = first.state()["pid"].clone();
    // A fresh time namespace is the host's root's.
    let mut second = bundle().unwrap();
    mapped(&mut second);
    second.config["linux"]
        .as_object_mut()
        .unwrap()
        .remove("uidMappings");
    second.config["linux"]
        .as_object_mut()
        .unwrap()
        .remove("gidMappings");
    for name in ["user", "time"] {
        second.namespace(json!({"type": name, "path": format!("/proc/{pid}/ns/{name}")}));
    }
    let said = second.prints("cat /proc/self/timens_offsets");
    assert!(said.contains("7777"), "{said}");
    // Nor is it from inside of the first that another process is looked at.
    let other = Elsewhere::new(&["--net"]);
    let path = format!("/proc/{}/ns/net", other.pid());
    let theirs = fs::read_link(&path).unwrap();
    second.namespace(json!({"type": "network", "path": path}));
    // A sysfs shows the network that it is made in, which must be one's own.
    let mounts = second.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["type"] != "sysfs");
    assert_eq!(
        second.prints("readlink /proc/self/ns/net").trim(),
        theirs.to_str().unwrap()
    );
    first.delete();
}

#[test]
fn devices_are_what_is_written_and_not_the_hosts() {
    let Some(mut bundle) = bundle() else { return };
    mapped(&mut bundle);
    // Somewhere else than on the host, and as somebody else's.
    bundle.config["linux"]["devices"] = json!([
        {"path": "/dev/other", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 10, "gid": 11}]);
    bundle.config["linux"]["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
    assert_eq!(
        bundle.prints("stat -c '%F %t:%T %u:%g %a' /dev/other; head -c 3 /dev/other | wc -c"),
        "character special file 1:5 10:11 640\n3\n"
    );
    let mounts = bundle.prints("grep -e ' /dev/null ' -e ' /dev/other ' /proc/self/mountinfo");
    assert_eq!(mounts.lines().count(), 2);
    for line in mounts.lines() {
        let options = line.split(' ').nth(5).unwrap();
        assert!(options.contains("nosuid") && options.contains("noexec"), "{line}");
    }
}

#[test]
fn mounts_are_mapped_like_the_container() {
    let Some(mut bundle) = bundle() else { return };
    mapped(&mut bundle);
    fs::create_dir(bundle.path("source")).unwrap();
    fs::write(bundle.path("source/file"), "").unwrap();
    bundle.mount(json!({"destination": "/data", "type": "bind", "source": bundle.path("source"), "options": ["rbind", "idmap"]}));
    assert_eq!(bundle.prints("stat -c %u /data/file"), "0\n");
}

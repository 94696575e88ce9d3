//! Hooks: order, namespaces, state, failures.

use std::fs;

use serde_json::{Value, json};

use super::support::bundle;

fn hook(script: &str) -> Value {
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/bin"]}])
}

#[test]
fn they_run_in_order_where_they_belong_with_the_state() {
    let Some(mut bundle) = bundle() else { return };
    let log = bundle.path("log");
    let outside = |name: &str| {
        let script = format!(
            "s=$(cat); echo {name} $(echo \"$s\" | grep -o '\"status\":\"[a-z]*\"') $(readlink /proc/self/ns/mnt) >> {}",
            log.display()
        );
        hook(&script)
    };
    bundle.config["hooks"] = json!({
        "prestart": outside("prestart"),
        "createRuntime": outside("createRuntime"),
        "createContainer": outside("createContainer"),
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "cat > /data/start"], "env": ["PATH=/bin"]}],
        "poststart": outside("poststart"),
        "poststop": outside("poststop"),
    });
    bundle.args(&["sleep", "1000"]);
    bundle.create();
    assert!(!bundle.path("rootfs/data/start").exists());
    let inside = fs::read_link(format!("/proc/{}/ns/mnt", bundle.state()["pid"])).unwrap();
    bundle.ok(&["start", &bundle.id]);
    let state: Value =
        serde_json::from_str(&fs::read_to_string(bundle.path("rootfs/data/start")).unwrap()).unwrap();
    assert_eq!(state["id"], bundle.id);
    assert_eq!(state["status"], "created");
    assert_eq!(state["pid"], bundle.state()["pid"]);
    bundle.delete();
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    let (own, inside) = (own.display(), inside.display());
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        format!(
            "prestart \"status\":\"created\" {own}\ncreateRuntime \"status\":\"created\" {own}\n\
             createContainer \"status\":\"created\" {inside}\npoststart \"status\":\"running\" {own}\n\
             poststop \"status\":\"stopped\" {own}\n"
        )
    );
}

#[test]
fn one_that_makes_the_container_is_in_its_root() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["hooks"] = json!({"createContainer": hook("pwd > data/place")});
    assert_eq!(
        bundle.prints("cat /data/place").trim(),
        bundle.path("rootfs").to_str().unwrap()
    );
}

#[test]
fn one_that_fails_before_the_start_ends_the_container() {
    let Some(mut bundle) = bundle() else { return };
    for kind in ["prestart", "createRuntime", "createContainer"] {
        bundle.config["hooks"] = json!({kind: hook("echo no luck >&2; exit 3")});
        bundle.sh("touch /data/ran");
        let error = bundle.refused();
        assert!(error.contains(kind) && error.contains("no luck"), "{error}");
    }
    let after = bundle.path("after");
    let touch = json!([{"path": "/bin/touch", "args": ["touch", after]}]);
    bundle.config["hooks"] = json!({"startContainer": [{"path": "/bin/false"}], "poststart": touch});
    bundle.create();
    let said = bundle.call(&["start", &bundle.id]);
    assert!(said.code == 1 && said.err.contains("startContainer"), "{said:?}");
    bundle.wait_for("stopped");
    assert!(!bundle.path("rootfs/data/ran").exists());
    // To the runtimes before us it has been started.
    assert!(bundle.path("after").exists());
    bundle.delete();
}

/// What they execute is the container's: it may do what the program may.
#[test]
fn one_that_is_inside_is_under_the_filter() {
    let Some(mut bundle) = bundle() else { return };
    let seccomp = |action: &str| {
        json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": action}]})
    };
    bundle.config["linux"]["seccomp"] = seccomp("SCMP_ACT_ERRNO");
    bundle.config["hooks"] = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c",
        "mkdir /data/made; grep -E 'Seccomp:|CapEff' /proc/self/status > /data/status"]}]});
    let seen = bundle.prints("cat /data/status; ls -d /data/made 2>/dev/null || echo none");
    assert_eq!(seen, "CapEff:\t00000000080420eb\nSeccomp:\t2\nnone\n");
    bundle.config["linux"]["seccomp"] = seccomp("SCMP_ACT_KILL_PROCESS");
    bundle.config["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    bundle.config["hooks"]["startContainer"][0]["args"][2] = "exec mkdir /data/made".into();
    bundle.create();
    let said = bundle.call(&["start", &bundle.id]);
    assert!(
        said.code == 1
            && said.err.contains("error running startContainer hook")
            && said.err.contains("bad system call"),
        "{said:?}"
    );
    bundle.wait_for("stopped");
    bundle.delete();
}

#[test]
fn one_that_fails_after_the_start_ends_the_container_too() {
    let Some(mut bundle) = bundle() else { return };
    bundle.config["hooks"] = json!({
        "poststart": [hook("echo no luck >&2; exit 3")[0], hook("touch next")[0]],
        "poststop": hook("touch stopped"),
    });
    bundle.args(&["sleep", "1000"]);
    for detach in [true, false] {
        let said = if detach {
            bundle.create();
            bundle.call(&["start", &bundle.id])
        } else {
            bundle.save();
            bundle.call(&["run", &bundle.id])
        };
        assert_eq!(said.code, 1, "{said:?}");
        assert!(
            said.err.contains("poststart") && said.err.contains("no luck"),
            "{said:?}"
        );
        let said = bundle.call(&["state", &bundle.id]);
        assert!(said.err.contains("does not exist"), "{said:?}");
        assert!(bundle.cgroups().is_empty());
        assert!(!bundle.path("next").exists());
        fs::remove_file(bundle.path("stopped")).unwrap();
    }
}

#[test]
fn one_that_fails_after_the_end_is_a_warning_and_the_next_runs() {
    let Some(mut bundle) = bundle() else { return };
    let list = [hook("exit 3")[0].clone(), hook("echo ran >> after")[0].clone()];
    bundle.config["hooks"] = json!({"poststop": list});
    bundle.create();
    bundle.ok(&["--log", "log", "delete", "--force", &bundle.id]);
    let log = fs::read_to_string(bundle.path("log")).unwrap();
    assert!(log.contains("level=warning") && log.contains("poststop"), "{log}");
    // Without a log it is said.
    let said = bundle.run();
    assert!(
        said.code == 0 && said.err.contains("warning: error running poststop hook #0"),
        "{said:?}"
    );
    assert_eq!(fs::read_to_string(bundle.path("after")).unwrap(), "ran\nran\n");
}

#[test]
fn one_that_names_no_environment_has_that_of_who_runs_it() {
    let Some(mut bundle) = bundle() else { return };
    let write = |name: &str, place: &str| json!({"path": "/bin/sh", "args": ["sh", "-c", format!("echo ${name} > {place}")]});
    let mut none = write("FROM_CALLER", "none");
    none["env"] = json!([]);
    bundle.config["process"]["env"] = json!(["PATH=/bin", "OF_PROGRAM=yes"]);
    bundle.config["hooks"] = json!({
        "createRuntime": [write("FROM_CALLER", "caller"), none],
        "startContainer": [write("OF_PROGRAM", "/data/program")],
    });
    bundle.save();
    let status = bundle
        .command(&["run", &bundle.id])
        .env("FROM_CALLER", "yes")
        .status()
        .unwrap();
    assert!(status.success());
    let read = |name: &str| fs::read_to_string(bundle.path(name)).unwrap();
    assert_eq!(
        (read("caller"), read("none"), read("rootfs/data/program")),
        ("yes\n".into(), "\n".into(), "yes\n".into())
    );
}

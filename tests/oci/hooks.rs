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
            "prestart \"status\":\"creating\" {own}\ncreateRuntime \"status\":\"creating\" {own}\n\
             createContainer \"status\":\"creating\" {inside}\npoststart \"status\":\"running\" {own}\n\
             poststop \"status\":\"stopped\" {own}\n"
        )
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
    bundle.config["hooks"] = json!({"startContainer": [{"path": "/bin/false"}]});
    bundle.create();
    let said = bundle.call(&["start", &bundle.id]);
    assert!(said.code == 1 && said.err.contains("startContainer"), "{said:?}");
    bundle.wait_for("stopped");
    assert!(!bundle.path("rootfs/data/ran").exists());
    bundle.delete();
}

#[test]
fn one_that_fails_later_is_logged_and_the_next_runs() {
    let Some(mut bundle) = bundle() else { return };
    let after = bundle.path("after");
    let mut list = hook("exit 3");
    list.as_array_mut().unwrap().extend(
        hook(&format!("echo ran >> {}", after.display()))
            .as_array()
            .unwrap()
            .clone(),
    );
    bundle.config["hooks"] = json!({"poststart": list, "poststop": list});
    bundle.args(&["sleep", "1000"]);
    bundle.create();
    bundle.ok(&["--log", "log", "start", &bundle.id]);
    bundle.ok(&["--log", "log", "delete", "--force", &bundle.id]);
    assert_eq!(fs::read_to_string(&after).unwrap(), "ran\nran\n");
    let log = fs::read_to_string(bundle.path("log")).unwrap();
    assert!(log.contains("poststart") && log.contains("poststop"), "{log}");
}

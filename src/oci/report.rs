//! What is printed: `state`, `list`, `ps`, `features`, `spec`, `version`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::arguments::Invocation;
use super::container::{Container, Status, all, root};
use super::error::OciError;
use super::print;
use crate::runtime::{Settings, bundle, capability, default_spec, seccomp};

/// The version of the OCI runtime spec we follow.
pub(super) const SPEC_VERSION: &str = "1.3.0";

fn describe(container: &Container) -> Value {
    let record = &container.record;
    let mut value = json!({
        "ociVersion": record.state.version(),
        "id": record.state.id(),
        "pid": container.pid(),
        "status": container.status.name(),
        "bundle": record.state.bundle(),
        "rootfs": record.rootfs,
        "created": record.created,
        "creator": record.owner,
    });
    if let (Some(annotations), Some(object)) = (record.state.annotations(), value.as_object_mut()) {
        let annotations: std::collections::BTreeMap<_, _> = annotations.iter().collect();
        object.insert("annotations".into(), json!(annotations));
    }
    if let Some(object) = value.as_object_mut() {
        object.insert("owner".into(), json!(owner(record.owner)));
    }
    value
}

/// The name of a user of the host; from its file, not from plugins of libc.
fn owner(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
        .unwrap_or_else(|| uid.to_string())
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// `state`.
pub(super) fn state(invocation: &Invocation) -> Result<i32, OciError> {
    let container = Container::named(invocation)?;
    if container.status == Status::Creating {
        // As with the runtimes before us it is there once it has a process: who asks
        // again and again waits for that.
        return Err(OciError::Missing(container.folder.id));
    }
    print(&pretty(&describe(&container)))?;
    Ok(0)
}

/// `list`.
pub(super) fn list(invocation: &Invocation) -> Result<i32, OciError> {
    let root = root(invocation);
    if invocation.value("root").is_some() {
        // A folder that was named is there, or named wrongly.
        fs::metadata(&root).map_err(OciError::io("open", root.display().to_string()))?;
    }
    let containers = all(&root);
    if invocation.has("quiet") {
        print(
            &containers
                .iter()
                .map(|one| format!("{}\n", one.folder.id))
                .collect::<String>(),
        )?;
        return Ok(0);
    }
    match invocation.value("format").unwrap_or("table") {
        "json" => {
            let list: Vec<Value> = containers.iter().map(describe).collect();
            print(&(Value::from(list).to_string() + "\n"))?;
        }
        "table" => {
            let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
            rows.extend(containers.iter().map(|one| {
                [
                    one.folder.id.clone(),
                    one.pid().to_string(),
                    one.status.name().to_owned(),
                    one.record.state.bundle().display().to_string(),
                    one.record.created.clone(),
                    owner(one.record.owner),
                ]
            }));
            print(&table(&rows))?;
        }
        other => return Err(OciError::Usage(format!("invalid format {other:?}"))),
    }
    Ok(0)
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("   ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// `ps`: the processes of a container, as numbers or as a table.
pub(super) fn ps(invocation: &Invocation) -> Result<i32, OciError> {
    let container = Container::named(invocation)?;
    let processes = container.cgroup.processes();
    match invocation.value("format").unwrap_or("table") {
        "json" => print(&(json!(processes).to_string() + "\n"))?,
        "table" => {
            let options = invocation.positional.get(1..).unwrap_or_default();
            if !matches!(options, [] | [_]) || options.iter().any(|option| option != "-ef") {
                print(&listed(options, &processes)?)?;
                return Ok(0);
            }
            let head = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
            let mut rows = vec![head.map(str::to_owned)];
            rows.extend(processes.into_iter().filter_map(row));
            print(&table(&rows))?;
        }
        other => return Err(OciError::Usage(format!("invalid format {other:?}"))),
    }
    Ok(0)
}

/// What the host's `ps` says of these processes with such options: its first line,
/// and those with one of the numbers below the word PID.
fn listed(options: &[String], processes: &[u32]) -> Result<String, OciError> {
    let failed = |reason: String| OciError::Usage(format!("ps {}: {reason}", options.join(" ")));
    let said = std::process::Command::new("ps")
        .args(options)
        .output()
        .map_err(|error| failed(crate::runtime::describe(&error)))?;
    if !said.status.success() {
        return Err(failed(String::from_utf8_lossy(&said.stderr).trim().to_owned()));
    }
    let text = String::from_utf8_lossy(&said.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let at = head
        .split_whitespace()
        .position(|title| title == "PID")
        .ok_or_else(|| failed("it shows no PID".into()))?;
    let ours = |line: &&str| {
        let number = line.split_whitespace().nth(at).and_then(|word| word.parse().ok());
        number.is_some_and(|number| processes.contains(&number))
    };
    Ok(std::iter::once(head)
        .chain(lines.filter(ours))
        .map(|line| format!("{line}\n"))
        .collect())
}

/// A process as `ps -ef` shows it; read from the host's side.
fn row(pid: u32) -> Option<[String; 8]> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let stat = read("stat")?;
    let (head, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|field| field.parse::<u64>().ok())
            .unwrap_or(0)
    };
    // USER_HZ is 100 wherever Linux runs.
    let seconds = (ticks(11) + ticks(12)) / 100;
    let (begun, usage) = since(ticks(19) / 100, seconds);
    // Minor numbers are in two parts (proc(5)).
    let terminal = ticks(4);
    let minor = (terminal & 0xff) | ((terminal >> 12) & 0xf_ff00);
    let terminal = match (terminal >> 8) & 0xfff {
        major @ 136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        _ => "?".to_owned(),
    };
    let status = read("status")?;
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()?;
    let command = read("cmdline")?.trim_end_matches('\0').replace('\0', " ");
    let command = if command.is_empty() {
        format!("[{}]", head.split_once('(').map_or("", |(_, name)| name))
    } else {
        command
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    Some([
        owner(uid),
        pid.to_string(),
        (*fields.get(1)?).to_owned(),
        usage.to_string(),
        begun,
        terminal,
        format!("{hours:02}:{:02}:{:02}", minutes % 60, seconds % 60),
        command,
    ])
}

/// When a process began that did so some seconds after the machine, and how much
/// of a processor it has used since, in hundredths.
fn since(after_boot: u64, used: u64) -> (String, u64) {
    let up = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let up = up.split('.').next().and_then(|text| text.parse::<u64>().ok());
    let age = up.unwrap_or(after_boot).saturating_sub(after_boot);
    let usage = (used * 100).checked_div(age).unwrap_or(0).min(99);
    let now = jiff::Zoned::now();
    let age = jiff::Span::new().try_seconds(i64::try_from(age).unwrap_or(0));
    let begun = age.and_then(|age| now.checked_sub(age)).unwrap_or(now.clone());
    let form = if begun.date() == now.date() {
        "%H:%M"
    } else {
        "%b%d"
    };
    (begun.strftime(form).to_string(), usage)
}

/// `version`.
pub(super) fn version() -> Result<i32, OciError> {
    print(&format!(
        "rcompose-oci version {}\nspec: {SPEC_VERSION}\n",
        env!("CARGO_PKG_VERSION")
    ))?;
    Ok(0)
}

/// `features`: what this runtime can do, whatever the machine.
pub(super) fn features() -> Result<i32, OciError> {
    let capabilities: Vec<String> = capability::names(capability::ALL)
        .map(|name| format!("CAP_{name}"))
        .collect();
    let value = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
                ],
                "archs": seccomp::architectures(),
                "knownFlags": SECCOMP_FLAGS,
                "supportedFlags": SECCOMP_FLAGS,
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": false},
            "memoryPolicy": {
                "modes": [
                    "MPOL_DEFAULT", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_WEIGHTED_INTERLEAVE", "MPOL_PREFERRED",
                    "MPOL_PREFERRED_MANY", "MPOL_LOCAL",
                ],
                "flags": ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"],
            },
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
        "annotations": {"org.opencontainers.runtime.creator": "rcompose"},
        "potentiallyUnsafeConfigAnnotations": bundle::ANNOTATIONS,
    });
    print(&pretty(&value))?;
    Ok(0)
}

const SECCOMP_FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

const MOUNT_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "copy-symlink",
    "defaults",
    "dest-nofollow",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "src-nofollow",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// `spec`: a configuration to begin with.
pub(super) fn spec(invocation: &Invocation) -> Result<i32, OciError> {
    let path = Path::new(invocation.value("bundle").unwrap_or(".")).join("config.json");
    let failed = || OciError::io("write", path.display().to_string());
    if path.exists() {
        return Err(OciError::Exists(path.display().to_string()));
    }
    // What the runtimes before us write, which callers change from there.
    let settings = Settings {
        args: vec!["sh".into()],
        tty: true,
        host_cgroup: !is_unified(),
        host_network: true,
        cap_drop: vec!["ALL".into()],
        cap_add: ["AUDIT_WRITE", "KILL", "NET_BIND_SERVICE"].map(Into::into).into(),
        ulimits: [("nofile".to_owned(), (1024, 1024))].into(),
        security_opt: vec!["no-new-privileges".into()],
        ..Settings::default()
    };
    let (mut spec, _) = default_spec(&settings).map_err(crate::runtime::RuntimeError::from)?;
    spec.set_version(SPEC_VERSION.into());
    let mut value = serde_json::to_value(&spec).map_err(|error| failed()(error.into()))?;
    if let Some(object) = value.as_object_mut() {
        object.insert("root".into(), json!({"path": "rootfs", "readonly": true}));
        object.insert("hostname".into(), json!("rcompose"));
        if let Some(linux) = object.get_mut("linux").and_then(Value::as_object_mut) {
            linux.remove("devices");
            linux.remove("sysctl");
            linux.insert(
                "resources".into(),
                json!({"devices": [{"allow": false, "access": "rwm"}]}),
            );
            if let Some(list) = linux.get_mut("namespaces").and_then(Value::as_array_mut) {
                list.push(json!({"type": "network"}));
            }
        }
        if invocation.has("rootless") {
            rootless(object);
        }
    }
    fs::write(&path, pretty(&value)).map_err(failed())?;
    Ok(0)
}

/// Whether all cgroups are version 2's.
fn is_unified() -> bool {
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|found| found.f_type == libc::CGROUP2_SUPER_MAGIC)
}

/// Turns a configuration into one for the user who asks for it.
fn rootless(spec: &mut serde_json::Map<String, Value>) {
    let Some(linux) = spec.get_mut("linux").and_then(Value::as_object_mut) else {
        return;
    };
    linux.remove("resources");
    if let Some(list) = linux.get_mut("namespaces").and_then(Value::as_array_mut) {
        list.push(json!({"type": "user"}));
    }
    let mapping = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    linux.insert("uidMappings".into(), mapping(rustix::process::geteuid().as_raw()));
    linux.insert("gidMappings".into(), mapping(rustix::process::getegid().as_raw()));
    if let Some(mounts) = spec.get_mut("mounts").and_then(Value::as_array_mut) {
        for options in mounts
            .iter_mut()
            .filter_map(|mount| mount.get_mut("options")?.as_array_mut())
        {
            // Groups that are not mapped.
            options.retain(|option| option.as_str().is_none_or(|text| !text.starts_with("gid=")));
        }
    }
}

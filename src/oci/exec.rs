//! `exec`: a further process in a container.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process};

use super::arguments::Invocation;
use super::container::{Container, Status};
use super::create::{as_others_take_it, hand_out, not_granted, preserved};
use super::error::OciError;
use super::log::Log;
use super::{terminal, wait};
use crate::runtime::bundle::{self, BundleExec};
use crate::runtime::capability;
use crate::runtime::cgroup::Below;
use crate::sys::process as own;

/// `exec`.
pub(super) fn exec(invocation: &Invocation, log: &Log) -> Result<i32, OciError> {
    let container = Container::named(invocation)?;
    container.folder.is_made()?;
    match container.status {
        Status::Running | Status::Created => {}
        Status::Paused if invocation.has("ignore-paused") => {}
        Status::Paused => {
            return Err(OciError::Usage(
                "cannot exec in a paused container (use --ignore-paused to override)".into(),
            ));
        }
        Status::Stopped => return Err(OciError::Usage("cannot exec in a stopped container".into())),
        Status::Creating => return Err(container.wrong_status("exec in")),
    }
    let Some(target) = &container.process else {
        return Err(OciError::NotRunning);
    };
    let process = process(&container, invocation, log)?;
    if ["process", "cap"].iter().any(|name| invocation.has(name)) {
        // What the container's own process lacks was told when it was made.
        let own_users = container.record.fixed.namespaces & libc::CLONE_NEWUSER != 0;
        for warning in not_granted(&process, own_users) {
            log.warn_aloud(&warning);
        }
    }
    let affinity = process.exec_cpu_affinity().as_ref();
    if let Some(list) = affinity.and_then(|affinity| affinity.initial().as_deref()) {
        let processors = bundle::processors(list).map_err(crate::runtime::RuntimeError::from)?;
        let mask = mask(&processors);
        log.debug(&format!("until it runs its program, CPU affinity: {mask}"));
    }
    let detach = invocation.has("detach");
    let has_terminal = process.terminal() == Some(true);
    let socket = invocation.value("console-socket").filter(|path| !path.is_empty());
    match (socket, has_terminal) {
        (None, true) if detach => {
            return Err(OciError::Usage(
                "cannot allocate tty if rcompose-oci will detach without setting console socket".into(),
            ));
        }
        (Some(_), false) => {
            return Err(OciError::Usage(
                "cannot use console socket if rcompose-oci will not detach or allocate tty".into(),
            ));
        }
        _ => {}
    }
    let below: Vec<Below> = invocation
        .values("cgroup")
        .map(cgroup_below)
        .collect::<Result<_, _>>()?;
    if !detach {
        own::become_subreaper().map_err(OciError::io("become subreaper of", &container.folder.id))?;
    }
    let made = bundle::exec(BundleExec {
        target,
        fixed: &container.record.fixed,
        process: &process,
        below: &below,
        preserved: preserved(invocation)?,
        relayed: socket.is_none() && !detach,
        state: container.state(),
    })?;
    let pid = made.init.id().pid;
    log.debug(&format!(
        "container {} has further process {pid}",
        container.folder.id
    ));
    for warning in &made.warnings {
        log.warn(warning);
    }
    let go_on = || -> Result<(), OciError> {
        if let (Some(socket), Some(master)) = (socket, &made.terminal) {
            terminal::send(Path::new(socket), master.as_fd())?;
        }
        hand_out(invocation, None, &made.init)
    };
    if let Err(error) = go_on() {
        let _ = made.init.signal(libc::SIGKILL);
        let _ = made.init.wait();
        return Err(error);
    }
    if detach {
        return Ok(0);
    }
    wait::until_end(&made.init, made.terminal.filter(|_| socket.is_none()), None)
}

/// Processors as a number in which each is a bit.
fn mask(processors: &[u32]) -> String {
    let digits = processors.iter().max().map_or(1, |last| last / 4 + 1);
    let digit = |at: u32| {
        let bits = processors.iter().filter(|one| *one / 4 == at);
        let value = bits.fold(0, |all, one| all | 1 << (one % 4));
        char::from_digit(value, 16).unwrap_or('0')
    };
    std::iter::once("0x".to_owned())
        .chain((0..digits).rev().map(|at| digit(at).to_string()))
        .collect()
}

/// `[CONTROLLER[,CONTROLLER...]:]PATH`, below the container's cgroup.
fn cgroup_below(text: &str) -> Result<Below, OciError> {
    let (controllers, path) = text.split_once(':').unwrap_or(("", text));
    let path = Path::new(path.trim_matches('/'));
    if path.components().any(|part| part == Component::ParentDir) {
        // The words of the runtimes before us.
        return Err(OciError::Usage(format!(
            "bad sub cgroup path {text:?}: `..` components are not allowed"
        )));
    }
    let path: PathBuf = path
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect();
    let controllers = controllers.split(',').filter(|name| !name.is_empty());
    Ok(Below {
        controllers: controllers.map(str::to_owned).collect(),
        path,
    })
}

/// The process: a file's, or the container's with what the options change.
fn process(container: &Container, invocation: &Invocation, log: &Log) -> Result<Process, OciError> {
    if let Some(path) = invocation.value("process") {
        let wrong = |error: serde_json::Error| OciError::Config {
            subject: path.to_owned(),
            reason: error.to_string(),
        };
        let bytes = fs::read(path).map_err(OciError::io("open", path))?;
        let mut value: serde_json::Value = serde_json::from_slice(&bytes).map_err(wrong)?;
        for warning in as_others_take_it(&mut value) {
            log.warn_aloud(&warning);
        }
        return serde_json::from_value(value).map_err(wrong);
    }
    let args = invocation.positional.get(1..).unwrap_or_default();
    if args.is_empty() {
        return Err(OciError::Usage("exec: process args cannot be empty".into()));
    }
    let mut process = container.record.process.clone();
    process.set_args(Some(args.to_vec()));
    process.set_terminal(Some(invocation.has("tty")));
    if let Some(cwd) = invocation.value("cwd") {
        process.set_cwd(cwd.into());
    }
    let env = process.env_mut().get_or_insert_with(Vec::new);
    for entry in invocation.values("env") {
        let name = |entry: &str| entry.split_once('=').map(|(name, _)| name.to_owned());
        env.retain(|known| name(known) != name(entry));
        env.push(entry.to_owned());
    }
    if let Some(user) = invocation.value("user") {
        let (uid, gid) = numbers(user)?;
        process.user_mut().set_uid(uid);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
    }
    let mut groups = Vec::new();
    for group in invocation.values("additional-gids") {
        groups.push(number(group)?);
    }
    if !groups.is_empty() {
        process
            .user_mut()
            .additional_gids_mut()
            .get_or_insert_with(Vec::new)
            .extend(groups);
    }
    if invocation.has("no-new-privs") {
        process.set_no_new_privileges(Some(true));
    } else if invocation.denies("no-new-privs") {
        process.set_no_new_privileges(Some(false));
    }
    if let Some(profile) = invocation.value("apparmor") {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if let Some(label) = invocation.value("process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    let mut added = Capabilities::new();
    for name in invocation.values("cap") {
        let known = capability::bit(name).is_some();
        let plain = name.to_ascii_uppercase();
        let plain = plain.strip_prefix("CAP_").unwrap_or(&plain);
        match plain.parse::<Capability>() {
            Ok(capability) if known => {
                added.insert(capability);
            }
            _ => return Err(OciError::Usage(format!("unknown capability {name:?}"))),
        }
    }
    if !added.is_empty() {
        let mut sets = process.capabilities().clone().unwrap_or_else(|| {
            // The crate's default has capabilities of its own.
            let mut none = LinuxCapabilities::default();
            none.set_bounding(None);
            none.set_effective(None);
            none.set_permitted(None);
            none.set_inheritable(None);
            none.set_ambient(None);
            none
        });
        let with = |set: &Option<Capabilities>| {
            let mut all = set.clone().unwrap_or_default();
            all.extend(added.iter().copied());
            Some(all)
        };
        if sets.inheritable().as_ref().is_some_and(|set| !set.is_empty()) {
            // What is not inheritable cannot be ambient.
            let ambient = with(sets.ambient());
            sets.set_ambient(ambient);
        }
        let (bounding, effective) = (with(sets.bounding()), with(sets.effective()));
        let permitted = with(sets.permitted());
        sets.set_bounding(bounding);
        sets.set_effective(effective);
        sets.set_permitted(permitted);
        process.set_capabilities(Some(sets));
    }
    Ok(process)
}

/// `uid[:gid]`, plain decimal numbers.
///
/// # Errors
/// Anything else: no sign, no name, no `0x`, nothing out of range.
pub(super) fn numbers(user: &str) -> Result<(u32, Option<u32>), OciError> {
    match user.split_once(':') {
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
        None => Ok((number(user)?, None)),
    }
}

fn number(text: &str) -> Result<u32, OciError> {
    let wrong = || OciError::Usage(format!("user or group {text:?} is not a number in range"));
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    // The largest means "do not change" to the kernel.
    text.parse()
        .ok()
        .filter(|number| *number <= i32::MAX.cast_unsigned())
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_bits() {
        assert_eq!(mask(&[0]), "0x1");
        assert_eq!(mask(&[1, 0, 1]), "0x3");
        assert_eq!(mask(&[4, 9]), "0x210");
        assert_eq!(mask(&[]), "0x0");
    }

    #[test]
    fn a_cgroup_below_is_a_plain_path() {
        let below = |text| {
            cgroup_below(text)
                .map(|below| below.path)
                .map_err(|error| error.to_string())
        };
        assert_eq!(below("a/b").unwrap(), Path::new("a/b"));
        assert_eq!(below("cpu,pids:/./a/").unwrap(), Path::new("a"));
        assert_eq!(below("/").unwrap(), Path::new(""));
        for wrong in ["../a", "./../a", "a/..", "a/../../b", "pids:.."] {
            assert!(below(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn users_are_numbers_and_nothing_else() {
        assert_eq!(numbers("0").unwrap(), (0, None));
        assert_eq!(numbers("1000:5").unwrap(), (1000, Some(5)));
        assert_eq!(numbers("2147483647").unwrap().0, 2_147_483_647);
        for wrong in [
            "",
            ":",
            "1000:",
            ":5",
            "root",
            "0x0",
            "0abc",
            "-1",
            "+1",
            " 1",
            "4294967295",
            "4294967296",
            "2147483648",
            "1:2:3",
            "18446744073709551616",
        ] {
            assert!(numbers(wrong).is_err(), "{wrong:?}");
        }
    }
}

//! What fuzz targets do with an input: `fuzz/` calls these, and so does
//! `tests/fuzz.rs`. None of it touches the machine.

use std::collections::BTreeMap;

use oci_spec::runtime::Spec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ProcessPlan;
use super::blueprint::{Blueprint, process_plan};
use super::cgroup::Cgroup;
use super::init::report::Report;
use super::order::{Answer, MonitorOrder};
use super::request::Rootfs;
use super::seccomp::{SeccompPolicy, program, read_profile};

/// A text as the configuration of a bundle: it is understood or refused, and
/// what was understood says so twice.
pub fn specification(text: &str) {
    let _ = read_profile(text, 0);
    let Ok(spec) = serde_json::from_str::<Spec>(text) else {
        return;
    };
    let rootfs = Rootfs::Directory {
        path: "/nowhere".into(),
        readonly: false,
    };
    let process = match spec.process().as_ref().map(process_plan) {
        Some(Ok(process)) => process,
        _ => ProcessPlan::default(),
    };
    if let Ok(blueprint) = Blueprint::of_spec(&spec, &rootfs, process, &BTreeMap::new(), false) {
        same_again(&blueprint);
    }
    if let Some(linux) = spec.linux() {
        let profile = linux.seccomp().as_ref();
        let _ = program(SeccompPolicy::Spec, profile, 0);
        if let Some(resources) = linux.resources() {
            // No hierarchy: all that is asked for becomes a warning.
            let _ = Cgroup::default().update(Some(resources), true);
        }
    }
}

/// A text as each of the messages between our processes.
pub fn message(text: &str) {
    let bytes = text.as_bytes();
    again::<Report>(bytes);
    again::<Answer>(bytes);
    again::<MonitorOrder>(bytes);
    again::<Blueprint>(bytes);
}

/// A text as a wanted user (its first line) and as `/etc/passwd` and `/etc/group`
/// of a container.
///
/// # Panics
/// When a wanted number becomes another.
pub fn user(text: &str) {
    let (wanted, files) = text.split_once('\n').unwrap_or((text, ""));
    super::init::check_user(wanted, files);
}

fn again<T: DeserializeOwned + Serialize>(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(bytes) {
        same_again(&value);
    }
}

/// What was written is read as what it was.
fn same_again<T: DeserializeOwned + Serialize>(value: &T) {
    let Ok(written) = serde_json::to_vec(value) else {
        return;
    };
    let again = serde_json::from_slice::<T>(&written).ok();
    let again = again.and_then(|value| serde_json::to_vec(&value).ok());
    assert_eq!(again, Some(written), "a message changes on its way");
}

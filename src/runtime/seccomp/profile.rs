//! Profiles in Docker's format, which adds conditions to the OCI one: rules
//! that count only with (or without) a capability, on an architecture, from a
//! kernel on. Deciding them leaves a profile of the OCI spec.
//!
//! The format is that of the files that `--security-opt seccomp=FILE` takes
//! (docs.docker.com, "Seccomp security profiles for Docker"); a plain OCI
//! profile is one without conditions.

use oci_spec::runtime::LinuxSeccomp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::SeccompError;
use crate::runtime::capability;

/// A profile as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    default_action: String,
    default_errno_ret: Option<u32>,
    default_errno: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<Family>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Call>>,
}

/// An architecture with those that its processor executes too.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Family {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Call {
    #[serde(default)]
    names: Option<Vec<String>>,
    /// The older form of `names`.
    #[serde(default)]
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    /// The name of `errno_ret`; the number decides.
    errno: Option<String>,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

/// When a rule counts.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Filter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// What conditions are about.
#[derive(Clone, Copy, Debug)]
struct Place {
    capabilities: u64,
    kernel: (u32, u32),
}

/// What conditions call this machine's architecture (`runtime.GOARCH`).
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

/// What `archMap` calls it.
const FAMILY: &str = if cfg!(target_arch = "aarch64") {
    "SCMP_ARCH_AARCH64"
} else {
    "SCMP_ARCH_X86_64"
};

/// Reads a profile in Docker's format for a container with these capabilities
/// on this machine.
///
/// # Errors
/// [`SeccompError::Malformed`] for what is no such profile.
pub fn read_profile(text: &str, capabilities: u64) -> Result<LinuxSeccomp, SeccompError> {
    let release = rustix::system::uname();
    let kernel = version(&release.release().to_string_lossy()).unwrap_or((0, 0));
    read(text, Place { capabilities, kernel })
}

fn malformed(reason: impl ToString) -> SeccompError {
    SeccompError::Malformed(reason.to_string())
}

fn read(text: &str, place: Place) -> Result<LinuxSeccomp, SeccompError> {
    let written: Written = serde_json::from_str(text).map_err(malformed)?;
    let mut architectures = written.architectures.unwrap_or_default();
    let families = written.arch_map.unwrap_or_default();
    if !architectures.is_empty() && !families.is_empty() {
        return Err(malformed("both architectures and archMap are given"));
    }
    if let Some(family) = families.into_iter().find(|family| family.architecture == FAMILY) {
        architectures = family.sub_architectures.unwrap_or_default();
        architectures.insert(0, family.architecture);
    }
    if written.default_errno.is_some() && written.default_errno_ret.is_none() {
        return Err(malformed("defaultErrno without defaultErrnoRet"));
    }
    let mut calls = Vec::new();
    for call in written.syscalls.unwrap_or_default() {
        let mut names = call.names.unwrap_or_default();
        if call.name.is_some() && !names.is_empty() {
            return Err(malformed("both name and names are given for one rule"));
        }
        names.extend(call.name);
        if call.errno.is_some() && call.errno_ret.is_none() {
            return Err(malformed("errno without errnoRet"));
        }
        // Comments are for people.
        drop(call.comment);
        let included = call.includes.unwrap_or_default().includes(place)?;
        let excluded = call.excludes.unwrap_or_default().excludes(place)?;
        if !included || excluded || names.is_empty() {
            continue;
        }
        let mut rule = Map::new();
        rule.insert("names".into(), json!(names));
        rule.insert("action".into(), json!(call.action));
        if let Some(errno) = call.errno_ret {
            rule.insert("errnoRet".into(), json!(errno));
        }
        if let Some(args) = call.args.filter(|args| !args.is_empty()) {
            rule.insert("args".into(), Value::Array(args));
        }
        calls.push(Value::Object(rule));
    }
    let mut profile = Map::new();
    profile.insert("defaultAction".into(), json!(written.default_action));
    profile.insert("syscalls".into(), Value::Array(calls));
    if let Some(errno) = written.default_errno_ret {
        profile.insert("defaultErrnoRet".into(), json!(errno));
    }
    if !architectures.is_empty() {
        profile.insert("architectures".into(), json!(architectures));
    }
    if let Some(flags) = written.flags {
        profile.insert("flags".into(), json!(flags));
    }
    if let Some(path) = written.listener_path {
        profile.insert("listenerPath".into(), json!(path));
    }
    if let Some(metadata) = written.listener_metadata {
        profile.insert("listenerMetadata".into(), json!(metadata));
    }
    serde_json::from_value(Value::Object(profile)).map_err(malformed)
}

impl Filter {
    /// Whether all it asks for is there.
    fn includes(&self, place: Place) -> Result<bool, SeccompError> {
        let here = |names: &Vec<String>| names.is_empty() || names.iter().any(|name| name == ARCHITECTURE);
        let mut holds = self.arches.as_ref().is_none_or(here);
        for name in self.caps.iter().flatten() {
            holds &= place.has(name)?;
        }
        if let Some(least) = &self.min_kernel {
            holds &= place.kernel >= least_kernel(least)?;
        }
        Ok(holds)
    }

    /// Whether any of what it names is there.
    fn excludes(&self, place: Place) -> Result<bool, SeccompError> {
        let here = |names: &Vec<String>| names.iter().any(|name| name == ARCHITECTURE);
        let mut holds = self.arches.as_ref().is_some_and(here);
        for name in self.caps.iter().flatten() {
            holds |= place.has(name)?;
        }
        if let Some(least) = &self.min_kernel {
            holds |= place.kernel >= least_kernel(least)?;
        }
        Ok(holds)
    }
}

impl Place {
    fn has(self, name: &str) -> Result<bool, SeccompError> {
        let bit = capability::bit(name).ok_or_else(|| malformed(format!("unknown capability {name}")))?;
        Ok(self.capabilities & bit != 0)
    }
}

fn least_kernel(text: &str) -> Result<(u32, u32), SeccompError> {
    version(text).ok_or_else(|| malformed(format!("minKernel {text:?} is not like 4.8")))
}

/// The first two numbers of a kernel's version.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('.')?;
    let digits = rest.find(|letter: char| !letter.is_ascii_digit());
    let minor = rest.get(..digits.unwrap_or(rest.len()))?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMIN: u64 = 1 << 21;

    fn names(text: &str, capabilities: u64, kernel: (u32, u32)) -> Result<Vec<String>, String> {
        let profile = read(text, Place { capabilities, kernel }).map_err(|error| error.to_string())?;
        let calls = profile.syscalls().iter().flatten();
        Ok(calls.flat_map(|call| call.names().clone()).collect())
    }

    #[test]
    fn conditions_are_decided() {
        let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
                {"architecture": "SCMP_ARCH_S390X", "subArchitectures": null}],
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}, "excludes": {}},
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["umount"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"name": "sync", "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "4.8"}},
                {"names": ["here"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "arm64"]}},
                {"names": ["there"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
                {"names": ["away"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64", "arm64"]}}]}"#;
        assert_eq!(
            names(text, ADMIN, (4, 8)).unwrap(),
            ["read", "mount", "ptrace", "here"]
        );
        assert_eq!(
            names(text, 0, (4, 7)).unwrap(),
            ["read", "umount", "sync", "here"]
        );
        let profile = read(
            text,
            Place {
                capabilities: 0,
                kernel: (6, 1),
            },
        )
        .unwrap();
        assert_eq!(profile.architectures().as_ref().map(Vec::len), Some(2));
    }

    #[test]
    fn what_is_no_profile_is_told() {
        for (text, expected) in [
            ("", "EOF"),
            ("{}", "defaultAction"),
            (r#"{"defaultAction": "SCMP_ACT_NOSUCH"}"#, "SCMP_ACT_NOSUCH"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "sysclals": []}"#,
                "sysclals",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_X"]}}]}"#,
                "unknown capability CAP_X",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "new"}}]}"#,
                "minKernel",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#,
                "both",
            ),
        ] {
            let error = names(text, 0, (6, 1)).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}

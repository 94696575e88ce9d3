//! What is asked of a cgroup, and what of it a machine cannot do.

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::limits;

/// A wish that this machine cannot fulfil.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The wish, as the OCI spec or Compose names it.
    pub wish: String,
    /// Why not.
    pub reason: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} has no effect: {}", self.wish, self.reason)
    }
}

/// The wishes in a request that have not been fulfilled yet, with the reason.
pub(super) struct Wishes(pub(super) Vec<(&'static str, String)>);

impl Wishes {
    pub(super) fn of(resources: &LinuxResources) -> Self {
        let mut list = Vec::new();
        let mut wish = |is: bool, name: &'static str, controller: &str| {
            if is {
                list.push((name, format!("no {controller} controller")));
            }
        };
        if let Some(memory) = resources.memory() {
            wish(
                memory.limit().is_some_and(|limit| limit > 0),
                "memory limit",
                "memory",
            );
            // Twice the limit is what everyone gets who asks for none: nobody
            // is told that a wish he did not have is not fulfilled.
            let asked = |total| {
                total != 0
                    && memory
                        .limit()
                        .is_none_or(|limit| total != limit.saturating_mul(2))
            };
            wish(
                memory.swap().is_some_and(asked),
                "memory and swap limit",
                "memory swap",
            );
            wish(
                memory.reservation().is_some_and(|limit| limit > 0),
                "memory reservation",
                "memory",
            );
            wish(
                memory.swappiness().is_some(),
                "memory swappiness",
                "version 1 memory",
            );
            wish(
                memory.disable_oom_killer() == Some(true),
                "oom_kill_disable",
                "version 1 memory",
            );
        }
        if let Some(cpu) = resources.cpu() {
            wish(cpu.quota().is_some_and(|quota| quota > 0), "cpu limit", "cpu");
            wish(cpu.shares().is_some_and(|shares| shares > 0), "cpu shares", "cpu");
            wish(cpu.cpus().is_some(), "cpuset", "cpuset");
            wish(cpu.mems().is_some(), "cpuset memory nodes", "cpuset");
        }
        wish(
            resources.pids().as_ref().is_some_and(|pids| pids.limit() > 0),
            "pids limit",
            "pids",
        );
        wish(
            resources
                .devices()
                .as_ref()
                .is_some_and(|rules| !rules.is_empty()),
            "device rules",
            "devices",
        );
        if let Some(unified) = resources.unified() {
            wish(!unified.is_empty(), "unified", "version 2");
        }
        for (name, controller, is) in limits::wishes(resources) {
            wish(is, name, controller);
        }
        Self(list)
    }

    pub(super) fn fulfilled(&mut self, name: &str) {
        self.0.retain(|(wish, _)| *wish != name);
    }

    pub(super) fn refused(&mut self, name: &str, reason: String) {
        for (wish, why) in &mut self.0 {
            if *wish == name {
                *why = reason.clone();
            }
        }
    }

    pub(super) fn left(self) -> Vec<Warning> {
        self.0
            .into_iter()
            .map(|(wish, reason)| Warning {
                wish: wish.into(),
                reason,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cgroup;
    use super::*;

    #[test]
    fn wishes_without_a_controller_become_warnings() {
        let resources: LinuxResources = serde_json::from_value(serde_json::json!({
            "memory": {"limit": 1000}, "cpu": {"shares": 2}, "pids": {"limit": 0}
        }))
        .unwrap();
        let left = Cgroup::default().update(Some(&resources), true).unwrap();
        let texts: Vec<String> = left.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "memory limit has no effect: no memory controller",
                "cpu shares has no effect: no cpu controller"
            ]
        );
    }
}

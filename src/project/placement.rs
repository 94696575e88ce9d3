//! Where containers run, on one machine: conditions that hold of it, or do not.
//!
//! To Swarm it would be a single node, which is a manager.

use super::decode::is_this_platform;

/// What is said of a condition on nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It holds of this machine, whichever it is.
    Holds,
    /// It holds when this machine is called so, or is not.
    Hostname {
        /// The name.
        name: String,
        /// It must be called so.
        same: bool,
    },
    /// It does not hold, or nothing is known about it here.
    Fails,
}

/// Reads a condition: `node.role == manager`.
pub fn condition(text: &str) -> Condition {
    let parts = match (text.split_once("=="), text.split_once("!=")) {
        (Some((key, value)), _) => Some((key, value, true)),
        (None, Some((key, value))) => Some((key, value, false)),
        (None, None) => None,
    };
    let Some((key, value, same)) = parts else {
        return Condition::Fails;
    };
    // Swarm compares without regard to case.
    let value = value.trim().to_ascii_lowercase();
    let holds = match key.trim() {
        "node.role" => value == "manager",
        "node.platform.os" => value == "linux",
        "node.platform.arch" => is_this_platform(&format!("linux/{value}")),
        "node.hostname" => return Condition::Hostname { name: value, same },
        _ => return Condition::Fails,
    };
    if holds == same {
        Condition::Holds
    } else {
        Condition::Fails
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_is_a_manager_that_runs_linux() {
        for text in [
            "node.role == manager",
            "node.role==Manager",
            "node.role != worker",
            "node.platform.os == linux",
            "node.platform.os != windows",
            "node.platform.arch != s390x",
        ] {
            assert_eq!(condition(text), Condition::Holds, "{text}");
        }
        for text in [
            "node.role == worker",
            "node.platform.arch == s390x",
            "node.labels.disk == ssd",
            "node.id != x",
            "engine.labels.a == b",
            "manager",
        ] {
            assert_eq!(condition(text), Condition::Fails, "{text}");
        }
        let expected = Condition::Hostname {
            name: "db1".to_owned(),
            same: false,
        };
        assert_eq!(condition("node.hostname != DB1"), expected);
    }
}

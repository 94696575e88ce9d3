//! Capabilities as names and as bits.

use oci_spec::runtime::{Capabilities, Capability};

/// The names in the order of their numbers (capabilities(7)).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Every capability we know.
pub const ALL: u64 = (1 << NAMES.len()) - 1;

/// What Docker gives a container.
pub const DEFAULT: u64 = 0xa804_25fb;

/// The bit of a capability by its name, in any case, with or without `CAP_`.
pub fn bit(name: &str) -> Option<u64> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    NAMES
        .iter()
        .position(|known| *known == name)
        .map(|number| 1 << number)
}

/// The names in a set, without `CAP_`, in the order of their numbers.
pub fn names(set: u64) -> impl Iterator<Item = &'static str> {
    NAMES
        .iter()
        .enumerate()
        .filter(move |(number, _)| set & (1 << number) != 0)
        .map(|(_, name)| *name)
}

/// The bits of a set as the OCI spec has it; `None` is empty.
pub(crate) fn from_spec(set: Option<&Capabilities>) -> u64 {
    set.into_iter()
        .flatten()
        .filter_map(|capability| bit(&capability.to_string()))
        .fold(0, |all, one| all | one)
}

/// The set as the OCI spec has it.
pub(super) fn to_spec(set: u64) -> Capabilities {
    names(set)
        .filter_map(|name| name.parse::<Capability>().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_is_the_fourteen_of_docker() {
        assert_eq!(names(DEFAULT).count(), 14);
        assert_eq!(
            names(DEFAULT).collect::<Vec<_>>(),
            [
                "CHOWN",
                "DAC_OVERRIDE",
                "FOWNER",
                "FSETID",
                "KILL",
                "SETGID",
                "SETUID",
                "SETPCAP",
                "NET_BIND_SERVICE",
                "NET_RAW",
                "SYS_CHROOT",
                "MKNOD",
                "AUDIT_WRITE",
                "SETFCAP"
            ]
        );
    }

    #[test]
    fn names_and_bits_agree_with_the_spec_crate() {
        assert_eq!(from_spec(Some(&to_spec(ALL))), ALL);
        assert_eq!(bit("cap_sys_admin"), Some(1 << 21));
        assert_eq!(bit("NOSUCH"), None);
    }
}

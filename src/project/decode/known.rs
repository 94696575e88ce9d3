//! Names and notations of Linux that values are checked against.

use std::net::IpAddr;

/// capabilities(7), without `CAP_`.
pub(super) const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// The resources of getrlimit(2), as `ulimits` calls them.
pub(super) const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// signal(7), without `SIG`.
const SIGNALS: [&str; 34] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// The name that a word was probably meant to be.
pub(super) fn nearest(word: &str, names: &[&'static str]) -> Option<&'static str> {
    names
        .iter()
        .map(|name| (strsim::damerau_levenshtein(word, name), *name))
        .filter(|(distance, _)| *distance <= 2)
        .min()
        .map(|(_, name)| name)
}

/// Whether a text names a signal: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.
pub(super) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if SIGNALS.contains(&bare) {
        return true;
    }
    let real_time = |prefix: &str, sign: char| {
        bare.strip_prefix(prefix).is_some_and(|rest| {
            rest.is_empty()
                || rest
                    .strip_prefix(sign)
                    .and_then(|number| number.parse::<u8>().ok())
                    .is_some_and(|number| number <= 30)
        })
    };
    real_time("RTMIN", '+') || real_time("RTMAX", '-')
}

/// Whether a text can be the name of a container, network or volume. Such
/// names become parts of paths.
pub(super) fn is_resource_name(text: &str) -> bool {
    text.len() <= 255
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// Whether a text lists processors as cpuset(7) does: `0-2,4`.
pub(super) fn is_cpu_list(text: &str) -> bool {
    text.trim_end().split(',').all(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) => first <= last,
            _ => false,
        }
    })
}

/// A MAC address in lower case with colons.
pub(in crate::project) fn mac_address(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase().replace('-', ":");
    let parts: Vec<&str> = lower.split(':').collect();
    let octet = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    (parts.len() == 6 && parts.iter().all(octet)).then_some(lower)
}

/// Whether a text can name a network interface, as netdevice(7) does.
pub(in crate::project) fn is_interface_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

/// A subnet, `172.28.0.0/16`: an address in it, and its length.
pub(super) fn subnet(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length: u8 = length.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    (length <= most).then_some((address, length))
}

/// Whether an address is in a subnet.
pub(super) fn contains((network, length): (IpAddr, u8), address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            u32::from(network) & mask == u32::from(address) & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            u128::from(network) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

/// Whether a text says what may be done with a device: letters of `rwm`.
pub(in crate::project) fn is_device_permissions(text: &str) -> bool {
    !text.is_empty() && text.len() <= 3 && text.bytes().all(|byte| b"rwm".contains(&byte))
}

/// Whether a text names a device of the Container Device Interface,
/// `vendor.com/class=name`.
pub(super) fn is_cdi_device(text: &str) -> bool {
    let word = |text: &str, more: &[u8]| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    text.split_once('=').is_some_and(|(kind, name)| {
        kind.split_once('/')
            .is_some_and(|(vendor, class)| word(vendor, b"_.-") && word(class, b"_-"))
            && word(name, b"_.:-")
    })
}

/// This machine's platform as images name it.
pub(super) fn this_platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

/// Whether a platform is this machine's.
pub(in crate::project) fn is_this_platform(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let ours = this_platform();
    let text = text.replace("x86_64", "amd64").replace("aarch64", "arm64");
    let text = text.strip_suffix("/v8").unwrap_or(&text);
    text.is_empty() || text == "linux" || text == ours || Some(text) == ours.strip_prefix("linux/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notations() {
        for text in ["SIGTERM", "term", "15", "SIGRTMIN+3", "RTMAX-1", "SIGRTMIN"] {
            assert!(is_signal(text), "{text}");
        }
        for text in ["", "SIG", "SIGFOO", "0", "65", "RTMIN+99", "RTMIN-1"] {
            assert!(!is_signal(text), "{text}");
        }
        assert!(is_cpu_list("0-2,4") && is_cpu_list("0"));
        for text in ["", "2-1", "a", "0-", "0,,1"] {
            assert!(!is_cpu_list(text), "{text}");
        }
        assert_eq!(
            mac_address("02-42-AC-11-65-43").as_deref(),
            Some("02:42:ac:11:65:43")
        );
        assert_eq!(mac_address("02:42:ac:11:65"), None);
        for text in ["..", ".", "a/b", "", "-a", "../x"] {
            assert!(!is_resource_name(text), "{text}");
        }
        assert!(is_resource_name("a_b.c-1"));
        let net = subnet("172.28.0.0/16").unwrap();
        assert!(contains(net, "172.28.9.1".parse().unwrap()));
        assert!(!contains(net, "172.29.0.1".parse().unwrap()));
        assert!(contains(subnet("0.0.0.0/0").unwrap(), "1.2.3.4".parse().unwrap()));
        assert!(contains(subnet("fd00::/64").unwrap(), "fd00::5".parse().unwrap()));
        assert_eq!(subnet("172.28.0.0/33"), None);
        assert_eq!(subnet("172.28.0.0"), None);
        assert!(is_this_platform(&this_platform()));
        assert!(!is_this_platform("linux/s390x"));
    }
}

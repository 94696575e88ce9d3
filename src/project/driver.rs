//! Options of the drivers that there are: `local` of volumes and `bridge` of
//! networks, as Docker has them.
//!
//! Docker passes over options of a network that it does not know; here they are
//! refused, for what is written is meant to have an effect.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::decode::is_interface_name;

/// What is wrong with options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongOption {
    /// The option that it is about.
    pub key: String,
    /// What is wrong, beginning with its name or value.
    pub message: String,
    /// What may have been meant.
    pub hint: Option<String>,
}

/// An option that there is not, with the one that was probably meant.
fn unknown(key: &str, names: &[&'static str]) -> WrongOption {
    WrongOption {
        key: key.to_owned(),
        message: format!("there is no option {key:?}"),
        hint: nearest(key, names).map(|near| format!("did you mean `{near}`?")),
    }
}

/// The option that was probably meant. The last part of a long name is what is
/// remembered, or mistyped.
fn nearest(key: &str, names: &[&'static str]) -> Option<&'static str> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |name: &&'static str| {
        let whole = strsim::damerau_levenshtein(key, name);
        whole.min(strsim::damerau_levenshtein(&last(key), &last(name)))
    };
    let near = names.iter().map(|name| (distance(name), *name));
    near.filter(|(distance, _)| *distance <= 2)
        .min()
        .map(|(_, name)| name)
}

/// What is wrong with the options of a volume of the `local` driver: what Docker
/// checks before it makes one.
pub fn wrong_volume_option(options: &BTreeMap<String, String>) -> Option<WrongOption> {
    const NAMES: [&str; 3] = ["device", "o", "type"];
    const NEEDS: [(&str, &str); 4] = [
        ("device", "type"),
        ("type", "device"),
        ("o", "device"),
        ("o", "type"),
    ];
    let wrong = |key: &str, message: String| WrongOption {
        key: key.to_owned(),
        message,
        hint: None,
    };
    if options.contains_key("size") {
        let message = "\"size\" needs a quota of the file system, which is not supported for volumes";
        return Some(WrongOption {
            hint: Some("a tmpfs has `o: size=…`".to_owned()),
            ..wrong("size", message.to_owned())
        });
    }
    if let Some(key) = options.keys().find(|key| !NAMES.contains(&key.as_str())) {
        return Some(unknown(key, &NAMES));
    }
    let missing = NEEDS
        .iter()
        .find(|(there, needed)| options.contains_key(*there) && !options.contains_key(*needed));
    missing.map(|(there, needed)| wrong(there, format!("missing required option: {needed:?}")))
}

/// The options of a bridge, read. The default is what Docker does without any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeOptions {
    /// Name of the bridge interface.
    pub name: Option<String>,
    /// Containers on it do not reach each other, but for published ports.
    pub apart: bool,
    /// What leaves it keeps its source address.
    pub no_masquerade: bool,
    /// The address that its containers' ports are published on by default.
    pub host_binding: Option<Ipv4Addr>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// How the names of interfaces inside of containers begin.
    pub interface_prefix: Option<String>,
    /// The bridge itself has no IPv4 address.
    pub inhibit_ipv4: bool,
    /// How it is reached from outside, by IPv4 and IPv6.
    pub gateway: [GatewayMode; 2],
}

/// What the gateway of a bridge lets through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GatewayMode {
    /// Published ports.
    #[default]
    Nat,
    /// All ports, for who can route there.
    Unprotected,
    /// The bridge has no address: there is no gateway. Of an internal network.
    Isolated,
}

const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ENABLE_ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const INHIBIT: &str = "com.docker.network.bridge.inhibit_ipv4";
const GATEWAY_MODE: [&str; 2] = [
    "com.docker.network.bridge.gateway_mode_ipv4",
    "com.docker.network.bridge.gateway_mode_ipv6",
];
const MTU: &str = "com.docker.network.driver.mtu";
const PREFIX: &str = "com.docker.network.container_iface_prefix";

impl BridgeOptions {
    /// Reads the options of a bridge network.
    ///
    /// # Errors
    /// The first option that there is not, or whose value is none.
    pub fn of(options: &BTreeMap<String, String>) -> Result<Self, WrongOption> {
        let mut read = Self::default();
        for (key, value) in options {
            let wrong = |what: &str| WrongOption {
                key: key.clone(),
                message: format!("{key}: {value:?} is {what}"),
                hint: None,
            };
            // What Go's strconv.ParseBool takes.
            let flag = || match value.as_str() {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
                _ => Err(wrong("neither true nor false")),
            };
            let interface = |what: &str| match is_interface_name(value) {
                true => Ok(Some(value.clone())),
                false => Err(wrong(what)),
            };
            match key.as_str() {
                BRIDGE_NAME => {
                    read.name = interface("no name of an interface: at most 15 bytes, no `/`, no space")?
                }
                PREFIX => read.interface_prefix = interface("no beginning of the name of an interface")?,
                ENABLE_ICC => read.apart = !flag()?,
                MASQUERADE => read.no_masquerade = !flag()?,
                INHIBIT => read.inhibit_ipv4 = flag()?,
                HOST_BINDING => {
                    let address: Ipv4Addr = value.parse().map_err(|_| wrong("no IPv4 address"))?;
                    read.host_binding = Some(address).filter(|address| !address.is_unspecified());
                }
                MTU => {
                    let mtu: u32 = value.parse().map_err(|_| wrong("no number of bytes"))?;
                    // As Docker has it, 0 is the default; less than 68 is no IPv4 (RFC 791).
                    if mtu != 0 && !(68..=65535).contains(&mtu) {
                        return Err(wrong("not between 68 and 65535"));
                    }
                    read.mtu = Some(mtu).filter(|mtu| *mtu != 0);
                }
                _ if GATEWAY_MODE.contains(&key.as_str()) => {
                    let mode = match value.as_str() {
                        "" | "nat" => GatewayMode::Nat,
                        "nat-unprotected" => GatewayMode::Unprotected,
                        "isolated" => GatewayMode::Isolated,
                        _ => {
                            return Err(wrong(
                                "not supported; the modes are nat, nat-unprotected and isolated",
                            ));
                        }
                    };
                    let [v4, v6] = &mut read.gateway;
                    *if key == GATEWAY_MODE[0] { v4 } else { v6 } = mode;
                }
                _ => {
                    let [v4, v6] = GATEWAY_MODE;
                    let names = [
                        BRIDGE_NAME,
                        ENABLE_ICC,
                        MASQUERADE,
                        HOST_BINDING,
                        INHIBIT,
                        v4,
                        v6,
                        MTU,
                        PREFIX,
                    ];
                    return Err(unknown(key, &names));
                }
            }
        }
        Ok(read)
    }
}

/// What is wrong with the options of a network.
pub(super) fn wrong_network_option(options: &BTreeMap<String, String>) -> Option<WrongOption> {
    BridgeOptions::of(options).err()
}

/// The options of a container's place on a network, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointOptions {
    /// Name of the interface inside.
    pub interface: Option<String>,
    /// Parameters of the interface: files below `/proc/sys`, with `IFNAME` where
    /// its name belongs, and what is written there.
    pub sysctls: Vec<(String, String)>,
}

const ENDPOINT_SYSCTLS: &str = "com.docker.network.endpoint.sysctls";
const ENDPOINT_INTERFACE: &str = "com.docker.network.endpoint.ifname";

impl EndpointOptions {
    /// Reads the options of an attachment.
    ///
    /// # Errors
    /// The first option that there is not, or whose value is none.
    pub fn of(options: &BTreeMap<String, String>) -> Result<Self, WrongOption> {
        let mut read = Self::default();
        for (key, value) in options {
            let wrong = |message: String| WrongOption {
                key: key.clone(),
                message: format!("{key}: {message}"),
                hint: None,
            };
            match key.as_str() {
                ENDPOINT_INTERFACE if is_interface_name(value) => read.interface = Some(value.clone()),
                ENDPOINT_INTERFACE => return Err(wrong(format!("{value:?} is no name of an interface"))),
                ENDPOINT_SYSCTLS => {
                    for one in value.split(',') {
                        let sysctl = sysctl(one.trim()).ok_or_else(|| {
                            wrong(format!(
                                "{one:?} is not of the form net.ipv4.conf.IFNAME.NAME=VALUE (or ipv6, mpls; or neigh)"
                            ))
                        })?;
                        read.sysctls.push(sysctl);
                    }
                }
                _ => return Err(unknown(key, &[ENDPOINT_SYSCTLS, ENDPOINT_INTERFACE])),
            }
        }
        Ok(read)
    }
}

/// What is wrong with the options of an attachment.
pub(super) fn wrong_endpoint_option(options: &BTreeMap<String, String>) -> Option<WrongOption> {
    EndpointOptions::of(options).err()
}

/// A parameter of an interface: only those, as the others are the container's
/// `sysctls`.
fn sysctl(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let word = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    match name.split('.').collect::<Vec<_>>().as_slice() {
        ["net", "ipv4" | "ipv6" | "mpls", "conf" | "neigh", "IFNAME", last]
            if word(last) && !value.is_empty() =>
        {
            Some((name.replace('.', "/"), value.to_owned()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_have_what_docker_asks_for() {
        let wrong = |list: &[&str]| {
            let options = list.iter().map(|name| ((*name).to_owned(), String::new()));
            wrong_volume_option(&options.collect())
        };
        let message = |list: &[&str]| wrong(list).unwrap().message;
        assert_eq!(wrong(&[]), None);
        assert_eq!(wrong(&["type", "device"]), None);
        assert_eq!(wrong(&["type", "device", "o"]), None);
        assert_eq!(message(&["device"]), "missing required option: \"type\"");
        assert_eq!(message(&["type"]), "missing required option: \"device\"");
        assert_eq!(message(&["o", "device"]), "missing required option: \"type\"");
        assert!(message(&["size"]).contains("quota"));
        assert_eq!(
            wrong(&["devise"]).unwrap().hint.unwrap(),
            "did you mean `device`?"
        );
    }

    fn options(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = list
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        owned.collect()
    }

    #[test]
    fn bridges_are_as_written() {
        let read = BridgeOptions::of(&options(&[
            (BRIDGE_NAME, "br-x"),
            (ENABLE_ICC, "false"),
            (MASQUERADE, "0"),
            (HOST_BINDING, "127.0.0.1"),
            (MTU, "1400"),
            (GATEWAY_MODE[1], "nat-unprotected"),
        ]));
        let expected = BridgeOptions {
            name: Some("br-x".to_owned()),
            apart: true,
            no_masquerade: true,
            host_binding: Some(Ipv4Addr::LOCALHOST),
            mtu: Some(1400),
            gateway: [GatewayMode::Nat, GatewayMode::Unprotected],
            ..BridgeOptions::default()
        };
        assert_eq!(read.unwrap(), expected);
        assert_eq!(
            BridgeOptions::of(&options(&[(ENABLE_ICC, "true"), (MTU, "0")])),
            Ok(BridgeOptions::default())
        );
        for (key, value, expected) in [
            (ENABLE_ICC, "yes", "neither true nor false"),
            (MTU, "12", "not between"),
            (MTU, "x", "no number"),
            (BRIDGE_NAME, "a-name-that-is-too-long", "no name of an interface"),
            (GATEWAY_MODE[0], "routed", "not supported"),
        ] {
            let wrong = wrong_network_option(&options(&[(key, value)])).unwrap();
            assert!(wrong.message.contains(expected), "{}", wrong.message);
        }
        let hint = |key: &str| wrong_network_option(&options(&[(key, "")])).unwrap().hint;
        assert_eq!(
            hint("com.docker.network.enable_icc").unwrap(),
            "did you mean `com.docker.network.bridge.enable_icc`?"
        );
        assert_eq!(
            hint("com.docker.network.driver.mut").unwrap(),
            "did you mean `com.docker.network.driver.mtu`?"
        );
        assert_eq!(hint("parent"), None);
    }

    #[test]
    fn parameters_are_those_of_the_interface() {
        let read = |text: &str| EndpointOptions::of(&options(&[(ENDPOINT_SYSCTLS, text)]));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            read("net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.neigh.IFNAME.ucast_solicit=2")
                .unwrap()
                .sysctls,
            [
                pair("net/ipv4/conf/IFNAME/log_martians", "1"),
                pair("net/ipv6/neigh/IFNAME/ucast_solicit", "2"),
            ]
        );
        for wrong in [
            "net.ipv4.ip_forward=1",
            "kernel.x=1",
            "net.ipv4.conf.IFNAME.../x=1",
            "net.ipv4.conf.all.x=1",
            "",
        ] {
            assert!(
                read(wrong).unwrap_err().message.contains("is not of the form"),
                "{wrong}"
            );
        }
    }
}

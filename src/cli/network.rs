//! `network …`: networks of all stacks, and of none, by name as docker has them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::container;
use super::context::Context;
use super::failure::{Failure, Outcome};
use super::image::{agreed, has_label, not_dry, print_inspected, short_id};
use super::request::need_privilege;
use super::template;
use crate::host::inventory::{Network, NetworkRequest, create_network, networks, remove_network};

/// `network …`.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List networks
    #[command(alias = "list")]
    Ls(Ls),
    /// Print all that is known of networks
    Inspect(super::image::arguments::Inspect),
    /// Make a network that stacks name as 'external'
    Create(Create),
    /// Remove networks that nobody is on
    #[command(alias = "remove")]
    Rm(Rm),
    /// Remove all networks that nobody is on
    Prune(super::container::arguments::Prune),
    /// Refused: a container is on the networks that its stack gives it
    #[command(hide = true, disable_help_flag = true)]
    Connect(Anything),
    /// Refused: a container is on the networks that its stack gives it
    #[command(hide = true, disable_help_flag = true)]
    Disconnect(Anything),
}

/// What a command that is refused is given.
#[derive(Debug, Args)]
pub(super) struct Anything {
    /// Whatever it is
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _rest: Vec<OsString>,
}

/// `network ls`.
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// name=TEXT, id=TEXT, label=NAME[=VALUE], driver=bridge, scope=local, dangling=BOOL, type=custom; repeat it for several
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: String,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
}

/// `network create`.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// Name of the network
    name: String,
    /// Driver: 'bridge' is the one there is
    #[arg(short, long, default_value = "bridge", value_name = "DRIVER")]
    driver: String,
    /// Subnet in CIDR form; repeat it for IPv4 and IPv6
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<String>,
    /// Part of the subnet that addresses are given from; one a subnet
    #[arg(long, value_name = "RANGE")]
    ip_range: Vec<String>,
    /// The network's own address; one a subnet
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<IpAddr>,
    /// Address of the subnet that others have: NAME=ADDRESS; repeat it for several
    #[arg(long, value_name = "NAME=ADDRESS")]
    aux_address: Vec<String>,
    /// IPv6 too
    #[arg(long)]
    ipv6: bool,
    /// No way out
    #[arg(long)]
    internal: bool,
    /// Label: NAME=VALUE, or NAME; repeat it for several
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// Option of the bridge driver, such as com.docker.network.driver.mtu=BYTES; repeat it for several
    #[arg(short, long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
    /// Accepted for scripts: every network is
    #[arg(long, hide = true)]
    attachable: bool,
}

/// `network rm`.
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// Networks, by name, id, or the first digits of one
    #[arg(required = true, value_name = "NETWORK")]
    names: Vec<String>,
    /// Those that are not there are fine
    #[arg(short, long)]
    force: bool,
}

/// `network …`.
pub(super) fn network(context: &Context, verb: &Verb) -> Outcome {
    match verb {
        Verb::Ls(typed) => ls(context, typed),
        Verb::Inspect(typed) => inspect(context, typed),
        Verb::Create(typed) => create(context, typed),
        Verb::Rm(typed) => rm(context, typed),
        Verb::Prune(typed) => {
            not_dry(context, "network prune")?;
            let list = prunable(context, &typed.filter)?;
            if !agreed(context, typed.force, "This removes all networks that nobody is on.")? {
                return Ok(ExitCode::SUCCESS);
            }
            let removed = remove_unused(context, &list)?;
            context
                .terminal
                .out(&container::said("Deleted Networks:", &removed));
            Ok(ExitCode::SUCCESS)
        }
        Verb::Connect(_) | Verb::Disconnect(_) => Err(Failure::new(
            "network connect and disconnect are not supported: a container is on the networks that its stack gives it",
        )
        .hint("change 'networks' in the stack file, then 'rcompose up'")),
    }
}

fn ls(context: &Context, typed: &Ls) -> Outcome {
    let mut list = networks(&context.world)?;
    for text in &typed.filter {
        let wrong = |reason: &str| Failure::new(format!("filter {text:?}: {reason}"));
        let (key, value) = text.split_once('=').ok_or_else(|| wrong("it is not KEY=VALUE"))?;
        match key {
            "name" => list.retain(|network| network.name.contains(value)),
            "id" => list.retain(|network| network.id.starts_with(value)),
            "label" => list.retain(|network| has_label(&network.labels, value)),
            "driver" => list.retain(|_| value == "bridge"),
            "scope" => list.retain(|_| value == "local"),
            "type" => match value {
                "custom" => {}
                "builtin" => list.clear(),
                _ => return Err(wrong("it is custom or builtin")),
            },
            "dangling" => match value {
                "true" | "1" => list.retain(Network::is_unused),
                "false" | "0" => list.retain(|network| !network.is_unused()),
                _ => return Err(wrong("it is true or false")),
            },
            _ => {
                return Err(wrong(
                    "the keys are name, id, label, driver, scope, type, dangling",
                ));
            }
        }
    }
    if typed.quiet {
        let ids: String = list.iter().map(|network| format!("{}\n", network.id)).collect();
        context.terminal.out(&ids);
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Value> = list
        .iter()
        .map(|network| {
            let labels = network
                .labels
                .iter()
                .map(|(name, value)| format!("{name}={value}"));
            json!({
                "CreatedAt": "",
                "Driver": "bridge",
                "ID": short_id(&network.id, typed.no_trunc),
                "IPv4": "true",
                "IPv6": (network.pools.len() > 1).to_string(),
                "Internal": network.internal.to_string(),
                "Labels": labels.collect::<Vec<_>>().join(","),
                "Name": network.name,
                "Scope": "local",
            })
        })
        .collect();
    let columns = [
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
    ];
    let text = template::list(&typed.format, &columns, &rows).map_err(Failure::new)?;
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

/// The network of a name, an id, or the first digits of one.
fn of<'a>(list: &'a [Network], name: &str) -> Result<&'a Network, String> {
    if let Some(network) = list
        .iter()
        .find(|network| network.name == name || network.id == name)
    {
        return Ok(network);
    }
    let mut found = list
        .iter()
        .filter(|network| !name.is_empty() && network.id.starts_with(name));
    match (found.next(), found.next()) {
        (Some(network), None) => Ok(network),
        (Some(_), Some(_)) => Err(format!("several networks have an id that starts with {name}")),
        (None, _) => Err(format!("network {name} not found")),
    }
}

fn inspect(context: &Context, typed: &super::image::arguments::Inspect) -> Outcome {
    let list = networks(&context.world)?;
    let containers = container::all(context)?;
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    for name in &typed.names {
        let network = match of(&list, name) {
            Ok(network) => network,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let mut on = Map::new();
        for view in containers.iter().filter(|view| view.state.is_running()) {
            let addresses = network.addresses(&view.record);
            if addresses.is_empty() {
                continue;
            }
            let of = |v6: bool| {
                let own = addresses.iter().find(|(address, _)| address.is_ipv6() == v6);
                own.map_or_else(String::new, |(address, prefix)| format!("{address}/{prefix}"))
            };
            on.insert(
                view.record.id.clone(),
                json!({"Name": view.record.name, "IPv4Address": of(false), "IPv6Address": of(true)}),
            );
        }
        let mut options = network.options.clone();
        for (name, value) in [
            ("com.docker.network.bridge.name", network.bridge.clone()),
            ("com.docker.network.driver.mtu", network.mtu.to_string()),
        ] {
            options.entry(name.to_owned()).or_insert(value);
        }
        let pools: Vec<Value> = network
            .pools
            .iter()
            .map(|pool| json!({"Subnet": pool.subnet, "IPRange": pool.range.as_deref().unwrap_or(""), "Gateway": pool.gateway}))
            .collect();
        values.push(json!({
            "Name": network.name,
            "Id": network.id,
            "Scope": "local",
            "Driver": "bridge",
            "EnableIPv4": true,
            "EnableIPv6": network.pools.len() > 1,
            "IPAM": {"Driver": "default", "Options": {}, "Config": pools},
            "Internal": network.internal,
            "Attachable": true,
            "Ingress": false,
            "Containers": on,
            "Options": options,
            "Labels": network.labels,
        }));
    }
    print_inspected(context, &values, typed.format.as_deref())?;
    if errors.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Failure::list(&errors))
    }
}

/// `NAME=VALUE`s, `NAME` alone with an empty value.
pub(super) fn pairs(texts: &[String]) -> BTreeMap<String, String> {
    texts
        .iter()
        .map(|text| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

fn create(context: &Context, typed: &Create) -> Outcome {
    not_dry(context, "network create")?;
    if typed.driver != "bridge" {
        return Err(Failure::new(format!(
            "network driver {} is not supported: there is bridge",
            typed.driver
        )));
    }
    let grammar = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !typed.name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !typed.name.chars().all(grammar) {
        return Err(Failure::new(format!(
            "{:?} is no name of a network: letters, digits, '_', '.' and '-', the first a letter or digit",
            typed.name
        )));
    }
    if typed.subnet.is_empty() && !(typed.ip_range.is_empty() && typed.gateway.is_empty()) {
        return Err(Failure::new(
            "--ip-range and --gateway need a --subnet that they are of",
        ));
    }
    if typed.ip_range.len() > typed.subnet.len() || typed.gateway.len() > typed.subnet.len() {
        return Err(Failure::new("there are more ranges or gateways than subnets"));
    }
    let mut reserved = BTreeMap::new();
    for (name, text) in pairs(&typed.aux_address) {
        let address = text.parse::<IpAddr>();
        let address =
            address.map_err(|_| Failure::new(format!("--aux-address {name}={text}: it is no address")))?;
        reserved.insert(name, address);
    }
    need_privilege()?;
    // A range or gateway belongs to the subnet of its family.
    let v6 = |text: &str| text.contains(':');
    let pools = typed.subnet.iter().map(|subnet| {
        let range = typed.ip_range.iter().find(|range| v6(range) == v6(subnet));
        let gateway = typed
            .gateway
            .iter()
            .find(|gateway| gateway.is_ipv6() == v6(subnet));
        (Some(subnet.clone()), range.cloned(), gateway.copied())
    });
    let request = NetworkRequest {
        name: typed.name.clone(),
        pools: pools.collect(),
        ipv6: typed.ipv6 || typed.subnet.iter().any(|subnet| v6(subnet)),
        internal: typed.internal,
        options: pairs(&typed.opt),
        reserved,
        labels: pairs(&typed.label),
    };
    let (id, warnings) = create_network(&context.world, &request)?;
    for warning in warnings {
        context.terminal.warning(&warning);
    }
    context.terminal.out(&format!("{id}\n"));
    Ok(ExitCode::SUCCESS)
}

fn rm(context: &Context, typed: &Rm) -> Outcome {
    not_dry(context, "network rm")?;
    need_privilege()?;
    let list = networks(&context.world)?;
    let mut errors = Vec::new();
    for name in &typed.names {
        match of(&list, name) {
            Ok(network) => match remove_network(&context.world, &network.id) {
                Ok(()) => context.terminal.out(&format!("{name}\n")),
                Err(error) => errors.push(error.to_string()),
            },
            Err(error) if typed.force => context.terminal.warning(&error),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Failure::list(&errors))
    }
}

/// Networks that nobody is on and that the filters take: `label`, `label!`.
/// When a network was made is not kept, so `until` is refused.
pub(super) fn prunable(context: &Context, filters: &[String]) -> Result<Vec<Network>, Failure> {
    let mut list = networks(&context.world)?;
    list.retain(Network::is_unused);
    for text in filters {
        match text.split_once('=') {
            Some(("label", label)) => list.retain(|network| has_label(&network.labels, label)),
            Some(("label!", label)) => list.retain(|network| !has_label(&network.labels, label)),
            _ => {
                return Err(Failure::new(format!(
                    "filter {text:?}: of networks the keys are label, label! (when one was made is not kept)"
                )));
            }
        }
    }
    Ok(list)
}

/// Removes networks; the names of those that went.
pub(super) fn remove_unused(context: &Context, list: &[Network]) -> Result<Vec<String>, Failure> {
    if !list.is_empty() {
        need_privilege()?;
    }
    let mut removed = Vec::new();
    for network in list {
        match remove_network(&context.world, &network.id) {
            Ok(()) => removed.push(network.name.clone()),
            // Somebody has come onto it meanwhile, say.
            Err(error) => context.terminal.warning(&error.to_string()),
        }
    }
    Ok(removed)
}

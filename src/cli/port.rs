//! `port`: where a container's port is published.

use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;

use super::choose::container;
use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use crate::project::Protocol;

/// `port`.
#[derive(Debug, Args)]
pub(super) struct Port {
    /// Service
    service: String,
    /// Port inside the container
    private_port: u16,
    /// 'tcp' or 'udp'
    #[arg(long, default_value = "tcp", value_name = "PROTOCOL")]
    protocol: String,
    /// Number of the container
    #[arg(long, default_value_t = 0, value_name = "NUMBER", hide_default_value = true)]
    index: u32,
}

pub(super) fn port(context: &Context, typed: &Port) -> Outcome {
    let services = std::slice::from_ref(&typed.service);
    let loaded = context.load_or_recall(services)?;
    known_services(&loaded.project, services)?;
    let protocol = match typed.protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => {
            return Err(Failure::new(format!(
                "no protocol is called {other}: use tcp or udp"
            )));
        }
    };
    let view = container(context, &loaded.project.name, &typed.service, typed.index, false)?;
    let found = view
        .ports
        .iter()
        .find(|port| port.target == typed.private_port && port.protocol == protocol);
    let Some(port) = found else {
        let others: Vec<String> = view
            .ports
            .iter()
            .map(|port| format!("{}->{}/{}", port.published, port.target, port.protocol))
            .collect();
        let others = if others.is_empty() {
            "none is published".to_owned()
        } else {
            others.join(", ")
        };
        return Err(Failure::new(format!(
            "no port {}/{protocol} for container {}: {others}",
            typed.private_port, view.record.name
        )));
    };
    let address = match port.host_ip {
        None => "0.0.0.0".to_owned(),
        Some(IpAddr::V4(ip)) => ip.to_string(),
        Some(IpAddr::V6(ip)) => format!("[{ip}]"),
    };
    context.terminal.out(&format!("{address}:{}\n", port.published));
    Ok(ExitCode::SUCCESS)
}

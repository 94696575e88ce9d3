//! `deploy`, beyond replicas and limits.

use super::devices::device_requests;
use super::limits::milli;
use super::reader::Reader;
use crate::project::model::{
    Deploy, DeployMode, EndpointMode, FailureAction, GenericResource, Placement, Reservations,
    RestartCondition, RestartPolicy, UpdateConfig, UpdateOrder,
};
use crate::stack::{Code, Node};

pub(super) fn deploy(reader: &mut Reader<'_>) -> Option<Deploy> {
    let node = reader.get("deploy")?;
    let mut reader = reader.below("deploy", node);
    let reader = &mut reader;
    let modes = [
        ("replicated", DeployMode::Replicated),
        ("global", DeployMode::Global),
        ("replicated-job", DeployMode::ReplicatedJob),
        ("global-job", DeployMode::GlobalJob),
    ];
    let deploy = Deploy {
        mode: reader.choice("mode", &modes).unwrap_or_default(),
        labels: reader.table("labels"),
        update_config: update("update_config", reader),
        rollback_config: update("rollback_config", reader),
        restart_policy: restart_policy(reader),
        placement: placement(reader),
        reservations: reservations(reader),
        endpoint_mode: reader.choice(
            "endpoint_mode",
            &[("vip", EndpointMode::Vip), ("dnsrr", EndpointMode::Dnsrr)],
        ),
    };
    (deploy != Deploy::default()).then_some(deploy)
}

fn update(field: &str, reader: &mut Reader<'_>) -> Option<UpdateConfig> {
    let node = reader.get(field)?;
    let mut reader = reader.below(field, node);
    let actions = [
        ("continue", FailureAction::Continue),
        ("rollback", FailureAction::Rollback),
        ("pause", FailureAction::Pause),
    ];
    let orders = [
        ("stop-first", UpdateOrder::StopFirst),
        ("start-first", UpdateOrder::StartFirst),
    ];
    let ratio = reader.float("max_failure_ratio");
    if ratio.is_some_and(|ratio| !(0.0..=1.0).contains(&ratio)) {
        let message = "must be from 0 to 1";
        reader.fail(node.place, Code::Schema, "max_failure_ratio", message, None);
    }
    let action = reader.choice("failure_action", &actions);
    if field == "rollback_config" && action == Some(FailureAction::Rollback) {
        let message = "a rollback cannot be rolled back: use continue or pause";
        reader.fail(node.place, Code::Conflict, "failure_action", message, None);
    }
    Some(UpdateConfig {
        parallelism: reader.number("parallelism"),
        delay: reader.time("delay"),
        failure_action: action,
        monitor: reader.time("monitor"),
        max_failure_ratio: ratio,
        order: reader.choice("order", &orders),
    })
}

fn restart_policy(reader: &mut Reader<'_>) -> Option<RestartPolicy> {
    let node = reader.get("restart_policy")?;
    let mut reader = reader.below("restart_policy", node);
    let conditions = [
        ("none", RestartCondition::None),
        ("on-failure", RestartCondition::OnFailure),
        ("any", RestartCondition::Any),
    ];
    Some(RestartPolicy {
        condition: reader.choice("condition", &conditions).unwrap_or_default(),
        delay: reader.time("delay"),
        max_attempts: reader.number("max_attempts"),
        window: reader.time("window"),
    })
}

fn placement(reader: &mut Reader<'_>) -> Placement {
    let Some(node) = reader.get("placement") else {
        return Placement::default();
    };
    let mut reader = reader.below("placement", node);
    let preferences = node.get("preferences").into_iter().flat_map(Node::items);
    Placement {
        constraints: reader.texts("constraints"),
        preferences: preferences
            .filter_map(|preference| preference.text_of("spread").map(str::to_owned))
            .collect(),
        max_replicas_per_node: reader.number("max_replicas_per_node").filter(|most| *most > 0),
    }
}

fn reservations(reader: &mut Reader<'_>) -> Reservations {
    let Some(node) = reader.at(&["resources", "reservations"]) else {
        return Reservations::default();
    };
    let mut reader = reader.below("resources.reservations", node);
    // Less than a thousandth of a processor is as little as can be set aside.
    let little = reader
        .float("cpus")
        .is_some_and(|cpus| (1e-9..0.001).contains(&cpus));
    let cpus = match reader.get("cpus") {
        Some(_) if little => Some(1),
        Some(node) => milli(node, &mut reader),
        None => None,
    };
    let mut generic_resources = Vec::new();
    for (index, node) in node
        .get("generic_resources")
        .into_iter()
        .flat_map(Node::items)
        .enumerate()
    {
        let Some(node) = node.get("discrete_resource_spec") else {
            continue;
        };
        let path = format!("generic_resources.{index}.discrete_resource_spec");
        let mut reader = reader.below(&path, node);
        generic_resources.push(GenericResource {
            kind: reader.text("kind").unwrap_or_default(),
            value: reader.number("value").unwrap_or_default(),
        });
    }
    Reservations {
        cpus_milli: cpus,
        devices: device_requests("devices", &mut reader),
        generic_resources,
    }
}

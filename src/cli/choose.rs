//! Which container of a service a command means.

use super::context::Context;
use super::failure::Failure;
use crate::host::{View, views};

/// The container of a service with this number; with 0 the first one. Running
/// ones come first; with `running`, others do not count.
///
/// # Errors
/// When there is none.
pub(super) fn container(
    context: &Context,
    project: &str,
    service: &str,
    index: u32,
    running: bool,
) -> Result<View, Failure> {
    let mut found: Vec<View> = views(&context.world, project)?
        .into_iter()
        .filter(|view| view.record.config.name == service && (index == 0 || view.record.number == index))
        .filter(|view| !running || view.state.is_running())
        .collect();
    found.sort_by_key(|view| {
        let record = &view.record;
        (!view.state.is_running(), record.one_off.is_some(), record.number)
    });
    let missing = match (index, running) {
        (0, true) => Failure::new(format!("service \"{service}\" is not running"))
            .hint(format!("'rcompose up -d {service}' starts it")),
        (0, false) => Failure::new(format!("service \"{service}\" has no container"))
            .hint(format!("'rcompose up -d {service}' makes and starts one")),
        (_, true) => Failure::new(format!("service \"{service}\" has no running container #{index}")),
        (_, false) => Failure::new(format!("service \"{service}\" has no container #{index}")),
    };
    found.into_iter().next().ok_or(missing)
}

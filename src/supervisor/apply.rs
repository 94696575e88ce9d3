//! One request from beginning to end: load, observe, plan, walk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::supervised::Supervised;
use crate::host::{Host as _, HostError, given};
use crate::plan::{self, Intent, Operation, Plan};
use crate::project::{LoadRequest, Project};
use crate::reconcile::{Cancelled, Event, execute};
use crate::stack::Diagnostic;

/// Rounds of observe, plan, walk. A second one is needed when a pull brought
/// another image than the one containers were made of; more would mean that
/// the world moves faster than we do.
const ROUNDS: usize = 3;

/// What is to be applied, and to what.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) host: Arc<Supervised>,
    pub(super) project: String,
    pub(super) load: Option<Box<LoadRequest>>,
    pub(super) intent: Intent,
    /// Nothing is to be done when all is as it was then.
    pub(super) unless: Option<Model>,
    pub(super) cancelled: Cancelled,
    pub(super) steps: mpsc::UnboundedSender<Step>,
}

/// What a stack is brought to: the project, and what it reads from files.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Model {
    project: Arc<Project>,
    /// Digests of configs and secrets.
    contents: BTreeMap<String, String>,
}

impl Model {
    /// What the stack is brought to.
    pub(super) fn project(&self) -> &Arc<Project> {
        &self.project
    }

    fn new(project: Arc<Project>) -> Self {
        Self {
            contents: given::digests(&project),
            project,
        }
    }
}

/// What happens while a request is applied.
#[derive(Debug)]
pub(super) enum Step {
    Planned(Box<Plan>),
    Progress(Event),
    Done(Box<Applied>),
}

/// What became of a request.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// What it was brought to, when the stack file loaded.
    pub(super) model: Option<Model>,
    /// The files to watch: those that were looked at, whether or not they loaded.
    pub(super) inputs: Vec<PathBuf>,
    pub(super) errors: Vec<String>,
    pub(super) diagnostics: Vec<Diagnostic>,
    pub(super) cancelled: bool,
    /// How it was loaded.
    pub(super) load: Option<Box<LoadRequest>>,
    /// The intent was to have the stack up.
    pub(super) up: bool,
}

/// Applies one request; the last step it sends is [`Step::Done`].
pub(super) async fn apply(request: Request) {
    let steps = request.steps.clone();
    let mut applied = Applied {
        up: matches!(request.intent, Intent::Up(_)),
        load: request.load.clone(),
        ..Applied::default()
    };
    if let Err(error) = run(request, &mut applied).await {
        match error {
            HostError::Cancelled => applied.cancelled = true,
            other => applied.errors.push(other.to_string()),
        }
    }
    // The loop ends only with the process.
    let _ = steps.send(Step::Done(Box::new(applied)));
}

async fn run(request: Request, applied: &mut Applied) -> Result<(), HostError> {
    let Request {
        host,
        project,
        load: how,
        mut intent,
        unless,
        cancelled,
        steps,
    } = request;
    let tell = |step| {
        let _ = steps.send(step);
    };
    let project = match how {
        None => host.machine.recorded(&project).await?,
        Some(how) => match super::load(&how) {
            Ok(loaded) => loaded.project,
            Err(failure) => {
                applied.inputs = failure.inputs;
                applied.diagnostics = failure.diagnostics;
                return Ok(());
            }
        },
    };
    applied.inputs.clone_from(&project.inputs);
    applied.inputs.extend(given::files(&project));
    let project = Arc::new(project);
    let model = Model::new(project.clone());
    applied.model = Some(model.clone());
    if unless.is_some_and(|same| same == model) {
        tell(Step::Planned(Box::default()));
        return Ok(());
    }
    for _ in 0..ROUNDS {
        let observed = host.observe(&project).await?;
        let plan = plan::plan(&project, &observed, &intent).map_err(|error| HostError::Plan {
            reason: error.to_string(),
        })?;
        tell(Step::Planned(Box::new(plan.clone())));
        if matches!(intent, Intent::Up(_) | Intent::Run(_)) {
            host.machine.preflight(&project, &plan).await?;
        }
        let pulls = pulls(&plan);
        let last = pulls.is_empty();
        // All images are here before anything else is touched: a reference
        // that cannot be had leaves no half of a stack behind.
        let part = if last { plan } else { pulls };
        let report = execute(&host, &project, &part, cancelled.clone(), |event| {
            tell(Step::Progress(event))
        })
        .await;
        applied
            .errors
            .extend(report.failed.iter().map(|(_, error)| error.to_string()));
        applied.cancelled |= report.cancelled;
        if last || !applied.errors.is_empty() || applied.cancelled {
            return Ok(());
        }
        if let Intent::Up(up) | Intent::Run(plan::Run { up, .. }) = &mut intent {
            up.pulled = true;
        }
    }
    Err(HostError::Plan {
        reason: "images change faster than they can be used".to_owned(),
    })
}

/// The part of a plan that fetches images, which depends on nothing else.
fn pulls(plan: &Plan) -> Plan {
    let actions = plan
        .actions
        .iter()
        .filter(|action| matches!(action.operation, Operation::PullImage { .. }))
        .map(|action| plan::Action {
            after: vec![],
            ..action.clone()
        })
        .collect();
    Plan {
        actions,
        ..Plan::default()
    }
}

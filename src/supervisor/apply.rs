//! One request from beginning to end: load, observe, plan, walk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use sha2::Digest as _;
use tokio::sync::mpsc;

use super::protocol::Apply;
use super::supervised::Supervised;
use super::{generations, standing};
use crate::host::{Host as _, HostError, given};
use crate::plan::{self, Expected, Intent, Operation, Plan, Up};
use crate::project::{FailureAction, LoadRequest, Project, Service};
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
    pub(super) wanted: Apply,
    /// The digest of a model: nothing is to be done when that is what comes of it.
    pub(super) unless: Option<String>,
    /// What the stack was brought to before, when that is known.
    pub(super) before: Option<Arc<Project>>,
    /// [`Standing::scale`](super::Standing) before.
    pub(super) scale: BTreeMap<String, u32>,
    pub(super) cancelled: Cancelled,
    pub(super) steps: mpsc::UnboundedSender<Step>,
}

/// What a stack is brought to: the project, and what it reads from files.
#[derive(Clone, Debug)]
pub(super) struct Model {
    project: Arc<Project>,
    /// Digests of configs and secrets.
    contents: BTreeMap<String, String>,
    /// When it was asked for.
    digest: OnceLock<String>,
}

impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        self.project == other.project && self.contents == other.contents
    }
}

impl Model {
    /// What the stack is brought to.
    pub(super) fn project(&self) -> &Arc<Project> {
        &self.project
    }

    pub(super) fn new(project: Arc<Project>) -> Self {
        Self {
            contents: given::digests(&project),
            project,
            digest: OnceLock::new(),
        }
    }

    /// Digests of its configs and secrets, by their place in the project.
    pub(super) fn contents(&self) -> &BTreeMap<String, String> {
        &self.contents
    }

    /// Tells models apart: 64 hexadecimal digits.
    pub(super) fn digest(&self) -> &str {
        self.digest.get_or_init(|| {
            let text = serde_json::to_vec(&(&*self.project, &self.contents)).unwrap_or_default();
            sha256(&text)
        })
    }

    /// Takes over the digest of a model, if it is the same: they are compared without
    /// being written out.
    pub(super) fn learn_from(&self, other: &Self) {
        if let Some(digest) = other.digest.get()
            && self.digest.get().is_none()
            && self == other
        {
            let _ = self.digest.set(digest.clone());
        }
    }
}

/// Tells apart what stacks are brought to: 64 hexadecimal digits for a project
/// and the content of its configs and secrets.
pub fn digest(project: &Arc<Project>) -> String {
    Model::new(project.clone()).digest().to_owned()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What happens while a request is applied.
#[derive(Debug)]
pub(super) enum Step {
    /// The model, and the files to watch.
    Loaded(Model, Vec<PathBuf>),
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
    /// The generation that it was taken from.
    pub(super) generation: Option<u64>,
    /// The intent was to have the stack up.
    pub(super) up: bool,
    /// [`Standing::scale`](super::Standing) from now on, when that was so and the
    /// stack file loaded.
    pub(super) scale: Option<BTreeMap<String, u32>>,
    /// What it has asked to stop when it was cancelled: services, by container id.
    pub(super) ending: BTreeMap<String, String>,
    /// Services whose update has failed and is to be taken back.
    taken_back: Vec<String>,
}

/// Applies one request; the last step it sends is [`Step::Done`].
pub(super) async fn apply(request: Request) {
    let steps = request.steps.clone();
    let wanted = &request.wanted;
    let mut applied = Applied {
        up: matches!(wanted.intent, Intent::Up(_)),
        load: wanted.load.clone(),
        generation: wanted.generation,
        ..Applied::default()
    };
    if wanted.generation.is_some() {
        // The file says what it said; the stack is at something else.
        applied.load = None;
    }
    let mut touched = false;
    if let Err(error) = run(&request, &mut applied, &mut touched).await {
        match error {
            HostError::Cancelled => applied.cancelled = true,
            other => applied.errors.push(other.to_string()),
        }
    }
    if !applied.taken_back.is_empty() && !request.wanted.atomic && !applied.cancelled {
        let errors = take_back(&request, &applied).await;
        applied.errors.extend(errors);
    }
    if request.wanted.atomic && touched && !applied.errors.is_empty() && !applied.cancelled {
        let errors = roll_back(&request).await;
        applied.errors.extend(errors);
        // As if it had never been asked for.
        applied.up = false;
    }
    // The loop ends only with the process.
    let _ = steps.send(Step::Done(Box::new(applied)));
}

/// What the stack was brought to before, the last time that all went well.
fn before(request: &Request) -> Option<Project> {
    let world = request.host.machine.world();
    let newest = generations::newest(world, &request.project)?;
    let generation = generations::read(world, &request.project, newest).ok()??;
    Some(generation.restored(world, &environment(request)))
}

/// What variables said when the request was made.
fn environment(request: &Request) -> BTreeMap<String, String> {
    let load = request.wanted.load.as_ref();
    load.map(|load| load.environment.clone()).unwrap_or_default()
}

/// Brings services whose update has failed back to what they were, as
/// `deploy.rollback_config` says. What went wrong with that.
async fn take_back(request: &Request, applied: &Applied) -> Vec<String> {
    let (Some(before), Some(model)) = (before(request), &applied.model) else {
        return vec!["what the stack was before is not known: the update is not taken back".to_owned()];
    };
    let mut project = (*model.project).clone();
    let mut services = Vec::new();
    for name in &applied.taken_back {
        if let Some(old) = before.services.get(name) {
            let text = format!("service \"{name}\" goes back to what it was");
            let _ = request.steps.send(Step::Progress(Event::Warning { text }));
            project.services.insert(name.clone(), backwards(old));
            services.push(name.clone());
        }
    }
    if services.is_empty() {
        return vec![];
    }
    let up = Up {
        services,
        no_deps: true,
        ..Up::default()
    };
    let mut back = Applied::default();
    match walk(
        request,
        &Arc::new(project),
        Intent::Up(up),
        None,
        &mut back,
        &mut false,
    )
    .await
    {
        Ok(()) => back.errors,
        Err(error) => vec![format!("going back: {error}")],
    }
}

/// A service that is updated as it wants to be rolled back.
fn backwards(service: &Service) -> Service {
    let mut service = service.clone();
    if let Some(deploy) = &mut service.deploy {
        let wanted = deploy.rollback_config.clone();
        deploy.update_config = wanted.or(deploy.update_config.take());
        if let Some(config) = &mut deploy.update_config
            && config.failure_action == Some(FailureAction::Rollback)
        {
            // There is nothing further back.
            config.failure_action = Some(FailureAction::Pause);
        }
    }
    service
}

/// Brings a stack back to what it was brought to before: to nothing, if that was
/// so. What went wrong with that.
async fn roll_back(request: &Request) -> Vec<String> {
    let tell = |text: &str| {
        let event = Event::Warning {
            text: text.to_owned(),
        };
        let _ = request.steps.send(Step::Progress(event));
    };
    let (project, intent) = match before(request) {
        Some(before) => {
            tell("the stack goes back to what it was");
            let up = Up {
                remove_orphans: true,
                reload: true,
                ..Up::default()
            };
            (before, Intent::Up(up))
        }
        None => {
            tell("what was begun is taken back");
            let Ok(recorded) = request.host.machine.recorded(&request.project).await else {
                return vec!["what is there is not known".to_owned()];
            };
            (recorded, Intent::Down(plan::Down::default()))
        }
    };
    let mut applied = Applied::default();
    match walk(
        request,
        &Arc::new(project),
        intent,
        None,
        &mut applied,
        &mut false,
    )
    .await
    {
        Ok(()) => applied.errors,
        Err(error) => vec![format!("going back: {error}")],
    }
}

/// What a request is about: the model that the stack is brought to, and the
/// project by which it is, in which the configs and secrets of a generation come
/// from where they are kept. `None` when its file does not load.
async fn model_of(
    request: &Request,
    applied: &mut Applied,
) -> Result<Option<(Model, Arc<Project>)>, HostError> {
    let wanted = &request.wanted;
    if let Some(number) = wanted.generation {
        let world = request.host.machine.world();
        let Some(generation) = generations::read(world, &request.project, number)? else {
            return Err(HostError::Plan {
                reason: format!("there is no generation {number}: 'history' lists them"),
            });
        };
        let restored = generation.restored(world, &environment(request));
        let model = Model {
            contents: given::digests(&restored),
            project: Arc::new(generation.project),
            digest: OnceLock::new(),
        };
        return Ok(Some((model, Arc::new(restored))));
    }
    let of = |project: Project| {
        let project = Arc::new(project);
        (Model::new(project.clone()), project)
    };
    let Some(how) = &wanted.load else {
        let recorded = request.host.machine.recorded(&request.project).await?;
        return Ok(Some(of(recorded)));
    };
    match super::load(how) {
        Ok(loaded) => {
            applied.inputs.clone_from(&loaded.project.inputs);
            applied.inputs.extend(given::files(&loaded.project));
            Ok(Some(of(loaded.project)))
        }
        Err(failure) => {
            applied.inputs = failure.inputs;
            applied.diagnostics = failure.diagnostics;
            Ok(None)
        }
    }
}

async fn run(request: &Request, applied: &mut Applied, touched: &mut bool) -> Result<(), HostError> {
    let Some((model, project)) = model_of(request, applied).await? else {
        return Ok(());
    };
    let inputs = applied.inputs.clone();
    let _ = request.steps.send(Step::Loaded(model.clone(), inputs));
    let same = request
        .unless
        .as_ref()
        .is_some_and(|same| *same == model.digest());
    applied.model = Some(model);
    if same {
        let _ = request.steps.send(Step::Planned(Box::default()));
        return Ok(());
    }
    let wanted = &request.wanted;
    let (mut intent, expected) = (wanted.intent.clone(), wanted.expected.as_deref());
    let mut reload = false;
    if let Intent::Up(up) = &mut intent {
        reload = up.reload;
        let scale = standing::scale_after(&request.scale, up, request.before.as_deref(), &project);
        if up.reload {
            up.scale.clone_from(&scale);
        }
        applied.scale = Some(scale);
    }
    let project = match wanted.generation {
        None => project,
        Some(_) => {
            let mut project = (*project).clone();
            for service in project.services.values_mut() {
                *service = backwards(service);
            }
            Arc::new(project)
        }
    };
    let done = walk(request, &project, intent, expected, applied, touched).await;
    if done.is_err() && !*touched && !reload {
        // Refused as a whole: no number was asked for.
        applied.scale = None;
    }
    done
}

/// Observes, plans and walks until there is nothing more to do. `touched`: something
/// has been begun.
async fn walk(
    request: &Request,
    project: &Arc<Project>,
    mut intent: Intent,
    mut expected: Option<&Expected>,
    applied: &mut Applied,
    touched: &mut bool,
) -> Result<(), HostError> {
    let Request {
        host,
        cancelled,
        steps,
        ..
    } = request;
    let tell = |step| {
        let _ = steps.send(step);
    };
    for _ in 0..ROUNDS {
        let observed = host.observe(project).await?;
        let plan = plan::plan(project, &observed, &intent).map_err(|error| HostError::Plan {
            reason: error.to_string(),
        })?;
        if let Some(expected) = expected.take() {
            let model = digest(project);
            expected
                .still(&plan, &model)
                .map_err(|reason| HostError::Plan { reason })?;
        }
        tell(Step::Planned(Box::new(plan.clone())));
        if matches!(intent, Intent::Up(_) | Intent::Run(_)) {
            host.machine.preflight(project, &plan).await?;
        }
        let pulls = pulls(&plan);
        let last = pulls.is_empty();
        // All images are here before anything else is touched: a reference
        // that cannot be had leaves no half of a stack behind.
        let part = if last { plan } else { pulls };
        *touched = true;
        host.begin();
        let report = execute(host, project, &part, cancelled.clone(), |event| {
            tell(Step::Progress(event))
        })
        .await;
        if report.cancelled {
            host.machine.clear_hooks().await?;
        }
        applied
            .errors
            .extend(report.failed.iter().map(|(_, error)| error.to_string()));
        applied.cancelled |= report.cancelled;
        if report.cancelled {
            applied.ending.clone_from(&host.ending());
        }
        applied
            .taken_back
            .extend(report.failed.iter().filter_map(|(index, _)| {
                let Operation::Settle { service, .. } = &part.actions.get(*index)?.operation else {
                    return None;
                };
                let deploy = project.services.get(service)?.deploy.as_ref()?;
                let action = deploy.update_config.as_ref()?.failure_action;
                (action == Some(FailureAction::Rollback)).then(|| service.clone())
            }));
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

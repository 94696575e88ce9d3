//! A request to a project: the whole way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Project, check, decode, normalise, unsupported};
use crate::stack::{
    self, Code, Diagnostic, Environment, Files, History, Node, Report, Severity, Trail, Wanted,
};

/// Everything that decides how a project is loaded. It serialises, so that the
/// supervisor can load the same project again at each save.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadRequest {
    /// The working directory, absolute.
    pub cwd: PathBuf,
    /// `-f`, in order; `-` is standard input. Empty: discovered.
    pub files: Vec<PathBuf>,
    /// The text of standard input, when a file is `-`.
    pub stdin: Option<String>,
    /// `--project-directory`.
    pub project_directory: Option<PathBuf>,
    /// `-p`.
    pub project_name: Option<String>,
    /// `--env-file`, in order.
    pub env_files: Vec<PathBuf>,
    /// `--profile`; `*` is all. Empty: `COMPOSE_PROFILES`.
    pub profiles: Vec<String>,
    /// Services named on the command line: enabled whatever their profiles.
    pub services: Vec<String>,
    /// The caller's environment.
    pub environment: BTreeMap<String, String>,
}

/// A project, and what `config` prints it from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The project.
    pub project: Project,
    /// The document it was made of.
    pub model: Model,
    /// What the user should know.
    pub warnings: Vec<Diagnostic>,
}

/// Why a project cannot be loaded.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", summary(.diagnostics))]
pub struct LoadFailure {
    /// Errors, then warnings. At least one error.
    pub diagnostics: Vec<Diagnostic>,
    /// Every file that was looked at, sorted: what to watch for a correction.
    /// Files that are not there (yet) are among them.
    pub inputs: Vec<PathBuf>,
}

fn summary(diagnostics: &[Diagnostic]) -> String {
    let errors: Vec<_> = diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .map(|diagnostic| match &diagnostic.origin {
            Some(origin) => format!("{origin}: {}", diagnostic.message),
            None => diagnostic.message.clone(),
        })
        .collect();
    errors.join("\n")
}

/// A merged and normalised document: what `config` prints. Values that cannot
/// be run (yet) are in it all the same.
#[derive(Clone, Debug)]
pub struct Model {
    /// Project name.
    pub name: String,
    /// What paths are relative to, absolute.
    pub working_dir: PathBuf,
    /// The stack files in merge order, absolute; none for standard input.
    pub config_files: Vec<PathBuf>,
    /// Every file that was looked at, sorted.
    pub inputs: Vec<PathBuf>,
    /// The variables that interpolation saw.
    pub environment: Environment,
    /// The document: enabled services, and the resources that they use.
    pub document: Node,
    /// Services that are switched off: key to profiles.
    pub disabled: BTreeMap<String, Vec<String>>,
    /// All profiles that the files name, sorted.
    pub profiles: Vec<String>,
    /// How values came; empty unless [`Rules::trace`] asks for it.
    pub history: History,
}

impl Model {
    fn keys(&self, section: &str) -> Vec<&str> {
        let mut keys: Vec<_> = check::section(&self.document, section)
            .map(|(key, _)| key)
            .collect();
        keys.sort_unstable();
        keys
    }

    /// Keys of the enabled services, sorted (`config --services`).
    pub fn services(&self) -> Vec<&str> {
        self.keys("services")
    }

    /// Keys of the networks, sorted (`config --networks`).
    pub fn networks(&self) -> Vec<&str> {
        self.keys("networks")
    }

    /// Keys of the volumes, sorted (`config --volumes`).
    pub fn volumes(&self) -> Vec<&str> {
        self.keys("volumes")
    }

    /// Keys of the models, sorted (`config --models`).
    pub fn models(&self) -> Vec<&str> {
        self.keys("models")
    }

    /// Image references of the enabled services, sorted, each once; for a
    /// service that is built without naming one, the name it gets
    /// (`config --images`).
    pub fn images(&self) -> Vec<String> {
        let services = check::section(&self.document, "services");
        let image = |(name, service): (&str, &Node)| match service.text_of("image") {
            Some(image) if !image.is_empty() => Some(image.to_owned()),
            _ => service.get("build").map(|_| format!("{}-{name}", self.name)),
        };
        let images: BTreeSet<String> = services.filter_map(image).collect();
        images.into_iter().collect()
    }
}

/// How strictly a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent rule")]
pub struct Rules {
    /// Check that names are defined and values do not exclude each other
    /// (`config --no-consistency` does not).
    pub consistency: bool,
    /// Keep resources that no service uses (`--all-resources`).
    pub all_resources: bool,
    /// Replace variables in values (`--no-interpolate` does not).
    pub interpolate: bool,
    /// Add what is implied: names, the default network, dependencies
    /// (`--no-normalize` does not).
    pub normalize: bool,
    /// Make relative paths absolute (`--no-path-resolution` does not).
    pub resolve_paths: bool,
    /// Read environment files and the caller's variables into services
    /// (`--no-env-resolution` does not).
    pub resolve_environment: bool,
    /// Note how values came ([`Model::history`]).
    pub trace: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            consistency: true,
            all_resources: false,
            interpolate: true,
            normalize: true,
            resolve_paths: true,
            resolve_environment: true,
            trace: false,
        }
    }
}

/// Loads a project that can be run.
///
/// # Errors
/// [`LoadFailure`] with every independent error: files that cannot be read,
/// text that is no YAML, values that are not what the Compose Specification
/// asks for, and what this program does not support.
pub fn load(request: &LoadRequest, files: &dyn Files) -> Result<Loaded, LoadFailure> {
    typed(request, files, true)
}

/// Loads a project whether or not this host can run it: what describes a stack
/// without running it.
///
/// # Errors
/// [`LoadFailure`], as [`load`], but for what is not supported.
pub fn load_any(request: &LoadRequest, files: &dyn Files) -> Result<Loaded, LoadFailure> {
    typed(request, files, false)
}

fn typed(request: &LoadRequest, files: &dyn Files, to_run: bool) -> Result<Loaded, LoadFailure> {
    let mut report = Report::default();
    let model = build(request, Rules::default(), files, &mut report);
    let Some(model) = model else {
        return Err(failure(report));
    };
    if to_run {
        unsupported::check(&model.document, &mut report);
    }
    let project = decode::project(&model, &mut report);
    if report.has_errors() {
        return Err(failure(report));
    }
    Ok(Loaded {
        project,
        model,
        warnings: report.into_diagnostics(),
    })
}

/// Loads what `config` prints: everything the Compose Specification knows,
/// whether it can be run or not.
///
/// # Errors
/// [`LoadFailure`], as [`load`], but for what is not supported.
pub fn load_model(
    request: &LoadRequest,
    rules: Rules,
    files: &dyn Files,
) -> Result<(Model, Vec<Diagnostic>), LoadFailure> {
    let mut report = Report::new(stack::Options {
        interpolate: rules.interpolate,
        resolve_paths: rules.resolve_paths,
        trace: rules.trace,
    });
    match build(request, rules, files, &mut report) {
        Some(model) if !report.has_errors() => Ok((model, report.into_diagnostics())),
        _ => Err(failure(report)),
    }
}

fn failure(report: Report) -> LoadFailure {
    LoadFailure {
        inputs: report.inputs(),
        diagnostics: report.into_diagnostics(),
    }
}

/// The model, as far as it goes; `None` when there is no document to speak of.
fn build(request: &LoadRequest, rules: Rules, files: &dyn Files, report: &mut Report) -> Option<Model> {
    let wanted = Wanted {
        cwd: &request.cwd,
        files: &request.files,
        stdin: request.stdin.as_deref(),
        project_directory: request.project_directory.as_deref(),
        env_files: &request.env_files,
        environment: &request.environment,
    };
    let found = stack::discover(&wanted, files, report)?;
    let mut environment = found.environment;
    let name = project_name(request, &found.files, &found.working_dir, &environment, report)?;
    environment.insert("COMPOSE_PROJECT_NAME".to_owned(), name.clone());
    let config_files = found
        .files
        .iter()
        .filter(|file| file.path.as_os_str() != "-")
        .map(|file| file.path.clone())
        .collect();
    let mut document = stack::assemble(
        found.files,
        &found.working_dir,
        &request.cwd,
        &environment,
        files,
        report,
    );
    stack::check_complete(&document, report);
    check::resources(&document, report);
    if rules.normalize {
        let outside = rules.resolve_environment.then_some(&environment);
        normalise::normalise(&mut document, &name, outside, report);
    } else {
        let place = document.place;
        document.set("name", Node::text(name.clone(), place));
    }

    // What is not interpolated is not asked what it means.
    let profiles = if rules.interpolate {
        active_profiles(request, &environment)
    } else {
        BTreeSet::from(["*".to_owned()])
    };
    let (disabled, all_profiles) = select(&mut document, &profiles, &request.services, report);
    if rules.consistency {
        check_consistency(&document, &disabled, report);
    }
    drop_optional_dependencies(&mut document, &disabled);
    if let Some(services) = document.get_mut("services").and_then(Node::as_map_mut) {
        for (service, entry) in services {
            if entry.node.as_map().is_some() && rules.interpolate {
                let node = &mut entry.node;
                let folders = normalise::Folders {
                    cwd: &request.cwd,
                    project: &found.working_dir,
                };
                if rules.resolve_environment {
                    normalise::read_env_files(service, node, &environment, folders, files, report);
                }
                normalise::read_label_files(service, node, folders, files, report);
            }
        }
    }
    if !rules.all_resources && rules.interpolate {
        drop_unused(&mut document);
    }
    Some(Model {
        name,
        working_dir: found.working_dir,
        config_files,
        inputs: report.inputs(),
        environment,
        document,
        disabled,
        profiles: all_profiles,
        history: if rules.trace {
            report.history()
        } else {
            History::default()
        },
    })
}

/// Lower case, without what a project name must not have.
fn normal_name(text: &str) -> String {
    let text: String = text
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'))
        .collect();
    text.trim_start_matches(['_', '-']).to_owned()
}

fn project_name(
    request: &LoadRequest,
    parsed: &[stack::ParsedFile],
    working_dir: &Path,
    environment: &Environment,
    report: &mut Report,
) -> Option<String> {
    let given = request.project_name.as_deref().filter(|name| !name.is_empty());
    let given = given.or_else(|| {
        environment
            .get("COMPOSE_PROJECT_NAME")
            .map(String::as_str)
            .filter(|name| !name.is_empty())
    });
    if let Some(given) = given {
        if normal_name(given) == given {
            return Some(given.to_owned());
        }
        report.push(
            Diagnostic::error(
                Code::Schema,
                format!(
                    "invalid project name {given:?}: must consist only of lowercase alphanumeric characters, \
                     hyphens, and underscores as well as start with a letter or number"
                ),
            )
            .hint(format!("{:?} would do", normal_name(given))),
        );
        return None;
    }
    let name = match stack::declared_name(parsed, environment) {
        Some(declared) => normal_name(&declared),
        None => normal_name(&working_dir.file_name().unwrap_or_default().to_string_lossy()),
    };
    if name.is_empty() {
        report.push(
            Diagnostic::error(Code::Schema, "project name must not be empty")
                .hint("give it one with -p, COMPOSE_PROJECT_NAME or a top-level `name`"),
        );
        return None;
    }
    Some(name)
}

fn active_profiles(request: &LoadRequest, environment: &Environment) -> BTreeSet<String> {
    if !request.profiles.is_empty() {
        return request.profiles.iter().cloned().collect();
    }
    // Without one, a profile without a name is active, as in docker compose.
    let list = environment.get("COMPOSE_PROFILES").map_or("", String::as_str);
    list.split(',').map(|profile| profile.trim().to_owned()).collect()
}

/// What to name in place of a service that is not there.
fn suggestion(name: &str, known: &[&str]) -> String {
    // A slip of the hand spares the first letter, mostly.
    let near = known
        .iter()
        .map(|key| {
            let distance = strsim::damerau_levenshtein(key, name);
            (distance, key.chars().next() != name.chars().next(), key)
        })
        .min()
        .filter(|(distance, _, key)| *distance <= 2 && *distance < key.len());
    match near {
        Some((_, _, key)) => format!("did you mean `{key}`?"),
        None if known.is_empty() => "the stack has no services".to_owned(),
        None => format!("the services of the stack are {}", known.join(", ")),
    }
}

/// Takes the services out that are switched off; returns them, and all
/// profiles there are.
fn select(
    document: &mut Node,
    active: &BTreeSet<String>,
    named: &[String],
    report: &mut Report,
) -> (BTreeMap<String, Vec<String>>, Vec<String>) {
    let mut disabled = BTreeMap::new();
    let mut all = BTreeSet::new();
    let services = document.get_mut("services").and_then(Node::as_map_mut);
    if let Some(services) = services {
        for name in named {
            if !services.contains_key(name) {
                let known: Vec<&str> = services.keys().map(|key| key.as_str()).collect();
                report.push(
                    Diagnostic::error(Code::Reference, format!("no such service: {name}"))
                        .hint(suggestion(name, &known)),
                );
            }
        }
        services.retain(|name, entry| {
            let profiles: Vec<String> = entry
                .node
                .get("profiles")
                .into_iter()
                .flat_map(Node::items)
                .filter_map(|item| item.as_text().map(str::to_owned))
                .collect();
            all.extend(profiles.iter().cloned());
            let enabled = profiles.is_empty()
                || active.contains("*")
                || profiles.iter().any(|profile| active.contains(profile))
                || named.iter().any(|named| named == name);
            if !enabled {
                disabled.insert(name.to_string(), profiles);
            }
            enabled
        });
    }
    (disabled, all.into_iter().collect())
}

fn check_consistency(document: &Node, disabled: &BTreeMap<String, Vec<String>>, report: &mut Report) {
    let context = check::Context { document, disabled };
    let services = document.get("services").and_then(Node::as_map);
    for (name, entry) in services.into_iter().flatten() {
        if entry.node.as_map().is_some() && !report.is_poisoned(name) {
            check::service(name, entry.key, &entry.node, context, report);
        }
    }
    check::container_names(document, report);
    check::cycles(document, report);
    check::secrets(document, report);
}

/// Takes out dependencies that are not required and are switched off.
fn drop_optional_dependencies(document: &mut Node, disabled: &BTreeMap<String, Vec<String>>) {
    let Some(services) = document.get_mut("services").and_then(Node::as_map_mut) else {
        return;
    };
    for entry in services.values_mut() {
        let Some(named) = entry.node.get_mut("depends_on").and_then(Node::as_map_mut) else {
            continue;
        };
        named.retain(|name, dependency| {
            !disabled.contains_key(name.as_str())
                || dependency.node.get("required").and_then(Node::as_bool) != Some(false)
        });
    }
}

/// Takes out the networks, volumes, configs and secrets that no service uses.
fn drop_unused(document: &mut Node) {
    let mut used: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut add = |section: &'static str, name: &str| {
        used.entry(section).or_default().insert(name.to_owned());
    };
    for (_, service) in check::section(document, "services") {
        for (network, _) in service.get("networks").into_iter().flat_map(Node::entries) {
            add("networks", network);
        }
        for (model, _) in service.get("models").into_iter().flat_map(Node::entries) {
            add("models", model);
        }
        for mount in service.get("volumes").into_iter().flat_map(Node::items) {
            if mount.text_of("type") == Some("volume")
                && let Some(source) = mount.text_of("source")
            {
                add("volumes", source);
            }
        }
        for section in ["configs", "secrets"] {
            for grant in service.get(section).into_iter().flat_map(Node::items) {
                if let Some(source) = grant.text_of("source") {
                    add(section, source);
                }
            }
        }
        if let Some(secrets) = service.get("build").and_then(|build| build.get("secrets")) {
            for grant in secrets.items() {
                if let Some(source) = grant.text_of("source") {
                    add("secrets", source);
                }
            }
        }
    }
    for section in ["networks", "volumes", "configs", "secrets", "models"] {
        let names = used.remove(section).unwrap_or_default();
        if let Some(resources) = document.get_mut(section).and_then(Node::as_map_mut) {
            resources.retain(|name, _| names.contains(name.as_str()));
        }
    }
}

/// Where the values of a document stand, by dotted path; keys of services and
/// resources, their fields, and one level below.
pub(super) fn origins(document: &Node, report: &Report) -> BTreeMap<String, stack::Origin> {
    let mut origins = BTreeMap::new();
    let mut add = |trail: &Trail<'_>, entry: &stack::Entry| {
        let place = match entry.node.value {
            stack::Value::Map(_) | stack::Value::List(_) => entry.key,
            _ => entry.node.place,
        };
        if let Some(origin) = report.origin(place) {
            origins.insert(trail.to_string(), origin);
        }
    };
    let root = Trail::Root;
    for (section, entry) in document.as_map().into_iter().flatten() {
        let trail = root.key(section);
        add(&trail, entry);
        for (name, entry) in entry.node.as_map().into_iter().flatten() {
            let trail = trail.key(name);
            add(&trail, entry);
            for (field, entry) in entry.node.as_map().into_iter().flatten() {
                let trail = trail.key(field);
                add(&trail, entry);
                for (key, entry) in entry.node.as_map().into_iter().flatten() {
                    add(&trail.key(key), entry);
                }
            }
        }
    }
    origins
}

//! Files to one document: parse, interpolate, check, lengthen, include,
//! extend, merge.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::canonical::canonicalise;
use super::diagnostic::{Code, Diagnostic};
use super::dotenv;
use super::fields::STACK_FORM;
use super::interpolate::{Environment, interpolate, substitute};
use super::merge::{merge, unify};
use super::parse::parse;
use super::paths;
use super::source::{FileKind, Files, Report};
use super::tree::{Mapping, Node, Tag, Trail, Value};
use super::validate::check;

/// Includes and chains of `extends` may be so long.
const LONGEST_CHAIN: usize = 50;

/// A stack file that was read and parsed, before anything else.
#[derive(Clone, Debug)]
pub struct ParsedFile {
    /// The file, absolute; `-` for standard input.
    pub path: PathBuf,
    /// Its documents.
    pub documents: Vec<Node>,
}

/// What a file is called in messages: as seen from the working directory.
pub(super) fn display_name<'p>(path: &'p Path, cwd: &Path) -> &'p Path {
    match path.strip_prefix(cwd) {
        Ok(relative) if !relative.as_os_str().is_empty() => relative,
        _ => path,
    }
}

/// A system's reason without its number, in lower case.
pub(super) fn io_reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text
        .split_once(" (os error")
        .map_or(text.as_str(), |(text, _)| text);
    let mut characters = text.chars();
    characters
        .next()
        .map(|first| first.to_lowercase().chain(characters).collect())
        .unwrap_or_default()
}

/// Reads the text of a file; says why when it cannot.
pub(super) fn read_text(path: &Path, cwd: &Path, files: &dyn Files, report: &mut Report) -> Option<String> {
    report.add_input(path);
    let bytes = match files.read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let reason = if files.kind(path) == Some(FileKind::Folder) {
                "is a directory".to_owned()
            } else {
                io_reason(&error)
            };
            report.push(Diagnostic::error(
                Code::File,
                format!("open {}: {reason}", path.display()),
            ));
            return None;
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let before = error
                .as_bytes()
                .get(..error.utf8_error().valid_up_to())
                .unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            report.push(Diagnostic::error(
                Code::Syntax,
                format!(
                    "failed to parse {}: line {line}: not UTF-8 text",
                    display_name(path, cwd).display()
                ),
            ));
            None
        }
    }
}

/// Parses the text of a stack file.
pub fn parse_file(path: &Path, cwd: &Path, text: &str, report: &mut Report) -> Option<ParsedFile> {
    let source = report.add_source(display_name(path, cwd), text);
    Some(ParsedFile {
        path: path.to_owned(),
        documents: parse(text, source, report)?,
    })
}

/// Reads and parses a stack file.
pub fn read_file(path: &Path, cwd: &Path, files: &dyn Files, report: &mut Report) -> Option<ParsedFile> {
    let text = read_text(path, cwd, files, report)?;
    parse_file(path, cwd, &text, report)
}

/// The `name` that the last file gives the project, interpolated.
pub fn declared_name(files: &[ParsedFile], environment: &Environment) -> Option<String> {
    let name = files
        .iter()
        .flat_map(|file| &file.documents)
        .filter_map(|document| document.text_of("name"))
        .rfind(|name| !name.is_empty())?;
    let lookup = |name: &str| environment.get(name).map(|value| Cow::Borrowed(value.as_str()));
    // What is wrong with it is reported when the document is interpolated.
    let name = substitute(name, &lookup, &mut |_| {}).ok()?;
    Some(name.into_owned())
}

/// Makes one document, in its long form and with absolute paths, of parsed
/// files, the later ones over the earlier ones.
pub fn assemble(
    parsed: Vec<ParsedFile>,
    working_dir: &Path,
    cwd: &Path,
    environment: &Environment,
    files: &dyn Files,
    report: &mut Report,
) -> Node {
    let mut assembly = Assembly {
        files,
        cwd,
        report,
        included: Vec::new(),
    };
    assembly.stack(parsed, working_dir, environment)
}

struct Assembly<'a> {
    files: &'a dyn Files,
    cwd: &'a Path,
    report: &'a mut Report,
    /// The files that led here through `include`.
    included: Vec<PathBuf>,
}

/// What the files of one stack, or of one include, have in common.
struct Context<'a> {
    working_dir: &'a Path,
    environment: &'a Environment,
    /// Files that services were taken from by `extends`.
    extended: HashMap<PathBuf, Option<Rc<Node>>>,
}

/// Where a chain of `extends` is.
struct Chain<'a> {
    file: &'a Path,
    /// What `extends.file` is relative to.
    base: &'a Path,
    services: &'a Mapping,
}

impl Assembly<'_> {
    fn stack(&mut self, parsed: Vec<ParsedFile>, working_dir: &Path, environment: &Environment) -> Node {
        let mut context = Context {
            working_dir,
            environment,
            extended: HashMap::new(),
        };
        let mut merged: Option<Node> = None;
        for file in parsed {
            for document in file.documents {
                let Some(mut document) = self.prepare(document, environment) else {
                    continue;
                };
                self.include(&mut document, &file.path, &context);
                self.extend(&mut document, &file.path, &mut context);
                let merged = match &mut merged {
                    None => merged.insert(document),
                    Some(merged) => {
                        merge(merged, document, Some(&STACK_FORM), &Trail::Root, self.report);
                        merged
                    }
                };
                merged.settle();
                unify(merged, &STACK_FORM);
            }
        }
        let mut merged = merged.unwrap_or_else(|| Node::map(super::source::Place::NOWHERE));
        defaults(&mut merged);
        paths::resolve(
            &mut merged,
            working_dir,
            environment.get("HOME").map(String::as_str),
        );
        merged
    }

    /// One document, alone, in its long form.
    fn prepare(&mut self, mut document: Node, environment: &Environment) -> Option<Node> {
        if document.as_map().is_none() {
            self.report
                .error(document.place, Code::Schema, "top-level object must be a mapping");
            return None;
        }
        interpolate(
            &mut document,
            Some(&STACK_FORM),
            &Trail::Root,
            environment,
            self.report,
        );
        check(&mut document, &STACK_FORM, &Trail::Root, self.report);
        if let Some(version) = document.take("version") {
            self.report.warning(
                version.place,
                "the attribute `version` is obsolete, it will be ignored, please remove it to avoid potential confusion",
            );
        }
        canonicalise(&mut document, &STACK_FORM, &Trail::Root, self.report);
        unify(&mut document, &STACK_FORM);
        Some(document)
    }

    /// Takes in what a document includes.
    fn include(&mut self, document: &mut Node, file: &Path, context: &Context<'_>) {
        let Some(include) = document.take("include") else {
            return;
        };
        self.included.push(file.to_owned());
        for item in include.items() {
            let Some(imported) = self.included_stack(item, context) else {
                continue;
            };
            self.import(document, imported);
        }
        self.included.pop();
    }

    fn included_stack(&mut self, item: &Node, context: &Context<'_>) -> Option<Node> {
        let place = item.place;
        let home = context.environment.get("HOME").map(String::as_str);
        let at = |path: &str, base: &Path| paths::absolute(path, base, home);
        let texts = |node: Option<&Node>| -> Vec<String> {
            match node.map(|node| &node.value) {
                Some(Value::Text(text)) => vec![text.clone()],
                Some(Value::List(list)) => list
                    .iter()
                    .filter_map(|item| item.as_text().map(str::to_owned))
                    .collect(),
                _ => Vec::new(),
            }
        };
        let listed = match item.as_text() {
            Some(text) => vec![text.to_owned()],
            None => texts(item.get("path")),
        };
        let include_paths: Vec<PathBuf> = listed.iter().map(|path| at(path, context.working_dir)).collect();
        let Some(main) = include_paths.first() else {
            self.report
                .error(place, Code::Schema, "include: a path is needed");
            return None;
        };
        let cycle = self.included.iter().position(|file| file == main);
        if cycle.is_some() || self.included.len() >= LONGEST_CHAIN {
            let chain: Vec<_> = self
                .included
                .iter()
                .skip(1)
                .chain([main])
                .map(|file| format!("\n include {}", file.display()))
                .collect();
            let first = self.included.first().map(|file| file.display().to_string());
            self.report.error(
                place,
                Code::Reference,
                format!(
                    "include cycle detected:\n{}{}",
                    first.unwrap_or_default(),
                    chain.concat()
                ),
            );
            return None;
        }
        let working_dir = match item.text_of("project_directory") {
            Some(folder) if !folder.is_empty() => at(folder, context.working_dir),
            _ => main.parent().unwrap_or(Path::new("/")).to_owned(),
        };
        let env_files = texts(item.get("env_file"));
        let env_files: Vec<PathBuf> = if env_files.is_empty() {
            let default = working_dir.join(".env");
            self.report.add_input(&default);
            if self.files.kind(&default) == Some(FileKind::File) {
                vec![default]
            } else {
                Vec::new()
            }
        } else {
            env_files
                .iter()
                .filter(|path| path.as_str() != "/dev/null")
                .map(|path| at(path, context.working_dir))
                .collect()
        };
        let mut environment = context.environment.clone();
        for path in &env_files {
            if self.files.kind(path).is_none() {
                self.report.add_input(path);
                self.report.error(
                    place,
                    Code::File,
                    format!("stat {}: no such file or directory", path.display()),
                );
                return None;
            }
        }
        let found = read_environment(&env_files, context.environment, self.cwd, self.files, self.report)?;
        for (name, value) in found {
            environment.entry(name).or_insert(value);
        }
        let mut parsed = Vec::new();
        for path in &include_paths {
            parsed.push(read_file(path, self.cwd, self.files, self.report)?);
        }
        Some(self.stack(parsed, &working_dir, &environment))
    }

    /// Puts the resources of an included stack into the including document.
    fn import(&mut self, document: &mut Node, imported: Node) {
        let Value::Map(sections) = imported.value else {
            return;
        };
        for (section, entry) in sections {
            let known = ["services", "volumes", "networks", "secrets", "configs", "models"];
            if !known.contains(&section.as_str()) {
                continue;
            }
            if document.get(&section).is_none_or(Node::is_null) {
                document.set(&section, entry.node);
                continue;
            }
            let Value::Map(resources) = entry.node.value else {
                continue;
            };
            for (name, resource) in resources {
                let Some(into) = document.get_mut(&section).and_then(Node::as_map_mut) else {
                    continue;
                };
                match into.get(&name) {
                    None => {
                        into.insert(name, resource);
                    }
                    Some(there) if same(&there.node, &resource.node) => {}
                    Some(there) => {
                        let elsewhere = self.report.origin(resource.key);
                        let diagnostic = Diagnostic::error(
                            Code::Conflict,
                            format!("{section}.{name} conflicts with imported resource"),
                        );
                        let diagnostic = match elsewhere {
                            Some(origin) => diagnostic.hint(format!("the other one is at {origin}")),
                            None => diagnostic,
                        };
                        self.report.push_at(there.key, diagnostic);
                    }
                }
            }
        }
    }

    /// Resolves `extends` in every service of a document.
    fn extend(&mut self, document: &mut Node, file: &Path, context: &mut Context<'_>) {
        let Some(services) = document.get("services").and_then(Node::as_map) else {
            return;
        };
        if !services.values().any(|entry| entry.node.get("extends").is_some()) {
            return;
        }
        let chain = Chain {
            file,
            base: context.working_dir,
            services,
        };
        let names: Vec<String> = services.keys().cloned().collect();
        let mut done = HashMap::new();
        for name in &names {
            self.extended_service(name, &chain, &mut Vec::new(), &mut done, context);
        }
        if let Some(services) = document.get_mut("services").and_then(Node::as_map_mut) {
            for (name, service) in done {
                if let Some(entry) = services.get_mut(&name) {
                    entry.node = service;
                }
            }
        }
    }

    /// A service with what it extends merged below it; `None` when that failed
    /// and was reported. `done` remembers the services of this file.
    fn extended_service(
        &mut self,
        name: &str,
        chain: &Chain<'_>,
        visited: &mut Vec<(PathBuf, String)>,
        done: &mut HashMap<String, Node>,
        context: &mut Context<'_>,
    ) -> Option<Node> {
        if let Some(service) = done.get(name) {
            return Some(service.clone());
        }
        let mut service = chain.services.get(name)?.node.clone();
        let Some(extends) = service.get("extends").cloned() else {
            return Some(service);
        };
        let step = (chain.file.to_owned(), name.to_owned());
        if visited.contains(&step) || visited.len() >= LONGEST_CHAIN {
            let way: Vec<_> = visited
                .iter()
                .chain([&step])
                .map(|(file, name)| format!("{name} in {}", display_name(file, self.cwd).display()))
                .collect();
            self.report.poison(name);
            self.report.error(
                extends.place,
                Code::Reference,
                format!("Circular reference: {}", way.join(" extends ")),
            );
            return None;
        }
        visited.push(step);
        let base = self.extended_base(name, &extends, chain, visited, done, context);
        visited.pop();
        let Some(mut base) = base else {
            self.report.poison(name);
            return None;
        };
        if base.is_null() {
            done.insert(name.to_owned(), service.clone());
            return Some(service);
        }
        base.take("extends");
        base.settle();
        if service.tag == Tag::None {
            service.take("extends");
        }
        let root = Trail::Root;
        let services = root.key("services");
        let trail = services.key(name);
        merge(
            &mut base,
            service,
            STACK_FORM.below("services").and_then(|form| form.values),
            &trail,
            self.report,
        );
        done.insert(name.to_owned(), base.clone());
        Some(base)
    }

    fn extended_base(
        &mut self,
        name: &str,
        extends: &Node,
        chain: &Chain<'_>,
        visited: &mut Vec<(PathBuf, String)>,
        done: &mut HashMap<String, Node>,
        context: &mut Context<'_>,
    ) -> Option<Node> {
        let place = extends.place;
        let Some(base) = extends.text_of("service").map(str::to_owned) else {
            self.report
                .error(place, Code::Schema, format!("extends.{name}.service is required"));
            return None;
        };
        let here = display_name(chain.file, self.cwd).display().to_string();
        let not_found = |elsewhere: &str| {
            format!("cannot extend service {name:?} in {here}: service {base:?} not found{elsewhere}")
        };
        let poisoned = |report: &mut Report| {
            if report.is_poisoned(&base) {
                report.poison(name);
            }
        };
        let Some(file) = extends.text_of("file") else {
            if !chain.services.contains_key(&base) {
                self.report.error(place, Code::Reference, not_found(""));
                return None;
            }
            let service = self.extended_service(&base, chain, visited, done, context);
            poisoned(self.report);
            return service;
        };
        let home = context.environment.get("HOME").map(String::as_str);
        let path = paths::absolute(file, chain.base, home);
        let document = match context.extended.get(&path) {
            Some(document) => document.clone(),
            None => {
                let document = self.extended_file(&path, context.environment).map(Rc::new);
                context.extended.insert(path.clone(), document.clone());
                document
            }
        }?;
        let Some(services) = document.get("services").and_then(Node::as_map) else {
            self.report.error(
                place,
                Code::Reference,
                format!(
                    "cannot extend service {name:?} in {}: no services section",
                    path.display()
                ),
            );
            return None;
        };
        if !services.contains_key(&base) {
            self.report
                .error(place, Code::Reference, not_found(&format!(" in {file}")));
            return None;
        }
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let chain = Chain {
            file: &path,
            base: &folder,
            services,
        };
        let service = self.extended_service(&base, &chain, visited, &mut HashMap::new(), context);
        poisoned(self.report);
        service
    }

    /// The document of a file that a service is taken from.
    fn extended_file(&mut self, path: &Path, environment: &Environment) -> Option<Node> {
        let parsed = read_file(path, self.cwd, self.files, self.report)?;
        let mut merged: Option<Node> = None;
        for document in parsed.documents {
            let document = self.prepare(document, environment)?;
            match &mut merged {
                None => merged = Some(document),
                Some(merged) => merge(merged, document, Some(&STACK_FORM), &Trail::Root, self.report),
            }
        }
        let mut merged = merged.unwrap_or_else(|| Node::map(super::source::Place::NOWHERE));
        merged.settle();
        let folder = path.parent().unwrap_or(Path::new("/"));
        paths::resolve(&mut merged, folder, environment.get("HOME").map(String::as_str));
        Some(merged)
    }
}

/// Defaults that depend on the folder a stack is in, or on nothing else.
fn defaults(document: &mut Node) {
    let Some(services) = document.get_mut("services").and_then(Node::as_map_mut) else {
        return;
    };
    for entry in services.values_mut() {
        let service = &mut entry.node;
        if let Some(build) = service.get_mut("build")
            && build.as_map().is_some()
            && build.get("context").is_none_or(Node::is_null)
        {
            let place = build.place;
            build.set("context", Node::text(".", place));
        }
        let all_devices = |requests: Option<&mut Node>| {
            if let Some(Value::List(requests)) = requests.map(|node| &mut node.value) {
                for request in requests {
                    if request.as_map().is_some()
                        && request.get("count").is_none()
                        && request.get("device_ids").is_none()
                    {
                        request.set("count", Node::new(Value::Int(-1), request.place));
                    }
                }
            }
        };
        all_devices(service.get_mut("gpus"));
        let reservations = service.get_mut("deploy").and_then(|deploy| {
            deploy
                .get_mut("resources")?
                .get_mut("reservations")?
                .get_mut("devices")
        });
        all_devices(reservations);
    }
}

/// Whether two values are the same, wherever they are written.
fn same(one: &Node, other: &Node) -> bool {
    match (&one.value, &other.value) {
        (Value::List(one), Value::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Map(one), Value::Map(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, entry)| other.get(key).is_some_and(|there| same(&entry.node, &there.node)))
        }
        (one, other) => one == other,
    }
}

/// The variables of environment files, later files over earlier ones; names
/// without a value and variables in values look into `environment` first.
/// `None` when one of them cannot be read; the report has the reason.
pub(super) fn read_environment(
    env_files: &[PathBuf],
    environment: &Environment,
    cwd: &Path,
    files: &dyn Files,
    report: &mut Report,
) -> Option<Environment> {
    let mut found = Environment::new();
    for path in env_files {
        report.add_input(path);
        match files.kind(path) {
            None => {
                report.push(Diagnostic::error(
                    Code::File,
                    format!("couldn't find env file: {}", path.display()),
                ));
                return None;
            }
            Some(FileKind::Folder) => {
                report.push(Diagnostic::error(
                    Code::File,
                    format!("{} is a directory", path.display()),
                ));
                return None;
            }
            Some(FileKind::File) => {}
        }
        let text = read_text(path, cwd, files, report)?;
        let lookup = |name: &str| environment.get(name).or_else(|| found.get(name)).cloned();
        let variables = parse_dotenv(path, &text, &lookup, cwd, report)?;
        found.extend(variables);
    }
    Some(found)
}

/// The variables of a service's environment or label file, in order. `place` is where
/// the file is named. `None` when it cannot be read; the report has the reason.
/// A file that is not `required` may be missing.
pub fn read_env_file(
    request: &EnvFileRequest<'_>,
    lookup: &dyn Fn(&str) -> Option<String>,
    files: &dyn Files,
    report: &mut Report,
) -> Option<indexmap::IndexMap<String, String>> {
    let path = request.path;
    if files.kind(path).is_none() {
        report.add_input(path);
        if !request.required {
            return Some(indexmap::IndexMap::new());
        }
        let message = format!(
            "{} file {1} not found: stat {1}: no such file or directory",
            request.what,
            path.display()
        );
        report.error(request.place, Code::File, message);
        return None;
    }
    let text = read_text(path, request.cwd, files, report)?;
    match request.format {
        None | Some("") => parse_dotenv(path, &text, lookup, request.cwd, report),
        Some("raw") => Some(dotenv::parse_raw(&text, lookup)),
        Some(other) => {
            report.error(
                request.place,
                Code::Schema,
                format!("unsupported env_file format {other:?}: only raw is known"),
            );
            None
        }
    }
}

/// A service's environment or label file.
#[derive(Clone, Copy, Debug)]
pub struct EnvFileRequest<'a> {
    /// What it holds: `env` or `label`.
    pub what: &'a str,
    /// The file, absolute.
    pub path: &'a Path,
    /// `raw`, or none.
    pub format: Option<&'a str>,
    /// It must be there.
    pub required: bool,
    /// Where it is named.
    pub place: super::source::Place,
    /// The working directory, for messages.
    pub cwd: &'a Path,
}

/// Parses an environment file; says what is wrong with it, and which variables
/// it uses are not set.
pub(super) fn parse_dotenv(
    path: &Path,
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    cwd: &Path,
    report: &mut Report,
) -> Option<indexmap::IndexMap<String, String>> {
    use super::source::Place;
    let name = display_name(path, cwd);
    let mut unset = Vec::new();
    let result = dotenv::parse(text, lookup, &mut |variable| unset.push(variable.to_owned()));
    if unset.is_empty() && result.is_ok() {
        return result.ok();
    }
    let source = report.add_source(name, text);
    for variable in unset {
        report.warn_unset(Place::new(source, 1, 1), &variable);
    }
    match result {
        Ok(variables) => Some(variables),
        Err(error) => {
            report.error(
                Place::new(source, error.line(), 1),
                Code::Syntax,
                format!("failed to read {}: {error}", name.display()),
            );
            None
        }
    }
}

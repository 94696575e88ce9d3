//! Files to one document: interpolate, check, lengthen, include, extend, merge.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::canonical::canonicalise;
use super::diagnostic::Code;
use super::fields::STACK_FORM;
use super::interpolate::{Environment, interpolate, substitute};
use super::merge::{merge, unify};
use super::paths;
use super::read::ParsedFile;
use super::source::{Files, Place, Report};
use super::tree::{Node, Trail, Value};
use super::validate::check;

/// Includes and chains of `extends` may be so long.
pub(super) const LONGEST_CHAIN: usize = 50;

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

pub(super) struct Assembly<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) cwd: &'a Path,
    pub(super) report: &'a mut Report,
    /// The files that led here through `include`.
    pub(super) included: Vec<PathBuf>,
}

/// What the files of one stack, or of one include, have in common.
pub(super) struct Context<'a> {
    pub(super) working_dir: &'a Path,
    pub(super) environment: &'a Environment,
    /// Files that services were taken from by `extends`.
    pub(super) extended: HashMap<PathBuf, Option<Rc<Node>>>,
}

impl Assembly<'_> {
    pub(super) fn stack(
        &mut self,
        parsed: Vec<ParsedFile>,
        working_dir: &Path,
        environment: &Environment,
    ) -> Node {
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
                let extended = self.extend(&mut document, &file.path, &mut context);
                // A document that stands alone is in order already.
                let mut joined = extended || self.report.has_marks();
                let merged = match &mut merged {
                    None => merged.insert(document),
                    Some(merged) => {
                        merge(merged, document, Some(&STACK_FORM), &Trail::Root, self.report);
                        joined = true;
                        merged
                    }
                };
                if self.report.has_marks() {
                    merged.settle();
                }
                if joined {
                    unify(merged, &STACK_FORM, &Trail::Root, self.report);
                }
            }
        }
        let mut merged = merged.unwrap_or_else(|| Node::map(Place::NOWHERE));
        defaults(&mut merged);
        if self.report.options().resolve_paths {
            paths::resolve(
                &mut merged,
                working_dir,
                environment.get("HOME").map(String::as_str),
            );
        }
        merged
    }

    /// One document, alone, in its long form.
    pub(super) fn prepare(&mut self, mut document: Node, environment: &Environment) -> Option<Node> {
        if document.as_map().is_none() {
            self.report
                .error(document.place, Code::Schema, "top-level object must be a mapping");
            return None;
        }
        if self.report.options().interpolate {
            interpolate(
                &mut document,
                Some(&STACK_FORM),
                &Trail::Root,
                environment,
                self.report,
            );
        }
        check(&mut document, &STACK_FORM, &Trail::Root, self.report);
        if document.get("version").is_some_and(Node::is_null) {
            let place = document
                .get("version")
                .map_or(document.place, |version| version.place);
            self.report.error(place, Code::Schema, "version must be a string");
        }
        if let Some(version) = document.take("version") {
            self.report.warning(
                version.place,
                "the attribute `version` is obsolete, it will be ignored, please remove it to avoid potential confusion",
            );
        }
        canonicalise(&mut document, &STACK_FORM, &Trail::Root, self.report);
        unify(&mut document, &STACK_FORM, &Trail::Root, self.report);
        Some(document)
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
            && build.get("context").is_none()
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

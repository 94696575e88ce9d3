//! `extends`: a service built upon another one, of this file or another.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::assemble::{Assembly, Context, LONGEST_CHAIN};
use super::diagnostic::Code;
use super::fields::STACK_FORM;
use super::interpolate::Environment;
use super::merge::merge;
use super::paths;
use super::read::{display_name, read_file};
use super::source::{Place, Report};
use super::trace::Via;
use super::tree::{Mapping, Node, Tag, Trail};

/// Where a chain of `extends` is.
struct Chain<'a> {
    file: &'a Path,
    /// What `extends.file` is relative to.
    base: &'a Path,
    services: &'a Mapping,
}

impl Assembly<'_> {
    /// Resolves `extends` in every service of a document; whether there was one.
    pub(super) fn extend(&mut self, document: &mut Node, file: &Path, context: &mut Context<'_>) -> bool {
        let Some(services) = document.get("services").and_then(Node::as_map) else {
            return false;
        };
        if !services.values().any(|entry| entry.node.get("extends").is_some()) {
            return false;
        }
        let chain = Chain {
            file,
            base: context.working_dir,
            services,
        };
        let names: Vec<String> = services.keys().map(ToString::to_string).collect();
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
        true
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
        if visited.len() >= LONGEST_CHAIN {
            self.report.poison(name);
            let message = format!("services are extended more than {LONGEST_CHAIN} times over");
            self.report.error(extends.place, Code::Reference, message);
            return None;
        }
        if visited.contains(&step) {
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
        if let Some(trace) = self.report.trace() {
            trace.add_extended(name, extends.place, &base);
        }
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
                let before = self.report.come_by(Via::Extends(place));
                let document = self.extended_file(&path, context.environment).map(Rc::new);
                self.report.come_by(before);
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
        let mut merged = merged.unwrap_or_else(|| Node::map(Place::NOWHERE));
        merged.settle();
        let folder = path.parent().unwrap_or(Path::new("/"));
        if self.report.options().resolve_paths {
            paths::resolve(&mut merged, folder, environment.get("HOME").map(String::as_str));
        }
        Some(merged)
    }
}

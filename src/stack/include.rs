//! `include`: other stacks, each with its own folder and variables, whose
//! resources become part of this one.

use std::path::{Path, PathBuf};

use super::assemble::{Assembly, Context, LONGEST_CHAIN};
use super::diagnostic::{Code, Diagnostic};
use super::paths;
use super::read::{read_environment, read_file};
use super::source::FileKind;
use super::trace::Via;
use super::tree::{Node, Value};

impl Assembly<'_> {
    /// Takes in what a document includes.
    pub(super) fn include(&mut self, document: &mut Node, file: &Path, context: &Context<'_>) {
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
                Some(Value::Text(text)) => vec![text.to_string()],
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
        let before = self.report.come_by(Via::Include(place));
        let mut parsed = Vec::new();
        for path in &include_paths {
            parsed.extend(read_file(path, self.cwd, self.files, self.report));
        }
        let stack =
            (parsed.len() == include_paths.len()).then(|| self.stack(parsed, &working_dir, &environment));
        self.report.come_by(before);
        stack
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

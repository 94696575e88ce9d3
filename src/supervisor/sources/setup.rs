//! Which rules are followed, out of a project.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use crate::project::{MountSource, Project, Service, WatchAction, WatchRule};
use crate::watch::{IgnoreFile, Rule};

/// What is to be followed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::supervisor) struct Setup {
    pub(super) services: Vec<Followed>,
    /// Tell of files that no rule takes, too.
    pub(super) explain: bool,
    /// What the user should know.
    pub(super) warnings: Vec<String>,
}

/// One service whose sources are followed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Followed {
    pub(super) name: String,
    pub(super) rules: Vec<RuleSetup>,
}

/// One rule, ready to be followed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RuleSetup {
    pub(super) watch: WatchRule,
    /// Number in the stack file, from 1.
    pub(super) number: usize,
    /// What is taken is copied: not so for `restart`, nor where a bind mount
    /// has it in the container anyway.
    pub(super) copies: bool,
}

impl Setup {
    /// The rules of the chosen services (all when none is named) and of what
    /// these depend on.
    pub(in crate::supervisor) fn new(project: &Project, chosen: &[String], explain: bool) -> Self {
        let chosen = closure(project, chosen);
        let (mut services, mut warnings) = (Vec::new(), Vec::new());
        for service in project.services.values() {
            if !chosen.contains(&service.name) {
                continue;
            }
            let mut rules = Vec::new();
            for (index, watch) in service.develop.iter().flat_map(|of| &of.watch).enumerate() {
                let mounted = is_mounted(service, watch);
                let number = index + 1;
                if mounted && watch.action == WatchAction::Sync {
                    warnings.push(format!(
                        "service \"{}\": {} is mounted into the container already: rule {number} has nothing to copy",
                        service.name,
                        watch.path.display()
                    ));
                    continue;
                }
                rules.push(RuleSetup {
                    watch: watch.clone(),
                    number,
                    copies: watch.action != WatchAction::Restart && !mounted,
                });
            }
            if !rules.is_empty() {
                services.push(Followed {
                    name: service.name.clone(),
                    rules,
                });
            }
        }
        Self {
            services,
            explain,
            warnings,
        }
    }

    /// Nothing is followed.
    pub(in crate::supervisor) fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// One line a rule: service, action, from where to where.
    pub(super) fn outline(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for service in &self.services {
            for rule in &service.rules {
                let to = match &rule.watch.target {
                    Some(target) if rule.copies => format!(" -> {target}"),
                    _ => String::new(),
                };
                lines.push(format!(
                    "{}: rule {}: {}: {}{to}",
                    service.name,
                    rule.number,
                    rule.action(),
                    rule.watch.path.display()
                ));
            }
        }
        lines
    }

    /// What is taken, for the tree.
    pub(super) fn rules(&self, project: &Project) -> Vec<Rule> {
        let rules = self.services.iter().flat_map(|followed| {
            let service = project.services.get(&followed.name);
            followed.rules.iter().map(move |rule| rule.rule(service))
        });
        rules.collect()
    }

    /// The names of the services.
    pub(in crate::supervisor) fn names(&self) -> Vec<String> {
        self.services.iter().map(|service| service.name.clone()).collect()
    }
}

/// The services and all that they depend on.
fn closure(project: &Project, chosen: &[String]) -> BTreeSet<String> {
    if chosen.is_empty() {
        return project.services.keys().cloned().collect();
    }
    let mut found = BTreeSet::new();
    let mut left: Vec<&String> = chosen.iter().collect();
    while let Some(name) = left.pop() {
        if found.insert(name.clone())
            && let Some(service) = project.services.get(name)
        {
            left.extend(service.depends_on.keys());
        }
    }
    found
}

/// Whether a bind mount has the rule's path at its target already.
fn is_mounted(service: &Service, rule: &WatchRule) -> bool {
    let Some(target) = &rule.target else { return false };
    let path = real(&rule.path);
    let target = clean(target);
    service.volumes.iter().any(|mount| match &mount.source {
        MountSource::Bind { path: source, .. } => {
            let rest = path.strip_prefix(real(source));
            // Elsewhere in the same mount, it would be written onto this machine.
            rest.is_ok() && target.starts_with(&mount.target)
        }
        _ => false,
    })
}

/// A path without links, as far as it is there.
fn real(path: &Path) -> PathBuf {
    for above in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (std::fs::canonicalize(above), path.strip_prefix(above)) {
            return if rest.as_os_str().is_empty() {
                real
            } else {
                real.join(rest)
            };
        }
    }
    path.to_owned()
}

/// A path in a container: absolute, without `.` and `..`.
fn clean(text: &str) -> PathBuf {
    let mut path = PathBuf::from("/");
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                path.pop();
            }
            _ => {}
        }
    }
    path
}

impl RuleSetup {
    /// What it takes, with the `.dockerignore` of the build context and that
    /// beside the files.
    pub(super) fn rule(&self, service: Option<&Service>) -> Rule {
        let path = real(&self.watch.path);
        let mut files = Vec::new();
        if let Some(build) = service.and_then(|service| service.build.as_ref())
            && let Some(context) = build.context.as_deref().filter(|text| text.starts_with('/'))
        {
            let context = real(Path::new(context));
            let dockerfile = context.join(build.dockerfile.as_deref().unwrap_or("Dockerfile"));
            let mut own = dockerfile.into_os_string();
            own.push(".dockerignore");
            let own = PathBuf::from(own);
            let file = if own.exists() {
                own
            } else {
                context.join(".dockerignore")
            };
            files.push(IgnoreFile::read(file, context));
        }
        let beside = path.join(".dockerignore");
        if path.is_dir() && !files.iter().any(|file: &IgnoreFile| file.file == beside) {
            files.push(IgnoreFile::read(beside, path.clone()));
        }
        Rule::new(path, &self.watch.include, &self.watch.ignore, files)
    }

    /// Where in the container an entry goes.
    pub(super) fn target(&self, relative: &Path) -> PathBuf {
        let text = self.watch.target.as_deref().unwrap_or("/");
        let target = clean(text);
        if !relative.as_os_str().is_empty() {
            return target.join(relative);
        }
        // A file into a folder.
        match self.watch.path.file_name() {
            Some(name) if text.ends_with('/') && !self.watch.path.is_dir() => target.join(name),
            _ => target,
        }
    }

    /// What tells this rule from others in a record.
    pub(super) fn key(&self) -> String {
        serde_json::to_string(&(&self.watch, self.copies)).unwrap_or_default()
    }

    /// The action as it is written.
    pub(super) fn action(&self) -> &'static str {
        match self.watch.action {
            WatchAction::Rebuild => "rebuild",
            WatchAction::Sync => "sync",
            WatchAction::Restart => "restart",
            WatchAction::SyncRestart => "sync+restart",
            WatchAction::SyncExec => "sync+exec",
        }
    }
}

//! One pass: what is there, what each container has of it, and the difference
//! copied. All of it blocks; it runs on a thread of its own, since the files of
//! a container that does not run are mounted where only that thread sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::setup::{RuleSetup, Setup};
use crate::host::{ContainerRecord, HostError, containers, files};
use crate::project::{Project, WatchAction};
use crate::store::{World, read_record, write_record};
use crate::watch::{Batch, Files, Kind, Root, Rule, Stamp, Verdict, below, scan};

/// What is known of the sources of one service, kept beside its containers.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// By rule: the image that sources were first seen with, and what they were
    /// then. A container made of it later has that, and not what was copied
    /// into the one before.
    baselines: BTreeMap<String, (String, Stamps)>,
    /// By container and rule: what it has.
    containers: BTreeMap<String, BTreeMap<String, Stamps>>,
}

/// [`Files`] as they are written: names that are no text are left out, which
/// has them copied again.
type Stamps = BTreeMap<String, Stamp>;

fn stamps(files: &Files) -> Stamps {
    let text = |(path, stamp): (&PathBuf, &Stamp)| Some((path.to_str()?.to_owned(), *stamp));
    files.iter().filter_map(text).collect()
}

fn unstamps(stamps: Stamps) -> Files {
    stamps
        .into_iter()
        .map(|(path, stamp)| (PathBuf::from(path), stamp))
        .collect()
}

/// The folder of the records of a stack.
pub(in crate::supervisor) fn folder(world: &World, project: &str) -> PathBuf {
    world.stack(project).join("sources")
}

/// The sources that are followed, and what containers have of them.
#[derive(Debug)]
pub(super) struct Work {
    world: World,
    project: String,
    services: Vec<Service>,
}

#[derive(Debug)]
struct Service {
    name: String,
    rules: Vec<Watched>,
    list: Vec<ContainerRecord>,
    /// Records differ from what is known.
    changed: bool,
    record: Record,
}

#[derive(Debug)]
struct Watched {
    setup: RuleSetup,
    rule: Rule,
    key: String,
    now: Files,
    baseline: (String, Files),
    /// What each container has, by id.
    applied: BTreeMap<String, Files>,
}

impl Watched {
    /// Something happened to a file that looks as before: what containers have
    /// of it is to be compared.
    fn doubt(&mut self, relative: &Path) {
        if !self.setup.copies {
            // What is only counted has no content to compare.
            return;
        }
        for has in self.applied.values_mut() {
            if let Some(stamp) = has.get_mut(relative) {
                *stamp = stamp.doubted();
            }
        }
    }
}

/// What a pass did for one rule.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) service: String,
    pub(super) rule: usize,
    pub(super) action: &'static str,
    /// What changed was copied; else it only counts.
    pub(super) copies: bool,
    /// What was copied: path here, path there.
    pub(super) copied: Vec<(PathBuf, PathBuf)>,
    /// What was removed there.
    pub(super) removed: Vec<(PathBuf, PathBuf)>,
    pub(super) errors: Vec<String>,
    /// What comes next.
    pub(super) then: Option<WatchAction>,
    /// The containers in which something changed, by id.
    pub(super) containers: BTreeSet<String>,
    /// The command of `sync+exec`.
    pub(super) exec: Option<crate::project::Hook>,
}

/// What is different between two states, in the order in which it is done.
#[derive(Debug, PartialEq)]
enum Difference {
    Gone(PathBuf, Kind),
    Here(PathBuf, Stamp),
}

fn differences(old: &Files, new: &Files) -> Vec<Difference> {
    let mut found = Vec::new();
    // What is in a folder goes before the folder; a folder comes before what is in it.
    for (path, stamp) in old.iter().rev() {
        if new.get(path).is_none_or(|now| now.kind != stamp.kind) {
            found.push(Difference::Gone(path.clone(), stamp.kind));
        }
    }
    for (path, stamp) in new {
        if old.get(path) != Some(stamp) {
            found.push(Difference::Here(path.clone(), *stamp));
        }
    }
    found
}

impl Work {
    /// Reads what is known, and what is there.
    ///
    /// # Errors
    /// When a source folder cannot be read.
    pub(super) fn begin(
        world: &World,
        name: &str,
        project: &Project,
        setup: &Setup,
    ) -> Result<Self, HostError> {
        let mut services = Vec::new();
        for followed in &setup.services {
            let path = folder(world, name).join(format!("{}.json", followed.name));
            // One that cannot be read is as good as none: what it says is only
            // what need not be copied.
            let record: Record = read_record(&path).unwrap_or_default().unwrap_or_default();
            let mut rules = Vec::new();
            for setup in &followed.rules {
                let rule = setup.rule(project.services.get(&followed.name));
                let now = scan(&rule).map_err(|source| HostError::Plan {
                    reason: format!(
                        "service \"{}\": watch rule {}: {source}",
                        followed.name, setup.number
                    ),
                })?;
                rules.push(Watched {
                    key: setup.key(),
                    setup: setup.clone(),
                    rule,
                    now,
                    baseline: Default::default(),
                    applied: BTreeMap::new(),
                });
            }
            services.push(Service {
                name: followed.name.clone(),
                rules,
                list: vec![],
                changed: false,
                record,
            });
        }
        Ok(Self {
            world: world.clone(),
            project: name.to_owned(),
            services,
        })
    }

    /// Whether a batch changes what the rules themselves say.
    pub(super) fn is_about_rules(&self, batch: &Batch) -> bool {
        let mut rules = self.services.iter().flat_map(|service| &service.rules);
        rules.any(|watched| batch.paths.iter().any(|path| watched.rule.reads(path)))
    }

    /// Why each of these paths is taken by no rule: service, rule and reason.
    pub(super) fn explain(&self, paths: &BTreeSet<PathBuf>) -> Vec<(PathBuf, String, usize, String)> {
        let mut lines = Vec::new();
        for path in paths {
            for service in &self.services {
                for watched in &service.rules {
                    if let Verdict::Passed(reason) = watched.rule.verdict(path) {
                        lines.push((path.clone(), service.name.clone(), watched.setup.number, reason));
                    }
                }
            }
        }
        lines
    }

    /// Takes in what has changed; `None` and a lost batch look at everything.
    fn look(&mut self, batch: Option<&Batch>) -> io::Result<()> {
        for watched in self.services.iter_mut().flat_map(|service| &mut service.rules) {
            let Some(batch) = batch.filter(|batch| !batch.lost) else {
                watched.now = scan(&watched.rule)?;
                continue;
            };
            for path in &batch.paths {
                let Some(relative) = watched.rule.relative(path) else {
                    if watched.rule.path.starts_with(path) {
                        watched.now = scan(&watched.rule)?;
                    }
                    continue;
                };
                let there = Stamp::at(path);
                let before = watched.now.get(relative).copied();
                if there.is_none_or(|stamp| stamp.kind != Kind::Folder) {
                    // With all that was below it.
                    let below: Vec<PathBuf> = watched
                        .now
                        .range(relative.to_owned()..)
                        .map(|(known, _)| known)
                        .take_while(|known| known.starts_with(relative))
                        .cloned()
                        .collect();
                    for path in below {
                        watched.now.remove(&path);
                    }
                }
                match there {
                    Some(stamp) if stamp.kind == Kind::Folder && !watched.now.contains_key(relative) => {
                        below(&watched.rule, path, &mut watched.now)?;
                    }
                    Some(stamp) if watched.rule.verdict(path) == Verdict::Taken => {
                        watched.now.insert(relative.to_owned(), stamp);
                        if before == Some(stamp) && stamp.kind == Kind::File {
                            watched.doubt(relative);
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Finds out which containers there are, and what new ones have.
    fn meet(&mut self) -> Result<(), HostError> {
        let all = containers(&self.world, &self.project)?;
        for service in &mut self.services {
            service.list = all
                .iter()
                .filter(|record| record.config.name == service.name && record.one_off.is_none())
                .cloned()
                .collect();
            for record in &service.list {
                let mut known = service.record.containers.remove(&record.id).unwrap_or_default();
                for watched in &mut service.rules {
                    if watched.applied.contains_key(&record.id) {
                        continue;
                    }
                    service.changed = true;
                    if watched.baseline.0 != record.image {
                        let baseline = service.record.baselines.remove(&watched.key);
                        watched.baseline = match baseline {
                            Some((image, stamps)) if image == record.image => (image, unstamps(stamps)),
                            _ => (record.image.clone(), watched.now.clone()),
                        };
                    }
                    let has = match known.remove(&watched.key) {
                        Some(stamps) => unstamps(stamps),
                        // It has read what is there when it was started.
                        None if !watched.setup.copies => watched.now.clone(),
                        None if watched.setup.watch.initial_sync => Files::new(),
                        None => watched.baseline.1.clone(),
                    };
                    watched.applied.insert(record.id.clone(), has);
                }
            }
            for watched in &mut service.rules {
                let before = watched.applied.len();
                watched
                    .applied
                    .retain(|id, _| service.list.iter().any(|record| record.id == *id));
                service.changed |= watched.applied.len() != before;
            }
        }
        Ok(())
    }

    /// Takes in a batch (`None`: everything may be different, containers too)
    /// and brings it to the containers.
    ///
    /// # Errors
    /// When sources or records cannot be read. What cannot be copied is said in
    /// [`Done::errors`], and tried again with the next pass.
    pub(super) fn pass(&mut self, batch: Option<&Batch>) -> Result<Vec<Done>, HostError> {
        self.look(batch).map_err(|error| HostError::Plan {
            reason: error.to_string(),
        })?;
        if batch.is_none() {
            self.meet()?;
        }
        let mut all = Vec::new();
        for service in &mut self.services {
            let mut dones: Vec<Done> = service
                .rules
                .iter()
                .map(|watched| Done {
                    service: service.name.clone(),
                    rule: watched.setup.number,
                    action: watched.setup.action(),
                    copies: watched.setup.copies,
                    then: match watched.setup.watch.action {
                        WatchAction::Sync | WatchAction::Rebuild => None,
                        other => Some(other),
                    },
                    exec: watched.setup.watch.exec.clone(),
                    ..Done::default()
                })
                .collect();
            for record in &service.list {
                service.changed |= bring(&self.world, record, &mut service.rules, &mut dones);
            }
            all.extend(
                dones
                    .into_iter()
                    .filter(|done| !done.containers.is_empty() || !done.errors.is_empty()),
            );
        }
        Ok(all)
    }

    /// Writes down what containers have.
    pub(super) fn save(&mut self) {
        for service in &mut self.services {
            if !std::mem::take(&mut service.changed) {
                continue;
            }
            let mut record = Record::default();
            for watched in &service.rules {
                let (image, files) = &watched.baseline;
                let baseline = (image.clone(), stamps(files));
                record.baselines.insert(watched.key.clone(), baseline);
                for (id, files) in &watched.applied {
                    let of = record.containers.entry(id.clone()).or_default();
                    of.insert(watched.key.clone(), stamps(files));
                }
            }
            let path = folder(&self.world, &self.project).join(format!("{}.json", service.name));
            // Of a stack that is gone nothing is written.
            if service.list.is_empty() {
                let _ = std::fs::remove_file(&path);
            } else if let Err(error) = write_record(&path, &record) {
                tracing::warn!(%error, "what was copied will be copied again");
            }
        }
    }
}

/// Brings one container up to date; whether anything is noted of it.
fn bring(world: &World, record: &ContainerRecord, rules: &mut [Watched], dones: &mut [Done]) -> bool {
    let mut noted = false;
    let mut held = None;
    // What one rule has put there, another need not.
    let mut put: BTreeSet<PathBuf> = BTreeSet::new();
    for (watched, done) in rules.iter_mut().zip(dones) {
        let Some(has) = watched.applied.get_mut(&record.id) else {
            continue;
        };
        let different = differences(has, &watched.now);
        if different.is_empty() {
            continue;
        }
        if watched.setup.copies && held.is_none() {
            match files(world, record) {
                Ok(opened) => held = Some(opened),
                Err(error) => {
                    done.errors.push(format!("container {}: {error}", record.name));
                    continue;
                }
            }
        }
        let mut root = held.as_ref().map(|held| Root::new(held.as_fd()));
        for difference in different {
            let result = apply(
                (&watched.setup, &watched.rule),
                &mut root,
                has,
                &difference,
                &mut put,
            );
            match result {
                Ok(outcome) => {
                    noted = true;
                    let (relative, list) = match difference {
                        Difference::Gone(path, _) => {
                            // Another kind of entry may have come in its place.
                            has.remove(&path);
                            (path, &mut done.removed)
                        }
                        Difference::Here(path, stamp) => {
                            has.insert(path.clone(), stamp);
                            (path, &mut done.copied)
                        }
                    };
                    if outcome {
                        done.containers.insert(record.id.clone());
                        let there = watched.setup.target(&relative);
                        let here = if relative.as_os_str().is_empty() {
                            watched.rule.path.clone()
                        } else {
                            watched.rule.path.join(&relative)
                        };
                        list.push((here, there));
                    }
                }
                Err(error) => done.errors.push(format!("container {}: {error}", record.name)),
            }
        }
        dedup(&mut done.copied);
        dedup(&mut done.removed);
    }
    noted
}

fn dedup(list: &mut Vec<(PathBuf, PathBuf)>) {
    list.sort();
    list.dedup();
}

/// Does one difference; whether it changed anything that counts.
fn apply(
    (setup, rule): (&RuleSetup, &Rule),
    root: &mut Option<Root<'_>>,
    has: &Files,
    difference: &Difference,
    put: &mut BTreeSet<PathBuf>,
) -> io::Result<bool> {
    let source = |relative: &Path| {
        if relative.as_os_str().is_empty() {
            rule.path.clone()
        } else {
            rule.path.join(relative)
        }
    };
    let Some(root) = root.as_mut().filter(|_| setup.copies) else {
        // Folders by themselves are nothing that a service reads.
        return Ok(match difference {
            Difference::Gone(_, kind) => *kind != Kind::Folder,
            Difference::Here(_, stamp) => stamp.kind != Kind::Folder,
        });
    };
    match difference {
        Difference::Gone(relative, kind) => {
            // It may be there still, and only no longer be taken.
            let now = Stamp::at(&source(relative));
            if now.is_some_and(|now| now.kind == *kind) || relative.as_os_str().is_empty() {
                return Ok(false);
            }
            root.remove(&setup.target(relative), *kind)
        }
        Difference::Here(relative, stamp) => {
            let target = setup.target(relative);
            let known = has.get(relative).is_some_and(|stamp| !stamp.is_doubted());
            if put.contains(&target) {
                return Ok(true);
            }
            let changed = root.put(&source(relative), stamp, &target, !known)?;
            if stamp.kind != Kind::Folder {
                put.insert(target);
            }
            // What was copied before counts, whoever copied it by now.
            Ok(changed || (known && stamp.kind != Kind::Folder))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(kind: Kind, modified: i64) -> Stamp {
        Stamp {
            kind,
            mode: 0o644,
            size: 1,
            modified,
            inode: 1,
        }
    }

    #[test]
    fn differences_come_in_an_order_that_can_be_done() {
        let files = |list: &[(&str, Kind, i64)]| -> Files {
            let entry = |(path, kind, time): &(&str, Kind, i64)| (PathBuf::from(path), stamp(*kind, *time));
            list.iter().map(entry).collect()
        };
        let (folder, file) = (Kind::Folder, Kind::File);
        let old = files(&[
            ("d", folder, 0),
            ("d/f", file, 0),
            ("same", file, 0),
            ("was", folder, 0),
        ]);
        let new = files(&[
            ("n", folder, 0),
            ("n/f", file, 0),
            ("same", file, 0),
            ("was", file, 1),
        ]);
        let names: Vec<String> = differences(&old, &new)
            .iter()
            .map(|difference| match difference {
                Difference::Gone(path, _) => format!("-{}", path.display()),
                Difference::Here(path, _) => format!("+{}", path.display()),
            })
            .collect();
        assert_eq!(names, ["-was", "-d/f", "-d", "+n", "+n/f", "+was"]);
        assert!(differences(&new, &new).is_empty());
    }
}

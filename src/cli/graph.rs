//! `graph`: the services and what they depend on, with what they do now.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::context::{Context, known_services};
use super::drawing::{self, Arrow, Node};
use super::failure::{Failure, Outcome};
use super::ps::{Shown, Status, health};
use super::terminal::Style;
use crate::graph::{Graph, Link};
use crate::host::replicas;
use crate::lifecycle::Health;
use crate::plan::ContainerState;
use crate::project::Condition;

/// `graph`.
#[derive(Debug, Args)]
pub(super) struct Typed {
    /// Services to show, with what they depend on [default: all]
    services: Vec<String>,
    /// How it is drawn
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A tree
    Text,
    /// For graphviz
    Dot,
    /// For Markdown
    Mermaid,
    /// A picture
    Svg,
    /// For programs
    Json,
}

/// What the containers of a service do, in a word or two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) text: String,
    pub(super) mood: Mood,
}

/// How well that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    Open,
    Bad,
    Absent,
}

impl Mood {
    pub(super) fn style(self) -> Style {
        match self {
            Self::Well => Style::Green,
            Self::Open => Style::Yellow,
            Self::Bad => Style::Red,
            Self::Absent => Style::Dim,
        }
    }
}

/// What the containers of a service do, the worst of them first.
pub(super) fn summary(containers: &[&Shown]) -> Summary {
    let count = |test: &dyn Fn(&Shown) -> bool| containers.iter().filter(|shown| test(shown)).count();
    let total = containers.len();
    let says = |text: String, mood| Summary { text, mood };
    let code = |shown: &&&Shown| match shown.view.state {
        ContainerState::Exited { code, .. } => Some(code),
        _ => None,
    };
    let of = |number: usize, text: &str| {
        if total > 1 {
            format!("{text} {number}/{total}")
        } else {
            text.to_owned()
        }
    };
    if total == 0 {
        return says("no container".to_owned(), Mood::Absent);
    }
    let restarting = count(&|shown| shown.status == Status::Restarting);
    if restarting > 0 {
        return says(of(restarting, "restarting"), Mood::Bad);
    }
    let failed = containers
        .iter()
        .filter_map(|shown| code(&shown))
        .find(|code| *code != 0);
    let stopped = count(&|shown| matches!(shown.view.state, ContainerState::Exited { stopped: true, .. }));
    let ended = count(&|shown| shown.status == Status::Exited);
    if let Some(code) = failed
        && stopped == 0
    {
        return says(of(ended, &format!("exited ({code})")), Mood::Bad);
    }
    for (verdict, mood) in [(Health::Unhealthy, Mood::Bad), (Health::Starting, Mood::Open)] {
        let number = count(&|shown| shown.view.health == Some(verdict));
        if number > 0 {
            return says(of(number, health(Some(verdict))), mood);
        }
    }
    let running = count(&|shown| shown.status == Status::Running);
    let healthy = count(&|shown| shown.view.health == Some(Health::Healthy));
    if running == total {
        let text = if healthy == total { "healthy" } else { "running" };
        return says(of(running, text), Mood::Well);
    }
    let paused = count(&|shown| shown.status == Status::Paused);
    match (running, paused, stopped, ended) {
        (1.., ..) => says(of(running, "running"), Mood::Open),
        (_, 1.., ..) => says(of(paused, "paused"), Mood::Open),
        (_, _, 1.., _) => says("stopped".to_owned(), Mood::Absent),
        (_, _, _, 1..) => says("completed".to_owned(), Mood::Well),
        _ => says("created".to_owned(), Mood::Open),
    }
}

/// The condition of a dependency in docker compose's words.
pub(super) fn condition(link: &Link) -> &'static str {
    match link.condition {
        Condition::ServiceStarted => "service_started",
        Condition::ServiceHealthy => "service_healthy",
        Condition::ServiceCompletedSuccessfully => "service_completed_successfully",
    }
}

struct Picture<'a> {
    project: &'a str,
    graph: &'a Graph,
    shown: &'a [Shown],
    selected: BTreeSet<String>,
    colored: bool,
}

pub(super) fn graph(context: &Context, typed: &Typed) -> Outcome {
    let loaded = context.load_or_recall(&typed.services)?;
    known_services(&loaded.project, &typed.services)?;
    let graph = Graph::new(&loaded.project).map_err(Failure::new)?;
    let shown: Vec<Shown> = replicas(&context.world, &loaded.project.name)?
        .into_iter()
        .map(|view| Shown::of(&context.world, view))
        .collect();
    let selected = if typed.services.is_empty() {
        graph.order().iter().cloned().collect()
    } else {
        graph.closure(&typed.services).map_err(Failure::new)?
    };
    let picture = Picture {
        project: &loaded.project.name,
        graph: &graph,
        shown: &shown,
        selected,
        colored: context.terminal.color_out,
    };
    let text = match typed.format {
        Format::Text => picture.text(&typed.services),
        Format::Dot => picture.dot(),
        Format::Mermaid => picture.mermaid(),
        Format::Svg => picture.svg(),
        Format::Json => {
            let mut text = serde_json::to_string_pretty(&picture.json()).map_err(Failure::new)?;
            text.push('\n');
            text
        }
    };
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

impl Picture<'_> {
    fn containers(&self, service: &str) -> Vec<&Shown> {
        self.shown
            .iter()
            .filter(|shown| shown.view.record.config.name == service)
            .collect()
    }

    fn summary(&self, service: &str) -> Summary {
        summary(&self.containers(service))
    }

    /// The services that are drawn, dependencies first.
    fn services(&self) -> impl Iterator<Item = &String> {
        self.graph
            .order()
            .iter()
            .filter(|name| self.selected.contains(*name))
    }

    fn text(&self, asked: &[String]) -> String {
        let mut roots: Vec<&String> = if asked.is_empty() {
            let nobody = |name: &&String| self.graph.dependents(name).is_empty();
            self.services().filter(nobody).collect()
        } else {
            asked
                .iter()
                .filter(|name| self.selected.contains(*name))
                .collect()
        };
        roots.sort();
        let mut text = format!("{}\n", Style::Bold.paint(self.project, self.colored));
        let mut drawn = BTreeSet::new();
        for (number, root) in roots.iter().enumerate() {
            let last = number + 1 == roots.len();
            self.branch(root, None, "", last, &mut drawn, &mut text);
        }
        text
    }

    fn branch(
        &self,
        service: &str,
        link: Option<&Link>,
        indent: &str,
        last: bool,
        drawn: &mut BTreeSet<String>,
        to: &mut String,
    ) {
        let Summary { text, mood } = self.summary(service);
        let turn = if last { "└─" } else { "├─" };
        let how = match link {
            Some(link) if link.condition != Condition::ServiceStarted || !link.required => {
                let optional = if link.required { "" } else { ", optional" };
                Style::Dim.paint(&format!(" ({}{optional})", condition(link)), self.colored)
            }
            _ => String::new(),
        };
        let state = mood.style().paint(&text, self.colored);
        to.push_str(&format!("{indent}{turn} {service}{how}  {state}"));
        let below = self.graph.dependencies(service);
        if !drawn.insert(service.to_owned()) && !below.is_empty() {
            // What is below it is drawn where it stands first.
            to.push_str(&Style::Dim.paint("  (see above)\n", self.colored));
            return;
        }
        to.push('\n');
        let indent = format!("{indent}{}", if last { "   " } else { "│  " });
        for (number, (name, link)) in below.iter().enumerate() {
            let last = number + 1 == below.len();
            self.branch(name, Some(link), &indent, last, drawn, to);
        }
    }

    fn dot(&self) -> String {
        let mut text = format!(
            "digraph {} {{\n  rankdir=LR;\n  node [shape=box];\n",
            quoted(self.project)
        );
        for name in self.services() {
            let Summary { text: state, mood } = self.summary(name);
            let color = match mood {
                Mood::Well => "green",
                Mood::Open => "orange",
                Mood::Bad => "red",
                Mood::Absent => "gray",
            };
            text.push_str(&format!(
                "  {} [label={}, color={color}];\n",
                quoted(name),
                quoted(&format!("{name}\\n{state}"))
            ));
        }
        for name in self.services() {
            for (other, link) in self.graph.dependencies(name) {
                let style = if link.required { "solid" } else { "dashed" };
                text.push_str(&format!(
                    "  {} -> {} [label={}, style={style}];\n",
                    quoted(name),
                    quoted(other),
                    quoted(condition(link))
                ));
            }
        }
        text.push_str("}\n");
        text
    }

    fn mermaid(&self) -> String {
        let mut text = "flowchart LR\n".to_owned();
        let names: Vec<&String> = self.services().collect();
        let id = |service: &str| names.iter().position(|name| *name == service).unwrap_or(0);
        for name in &names {
            let Summary { text: state, .. } = self.summary(name);
            text.push_str(&format!("  s{}[\"{name}<br/>{state}\"]\n", id(name)));
        }
        for name in &names {
            for (other, link) in self.graph.dependencies(name) {
                let arrow = if link.required { "-->" } else { "-.->" };
                text.push_str(&format!(
                    "  s{} {arrow}|{}| s{}\n",
                    id(name),
                    condition(link),
                    id(other)
                ));
            }
        }
        for (class, mood, color) in [
            ("well", Mood::Well, "#2a2"),
            ("open", Mood::Open, "#e90"),
            ("bad", Mood::Bad, "#d22"),
            ("absent", Mood::Absent, "#999"),
        ] {
            let members: Vec<String> = names
                .iter()
                .filter(|name| self.summary(name).mood == mood)
                .map(|name| format!("s{}", id(name)))
                .collect();
            if !members.is_empty() {
                text.push_str(&format!(
                    "  classDef {class} stroke:{color}\n  class {} {class}\n",
                    members.join(",")
                ));
            }
        }
        text
    }

    fn svg(&self) -> String {
        let names: Vec<&String> = self.services().collect();
        let index: BTreeMap<&str, usize> = names
            .iter()
            .enumerate()
            .map(|(at, name)| (name.as_str(), at))
            .collect();
        let nodes: Vec<Node> = names
            .iter()
            .map(|name| {
                let Summary { text, mood } = self.summary(name);
                Node {
                    name: (*name).clone(),
                    state: text,
                    color: match mood {
                        Mood::Well => "#1a8a3a",
                        Mood::Open => "#c77700",
                        Mood::Bad => "#c22",
                        Mood::Absent => "#888",
                    },
                }
            })
            .collect();
        let mut arrows = Vec::new();
        for (from, name) in names.iter().enumerate() {
            for (other, link) in self.graph.dependencies(name) {
                let Some(&to) = index.get(other) else { continue };
                arrows.push(Arrow {
                    from,
                    to,
                    label: match link.condition {
                        Condition::ServiceStarted => None,
                        Condition::ServiceHealthy => Some("healthy".to_owned()),
                        Condition::ServiceCompletedSuccessfully => Some("completed".to_owned()),
                    },
                    dashed: !link.required,
                });
            }
        }
        drawing::svg(self.project, &nodes, &arrows)
    }

    fn json(&self) -> Value {
        let services: Vec<Value> = self
            .services()
            .map(|name| {
                let containers: Vec<Value> = self
                    .containers(name)
                    .iter()
                    .map(|shown| {
                        let code = match shown.view.state {
                            ContainerState::Exited { code, .. } => Some(code),
                            _ => None,
                        };
                        json!({
                            "name": shown.view.record.name,
                            "state": shown.state(),
                            "health": health(shown.view.health),
                            "exit_code": code,
                        })
                    })
                    .collect();
                let needs: Vec<Value> = self
                    .graph
                    .dependencies(name)
                    .iter()
                    .map(|(other, link)| {
                        json!({
                            "service": other,
                            "condition": condition(link),
                            "required": link.required,
                            "restart": link.restart,
                        })
                    })
                    .collect();
                json!({
                    "service": name,
                    "state": self.summary(name).text,
                    "containers": containers,
                    "depends_on": needs,
                })
            })
            .collect();
        json!({ "project": self.project, "services": services })
    }
}

/// A string of the dot language; a line break in it stays one.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\\\""))
}

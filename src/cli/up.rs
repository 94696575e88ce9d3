//! `up`: in the foreground with the merged output of the stack, following its
//! file; with `-d` in the background.
//!
//! In the foreground this is one loop over four sources: what the supervisor
//! tells, what containers print, keys ([`super::menu`]), and Ctrl-C. The first
//! Ctrl-C asks the supervisor to stop what this `up` brought up, the second to
//! kill just that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::Up;
use super::context::{Context, Loaded, known_services};
use super::failure::{Failure, Outcome};
use super::follow::{Follow, Painter};
use super::lifecycle::seconds;
use super::menu::{self, Key, Keyboard};
use super::progress::Progress;
use super::request::{apply_as, need_privilege, show};
use super::terminal::{Style, Terminal};
use crate::graph::Graph;
use crate::host::replicas;
use crate::monitor::log::From;
use crate::plan::{self, Intent, Operation, Plan};
use crate::supervisor::client::Client;
use crate::supervisor::protocol::{Again, Apply, Reply, Request, Watching};

pub(super) fn up(context: &Context, typed: &Up) -> Outcome {
    let context = &context.quiet_pull(typed.quiet_pull);
    let loaded = context.load(&typed.services)?;
    for names in [&typed.services, &typed.attach, &typed.no_attach] {
        known_services(&loaded.project, names)?;
    }
    if let Some(service) = &typed.exit_code_from {
        known_services(&loaded.project, std::slice::from_ref(service))?;
    }
    let intent = Intent::Up(plan::Up {
        pull: typed.pull.map(Into::into),
        services: typed.services.clone(),
        no_deps: typed.no_deps,
        no_start: typed.no_start,
        force_recreate: typed.force_recreate,
        no_recreate: typed.no_recreate,
        always_recreate_deps: typed.always_recreate_deps,
        renew_anon_volumes: typed.renew_anon_volumes,
        remove_orphans: typed.remove_orphans,
        scale: typed.scale.iter().cloned().collect(),
        timeout: seconds(typed.timeout),
        wait: typed.wait || typed.atomic && !typed.no_start,
        ..plan::Up::default()
    });
    // In the background, `--watch` may also be for the stack file alone.
    let background = typed.detach || typed.wait || typed.no_start || context.global.dry_run;
    if typed.watch && !background {
        super::watch::followed(context, &loaded, &typed.services)?;
    }
    if background {
        let watch = if typed.watch {
            Watching::Always
        } else {
            Watching::Off
        };
        if let Some(limit) = typed.wait_timeout {
            alarm(context, limit);
        }
        let wanted = Apply {
            watch: Some(watch),
            atomic: typed.atomic,
            ..Apply::new(loaded.request, intent)
        };
        apply_as(context, &loaded.project, wanted)?;
        return Ok(ExitCode::SUCCESS);
    }
    need_privilege()?;
    super::block_on(Session::run(context, typed, loaded, intent))
}

/// Ends the process when `--wait-timeout` runs out; the supervisor then gives
/// up the wait, and what was started goes on.
#[expect(clippy::exit, reason = "the blocking wait has no other end")]
pub(super) fn alarm(context: &Context, limit: u64) {
    let terminal = context.terminal.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(limit));
        terminal.error(&format!("the stack was not ready within {limit} seconds"), &[]);
        std::process::exit(1);
    });
}

/// A foreground `up`.
struct Session<'a> {
    context: &'a Context,
    typed: &'a Up,
    loaded: Loaded,
    progress: Progress<'a>,
    follow: Follow,
    asks: OwnedWriteHalf,
    /// Services of the containers that are shown, by container id.
    names: BTreeMap<String, String>,
    /// What the session is at.
    doing: Doing,
    /// Requests that have not come to their end.
    open: usize,
    /// Exit status to end with, when a container decides it.
    decided: Option<i32>,
    /// It was said whose output is shown.
    announced: bool,
    /// The last save of the stack file did not load.
    broken: bool,
    /// Keys mean something now.
    keyboard: Option<Keyboard>,
    /// The sources are followed for this session.
    watching: bool,
}

/// What the session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Bringing the stack up.
    Starting,
    /// Showing it.
    Showing,
    /// Stopping it, with the exit status to end with.
    Stopping(u8),
}

type Replies = tokio::io::Lines<BufReader<OwnedReadHalf>>;

impl Session<'_> {
    async fn run(context: &Context, typed: &Up, loaded: Loaded, intent: Intent) -> Outcome {
        let client = Client::connect(&context.world, &loaded.project.name)?;
        let stream = client.into_stream()?;
        let stream = UnixStream::from_std(stream).map_err(Failure::new)?;
        let (reader, writer) = stream.into_split();
        let painter = Painter::new(&context.terminal, &typed.lines, typed.timestamps, &loaded.project);
        let mut session = Session {
            context,
            typed,
            progress: Progress::new(&context.terminal),
            follow: Follow::new(painter).map_err(|error| Failure::new(format!("watch logs: {error}")))?,
            asks: writer,
            names: BTreeMap::new(),
            doing: Doing::Starting,
            open: 0,
            decided: None,
            announced: false,
            broken: false,
            keyboard: None,
            watching: typed.watch,
            loaded,
        };
        let load = session.loaded.request.clone();
        session
            .ask(&Request::Apply(Apply {
                atomic: typed.atomic,
                watch: Some(Watching::Session),
                session: true,
                ..Apply::new(load, intent)
            }))
            .await?;
        if typed.watch {
            session.follow_sources().await?;
        }
        session.turn(BufReader::new(reader).lines()).await
    }

    async fn follow_sources(&mut self) -> Result<(), Failure> {
        self.ask(&Request::Follow {
            load: None,
            services: self.typed.services.clone(),
            always: false,
            explain: false,
        })
        .await
    }

    async fn turn(mut self, mut replies: Replies) -> Outcome {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::new(format!("listen for signals: {error}")));
        let (mut interrupt, mut terminate) =
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        loop {
            tokio::select! {
                line = replies.next_line() => {
                    let line = line.map_err(Failure::new)?;
                    let Some(line) = line else {
                        return Err(Failure::new("the supervisor ended; the containers go on")
                            .hint("run 'rcompose up' again to go on where it stopped"));
                    };
                    let reply: Reply = serde_json::from_str(&line).map_err(Failure::new)?;
                    if let Some(end) = self.hear(&reply).await? {
                        self.print_logs();
                        return Ok(ExitCode::from(end));
                    }
                }
                ready = self.follow.ready() => {
                    ready.map_err(|error| Failure::new(format!("watch logs: {error}")))?;
                    self.print_logs();
                }
                key = press(&mut self.keyboard) => match key {
                    Ok(Key::Detach) => {
                        self.put_keys_away();
                        self.print_logs();
                        self.progress.above(|terminal| terminal.err("Detached; the stack goes on in the background\n"));
                        return Ok(ExitCode::SUCCESS);
                    }
                    Ok(Key::Watch) => self.toggle_watch().await?,
                    Ok(Key::Line) => self.progress.output("\n"),
                    // A terminal that is gone: SIGHUP says so, if anything does.
                    Err(_) => self.put_keys_away(),
                },
                _ = interrupt.recv() => if let Some(end) = self.interrupted().await? { return Ok(ExitCode::from(end)) },
                _ = terminate.recv() => if let Some(end) = self.interrupted().await? { return Ok(ExitCode::from(end)) },
            }
        }
    }

    /// Takes in one reply; the exit status when it was the last one.
    async fn hear(&mut self, reply: &Reply) -> Result<Option<u8>, Failure> {
        match reply {
            Reply::Done { .. } if matches!(self.doing, Doing::Stopping(_)) => {
                let Doing::Stopping(code) = self.doing else {
                    return Ok(None);
                };
                self.open = self.open.saturating_sub(1);
                if self.open > 0 {
                    // The end of what was cancelled in favour of stopping.
                    return Ok(None);
                }
                if let Some(end) = show(&mut self.progress, reply) {
                    end?;
                }
                return Ok(Some(code));
            }
            Reply::Done { .. } => {
                self.open = self.open.saturating_sub(1);
                self.print_logs();
                if let Some(end) = show(&mut self.progress, reply) {
                    end?;
                }
                self.progress.settle();
                self.doing = Doing::Showing;
                self.show_running()?;
                self.print_logs();
                self.take_keys()?;
            }
            Reply::Planned { plan } => {
                show(&mut self.progress, reply);
                self.announce(plan)?;
            }
            // Their own command shows them.
            Reply::Started { one_off: true, .. } | Reply::Exited { one_off: true, .. } => {}
            Reply::Started {
                id,
                name,
                log,
                offset,
                ..
            } => {
                self.attach(id, name, log, From::Offset(*offset))?;
                // What it has printed before it was followed.
                self.print_logs();
            }
            Reply::Said { name, line } => {
                self.print_logs();
                // As docker compose shows it; of hooks before the start there is
                // no container, but a service.
                let name = self.short(name);
                let service = self.service(name);
                let chosen = self.chosen();
                if chosen.contains(&service) || chosen.contains(name) {
                    let text = if self.typed.lines.no_log_prefix {
                        format!("{line}\n")
                    } else {
                        format!("{name} -> | {line}\n")
                    };
                    self.progress.above(|terminal| terminal.out(&text));
                }
            }
            Reply::Exited {
                id,
                name,
                code,
                again,
                ..
            } => {
                self.print_logs();
                if self.names.contains_key(id) && !matches!(self.doing, Doing::Stopping(_)) {
                    let again = again.map_or_else(String::new, restarting);
                    let text = format!("{} exited with code {code}{again}", self.short(name));
                    let remark = self.follow.remark(&text);
                    self.progress.output(&remark);
                }
                if again.is_none() {
                    self.decide(id, *code).await?;
                }
            }
            Reply::Idle if self.doing == Doing::Showing => {
                let code = self.decided.unwrap_or(0);
                return Ok(Some(status(code)));
            }
            Reply::Reloading { plan } => {
                self.print_logs();
                self.progress.settle();
                let broken = self.broken;
                self.progress.above(|terminal| {
                    if !plan.is_empty() {
                        say_reload(terminal, "stack file changed:");
                        terminal.err(&super::plan::changes(plan, terminal.color_err));
                    } else if broken {
                        say_reload(terminal, "the stack file is in order again, and changes nothing");
                    }
                });
                self.progress.plan(plan);
                self.broken = false;
            }
            Reply::Reloaded { errors, diagnostics } => {
                self.print_logs();
                self.progress.settle();
                self.broken |= !diagnostics.is_empty();
                self.progress.above(|terminal| {
                    for diagnostic in diagnostics {
                        terminal.err(&diagnostic.render(terminal.color_err));
                    }
                    if !diagnostics.is_empty() {
                        let text = "the stack file has errors; the running stack is left as it was";
                        say_reload(terminal, text);
                    }
                    for error in errors {
                        terminal.error(error, &[]);
                    }
                });
            }
            other => {
                let color = self.context.terminal.color_err;
                if let Some(text) = super::watch::say(other, false, color) {
                    self.print_logs();
                    self.progress.above(|terminal| terminal.err(&text));
                } else if let Some(end) = show(&mut self.progress, other) {
                    end?;
                }
            }
        }
        Ok(None)
    }

    /// Prints what containers have printed, above a list that is being drawn.
    fn print_logs(&mut self) {
        let progress = &mut self.progress;
        self.follow.drain(|text| progress.output(text));
    }

    /// Keys mean something from now on, where there is a keyboard.
    fn take_keys(&mut self) -> Result<(), Failure> {
        if self.keyboard.is_none() && self.typed.menu != Some(false) {
            self.keyboard = Keyboard::new(&self.context.terminal)
                .map_err(|error| Failure::new(format!("take the keyboard: {error}")))?;
        }
        self.show_keys();
        Ok(())
    }

    /// Says at the foot of the screen what the keys are, while they are any.
    fn show_keys(&mut self) {
        let color = self.context.terminal.color_err;
        let line = self.keyboard.as_ref().map(|_| menu::line(self.watching, color));
        self.progress.foot(line);
    }

    fn put_keys_away(&mut self) {
        self.keyboard = None;
        self.show_keys();
    }

    /// Follows the sources, or no longer.
    async fn toggle_watch(&mut self) -> Result<(), Failure> {
        if self.watching {
            self.ask(&Request::Unfollow).await?;
            self.progress.above(|terminal| {
                let mark = Style::Blue.paint("⦿", terminal.color_err);
                terminal.err(&format!("{mark} Watch disabled\n"));
            });
        } else {
            // By the stack file as it is now.
            let (context, services) = (self.context, &self.typed.services);
            let mut known = true;
            self.progress.above(|terminal| {
                let followed = context
                    .load(services)
                    .and_then(|loaded| super::watch::followed(context, &loaded, services));
                if let Err(failure) = followed {
                    failure.report(terminal);
                    known = false;
                }
            });
            if !known {
                return Ok(());
            }
            self.follow_sources().await?;
        }
        self.watching = !self.watching;
        self.show_keys();
        Ok(())
    }

    /// Says whose output is shown, as docker compose does before the first of it:
    /// scripts wait for that line.
    fn announce(&mut self, plan: &Plan) -> Result<(), Failure> {
        if std::mem::replace(&mut self.announced, true) {
            return Ok(());
        }
        let chosen = self.chosen();
        let mut names = BTreeSet::new();
        for view in replicas(&self.context.world, &self.loaded.project.name)? {
            if view.state.is_running() && chosen.contains(&view.record.config.name) {
                names.insert(view.record.name);
            }
        }
        let operations = || plan.actions.iter().map(|action| &action.operation);
        for operation in operations() {
            if let Operation::RemoveContainer { container, .. } = operation {
                names.remove(&container.name);
            }
        }
        for operation in operations() {
            if let Operation::StartContainer { container } = operation
                && chosen.contains(&container.service)
            {
                names.insert(container.name.clone());
            }
        }
        if !names.is_empty() {
            let names: Vec<&str> = names.iter().map(|name| self.short(name)).collect();
            let text = format!("Attaching to {}\n", names.join(", "));
            self.progress.output(&text);
        }
        Ok(())
    }

    /// Shows the containers that ran before this `up`, from now on.
    fn show_running(&mut self) -> Result<(), Failure> {
        let chosen = self.chosen();
        for view in replicas(&self.context.world, &self.loaded.project.name)? {
            if view.state.is_running()
                && chosen.contains(&view.record.config.name)
                && !self.names.contains_key(&view.record.id)
            {
                self.attach(&view.record.id, &view.record.name, &view.log, From::Last(0))?;
            }
        }
        Ok(())
    }

    /// The services whose output is shown.
    fn chosen(&self) -> BTreeSet<String> {
        let project = &self.loaded.project;
        let mut chosen: BTreeSet<String> = if !self.typed.attach.is_empty() {
            self.typed.attach.iter().cloned().collect()
        } else if !self.typed.services.is_empty() {
            self.typed.services.iter().cloned().collect()
        } else {
            project.services.keys().cloned().collect()
        };
        if self.typed.attach_dependencies
            && let Ok(graph) = Graph::new(project)
        {
            // Their own closure: what was chosen is part of it.
            let names: Vec<String> = chosen.iter().cloned().collect();
            chosen.extend(graph.closure(&names).unwrap_or_default());
        }
        if self.typed.attach.is_empty() {
            chosen.retain(|name| {
                let service = project.services.get(name);
                service.is_none_or(|service| service.attach != Some(false))
            });
        }
        for name in &self.typed.no_attach {
            chosen.remove(name);
        }
        chosen
    }

    fn attach(&mut self, id: &str, name: &str, log: &Path, from: From) -> Result<(), Failure> {
        let service = self.service(name);
        self.names.insert(id.to_owned(), service.clone());
        // A service that a reload brought is shown too.
        let known = self.loaded.project.services.contains_key(&service);
        let hidden = known || !self.typed.attach.is_empty() || !self.typed.services.is_empty();
        if self.typed.no_attach.contains(&service) || (hidden && !self.chosen().contains(&service)) {
            return Ok(());
        }
        let label = self.short(name).to_owned();
        self.follow
            .add(id, &label, log, from)
            .map_err(|error| Failure::new(format!("read {}: {error}", log.display())))
    }

    /// A container's name without the project's.
    fn short<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(&format!("{}-", self.loaded.project.name))
            .unwrap_or(name)
    }

    /// The service of a container name.
    fn service(&self, name: &str) -> String {
        let fixed = self.loaded.project.services.values();
        let fixed = fixed
            .clone()
            .find(|service| service.container_name.as_deref() == Some(name));
        match fixed {
            Some(service) => service.name.clone(),
            None => self
                .short(name)
                .rsplit_once('-')
                .map_or(name, |(service, _)| service)
                .to_owned(),
        }
    }

    /// A container has ended for good: with `--abort-on-container-exit`, so
    /// does everything.
    async fn decide(&mut self, id: &str, code: i32) -> Result<(), Failure> {
        let on_failure = self.typed.abort_on_container_failure && code != 0;
        if !self.typed.abort_on_container_exit && !on_failure && self.typed.exit_code_from.is_none() {
            return Ok(());
        }
        let service = self.names.get(id).cloned().unwrap_or_default();
        let first = self.decided.is_none();
        match &self.typed.exit_code_from {
            Some(from) if *from == service => self.decided = Some(code),
            Some(_) => {}
            None if first => self.decided = Some(code),
            None => {}
        }
        if !matches!(self.doing, Doing::Stopping(_)) {
            self.progress
                .above(|terminal| terminal.err("Aborting on container exit...\n"));
            if self.doing == Doing::Starting {
                self.ask(&Request::Cancel).await?;
            }
            self.put_keys_away();
            self.doing = Doing::Stopping(status(self.decided.unwrap_or(code)));
            self.stop(None).await?;
        } else if let (Doing::Stopping(_), Some(code)) = (self.doing, self.decided) {
            self.doing = Doing::Stopping(status(code));
        }
        Ok(())
    }

    /// Ctrl-C: the first stops, the second kills.
    async fn interrupted(&mut self) -> Result<Option<u8>, Failure> {
        self.put_keys_away();
        match self.doing {
            Doing::Starting | Doing::Showing => {
                // Below the `^C` that the terminal has drawn over the last line.
                self.progress.above(|terminal| {
                    terminal.err("\nGracefully stopping... (press Ctrl+C again to force)\n");
                });
                self.progress.settle();
                self.ask(&Request::Cancel).await?;
                self.doing = Doing::Stopping(130);
                self.stop(None).await?;
            }
            Doing::Stopping(_) => {
                self.progress
                    .above(|terminal| terminal.err("\nKilling the containers...\n"));
                self.ask(&Request::Cancel).await?;
                self.stop(Some(Duration::ZERO)).await?;
            }
        }
        Ok(None)
    }

    async fn stop(&mut self, timeout: Option<Duration>) -> Result<(), Failure> {
        let services = self.typed.services.clone();
        let intent = Intent::Stop {
            services,
            timeout: timeout.or(seconds(self.typed.timeout)),
        };
        let load = self.loaded.request.clone();
        self.ask(&Request::Apply(Apply {
            session: true,
            ..Apply::new(load, intent)
        }))
        .await
    }

    async fn ask(&mut self, request: &Request) -> Result<(), Failure> {
        if matches!(request, Request::Apply(_)) {
            self.open += 1;
        }
        let mut line = serde_json::to_vec(request).map_err(Failure::new)?;
        line.push(b'\n');
        self.asks
            .write_all(&line)
            .await
            .map_err(|error| Failure::new(format!("ask the supervisor: {error}")))
    }
}

/// The next key; never, where there is no keyboard.
async fn press(keyboard: &mut Option<Keyboard>) -> std::io::Result<Key> {
    match keyboard {
        Some(keyboard) => keyboard.next().await,
        None => std::future::pending().await,
    }
}

/// Says what became of a save of the stack file.
fn say_reload(terminal: &Terminal, text: &str) {
    let mark = Style::Blue.paint("⟳", terminal.color_err);
    terminal.err(&format!("{mark} {text}\n"));
}

/// Restarts after which a container counts as one that keeps ending.
const MANY: u32 = 3;

/// What is said of a container that will be started again.
fn restarting(again: Again) -> String {
    let Again { restarts, after } = again;
    if restarts < MANY {
        return " (restarting)".to_owned();
    }
    format!(
        " (it keeps ending: {restarts} restarts so far, the next in {:.1} s)",
        after.as_secs_f64()
    )
}

/// An exit status as a process can have it.
fn status(code: i32) -> u8 {
    u8::try_from(code & 0xff).unwrap_or(1)
}

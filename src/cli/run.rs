//! `run`: a one-off container of a service, with our standard streams.
//!
//! What the command line has in place of the service's definition becomes one
//! more stack file, the last of them: every option takes the forms that the
//! same attribute takes in a file, and is checked as it is there. The container
//! is made by the supervisor, as all are. Its monitor connects itself to us
//! before it begins, so that nothing it prints is lost, and it waits for us
//! when we are slow.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::UnixStream;

use super::arguments::{NoBuild, Pull};
use super::attach::{Keys, Left, Session};
use super::context::{Context, Loaded, known_services};
use super::failure::{Failure, Outcome};
use super::progress::Progress;
use super::request::{apply, need_privilege, show};
use crate::host::{client_path, containers, last_exit, running};
use crate::plan::{self, Intent, OneOff};
use crate::project::{LoadRequest, Project, Service};
use crate::reconcile::Event;
use crate::runtime;
use crate::stack::parse_env_file;
use crate::store::remove_record;
use crate::supervisor::client::Client;
use crate::supervisor::protocol::{Apply, Reply, Request};
use crate::sys::readiness::watch;

/// `run`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent flag")]
pub(super) struct Run {
    /// Add a capability
    #[arg(long, value_name = "NAME")]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "NAME")]
    cap_drop: Vec<String>,
    /// Leave it running in the background, and print its name
    #[arg(short, long)]
    detach: bool,
    /// Program in place of the image's
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Set a variable: NAME=VALUE, or NAME to pass the caller's
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Set the variables of a file
    #[arg(long, value_name = "FILE")]
    env_from_file: Vec<PathBuf>,
    /// Whether standard input is connected
    #[arg(short, long, default_value_t = true, num_args = 0..=1, default_missing_value = "true",
          require_equals = true, action = clap::ArgAction::Set,
          value_parser = clap::builder::BoolishValueParser::new(), value_name = "BOOL")]
    interactive: bool,
    /// Add or replace a label: NAME=VALUE
    #[arg(short, long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Name of the container
    #[arg(long)]
    name: Option<String>,
    /// Without the services that it depends on
    #[arg(long)]
    no_deps: bool,
    /// No terminal, though standard input and output are one
    #[arg(short = 'T', long = "no-tty", alias = "no-TTY", num_args = 0..=1, default_missing_value = "true",
          default_value_t = false, require_equals = true, action = clap::ArgAction::Set,
          value_parser = clap::builder::BoolishValueParser::new(), value_name = "BOOL")]
    no_tty: bool,
    /// Publish a port, as in the stack file
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// When images are fetched
    #[arg(long, value_name = "POLICY")]
    pull: Option<Pull>,
    /// Print nothing but what the container prints
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    build: NoBuild,
    /// Show nothing of fetching images
    #[arg(long)]
    quiet_pull: bool,
    /// Remove containers of services that the stack file does not have
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS", value_parser = clap::builder::BoolishValueParser::new())]
    remove_orphans: bool,
    /// Remove the container when it has ended
    #[arg(long)]
    rm: bool,
    /// Publish the service's ports
    #[arg(short = 'P', long)]
    service_ports: bool,
    /// Accepted for scripts: a terminal is used when there is one
    #[arg(short, long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true,
          value_parser = clap::builder::BoolishValueParser::new())]
    tty: Option<bool>,
    /// Let others find it under the names of the service
    #[arg(long)]
    use_aliases: bool,
    /// User (and group) to run as
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Mount something, as in the stack file
    #[arg(short, long, value_name = "VOLUME")]
    volume: Vec<String>,
    /// Folder to run in
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Service
    service: String,
    /// Command in place of the service's, and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn run(context: &Context, typed: &Run) -> Outcome {
    let context = &context.quiet_pull(typed.quiet_pull || typed.quiet);
    let services = std::slice::from_ref(&typed.service);
    let loaded = context.load(services)?;
    known_services(&loaded.project, services)?;
    let tty = !typed.no_tty
        && typed.tty != Some(false)
        && !typed.detach
        && typed.interactive
        && io::stdin().is_terminal()
        && io::stdout().is_terminal();
    let loaded = overlaid(context, typed, loaded, tty)?;
    let project = &loaded.project;
    let id = random_id().map_err(|error| Failure::new(format!("choose an id: {error}")))?;
    let name = typed.name.clone().unwrap_or_else(|| {
        let short = id.get(..12).unwrap_or(&id);
        format!("{}-{}-run-{short}", project.name, typed.service)
    });
    let intent = Intent::Run(plan::Run {
        service: typed.service.clone(),
        name: name.clone(),
        one_off: OneOff {
            id: id.clone(),
            remove: typed.rm,
            aliases: typed.use_aliases,
            hook: false,
        },
        up: plan::Up {
            no_deps: typed.no_deps,
            remove_orphans: typed.remove_orphans,
            pull: typed.pull.map(Into::into),
            ..plan::Up::default()
        },
    });
    if typed.detach || context.global.dry_run {
        apply(context, loaded, intent, None)?;
        if !context.global.dry_run {
            context.terminal.out(&format!("{id}\n"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    need_privilege()?;
    let running = Running {
        context,
        typed,
        loaded,
        id,
        tty,
    };
    super::block_on(running.follow(intent))
}

/// The project with what the command line says in it, and how that was loaded.
fn overlaid(context: &Context, typed: &Run, loaded: Loaded, tty: bool) -> Result<Loaded, Failure> {
    let Loaded { project, request } = loaded;
    let (Some(service), Some(request)) = (project.services.get(&typed.service), request) else {
        return Err(Failure::new(format!("no such service: {}", typed.service)));
    };
    let overlay = overlay(typed, service, tty)?;
    let request = with_overlay(*request, &project, &overlay);
    let loaded = crate::supervisor::load(&request).map_err(|failure| context.refused(failure.diagnostics))?;
    Ok(Loaded {
        project: loaded.project.into(),
        request: Some(Box::new(request)),
    })
}

/// The request that loads the same files, and `overlay` last.
fn with_overlay(request: LoadRequest, project: &Project, overlay: &str) -> LoadRequest {
    let (mut files, stdin) = (request.files.clone(), &request.stdin);
    let stdin = match stdin {
        // A file may hold several documents, which are merged in their order.
        Some(text) => format!("{text}\n---\n{overlay}"),
        None => {
            if files.is_empty() {
                // What was found, or what COMPOSE_FILE names.
                files.clone_from(&project.config_files);
            }
            files.push(PathBuf::from("-"));
            overlay.to_owned()
        }
    };
    LoadRequest {
        files,
        stdin: Some(stdin),
        project_directory: Some(project.working_dir.clone()),
        project_name: Some(project.name.clone()),
        ..request
    }
}

/// What the command line says of the container, as a stack file.
fn overlay(typed: &Run, service: &Service, tty: bool) -> Result<String, Failure> {
    let mut text = String::new();
    let mut say = |key: &str, tag: &str, value: serde_json::Value| {
        // What is typed has been through a shell.
        let value = value.to_string().replace('$', "$$");
        let _ = writeln!(text, "    {key}: {tag}{value}");
    };
    const INSTEAD: &str = "!override ";
    say("restart", "", "no".into());
    match (&typed.entrypoint, typed.command.as_slice()) {
        (Some(entrypoint), command) => {
            say("entrypoint", INSTEAD, entrypoint.as_str().into());
            say("command", INSTEAD, command.into());
        }
        (None, []) => {}
        (None, command) => say("command", INSTEAD, command.into()),
    }
    let mut environment = Vec::new();
    for file in &typed.env_from_file {
        environment.extend(variables(file)?);
    }
    environment.extend(typed.env.iter().cloned());
    if !environment.is_empty() {
        say("environment", "", environment.into());
    }
    if !typed.label.is_empty() {
        say("labels", "", typed.label.clone().into());
    }
    for (key, wanted, other, theirs) in [
        ("cap_add", &typed.cap_add, "cap_drop", &service.cap_drop),
        ("cap_drop", &typed.cap_drop, "cap_add", &service.cap_add),
    ] {
        if wanted.is_empty() {
            continue;
        }
        let bare = |name: &String| name.to_uppercase().trim_start_matches("CAP_").to_owned();
        let wanted: Vec<String> = wanted.iter().map(bare).collect();
        if theirs.iter().any(|name| wanted.contains(name)) {
            let rest: Vec<&String> = theirs.iter().filter(|name| !wanted.contains(name)).collect();
            say(other, INSTEAD, serde_json::json!(rest));
        }
        say(key, "", wanted.into());
    }
    if typed.service_ports {
        if !typed.publish.is_empty() {
            say("ports", "", typed.publish.clone().into());
        }
    } else {
        say("ports", INSTEAD, typed.publish.clone().into());
    }
    if !typed.volume.is_empty() {
        let volumes: Vec<String> = typed.volume.iter().map(|volume| from_here(volume)).collect();
        say("volumes", "", volumes.into());
    }
    for (key, value) in [("user", &typed.user), ("working_dir", &typed.workdir)] {
        if let Some(value) = value {
            say(key, "", value.as_str().into());
        }
    }
    if !typed.detach {
        say("tty", "", tty.into());
        say("stdin_open", "", typed.interactive.into());
    }
    if service.container_name.is_some() {
        say("container_name", "!reset ", serde_json::Value::Null);
    }
    if service
        .deploy
        .as_ref()
        .is_some_and(|deploy| deploy.restart_policy.is_some())
    {
        text.push_str("    deploy: {restart_policy: !reset null}\n");
    }
    let name = serde_json::Value::from(typed.service.as_str());
    Ok(format!("services:\n  {name}:\n{text}"))
}

/// A mount whose source is a path relative to the current folder, where it is
/// typed, with that folder.
fn from_here(volume: &str) -> String {
    let relative = [".", "./", "../"].iter().any(|start| {
        let rest = volume.strip_prefix(start);
        rest.is_some_and(|rest| start.ends_with('/') || rest.is_empty() || rest.starts_with(':'))
    });
    let Ok(here) = std::env::current_dir() else {
        return volume.to_owned();
    };
    if relative {
        format!("{}/{volume}", here.display())
    } else {
        volume.to_owned()
    }
}

/// The variables of a file, `NAME=value` each.
fn variables(path: &std::path::Path) -> Result<Vec<String>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    let lookup = |name: &str| std::env::var(name).ok();
    let found = parse_env_file(&text, &lookup, &mut |_| {}).map_err(|error| failed(&error))?;
    Ok(found
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect())
}

/// 64 hexadecimal digits that nobody else has.
fn random_id() -> io::Result<String> {
    let mut bytes = [0_u8; 32];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A container that is run in the foreground.
struct Running<'a> {
    context: &'a Context,
    typed: &'a Run,
    loaded: Loaded,
    id: String,
    /// It has a terminal, and so have we.
    tty: bool,
}

/// The place where its monitor finds us; gone with us.
struct Meeting {
    path: PathBuf,
    socket: AsyncFd<OwnedFd>,
}

impl Drop for Meeting {
    fn drop(&mut self) {
        let _ = remove_record(&self.path);
    }
}

impl Meeting {
    fn new(path: PathBuf) -> io::Result<Self> {
        remove_record(&path).map_err(io::Error::other)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
        rustix::net::listen(&socket, 1)?;
        Ok(Self {
            path,
            socket: watch(socket, Interest::READABLE)?,
        })
    }

    /// The monitor's end.
    async fn accept(&self) -> io::Result<OwnedFd> {
        loop {
            let mut ready = self.socket.readable().await?;
            let accepted = ready.try_io(|socket| {
                Ok(rustix::net::accept_with(
                    socket,
                    SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                )?)
            });
            if let Ok(accepted) = accepted {
                return accepted;
            }
        }
    }
}

impl Running<'_> {
    async fn follow(self, intent: Intent) -> Outcome {
        let io =
            |operation: &'static str| move |error: io::Error| Failure::new(format!("{operation}: {error}"));
        let context = self.context;
        let project = self.loaded.project.clone();
        // What it prints goes to the terminal as it is: no list is drawn there
        // from its start on.
        let own = match &intent {
            Intent::Run(run) => format!("Container {}", run.name),
            _ => String::new(),
        };
        let mut begun = false;
        let client = Client::connect(&context.world, &project.name)?;
        let stream = UnixStream::from_std(client.into_stream()?).map_err(Failure::new)?;
        let (reader, mut writer) = stream.into_split();
        let path = client_path(&context.world, &project.name, &self.id);
        let meeting = Meeting::new(path).map_err(io("make a socket"))?;
        let request = Request::Apply(Apply {
            session: true,
            ..Apply::new(self.loaded.request.clone(), intent)
        });
        let mut line = serde_json::to_vec(&request).map_err(Failure::new)?;
        line.push(b'\n');
        writer.write_all(&line).await.map_err(io("ask the supervisor"))?;
        let mut replies = BufReader::new(reader).lines();
        let mut progress = Progress::new(&context.terminal);
        let session = Session {
            detach_keys: Keys::default(),
            input: self.typed.interactive,
            ends_input: true,
            terminal: self.tty,
            tty: self.tty,
            sig_proxy: true,
            signal: |number| self.signal(number),
        };
        let attached = std::cell::Cell::new(false);
        let met = async {
            let socket = meeting.accept().await?;
            attached.set(true);
            session.run(socket).await
        };
        tokio::pin!(met);
        let (mut left, mut code, mut done, mut supervised) = (None, None, false, true);
        loop {
            tokio::select! {
                // What it has printed comes before what became of it.
                biased;
                end = &mut met, if left.is_none() => {
                    match end.map_err(io("attach"))? {
                        Left::Detached => return Ok(ExitCode::SUCCESS),
                        Left::Ended(status) => code = Some(status),
                        // Its monitor was killed.
                        Left::Closed => {}
                    }
                    left = Some(());
                }
                line = replies.next_line(), if supervised => match line.map_err(Failure::new)? {
                    Some(line) => match serde_json::from_str::<Reply>(&line).map_err(Failure::new)? {
                        Reply::Exited { id, code: status, .. } if id == self.id => {
                            code = code.or(Some(status));
                        }
                        reply @ Reply::Done { .. } => {
                            progress.settle();
                            if let Some(end) = show(&mut progress, &reply) {
                                end?;
                            }
                            done = true;
                        }
                        Reply::Progress { event: Event::Action { resource, verb, .. } }
                            if resource == own && verb == "Starting" =>
                        {
                            progress.settle();
                            begun = true;
                        }
                        Reply::Progress { event: Event::Action { .. } } if self.typed.quiet || begun => {}
                        reply => { show(&mut progress, &reply); }
                    },
                    // It goes on without a supervisor; the next one takes over.
                    None => supervised = false,
                }
            }
            match (left, code) {
                (Some(()), Some(code)) if done || !supervised => return Ok(status(code)),
                (Some(()), None) if !supervised => return self.recorded_end(),
                // Once attached, it needs no supervisor to come to its end.
                (None, _) if !supervised && !attached.get() => {
                    return Err(Failure::new("the supervisor ended before the command did")
                        .hint("run the command again"));
                }
                _ => {}
            }
        }
    }

    /// Passes a signal on.
    fn signal(&self, number: i32) {
        let project = &self.loaded.project.name;
        let Ok(records) = containers(&self.context.world, project) else {
            return;
        };
        if let Some(record) = records.iter().find(|record| record.id == self.id)
            && let Ok(Some(running)) = running(&self.context.world, record)
        {
            // It may have just ended: the connection closes next.
            let _ = runtime::signal(&running, number);
        }
    }

    /// How it has ended, as its monitor wrote it down.
    fn recorded_end(&self) -> Outcome {
        let records = containers(&self.context.world, &self.loaded.project.name)?;
        let record = records.iter().find(|record| record.id == self.id);
        let exit = match record {
            Some(record) => last_exit(&self.context.world, record)?,
            None => None,
        };
        match exit {
            Some(exit) => Ok(status(exit.code)),
            None => Err(Failure::new(
                "the supervisor was killed, and how the container ended is not known",
            )),
        }
    }
}

/// An exit status as a process can have it.
fn status(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: Run,
    }

    fn parsed(line: &str) -> Run {
        Line::try_parse_from(format!("x {line}").split(' ')).unwrap().run
    }

    #[test]
    fn what_follows_the_service_is_the_commands() {
        let run = parsed("--rm -T -e A=1 -e B web ls -l --rm");
        assert_eq!(run.command, ["ls", "-l", "--rm"]);
        assert!(run.rm && run.no_tty && run.interactive);
        assert_eq!(run.env, ["A=1", "B"]);
        assert!(!parsed("--interactive=false web").interactive);
        assert_eq!(parsed("-it web sh").command, ["sh"]);
    }

    #[test]
    fn the_command_line_is_one_more_stack_file() {
        let service = Service {
            cap_drop: vec!["NET_RAW".into(), "KILL".into()],
            container_name: Some("fixed".into()),
            ..Service::default()
        };
        let text = overlay(
            &parsed("-e PRICE=$5 --cap-add cap_net_raw -u 7 -p 80:80 -v data:/d --entrypoint sh web -c $X"),
            &service,
            false,
        );
        let Ok(text) = text else { panic!("not said") };
        assert_eq!(
            text,
            "services:\n  \"web\":\n    restart: \"no\"\n    entrypoint: !override \"sh\"\n    \
             command: !override [\"-c\",\"$$X\"]\n    environment: [\"PRICE=$$5\"]\n    \
             cap_drop: !override [\"KILL\"]\n    cap_add: [\"NET_RAW\"]\n    \
             ports: !override [\"80:80\"]\n    volumes: [\"data:/d\"]\n    user: \"7\"\n    \
             tty: false\n    stdin_open: true\n    container_name: !reset null\n"
        );
    }
}

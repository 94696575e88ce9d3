//! `system install`, `uninstall` and `resume`: stacks come back when the
//! machine does.
//!
//! There is no daemon that a boot could start. Instead a systemd unit runs
//! `rcompose system resume` once, which looks at every stack on disk, asks
//! [`after_boot`] about each container that does not run, and has the stack's
//! supervisor start those, in the order of their dependencies. It may be run at
//! any time, and again: what runs is left alone.
//!
//! Known to be weak: systemd ends containers at a shutdown with a signal to each
//! of their processes, not with their `stop_signal` and not in order; one with
//! `restart: on-failure` that ends with status 0 of that stays down.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Args;

use super::context::Context;
use super::failure::{Failure, Outcome};
use super::progress::Progress;
use super::request::{need_privilege, show};
use crate::host::{View, projects, recall, restart_policy};
use crate::lifecycle::restart::after_boot;
use crate::plan::{ContainerState, Intent};
use crate::store::World;
use crate::supervisor::client::Client;
use crate::supervisor::protocol::{Apply, Request};

/// The unit's name.
const UNIT: &str = "rcompose.service";
/// Exit status of a container whose end nobody saw: as after SIGKILL.
const KILLED: i32 = 137;

/// `system install`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Install {
    /// For the session manager of this user, in place of the machine's
    #[arg(long)]
    user: bool,
    /// Folder that stands for '/': for images of machines, and tests
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Where rcompose is on the machine [default: where it is now]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// `system uninstall`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Uninstall {
    /// From the session manager of this user, in place of the machine's
    #[arg(long)]
    user: bool,
    /// Folder that stands for '/'
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

/// Where a unit is, and the link that enables it.
struct Places {
    unit: PathBuf,
    link: PathBuf,
    /// Where the link leads, seen from the machine itself.
    target: PathBuf,
}

impl Places {
    fn new(user: bool, root: Option<&Path>) -> Result<Self, Failure> {
        let folder = if user {
            user_units()?
        } else {
            "/etc/systemd/system".into()
        };
        let inside = |path: PathBuf| match root {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(&path)),
            None => path,
        };
        let wanted_by = format!(
            "{}.wants",
            if user {
                "default.target"
            } else {
                "multi-user.target"
            }
        );
        Ok(Self {
            link: inside(folder.join(wanted_by).join(UNIT)),
            target: folder.join(UNIT),
            unit: inside(folder.join(UNIT)),
        })
    }
}

/// The folder of a user's own units: systemd.unit(5).
fn user_units() -> Result<PathBuf, Failure> {
    let set = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
    let config = config.ok_or_else(|| Failure::new("--user: neither XDG_CONFIG_HOME nor HOME is set"))?;
    Ok(config.join("systemd/user"))
}

/// The unit's text.
fn unit(program: &Path, state_root: Option<&Path>, user: bool) -> Result<String, Failure> {
    let mut command = word(program)?;
    if let Some(state) = state_root {
        command.push_str(&format!(" --state-root {}", word(state)?));
    }
    // The services of a user's manager do not see the machine's.
    let (after, wanted_by) = if user {
        ("", "default.target")
    } else {
        (
            "After=local-fs.target network-online.target\nWants=network-online.target\n",
            "multi-user.target",
        )
    };
    Ok(format!(
        "# Written by 'rcompose system install'; 'rcompose system uninstall' removes it.\n[Unit]\n\
         Description=Stacks of rcompose\n{after}\n[Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart={command} system resume\n# The stacks go on when the unit is stopped.\nKillMode=process\n\
         TasksMax=infinity\nLimitNOFILE=1048576\n\n[Install]\nWantedBy={wanted_by}\n"
    ))
}

/// A path as a word of `ExecStart`: systemd.service(5), COMMAND LINES.
fn word(path: &Path) -> Result<String, Failure> {
    let text = path
        .to_str()
        .filter(|text| !text.contains(char::is_control))
        .ok_or_else(|| Failure::new(format!("{}: a unit cannot name this path", path.display())))?;
    if !path.is_absolute() {
        return Err(Failure::new(format!("{text}: a unit needs an absolute path")));
    }
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+:@".contains(letter);
    if text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            '%' | '$' => quoted.extend([letter, letter]),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    Ok(quoted)
}

pub(in crate::cli) fn install(context: &Context, typed: &Install) -> Outcome {
    let places = Places::new(typed.user, typed.root.as_deref())?;
    let program = match &typed.program {
        Some(program) => program.clone(),
        None => {
            std::env::current_exe().map_err(|error| Failure::new(format!("find this program: {error}")))?
        }
    };
    let state = context
        .global
        .state_root
        .as_deref()
        .map(std::path::absolute)
        .transpose();
    let state = state.map_err(|error| Failure::new(format!("--state-root: {error}")))?;
    let text = unit(&program, state.as_deref(), typed.user)?;
    let say = |text: &str, path: &Path| context.terminal.out(&format!("{text} {}\n", path.display()));
    if context.global.dry_run {
        say("would write", &places.unit);
        say("would link", &places.link);
        context.terminal.out(&text);
        return Ok(ExitCode::SUCCESS);
    }
    if typed.user {
        context
            .terminal
            .warning("containers need root: as another user's, this unit cannot start any");
    }
    write(&places.unit, &text)?;
    say("wrote", &places.unit);
    link(&places)?;
    say("linked", &places.link);
    if typed.root.is_none() {
        reload(context, typed.user)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(in crate::cli) fn uninstall(context: &Context, typed: &Uninstall) -> Outcome {
    let places = Places::new(typed.user, typed.root.as_deref())?;
    let mut gone = false;
    for path in [&places.link, &places.unit] {
        if context.global.dry_run {
            if path.symlink_metadata().is_ok() {
                context
                    .terminal
                    .out(&format!("would remove {}\n", path.display()));
            }
            continue;
        }
        match std::fs::remove_file(path) {
            Ok(()) => {
                gone = true;
                context.terminal.out(&format!("removed {}\n", path.display()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("remove", path, &error)),
        }
    }
    if !gone && !context.global.dry_run {
        context.terminal.warning("it was not installed");
    }
    if gone && typed.root.is_none() {
        reload(context, typed.user)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::new(format!("{what} {}: {error}", path.display()));
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        return failure.hint("the machine's units belong to root; --user installs one of your own");
    }
    failure
}

/// Writes a file so that it is there whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let fresh = path.with_extension("service.new");
    let written = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = std::fs::File::create(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    };
    written().map_err(|error| failed("write", path, &error))
}

/// Enables the unit, as systemctl(1) would.
fn link(places: &Places) -> Result<(), Failure> {
    if std::fs::read_link(&places.link).is_ok_and(|target| target == places.target) {
        return Ok(());
    }
    let linked = || -> std::io::Result<()> {
        if let Some(folder) = places.link.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match std::fs::remove_file(&places.link) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(&places.target, &places.link)
    };
    linked().map_err(|error| failed("link", &places.link, &error))
}

/// Has systemd look at its units again, where it runs: sd_booted(3).
fn reload(context: &Context, user: bool) -> Result<(), Failure> {
    let running = if user {
        std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|run| Path::new(&run).join("systemd").is_dir())
    } else {
        Path::new("/run/systemd/system").is_dir()
    };
    if !running {
        context
            .terminal
            .out("systemd does not run here: it will find the change when it does\n");
        return Ok(());
    }
    let mut command = Command::new("systemctl");
    if user {
        command.arg("--user");
    }
    let output = command.arg("daemon-reload").stdin(Stdio::null()).output();
    let output = output.map_err(|error| Failure::new(format!("run systemctl daemon-reload: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("systemctl daemon-reload: {}", said.trim())))
}

/// Brings back what is to run after a boot.
pub(in crate::cli) fn resume(context: &Context) -> Outcome {
    if !context.global.dry_run {
        need_privilege()?;
    }
    let mut worst = ExitCode::SUCCESS;
    for (project, views) in projects(&context.world)? {
        let containers: Vec<String> = views
            .iter()
            .filter(|view| is_due(view))
            .map(|view| view.record.id.clone())
            .collect();
        // What was to be removed at its end is removed by the supervisor, as it comes.
        let fleeting = views
            .iter()
            .any(|view| view.record.is_fleeting() && !view.state.is_running());
        if context.global.dry_run {
            for view in views.iter().filter(|view| containers.contains(&view.record.id)) {
                context
                    .terminal
                    .out(&format!("would start {}\n", view.record.name));
            }
        } else if (!containers.is_empty() || fleeting)
            && let Err(error) = bring_back(context, &project, containers)
        {
            // The other stacks are not to suffer.
            error
                .of(&format!("stack \"{project}\""))
                .report(&context.terminal);
            worst = ExitCode::FAILURE;
        }
    }
    Ok(worst)
}

/// Whether a container does not run and should.
fn is_due(view: &View) -> bool {
    let record = &view.record;
    if record.one_off.is_some() || view.state.is_running() {
        return false;
    }
    let cut_off = match view.state {
        // It has run, and nobody has seen it end.
        ContainerState::Created => view.log.exists(),
        ContainerState::Exited { code, .. } => code == KILLED,
        ContainerState::Running { .. } => false,
    };
    after_boot(restart_policy(&record.config), record.stopped, cut_off)
}

/// Has the supervisor of one stack start these containers: those first that the
/// others wait for; then, if some of these waits failed, all that are left.
fn bring_back(context: &Context, project: &str, containers: Vec<String>) -> Result<(), Failure> {
    // A stack whose records cannot be read fails here, not in its supervisor.
    recall(&context.world, project)?;
    let first = ask(context, project, &containers, true);
    if first.is_ok() || left(&context.world, project, &containers)?.is_empty() {
        return first;
    }
    ask(context, project, &containers, false)
}

/// Those of the containers that do not run.
fn left(world: &World, project: &str, containers: &[String]) -> Result<Vec<String>, Failure> {
    let views = crate::host::views(world, project)?;
    let down = views
        .into_iter()
        .filter(|view| containers.contains(&view.record.id) && !view.state.is_running());
    Ok(down.map(|view| view.record.id).collect())
}

fn ask(context: &Context, project: &str, containers: &[String], wait: bool) -> Result<(), Failure> {
    let mut client = Client::connect(&context.world, project)?;
    let intent = Intent::Resume {
        containers: containers.to_vec(),
        wait,
    };
    client.ask(&Request::Apply(Apply::new(None, intent)))?;
    let mut progress = Progress::new(&context.terminal);
    loop {
        let Some(reply) = client.next()? else {
            return Err(Failure::new("its supervisor ended before everything was started"));
        };
        if let Some(end) = show(&mut progress, &reply) {
            return end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_words_of_a_unit() {
        let text = |path: &str| word(Path::new(path)).ok();
        assert_eq!(
            text("/usr/local/bin/rcompose").as_deref(),
            Some("/usr/local/bin/rcompose")
        );
        assert_eq!(
            text("/a b/100%/$x\"\\").as_deref(),
            Some("\"/a b/100%%/$$x\\\"\\\\\"")
        );
        assert_eq!(text("relative"), None);
        assert_eq!(text("/line\nbreak"), None);
    }

    #[test]
    fn the_unit_resumes_the_world_that_was_named() {
        let text = unit(Path::new("/bin/rcompose"), Some(Path::new("/srv/state")), false)
            .ok()
            .unwrap();
        assert!(
            text.contains("\nExecStart=/bin/rcompose --state-root /srv/state system resume\n"),
            "{text}"
        );
        assert!(text.contains("\nWantedBy=multi-user.target\n"), "{text}");
        assert!(!text.contains("\\\n") && !text.contains("  "), "{text}");
    }
}

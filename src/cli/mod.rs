//! Arguments to intents, and everything that is printed.
//!
//! [`main`] parses what was typed, makes the [`context`], and calls one verb,
//! each in a file of its own. A verb turns its arguments into an intent for the
//! supervisor, or reads the store and prints. Failures carry their hints and
//! exit status ([`failure`]); only [`terminal`] prints.
//!
//! Exit statuses are docker compose's: 0; 1 for any failure; 130 after Ctrl-C;
//! that of the command for `exec` and `run`, of the service for `up
//! --exit-code-from`. `plan` ends with 2 when there is something to do, `diff`
//! when there is a difference.

use std::future::Future;
use std::process::ExitCode;

use clap::Parser as _;

mod arguments;
mod attach;
mod boot;
mod choose;
mod config;
mod container;
mod context;
mod copy;
mod cp;
mod drawing;
mod events;
mod exec;
mod explain;
mod failure;
mod follow;
mod graph;
mod history;
mod image;
mod lifecycle;
mod live;
mod logs;
mod ls;
mod menu;
mod moment;
mod network;
mod plan;
mod port;
mod progress;
mod ps;
mod relay;
mod request;
mod run;
mod stats;
mod system;
mod template;
mod terminal;
mod top;
mod up;
mod version;
mod volume;
mod volumes;
mod wait;
mod watch;
mod why;

use arguments::{Arguments, Command};
use context::Context;
use failure::{Failure, Outcome};

/// The command line: parses, does, reports.
pub fn main() -> ExitCode {
    crate::sys::process::hold_memory();
    let typed = match Arguments::try_parse() {
        Ok(typed) => typed,
        Err(mut error) => {
            use clap::error::{ContextKind, ErrorKind};
            if error.kind() == ErrorKind::UnknownArgument && error.get(ContextKind::SuggestedArg).is_none() {
                // How to pass it as a value is not what somebody needs who
                // mistyped an option.
                error.remove(ContextKind::Suggested);
            }
            // Help is an answer, not a failure.
            let code = if error.use_stderr() { 1 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let terminal = terminal::Terminal::new(&typed.global);
    let run = || -> Outcome {
        terminal::check(&typed.global)?;
        let context = Context::new(typed.global)?;
        match &typed.command {
            Command::Up(typed) => up::up(&context, typed),
            Command::Down(typed) => lifecycle::down(&context, typed),
            Command::Ps(typed) => ps::ps(&context, typed),
            Command::Logs(typed) => logs::logs(&context, typed),
            Command::Ls(typed) => ls::ls(&context, typed),
            Command::Port(typed) => port::port(&context, typed),
            Command::Top(typed) => top::top(&context, typed),
            Command::Stats(typed) => stats::stats(&context, typed),
            Command::Volumes(typed) => volumes::volumes(&context, typed),
            Command::Attach(typed) => attach::attach(&context, typed),
            Command::Cp(typed) => cp::cp(&context, typed),
            Command::Graph(typed) => graph::graph(&context, typed),
            Command::Why(typed) => why::why(&context, typed),
            Command::Events(typed) => events::events(&context, typed),
            Command::Wait(typed) => wait::wait(&context, typed),
            Command::Watch(typed) => watch::watch(&context, typed),
            Command::Run(typed) => run::run(&context, typed),
            Command::Exec(typed) => exec::exec(&context, typed),
            Command::Stop(typed) => lifecycle::stop(&context, typed),
            Command::Start(typed) => lifecycle::start(&context, typed),
            Command::Restart(typed) => lifecycle::restart(&context, typed),
            Command::Create(typed) => lifecycle::create(&context, typed),
            Command::Kill(typed) => lifecycle::kill(&context, typed),
            Command::Pause(typed) => lifecycle::pause(&context, typed),
            Command::Unpause(typed) => lifecycle::unpause(&context, typed),
            Command::Rm(typed) => lifecycle::rm(&context, typed),
            Command::Scale(typed) => lifecycle::scale(&context, typed),
            Command::Config(typed) => config::config(&context, typed),
            Command::Explain(typed) => explain::explain(&context, typed),
            Command::Plan(typed) => plan::plan(&context, typed),
            Command::Apply(typed) => plan::apply(&context, typed),
            Command::History(typed) => history::history(&context, typed),
            Command::Diff(typed) => history::diff(&context, typed),
            Command::Rollback(typed) => history::rollback(&context, typed),
            Command::Pull(typed) => image::pull(&context, typed),
            Command::Push(typed) => image::push(&context, typed),
            Command::Images(typed) => image::images(&context, typed),
            Command::Commit(typed) => container::commit(&context, typed),
            Command::Export(typed) => container::export(&context, typed),
            Command::Image { command } => image::image(&context, command),
            Command::Container { command } => container::container(&context, command),
            Command::Network { command } => network::network(&context, command),
            Command::Volume { command } => volume::volume(&context, command),
            Command::System { command } => system::system(&context, command),
            Command::Login(typed) => image::login(&context, typed),
            Command::Logout(typed) => image::logout(&context, typed),
            Command::Version(typed) => version::version(&context, typed),
        }
    };
    run().unwrap_or_else(|failure| failure.report(&terminal))
}

/// Runs a future to its end on this thread.
fn block_on<T, E: Into<Failure>>(future: impl Future<Output = Result<T, E>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("start the event loop: {error}")))?
        .block_on(future)
        .map_err(Into::into)
}

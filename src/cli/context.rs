//! What every command works with: the world, the terminal, and the project.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::arguments::{DiagnosticFormat, Global};
use super::failure::Failure;
use super::terminal::Terminal;
use crate::host::recall;
use crate::project::{LoadRequest, Project};
use crate::stack::{Diagnostic, LONGEST_FILE};
use crate::store::World;
use crate::supervisor::load;

/// What every command works with.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) global: Global,
    pub(super) world: World,
    pub(super) terminal: Terminal,
}

/// A project, and how it was had.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) project: Arc<Project>,
    /// `None`: from the records, because there is no stack file.
    pub(super) request: Option<Box<LoadRequest>>,
}

impl Context {
    pub(super) fn new(global: Global) -> Result<Self, Failure> {
        let terminal = Terminal::new(&global);
        let state = match &global.state_root {
            Some(root) => Some(
                std::path::absolute(root)
                    .map_err(|error| Failure::new(format!("state root {}: {error}", root.display())))?,
            ),
            None => None,
        };
        Ok(Self {
            world: World::new(state.as_deref()),
            terminal,
            global,
        })
    }

    /// The same, with nothing shown of images that are fetched.
    pub(super) fn quiet_pull(&self, quiet: bool) -> Self {
        Self {
            global: self.global.clone(),
            world: self.world.clone(),
            terminal: Terminal {
                quiet_pull: quiet,
                ..self.terminal.clone()
            },
        }
    }

    /// How the stack file is to be loaded, by arguments and environment.
    ///
    /// `services` are those named on the command line: they are enabled whatever
    /// their profiles are.
    pub(super) fn request(&self, services: &[String]) -> Result<LoadRequest, Failure> {
        let cwd = std::env::current_dir()
            .map_err(|error| Failure::new(format!("find the current folder: {error}")))?;
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let named = self.global.file.is_empty() && {
            let list = environment.get("COMPOSE_FILE").map_or("", String::as_str);
            let separator = environment.get("COMPOSE_PATH_SEPARATOR");
            let separator = separator
                .filter(|separator| !separator.is_empty())
                .map_or(":", String::as_str);
            list.split(separator).any(|file| file == "-")
        };
        let stdin = if named || self.global.file.contains(&PathBuf::from("-")) {
            let mut text = String::new();
            std::io::Read::take(std::io::stdin(), LONGEST_FILE + 1)
                .read_to_string(&mut text)
                .map_err(|error| Failure::new(format!("read the stack file from standard input: {error}")))?;
            if text.len() as u64 > LONGEST_FILE {
                let most = LONGEST_FILE >> 20;
                return Err(Failure::new(format!(
                    "the stack file on standard input is longer than {most} MiB"
                )));
            }
            Some(text)
        } else {
            None
        };
        Ok(LoadRequest {
            cwd,
            files: self.global.file.clone(),
            stdin,
            project_directory: self.global.project_directory.clone(),
            project_name: self.global.project_name.clone(),
            env_files: self.global.env_file.clone(),
            profiles: self.global.profile.clone(),
            services: services.to_vec(),
            environment,
        })
    }

    /// Problems of the stack file as a failure, printed as asked for.
    pub(super) fn refused(&self, diagnostics: Vec<Diagnostic>) -> Failure {
        match self.global.diagnostics {
            DiagnosticFormat::Text => Failure::diagnostics(diagnostics),
            DiagnosticFormat::Json => Failure::json(diagnostics),
        }
    }

    /// Prints what the user should know of the stack file.
    pub(super) fn warn(&self, warnings: &[Diagnostic]) {
        for warning in warnings {
            self.terminal.err(&match self.global.diagnostics {
                DiagnosticFormat::Text => warning.render(self.terminal.color_err),
                DiagnosticFormat::Json => super::failure::json_line(warning),
            });
        }
    }

    /// The project of the stack file. Warnings are printed.
    pub(super) fn load(&self, services: &[String]) -> Result<Loaded, Failure> {
        let request = self.request(services)?;
        let loaded = load(&request).map_err(|failure| self.refused(failure.diagnostics))?;
        self.warn(&loaded.warnings);
        Ok(Loaded {
            project: Arc::new(loaded.project),
            request: Some(Box::new(request)),
        })
    }

    /// The project of the stack file; with a project name, and no stack file or
    /// one that does not load, what the records say of it.
    pub(super) fn load_or_recall(&self, services: &[String]) -> Result<Loaded, Failure> {
        let name = self
            .global
            .project_name
            .clone()
            .or_else(|| std::env::var("COMPOSE_PROJECT_NAME").ok());
        match (self.load(services), name) {
            (Err(_), Some(name)) if self.global.file.is_empty() => {
                let project = recall(&self.world, &name)?;
                Ok(Loaded {
                    project: Arc::new(project),
                    request: None,
                })
            }
            (Err(failure), None) if failure.is_in_file() => {
                Err(failure.hint("with -p NAME in place of -f this command needs no stack file"))
            }
            (loaded, _) => loaded,
        }
    }
}

/// Whether `name` is a service of the project, or what to say.
pub(super) fn known_services(project: &Project, names: &[String]) -> Result<(), Failure> {
    for name in names {
        if !project.services.contains_key(name) && !project.disabled_services.contains_key(name) {
            let failure = Failure::new(format!("no such service: {name}"));
            let near = project
                .services
                .keys()
                .map(|key| (strsim::damerau_levenshtein(key, name), key))
                .min()
                .filter(|(distance, _)| *distance <= 2);
            return Err(match near {
                Some((_, key)) => failure.hint(format!("did you mean '{key}'?")),
                None => failure,
            });
        }
    }
    Ok(())
}

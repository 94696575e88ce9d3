//! Where everything is.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::StoreError;

/// One state root and everything below it. Two worlds never meet: every kernel
/// object whose name is global (cgroup, firewall table) carries [`World::id`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    state: PathBuf,
    run: PathBuf,
    id: String,
}

/// The default state root.
const STATE: &str = "/var/lib/rcompose";
/// The run directory that goes with the default state root.
const RUN: &str = "/run/rcompose";

impl World {
    /// The world of a state root; `None` is the machine's own. A given root
    /// must be absolute; its run directory is inside it.
    pub fn new(state_root: Option<&Path>) -> Self {
        match state_root.filter(|root| *root != Path::new(STATE)) {
            None => Self {
                state: STATE.into(),
                run: RUN.into(),
                id: "0".repeat(8),
            },
            Some(root) => {
                use sha2::Digest;
                let digest = sha2::Sha256::digest(root.as_os_str().as_encoded_bytes());
                let id = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
                Self {
                    state: root.into(),
                    run: root.join("run"),
                    id,
                }
            }
        }
    }

    /// Makes the state root and the run directory, and lets only their owner in:
    /// what is below belongs to users of containers, set-user-ID programs in
    /// image layers included.
    ///
    /// # Errors
    /// [`StoreError::Io`] when they cannot be made or changed.
    pub fn prepare(&self) -> Result<(), StoreError> {
        for folder in [&self.state, &self.run] {
            fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
                .map_err(StoreError::io("set the mode of", folder))?;
        }
        Ok(())
    }

    /// Eight hexadecimal digits that tell this world from others on the machine.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The state root.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The run directory.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The image store.
    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    /// Network records.
    pub fn networks(&self) -> PathBuf {
        self.state.join("networks")
    }

    /// Volumes.
    pub fn volumes(&self) -> PathBuf {
        self.state.join("volumes")
    }

    /// The durable folder of every stack.
    pub fn stacks(&self) -> PathBuf {
        self.state.join("stacks")
    }

    /// The durable folder of one stack.
    pub fn stack(&self, project: &str) -> PathBuf {
        self.stacks().join(project)
    }

    /// The layer that is below all images: what programs know a container by.
    pub fn mark(&self) -> PathBuf {
        self.run.join("mark")
    }

    /// The run folder of one stack: locks and sockets.
    pub fn stack_run(&self, project: &str) -> PathBuf {
        self.run.join("stacks").join(project)
    }

    /// The folders of one container.
    pub fn container(&self, project: &str, id: &str) -> ContainerPaths {
        ContainerPaths {
            state: self.stack(project).join("containers").join(id),
            run: self.stack_run(project).join("containers").join(id),
        }
    }
}

/// The two folders of one container: durable and of this boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPaths {
    /// Durable: record, log, exit status, writable layer.
    pub state: PathBuf,
    /// Of the present run: pids, mount point, generated files.
    pub run: PathBuf,
}

impl ContainerPaths {
    /// What the container is.
    pub fn record(&self) -> PathBuf {
        self.state.join("record.json")
    }

    /// What it printed.
    pub fn log(&self) -> PathBuf {
        self.state.join("log")
    }

    /// How its last run ended.
    pub fn exit(&self) -> PathBuf {
        self.state.join("exit.json")
    }

    /// Pids and start times of the present run.
    pub fn running(&self) -> PathBuf {
        self.run.join("run.json")
    }

    /// Mount point of its root file system (visible only in its own mount namespace).
    pub fn root(&self) -> PathBuf {
        self.run.join("root")
    }
}

//! Named volumes.
//!
//! # How it works
//!
//! A volume is a folder:
//!
//! ```text
//! <state>/volumes/<name>/
//!   record.json    whose it is; written, and synced, before `data` is made
//!   data/          what containers mount
//!   populated      there when the image's content has been copied into `data`
//!   users.lock     of one with driver options: shared by the runs that use it
//!   mount.lock     of one with driver options: held while it is mounted or unmounted
//! ```
//!
//! A folder without a record is half made and is no volume: making it again
//! completes it. A volume is removed by renaming its folder to a name no volume
//! can have, and deleting that; a deletion that was cut short is finished by the
//! next command that makes or removes a volume.
//!
//! Whether a volume is in use is not known here: who removes it must know.
//!
//! # Known to be weak
//!
//! Only the `local` driver. What is mounted for a volume is seen in the mount
//! namespace of the supervisor that did it: two stacks whose supervisors were
//! started in different ones each have their own (of a tmpfs: each an empty one).
//! Deleting much takes long, in the foreground.

mod mounted;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use mounted::Hold;

use crate::store::{StoreError, World, read_record, write_record};

/// Starts the name of a folder on its way out.
const TRASH: &str = ".trash.";
/// Longest name: a file name, with room for nothing else.
const NAME_LIMIT: usize = 255;

/// What can go wrong with volumes.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The name does not follow the grammar.
    #[error("volume name {name:?} is not of letters, digits, _, . and -, starting with a letter or a digit")]
    Name {
        /// The name.
        name: String,
    },
    /// There is none of this name.
    #[error("no such volume: {name}")]
    Missing {
        /// The name.
        name: String,
    },
    /// Containers use it.
    #[error("volume {name} is in use")]
    InUse {
        /// The name.
        name: String,
    },
    /// What its driver options say cannot be mounted.
    #[error("volume {name}: mount {device} of type {kind}: {reason}")]
    Mount {
        /// The name of the volume.
        name: String,
        /// What was to be mounted.
        device: String,
        /// The file system.
        kind: String,
        /// What the kernel, or the name service, said.
        reason: String,
    },
    /// A record cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An operation of the file system failed.
    #[error("volume {name}: {operation} {}: {source}", path.display())]
    Io {
        /// The volume, or `*` for all of them.
        name: String,
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// A volume that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// The project that it was made for.
    pub project: String,
    /// Its key in that project; empty for an anonymous one.
    pub key: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What is mounted for it: options of the `local` driver (`type`, `device`,
    /// `o`); empty for a folder.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Made for one container, without a name of its own in the project.
    pub anonymous: bool,
    /// Whose an anonymous one is.
    #[serde(default)]
    pub holder: Option<Holder>,
    /// When it was made, nanoseconds since the epoch.
    pub created: u64,
}

/// Who has an anonymous volume. It outlives the container: its replacement
/// finds the volume by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Id of the container that has it, or had it last.
    pub container: String,
    /// Where it is mounted there.
    pub target: String,
    /// The container was removed to be replaced: service key and number of the
    /// one that is to have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaits: Option<(String, u32)>,
}

/// The volumes of one world. Cheap to make; opens nothing.
#[derive(Clone, Debug)]
pub struct Volumes {
    root: PathBuf,
}

impl Volumes {
    /// The volumes of a world.
    pub fn new(world: &World) -> Self {
        Self {
            root: world.volumes(),
        }
    }

    /// Makes a volume as drafted, now. One of this name that exists is left as it
    /// is, whoever made it, and returned.
    ///
    /// # Errors
    /// [`VolumeError::Name`]; [`VolumeError::Store`] or [`VolumeError::Io`] when
    /// it cannot be made.
    pub fn create(&self, draft: Volume) -> Result<Volume, VolumeError> {
        self.sweep();
        self.make(Volume {
            created: now(),
            ..draft
        })
    }

    /// Makes an anonymous volume for a container, or gives it one that exists.
    ///
    /// # Errors
    /// As [`Volumes::create`].
    pub fn give(
        &self,
        name: &str,
        project: &str,
        holder: Holder,
        labels: BTreeMap<String, String>,
    ) -> Result<Volume, VolumeError> {
        let mut volume = self.make(Volume {
            name: name.to_owned(),
            project: project.to_owned(),
            labels,
            anonymous: true,
            holder: Some(holder.clone()),
            created: now(),
            ..Volume::default()
        })?;
        if volume.holder.as_ref() != Some(&holder) {
            volume.holder = Some(holder);
            write_record(&self.root.join(name).join("record.json"), &volume)?;
        }
        Ok(volume)
    }

    /// Notes that the container that has an anonymous volume is being replaced, and
    /// by which one. Fine when there is no such volume.
    ///
    /// # Errors
    /// [`VolumeError::Name`], [`VolumeError::Store`].
    pub fn await_successor(&self, name: &str, service: &str, number: u32) -> Result<(), VolumeError> {
        let Some(mut volume) = self.get(name)? else {
            return Ok(());
        };
        if let Some(holder) = &mut volume.holder {
            holder.awaits = Some((service.to_owned(), number));
            write_record(&self.root.join(name).join("record.json"), &volume)?;
        }
        Ok(())
    }

    /// The anonymous volumes that a container has or had, by where it mounts
    /// them.
    ///
    /// # Errors
    /// As [`Volumes::list`].
    pub fn held_by(&self, container: &str) -> Result<BTreeMap<String, String>, VolumeError> {
        let held = self.list()?.into_iter().filter_map(|volume| {
            let holder = volume.holder.filter(|holder| holder.container == container)?;
            Some((holder.target, volume.name))
        });
        Ok(held.collect())
    }

    /// Makes a volume as drafted, unless there is one.
    fn make(&self, draft: Volume) -> Result<Volume, VolumeError> {
        let name = draft.name.as_str();
        check_name(name)?;
        let folder = self.root.join(name);
        let io = |operation, path: &Path| Self::io(name, operation, path);
        // What is below belongs to the users of containers: nobody else walks in.
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        let parent = self.root.parent().unwrap_or(&self.root);
        builder.create(parent).map_err(io("create", parent))?;
        builder
            .mode(0o700)
            .create(&folder)
            .map_err(io("create", &folder))?;
        let volume = match self.get(name)? {
            Some(volume) => volume,
            None => {
                let record = folder.join("record.json");
                write_record(&record, &draft)?;
                // The data outlives a power failure, so must what says whose it is.
                for path in [&record, &folder, &self.root] {
                    let synced = File::open(path).and_then(|file| file.sync_all());
                    synced.map_err(io("sync", path))?;
                }
                draft.clone()
            }
        };
        let data = folder.join("data");
        match fs::create_dir(&data) {
            Ok(()) => {
                // As Docker makes it, whatever the umask is.
                fs::set_permissions(&data, fs::Permissions::from_mode(0o755))
                    .map_err(io("set the mode of", &data))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io("create", &data)(error)),
        }
        Ok(volume)
    }

    /// The volume of a name; `None` when there is none.
    ///
    /// # Errors
    /// [`VolumeError::Name`]; [`VolumeError::Store`] when its record cannot be read.
    pub fn get(&self, name: &str) -> Result<Option<Volume>, VolumeError> {
        check_name(name)?;
        Ok(read_record(&self.root.join(name).join("record.json"))?)
    }

    /// All volumes, sorted by name.
    ///
    /// # Errors
    /// [`VolumeError::Io`] or [`VolumeError::Store`] when they cannot be read.
    pub fn list(&self) -> Result<Vec<Volume>, VolumeError> {
        let mut volumes = Vec::new();
        for name in self.names()? {
            if check_name(&name).is_ok() {
                volumes.extend(self.get(&name)?);
            }
        }
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    /// Removes a volume and all that is in it. `false` when there is none.
    ///
    /// # Errors
    /// [`VolumeError::Name`]; [`VolumeError::InUse`] when something is mounted for
    /// it and a container has that; [`VolumeError::Io`] when it cannot be removed.
    /// Once it is out of sight it is no volume any more, even if its deletion fails.
    pub fn remove(&self, name: &str) -> Result<bool, VolumeError> {
        check_name(name)?;
        self.sweep();
        let _nobody_mounts = self.take_down(name)?;
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let time = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let trash = self.root.join(format!(
            "{TRASH}{}.{}.{}",
            std::process::id(),
            time.as_nanos(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        let folder = self.root.join(name);
        match fs::rename(&folder, &trash) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Self::io(name, "remove", &folder)(error)),
        }
        delete(&trash).map_err(Self::io(name, "delete", &trash))?;
        Ok(true)
    }

    /// What containers mount.
    ///
    /// # Errors
    /// [`VolumeError::Name`].
    pub fn data_dir(&self, name: &str) -> Result<PathBuf, VolumeError> {
        check_name(name)?;
        Ok(self.root.join(name).join("data"))
    }

    /// The file that is there when the image's content has been copied into the
    /// volume. Whoever copies makes it last.
    ///
    /// # Errors
    /// [`VolumeError::Name`].
    pub fn populated_marker(&self, name: &str) -> Result<PathBuf, VolumeError> {
        check_name(name)?;
        Ok(self.root.join(name).join("populated"))
    }

    /// Finishes deletions that were cut short. What cannot be deleted now is
    /// left for the next time: it is in nobody's way.
    fn sweep(&self) {
        for name in self.names().unwrap_or_default() {
            if name.starts_with(TRASH) {
                let path = self.root.join(name);
                if let Err(error) = delete(&path) {
                    tracing::warn!(path = %path.display(), %error, "removed volume cannot be deleted");
                }
            }
        }
    }

    fn names(&self) -> Result<Vec<String>, VolumeError> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Self::io("*", "read", &self.root)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Self::io("*", "read", &self.root))?;
            names.extend(entry.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn io(name: &str, operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError + use<> {
        let (name, path) = (name.to_owned(), path.to_owned());
        move |source| VolumeError::Io {
            name,
            operation,
            path,
            source,
        }
    }
}

/// Nanoseconds since the epoch.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// Deletes the folder of a volume; fine when another process is quicker. What may
/// still be mounted in it is somebody else's, and never deleted.
fn delete(path: &Path) -> io::Result<()> {
    mounted::detach(&path.join("data"))?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, as Docker has it.
fn check_name(name: &str) -> Result<(), VolumeError> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if first && rest && name.len() <= NAME_LIMIT {
        return Ok(());
    }
    Err(VolumeError::Name {
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> (tempfile::TempDir, Volumes) {
        let folder = tempfile::tempdir().unwrap();
        let volumes = Volumes::new(&World::new(Some(folder.path())));
        (folder, volumes)
    }

    fn make(volumes: &Volumes, name: &str) -> Volume {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let draft = Volume {
            name: name.to_owned(),
            project: "shop".to_owned(),
            key: "data".to_owned(),
            labels,
            ..Volume::default()
        };
        volumes.create(draft).unwrap()
    }

    #[test]
    fn a_volume_is_made_found_and_removed() {
        let (_folder, volumes) = world();
        assert_eq!(volumes.list().unwrap(), []);
        assert_eq!(volumes.get("shop_data").unwrap(), None);
        let made = make(&volumes, "shop_data");
        assert_eq!(volumes.get("shop_data").unwrap(), Some(made.clone()));
        let data = volumes.data_dir("shop_data").unwrap();
        assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o7777, 0o755);
        fs::write(data.join("row"), "1").unwrap();
        fs::write(volumes.populated_marker("shop_data").unwrap(), "").unwrap();
        make(&volumes, "a");
        let names: Vec<_> = volumes
            .list()
            .unwrap()
            .into_iter()
            .map(|volume| volume.name)
            .collect();
        assert_eq!(names, ["a", "shop_data"]);
        assert!(volumes.remove("shop_data").unwrap());
        assert!(!volumes.remove("shop_data").unwrap());
        assert_eq!(
            fs::read_dir(&volumes.root).unwrap().count(),
            1,
            "only the other volume is left"
        );
        make(&volumes, "shop_data");
        assert_eq!(fs::read_dir(data).unwrap().count(), 0, "the new one is empty");
    }

    #[test]
    fn one_that_exists_is_kept() {
        let (_folder, volumes) = world();
        let made = make(&volumes, "v");
        let data = volumes.data_dir("v").unwrap();
        fs::write(data.join("row"), "1").unwrap();
        let again = volumes
            .create(Volume {
                name: "v".to_owned(),
                project: "other".to_owned(),
                anonymous: true,
                ..Volume::default()
            })
            .unwrap();
        assert_eq!(again, made);
        assert_eq!(fs::read_to_string(data.join("row")).unwrap(), "1");
    }

    #[test]
    fn an_anonymous_one_is_found_by_who_had_it() {
        let (_folder, volumes) = world();
        let holder = |container: &str| Holder {
            container: container.into(),
            target: "/data".into(),
            awaits: None,
        };
        make(&volumes, "named");
        volumes.give("v1", "shop", holder("a"), BTreeMap::new()).unwrap();
        fs::write(volumes.data_dir("v1").unwrap().join("row"), "1").unwrap();
        let held = BTreeMap::from([("/data".to_owned(), "v1".to_owned())]);
        assert_eq!(volumes.held_by("a").unwrap(), held);
        let given = volumes.give("v1", "shop", holder("b"), BTreeMap::new()).unwrap();
        assert!(given.anonymous);
        assert_eq!(volumes.held_by("b").unwrap(), held);
        assert_eq!(volumes.held_by("a").unwrap(), BTreeMap::new());
        assert!(volumes.data_dir("v1").unwrap().join("row").exists());
    }

    /// Each state that a process killed in `create` or `remove` can leave.
    #[test]
    fn what_a_killed_process_leaves_is_completed() {
        let (_folder, volumes) = world();
        fs::create_dir_all(volumes.root.join("bare")).unwrap();
        assert_eq!(volumes.get("bare").unwrap(), None);
        assert_eq!(volumes.list().unwrap(), []);
        make(&volumes, "bare");
        assert!(volumes.data_dir("bare").unwrap().is_dir());

        make(&volumes, "recorded");
        fs::remove_dir(volumes.data_dir("recorded").unwrap()).unwrap();
        make(&volumes, "recorded");
        assert!(volumes.data_dir("recorded").unwrap().is_dir());

        let trash = volumes.root.join(".trash.1.2.3");
        fs::create_dir_all(trash.join("data/deep")).unwrap();
        assert_eq!(volumes.list().unwrap().len(), 2);
        assert!(!volumes.remove("nothing").unwrap());
        assert!(!trash.exists());
    }

    #[test]
    fn names_that_are_no_names_touch_nothing() {
        let (folder, volumes) = world();
        let long = "a".repeat(256);
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "-a",
            "_a",
            ".trash.1",
            "ä",
            "a b",
            "a\0",
            long.as_str(),
        ] {
            assert!(
                matches!(volumes.remove(name), Err(VolumeError::Name { .. })),
                "{name:?}"
            );
            assert!(
                volumes
                    .create(Volume {
                        name: name.to_owned(),
                        ..Volume::default()
                    })
                    .is_err()
            );
            assert!(volumes.get(name).is_err());
            assert!(volumes.data_dir(name).is_err());
            assert!(volumes.populated_marker(name).is_err());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

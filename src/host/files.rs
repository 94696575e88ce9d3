//! The files of a container, for who copies them in or out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use super::record::ContainerRecord;
use super::start::{Shared, run_lock};
use super::{HostError, spec};
use crate::image::ImageStore;
use crate::runtime::{self, Liveness, OfflineMount, Revive, RunningRecord};
use crate::store::{Lock, World, read_record};
use crate::volume::{Hold, Volumes};

/// The root of a container's files, as the container sees them: volumes and
/// bind mounts are in it.
#[derive(Debug)]
pub struct Files {
    root: OwnedFd,
    /// Of a container that does not run: the right to start it.
    _lock: Option<Lock>,
    /// What is mounted for its volumes stays meanwhile.
    _holds: Vec<Hold>,
}

impl AsFd for Files {
    /// The root folder. What leads out of it (`..`, links) must be resolved
    /// within it: openat2(2) with `RESOLVE_IN_ROOT`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Opens the files of a container. One that runs is entered by its process 1;
/// the file system of one that does not is mounted where only the calling
/// thread sees it, and it cannot be started meanwhile.
///
/// # Errors
/// [`HostError`] when it is just being started or its image is gone.
pub fn files(world: &World, record: &ContainerRecord) -> Result<Files, HostError> {
    let paths = world.container(&record.project, &record.id);
    let present = || -> Result<Option<OwnedFd>, HostError> {
        let Some(running) = read_record::<RunningRecord>(&paths.running())? else {
            return Ok(None);
        };
        let path = PathBuf::from(format!("/proc/{}/root", running.init.pid));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty());
        // With the root open: had the number passed to another process, this
        // one would have ended before.
        match (runtime::probe(&running)?, root) {
            (Liveness::Running { init: Some(_), .. }, Ok(root)) => Ok(Some(root)),
            (Liveness::Running { init: Some(_), .. }, Err(error)) => {
                Err(HostError::io("open", &path)(error.into()))
            }
            _ => Ok(None),
        }
    };
    if let Some(root) = present()? {
        return Ok(Files {
            root,
            _lock: None,
            _holds: vec![],
        });
    }
    let lock = run_lock(&paths)?;
    let store = ImageStore::open(world.images());
    let image = store
        .get(&record.image)?
        .or(store.resolve(&record.config.image)?)
        .ok_or_else(|| HostError::NoImage {
            image: record.config.image.clone(),
        })?;
    let nobody = Revive {
        command: vec![],
        lock: PathBuf::new(),
    };
    let layers = |id: &String| Some((id.clone(), store.get(id).ok().flatten()?.layers));
    let mounted = record.images.values().filter_map(layers).collect();
    let (request, volumes) = spec::request(world, record, &image, nobody, &Shared::default(), &mounted)?;
    let holds = Volumes::new(world).hold_all(&volumes)?;
    let mounts: Vec<OfflineMount> = request
        .spec
        .mounts()
        .iter()
        .flatten()
        .filter(|mount| mount.typ().as_deref() == Some("bind"))
        // What an image has is read-only, and not the container's.
        .filter(|mount| !request.layered.contains_key(mount.destination()))
        .filter_map(|mount| {
            let confined = request.confined.get(mount.destination()).cloned();
            let source = mount.source().clone()?;
            let given = mount
                .options()
                .iter()
                .flatten()
                .any(|option| option == "ro" || option == "readonly");
            // What is made for each start is not there between them.
            (confined.is_some() || source.exists()).then(|| OfflineMount {
                source,
                confined,
                target: mount.destination().clone(),
                readonly: given,
            })
        })
        .collect();
    let root = runtime::mount_offline(&request.rootfs, &mounts).map_err(|source| HostError::Container {
        name: record.name.clone(),
        source,
    })?;
    Ok(Files {
        root,
        _lock: Some(lock),
        _holds: holds,
    })
}

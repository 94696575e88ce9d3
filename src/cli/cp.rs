//! `cp`: files between this machine and containers, running or not.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::context::{Context, known_services};
use super::copy::{Copy, DESCRIPTORS, Owner, Place, Tree, pack, unpack};
use super::failure::{Failure, Outcome};
use super::progress::Progress;
use super::request::need_privilege;
use crate::host::{View, files, views};
use crate::reconcile::{Event, Phase};
use crate::sys::fd;

/// `cp`.
#[derive(Debug, Args)]
pub(super) struct Cp {
    /// SERVICE:PATH, a path of this machine, or '-' for a tar archive on standard input
    #[arg(allow_hyphen_values = true)]
    source: OsString,
    /// SERVICE:PATH, a path of this machine, or '-' for a tar archive on standard output
    #[arg(allow_hyphen_values = true)]
    destination: OsString,
    /// Containers that 'run' has made too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    how: How,
    /// Number of the container
    #[arg(long, default_value_t = 0, value_name = "NUMBER", hide_default_value = true)]
    index: u32,
}

/// How files are copied.
#[derive(Debug, Args)]
pub(super) struct How {
    /// Keep user and group ids
    #[arg(short, long)]
    archive: bool,
    /// Copy what a link at the source leads to, not the link
    #[arg(short = 'L', long)]
    follow_link: bool,
}

/// One side, as typed.
#[derive(Debug, PartialEq, Eq)]
struct Side {
    service: Option<String>,
    path: PathBuf,
    /// It says that it is a folder: it ends with `/` or `/.`.
    folder: bool,
    /// What is in the folder is meant: it ends with `/.`.
    contents: bool,
}

impl Side {
    /// `SERVICE:PATH`, unless it is plainly a path: `/…`, `./…`, without colon.
    fn parse(text: &OsStr) -> Self {
        use std::os::unix::ffi::OsStrExt as _;
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':');
        let split = match (bytes.first(), colon) {
            (Some(b'/' | b'.'), _) | (_, None) => None,
            (_, Some(at)) => Some((bytes.get(..at).unwrap_or_default(), at + 1)),
        };
        let (service, path) = match split {
            Some((service, rest)) => (
                Some(String::from_utf8_lossy(service).into_owned()),
                bytes.get(rest..).unwrap_or_default(),
            ),
            None => (None, bytes),
        };
        let contents = path == b"." || path.ends_with(b"/.");
        Self {
            folder: contents || path.ends_with(b"/"),
            contents,
            path: PathBuf::from(OsStr::from_bytes(path)),
            service,
        }
    }

    fn is_stream(&self) -> bool {
        self.service.is_none() && self.path.as_os_str() == "-"
    }

    /// The path, in a container from its root.
    fn place(&self) -> PathBuf {
        match self.service {
            Some(_) => Path::new("/").join(&self.path),
            None => self.path.clone(),
        }
    }
}

pub(super) fn cp(context: &Context, typed: &Cp) -> Outcome {
    let (source, destination) = (Side::parse(&typed.source), Side::parse(&typed.destination));
    let (service, inward) = direction(&source, &destination, "service")?;
    let services = std::slice::from_ref(&service);
    let loaded = context.load_or_recall(services)?;
    known_services(&loaded.project, services)?;
    need_privilege()?;
    let mut list: Vec<View> = views(&context.world, &loaded.project.name)?
        .into_iter()
        .filter(|view| view.record.config.name == service)
        .filter(|view| typed.all || view.record.one_off.is_none())
        .filter(|view| typed.index == 0 || view.record.number == typed.index)
        .collect();
    if list.is_empty() {
        return Err(Failure::new(match typed.index {
            0 => format!("no container found for service \"{service}\""),
            index => format!("service \"{service}\" has no container #{index}"),
        }));
    }
    if !inward {
        list.truncate(1);
    } else if source.is_stream() && list.len() > 1 {
        return Err(Failure::new(format!(
            "standard input can be read only once, and service \"{service}\" has {} containers",
            list.len()
        ))
        .hint("choose one with --index"));
    }
    transfer_all(context, &typed.how, (&source, &destination), &list, false)
}

/// `container cp`: the same with a container in place of a service.
pub(super) fn cp_named(
    context: &Context,
    sides: (&OsStr, &OsStr),
    how: &How,
    quiet: bool,
    find: impl Fn(&str) -> Result<View, Failure>,
) -> Outcome {
    let (source, destination) = (Side::parse(sides.0), Side::parse(sides.1));
    let (name, _) = direction(&source, &destination, "container")?;
    need_privilege()?;
    transfer_all(context, how, (&source, &destination), &[find(&name)?], quiet)
}

/// Which side is in a container, and whether it is the destination.
fn direction(source: &Side, destination: &Side, what: &str) -> Result<(String, bool), Failure> {
    match (&source.service, &destination.service) {
        (Some(_), Some(_)) => Err(Failure::new(format!("copying between {what}s is not supported"))),
        (None, None) => Err(
            Failure::new(format!("unknown copy direction: neither path names a {what}"))
                .hint(format!("a path in a container is {}:PATH", what.to_uppercase())),
        ),
        (Some(name), None) => Ok((name.clone(), false)),
        (None, Some(name)) => Ok((name.clone(), true)),
    }
}

fn transfer_all(
    context: &Context,
    typed: &How,
    (source, destination): (&Side, &Side),
    list: &[View],
    quiet: bool,
) -> Outcome {
    let inward = destination.service.is_some();
    fd::reserve(DESCRIPTORS);
    let mut progress = Progress::new(&context.terminal);
    for view in list {
        let name = &view.record.name;
        let mut show = |verb: &str, phase| {
            if quiet {
                return;
            }
            progress.show(&Event::Action {
                resource: format!("Container {name}"),
                verb: verb.to_owned(),
                phase,
            });
        };
        if context.global.dry_run {
            show("Copied", Phase::Done);
            continue;
        }
        show("Copying", Phase::Begun);
        let held = files(&context.world, &view.record)?;
        let tree = Tree::Container(held.as_fd());
        let warnings = if inward {
            copy_in(typed, source, destination, tree)
        } else {
            copy_out(typed, source, destination, tree)
        }
        .map_err(|error| {
            Failure::new(format!(
                "copy {} {name}: {error}",
                if inward { "to" } else { "from" }
            ))
        })?;
        show("Copied", Phase::Done);
        for warning in warnings {
            context.terminal.warning(&warning);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn copy_in(typed: &How, source: &Side, destination: &Side, tree: Tree<'_>) -> io::Result<Vec<String>> {
    let owner = if typed.archive {
        Owner::Kept
    } else {
        Owner::Given(0, 0)
    };
    let to = tree.locate(&destination.place(), true)?;
    if source.is_stream() {
        if !to.is_folder() {
            return Err(io::Error::other(format!(
                "destination {} must be a directory",
                destination.place().display()
            )));
        }
        unpack(io::stdin().lock(), tree, &destination.place(), owner)?;
        return Ok(vec![]);
    }
    let from = Tree::Local.locate(&source.path, typed.follow_link || source.folder)?;
    transfer(source, &from, destination, &to, owner)
}

fn copy_out(typed: &How, source: &Side, destination: &Side, tree: Tree<'_>) -> io::Result<Vec<String>> {
    let from = tree.locate(&source.place(), typed.follow_link || source.folder)?;
    if destination.is_stream() {
        if from.stat.is_none() {
            return Err(missing(source));
        }
        let name = if source.contents {
            PathBuf::from(".")
        } else {
            source
                .path
                .file_name()
                .map_or_else(|| PathBuf::from("."), PathBuf::from)
        };
        pack(&from, &name, io::stdout().lock())?;
        return Ok(vec![]);
    }
    let owner = if typed.archive {
        Owner::Kept
    } else {
        Owner::Given(
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        )
    };
    let to = Tree::Local.locate(&destination.path, true)?;
    transfer(source, &from, destination, &to, owner)
}

fn missing(side: &Side) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("{}: no such file or directory", side.path.display()),
    )
}

/// Copies by docker's rules: into a folder that is there, else under the name given.
fn transfer(
    source: &Side,
    from: &Place,
    destination: &Side,
    to: &Place,
    owner: Owner,
) -> io::Result<Vec<String>> {
    if from.stat.is_none() {
        return Err(missing(source));
    }
    let folder = from.is_folder();
    if source.folder && !folder {
        return Err(io::Error::other(format!(
            "{} is not a directory",
            source.path.display()
        )));
    }
    let mut copy = Copy::new(owner);
    if to.is_folder() {
        let inside = open(to)?;
        if source.contents {
            copy.contents(from, &inside)?;
        } else {
            let name = source.path.file_name().unwrap_or(OsStr::new("."));
            copy.entry(from, inside.as_fd(), name)?;
        }
        return Ok(copy.warnings);
    }
    let shown = destination.path.display();
    if folder && to.stat.is_some() {
        return Err(io::Error::other(format!(
            "cannot copy a directory to the file {shown}"
        )));
    }
    if !folder && destination.folder {
        return Err(io::Error::other(format!(
            "the destination directory {shown} must exist"
        )));
    }
    copy.entry(from, to.folder.as_fd(), &to.name)?;
    Ok(copy.warnings)
}

/// Opens the folder at a place.
fn open(place: &Place) -> io::Result<std::os::fd::OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(
        &place.folder,
        place.name.as_os_str(),
        flags,
        Mode::empty(),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart_as_docker_does() {
        let side = |text: &str| {
            let side = Side::parse(OsStr::new(text));
            (side.service, side.path, side.folder, side.contents)
        };
        let in_web = |path: &str| (Some("web".to_owned()), PathBuf::from(path));
        let (service, path, folder, contents) = side("web:/a/b");
        assert_eq!((service, path), in_web("/a/b"));
        assert!(!folder && !contents);
        assert_eq!(side("/a:b").0, None);
        assert_eq!(side("./a:b").0, None);
        assert_eq!(side("a"), (None, "a".into(), false, false));
        assert!(side("web:/a/").2);
        assert_eq!((side("web:/a/.").2, side("web:/a/.").3), (true, true));
        assert!(side(".").3);
        assert!(Side::parse(OsStr::new("-")).is_stream());
        assert_eq!(Side::parse(OsStr::new("web:a")).place(), Path::new("/a"));
    }
}

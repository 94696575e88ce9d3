//! `image tag`, `rm`, `save`, `load`, `import`, `prune`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::super::block_on;
use super::super::context::Context;
use super::super::failure::{Failure, Outcome};
use super::arguments::{ImageRm, Import, Load, Prune, Save};
use super::progress::Transfers;
use super::words::{familiar, size};
use super::{filter, list, not_dry, store};
use crate::image::{Authored, Input, Pruned};
use crate::supervisor::generations;

pub(super) fn tag(context: &Context, source: &str, targets: &[String]) -> Outcome {
    not_dry(context, "image tag")?;
    for target in targets {
        store(context).tag(source, target)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn rm(context: &Context, typed: &ImageRm) -> Outcome {
    not_dry(context, "image rm")?;
    let store = store(context);
    let mut errors = Vec::new();
    for name in &typed.names {
        // Each time anew: containers come and go.
        match store.remove_image(name, typed.force, &list::used(context)?) {
            Ok(removed) => {
                let mut text = String::new();
                for name in removed.untagged {
                    text += &format!("Untagged: {}\n", familiar(&name));
                }
                for digest in removed.deleted {
                    text += &format!("Deleted: {digest}\n");
                }
                context.terminal.out(&text);
            }
            Err(error) => errors.push(error.to_string()),
        }
    }
    if errors.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Failure::list(&errors))
    }
}

pub(super) fn save(context: &Context, typed: &Save) -> Outcome {
    not_dry(context, "image save")?;
    let store = store(context);
    for name in &typed.names {
        store.require_platform(name, typed.platform.as_deref())?;
    }
    to_output(typed.output.as_deref(), |file| {
        block_on(store.save(&typed.names, io::BufWriter::with_capacity(1 << 20, file), |_| {}))
    })
}

/// Writes to a file, which shows under its name when it is whole, or to
/// standard output, unless that is a terminal.
pub(in crate::cli) fn to_output(
    output: Option<&Path>,
    write: impl FnOnce(File) -> Result<(), Failure>,
) -> Outcome {
    let Some(path) = output else {
        if io::stdout().is_terminal() {
            return Err(Failure::new("an archive is not for a terminal")
                .hint("name a file with -o FILE, or redirect the output"));
        }
        let file = io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| Failure::new(format!("open standard output: {error}")))?;
        write(file.into())?;
        return Ok(ExitCode::SUCCESS);
    };
    let failed = |error: io::Error| Failure::new(format!("write {}: {error}", path.display()));
    let special = std::fs::metadata(path).is_ok_and(|found| !found.is_file());
    if special {
        // A pipe or a device is written to as it is.
        let file = File::options().write(true).open(path).map_err(failed)?;
        write(file)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let fresh: PathBuf = path.with_file_name(name);
    let file = File::create(&fresh).map_err(failed)?;
    let result = write(file).and_then(|()| std::fs::rename(&fresh, path).map_err(failed));
    if result.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    result.map(|()| ExitCode::SUCCESS)
}

/// Standard input as a file, unless it is a terminal.
fn standard_input() -> Result<File, Failure> {
    if io::stdin().is_terminal() {
        return Err(Failure::new("an archive cannot be typed").hint("name a file, or redirect the input"));
    }
    let input = io::stdin().as_fd().try_clone_to_owned();
    Ok(input
        .map_err(|error| Failure::new(format!("open standard input: {error}")))?
        .into())
}

pub(super) fn load(context: &Context, typed: &Load) -> Outcome {
    not_dry(context, "image load")?;
    let input = match &typed.input {
        Some(path) => Input::Path(path.clone()),
        None => Input::Stream(standard_input()?),
    };
    let transfers = Transfers::new(&context.terminal, typed.quiet);
    let shown = typed
        .input
        .as_ref()
        .map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
    let load = store(context);
    let load = load.load(input, typed.platform.as_deref(), |event| {
        transfers.show(&shown, &event)
    });
    let loaded = block_on(load)?;
    let mut text = String::new();
    for image in loaded {
        for reference in &image.references {
            text += &format!("Loaded image: {}\n", familiar(reference));
        }
        if image.references.is_empty() {
            text += &format!("Loaded image ID: {}\n", image.id);
        }
    }
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn import(context: &Context, typed: &Import) -> Outcome {
    not_dry(context, "image import")?;
    if typed
        .file
        .to_str()
        .is_some_and(|text| text.starts_with("http://") || text.starts_with("https://"))
    {
        return Err(Failure::new(format!(
            "image import fetches nothing: {} is a URL",
            typed.file.display()
        ))
        .hint("download it, and import the file, or '-' for standard input"));
    }
    let input = if typed.file == Path::new("-") {
        standard_input()?
    } else {
        let file = File::open(&typed.file);
        file.map_err(|error| Failure::new(format!("open {}: {error}", typed.file.display())))?
    };
    let authored = Authored {
        reference: typed.reference.clone(),
        message: typed.message.clone(),
        changes: typed.change.clone(),
        platform: typed.platform.clone(),
        ..Authored::default()
    };
    let image = block_on(store(context).import(input, &authored, |_| {}))?;
    context.terminal.out(&format!("{}\n", image.id));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn prune(context: &Context, typed: &Prune) -> Outcome {
    let what = if typed.all {
        "This removes all images that no container is made from and no recent generation of a stack needs."
    } else {
        "This removes all images that have no name and that no container is made from."
    };
    if !agreed(context, typed.force, what)? {
        return Ok(ExitCode::SUCCESS);
    }
    let pruned = pruned(context, typed)?;
    context.terminal.out(&told(&pruned, 0));
    Ok(ExitCode::SUCCESS)
}

pub(in crate::cli) fn pruned(context: &Context, typed: &Prune) -> Result<Pruned, Failure> {
    not_dry(context, "prune")?;
    let store = store(context);
    let filters = filter::read(&store, &typed.filter, &["until", "label"])?;
    let mut keep: BTreeSet<String> = list::used(context)?.into_iter().map(|user| user.image).collect();
    // Going back to what a stack was brought to is not to need a registry.
    for stack in crate::host::stacks(&context.world) {
        for image in generations::images(&context.world, &stack) {
            keep.extend(store.resolve(&image).ok().flatten().map(|image| image.id));
        }
    }
    Ok(store.prune_images(&keep, typed.all, |image| {
        filters.iter().all(|filter| filter.takes(image))
    })?)
}

/// What went, in docker's words; `more` bytes went before.
pub(in crate::cli) fn told(pruned: &Pruned, more: u64) -> String {
    let mut text = String::new();
    if !pruned.ids.is_empty() {
        text += "Deleted Images:\n";
        for name in &pruned.references {
            text += &format!("untagged: {}\n", familiar(name));
        }
        for id in &pruned.ids {
            text += &format!("deleted: {id}\n");
        }
        text.push('\n');
    }
    text + &format!(
        "Total reclaimed space: {}\n",
        size(pruned.bytes + pruned.packed + more)
    )
}

/// Asks before something is removed for good.
pub(in crate::cli) fn agreed(context: &Context, force: bool, what: &str) -> Result<bool, Failure> {
    if force {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::new("this removes data, and nobody can be asked").hint("use --force"));
    }
    context
        .terminal
        .err(&format!("{what}\nAre you sure you want to continue? [y/N] "));
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::new(format!("read the answer: {error}")))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

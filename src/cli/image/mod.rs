//! Images and registries by name: docker's commands, and compose's `pull`,
//! `push`, `images`.
//!
//! Every command here reads and writes the image store itself; none needs a
//! supervisor. Lists and `inspect` print docker's fields, so that its users'
//! `--format` works ([`super::template`]).

pub(super) mod arguments;
mod filter;
mod list;
mod login;
mod manage;
mod progress;
mod registry;
mod words;

pub(super) use filter::{has_label, until};
pub(super) use list::{images, print_inspected, used};
pub(super) use login::{login, logout};
pub(super) use manage::{agreed, pruned, to_output, told};
pub(super) use registry::{pull, push};
pub(super) use words::{familiar, id as short_id, now, rfc3339, size};

use arguments::Image;

use super::context::Context;
use super::failure::{Failure, Outcome};
use crate::image::ImageStore;

/// `image …`.
pub(super) fn image(context: &Context, typed: &Image) -> Outcome {
    match typed {
        Image::Ls(typed) => list::ls(context, typed),
        Image::Inspect(typed) => list::inspect(context, typed),
        Image::History(typed) => list::history(context, typed),
        Image::Pull(typed) => registry::image_pull(context, typed),
        Image::Push(typed) => registry::image_push(context, typed),
        Image::Tag { source, targets } => manage::tag(context, source, targets),
        Image::Rm(typed) => manage::rm(context, typed),
        Image::Save(typed) => manage::save(context, typed),
        Image::Load(typed) => manage::load(context, typed),
        Image::Import(typed) => manage::import(context, typed),
        Image::Prune(typed) => manage::prune(context, typed),
    }
}

/// The images of the world.
pub(super) fn store(context: &Context) -> ImageStore {
    ImageStore::open(context.world.images())
}

/// Refuses what a dry run must not do.
pub(super) fn not_dry(context: &Context, what: &str) -> Result<(), Failure> {
    if context.global.dry_run {
        return Err(Failure::new(format!("{what} has no dry run")));
    }
    Ok(())
}

/// Bytes of the files of a tree, each inode once; what cannot be read counts nothing.
pub(super) fn tree_size(folder: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut seen = std::collections::BTreeSet::new();
    let mut total = 0;
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                pending.push(entry.path());
            } else if found.is_file() && (found.nlink() == 1 || seen.insert((found.dev(), found.ino()))) {
                total += found.len();
            }
        }
    }
    total
}

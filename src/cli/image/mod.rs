//! Images, registries and containers by name: docker's commands, and compose's
//! `pull`, `push`, `images`, `commit`, `export`.
//!
//! Every command here reads and writes the image store itself; none needs a
//! supervisor. Lists and `inspect` print docker's fields, so that its users'
//! `--format` works ([`super::template`]).

pub(super) mod arguments;
mod container;
mod filter;
mod list;
mod login;
mod manage;
mod progress;
mod registry;
mod words;

pub(super) use container::{commit, container, export};
pub(super) use list::images;
pub(super) use login::{login, logout};
pub(super) use manage::system;
pub(super) use registry::{pull, push};

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
fn store(context: &Context) -> ImageStore {
    ImageStore::open(context.world.images())
}

/// Refuses what a dry run must not do.
fn not_dry(context: &Context, what: &str) -> Result<(), Failure> {
    if context.global.dry_run {
        return Err(Failure::new(format!("{what} has no dry run")));
    }
    Ok(())
}

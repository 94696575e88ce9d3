//! References, registries, archives, the layer store, unpacking.
//!
//! # How it works
//!
//! [`ImageStore::resolve`] tells whether an image is here: it reads records and
//! looks whether the layers are there. Everything that brings an image here
//! ends in `pull.rs`: find out which layers are missing, claim each with a lock,
//! stream it through digest, decompression (`layer.rs`) and `unpack/` into
//! `ingest/`, and when all are there and synced move them to their places
//! (`stack.rs`). The
//! ways in are a registry (`registry/`), files (`archive.rs`), and `load.rs`
//! (`load`, `import`, `commit`). The ways out, `push.rs` and `save.rs`, take the
//! packed form of layers from `packed.rs`. `catalogue.rs` lists, tags and
//! removes.
//!
//! ```text
//! <state>/images/
//!   lock                          shared while something is moved to its place,
//!                                 alone for removals and cleaning up
//!   references/<digest>.json      a source, and the id of the image it is
//!   records/<id>.json             an image: its manifest and its layers
//!   blobs/sha256/<digest>         manifests, configurations and packed layers, as they came
//!   layers/<diff id>/             one unpacked layer, shared by all images that have it
//!     fs/                         what overlayfs gets
//!     layer.json                  its size, and the digest of its packed form
//!   layers/<chain id>.chain/      a layer that depends on what is below it (unpack/)
//!   ingest/<diff id>{/,.lock}     a layer in the making, and the claim on it
//!   ingest/<diff id>.<digest>.part  what there is of its packed form
//!   trash/                        on its way out
//! ```
//!
//! # What holds at any instant
//!
//! A name in `layers/` is a whole, checked and synced layer; a record names
//! layers that are there; a reference names a record. They are made in this
//! order and removed in the other, so a process may die anywhere. What it leaves
//! in `ingest/` is no layer of anybody: a layer that had been unpacked to its
//! end, and the part that was downloaded of another, are used by the next
//! attempt, and go with the next pull that ends well or the next prune. Nobody
//! removes what is claimed. Layers do not wait for each other: overlayfs needs
//! no order, so all are downloaded and unpacked side by side.
//!
//! # Packed layers
//!
//! Layers that come from a registry, `load`, `import` or `commit` are kept in
//! their packed form too, so that what is pushed and saved is, byte for byte,
//! what came. Those of `oci:`, `oci-archive:` and `docker-archive:` are not: the
//! file is there.
//!
//! # Known to be weak
//!
//! Needs real root. Pulling with a proxy that is itself spoken to by TLS is
//! refused. Of an image for several platforms one is kept. An image
//! whose packed layers are gone, with the file or registry that it came from,
//! cannot be pushed or saved. Between [`ImageStore::resolve`] and the record of a
//! new container a removal of its image in another process is not held off.
//! What `unpack/` and `registry/` say of themselves.

mod archive;
mod catalogue;
mod change;
mod config;
mod digest;
mod error;
mod ingest;
mod layer;
mod load;
mod login;
mod manifest;
mod pack;
mod packed;
mod progress;
mod pull;
mod push;
pub mod reference;
mod registry;
mod save;
mod stack;
mod store;
pub mod unpack;

pub use catalogue::{Details, ImageUser, LayerDetail, Removed, Summary, Usage};
pub use config::{ImageConfig, ImageHealthcheck};
pub use digest::Digest;
pub use error::ImageError;
pub use load::{Authored, Input, LoadedImage};
pub use manifest::LAYERS_LIMIT;
pub use progress::Progress;
pub use pull::PullOptions;
pub use push::Pushed;
pub use store::{DEFAULT_PATH, Image, ImageStore, Listed, Pruned};

/// Whether a document is a manifest or an index that can be read.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn check_manifest(bytes: &[u8]) -> Result<(), String> {
    let document = manifest::parse(bytes)?;
    if let manifest::Document::Index(entries) = document {
        manifest::choose(&manifest::Platform::own(), &entries)?;
    }
    Ok(())
}

/// Whether a document is an image configuration that can be read.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn check_config(bytes: &[u8]) -> Result<(), String> {
    config::parse(bytes).map(|_| ())
}

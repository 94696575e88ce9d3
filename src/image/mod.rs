//! References, registries, archives, the layer store, unpacking.
//!
//! # How it works
//!
//! [`ImageStore::resolve`] tells whether an image is here: it reads records and
//! looks whether the layers are there. [`ImageStore::pull`] brings it here, from
//! a registry (`registry/`) or from files (`archive.rs`), and both end in
//! `pull.rs`: find out which layers are missing, claim each with a lock, stream
//! it through digest, decompression (`layer.rs`) and `unpack/` into `ingest/`,
//! and when all are there and synced move them to their places.
//!
//! ```text
//! <state>/images/
//!   lock                          shared by pulls, alone for removals and cleaning up
//!   references/<digest>.json      a source, and the id of the image it is
//!   records/<id>.json             an image: its manifest and its layers
//!   blobs/sha256/<digest>         manifests and configurations, as they came
//!   layers/<diff id>/             one unpacked layer, shared by all images that have it
//!     fs/                         what overlayfs gets
//!     layer.json                  its size
//!   layers/<chain id>.chain/      a layer that depends on what is below it (unpack/)
//!   ingest/<diff id>{/,.lock}     a layer in the making, and the claim on it
//!   trash/                        on its way out
//! ```
//!
//! # What holds at any instant
//!
//! A name in `layers/` is a whole, checked and synced layer; a record names
//! layers that are there; a reference names a record. They are made in this
//! order and removed in the other, so a process may die anywhere. What it leaves
//! in `ingest/` is no layer of anybody; the next pull that has the store to
//! itself removes it, but for layers that had been unpacked to their end, which
//! it may use. Layers do not wait for each other: overlayfs needs no order, so
//! all are downloaded and unpacked side by side.
//!
//! Compressed layers are not kept: they are only good for pushing, and can be
//! fetched again.
//!
//! # Known to be weak
//!
//! Needs real root. A download does not survive its process, only whole layers
//! do. [`ImageStore::prune`] waits for running pulls. What `unpack/` and
//! `registry/` say of themselves.

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
mod pull;
mod push;
pub mod reference;
mod registry;
mod save;
mod store;
pub mod unpack;

pub use catalogue::{Details, ImageUser, LayerDetail, Removed, Summary, Usage};
pub use config::{ImageConfig, ImageHealthcheck};
pub use digest::Digest;
pub use error::ImageError;
pub use load::{Authored, Input, LoadedImage};
pub use pull::{Progress, PullOptions};
pub use push::Pushed;
pub use store::{DEFAULT_PATH, Image, ImageStore, Listed, Pruned};

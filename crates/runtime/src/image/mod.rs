//! Images: references, the store of blobs and unpacked layers, archives.

mod archive;
mod archives;
mod bounds;
mod builtin;
#[doc(hidden)]
pub mod fuzzing;
mod install;
mod manifest;
mod reference;
mod store;
mod unpack;

pub use archives::ImageArchives;
pub(crate) use install::{DOCUMENT_MAX, Layers};
pub(crate) use manifest::{Descriptor, Document, ImageConfig, choose, digest_text, sha256};
pub(crate) use reference::is_digest;
pub use reference::{Reference, ReferenceError};
pub(crate) use store::{ImageStore, Ingest, LAYERS, names, snapshot_files};
pub use store::{StoreError, StoredImage};

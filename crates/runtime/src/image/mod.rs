//! Images: references, the store of blobs and unpacked layers, archives.

mod archive;
mod archives;
mod builtin;
mod install;
mod manifest;
mod reference;
mod store;
mod unpack;

pub use archives::ImageArchives;
pub(crate) use install::{DOCUMENT_MAX, choose, parse};
pub(crate) use manifest::{Descriptor, Document, ImageConfig, digest_text, sha256};
pub(crate) use reference::is_digest;
pub use reference::{Reference, ReferenceError};
pub(crate) use store::ImageStore;
pub(crate) use store::{LAYERS, names, snapshot_files};
pub use store::{StoreError, StoredImage};

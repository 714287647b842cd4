//! Images: references, the store of blobs and unpacked layers, archives.

mod builtin;
mod manifest;
mod reference;
mod store;

pub(crate) use manifest::ImageConfig;
pub use reference::{Reference, ReferenceError};
pub use store::{ImageStore, StoreError, StoredImage};
pub(crate) use store::{LAYERS, names, snapshot_files};

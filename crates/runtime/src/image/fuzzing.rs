//! What the fuzzing of images reaches.

use super::manifest::{ConfigBlob, Document, chain_ids, choose, is_foreign, parse};

/// Reads bytes as each document of an image.
pub fn manifest(bytes: &[u8]) {
    if let Ok(document) = Document::read("fuzz", bytes) {
        let _ = (choose(&document), document.layers.iter().filter(|layer| is_foreign(layer)).count());
    }
    if let Ok(config) = parse::<ConfigBlob>("fuzz", bytes) {
        let _ = chain_ids(&config.rootfs.diff_ids);
    }
}

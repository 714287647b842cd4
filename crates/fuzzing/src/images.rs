//! Images: manifests, and whole archives with their layers.

use std::sync::LazyLock;

use kybern_runtime::{Config, ImageArchives, Reference, fuzzing};

pub(crate) fn manifest(data: &[u8]) {
    fuzzing::manifest(data);
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(reference) = Reference::parse(text)
    {
        let _ = reference.to_string();
    }
}

struct Store {
    archives: ImageArchives,
    _directory: tempfile::TempDir,
    input: std::path::PathBuf,
}

/// Importing unpacks layers, which takes root; without it, it ends there.
pub(crate) fn archive(data: &[u8]) {
    static STORE: LazyLock<Store> = LazyLock::new(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let config = Config {
            root_dir: at("root"),
            state_dir: at("state"),
            netns_dir: at("netns"),
            executable: "/bin/true".into(),
            version: "fuzz".to_owned(),
            registries_file: at("registries.yaml"),
            network: None,
        };
        let archives = ImageArchives::open(&config).expect("a store");
        Store { archives, input: at("input.tar"), _directory: directory }
    });
    std::fs::write(&STORE.input, data).expect("a file");
    for image in STORE.archives.import(&STORE.input).unwrap_or_default() {
        let _ = STORE.archives.remove(&image.id);
    }
}

//! The folders that are this node's own volumes: made when a pod mounts one, removed when the provisioner says so.

use std::fs;
use std::io;
use std::path::Path;

use kybern_linux::files;
use kybern_linux::remove::{Mounts, remove_tree};

/// Whoever a container runs as may write there.
const MODE: u32 = 0o777;

/// On the node: where its volumes lie.
pub const DIRECTORY: &str = "local-path.kybern.io/directory";

/// Makes a volume's folder, unless it is there.
pub(super) fn make(path: &Path) -> Result<(), String> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(format!("{shown} is not a directory")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(format!("cannot read {shown}: {error}")),
    }
    let made = files::make_dirs(path.parent().unwrap_or(path), 0o755).and_then(|()| files::make_dirs(path, MODE));
    made.map_err(|error| format!("cannot make {shown}: {error}"))
}

/// Removes a volume's folder. A name is one of the provisioner's: nothing outside of the directory has one. What is a link is
/// removed as such, and where something is mounted nothing is.
pub fn remove(directory: &Path, name: &str) -> io::Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !name.starts_with("pvc-") || !name.bytes().all(plain) {
        let message = format!("{name:?} is no volume of this node: those are pvc-<uid of a claim>");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let path = directory.join(name);
    remove_tree(&path, Mounts::Refuse)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot remove {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_but_a_volume_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let (own, outside) = (temp.path().join("volumes"), temp.path().join("outside"));
        make(&own.join("pvc-1")).unwrap();
        make(&own.join("pvc-2")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("keep"), "").unwrap();
        // A pod has left links, and somebody has put one in a volume's place.
        symlink(&outside, own.join("pvc-1/link")).unwrap();
        symlink(&outside, own.join("pvc-3")).unwrap();
        for name in
            ["", ".", "..", "pvc-1/..", "../outside", "/etc", "pvc-/../../outside", "pvc-..", "other", "pvc-%2e"]
        {
            assert_eq!(remove(&own, name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        remove(&own, "pvc-1").unwrap();
        remove(&own, "pvc-3").unwrap();
        remove(&own, "pvc-1").unwrap();
        assert!(outside.join("keep").exists() && own.join("pvc-2").exists());
        assert!(!own.join("pvc-1").exists() && fs::symlink_metadata(own.join("pvc-3")).is_err());
        remove(&temp.path().join("none"), "pvc-1").unwrap();
    }
}

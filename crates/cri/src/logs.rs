//! The names of container logs that were moved aside: the log's own, and when that was.

use std::io;
use std::path::{Path, PathBuf};

/// The files that a log was moved to and that are still there, oldest first.
pub fn rotated_logs(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(name), Some(dir)) = (log.file_name().and_then(|name| name.to_str()), log.parent()) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let other = entry.file_name();
        let rest = other.to_str().and_then(|other| other.strip_prefix(name)?.strip_prefix('.'));
        if rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

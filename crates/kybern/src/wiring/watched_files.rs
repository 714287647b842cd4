//! Files that are read again when they change.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use futures_util::future::select_all;
use kybern_linux::inotify::FileChanges;

/// Some files, and what they held when they were read last.
#[derive(Debug)]
pub(crate) struct WatchedFiles {
    paths: Vec<PathBuf>,
    changes: Vec<FileChanges>,
    contents: Vec<String>,
}

impl WatchedFiles {
    /// Reads the files. Must be called within a tokio runtime.
    pub(crate) fn read(paths: impl IntoIterator<Item = impl AsRef<Path>>) -> Result<Self> {
        let paths: Vec<PathBuf> = paths.into_iter().map(|path| path.as_ref().to_owned()).collect();
        // Watched before they are read, so that no change is missed.
        let watch = |path: &PathBuf| {
            FileChanges::of(path).with_context(|| format!("cannot watch {} for changes", path.display()))
        };
        let changes = paths.iter().map(watch).collect::<Result<_>>()?;
        let contents = read(&paths)?;
        Ok(Self { paths, changes, contents })
    }

    /// In the order of the paths.
    pub(crate) fn contents(&self) -> &[String] {
        &self.contents
    }

    /// Waits until the files hold something else than before; a touch is no change. The error is that of a file that cannot be
    /// read, which is told of once for every change.
    pub(crate) async fn changed(&mut self) -> Result<&[String]> {
        loop {
            if self.next().await.is_err() {
                // Nothing will ever be seen again.
                std::future::pending::<()>().await;
            }
            let contents = read(&self.paths)?;
            if contents != self.contents {
                self.contents = contents;
                return Ok(&self.contents);
            }
        }
    }

    async fn next(&self) -> io::Result<()> {
        if self.changes.is_empty() {
            std::future::pending::<()>().await;
        }
        let waits = self.changes.iter().map(|changes| Box::pin(changes.next()));
        let (ended, ..) = select_all(waits).await;
        ended.inspect_err(|error| tracing::error!(%error, "cannot watch files: their changes need a restart"))
    }
}

fn read(paths: &[PathBuf]) -> Result<Vec<String>> {
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    paths.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn changes_are_seen_and_touches_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        for path in [&a, &b] {
            std::fs::write(path, "1").unwrap();
        }
        let mut files = WatchedFiles::read([&a, &b]).unwrap();
        assert_eq!(files.contents(), ["1", "1"]);
        std::fs::write(&b, "2").unwrap();
        assert_eq!(files.changed().await.unwrap(), ["1", "2"]);
        std::fs::write(&a, "1").unwrap();
        std::fs::write(directory.path().join("c"), "3").unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(400), files.changed()).await.is_err(), "nothing changed");
        std::fs::remove_file(&a).unwrap();
        let error = files.changed().await.unwrap_err().to_string();
        assert!(error.contains("cannot read") && error.contains("/a"), "{error}");
        // As editors and mounted ConfigMaps replace a file.
        std::fs::write(directory.path().join("c"), "4").unwrap();
        std::fs::rename(directory.path().join("c"), &a).unwrap();
        assert_eq!(files.changed().await.unwrap(), ["4", "2"]);
        assert!(WatchedFiles::read([directory.path().join("none")]).is_err());
    }
}

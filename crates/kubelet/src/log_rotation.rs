//! Rotates container logs: ten MiB a file, five files (`pkg/kubelet/logs/container_log_manager.go`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kybern_cri::ContainerState;

use crate::server::PodTable;
use crate::shared::Shared;

const MAX_BYTES: u64 = 10 << 20;
const MAX_FILES: usize = 5;
/// One look costs a `stat` per running container.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Rotates until dropped.
pub async fn run(shared: Arc<Shared>, pods: PodTable) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        for view in pods.list() {
            for status in view.observed.containers() {
                let path = PathBuf::from(&status.log_path);
                let large = std::fs::metadata(&path).is_ok_and(|meta| meta.len() > MAX_BYTES);
                if !large || status.container.state != ContainerState::Running {
                    continue;
                }
                if let Err(error) = rotate(&path, &jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string()) {
                    tracing::warn!(%error, log = %path.display(), "cannot rotate a container's log");
                } else if let Err(error) = shared.runtime.reopen_container_log(&status.container.id).await {
                    tracing::warn!(%error, container = status.container.id, "the runtime cannot reopen a container's log");
                }
            }
        }
    }
}

/// Moves the log aside and drops the oldest of those moved before.
fn rotate(path: &Path, stamp: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut rotated: Vec<String> = std::fs::read_dir(dir)?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|other| other.strip_prefix(&name).is_some_and(|rest| rest.starts_with('.')))
        .collect();
    rotated.sort();
    // The file being written counts, and so does the one about to be moved.
    while rotated.len() + 2 > MAX_FILES {
        std::fs::remove_file(dir.join(rotated.remove(0)))?;
    }
    std::fs::rename(path, dir.join(format!("{name}.{stamp}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_files_are_kept() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("0.log");
        for stamp in 0..8 {
            std::fs::write(&log, stamp.to_string()).unwrap();
            rotate(&log, &format!("2026010{stamp}-000000")).unwrap();
        }
        std::fs::write(&log, "now").unwrap();
        let mut names: Vec<String> =
            std::fs::read_dir(temp.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let expect = [
            "0.log",
            "0.log.20260104-000000",
            "0.log.20260105-000000",
            "0.log.20260106-000000",
            "0.log.20260107-000000",
        ];
        assert_eq!(names, expect);
    }
}

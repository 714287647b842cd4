//! A server that runs in the background: its process, its settings, its end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Parser;
use kybern_linux::process::ProcessHandle;
use tokio::io::unix::AsyncFd;

use crate::cli::{Cli, Command};
use crate::commands::server::ClusterOptions;
use crate::paths::Paths;

/// How long a dead process may take to go: it may have much memory to give back.
const DEATH_PATIENCE: Duration = Duration::from_secs(5);
/// So many of the log's last lines are shown where none of them says why the server ended.
const TAIL_LINES: usize = 12;

/// A server's process.
pub(crate) struct RunningServer {
    pid: u32,
    process: AsyncFd<ProcessHandle>,
    /// Where it logs to, if that is the file of servers in the background.
    log: Option<PathBuf>,
}

impl RunningServer {
    /// The server that works on this data; `None` where none does.
    pub(crate) fn find(paths: &Paths) -> Result<Option<Self>> {
        let Some(pid) = kybern_storage::lock::holder(&paths.data) else { return Ok(None) };
        let Some(process) = ProcessHandle::open(pid)? else { return Ok(None) };
        // A killed server holds the directory's lock for a moment after it is dead: the kernel closes its files after it has
        // taken the program away.
        if std::fs::read_link(format!("/proc/{pid}/exe")).is_err() && process.ends_within(DEATH_PATIENCE)? {
            return Ok(None);
        }
        Self::new(pid, process, paths).map(Some)
    }

    /// The server that this process has just started.
    pub(super) fn started(pid: u32, paths: &Paths) -> Result<Self> {
        let process = ProcessHandle::open(pid)?.ok_or_else(|| anyhow!("the server ended at once"))?;
        Self::new(pid, process, paths)
    }

    // The replacement of `AsyncFd::new` is unsafe because a descriptor might be closed early; a handle owns its own.
    #[allow(deprecated)]
    fn new(pid: u32, process: ProcessHandle, paths: &Paths) -> Result<Self> {
        let log = paths.server_log();
        let logs_there = std::fs::read_link(format!("/proc/{pid}/fd/2")).is_ok_and(|target| target == log);
        Ok(Self { pid, process: AsyncFd::new(process)?, log: logs_there.then_some(log) })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The settings that it was started with, as its command line has them.
    pub(crate) fn settings(&self) -> Option<ClusterOptions> {
        let line = std::fs::read(format!("/proc/{}/cmdline", self.pid)).ok()?;
        parse(&line)
    }

    /// Does `work`, or fails as soon as the server has ended.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            result = work => result,
            ended = self.process.readable() => {
                ended?.retain_ready();
                bail!("the server (process {}) ended{}", self.pid, self.last_words())
            }
        }
    }

    /// Why it ended, as far as its log tells.
    pub(super) fn last_words(&self) -> String {
        match &self.log {
            Some(path) => last_words(&std::fs::read_to_string(path).unwrap_or_default(), path),
            None => "; its log is where it was started (for a service: journalctl -u kybern)".to_owned(),
        }
    }
}

fn parse(command_line: &[u8]) -> Option<ClusterOptions> {
    let arguments = command_line.split(|b| *b == 0).filter(|a| !a.is_empty()).map(String::from_utf8_lossy);
    let cli = Cli::try_parse_from(arguments.map(|a| a.into_owned())).ok()?;
    match cli.command {
        Command::Server(server) => Some(server.cluster),
        _ => None,
    }
}

/// The error that a command ends with stands last in its log.
fn last_words(log: &str, path: &Path) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let reason = lines.iter().rposition(|line| line.starts_with("Error: "));
    let shown = path.display();
    match reason {
        Some(first) => {
            let text = lines[first..].join("\n");
            format!(": {}\n(its log: {shown})", text.trim_start_matches("Error: "))
        }
        None => {
            let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
            format!(" and did not say why; its log {shown} ends:\n{tail}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_a_command_line() {
        let line = b"/usr/bin/kybern\0server\0--data-dir=/d\0--secure-port=7443\0--node-name\0n\0";
        let arguments = parse(line).unwrap().to_arguments();
        for expect in ["--data-dir=/d", "--secure-port=7443", "--node-name=n"] {
            assert!(arguments.iter().any(|a| a == expect), "{arguments:?}");
        }
        assert!(parse(b"/usr/bin/kybern\0kubelet\0--kubeconfig=k\0").is_none());
        assert!(parse(b"vim\0server\0--other\0").is_none());
    }

    #[test]
    fn why_a_server_ended() {
        let path = Path::new("/d/server.log");
        let said = last_words("INFO a\nError: cannot lock:\n  - x\n", path);
        assert_eq!(said, ": cannot lock:\n  - x\n(its log: /d/server.log)");
        let silent = last_words("INFO a\nINFO b\n", path);
        assert!(silent.ends_with("/d/server.log ends:\nINFO a\nINFO b"), "{silent}");
    }

    #[tokio::test]
    async fn work_ends_with_the_server() {
        let directory = std::env::temp_dir().join(format!("kybern-ends-{}", std::process::id()));
        let paths = Paths {
            data: directory.clone(),
            run: directory.clone(),
            pod_logs: directory.clone(),
            container_logs: directory.clone(),
            cni_config: directory.clone(),
            cni_bin: directory.clone(),
            cgroup_root: "/".to_owned(),
        };
        std::fs::create_dir(&directory).unwrap();
        let log = std::fs::File::create(paths.server_log()).unwrap();
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "read wait; echo 'Error: no luck' >&2; exit 1"]);
        let mut child = command.stdin(std::process::Stdio::piped()).stderr(log).spawn().unwrap();
        let server = RunningServer::started(child.id(), &paths).unwrap();
        assert_eq!(server.during(async { Ok(1) }).await.unwrap(), 1);
        drop(child.stdin.take());
        let error = server.during(std::future::pending::<Result<()>>()).await.unwrap_err().to_string();
        assert!(error.contains("no luck") && error.contains(&child.id().to_string()), "{error}");
        child.wait().unwrap();
        std::fs::remove_dir_all(directory).unwrap();
    }
}

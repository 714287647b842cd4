//! Starting `kybern server` so that it outlives the command that starts it, and hearing how far it is.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::UnixDatagram;

use crate::notify::{self, News};
use crate::paths::Paths;

/// No step of a server's start takes longer than this on the slowest machine that is worth waiting for.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A server on its way up.
pub(crate) struct Starting {
    child: Child,
    socket: UnixDatagram,
    paths: Paths,
}

impl Starting {
    /// Starts `kybern server` with these arguments in a session of its own, its output in the server's log file.
    pub(crate) fn spawn(paths: &Paths, arguments: &[String]) -> Result<Self> {
        std::fs::create_dir_all(&paths.data).with_context(|| format!("cannot make {}", paths.data.display()))?;
        let log = open_log(paths)?;
        let (socket, address) = bind_notify_socket()?;
        let mut command = Command::new(std::env::current_exe().context("cannot tell this program's own path")?);
        command.arg("server").args(arguments).env("NOTIFY_SOCKET", address);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/").process_group(0);
        let child = command.spawn().context("cannot start the server in the background")?;
        Ok(Self { child, socket, paths: paths.clone() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the server serves. `on_status` hears each finished step.
    pub(crate) async fn wait_until_ready(&mut self, mut on_status: impl FnMut(&str)) -> Result<()> {
        let mut ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child())?;
        let mut buffer = vec![0; 4096];
        let deadline = tokio::time::sleep(START_TIMEOUT);
        tokio::pin!(deadline);
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended while starting ({status}):\n{}", self.log_tail());
            }
            let length = tokio::select! {
                received = self.socket.recv(&mut buffer) => received?,
                _ = ended.recv() => continue,
                () = &mut deadline => {
                    bail!("the server was not ready after {} s; its log ends:\n{}", START_TIMEOUT.as_secs(), self.log_tail())
                }
            };
            for news in notify::parse(&String::from_utf8_lossy(&buffer[..length])) {
                match news {
                    News::Status(text) => on_status(&text),
                    News::Ready => return Ok(()),
                }
            }
        }
    }

    /// The last lines of the server's log, for an error message.
    fn log_tail(&self) -> String {
        let path = self.paths.server_log();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n");
        format!("{tail}\n(the whole log: {})", path.display())
    }
}

fn open_log(paths: &Paths) -> Result<File> {
    let path = paths.server_log();
    let open = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path);
    open.with_context(|| format!("cannot write the server's log {}", path.display()))
}

/// An abstract socket leaves no file behind; its address in `NOTIFY_SOCKET`'s notation comes with it.
fn bind_notify_socket() -> Result<(UnixDatagram, String)> {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("kybern-up-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name)?;
    let socket =
        std::os::unix::net::UnixDatagram::bind_addr(&address).context("cannot listen for the server's progress")?;
    socket.set_nonblocking(true)?;
    Ok((UnixDatagram::from_std(socket)?, format!("@{name}")))
}

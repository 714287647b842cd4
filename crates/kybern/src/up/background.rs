//! Starting `kybern server` so that it outlives the command that starts it, and hearing how far it is.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use kybern_linux::process;
use tokio::net::UnixDatagram;

use super::running::RunningServer;
use crate::notify::{self, News};
use crate::paths::{self, Paths};

/// No step of a server's start takes longer than this on the slowest machine that is worth waiting for.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A server on its way up.
pub(crate) struct Starting {
    server: RunningServer,
    socket: UnixDatagram,
}

impl Starting {
    /// Starts `kybern server` with these arguments in a session of its own, its output in the server's log file.
    pub(crate) fn spawn(paths: &Paths, arguments: &[String]) -> Result<Self> {
        paths.make_data()?;
        let log = open_log(paths)?;
        let (socket, address) = bind_notify_socket()?;
        let mut command = Command::new(std::env::current_exe().context("cannot tell this program's own path")?);
        command.arg("server").args(arguments).env("NOTIFY_SOCKET", address);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
        process::in_own_session(&mut command);
        let child = command.spawn().context("cannot start the server in the background")?;
        // Nobody waits for the child: it outlives this process, and its handle tells when it ends.
        Ok(Self { server: RunningServer::started(child.id(), paths)?, socket })
    }

    /// Waits until the server serves. `on_status` hears each finished step.
    pub(crate) async fn wait_until_ready(self, on_status: impl FnMut(&str)) -> Result<RunningServer> {
        let news = tokio::time::timeout(START_TIMEOUT, listen(self.socket, on_status));
        let ready = async {
            news.await.unwrap_or_else(|_| Err(anyhow!("the server was not ready after {} s", START_TIMEOUT.as_secs())))
        };
        self.server.during(ready).await?;
        Ok(self.server)
    }
}

async fn listen(socket: UnixDatagram, mut on_status: impl FnMut(&str)) -> Result<()> {
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        for news in notify::parse(&String::from_utf8_lossy(&buffer[..length])) {
            match news {
                News::Status(text) => on_status(&text),
                News::Ready => return Ok(()),
            }
        }
    }
}

fn open_log(paths: &Paths) -> Result<File> {
    let path = paths.server_log();
    let open = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path);
    open.map_err(|error| paths::failure(&format!("cannot write the server's log {}", path.display()), error))
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

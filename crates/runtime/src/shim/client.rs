//! Kybern's side of a shim's socket.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use kybern_linux::files;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;

use super::protocol::{Inbox, Reply, Request, encode, send, socket_path};
use super::{SHIM_COMMAND, SHIM_SPEC};
use crate::disk;
use crate::spec::ShimSpec;

/// A sandbox's shim, known by its directory.
#[derive(Clone, Debug)]
pub(crate) struct ShimClient {
    dir: PathBuf,
}

/// One conversation.
pub(crate) struct ShimConnection {
    socket: UnixStream,
    inbox: Inbox,
}

impl ShimClient {
    pub(crate) fn new(dir: &Path) -> ShimClient {
        ShimClient { dir: dir.to_path_buf() }
    }

    /// Starts a shim for the sandbox's directory and waits until it serves its socket.
    pub(crate) async fn spawn(dir: &Path, executable: &Path, spec: &ShimSpec) -> io::Result<ShimClient> {
        disk::replace_json(&dir.join(SHIM_SPEC), spec)?;
        let log = files::append(&dir.join("shim.log"), 0o600)?;
        // Dropped without waiting: the runtime's signal handler reaps it if it ends first.
        let mut child = tokio::process::Command::new(executable)
            .arg(SHIM_COMMAND)
            .arg(dir)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| disk::named(error, executable))?;
        let mut said = String::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(4096).read_to_string(&mut said).await?;
        }
        if said == "ok" {
            Ok(ShimClient::new(dir))
        } else {
            Err(io::Error::other(format!("the sandbox's shim did not start: {said}")))
        }
    }

    pub(crate) async fn connect(&self) -> io::Result<ShimConnection> {
        let dir = File::open(&self.dir)?;
        let socket = UnixStream::connect(socket_path(dir.as_fd())).await?;
        Ok(ShimConnection { socket, inbox: Inbox::default() })
    }

    /// Asks one thing.
    pub(crate) async fn call(&self, request: &Request) -> io::Result<Reply> {
        let mut connection = self.connect().await?;
        connection.send(request).await?;
        connection.receive().await?.map(|(reply, _)| reply).ok_or_else(closed)
    }
}

/// The shim has gone away in the middle of an answer.
pub(crate) fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the sandbox's shim has ended")
}

impl ShimConnection {
    pub(crate) async fn send(&self, request: &Request) -> io::Result<()> {
        let bytes = encode(request)?;
        let mut sent = 0;
        while sent < bytes.len() {
            sent += self.socket.async_io(Interest::WRITABLE, || send(self.socket.as_fd(), &bytes[sent..], &[])).await?;
        }
        Ok(())
    }

    /// The next message and the descriptors that came with it; `None` when the shim has closed. Cancel-safe.
    pub(crate) async fn receive(&mut self) -> io::Result<Option<(Reply, Vec<OwnedFd>)>> {
        loop {
            if let Some(reply) = self.inbox.next()? {
                return Ok(Some((reply, std::mem::take(&mut self.inbox.fds))));
            }
            let (socket, inbox) = (&self.socket, &mut self.inbox);
            if !socket.async_io(Interest::READABLE, || inbox.receive(socket.as_fd())).await? {
                return Ok(None);
            }
        }
    }
}

//! Exec, attach and port-forward: the shim hands over the streams' descriptors, and this side copies.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use kybern_cri::{CriError, ExecIo, ExecSyncResult, TermSize};
use kybern_linux::netns::NetNs;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::container::Container;
use crate::engine::{Engine, blocking, internal};
use crate::shim::client::{ShimConnection, closed};
use crate::shim::protocol::{Reply, Request};
use crate::spec::ProcessSpec;

/// The most that an `exec_sync` collects of each stream, in bytes (CRI's limit).
const OUTPUT_MAX: usize = 16 << 20;

/// How long output may go on after the process has ended, while another process holds the stream open.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a new terminal's size may take to come.
const FIRST_SIZE_TIMEOUT: Duration = Duration::from_millis(100);

/// A pipe end or terminal, without blocking.
struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    fn new(fd: OwnedFd) -> io::Result<Stream> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // The replacement of `new` is unsafe for types whose descriptor may change; an OwnedFd's does not.
        #[expect(deprecated, reason = "sound for OwnedFd")]
        let registered = AsyncFd::new(fd)?;
        Ok(Stream(registered))
    }

    /// Reads once; 0 at the end. A terminal whose program has gone fails with EIO, which is its end.
    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.async_io(tokio::io::Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buffer)?)).await;
        match read {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(0),
            other => other,
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written =
                self.0.async_io(tokio::io::Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    fn resize(&self, size: TermSize) {
        let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        let _ = rustix::termios::tcsetwinsize(self.0.get_ref().as_fd(), size);
    }
}

/// A process of a container with its streams.
struct Running {
    connection: ShimConnection,
    stdin: Option<Arc<Stream>>,
    stdout: Option<Arc<Stream>>,
    stderr: Option<Arc<Stream>>,
}

/// Copies a client's input until either side ends, then closes the process's.
async fn copy_in(mut from: std::pin::Pin<Box<dyn AsyncRead + Send>>, to: Arc<Stream>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Copies a process's output until it ends. A client that has gone is not an error: the rest is dropped.
async fn copy_out(from: Option<Arc<Stream>>, to: Option<std::pin::Pin<Box<dyn AsyncWrite + Send>>>) {
    let (Some(from), mut to) = (from, to) else { return };
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if let Some(client) = &mut to
            && (client.write_all(&buffer[..length]).await.is_err() || client.flush().await.is_err())
        {
            to = None;
        }
    }
    if let Some(client) = &mut to {
        let _ = client.shutdown().await;
    }
}

/// The size that a client with a terminal sends at once, so that the program finds it when it starts. One without a terminal
/// sends none, and is not waited for long.
async fn first_size(io: &mut ExecIo) -> Option<TermSize> {
    let resize = io.resize.as_mut()?;
    tokio::time::timeout(FIRST_SIZE_TIMEOUT, resize.recv()).await.ok().flatten()
}

async fn follow_size(resize: Option<mpsc::Receiver<TermSize>>, terminal: Option<Arc<Stream>>) {
    if let (Some(mut resize), Some(terminal)) = (resize, terminal) {
        while let Some(size) = resize.recv().await {
            terminal.resize(size);
        }
    }
    std::future::pending::<()>().await;
}

impl Engine {
    /// Starts a process in a container.
    async fn spawn(
        &self,
        container: &Container,
        command: Vec<String>,
        tty: bool,
        stdin: bool,
        size: Option<TermSize>,
    ) -> Result<Running, CriError> {
        container.must_run()?;
        let mut process: ProcessSpec = container.launch_spec()?.process;
        process.args = command;
        process.terminal_size = size.map(|size| (size.rows, size.columns));
        if tty && !process.env.iter().any(|e| e.starts_with("TERM=")) {
            process.env.push("TERM=xterm".into());
        }
        let what = || format!("failed to exec in container {:?}", container.id);
        let failed = |error: io::Error| internal(what(), error);
        let mut connection = container.sandbox.shim.connect().await.map_err(failed)?;
        let request = Request::Exec { container: container.id.clone(), process: Box::new(process), tty, stdin };
        connection.send(&request).await.map_err(failed)?;
        let (reply, fds) = connection.receive().await.map_err(failed)?.ok_or_else(|| failed(closed()))?;
        match reply {
            Reply::Streams { stdin, .. } => {
                let mut fds = fds.into_iter().map(|fd| Stream::new(fd).map(Arc::new));
                let mut next = || fds.next().transpose().map_err(failed);
                if tty {
                    let terminal = next()?;
                    Ok(Running { connection, stdin: terminal.clone(), stdout: terminal, stderr: None })
                } else {
                    let stdin = if stdin { next()? } else { None };
                    Ok(Running { connection, stdin, stdout: next()?, stderr: next()? })
                }
            }
            Reply::Failed { message } => {
                Err(internal(what(), format_args!("unable to start container process: {message}")))
            }
            Reply::NotRunning => {
                Err(CriError::FailedPrecondition(format!("container {:?} is not running", container.id)))
            }
            other => Err(internal(what(), format_args!("unexpected answer {other:?}"))),
        }
    }

    pub(crate) async fn run_exec(
        &self,
        id: &str,
        command: Vec<String>,
        tty: bool,
        mut io: ExecIo,
    ) -> Result<i32, CriError> {
        let container = self.container(id)?;
        let size = if tty { first_size(&mut io).await } else { None };
        let Running { mut connection, stdin, stdout, stderr } =
            self.spawn(&container, command, tty, io.stdin.is_some(), size).await?;
        let sizes = tokio::spawn(follow_size(io.resize, stdin.clone().filter(|_| tty)));
        let input = io.stdin.zip(stdin).map(|(from, to)| tokio::spawn(copy_in(from, to)));
        let output = async { tokio::join!(copy_out(stdout, io.stdout), copy_out(stderr, io.stderr)) };
        let result = until_drained(&mut connection, output).await;
        sizes.abort();
        if let Some(input) = input {
            input.abort();
        }
        result.map_err(|error| internal(format_args!("failed to exec in container {id:?}"), error))
    }

    pub(crate) async fn run_exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecSyncResult, CriError> {
        let container = self.container(id)?;
        let text = format!("{command:?}");
        let run = async {
            let Running { mut connection, stdout, stderr, .. } =
                self.spawn(&container, command, false, false, None).await?;
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let output = async { tokio::join!(collect(stdout, &mut out), collect(stderr, &mut err)) };
            let code = until_drained(&mut connection, output).await;
            let exit_code =
                code.map_err(|error| internal(format_args!("failed to exec in container {id:?}"), error))?;
            Ok(ExecSyncResult { stdout: out, stderr: err, exit_code })
        };
        match timeout.filter(|t| !t.is_zero()) {
            None => run.await,
            // Dropping the connection makes the shim kill the process.
            Some(limit) => tokio::time::timeout(limit, run).await.unwrap_or_else(|_| {
                Err(CriError::DeadlineExceeded(format!(
                    "command {text} timed out after {} s: context deadline exceeded",
                    limit.as_secs_f64()
                )))
            }),
        }
    }

    pub(crate) async fn run_attach(&self, id: &str, io: ExecIo) -> Result<(), CriError> {
        let container = self.container(id)?;
        container.must_run()?;
        let failed = |error: io::Error| internal(format_args!("failed to attach to container {id:?}"), error);
        let mut connection = container.sandbox.shim.connect().await.map_err(failed)?;
        let request = Request::Attach {
            container: id.to_owned(),
            // The terminal, which also takes the sizes, comes as stdin.
            stdin: io.stdin.is_some() || io.resize.is_some(),
            stdout: io.stdout.is_some(),
            stderr: io.stderr.is_some(),
        };
        connection.send(&request).await.map_err(failed)?;
        let (reply, fds) = connection.receive().await.map_err(failed)?.ok_or_else(|| failed(closed()))?;
        let [stdin, stdout, stderr] = match reply {
            Reply::Streams { stdin, stdout, stderr } => {
                let mut fds = fds.into_iter().map(|fd| Stream::new(fd).map(Arc::new));
                let mut next = |given: bool| if given { fds.next().transpose() } else { Ok(None) };
                [next(stdin).map_err(failed)?, next(stdout).map_err(failed)?, next(stderr).map_err(failed)?]
            }
            Reply::Failed { message } => {
                return Err(internal(format_args!("failed to attach to container {id:?}"), message));
            }
            _ => return Err(CriError::FailedPrecondition(format!("container {id:?} is not running"))),
        };
        let sizes = tokio::spawn(follow_size(io.resize, stdin.clone()));
        let no_output = stdout.is_none() && stderr.is_none();
        let input = async {
            if let (Some(from), Some(to)) = (io.stdin, stdin) {
                copy_in(from, to).await;
                let _ = connection.send(&Request::CloseStdin).await;
            }
            if !no_output {
                std::future::pending::<()>().await;
            }
        };
        let output = async {
            tokio::join!(copy_out(stdout, io.stdout), copy_out(stderr, io.stderr));
            if no_output {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = input => {}
            () = output => {}
        }
        sizes.abort();
        Ok(())
    }

    pub(crate) async fn forward_port(&self, id: &str, port: u16) -> Result<tokio::net::TcpStream, CriError> {
        let sandbox = self.sandbox(id)?;
        if !sandbox.is_ready() {
            return Err(CriError::FailedPrecondition(format!("sandbox container {id:?} is not running")));
        }
        let netns = sandbox.netns.clone();
        let what = format!("failed to connect to localhost:{port} inside the sandbox {id:?}");
        let connected = blocking(move || match netns {
            Some(path) => NetNs::open(&path)?.run(|| connect_local(port)),
            None => connect_local(port),
        });
        let stream = connected.await?.map_err(|error| internal(&what, error))?;
        stream.set_nonblocking(true).map_err(|error| internal(&what, error))?;
        tokio::net::TcpStream::from_std(stream).map_err(|error| internal(&what, error))
    }
}

fn connect_local(port: u16) -> io::Result<std::net::TcpStream> {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&v4, CONNECT_TIMEOUT)
        .or_else(|error| TcpStream::connect_timeout(&v6, CONNECT_TIMEOUT).map_err(|_| error))
}

/// Runs `output` until the process has ended and its streams have too; streams that a further process keeps open are
/// given a moment and then left.
async fn until_drained<T>(connection: &mut ShimConnection, output: impl Future<Output = T>) -> io::Result<i32> {
    tokio::pin!(output);
    let mut drained = false;
    let code = loop {
        tokio::select! {
            message = connection.receive() => match message? {
                Some((Reply::Exited { code }, _)) => break code,
                Some(_) => {}
                None => return Err(closed()),
            },
            _ = &mut output, if !drained => drained = true,
        }
    };
    if !drained {
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, output).await;
    }
    Ok(code)
}

/// Collects a stream up to the limit, and reads on without keeping the rest, so that the process can end.
async fn collect(from: Option<Arc<Stream>>, into: &mut Vec<u8>) {
    let Some(from) = from else { return };
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let room = OUTPUT_MAX.saturating_sub(into.len());
        into.extend_from_slice(&buffer[..length.min(room)]);
    }
}

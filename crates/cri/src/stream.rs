//! The streams of exec and attach, as channels of the process that serves the client.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// A terminal's size in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermSize {
    pub columns: u16,
    pub rows: u16,
}

/// The client's ends of a command's streams; `None` where the client did not ask for one. With a terminal, `stderr` is
/// `None` and `resize` carries window sizes.
#[derive(Default)]
pub struct ExecIo {
    pub stdin: Option<Pin<Box<dyn AsyncRead + Send>>>,
    pub stdout: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    pub stderr: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    pub resize: Option<mpsc::Receiver<TermSize>>,
}

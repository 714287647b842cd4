//! One stream of a multiplexed connection as `AsyncRead` and `AsyncWrite`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// The largest piece of data that is sent at once.
const MAX_CHUNK: usize = 32 * 1024;

/// What a stream gives to its connection's writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    Data(u32, Bytes),
    /// Nothing more follows on this stream.
    Fin(u32),
}

/// The receiving half: ends when the connection drops its sender.
pub struct ChannelReader {
    incoming: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl ChannelReader {
    pub fn new(incoming: mpsc::Receiver<Bytes>) -> Self {
        Self { incoming, current: Bytes::new() }
    }

    /// The next piece as it came; `None` at the end.
    pub async fn next(&mut self) -> Option<Bytes> {
        if self.current.has_remaining() {
            return Some(std::mem::take(&mut self.current));
        }
        self.incoming.recv().await
    }
}

impl AsyncRead for ChannelReader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while !self.current.has_remaining() {
            match ready!(self.incoming.poll_recv(cx)) {
                Some(bytes) => self.current = bytes,
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.current.len().min(buf.remaining());
        buf.put_slice(&self.current[..length]);
        self.current.advance(length);
        Poll::Ready(Ok(()))
    }
}

/// The sending half. Shutting it down tells the peer that nothing more comes; dropping it does not.
pub struct ChannelWriter<M> {
    id: u32,
    sender: PollSender<M>,
    shut: bool,
}

impl<M: From<Outgoing> + Send + 'static> ChannelWriter<M> {
    pub fn new(id: u32, sender: mpsc::Sender<M>) -> Self {
        Self { id, sender: PollSender::new(sender), shut: false }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, message: impl FnOnce() -> Outgoing) -> Poll<io::Result<()>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.sender.poll_reserve(cx)).map_err(gone)?;
        Poll::Ready(self.sender.send_item(M::from(message())).map_err(gone))
    }
}

impl<M: From<Outgoing> + Send + 'static> AsyncWrite for ChannelWriter<M> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let (id, length) = (self.id, buf.len().min(MAX_CHUNK));
        if length > 0 {
            ready!(self.poll_send(cx, || Outgoing::Data(id, Bytes::copy_from_slice(&buf[..length]))))?;
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            let id = self.id;
            ready!(self.poll_send(cx, || Outgoing::Fin(id)))?;
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }
}

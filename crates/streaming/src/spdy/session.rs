//! A session: one task reads frames and hands data to the streams, one writes what the streams send.
//!
//! The peers of Kubernetes send no window updates, so sending is not held back by SPDY's own windows; TCP's window does
//! it, and every queue here is bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::frame::Frame;
use super::header::{Deflater, Headers, Inflater};
use crate::channel::{ChannelReader, ChannelWriter, Outgoing};

/// Streams that wait to be taken; a peer that opens more is made to wait.
const BACKLOG: usize = 32;
/// Pieces of data that wait in one stream.
const STREAM_QUEUE: usize = 16;
/// Messages that wait to be written.
const WRITE_QUEUE: usize = 16;
/// How long a peer may take to close its side.
const LINGER: Duration = Duration::from_secs(3);
/// `PROTOCOL_ERROR` of RST_STREAM.
const PROTOCOL_ERROR: u32 = 1;

/// What the writer is told.
pub enum Command {
    /// Opens a stream.
    Open(u32, Headers),
    Stream(Outgoing),
    Reply(u32),
    Pong(u32),
    Reset(u32, u32),
    /// Write what is queued, say goodbye, close.
    End,
}

impl From<Outgoing> for Command {
    fn from(outgoing: Outgoing) -> Self {
        Self::Stream(outgoing)
    }
}

/// A stream of a session.
pub struct SpdyStream {
    pub id: u32,
    pub headers: Headers,
    pub reader: ChannelReader,
    pub writer: ChannelWriter<Command>,
}

/// One end of a connection.
pub struct Session {
    streams: mpsc::Receiver<SpdyStream>,
    commands: mpsc::Sender<Command>,
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
}

impl Session {
    /// The server's end.
    pub fn new<T: AsyncRead + AsyncWrite + Send + 'static>(io: T) -> Self {
        Self::with(io, 1, BTreeMap::new())
    }

    /// The client's end, with streams of these headers, in this order.
    pub async fn client<T>(io: T, streams: Vec<Headers>) -> (Self, Vec<SpdyStream>)
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let ids = (1..).step_by(2);
        let (mut open, mut readers) = (BTreeMap::new(), Vec::new());
        for (id, headers) in ids.zip(streams) {
            let (data, data_rx) = mpsc::channel(STREAM_QUEUE);
            open.insert(id, data);
            readers.push((id, headers, ChannelReader::new(data_rx)));
        }
        let session = Self::with(io, 0, open);
        let mut streams = Vec::new();
        for (id, headers, reader) in readers {
            session.send(Command::Open(id, headers.clone())).await;
            let writer = ChannelWriter::new(id, session.commands.clone());
            streams.push(SpdyStream { id, headers, reader, writer });
        }
        (session, streams)
    }

    /// The peer's numbers are odd (`parity` 1: it is the client) or even.
    fn with<T>(io: T, parity: u32, open: BTreeMap<u32, mpsc::Sender<Bytes>>) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(io);
        let (commands, commands_rx) = mpsc::channel(WRITE_QUEUE);
        let (streams_tx, streams) = mpsc::channel(BACKLOG);
        let writer = tokio::spawn(write_frames(write, commands_rx));
        let reader = Reader {
            commands: commands.clone(),
            streams: Some(streams_tx),
            parity,
            open,
            inflater: Inflater::default(),
        };
        let reader = tokio::spawn(reader.run(read));
        Self { streams, commands, writer, reader }
    }

    /// The next stream that the peer opens; `None` when it has gone.
    pub async fn accept(&mut self) -> Option<SpdyStream> {
        self.streams.recv().await
    }

    /// Tells the writer something.
    pub async fn send(&self, command: Command) -> bool {
        self.commands.send(command).await.is_ok()
    }

    /// Ends when the peer has gone.
    pub async fn closed(&mut self) {
        if !self.reader.is_finished() {
            let _ = (&mut self.reader).await;
        }
    }

    /// Writes out what is queued and closes. Waits for the peer to close too, but not for long.
    pub async fn finish(mut self) {
        let _ = self.commands.send(Command::End).await;
        let _ = tokio::time::timeout(LINGER, &mut self.writer).await;
        let _ = tokio::time::timeout(LINGER, self.closed()).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.writer.abort();
        self.reader.abort();
    }
}

struct Reader {
    commands: mpsc::Sender<Command>,
    streams: Option<mpsc::Sender<SpdyStream>>,
    /// Of the peer's streams and pings.
    parity: u32,
    open: BTreeMap<u32, mpsc::Sender<Bytes>>,
    inflater: Inflater,
}

impl Reader {
    async fn run<T: AsyncRead>(mut self, mut read: ReadHalf<T>) {
        let mut buffer = BytesMut::with_capacity(16 * 1024);
        loop {
            match Frame::decode(&mut buffer) {
                Ok(Some(frame)) => {
                    if !self.take(frame).await {
                        return;
                    }
                }
                Ok(None) => match read.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                },
                Err(error) => {
                    tracing::debug!(%error, "closing a SPDY connection");
                    return;
                }
            }
        }
    }

    /// Takes one frame; `false` ends the connection.
    async fn take(&mut self, frame: Frame) -> bool {
        match frame {
            Frame::SynStream { id, fin, block } => return self.open(id, fin, &block).await,
            Frame::Headers { id, fin, block } => {
                if self.inflater.decode(&block).is_err() {
                    return false;
                }
                if fin {
                    self.open.remove(&id);
                }
            }
            Frame::Data { id, fin, data } => {
                if let Some(stream) = self.open.get(&id)
                    && !data.is_empty()
                {
                    // A stream that nobody reads any more is passed over.
                    let _ = stream.send(data).await;
                }
                if fin {
                    self.open.remove(&id);
                }
            }
            Frame::Reset { id, .. } => {
                self.open.remove(&id);
            }
            // One with a number of this end's would be the answer to a ping of ours.
            Frame::Ping(id) if id % 2 == self.parity => return self.commands.send(Command::Pong(id)).await.is_ok(),
            // The peer opens no more streams; those that are open go on.
            Frame::GoAway { .. } => self.streams = None,
            // The compression goes on from block to block.
            Frame::SynReply { block, .. } => return self.inflater.decode(&block).is_ok(),
            Frame::Settings | Frame::Ping(_) | Frame::WindowUpdate { .. } | Frame::Unknown(_) => {}
        }
        true
    }

    async fn open(&mut self, id: u32, fin: bool, block: &[u8]) -> bool {
        let Ok(headers) = self.inflater.decode(block) else { return false };
        let Some(streams) = &self.streams else {
            return self.commands.send(Command::Reset(id, PROTOCOL_ERROR)).await.is_ok();
        };
        let (data, data_rx) = mpsc::channel(STREAM_QUEUE);
        if !fin {
            self.open.insert(id, data);
        }
        let writer = ChannelWriter::new(id, self.commands.clone());
        let stream = SpdyStream { id, headers, reader: ChannelReader::new(data_rx), writer };
        self.commands.send(Command::Reply(id)).await.is_ok() && streams.send(stream).await.is_ok()
    }
}

async fn write_frames<T: AsyncWrite>(mut write: WriteHalf<T>, mut commands: mpsc::Receiver<Command>) {
    let Ok(mut deflater) = Deflater::new() else { return };
    let mut buffer = BytesMut::new();
    let mut ends = false;
    while let Some(command) = commands.recv().await {
        let frame = match command {
            Command::Open(id, headers) => match deflater.encode(&headers) {
                Ok(block) => Frame::SynStream { id, fin: false, block: block.into() },
                Err(_) => return,
            },
            Command::Stream(Outgoing::Data(id, data)) => Frame::Data { id, fin: false, data },
            Command::Stream(Outgoing::Fin(id)) => Frame::Data { id, fin: true, data: Bytes::new() },
            Command::Reply(id) => match deflater.encode(&Headers::new()) {
                Ok(block) => Frame::SynReply { id, fin: false, block: block.into() },
                Err(_) => return,
            },
            Command::Pong(id) => Frame::Ping(id),
            Command::Reset(id, status) => Frame::Reset { id, status },
            Command::End => {
                ends = true;
                Frame::GoAway { last: 0, status: 0 }
            }
        };
        frame.encode(&mut buffer);
        if write.write_all_buf(&mut buffer).await.is_err() || ends || write.flush().await.is_err() {
            break;
        }
    }
    let _ = write.shutdown().await;
}

//! WebSocket: each binary message is one byte of channel and its data (`k8s.io/apimachinery/pkg/util/httpstream/wsstream`).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use kybern_cri::ExecIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use crate::channel::{ChannelReader, ChannelWriter, Outgoing};
use crate::exec::{Wants, resizes_from};
use crate::exit::Exit;

/// Exec's subprotocols, best first.
pub const EXEC_PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Of version 5: the peer closes its side of the channel that the next byte names.
const CLOSE: u8 = 255;

const QUEUE: usize = 16;
/// The largest message taken; clients send at most 32 KiB at once.
const MAX_MESSAGE: usize = 1 << 20;
/// What is buffered of a tunnelled connection in each direction.
const TUNNEL_BUFFER: usize = 64 * 1024;
pub(crate) const LINGER: std::time::Duration = std::time::Duration::from_secs(3);

/// A WebSocket on a connection whose handshake is done.
pub async fn accept<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// What the writer is told.
pub enum Command {
    Stream(Outgoing),
    End,
}

impl From<Outgoing> for Command {
    fn from(outgoing: Outgoing) -> Self {
        Self::Stream(outgoing)
    }
}

/// Channels over one WebSocket.
pub struct Channels {
    commands: mpsc::Sender<Command>,
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
}

impl Channels {
    /// Serves the channels of `inputs`; what comes on any other is passed over.
    pub fn new<T>(
        socket: WebSocketStream<T>,
        base64: bool,
        closes: bool,
        inputs: BTreeMap<u8, mpsc::Sender<Bytes>>,
    ) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sink, stream) = socket.split();
        let (commands, commands_rx) = mpsc::channel(QUEUE);
        let writer = tokio::spawn(write_messages(sink, commands_rx, base64));
        let reader = tokio::spawn(read_messages(stream, inputs, base64, closes));
        Self { commands, writer, reader }
    }

    pub fn writer(&self, channel: u8) -> ChannelWriter<Command> {
        ChannelWriter::new(u32::from(channel), self.commands.clone())
    }

    pub async fn send(&self, channel: u8, data: Bytes) {
        let _ = self.commands.send(Command::Stream(Outgoing::Data(u32::from(channel), data))).await;
    }

    /// Ends when the client has gone.
    pub async fn closed(&mut self) {
        let _ = (&mut self.reader).await;
    }

    /// Writes out what is queued, closes, and waits for the client to close too, but not for long.
    pub async fn finish(mut self) {
        let _ = self.commands.send(Command::End).await;
        let _ = tokio::time::timeout(LINGER, &mut self.writer).await;
        if !self.reader.is_finished() {
            let _ = tokio::time::timeout(LINGER, &mut self.reader).await;
        }
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        self.writer.abort();
        self.reader.abort();
    }
}

async fn write_messages<T>(
    mut sink: SplitSink<WebSocketStream<T>, Message>,
    mut commands: mpsc::Receiver<Command>,
    base64: bool,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(command) = commands.recv().await {
        let sent = match command {
            Command::Stream(Outgoing::Data(channel, data)) => sink.send(encode(channel as u8, &data, base64)).await,
            // WebSocket channels of the server have no end of their own.
            Command::Stream(Outgoing::Fin(_)) => Ok(()),
            Command::End => break,
        };
        if sent.is_err() {
            return;
        }
    }
    let _ = sink.send(goodbye()).await;
    let _ = sink.close().await;
}

/// The close message that clients take for a good end (RFC 6455, 1000); without a code they report an error.
pub(crate) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

fn encode(channel: u8, data: &[u8], base64: bool) -> Message {
    if base64 {
        return Message::text(format!("{channel}{}", STANDARD.encode(data)));
    }
    let mut message = BytesMut::with_capacity(1 + data.len());
    message.extend_from_slice(&[channel]);
    message.extend_from_slice(data);
    Message::Binary(message.freeze())
}

/// The channel and data of a message; `None` for one that is neither binary nor (with base64) text.
fn decode(message: Message, base64: bool) -> Option<(u8, Bytes)> {
    if base64 {
        let data = message.into_data();
        let (channel, text) = data.split_first()?;
        return Some((channel.checked_sub(b'0')?, STANDARD.decode(text).ok()?.into()));
    }
    let mut data = message.into_data();
    (!data.is_empty()).then(|| (data.split_to(1)[0], data))
}

async fn read_messages<T>(
    mut stream: SplitStream<WebSocketStream<T>>,
    mut inputs: BTreeMap<u8, mpsc::Sender<Bytes>>,
    base64: bool,
    closes: bool,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = stream.next().await {
        if !matches!(message, Message::Binary(_) | Message::Text(_)) {
            continue;
        }
        let Some((channel, data)) = decode(message, base64) else { continue };
        if closes && channel == CLOSE {
            if let Some(closed) = data.first() {
                inputs.remove(closed);
            }
        } else if let Some(input) = inputs.get(&channel)
            && !data.is_empty()
        {
            let _ = input.send(data).await;
        }
    }
}

/// Serves an exec or attach.
pub(crate) async fn serve_exec<T, F>(io: T, protocol: &str, wants: Wants, run: impl FnOnce(ExecIo) -> F)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Exit>,
{
    let base64 = protocol.contains("base64");
    let version = match protocol.split('.').next() {
        Some("v5") => 5,
        Some("v4") => 4,
        _ => 1,
    };
    let mut inputs = BTreeMap::new();
    let mut input = |channel: u8, wanted: bool| {
        wanted.then(|| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            inputs.insert(channel, sender);
            ChannelReader::new(receiver)
        })
    };
    let stdin = input(STDIN, wants.stdin);
    let resize = input(RESIZE, wants.tty);
    let mut channels = Channels::new(accept(io).await, base64, version >= 5, inputs);
    // An empty message tells the client that the connection stands.
    let first = if wants.stdout {
        STDOUT
    } else if wants.stderr {
        STDERR
    } else {
        ERROR
    };
    channels.send(first, Bytes::new()).await;
    let io = ExecIo {
        stdin: stdin.map(|reader| Box::pin(reader) as _),
        stdout: wants.stdout.then(|| Box::pin(channels.writer(STDOUT)) as _),
        stderr: wants.stderr.then(|| Box::pin(channels.writer(STDERR)) as _),
        resize: resize.map(resizes_from),
    };
    let exit = tokio::select! {
        exit = run(io) => exit,
        () = channels.closed() => return,
    };
    let message = if version >= 4 { exit.status() } else { exit.text() };
    if !message.is_empty() {
        channels.send(ERROR, message).await;
    }
    channels.finish().await;
}

/// The bytes of a connection that is tunnelled in binary messages.
pub(crate) fn tunnel<T>(socket: WebSocketStream<T>) -> DuplexStream
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (near, far) = tokio::io::duplex(TUNNEL_BUFFER);
    let (mut from_near, mut to_near) = tokio::io::split(far);
    let (mut sink, mut stream) = socket.split();
    tokio::spawn(async move {
        let mut buffer = BytesMut::with_capacity(TUNNEL_BUFFER);
        while from_near.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
            if sink.send(Message::Binary(buffer.split().freeze())).await.is_err() {
                return;
            }
        }
        let _ = sink.send(goodbye()).await;
        let _ = sink.close().await;
    });
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(data) = message
                && to_near.write_all(&data).await.is_err()
            {
                return;
            }
        }
        let _ = to_near.shutdown().await;
    });
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        for base64 in [false, true] {
            let message = encode(STDERR, b"x\xff", base64);
            assert_eq!(decode(message, base64), Some((STDERR, Bytes::from_static(b"x\xff"))));
        }
        assert_eq!(encode(1, b"hi", true), Message::text("1aGk="));
        assert_eq!(decode(Message::binary(vec![]), false), None);
    }
}

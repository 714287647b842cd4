//! Exec and attach: a command's streams over SPDY (`v4.channel.k8s.io` and older) or WebSocket (`v5` and older)
//! (`k8s.io/kubelet/pkg/cri/streaming/remotecommand`).

use std::time::Duration;

use http::Request;
use kybern_cri::{ExecIo, TermSize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::channel::{ChannelReader, Outgoing};
use crate::exit::Exit;
use crate::spdy::header::get;
use crate::spdy::session::Command;
use crate::spdy::{Session, SpdyStream};
use crate::upgrade::{self, Answer, Transport};
use crate::websocket;

/// How long a client may take to open its streams.
const CREATION_TIMEOUT: Duration = Duration::from_secs(30);

const SPDY_PROTOCOLS: [&str; 4] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// The streams that a client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// A terminal: window sizes come, and standard error goes with standard output.
    pub tty: bool,
}

/// Answers an exec or attach request and serves it in a task: `run` gets the client's streams and says how it ended.
/// When the client goes, `run` is dropped.
pub fn exec<B, F>(mut request: Request<B>, wants: Wants, run: impl FnOnce(ExecIo) -> F + Send + 'static) -> Answer
where
    F: Future<Output = Exit> + Send + 'static,
{
    let wants = Wants { stderr: wants.stderr && !wants.tty, ..wants };
    let headers = request.headers();
    let negotiated = match upgrade::transport(headers) {
        None => return upgrade::not_an_upgrade(),
        Some(Transport::Spdy) => upgrade::spdy_protocol(headers, &SPDY_PROTOCOLS)
            .map(|protocol| (Transport::Spdy, protocol, upgrade::spdy_answer(protocol))),
        Some(Transport::WebSocket) => upgrade::websocket_protocol(headers, &websocket::EXEC_PROTOCOLS)
            .and_then(|protocol| Ok((Transport::WebSocket, protocol, upgrade::websocket_answer(headers, protocol)?))),
    };
    let (transport, protocol, answer) = match negotiated {
        Ok(negotiated) => negotiated,
        Err(refusal) => return *refusal,
    };
    let promise = upgrade::promise(&mut request);
    tokio::spawn(async move {
        let Some(io) = upgrade::take_over(promise).await else { return };
        match transport {
            Transport::Spdy => serve_spdy(io, protocol, wants, run).await,
            Transport::WebSocket => websocket::serve_exec(io, protocol, wants, run).await,
        }
    });
    answer
}

/// Serves the streams of a SPDY connection.
pub(crate) async fn serve_spdy<T, F>(io: T, protocol: &str, wants: Wants, run: impl FnOnce(ExecIo) -> F)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
    F: Future<Output = Exit>,
{
    let mut session = Session::new(io);
    let version = SPDY_PROTOCOLS.len() - SPDY_PROTOCOLS.iter().position(|name| *name == protocol).unwrap_or(0);
    let resizes = wants.tty && version >= 3;
    let opened = tokio::time::timeout(CREATION_TIMEOUT, Streams::collect(&mut session, wants, resizes)).await;
    let Ok(Some(streams)) = opened else {
        tracing::debug!("a client did not open the streams it asked for");
        session.finish().await;
        return;
    };
    let mut error = streams.error;
    let ids: Vec<u32> = [&streams.stdout, &streams.stderr].into_iter().flatten().map(|s| s.id).collect();
    let io = ExecIo {
        stdin: streams.stdin.map(|s| Box::pin(s.reader) as _),
        stdout: streams.stdout.map(|s| Box::pin(s.writer) as _),
        stderr: streams.stderr.map(|s| Box::pin(s.writer) as _),
        resize: streams.resize.map(|s| resizes_from(s.reader)),
    };
    let exit = tokio::select! {
        exit = run(io) => exit,
        () = gone(&mut session) => return,
    };
    for id in ids {
        let _ = session.send(Command::Stream(Outgoing::Fin(id))).await;
    }
    let message = if version >= 4 { exit.status() } else { exit.text() };
    let _ = error.writer.write_all(&message).await;
    let _ = error.writer.shutdown().await;
    session.finish().await;
}

/// Ends when the client has gone; further streams are not expected and passed over.
async fn gone(session: &mut Session) {
    while session.accept().await.is_some() {}
    session.closed().await;
}

/// The streams of one exec.
struct Streams {
    error: SpdyStream,
    stdin: Option<SpdyStream>,
    stdout: Option<SpdyStream>,
    stderr: Option<SpdyStream>,
    resize: Option<SpdyStream>,
}

impl Streams {
    /// Waits until all are open; `None` when the client goes before.
    async fn collect(session: &mut Session, wants: Wants, resizes: bool) -> Option<Self> {
        let (mut error, mut stdin, mut stdout, mut stderr, mut resize) = (None, None, None, None, None);
        loop {
            let missing = error.is_none()
                || (wants.stdin && stdin.is_none())
                || (wants.stdout && stdout.is_none())
                || (wants.stderr && stderr.is_none())
                || (resizes && resize.is_none());
            if !missing {
                return Some(Self { error: error?, stdin, stdout, stderr, resize });
            }
            let stream = session.accept().await?;
            match get(&stream.headers, "streamType") {
                Some("error") => error = Some(stream),
                Some("stdin") => stdin = Some(stream),
                Some("stdout") => stdout = Some(stream),
                Some("stderr") => stderr = Some(stream),
                Some("resize") => resize = Some(stream),
                other => tracing::debug!(?other, "passing over a stream of an unknown type"),
            }
        }
    }
}

/// Reads window sizes: JSON objects one after the other.
pub(crate) fn resizes_from(mut reader: ChannelReader) -> mpsc::Receiver<TermSize> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut pending = Vec::new();
        while let Some(bytes) = reader.next().await {
            pending.extend_from_slice(&bytes);
            for size in take_sizes(&mut pending) {
                if sender.send(size).await.is_err() {
                    return;
                }
            }
            if pending.len() > 4096 {
                return;
            }
        }
    });
    receiver
}

#[derive(serde::Deserialize)]
struct Size {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

/// Takes the complete sizes off the front.
fn take_sizes(pending: &mut Vec<u8>) -> Vec<TermSize> {
    let mut stream = serde_json::Deserializer::from_slice(pending).into_iter::<Size>();
    let mut sizes = Vec::new();
    let mut end = 0;
    while let Some(Ok(size)) = stream.next() {
        sizes.push(TermSize { columns: size.width, rows: size.height });
        end = stream.byte_offset();
    }
    pending.drain(..end);
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_sizes() {
        let mut pending = b"{\"Width\":80,\"Height\":24}\n{\"Width\":1,\"Height\":2}{\"Wid".to_vec();
        let sizes = take_sizes(&mut pending);
        assert_eq!(sizes, [TermSize { columns: 80, rows: 24 }, TermSize { columns: 1, rows: 2 }]);
        pending.extend_from_slice(b"th\":3,\"Height\":4}");
        assert_eq!(take_sizes(&mut pending), [TermSize { columns: 3, rows: 4 }]);
        assert!(pending.is_empty());
    }
}

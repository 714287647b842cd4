//! What clients say over WebSockets, said again over SPDY, to a kubelet that knows only that
//! (`k8s.io/apiserver/pkg/util/proxy`, its stream translator and its tunnel).

use std::pin::Pin;

use http::Request;
use kybern_cri::{ExecIo, TermSize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::channel::{ChannelReader, ChannelWriter};
use crate::exec::Wants;
use crate::exit::Exit;
use crate::port_forward::TUNNEL_PROTOCOL;
use crate::spdy::session::Command;
use crate::spdy::{Session, SpdyStream};
use crate::upgrade::{self, Answer};
use crate::websocket;

/// The version of exec and attach that a kubelet is asked for over SPDY.
pub const EXEC_PROTOCOL: &str = "v4.channel.k8s.io";
/// The longest account of a command's end.
const MAX_STATUS: u64 = 64 << 10;

type Reader = Pin<Box<dyn AsyncRead + Send>>;
type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// The client's end of an exec or attach at a kubelet, on a connection that speaks SPDY: `client` is joined to its streams
/// until the kubelet says how the command ended.
pub async fn exec_at<T>(io: T, wants: Wants, client: ExecIo) -> Exit
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let stderr = wants.stderr && !wants.tty;
    let kinds =
        [("error", true), ("stdin", wants.stdin), ("stdout", wants.stdout), ("stderr", stderr), ("resize", wants.tty)];
    let asked = kinds.iter().filter(|(_, wanted)| *wanted);
    let headers = asked.map(|(kind, _)| vec![("streamtype".to_owned(), (*kind).to_owned())]).collect();
    let (session, streams) = Session::client(io, headers).await;
    let mut streams = streams.into_iter();
    let mut next = |wanted: bool| if wanted { streams.next() } else { None };
    let [error, stdin, stdout, stderr, resize] = kinds.map(|(_, wanted)| next(wanted));
    let Some(error) = error else { return Exit::Failed("the streams could not be opened".to_owned()) };
    let inward = async {
        tokio::join!(to_kubelet(client.stdin, stdin), sizes(client.resize, resize));
        // Nothing more to say is no end.
        std::future::pending::<()>().await;
    };
    let (mut account, mut status) = (error.reader.take(MAX_STATUS), Vec::new());
    let outward = async {
        let told = account.read_to_end(&mut status);
        // What it has written comes before how it ended.
        tokio::join!(told, to_client(stdout, client.stdout), to_client(stderr, client.stderr)).0
    };
    let told = tokio::select! {
        told = outward => told,
        () = inward => unreachable!("it does not end"),
    };
    // The client need not wait until the kubelet has hung up.
    tokio::spawn(session.finish());
    match told {
        Ok(_) => Exit::read(&status),
        Err(cause) => Exit::Failed(cause.to_string()),
    }
}

async fn to_kubelet(from: Option<Reader>, to: Option<SpdyStream>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    let _ = tokio::io::copy(&mut from, &mut to.writer).await;
    let _ = to.writer.shutdown().await;
}

async fn to_client(from: Option<SpdyStream>, to: Option<Writer>) {
    let (Some(SpdyStream { mut reader, .. }), Some(mut to)) = (from, to) else { return };
    pass(&mut reader, &mut to).await;
}

async fn pass(from: &mut ChannelReader, to: &mut Writer) {
    while let Some(piece) = from.next().await {
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
}

async fn sizes(from: Option<mpsc::Receiver<TermSize>>, to: Option<SpdyStream>) {
    let (Some(mut from), Some(SpdyStream { writer, .. })) = (from, to) else { return };
    let mut writer: ChannelWriter<Command> = writer;
    while let Some(TermSize { columns, rows }) = from.recv().await {
        let size = format!("{{\"Width\":{columns},\"Height\":{rows}}}\n");
        if writer.write_all(size.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Answers a port-forward whose WebSocket is a tunnel, and joins what is in it to a connection that speaks SPDY.
pub fn tunnel<B, T>(mut request: Request<B>, mut io: T, kept: impl Send + 'static) -> Answer
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let headers = request.headers();
    let negotiated = upgrade::websocket_protocol(headers, &[TUNNEL_PROTOCOL])
        .and_then(|protocol| upgrade::websocket_answer(headers, protocol));
    let answer = match negotiated {
        Ok(answer) => answer,
        Err(refusal) => return *refusal,
    };
    let promise = upgrade::promise(&mut request);
    tokio::spawn(async move {
        let _kept = kept;
        let Some(client) = upgrade::take_over(promise).await else { return };
        let mut client = websocket::tunnel(websocket::accept(client).await);
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut io).await {
            tracing::debug!(%error, "a tunnelled stream ended");
        }
    });
    answer
}

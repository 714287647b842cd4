//! Port-forward: TCP connections over SPDY streams (`portforward.k8s.io`), natively or tunnelled in a WebSocket, and over
//! plain WebSocket channels (`v4.channel.k8s.io`) (`k8s.io/kubelet/pkg/cri/streaming/portforward`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Request;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::channel::{ChannelReader, ChannelWriter, Outgoing};
use crate::spdy::header::get;
use crate::spdy::{Session, SpdyStream};
use crate::upgrade::{self, Answer, Transport};
use crate::websocket::{self, Channels};

pub const SPDY_PROTOCOL: &str = "portforward.k8s.io";
pub const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
const WEBSOCKET_PROTOCOLS: [&str; 3] = [TUNNEL_PROTOCOL, "v4.channel.k8s.io", "portforward.k8s.io"];

/// How long the second stream of a pair may take.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections forwarded at once by one client.
const MAX_FORWARDS: usize = 256;

/// Connects to a port of the pod; an error is told to the client.
pub type Dial = Arc<dyn Fn(u16) -> BoxFuture<'static, Result<TcpStream, String>> + Send + Sync>;

/// Answers a port-forward request and serves it in a task. `ports` are those of the query, for clients that name them
/// there (plain WebSocket); `pod` names the pod in error texts.
pub fn port_forward<B>(mut request: Request<B>, ports: Vec<u16>, pod: String, dial: Dial) -> Answer {
    let headers = request.headers();
    let negotiated = match upgrade::transport(headers) {
        None => return upgrade::not_an_upgrade(),
        Some(Transport::Spdy) => upgrade::spdy_protocol(headers, &[SPDY_PROTOCOL])
            .map(|protocol| (Transport::Spdy, protocol, upgrade::spdy_answer(protocol))),
        Some(Transport::WebSocket) => upgrade::websocket_protocol(headers, &WEBSOCKET_PROTOCOLS)
            .and_then(|protocol| Ok((Transport::WebSocket, protocol, upgrade::websocket_answer(headers, protocol)?))),
    };
    let (transport, protocol, answer) = match negotiated {
        Ok(negotiated) => negotiated,
        Err(refusal) => return *refusal,
    };
    let promise = upgrade::promise(&mut request);
    tokio::spawn(async move {
        let Some(io) = upgrade::take_over(promise).await else { return };
        match (transport, protocol) {
            (Transport::Spdy, _) => serve_spdy(io, &pod, dial).await,
            (Transport::WebSocket, TUNNEL_PROTOCOL) => {
                serve_spdy(websocket::tunnel(websocket::accept(io).await), &pod, dial).await;
            }
            (Transport::WebSocket, _) => serve_websocket(io, ports, &pod, dial).await,
        }
    });
    answer
}

/// The two streams of a forwarded connection, as they come.
#[derive(Default)]
struct Pair {
    data: Option<SpdyStream>,
    error: Option<SpdyStream>,
}

/// Serves a SPDY connection until the client goes.
pub(crate) async fn serve_spdy<T>(io: T, pod: &str, dial: Dial)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut session = Session::new(io);
    let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
    let mut forwards = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = session.accept() => stream,
            Some(_) = forwards.join_next() => continue,
            // A pair that is not completed in time is given up.
            () = tokio::time::sleep(PAIR_TIMEOUT), if !pairs.is_empty() => {
                pairs.clear();
                continue;
            }
        };
        let Some(stream) = stream else { break };
        let is_error = get(&stream.headers, "streamType") == Some("error");
        let key = match get(&stream.headers, "requestID") {
            Some(id) => id.to_owned(),
            // Clients without request ids open the error stream first and the data stream right after it.
            None if is_error => stream.id.to_string(),
            None => stream.id.saturating_sub(2).to_string(),
        };
        let pair = pairs.entry(key.clone()).or_default();
        if is_error {
            pair.error = Some(stream);
        } else {
            pair.data = Some(stream);
        }
        if let Some(Pair { data: Some(_), error: Some(_) }) = pairs.get(&key)
            && let Some(Pair { data: Some(data), error: Some(error) }) = pairs.remove(&key)
            && forwards.len() < MAX_FORWARDS
        {
            let port = get(&data.headers, "port").and_then(|port| port.parse().ok());
            forwards.spawn(forward_pair(data, error, port, pod.to_owned(), dial.clone()));
        }
    }
    while forwards.join_next().await.is_some() {}
    session.finish().await;
}

async fn forward_pair(data: SpdyStream, mut error: SpdyStream, port: Option<u16>, pod: String, dial: Dial) {
    let done = match port {
        Some(port) => forward(data.reader, data.writer, port, &dial).await.map_err(|cause| failure(port, &pod, &cause)),
        None => Err("error forwarding: the stream names no port".to_owned()),
    };
    if let Err(message) = done {
        let _ = error.writer.write_all(message.as_bytes()).await;
    }
    let _ = error.writer.shutdown().await;
}

fn failure(port: u16, pod: &str, cause: &str) -> String {
    format!("error forwarding port {port} to pod {pod}: {cause}")
}

/// Copies both ways until both have ended, each end passed on as such.
async fn forward<M>(
    mut reader: ChannelReader,
    mut writer: ChannelWriter<M>,
    port: u16,
    dial: &Dial,
) -> Result<(), String>
where
    M: From<Outgoing> + Send + 'static,
{
    let connection = match dial(port).await {
        Ok(connection) => connection,
        Err(cause) => {
            let _ = writer.shutdown().await;
            return Err(cause);
        }
    };
    let (mut from_pod, mut to_pod) = connection.into_split();
    let inward = async {
        let done = tokio::io::copy(&mut reader, &mut to_pod).await;
        let _ = to_pod.shutdown().await;
        done
    };
    let outward = async {
        let mut buffer = vec![0; 32 * 1024];
        let done = loop {
            match from_pod.read(&mut buffer).await {
                Ok(0) => break Ok(()),
                Ok(length) => {
                    if let Err(error) = writer.write_all(&buffer[..length]).await {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        let _ = writer.shutdown().await;
        done
    };
    // When the pod has said all, nothing that the client still says can be answered.
    tokio::select! {
        done = outward => done.map_err(|e| e.to_string()),
        Err(error) = inward => Err(error.to_string()),
    }
}

/// Serves plain channels: for the i-th port, 2i carries data and 2i+1 errors; each begins with the port's two bytes.
async fn serve_websocket<T>(io: T, ports: Vec<u16>, pod: &str, dial: Dial)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut inputs = BTreeMap::new();
    let mut readers = Vec::new();
    for (index, port) in ports.into_iter().take(100).enumerate() {
        let (sender, receiver) = mpsc::channel(16);
        inputs.insert(2 * index as u8, sender);
        readers.push((2 * index as u8, port, ChannelReader::new(receiver)));
    }
    let mut channels = Channels::new(websocket::accept(io).await, false, false, inputs);
    let mut forwards = JoinSet::new();
    for (channel, port, reader) in readers {
        let named = Bytes::copy_from_slice(&port.to_le_bytes());
        channels.send(channel, named.clone()).await;
        channels.send(channel + 1, named).await;
        let (writer, mut errors) = (channels.writer(channel), channels.writer(channel + 1));
        let (dial, pod) = (dial.clone(), pod.to_owned());
        forwards.spawn(async move {
            if let Err(cause) = forward(reader, writer, port, &dial).await {
                let _ = errors.write_all(failure(port, &pod, &cause).as_bytes()).await;
            }
        });
    }
    let all = async { while forwards.join_next().await.is_some() {} };
    tokio::select! {
        () = all => {}
        () = channels.closed() => return,
    }
    channels.finish().await;
}

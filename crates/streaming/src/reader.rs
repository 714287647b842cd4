//! Bytes that only go to the client, over a WebSocket: a log in a browser
//! (`k8s.io/apimachinery/pkg/util/httpstream/wsstream`, its `Reader`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt, Stream, StreamExt};
use http::Request;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::upgrade::{self, Answer};
use crate::websocket;

const BASE64: &str = "base64.binary.k8s.io";
const PROTOCOLS: [&str; 2] = ["binary.k8s.io", BASE64];

/// Answers a WebSocket request with `pieces` as messages, and closes when they end. What the client says is passed over.
pub fn reader<B>(mut request: Request<B>, pieces: impl Stream<Item = Bytes> + Send + 'static) -> Answer {
    let headers = request.headers();
    let negotiated = upgrade::websocket_protocol(headers, &PROTOCOLS)
        .and_then(|protocol| Ok((protocol, upgrade::websocket_answer(headers, protocol)?)));
    let (protocol, answer) = match negotiated {
        Ok(negotiated) => negotiated,
        Err(refusal) => return *refusal,
    };
    let promise = upgrade::promise(&mut request);
    tokio::spawn(async move {
        let Some(io) = upgrade::take_over(promise).await else { return };
        let (mut sink, mut stream) = websocket::accept(io).await.split();
        let message = |piece: Bytes| match protocol {
            BASE64 => Message::text(STANDARD.encode(piece)),
            _ => Message::Binary(piece),
        };
        let send = async {
            // An empty message tells the client that the connection stands.
            let pieces = futures_util::stream::iter([Bytes::new()]).chain(pieces);
            let mut pieces = std::pin::pin!(pieces);
            while let Some(piece) = pieces.next().await {
                if sink.send(message(piece)).await.is_err() {
                    return;
                }
            }
            let _ = sink.send(websocket::goodbye()).await;
        };
        let gone = async { while let Some(Ok(_)) = stream.next().await {} };
        tokio::select! {
            () = send => {
                // The client answers the goodbye; it is given a moment to.
                let _ = tokio::time::timeout(websocket::LINGER, async { while let Some(Ok(_)) = stream.next().await {} }).await;
            }
            () = gone => {}
        }
    });
    answer
}

//! One HTTP/1.1 exchange on a connection of its own, with bodies streamed both ways and upgrades relayed.

use http::header::{HOST, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kybern_apiserver::Body;
use kybern_apiserver::forward::take_hop_by_hop;
use kybern_apiserver::held::Held;
use kybern_streaming::{relay, upgrade};
use tokio::io::{AsyncRead, AsyncWrite};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Sends `request`, whose headers are fit to be passed on, on a fresh connection; `host` is the name that the other side
/// sees. When the other side switches protocols, what both say afterwards is relayed
/// until either ends; as long is what the request holds kept, if it is among its extensions.
pub(crate) async fn exchange<S>(stream: S, host: &str, mut request: Request<Body>) -> Result<Response<Body>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let held = request.extensions_mut().remove::<Held>();
    let client = request.headers().contains_key(UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let transport = upgrade::transport(request.headers());
    let mut response = send(stream, host, request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = client else { return Err("the backend switched protocols unasked".into()) };
        let backend = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let _held = held;
            // The client's half is there once the server has sent it the 101 below.
            match tokio::try_join!(client, backend) {
                Ok((client, backend)) => {
                    let (client, backend) = (TokioIo::new(client), TokioIo::new(backend));
                    if let Err(error) = relay(client, backend, transport).await {
                        tracing::debug!(%error, "a relayed stream ended");
                    }
                }
                Err(error) => tracing::debug!(%error, "an upgrade failed"),
            }
        });
    } else {
        take_hop_by_hop(response.headers_mut());
    }
    Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
}

/// What became of a request to switch protocols.
pub(super) enum Switched {
    To(TokioIo<Upgraded>),
    Not(Response<Body>),
}

/// Sends a request of this server's own to switch protocols.
pub(super) async fn switch<S>(stream: S, host: &str, request: Request<Body>) -> Result<Switched, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let response = send(stream, host, request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Switched::To(TokioIo::new(hyper::upgrade::on(response).await?)));
    }
    Ok(Switched::Not(response.map(|body| body.map_err(Into::into).boxed_unsync())))
}

async fn send<S>(stream: S, host: &str, mut request: Request<Body>) -> Result<Response<Incoming>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    request.headers_mut().insert(HOST, host.parse()?);
    *request.version_mut() = http::Version::HTTP_11;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    Ok(sender.send_request(request).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::header::CONNECTION;
    use hyper::server::conn::http1 as server;
    use hyper::service::service_fn;
    use kybern_apiserver::body;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// Runs `exchange` as the middle of client, proxy and backend, all in memory.
    async fn through_proxy(request: &'static [u8]) -> tokio::io::DuplexStream {
        let (mut client, front) = duplex(4096);
        let proxy = service_fn(|request: Request<hyper::body::Incoming>| async move {
            let (near, far) = duplex(4096);
            let backend = service_fn(|mut request: Request<hyper::body::Incoming>| async move {
                if request.headers().contains_key(UPGRADE) {
                    let upgrade = hyper::upgrade::on(&mut request);
                    tokio::spawn(async move {
                        let mut io = TokioIo::new(upgrade.await.unwrap());
                        let mut four = [0; 4];
                        io.read_exact(&mut four).await.unwrap();
                        four.reverse();
                        io.write_all(&four).await.unwrap();
                    });
                    let mut response = Response::new(body::empty());
                    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                    response.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
                    response.headers_mut().insert(UPGRADE, http::HeaderValue::from_static("test"));
                    return Ok::<_, std::convert::Infallible>(response);
                }
                let host = request.headers()[HOST].to_str().unwrap().to_owned();
                Ok(Response::new(body::full(Bytes::from(format!("{} {host}", request.uri())))))
            });
            tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(far), backend).with_upgrades());
            exchange(near, "backend:80", request.map(|b| b.map_err(Into::into).boxed_unsync())).await
        });
        tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(front), proxy).with_upgrades());
        client.write_all(request).await.unwrap();
        client
    }

    async fn read_until(stream: &mut tokio::io::DuplexStream, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            text.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn a_request_is_passed_on() {
        let mut client = through_proxy(b"GET /a?b HTTP/1.1\r\nHost: front\r\n\r\n").await;
        let answer = read_until(&mut client, "/a?b backend:80").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }

    #[tokio::test]
    async fn an_upgrade_is_relayed_both_ways() {
        let mut client =
            through_proxy(b"GET / HTTP/1.1\r\nHost: front\r\nConnection: Upgrade\r\nUpgrade: test\r\n\r\n").await;
        let answer = read_until(&mut client, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        client.write_all(b"abcd").await.unwrap();
        assert_eq!(read_until(&mut client, "dcba").await, "dcba");
    }
}

//! The gRPC health check (`grpc.health.v1.Health/Check`), written by hand: one message each way.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

const SERVING: u8 = 1;
const MAX_MESSAGE: usize = 4096;

/// Asks whether `service` (empty: the whole server) is serving.
pub async fn check(ip: &str, port: u16, service: &str, user_agent: &str, timeout: Duration) -> Result<(), String> {
    let authority = if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
    let end = tokio::time::Instant::now() + timeout;
    let seconds = timeout.as_secs();
    let stream = match tokio::time::timeout_at(end, TcpStream::connect((ip, port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let cause = super::http::dial_error(&error);
            return Err(format!("error: failed to connect service at {authority:?}: {cause}"));
        }
        Err(_) => {
            return Err(format!(
                "timeout: failed to connect service {authority:?} within {seconds}s: context deadline exceeded"
            ));
        }
    };
    match tokio::time::timeout_at(end, ask(stream, &authority, service, user_agent)).await {
        Ok(done) => done,
        Err(_) => Err(format!("timeout: health rpc did not complete within {seconds}s")),
    }
}

/// The names of gRPC's status codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

fn code_name(code: &str) -> String {
    let name = code.parse().ok().and_then(|number: usize| CODES.get(number));
    name.map_or_else(|| format!("Code({code})"), |name| (*name).to_owned())
}

async fn ask(stream: TcpStream, authority: &str, service: &str, user_agent: &str) -> Result<(), String> {
    let failed = |e: hyper::Error| format!("failed to check health of {authority:?}: {e}");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(failed)?;
    let request = http::Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", user_agent)
        .body(Full::new(request_message(service)))
        .map_err(|e| e.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status_in = |headers: &http::HeaderMap| {
            let code = headers.get("grpc-status").and_then(|v| v.to_str().ok()).map(str::to_owned);
            let text = headers.get("grpc-message").and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
            code.map(|code| (code, text))
        };
        let early = status_in(response.headers());
        let collected = Limited::new(response.into_body(), MAX_MESSAGE).collect().await.map_err(|e| e.to_string())?;
        let status = collected.trailers().and_then(status_in).or(early);
        match status {
            Some((code, text)) if code == "12" => Err(format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {text}"
            )),
            Some((code, text)) if code != "0" => {
                let code = code_name(&code);
                Err(format!("error: health rpc failed: rpc error: code = {code} desc = {text}"))
            }
            _ => match serving_status(&collected.to_bytes()) {
                SERVING => Ok(()),
                status => Err(format!("service unhealthy (responded with {:?})", status_name(status))),
            },
        }
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        done = &mut exchange => done,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(e) => Err(failed(e)),
        },
    }
}

/// `HealthCheckRequest { string service = 1 }` in gRPC's frame.
fn request_message(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(&message);
    frame.freeze()
}

/// `HealthCheckResponse { ServingStatus status = 1 }`; absent is 0.
fn serving_status(frame: &[u8]) -> u8 {
    match frame.get(5..) {
        Some([0x08, status, ..]) => *status,
        _ => 0,
    }
}

fn status_name(status: u8) -> &'static str {
    match status {
        1 => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::combinators::BoxBody;
    use hyper::body::Incoming;

    use super::*;

    type Answer = BoxBody<Bytes, Infallible>;

    #[test]
    fn messages() {
        assert_eq!(&request_message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request_message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 0x08, 2]), 2);
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), 0);
    }

    /// A health service that knows `up` and `down`, and trailers or not.
    async fn answer(request: http::Request<Incoming>) -> Result<http::Response<Answer>, Infallible> {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        let reply = |message: &'static [u8], code: &'static str| {
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static(code));
            let body = Full::new(Bytes::from_static(message)).with_trailers(std::future::ready(Some(Ok(trailers))));
            http::Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap()
        };
        Ok(match asked.get(7..).unwrap_or(b"") {
            b"" | b"up" => reply(&[0, 0, 0, 0, 2, 0x08, 1], "0"),
            b"down" => reply(&[0, 0, 0, 0, 2, 0x08, 2], "0"),
            b"none" => reply(&[], "12"),
            _ => reply(&[], "5"),
        })
    }

    #[tokio::test]
    async fn answers_of_a_server() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer)));
            }
        });
        for (service, expect) in [
            ("", Ok(())),
            ("up", Ok(())),
            ("down", Err("service unhealthy (responded with \"NOT_SERVING\")")),
            ("none", Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): ")),
            ("other", Err("error: health rpc failed: rpc error: code = NotFound desc = ")),
        ] {
            let got = check("127.0.0.1", port, service, "test", Duration::from_secs(5)).await;
            assert_eq!(got, expect.map_err(str::to_owned), "{service}");
        }
    }
}

//! `testapp connect` and `testapp fetch`.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const BODY_MAX: usize = 16 << 20;

#[derive(Debug, Args)]
pub(super) struct Connect {
    /// HOST:PORT.
    address: String,
    /// Seconds.
    #[arg(long, default_value_t = 5)]
    timeout: u64,
}

#[derive(Debug, Args)]
pub(super) struct Fetch {
    /// An http:// URL.
    url: String,
    /// How often.
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Seconds for each.
    #[arg(long, default_value_t = 5)]
    timeout: u64,
}

pub(super) async fn connect(options: Connect) -> Result<()> {
    let dialing = TcpStream::connect(&options.address);
    match tokio::time::timeout(Duration::from_secs(options.timeout), dialing).await {
        Ok(Ok(stream)) => println!("connected to {} from {}", options.address, stream.local_addr()?),
        Ok(Err(e)) => bail!("cannot connect to {}: {e}", options.address),
        Err(_) => bail!("cannot connect to {}: TIMEOUT after {} s", options.address, options.timeout),
    }
    Ok(())
}

pub(super) async fn fetch_and_print(options: Fetch) -> Result<()> {
    for _ in 0..options.count {
        let (status, body) = http_get(&options.url, Duration::from_secs(options.timeout)).await?;
        println!("{}", String::from_utf8_lossy(&body).trim_end());
        if !status.is_success() {
            bail!("{} answered {status}", options.url);
        }
    }
    Ok(())
}

/// One GET of an `http://` URL on a connection of its own.
pub(crate) async fn http_get(url: &str, timeout: Duration) -> Result<(StatusCode, Bytes)> {
    let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
    if uri.scheme_str() != Some("http") {
        bail!("{url:?}: only http:// URLs can be fetched");
    }
    let host = uri.host().ok_or_else(|| anyhow!("{url:?} names no host"))?.to_owned();
    let port = uri.port_u16().unwrap_or(80);
    let exchange = async {
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driving = tokio::spawn(connection);
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let request = Request::get(path).header("host", format!("{host}:{port}")).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await.map_err(|e| anyhow!(e))?.to_bytes();
        driving.abort();
        anyhow::Ok((status, body))
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(result) => result.with_context(|| format!("cannot fetch {url}")),
        Err(_) => bail!("cannot fetch {url}: no answer within {} s", timeout.as_secs()),
    }
}

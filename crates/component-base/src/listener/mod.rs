//! What stands between a listening socket and a server: who may hold how many connections, for how long, and doing what.
//!
//! A connection is *unproven* until somebody is known to be at its other end: a verified client certificate, or a request
//! that was authenticated. Unproven ones are few, in total and from one address, and the oldest gives way to the newest, so
//! that whoever can prove itself within a moment is served however many others hang on. Proven ones are bounded in total
//! only. Each bound is in [`Limits`], and each connection that was cut is counted by its reason.

mod frames;
mod http;
mod metrics;
mod slots;
mod stall;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use http::{Protocol, serve};
pub use metrics::{register, text};
pub use slots::Slot;
use slots::Slots;
pub use stall::Guarded;

/// Bounds of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of which somebody is known to be at the other end; more are refused.
    pub proven: usize,
    /// Connections of which nobody is known; for one more the oldest is cut.
    pub unproven: usize,
    /// Of these from one address (of IPv6 from one /64), the loopback excepted, which everybody on the node shares.
    pub per_address: usize,
    /// How long the TLS handshake may take.
    pub handshake: Duration,
    /// How long the head of a request may take; over HTTP/1 also how long a connection may idle between two.
    pub head: Duration,
    /// How long an unproven client may leave unread what it is sent.
    pub unread: Duration,
}

impl Limits {
    /// For what clients of a whole cluster connect to.
    pub const SERVER: Self = Self {
        proven: 8192,
        unproven: 512,
        per_address: 128,
        handshake: Duration::from_secs(10),
        head: Duration::from_secs(32),
        unread: Duration::from_secs(30),
    };
    /// For health and metrics, where nobody proves anything.
    pub const HEALTH: Self = Self {
        proven: 0,
        unproven: 64,
        per_address: 16,
        handshake: Duration::from_secs(10),
        head: Duration::from_secs(10),
        unread: Duration::from_secs(10),
    };
}

/// A listening socket under [`Limits`].
pub struct Listener {
    tcp: TcpListener,
    slots: Slots,
}

/// A stream that is counted, and cut when its time is over.
pub type Stream = Guarded<TcpStream>;

impl Listener {
    /// `name` is the listener's in metrics.
    pub fn new(tcp: TcpListener, name: &'static str, limits: Limits) -> Self {
        Self { tcp, slots: Slots::new(name, limits) }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The next connection that there is room for. Must not be cancelled by what it waits for.
    pub async fn accept(&self) -> (Stream, SocketAddr, Slot) {
        loop {
            match self.tcp.accept().await {
                Ok((stream, address)) => {
                    if let Some(slot) = self.slots.admit(address.ip()) {
                        let _ = stream.set_nodelay(true);
                        return (Guarded::new(stream, slot.clone()), address, slot);
                    }
                }
                Err(error) => {
                    // Out of file descriptors, mostly: at once again would be a busy loop.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Shakes hands within the time and the room that the listener gives. A client with a certificate is proven by it.
pub async fn handshake(stream: Stream, tls: Arc<ServerConfig>, slot: &Slot) -> Result<TlsStream<Stream>, String> {
    let accept = TlsAcceptor::from(tls).accept(stream);
    let stream = tokio::select! {
        biased;
        () = slot.evicted() => return Err("it had to give way to younger connections".to_owned()),
        accepted = tokio::time::timeout(slot.limits().handshake, accept) => match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(format!("the TLS handshake failed: {error}")),
            Err(_) => {
                slot.cut("handshake");
                return Err("the TLS handshake took too long".to_owned());
            }
        },
    };
    if stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty()) {
        slot.prove();
    }
    Ok(stream)
}

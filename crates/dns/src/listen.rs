//! The sockets of one port. The server behind them may be exchanged while they stay open.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::server::{PortServer, Source, Step};

/// Tasks that read the UDP socket.
const UDP_READERS: usize = 2;
/// Queries that wait for other servers at once; more are dropped, and their clients ask again.
const MAX_WAITING: usize = 8192;
const MAX_CONNECTIONS: usize = 1024;
const TCP_IDLE: Duration = Duration::from_secs(10);
const MAX_QUERY: usize = 4096;

/// An open port; closes when dropped.
pub(crate) struct Port {
    pub(crate) server: Arc<ArcSwap<PortServer>>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Port {
    /// Opens a port for both families, or for IPv4 where there is no other.
    pub(crate) async fn open(port: u16, server: Arc<PortServer>) -> io::Result<Self> {
        let (udp, tcp) = match bind((Ipv6Addr::UNSPECIFIED, port).into()).await {
            Ok(sockets) => sockets,
            Err(_) => bind((Ipv4Addr::UNSPECIFIED, port).into()).await?,
        };
        let server = Arc::new(ArcSwap::new(server));
        let udp = Arc::new(udp);
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        let mut tasks: Vec<AbortHandle> = (0..UDP_READERS)
            .map(|_| tokio::spawn(serve_udp(udp.clone(), server.clone(), waiting.clone())).abort_handle())
            .collect();
        tasks.push(tokio::spawn(serve_tcp(tcp, server.clone())).abort_handle());
        Ok(Self { server, tasks })
    }
}

async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let tcp = TcpListener::bind(address).await?;
    let udp = UdpSocket::bind(tcp.local_addr()?).await?;
    Ok((udp, tcp))
}

async fn serve_udp(socket: Arc<UdpSocket>, server: Arc<ArcSwap<PortServer>>, waiting: Arc<Semaphore>) {
    let mut buffer = [0; MAX_QUERY];
    loop {
        // An error belongs to an earlier send (a client that has gone), not to the socket.
        let Ok((len, address)) = socket.recv_from(&mut buffer).await else { continue };
        match server.load().handle(&buffer[..len], Source { address, over_tcp: false }) {
            Step::Ignore => {}
            Step::Reply(reply) => {
                let _ = socket.send_to(&reply, address).await;
            }
            Step::Wait(pending) => {
                let Ok(slot) = waiting.clone().try_acquire_owned() else { continue };
                let socket = socket.clone();
                tokio::spawn(async move {
                    let reply = pending.reply().await;
                    let _ = socket.send_to(&reply, address).await;
                    drop(slot);
                });
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, server: Arc<ArcSwap<PortServer>>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("never closed");
        match listener.accept().await {
            Ok((stream, address)) => {
                let server = server.clone();
                tokio::spawn(async move {
                    // A connection that breaks is its client's concern.
                    let _ = serve_connection(stream, address, &server).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a DNS connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(mut stream: TcpStream, address: SocketAddr, server: &ArcSwap<PortServer>) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let Ok(len) = timeout(TCP_IDLE, stream.read_u16()).await else { return Ok(()) };
        buffer.resize(usize::from(len?), 0);
        timeout(TCP_IDLE, stream.read_exact(&mut buffer)).await??;
        let step = server.load().handle(&buffer, Source { address, over_tcp: true });
        let reply = match step {
            Step::Ignore => return Ok(()),
            Step::Reply(reply) => reply,
            Step::Wait(pending) => pending.reply().await,
        };
        let mut framed = (reply.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(&reply);
        timeout(TCP_IDLE, stream.write_all(&framed)).await??;
    }
}

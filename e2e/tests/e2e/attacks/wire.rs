//! Connections below HTTP: half of them, slow ones, and such that never end.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kybern_e2e::Cluster;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

pub(super) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Runs in a thread whose sockets are of another network namespace.
pub(super) fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let netns = std::fs::File::open(netns).expect("the namespace is there");
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A TCP connection to a port of the node.
pub(super) fn plain(port: u16) -> TcpStream {
    let address = format!("{}:{port}", Cluster::get().node_ip).parse().expect("an address");
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(20)).expect("the port is open");
    stream.set_nodelay(true).expect("an option of TCP");
    stream.set_write_timeout(Some(Duration::from_secs(20))).expect("an option of sockets");
    stream
}

/// A TLS connection that speaks `protocol`.
pub(super) fn tls(port: u16, protocol: &str) -> Tls {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(super::caller::pki("ca.crt")).expect("the cluster's authority");
    roots.add(ca).expect("an authority");
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let name = Cluster::get().node_ip.clone().try_into().expect("an address");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut stream = StreamOwned::new(connection, plain(port));
    stream.flush().expect("a handshake");
    stream
}

/// How long the other end leaves a connection open on which nothing more is said; at most `limit`.
pub(super) fn open_for(mut stream: TcpStream, limit: Duration) -> Duration {
    let began = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("an option of sockets");
    while began.elapsed() < limit {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    began.elapsed()
}

/// Reads what has come, without waiting for more; `false` when the other end has closed.
pub(super) fn take_what_came(stream: &mut Tls) -> bool {
    stream.sock.set_read_timeout(Some(Duration::from_millis(1))).expect("an option of sockets");
    match stream.read(&mut [0; 64 << 10]) {
        Ok(length) => length > 0,
        Err(e) => matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// Writes `piece` again and again until the connection is cut or `limit` bytes are taken; how many were.
pub(super) fn pour(stream: &mut Tls, limit: usize, mut piece: impl FnMut(usize) -> Vec<u8>) -> usize {
    let mut sent = 0;
    for number in 0.. {
        let piece = piece(number);
        let written = stream.write_all(&piece).and_then(|()| stream.flush());
        if written.is_err() || !take_what_came(stream) {
            break;
        }
        sent += piece.len();
        if sent >= limit {
            break;
        }
    }
    sent
}

/// An HTTP/2 frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&[a, b, c, kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

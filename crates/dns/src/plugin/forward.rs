//! `forward`: asks other servers. Each question goes from a port and with an id of its own, so that answers are hard to forge.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::message::{Query, answers};
use crate::name::{Name, strip_zone};

/// One server has this long to answer.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// All attempts together.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a server that has failed too often is left alone.
const REST: Duration = Duration::from_secs(5);
/// Questions under way at once where the Corefile sets no lower bound.
pub const DEFAULT_MAX_CONCURRENT: usize = 4096;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    Random,
    RoundRobin,
    Sequential,
}

/// The options of `forward`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub from: Name,
    pub to: Vec<SocketAddr>,
    pub except: Vec<Name>,
    pub order: Order,
    pub max_concurrent: usize,
    /// Failures in a row after which a server rests; 0: never.
    pub max_fails: u32,
    pub force_tcp: bool,
    pub prefer_udp: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("concurrent queries exceeded maximum {0}")]
    TooMany(usize),
    #[error("no answer from {server}: {cause}")]
    Failed { server: SocketAddr, cause: std::io::Error },
    #[error("no healthy proxies")]
    NoServers,
}

struct Upstream {
    address: SocketAddr,
    fails: AtomicU32,
    /// Milliseconds since the start at which its rest ends.
    rests_until: AtomicU64,
}

pub struct Forward {
    options: Options,
    upstreams: Vec<Upstream>,
    turn: AtomicUsize,
    under_way: Semaphore,
    start: Instant,
}

impl Forward {
    pub fn new(options: Options) -> Self {
        let upstreams = options
            .to
            .iter()
            .map(|address| Upstream { address: *address, fails: AtomicU32::new(0), rests_until: AtomicU64::new(0) })
            .collect();
        let under_way = Semaphore::new(options.max_concurrent);
        Self { upstreams, turn: AtomicUsize::new(0), under_way, start: Instant::now(), options }
    }

    pub fn zone(&self) -> &Name {
        &self.options.from
    }

    /// Whether a name is to be asked for here.
    pub fn covers(&self, name: &[u8]) -> bool {
        strip_zone(name, self.options.from.as_wire()).is_some()
            && !self.options.except.iter().any(|zone| strip_zone(name, zone.as_wire()).is_some())
    }

    /// Asks until a server answers or time is up. The answer still has another id.
    pub async fn resolve(&self, query: &Query, over_tcp: bool) -> Result<Vec<u8>, ForwardError> {
        let Ok(_slot) = self.under_way.try_acquire() else {
            return Err(ForwardError::TooMany(self.options.max_concurrent));
        };
        let over_tcp = self.options.force_tcp || over_tcp && !self.options.prefer_udp;
        let deadline = Instant::now() + DEADLINE;
        let mut last = ForwardError::NoServers;
        for upstream in self.order() {
            let left = deadline.saturating_duration_since(Instant::now()).min(READ_TIMEOUT);
            if left.is_zero() {
                break;
            }
            let exchange = async {
                if over_tcp { ask_tcp(upstream.address, query).await } else { ask_udp(upstream.address, query).await }
            };
            match timeout(left, exchange).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
                Ok(answer) => {
                    upstream.fails.store(0, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(cause) => {
                    let fails = upstream.fails.fetch_add(1, Ordering::Relaxed) + 1;
                    if self.options.max_fails > 0 && fails >= self.options.max_fails {
                        let until = self.start.elapsed() + REST;
                        upstream.rests_until.store(until.as_millis() as u64, Ordering::Relaxed);
                    }
                    last = ForwardError::Failed { server: upstream.address, cause };
                }
            }
        }
        Err(last)
    }

    /// The servers in the order to ask them: those that rest come last, for when all do.
    fn order(&self) -> Vec<&Upstream> {
        let count = self.upstreams.len().max(1);
        let first = match self.options.order {
            Order::Sequential => 0,
            Order::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed) % count,
            Order::Random => usize::from(random_u16()) % count,
        };
        let now = self.start.elapsed().as_millis() as u64;
        let all = || self.upstreams.iter().cycle().skip(first).take(self.upstreams.len());
        let rests = |upstream: &&Upstream| upstream.rests_until.load(Ordering::Relaxed) > now;
        // A lone server is asked twice: one lost datagram is no outage.
        let again = all().take(usize::from(count == 1));
        all().filter(|u| !rests(u)).chain(all().filter(rests)).chain(again).collect()
    }
}

fn random_u16() -> u16 {
    let mut bytes = [0; 2];
    // Without the system's random numbers there is no id that is safe to use, and nothing else on the system works either.
    getrandom::fill(&mut bytes).expect("the kernel has random numbers");
    u16::from_ne_bytes(bytes)
}

async fn ask_udp(server: SocketAddr, query: &Query) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id = random_u16();
    socket.send(&query.encode(id)).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let len = socket.recv(&mut buffer).await?;
        // Anything else is a forgery or late; the true answer may still come.
        if answers(&buffer[..len], query, id) {
            buffer.truncate(len);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &Query) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let id = random_u16();
    let message = query.encode(id);
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(&message);
    stream.write_all(&framed).await?;
    let len = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(len)];
    stream.read_exact(&mut answer).await?;
    if answers(&answer, query, id) {
        Ok(answer)
    } else {
        Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the answer does not belong to the question"))
    }
}

/// The name servers of a file in the format of `resolv.conf`.
pub fn name_servers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.split_whitespace().next())
        .filter_map(|ip| ip.split('%').next()?.parse::<IpAddr>().ok())
        .map(|ip| (ip, 53).into())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Answer, Owner, RData, Record, encode, parse_query, rtype};

    fn options(to: Vec<SocketAddr>) -> Options {
        Options {
            from: Name::root(),
            to,
            except: vec![Name::parse("secret.test").unwrap()],
            order: Order::Sequential,
            max_concurrent: 10,
            max_fails: 2,
            force_tcp: false,
            prefer_udp: false,
        }
    }

    fn reply(bytes: &[u8], last_octet: u8) -> Vec<u8> {
        let query = parse_query(bytes).unwrap();
        let record = Record { owner: Owner::Question, ttl: 1, data: RData::Ip([10, 0, 0, last_octet].into()) };
        encode(&query, &Answer { answers: vec![record], ..Answer::default() }, true, 512)
    }

    async fn server(last_octet: u8) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                let mut forged = reply(&buffer[..len], 66);
                forged[0] ^= 1;
                socket.send_to(&forged, from).await.unwrap();
                socket.send_to(&reply(&buffer[..len], last_octet), from).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn a_dead_server_is_passed_over_and_forgeries_are_ignored() {
        // A bound socket that nobody reads would only time out; an unbound port refuses at once.
        let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let forward = Forward::new(options(vec![dead, server(7).await]));
        let query = Query::new(1, &Name::parse("a.test").unwrap(), rtype::A);
        for _ in 0..3 {
            assert_eq!(forward.resolve(&query, false).await.unwrap().last(), Some(&7));
        }
        assert_eq!(forward.order()[0].address, forward.upstreams[1].address, "the dead one rests");
        let none = Forward::new(options(vec![dead]));
        let error = none.resolve(&query, false).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("no answer from {dead}: ")), "{error}");
    }

    #[tokio::test]
    async fn the_number_under_way_is_bounded() {
        let mute = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut options = options(vec![mute.local_addr().unwrap()]);
        options.max_concurrent = 1;
        let forward = Forward::new(options);
        let query = Query::new(1, &Name::parse("a.test").unwrap(), rtype::A);
        let first = forward.resolve(&query, false);
        let second = async {
            // The first has begun when its datagram is here.
            mute.recv(&mut [0; 512]).await.unwrap();
            forward.resolve(&query, false).await
        };
        tokio::select! {
            _ = first => panic!("nobody answers"),
            second = second => assert!(matches!(second, Err(ForwardError::TooMany(1)))),
        }
    }

    #[test]
    fn zones_are_chosen() {
        let forward = Forward::new(options(Vec::new()));
        assert!(forward.covers(Name::parse("a.test").unwrap().as_wire()));
        assert!(!forward.covers(Name::parse("x.secret.test").unwrap().as_wire()));
    }

    #[test]
    fn resolv_conf_is_read() {
        let text = "# comment\nnameserver 1.1.1.1\nsearch a b\nnameserver fe80::1%eth0\nnameserver x\n";
        assert_eq!(name_servers(text), ["1.1.1.1:53".parse().unwrap(), "[fe80::1]:53".parse().unwrap()]);
    }
}

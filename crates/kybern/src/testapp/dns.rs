//! `testapp dns`: a resolver of its own, because a static binary has no NSS, and a test wants to see every record.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::net::UdpSocket;

#[derive(Debug, Args)]
pub(super) struct Lookup {
    /// The name; completed by the search list unless it ends in a dot.
    name: String,
    /// A, AAAA, SRV, PTR, CNAME, TXT …
    #[arg(long = "type", default_value = "A")]
    record: String,
    /// HOST:PORT of a server; by default the first of /etc/resolv.conf.
    #[arg(long)]
    server: Option<String>,
}

pub(super) async fn run(options: Lookup) -> Result<()> {
    let record: RecordType = options.record.parse().map_err(|_| anyhow!("{:?} is no record type", options.record))?;
    let config = ResolvConf::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let server: SocketAddr = match &options.server {
        Some(server) => server.parse().with_context(|| format!("{server:?} is not ADDRESS:PORT"))?,
        None => {
            let first = config.servers.first().context("/etc/resolv.conf names no server; pass --server")?;
            SocketAddr::new(*first, 53)
        }
    };
    let mut last = String::new();
    for name in config.candidates(&options.name) {
        let answer = query(server, &name, record).await?;
        let code = answer.metadata.response_code;
        if code == ResponseCode::NoError && !answer.answers.is_empty() {
            for record in &answer.answers {
                println!("{} {} {}", record.name, record.record_type(), record.data);
            }
            return Ok(());
        }
        last = format!("{name}: {code}, {} records", answer.answers.len());
    }
    bail!("{server} has no {record} record for {}: {last}", options.name)
}

/// Asks one server once for one name; resends after a second, five times.
pub(crate) async fn query(server: SocketAddr, name: &str, record: RecordType) -> Result<Message> {
    let name = Name::from_ascii(name).with_context(|| format!("{name:?} is no DNS name"))?;
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await?;
    socket.connect(server).await?;
    let id = u16::from_ne_bytes(std::process::id().to_ne_bytes()[..2].try_into().expect("two bytes"));
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, record));
    let bytes = message.to_vec()?;
    let mut buffer = vec![0; 4096];
    for _ in 0..5 {
        socket.send(&bytes).await?;
        if let Ok(received) = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await {
            let length = received.with_context(|| format!("no DNS server at {server}"))?;
            return Ok(Message::from_vec(&buffer[..length])?);
        }
    }
    bail!("DNS server {server} did not answer within 5 s")
}

/// The first IPv4 address of a name.
pub(crate) async fn lookup_address(server: SocketAddr, name: &str) -> Result<Option<IpAddr>> {
    let answer = query(server, name, RecordType::A).await?;
    Ok(answer.answers.iter().find_map(|record| record.data.ip_addr()))
}

#[derive(Debug, PartialEq, Eq)]
struct ResolvConf {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
}

impl ResolvConf {
    fn parse(text: &str) -> Self {
        let mut config = Self { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => config.servers.extend(words.next().and_then(|w| w.parse::<IpAddr>().ok())),
                Some("search" | "domain") => config.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let ndots =
                        words.filter_map(|w| w.strip_prefix("ndots:")).filter_map(|n| n.parse().ok()).next_back();
                    config.ndots = ndots.unwrap_or(config.ndots);
                }
                _ => {}
            }
        }
        config
    }

    /// The names to try, in resolv.conf(5)'s order.
    fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let absolute = format!("{name}.");
        let searched = self.search.iter().map(|suffix| format!("{name}.{}.", suffix.trim_end_matches('.')));
        if name.matches('.').count() >= self.ndots {
            std::iter::once(absolute).chain(searched).collect()
        } else {
            searched.chain(std::iter::once(format!("{name}."))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_list_and_ndots() {
        let config =
            ResolvConf::parse("nameserver 10.96.0.10\nsearch a.svc.cluster.local svc.cluster.local\noptions ndots:5\n");
        assert_eq!(config.servers, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
        assert_eq!(config.candidates("web"), ["web.a.svc.cluster.local.", "web.svc.cluster.local.", "web."]);
        assert_eq!(config.candidates("web."), ["web."]);
        let plain = ResolvConf::parse("search x\n");
        assert_eq!(plain.candidates("a.b"), ["a.b.", "a.b.x."]);
    }
}

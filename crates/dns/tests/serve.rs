//! The whole server over loopback: an API server that is a script, another name server, a Corefile that changes.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fake_api::FakeApi;
use kybern_client::Client;
use kybern_dns::message::{
    Answer, Owner, Query, RData, Record, after_question, answers, encode, parse_query, rcode, read_record, rtype,
};
use kybern_dns::name::Name;
use kybern_dns::{Config, RunError};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

#[path = "../../proxy/tests/fake_api/mod.rs"]
mod fake_api;

const TIMEOUT: Duration = Duration::from_secs(5);

/// A port that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A name server that knows `example.org` only, and counts.
async fn other_server() -> (SocketAddr, Arc<std::sync::atomic::AtomicU32>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counter = count.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let Ok(query) = parse_query(&buffer[..len]) else { continue };
            let known = query.name() == Name::parse("example.org").unwrap().as_wire() && query.qtype == rtype::A;
            let record = Record { owner: Owner::Question, ttl: 300, data: RData::Ip([192, 0, 2, 7].into()) };
            let answer = match known {
                true => Answer { answers: vec![record], ..Answer::default() },
                false => Answer::code(rcode::NXDOMAIN),
            };
            let _ = socket.send_to(&encode(&query, &answer, true, 512), from).await;
        }
    });
    (address, count)
}

struct Dns {
    port: u16,
    web: u16,
    corefile: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    running: tokio::task::JoinHandle<Result<(), RunError>>,
}

impl Dns {
    fn start(corefile: PathBuf, web: u16, api: &Arc<FakeApi>) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let port = free_port();
        let config = Config { corefile: corefile.clone(), port };
        let client = Client::new(api.clone());
        let running = tokio::spawn(kybern_dns::run(config, move || Ok(client.clone()), async {
            let _ = stopped.await;
        }));
        Self { port, web, corefile, stop: Some(stop), running }
    }

    async fn udp(&self, name: &str, qtype: u16) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(("127.0.0.1", self.port)).await.unwrap();
        let query = Query::new(5, &Name::parse(name).unwrap(), qtype);
        socket.send(&query.encode(5)).await.unwrap();
        let mut buffer = vec![0; 4096];
        let len = timeout(TIMEOUT, socket.recv(&mut buffer)).await.expect("an answer in time").unwrap();
        buffer.truncate(len);
        assert!(answers(&buffer, &query, 5));
        buffer
    }

    async fn tcp(&self, name: &str, qtype: u16) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let message = Query::new(6, &Name::parse(name).unwrap(), qtype).encode(6);
        stream.write_u16(message.len() as u16).await.unwrap();
        stream.write_all(&message).await.unwrap();
        let mut answer = vec![0; usize::from(timeout(TIMEOUT, stream.read_u16()).await.unwrap().unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, path: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.web)).await else { return String::new() };
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    async fn until(&self, what: &str, reached: impl AsyncFn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !reached(self).await {
            assert!(Instant::now() < deadline, "{what}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The addresses in an answer, and whether it was cut.
fn addresses(message: &[u8]) -> (Vec<IpAddr>, bool) {
    let mut at = after_question(message).unwrap();
    let mut found = Vec::new();
    for _ in 0..u16::from_be_bytes([message[6], message[7]]) {
        let record = read_record(message, at).unwrap();
        if record.kind == rtype::A {
            found.push(IpAddr::from(<[u8; 4]>::try_from(&message[record.data_at..record.end]).unwrap()));
        }
        at = record.end;
    }
    found.sort();
    (found, message[2] & 2 != 0)
}

fn service(name: &str, spec: serde_json::Value) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

#[tokio::test]
async fn names_are_served_and_follow_cluster_and_corefile() {
    let dir = tempfile::tempdir().unwrap();
    let (other, asked) = other_server().await;
    let api = Arc::new(FakeApi::default());
    api.put("namespaces", json!({"metadata": {"name": "default"}}));
    api.put("services", service("web", json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]})));
    api.put("services", service("many", json!({"clusterIP": "None"})));
    api.put("services", service("ext", json!({"type": "ExternalName", "externalName": "example.org"})));
    let endpoints: Vec<_> = (1..=60).map(|i| json!({"addresses": [format!("10.244.0.{i}")]})).collect();
    api.put(
        "endpointslices",
        json!({"metadata": {"name": "many-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "many"}},
            "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": endpoints}),
    );
    let web = free_port();
    let corefile = |extra: &str| {
        format!(
            ". {{\n errors\n health 127.0.0.1:{web}\n ready 127.0.0.1:{web}\n prometheus 127.0.0.1:{web}\n \
             kubernetes cluster.local in-addr.arpa {{\n pods insecure\n ttl 30\n }}\n forward . {other}\n cache 30\n reload\n {extra}\n}}\n"
        )
    };
    let path = dir.path().join("Corefile");
    std::fs::write(&path, corefile("")).unwrap();
    let mut dns = Dns::start(path, web, &api);
    dns.until("ready", async |dns| dns.get("/ready").await.starts_with("HTTP/1.1 200")).await;
    assert!(dns.get("/health").await.ends_with("OK"));

    let ip = |text: &str| -> Vec<IpAddr> { vec![text.parse().unwrap()] };
    let web_name = "web.default.svc.cluster.local";
    let reply = dns.udp(web_name, rtype::A).await;
    assert_eq!(addresses(&reply), (ip("10.96.0.7"), false));
    assert_eq!(reply[2] & 4, 4, "authoritative");
    assert_eq!(addresses(&dns.tcp(web_name, rtype::A).await), (ip("10.96.0.7"), false));
    let (some, cut) = addresses(&dns.udp("many.default.svc.cluster.local", rtype::A).await);
    assert!(cut && !some.is_empty() && some.len() < 60, "{}", some.len());
    assert_eq!(addresses(&dns.tcp("many.default.svc.cluster.local", rtype::A).await).0.len(), 60);

    // Other names are asked for once, and an alias out of the cluster leads to its address.
    assert_eq!(addresses(&dns.udp("example.org", rtype::A).await).0, ip("192.0.2.7"));
    assert_eq!(addresses(&dns.udp("EXAMPLE.org", rtype::A).await).0, ip("192.0.2.7"));
    assert_eq!(addresses(&dns.udp("ext.default.svc.cluster.local", rtype::A).await).0, ip("192.0.2.7"));
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(dns.udp("unknown.test", rtype::A).await[3] & 15, rcode::NXDOMAIN);

    // The cluster changes.
    assert_eq!(dns.udp("new.default.svc.cluster.local", rtype::A).await[3] & 15, rcode::NXDOMAIN);
    api.put("services", service("new", json!({"clusterIP": "10.96.0.8", "ports": [{"port": 80}]})));
    dns.until("a new service has a name", async |dns| {
        addresses(&dns.udp("new.default.svc.cluster.local", rtype::A).await).0 == ip("10.96.0.8")
    })
    .await;

    // The Corefile changes, for the better and for the worse.
    let write = |extra: &str| {
        let new = dns.corefile.with_extension("new");
        std::fs::write(&new, corefile(extra)).unwrap();
        std::fs::rename(new, &dns.corefile).unwrap();
    };
    write("hosts {\n 10.0.0.9 a.test\n fallthrough\n }\n");
    dns.until("a.test", async |dns| addresses(&dns.udp("a.test", rtype::A).await).0 == ip("10.0.0.9")).await;
    assert_eq!(addresses(&dns.udp(web_name, rtype::A).await).0, ip("10.96.0.7"));
    write("frobnicate\n");
    let failed = "coredns_reload_failed_total 1";
    dns.until("the failure is counted", async |dns| dns.get("/metrics").await.contains(failed)).await;
    assert_eq!(addresses(&dns.udp("a.test", rtype::A).await).0, ip("10.0.0.9"));

    let metrics = dns.get("/metrics").await;
    for line in [
        "coredns_dns_requests_total{",
        "coredns_dns_responses_total{",
        "coredns_cache_hits_total{",
        "coredns_cache_entries{",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    drop(dns.stop.take());
    timeout(TIMEOUT, &mut dns.running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_forwarding_loop_ends_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let corefile = dir.path().join("Corefile");
    // The port is chosen before the Corefile is read.
    let port = free_port();
    std::fs::write(&corefile, format!(".:{port} {{\n loop\n forward . 127.0.0.1:{port}\n}}\n")).unwrap();
    let api = Arc::new(FakeApi::default());
    let dns = Dns::start(corefile, 0, &api);
    let error = timeout(TIMEOUT, dns.running).await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("Loop detected for zone \".\""), "{error}");
}

#[tokio::test]
async fn a_bad_corefile_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let corefile = dir.path().join("Corefile");
    std::fs::write(&corefile, ". {\n nonsense\n}\n").unwrap();
    let dns = Dns::start(corefile.clone(), 0, &Arc::new(FakeApi::default()));
    let error = timeout(TIMEOUT, dns.running).await.unwrap().unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{}:2 - Error during parsing: Unknown directive 'nonsense'", corefile.display())
    );
}

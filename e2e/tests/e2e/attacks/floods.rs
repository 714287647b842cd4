//! Connections that hold on, and clients that never end, at the API server and at the kubelet: cut off and counted, while
//! others are served.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kybern_e2e::{Cluster, Namespace};
use serde_json::json;

use super::Server;
use super::caller::Caller;
use super::wire::{self, frame, inside, open_for, plain, pour};

const API: u16 = 6443;
const KUBELET: u16 = 10250;
const PORTS: [u16; 2] = [API, KUBELET];

/// Connections of each slow kind.
const SLOW: usize = 8;
/// Connections that say nothing: more than one address may hold.
const SILENT: usize = 300;
/// Above what the listeners give: a head 32 s, a handshake 10 s. The machine may be busy.
const PATIENCE: Duration = Duration::from_secs(50);

/// How many connections a listener has cut for a reason.
fn cut(listener: &str, reasons: &[&str]) -> u64 {
    let metrics = Caller::administrator().get("/metrics");
    let text = metrics.body.as_str().expect("a page of metrics").to_owned();
    let of = |line: &str| {
        let rest = line.strip_prefix("kybern_connections_cut_total{")?;
        let (labels, count) = rest.split_once("} ")?;
        let wanted = labels.contains(&format!("listener=\"{listener}\""))
            && reasons.iter().any(|reason| labels.contains(&format!("reason=\"{reason}\"")));
        if wanted { count.trim().parse::<f64>().ok() } else { None }
    };
    text.lines().filter_map(of).sum::<f64>() as u64
}

/// Begins a TLS handshake and never ends it.
fn half_a_handshake(port: u16) -> Duration {
    let mut stream = plain(port);
    stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1]).expect("it is open");
    open_for(stream, PATIENCE)
}

/// One line of a head a second.
fn slow_head(port: u16) -> Duration {
    let mut stream = wire::tls(port, "http/1.1");
    let began = Instant::now();
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n").expect("it is open");
    while began.elapsed() < PATIENCE {
        let written = stream.write_all(b"X-Slow: y\r\n").and_then(|()| stream.flush());
        if written.is_err() || !wire::take_what_came(&mut stream) {
            break;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    began.elapsed()
}

/// Nothing after the handshake; over HTTP/2 not even the preface.
fn silence(port: u16, protocol: &str) -> Duration {
    let stream = wire::tls(port, protocol);
    open_for(stream.sock, PATIENCE)
}

fn endless_head(port: u16) {
    for piece in ["X: y\r\n".repeat(1000), "x".repeat(16 << 10)] {
        let mut stream = wire::tls(port, "http/1.1");
        stream.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\nX: ").expect("it is open");
        let taken = pour(&mut stream, 16 << 20, |_| piece.clone().into_bytes());
        assert!(taken < 4 << 20, "port {port} took {taken} bytes of headers");
    }
}

/// Of somebody who may create, and of nobody.
fn endless_body(port: u16, path: &str, credential: &str) {
    let mut stream = wire::tls(port, "http/1.1");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{credential}Transfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it is open");
    let chunk = [b"10000\r\n", &[b' '; 0x10000][..], b"\r\n"].concat();
    let taken = pour(&mut stream, 64 << 20, |_| chunk.clone());
    assert!(taken < 32 << 20, "port {port} took {taken} bytes of a body for {path}");
}

type Frames = fn(u32) -> Vec<u8>;

/// `:method GET`, `:scheme https`, `:path /`, `:authority x`, as HPACK.
const HEAD: &[u8] = &[0x82, 0x87, 0x84, 0x41, 1, b'x'];

const FLOODS: [(&str, Frames); 4] = [
    ("ping", |_| frame(6, 0, 0, &[0; 8])),
    ("settings", |_| frame(4, 0, 0, &[])),
    ("rapid reset", |n| [frame(1, 5, 2 * n + 1, HEAD), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()),
    ("continuation", |n| if n == 0 { frame(1, 1, 1, HEAD) } else { frame(9, 0, 1, &[]) }),
];

fn flood_of_frames(name: &str, frames: Frames) {
    const ALL: u32 = 60_000;
    const BATCH: u32 = 100;
    let mut stream = wire::tls(API, "h2");
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("it is open");
    stream.write_all(&frame(4, 0, 0, &[])).expect("it is open");
    let all: usize = (0..ALL).map(|n| frames(n).len()).sum();
    let taken = pour(&mut stream, all, |batch| {
        let first = u32::try_from(batch).expect("few batches") * BATCH;
        (first..first + BATCH).flat_map(frames).collect()
    });
    assert!(taken < all / 2, "{name}: {taken} bytes of {all} were taken");
}

/// Asks both servers until told to stop; how often.
fn others(namespace: &Namespace, done: &AtomicBool) -> u32 {
    let reader = Caller::with_role(namespace, "reader", "view");
    let path = format!("/api/v1/namespaces/{}/configmaps", namespace.name);
    let mut served = 0;
    while !done.load(Ordering::Acquire) {
        let (listed, healthy) = (reader.get(&path), Caller::administrator().ask_kubelet("GET", "/healthz"));
        assert_eq!((listed.code, healthy.code), (200, 200), "others are not served: {listed:?} {healthy:?}");
        served += 1;
        std::thread::sleep(Duration::from_millis(200));
    }
    served
}

/// Lets the others stop, also when the test fails before.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn who_holds_on_is_cut_and_others_are_served() {
    let cluster = Cluster::get();
    let server = Server::now();
    let namespace = cluster.namespace("floods");
    let eve = Caller::with_role(&namespace, "eve", "edit");
    let token = namespace.run(&["create", "token", "eve"]).ok();
    let counts = || {
        ["apiserver", "kubelet"].map(|listener| {
            [&["handshake"][..], &["silent", "head"], &["address"]].map(|reasons| cut(listener, reasons))
        })
    };
    let (before, floods_before) = (counts(), cut("apiserver", &["flood"]));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = Stop(&done);
        let served = scope.spawn(|| others(&namespace, &done));
        // The slow ones come from the node's own address, so that the silent ones from beside it do not push them out.
        let mut slow = Vec::new();
        for port in PORTS {
            for _ in 0..SLOW {
                slow.push((
                    "half a handshake",
                    scope.spawn(move || inside(&cluster.node_netns, || half_a_handshake(port))),
                ));
                slow.push(("a slow head", scope.spawn(move || inside(&cluster.node_netns, || slow_head(port)))));
                slow.push(("silence", scope.spawn(move || inside(&cluster.node_netns, || silence(port, "http/1.1")))));
            }
        }
        slow.push(("no preface", scope.spawn(|| inside(&cluster.node_netns, || silence(API, "h2")))));

        inside(&cluster.lan_netns, || {
            for port in PORTS {
                endless_head(port);
            }
            let credential = format!("Authorization: Bearer {}\r\n", token.trim());
            let maps = format!("/api/v1/namespaces/{}/configmaps", namespace.name);
            endless_body(API, &maps, &credential);
            endless_body(API, &maps, "");
            endless_body(KUBELET, "/run/default/x/y", "");
            for (name, frames) in FLOODS {
                flood_of_frames(name, frames);
            }
            // More connections than one address may hold; whoever has a credential comes in all the same.
            let silent: Vec<_> = PORTS.iter().flat_map(|port| (0..SILENT).map(|_| plain(*port))).collect();
            let answer = eve.get_from_lan(&maps);
            assert_eq!(answer.code, 200, "{answer:?}");
            drop(silent);
        });
        for (what, thread) in slow {
            let open = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            assert!(open < PATIENCE, "{what} was let be for {open:?}");
        }
        drop(stop);
        let served = served.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(served > 5, "others were served {served} times");
    });
    let after = counts();
    for (listener, (before, after)) in ["apiserver", "kubelet"].iter().zip(before.iter().zip(after)) {
        let [handshakes, slow, crowd] = [0, 1, 2].map(|i| after[i] - before[i]);
        assert!(handshakes >= SLOW as u64, "{listener}: {handshakes} half handshakes were counted");
        assert!(slow >= 2 * SLOW as u64, "{listener}: {slow} slow clients were counted");
        assert!(crowd >= 100, "{listener}: {crowd} of too many from one address were counted");
    }
    let floods = cut("apiserver", &["flood"]) - floods_before;
    assert!(floods >= 2, "{floods} floods were counted");
    eve.makes(&format!("/api/v1/namespaces/{}/configmaps", namespace.name), &json!({"metadata": {"name": "after"}}));
    server.lives();
}

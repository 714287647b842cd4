//! API servers on etcd: two that are one API, and one whose etcd goes and comes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::BodyExt;
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::body;
use kybern_storage::Storage;
use kybern_storage::etcd::{Etcd, Options, TlsFiles};
use kybern_testbed::EtcdServer;

use crate::harness::{Cluster, admin};
use crate::quotas::two_servers_share_a_quota;
use crate::service_claims::two_servers_share_addresses;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const RANGE: &str = "10.96.0.0/24";
/// How long a call waits for an etcd; upstream's is longer than a test.
const TIMEOUT: Duration = Duration::from_secs(2);

fn options(server: &EtcdServer) -> Options {
    let mut options = Options { timeout: TIMEOUT, ..Options::new(server.urls()) };
    options.compaction_interval = None;
    options
}

async fn open(server: &EtcdServer) -> Arc<dyn Storage> {
    let etcd = Etcd::new(options(server)).unwrap();
    etcd.wait_until_ready(Duration::from_secs(60)).await.unwrap();
    Arc::new(etcd)
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": "v"}})
}

/// The type, name and revision of the next events of a watch.
async fn events(cluster: &Cluster, from: &str, count: usize) -> Vec<(String, String, u64)> {
    let uri = format!("{MAPS}?watch=true&resourceVersion={from}");
    let mut request = Request::builder().uri(uri).body(body::empty()).unwrap();
    request.extensions_mut().insert(admin());
    let mut stream = cluster.server.handle(request).await.into_body();
    let (mut text, mut found) = (String::new(), Vec::new());
    let reading = async {
        while found.len() < count {
            let Some(Ok(frame)) = stream.frame().await else { panic!("the watch ended: {found:?}") };
            text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
            while let Some(end) = text.find('\n') {
                let line: String = text.drain(..=end).collect();
                let event: Value = serde_json::from_str(&line).unwrap();
                let version = object::resource_version(&event["object"]).parse().unwrap();
                found.push((
                    event["type"].as_str().unwrap().to_owned(),
                    object::name(&event["object"]).to_owned(),
                    version,
                ));
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await.expect("events in time");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_give_no_address_twice_on_etcd() {
    let Some(server) = EtcdServer::start("two_servers_give_no_address_twice_on_etcd", 1, false) else { return };
    two_servers_share_addresses(open(&server).await, open(&server).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_never_exceed_a_quota_on_etcd() {
    let Some(server) = EtcdServer::start("two_servers_never_exceed_a_quota_on_etcd", 1, false) else { return };
    two_servers_share_a_quota(open(&server).await, open(&server).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_are_one_api() {
    let Some(server) = EtcdServer::start("two_servers_are_one_api", 1, false) else { return };
    let servers =
        [Cluster::beside(open(&server).await, RANGE).await, Cluster::beside(open(&server).await, RANGE).await];
    let from = servers[0].get(MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let watches = [events(&servers[0], &from, 100), events(&servers[1], &from, 100)];
    let writes = async {
        for i in 0..40 {
            let (here, there) = (&servers[i % 2], &servers[1 - i % 2]);
            let made = here.create(MAPS, map(&format!("m{i}"))).await;
            // What one has acknowledged, the other knows.
            let path = format!("{MAPS}/m{i}");
            assert_eq!(there.get(&path).await, made, "a read of one object");
            let list = there.get(MAPS).await;
            let seen = list["items"].as_array().unwrap().iter().any(|item| object::name(item) == format!("m{i}"));
            assert!(seen, "a list");
            if i % 2 == 0 {
                let (code, changed) = there.patch(&path, json!({"data": {"k": "w"}})).await;
                assert_eq!(code, 200, "{changed}");
                // With what is old now, the other refuses, though its cache may be behind.
                let mut old = made;
                old["data"]["k"] = "x".into();
                here.refusal(Method::PUT, &path, Some(old), 409).await;
                let (code, _) = here.ask(Method::DELETE, &path, None).await;
                assert_eq!(code, 200);
                there.refusal(Method::GET, &path, None, 404).await;
            }
        }
        // Both want one name: one gets it.
        let tries = (0..20).map(|i| servers[i % 2].ask(Method::POST, MAPS, Some(map("only"))));
        let codes: Vec<u16> = futures_util::future::join_all(tries).await.into_iter().map(|(code, _)| code).collect();
        assert_eq!(codes.iter().filter(|code| **code == 201).count(), 1, "{codes:?}");
        assert!(codes.iter().all(|code| [201, 409].contains(code)), "{codes:?}");
        for i in 0..19 {
            servers[i % 2].create(MAPS, map(&format!("n{i}"))).await;
        }
    };
    let (watched, ()) = tokio::join!(futures_util::future::join_all(watches), writes);
    assert_eq!(watched[0], watched[1], "the same events in the same order");
    let versions: Vec<u64> = watched[0].iter().map(|(_, _, version)| *version).collect();
    assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "{versions:?}");
}

/// Waits until a write works again.
async fn recovered(cluster: &Cluster, name: &str) {
    for _ in 0..120 {
        let (code, _) = cluster.ask(Method::POST, MAPS, Some(map(name))).await;
        if code == 201 || code == 409 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("writes never worked again");
}

async fn ready(cluster: &Cluster) -> (u16, String) {
    let (code, text) = cluster.ask(Method::GET, "/readyz", None).await;
    (code, text.as_str().unwrap_or_default().to_owned())
}

/// While etcd does not answer: writes and strong reads fail in time, with etcd's word; what may be old is read; probes say why.
async fn without_etcd(cluster: &Cluster, kept: &str) {
    let began = Instant::now();
    let (code, refused) = cluster.ask(Method::POST, MAPS, Some(map("lost"))).await;
    assert_eq!((code, &refused["kind"], &refused["status"]), (500, &json!("Status"), &json!("Failure")), "{refused}");
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("etcd")), "{refused}");
    let (code, refused) = cluster.ask(Method::GET, &format!("{MAPS}/{kept}"), None).await;
    assert!(code >= 500, "nobody knows whether it is still there: {refused}");
    assert!(began.elapsed() < 8 * TIMEOUT, "{:?}", began.elapsed());
    let began = Instant::now();
    for path in [format!("{MAPS}/{kept}?resourceVersion=0"), format!("{MAPS}?resourceVersion=0")] {
        cluster.get(&path).await;
    }
    assert!(began.elapsed() < TIMEOUT, "{:?}", began.elapsed());
    let (code, text) = ready(cluster).await;
    assert_eq!(code, 500, "{text}");
    assert!(text.contains("[-]etcd failed: reason withheld") && text.contains("[-]etcd-readiness failed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_goes_and_comes_back_takes_nothing_with_it() {
    let name = "an_etcd_that_goes_and_comes_back_takes_nothing_with_it";
    let Some(mut server) = EtcdServer::start(name, 3, false) else { return };
    let cluster = Cluster::beside(open(&server).await, RANGE).await;
    cluster.create(MAPS, map("kept")).await;
    let from = cluster.get(MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let watch = events(&cluster, &from, 3);
    let faults = async {
        // One of three is no loss.
        server.kill(0);
        recovered(&cluster, "one").await;
        assert_eq!(ready(&cluster).await.0, 200);
        // Without a quorum nothing is written.
        server.kill(1);
        without_etcd(&cluster, "kept").await;
        server.run(0);
        recovered(&cluster, "two").await;
        // All of them, and their process, too.
        server.kill(0);
        server.kill(2);
        without_etcd(&cluster, "one").await;
        for member in 0..3 {
            server.run(member);
        }
        recovered(&cluster, "three").await;
    };
    let (seen, ()) = tokio::join!(watch, faults);
    let names: Vec<&str> = seen.iter().map(|(_, name, _)| name.as_str()).filter(|name| *name != "lost").collect();
    assert!(names.starts_with(&["one", "two"]), "a watch goes on where it was: {seen:?}");
    for name in ["kept", "one", "two", "three"] {
        cluster.get(&format!("{MAPS}/{name}")).await;
    }
    assert_eq!(ready(&cluster).await.0, 200);
    // Another server finds the same.
    let other = Cluster::beside(open(&server).await, RANGE).await;
    assert_eq!(other.get(MAPS).await["items"], cluster.get(MAPS).await["items"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_etcd_fails_in_time_and_a_compacted_one_is_read_on() {
    let name = "a_slow_etcd_fails_in_time_and_a_compacted_one_is_read_on";
    let Some(server) = EtcdServer::start(name, 1, false) else { return };
    let storage = open(&server).await;
    let cluster = Cluster::beside(storage.clone(), RANGE).await;
    cluster.create(MAPS, map("kept")).await;
    server.signal(0, "STOP");
    without_etcd(&cluster, "kept").await;
    server.signal(0, "CONT");
    recovered(&cluster, "again").await;
    // Somebody compacts under a watcher that is up to date: it misses nothing.
    let from = cluster.get(MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let watch = events(&cluster, &from, 20);
    let writes = async {
        for i in 0..20 {
            cluster.create(MAPS, map(&format!("w{i}"))).await;
            storage.compact(storage.revision().await.unwrap()).await.unwrap();
        }
    };
    let (seen, ()) = tokio::join!(watch, writes);
    let names: Vec<String> = seen.into_iter().map(|(_, name, _)| name).filter(|name| name != "lost").collect();
    assert!(names.iter().zip(0..).all(|(name, i)| *name == format!("w{i}")), "{names:?}");
    // A server that begins after it reads all, and says what is too old.
    let late = Cluster::beside(open(&server).await, RANGE).await;
    let (code, gone) =
        late.ask(Method::GET, &format!("{MAPS}?resourceVersion={from}&resourceVersionMatch=Exact"), None).await;
    assert_eq!((code, &gone["reason"]), (410, &json!("Expired")), "{gone}");
    assert_eq!(late.get(MAPS).await["items"], cluster.get(MAPS).await["items"]);
}

#[tokio::test]
async fn wrong_certificates_are_named() {
    let Some(server) = EtcdServer::start("wrong_certificates_are_named", 1, true) else { return };
    let tls = |ca: &str, certificate: &str| TlsFiles {
        ca: Some(server.file(&format!("{ca}.pem"))),
        certificate: Some(server.file(&format!("{certificate}.pem"))),
        key: Some(server.file(&format!("{certificate}.key"))),
    };
    let try_it = async |tls: TlsFiles| {
        let etcd = Etcd::new(Options { tls, ..options(&server) }).unwrap();
        etcd.wait_until_ready(Duration::from_secs(10)).await.map_err(|error| error.to_string())
    };
    assert_eq!(try_it(tls("ca", "client")).await, Ok(()));
    for (ca, certificate) in [("other-ca", "client"), ("ca", "other")] {
        let text = try_it(tls(ca, certificate)).await.unwrap_err();
        assert!(text.contains("127.0.0.1") && text.to_lowercase().contains("certificate"), "{text}");
    }
}

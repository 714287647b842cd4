//! What an etcd is expected to do when it, or what it is reached with, is not as it should be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kybern_storage::etcd::{Etcd, Options, TimeToLive};
use kybern_storage::{Storage, StorageError, Txn};

use crate::etcd_server::{Opens, Server};
use crate::{range, value};

#[tokio::test]
async fn tls_is_spoken_and_strangers_are_refused() {
    let Some(server) = Server::start("tls_is_spoken_and_strangers_are_refused", 1, true) else { return };
    let etcd = server.open().await;
    assert_eq!(etcd.txn(Txn::create("/registry/a".into(), value("1"))).await.unwrap(), 2);
    let mut stranger = server.options();
    stranger.tls.certificate = Some(server.file("other.pem"));
    stranger.tls.key = Some(server.file("other.key"));
    let mut unproven = server.options();
    unproven.tls.ca = Some(server.file("other-ca.pem"));
    let mut nobody = server.options();
    (nobody.tls.certificate, nobody.tls.key) = (None, None);
    let mut plain = server.options();
    plain.servers = vec![plain.servers[0].replace("https", "http")];
    for (options, expect) in [(stranger, "etcd"), (unproven, "certificate"), (nobody, "etcd"), (plain, "etcd")] {
        let etcd = Etcd::new(options.clone()).unwrap();
        let began = Instant::now();
        let text = etcd.revision().await.unwrap_err().to_string();
        assert!(text.contains(expect) && text.contains(&options.servers[0]), "{text}");
        assert!(began.elapsed() < Duration::from_secs(8), "{text} after {:?}", began.elapsed());
    }
    for (name, expect) in [("none.pem", "none.pem"), ("client.key", "holds no certificate")] {
        let mut options = server.options();
        options.tls.ca = Some(server.file(name));
        let text = Etcd::new(options).err().unwrap().to_string();
        assert!(text.contains("--etcd-cafile") && text.contains(expect), "{text}");
    }
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_an_error_soon() {
    let etcd = Etcd::new(Options::new(vec!["http://127.0.0.1:1".to_owned()])).unwrap();
    let began = Instant::now();
    let error = etcd.txn(Txn::create("/registry/a".into(), value("1"))).await.unwrap_err();
    assert!(matches!(&error, StorageError::Unavailable(text) if text.contains("http://127.0.0.1:1")), "{error}");
    assert!(etcd.watch("/", 1).await.is_err());
    assert!(etcd.wait_until_ready(Duration::from_secs(1)).await.is_err());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn keys_lie_below_the_prefix_that_is_asked_for() {
    let Some(server) = Server::start("keys_lie_below_the_prefix_that_is_asked_for", 1, false) else { return };
    let plain = server.open().await;
    let mut options = server.options();
    options.prefix = "other/place/".to_owned();
    let moved = Etcd::new(options).unwrap();
    let start = moved.txn(Txn::create("/registry/pods/ns/a".into(), value("1"))).await.unwrap();
    let mut watch = moved.watch("/registry/", start).await.unwrap();
    moved.txn(Txn::create("/registry/pods/ns/b".into(), value("2"))).await.unwrap();
    let keys = |page: kybern_storage::Page| page.items.iter().map(|kv| kv.key.to_string()).collect::<Vec<_>>();
    assert_eq!(keys(range(&moved, "/registry/", None).await.unwrap()), ["/registry/pods/ns/a", "/registry/pods/ns/b"]);
    assert_eq!(keys(range(&plain, "/registry/", None).await.unwrap()), [""; 0]);
    assert_eq!(
        keys(range(&plain, "/other/", None).await.unwrap()),
        ["/other/place/pods/ns/a", "/other/place/pods/ns/b"]
    );
    assert_eq!(&*watch.next().await.unwrap().events[0].key, "/registry/pods/ns/b");
}

/// An etcd whose events go after a time.
async fn with_events(server: &Server, seconds: u64) -> Etcd {
    let ttl = Duration::from_secs(seconds);
    let expiring = TimeToLive { prefix: "/registry/events/".to_owned(), ttl, reuse: Duration::from_secs(60) };
    let etcd = Etcd::new(Options { expiring: Some(expiring), ..server.options() }).unwrap();
    etcd.wait_until_ready(Duration::from_secs(60)).await.unwrap();
    etcd
}

fn leases(server: &Server) -> Vec<String> {
    server.ctl(&["lease", "list"]).lines().filter(|line| line.len() == 16).map(str::to_owned).collect()
}

#[tokio::test]
async fn keys_that_expire_share_leases_and_go() {
    let Some(server) = Server::start("keys_that_expire_share_leases_and_go", 1, false) else { return };
    let etcd = Arc::new(with_events(&server, 3600).await);
    let writes = (0..50).map(|n| {
        let etcd = etcd.clone();
        async move { etcd.txn(Txn::create(format!("/registry/events/ns/{n}").into(), value("1"))).await.unwrap() }
    });
    futures_util::future::join_all(writes).await;
    assert_eq!(leases(&server).len(), 1);

    let etcd = with_events(&server, 2).await;
    let created = Instant::now();
    let mut from = etcd.txn(Txn::create("/registry/pods/ns/a".into(), value("1"))).await.unwrap();
    for n in 0..3 {
        from = etcd.txn(Txn::create(format!("/registry/events/short/{n}").into(), value("1"))).await.unwrap();
    }
    // What goes is told to watchers as a deletion, and not before its time.
    let mut watch = etcd.watch("/registry/events/", from).await.unwrap();
    let mut gone = 0;
    while gone < 3 {
        let batch = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("they go").unwrap();
        assert!(batch.events.iter().all(|event| event.value.is_none()));
        gone += batch.events.len();
    }
    assert!(created.elapsed() >= Duration::from_secs(2), "{:?}", created.elapsed());
    assert_eq!(range(&etcd, "/registry/", None).await.unwrap().items.len(), 51);
}

#[tokio::test]
async fn a_lease_that_has_gone_is_replaced() {
    let Some(server) = Server::start("a_lease_that_has_gone_is_replaced", 1, false) else { return };
    let etcd = with_events(&server, 3600).await;
    etcd.txn(Txn::create("/registry/events/ns/a".into(), value("1"))).await.unwrap();
    let id = leases(&server).remove(0);
    server.ctl(&["lease", "revoke", &id]);
    etcd.txn(Txn::create("/registry/events/ns/b".into(), value("1"))).await.unwrap();
    let keys: Vec<_> = range(&etcd, "/registry/", None).await.unwrap().items;
    assert_eq!(keys.iter().map(|kv| &*kv.key).collect::<Vec<_>>(), ["/registry/events/ns/b"]);
    assert!(!leases(&server).contains(&id));
}

/// Writes until told to stop, and answers what was acknowledged.
fn writer(etcd: Arc<Etcd>, stop: Arc<std::sync::atomic::AtomicBool>) -> tokio::task::JoinHandle<Vec<String>> {
    tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        for n in 0.. {
            if stop.load(std::sync::atomic::Ordering::Relaxed) {
                break;
            }
            let key = format!("/registry/w/{n:05}");
            if etcd.txn(Txn::create(key.as_str().into(), value("x"))).await.is_ok() {
                acknowledged.push(key);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        acknowledged
    })
}

/// A watch that goes on after errors, until it has seen a revision.
async fn follow(etcd: Arc<Etcd>, from: u64, until: tokio::sync::watch::Receiver<u64>) -> (Vec<String>, u32) {
    let (mut seen, mut failures, mut reached) = (Vec::new(), 0, from);
    let end = |reached: u64| *until.borrow() > 0 && reached >= *until.borrow();
    while !end(reached) {
        if let Ok(mut watch) = etcd.watch("/registry/", reached).await {
            while !end(reached) {
                match tokio::time::timeout(Duration::from_millis(200), watch.next()).await {
                    Ok(Ok(batch)) => {
                        assert!(batch.events.iter().all(|e| e.revision > reached), "repeated");
                        seen.extend(batch.events.iter().map(|e| e.key.to_string()));
                        reached = batch.revision;
                    }
                    Ok(Err(_)) => break,
                    Err(_) => etcd.request_progress(),
                }
            }
        }
        failures += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (seen, failures)
}

/// Members die, hang and come back one after the other, the leader among them: what was acknowledged is there, and the
/// watch misses and repeats nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_lose_one_after_the_other_and_nothing_else() {
    let name = "three_members_lose_one_after_the_other_and_nothing_else";
    let Some(mut server) = Server::start(name, 3, true) else { return };
    let etcd = Arc::new(server.open().await);
    let from = etcd.revision().await.unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writing = writer(etcd.clone(), stop.clone());
    let (until, end) = tokio::sync::watch::channel(0);
    let following = tokio::spawn(follow(etcd.clone(), from, end));
    for member in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.kill(member);
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let before = etcd.revision().await.expect("two of three are a quorum");
        assert!(before > from);
        server.run(member);
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let acknowledged = writing.await.unwrap();
    // While a leader is elected a write waits for seconds.
    assert!(acknowledged.len() > 10, "{}", acknowledged.len());
    until.send_replace(etcd.revision().await.unwrap());
    let (seen, _) = tokio::time::timeout(Duration::from_secs(60), following).await.unwrap().unwrap();
    let stored: Vec<String> = {
        let mut all = Vec::new();
        let mut scan = etcd.scan("/registry/", etcd.revision().await.unwrap()).await.unwrap();
        while let Some(piece) = scan.recv().await {
            all.extend(piece.unwrap().iter().map(|kv| kv.key.to_string()));
        }
        all
    };
    let lost: Vec<_> = acknowledged.iter().filter(|key| !stored.contains(key)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let mut sorted = seen.clone();
    sorted.sort();
    assert_eq!(sorted, stored, "the watch and the list differ");
}

/// Two of three are away: writes and reads end with an error in bounded time, and work again once there is a quorum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_everything_ends_with_an_error_and_works_again_after() {
    let name = "without_a_quorum_everything_ends_with_an_error_and_works_again_after";
    let Some(mut server) = Server::start(name, 3, false) else { return };
    let etcd = server.open().await;
    let start = etcd.txn(Txn::create("/registry/a".into(), value("1"))).await.unwrap();
    let mut watch = etcd.watch("/registry/", start).await.unwrap();
    server.kill(1);
    server.kill(2);
    let began = Instant::now();
    let (read, written) = tokio::join!(etcd.revision(), etcd.txn(Txn::create("/registry/b".into(), value("1"))));
    assert!(matches!(read, Err(StorageError::Unavailable(_))), "{read:?}");
    assert!(matches!(written, Err(StorageError::Unavailable(_))), "{written:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let ended = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("a watch without leader ends");
    assert!(matches!(ended, Err(StorageError::Unavailable(_))), "{ended:?}");
    server.run(1);
    etcd.wait_until_ready(Duration::from_secs(60)).await.unwrap();
    let end = etcd.txn(Txn::create("/registry/c".into(), value("1"))).await.unwrap();
    let mut watch = etcd.watch("/registry/", start).await.unwrap();
    let mut seen = Vec::new();
    while watch.reached() < end {
        seen.extend(watch.next().await.unwrap().events.into_iter().map(|e| e.key.to_string()));
    }
    assert_eq!(seen.last().map(String::as_str), Some("/registry/c"), "{seen:?}");
}

/// A member that takes requests and answers none is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_hangs_is_left() {
    let Some(server) = Server::start("a_member_that_hangs_is_left", 3, false) else { return };
    let mut options = server.options();
    options.timeout = Duration::from_secs(6);
    let etcd = Etcd::new(options).unwrap();
    etcd.wait_until_ready(Duration::from_secs(60)).await.unwrap();
    let before = etcd.txn(Txn::create("/registry/a".into(), value("1"))).await.unwrap();
    server.signal(0, "STOP");
    let mut after = None;
    let began = Instant::now();
    while after.is_none() && began.elapsed() < Duration::from_secs(40) {
        after = etcd.revision().await.ok();
    }
    server.signal(0, "CONT");
    assert!(after.is_some_and(|after| after >= before), "{after:?}");
}

#[tokio::test]
async fn one_of_the_servers_that_share_an_etcd_compacts_it() {
    let Some(server) = Server::start("one_of_the_servers_that_share_an_etcd_compacts_it", 1, false) else { return };
    let mut options = server.options();
    options.compaction_interval = Some(Duration::from_secs(1));
    let both = [Etcd::new(options.clone()).unwrap(), Etcd::new(options).unwrap()];
    both[0].wait_until_ready(Duration::from_secs(60)).await.unwrap();
    let mut at = both[0].txn(Txn::create("/registry/a".into(), value("1"))).await.unwrap();
    let first = at;
    let began = Instant::now();
    while both[1].oldest().await.unwrap() <= first {
        assert!(began.elapsed() < Duration::from_secs(30));
        at = both[0].txn(Txn::update("/registry/a".into(), at, value("2"))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let gone = both[1].range(kybern_storage::RangeRequest { prefix: "/", after: "", limit: 1, at: Some(first) }).await;
    assert!(matches!(gone, Err(StorageError::Compacted { requested, oldest }) if requested == first && oldest > first));
    let mut watch = both[1].watch("/registry/", first).await;
    let ended = match &mut watch {
        Ok(watch) => watch.next().await.map(drop),
        Err(error) => Err(error.clone()),
    };
    assert!(matches!(ended, Err(StorageError::Compacted { .. })), "{ended:?}");
    let rounds = range(&both[0], "compact_rev_key", None).await.unwrap();
    assert_eq!(rounds.items.len(), 1, "upstream's key");
}

#[tokio::test]
async fn a_snapshot_is_whole() {
    let Some(server) = Server::start("a_snapshot_is_whole", 1, false) else { return };
    let etcd = server.open().await;
    for n in 0..50 {
        etcd.txn(Txn::create(format!("/registry/{n}").into(), vec![b'x'; 10_000].into())).await.unwrap();
    }
    let mut snapshot = etcd.snapshot().await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = snapshot.next().await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    // A database in pages of 512 bytes at least, and its digest.
    assert_eq!(bytes.len() % 512, 32);
    assert!(bytes.windows(12).any(|w| w == b"/registry/49"), "{} bytes", bytes.len());
}

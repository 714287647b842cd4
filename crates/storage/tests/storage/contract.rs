//! What every store promises.

use std::sync::Arc;
use std::time::Duration;

use kybern_storage::memory::Memory;
use kybern_storage::sqlite::{Options, Sqlite};
use kybern_storage::{Guard, MAX_WRITES, RangeRequest, Storage, StorageError, Txn, Write};

use crate::etcd_server::{Opens, Server};
use crate::{range, texts, value};

/// Runs a check against every store, each new.
async fn each<F: Future<Output = ()>>(test: &str, check: impl Fn(Arc<dyn Storage>) -> F) {
    check(Arc::new(Memory::default())).await;
    let directory = tempfile::tempdir().unwrap();
    check(Arc::new(Sqlite::open(directory.path(), Options::default()).unwrap())).await;
    if let Some(server) = Server::start(test, 1, false) {
        check(Arc::new(server.open().await)).await;
    }
}

#[tokio::test]
async fn guards_refuse_and_revisions_count() {
    each("guards_refuse_and_revisions_count", |s| async move {
        assert_eq!(s.revision().await.unwrap(), 1);
        assert_eq!(s.txn(Txn::create("/a".into(), value("1"))).await.unwrap(), 2);
        let again = s.txn(Txn::create("/a".into(), value("2"))).await.unwrap_err();
        assert!(matches!(again, StorageError::Conflict { current: Some(2), .. }), "{again}");
        assert_eq!(s.txn(Txn::update("/a".into(), 2, value("2"))).await.unwrap(), 3);
        let stale = s.txn(Txn::update("/a".into(), 2, value("3"))).await.unwrap_err();
        assert!(matches!(stale, StorageError::Conflict { current: Some(3), .. }), "{stale}");
        assert_eq!(s.txn(Txn::delete("/a".into(), 3)).await.unwrap(), 4);
        let gone = s.txn(Txn::delete("/a".into(), 4)).await.unwrap_err();
        assert!(matches!(gone, StorageError::Conflict { current: None, .. }), "{gone}");
        let nothing = Txn { guards: Vec::new(), writes: vec![Write::Delete("/none".into())] };
        assert_eq!(s.txn(nothing).await.unwrap(), 4);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_is_one_revision_or_nothing() {
    each("a_transaction_is_one_revision_or_nothing", |s| async move {
        let writes = vec![Write::Put("/a".into(), value("1")), Write::Put("/b".into(), value("1"))];
        assert_eq!(s.txn(Txn { guards: Vec::new(), writes: writes.clone() }).await.unwrap(), 2);
        assert_eq!(texts(&range(&*s, "/", None).await.unwrap()), ["/a=1@2", "/b=1@2"]);
        let guarded = Txn { guards: vec![Guard::At("/a".into(), 2), Guard::Absent("/b".into())], writes };
        assert!(s.txn(guarded).await.is_err());
        assert_eq!(s.revision().await.unwrap(), 2);
    })
    .await;
}

#[tokio::test]
async fn ranges_are_pages_of_one_revision() {
    each("ranges_are_pages_of_one_revision", |s| async move {
        for (i, key) in ["/p/a", "/p/b", "/p/c", "/q/a"].into_iter().enumerate() {
            s.txn(Txn::create(key.into(), value(&i.to_string()))).await.unwrap();
        }
        let first = s.range(RangeRequest { prefix: "/p/", after: "", limit: 2, at: None }).await.unwrap();
        assert_eq!((texts(&first), first.more, first.revision), (vec!["/p/a=0@2".into(), "/p/b=1@3".into()], true, 5));
        s.txn(Txn::delete("/p/c".into(), 4)).await.unwrap();
        s.txn(Txn::update("/p/a".into(), 2, value("new"))).await.unwrap();
        s.txn(Txn::create("/p/d".into(), value("new"))).await.unwrap();
        let rest = s.range(RangeRequest { prefix: "/p/", after: "/p/b", limit: 2, at: Some(5) }).await.unwrap();
        assert_eq!((texts(&rest), rest.more), (vec!["/p/c=2@4".into()], false));
        assert_eq!(texts(&range(&*s, "/p/", Some(5)).await.unwrap()), ["/p/a=0@2", "/p/b=1@3", "/p/c=2@4"]);
        assert_eq!(texts(&range(&*s, "/p/", None).await.unwrap()), ["/p/a=new@7", "/p/b=1@3", "/p/d=new@8"]);
        for at in [5, 6, 8] {
            let mut scan = s.scan("/p/", at).await.unwrap();
            let mut items = Vec::new();
            while let Some(piece) = scan.recv().await {
                items.extend(piece.unwrap());
            }
            items.sort_by(|a, b| a.key.cmp(&b.key));
            assert_eq!(items, range(&*s, "/p/", Some(at)).await.unwrap().items, "at {at}");
            let (sender, shown) = std::sync::mpsc::channel();
            let scan = s.scan("/p/", at).await.unwrap();
            scan.for_each(move |piece| piece.into_iter().for_each(|item| sender.send(item).unwrap())).await.unwrap();
            let mut shown: Vec<_> = shown.into_iter().collect();
            shown.sort_by(|a, b| a.key.cmp(&b.key));
            assert_eq!(shown, items, "at {at}");
        }
        assert!(matches!(range(&*s, "/p/", Some(99)).await, Err(StorageError::Future { current: 8, .. })));
    })
    .await;
}

#[tokio::test]
async fn watches_resume_from_any_revision() {
    each("watches_resume_from_any_revision", |s| async move {
        s.txn(Txn::create("/a".into(), value("1"))).await.unwrap();
        s.txn(Txn::update("/a".into(), 2, value("2"))).await.unwrap();
        let mut watch = s.watch("/", 2).await.unwrap();
        s.txn(Txn::delete("/a".into(), 3)).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            seen.extend(watch.next().await.unwrap().events.into_iter().map(|e| (e.revision, e.value)));
        }
        assert_eq!(seen, [(3, Some(value("2"))), (4, None)]);
    })
    .await;
}

#[tokio::test]
async fn a_watch_brings_what_is_under_its_prefix_and_how_far_it_is() {
    each("a_watch_brings_what_is_under_its_prefix_and_how_far_it_is", |s| async move {
        let start = s.txn(Txn::create("/p/a".into(), value("1"))).await.unwrap();
        s.txn(Txn::create("/q/a".into(), value("1"))).await.unwrap();
        let mut watches = Vec::new();
        for prefix in ["/p/", "/p/", "/q/", "/", "/p/a", "/none/"] {
            watches.push((prefix, s.watch(prefix, start).await.unwrap(), Vec::new()));
        }
        let writes = ["/p/b", "/q/b", "/p/ab", "/r"].map(|key| Write::Put(key.into(), value("2")));
        s.txn(Txn { guards: Vec::new(), writes: writes.to_vec() }).await.unwrap();
        s.txn(Txn { guards: Vec::new(), writes: vec![Write::Delete("/p/a".into())] }).await.unwrap();
        let end = s.txn(Txn::create("/else".into(), value("1"))).await.unwrap();
        for (prefix, watch, seen) in &mut watches {
            while watch.reached() < end {
                let next = tokio::time::timeout(Duration::from_millis(20), watch.next());
                let Ok(batch) = next.await else {
                    s.request_progress();
                    continue;
                };
                let batch = batch.unwrap();
                assert!(batch.events.iter().all(|e| e.revision <= batch.revision && e.key.starts_with(*prefix)));
                seen.extend(batch.events.into_iter().map(|e| (e.revision - start, e.key.to_string())));
            }
        }
        let seen: Vec<String> = watches
            .into_iter()
            .map(|(prefix, _, mut seen)| {
                seen.sort();
                format!("{prefix}: {}", seen.iter().map(|(r, k)| format!("{k}@{r}")).collect::<Vec<_>>().join(" "))
            })
            .collect();
        assert_eq!(
            seen,
            [
                "/p/: /p/ab@2 /p/b@2 /p/a@3",
                "/p/: /p/ab@2 /p/b@2 /p/a@3",
                "/q/: /q/a@1 /q/b@2",
                "/: /q/a@1 /p/ab@2 /p/b@2 /q/b@2 /r@2 /p/a@3 /else@4",
                "/p/a: /p/ab@2 /p/a@3",
                "/none/: ",
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn what_one_store_would_refuse_every_store_refuses() {
    each("what_one_store_would_refuse_every_store_refuses", |s| async move {
        let put = |key: &str| Write::Put(key.into(), value("1"));
        let twice = Txn { guards: Vec::new(), writes: vec![put("/a"), put("/b"), Write::Delete("/a".into())] };
        assert!(matches!(s.txn(twice).await, Err(StorageError::WrittenTwice(key)) if &*key == "/a"));
        let many = |n: usize| (0..n).map(|n| format!("/{n}")).collect::<Vec<_>>();
        let writes = |n: usize| many(n).iter().map(|key| put(key)).collect::<Vec<_>>();
        let guards = |n: usize| many(n).iter().map(|key| Guard::Absent(key.as_str().into())).collect::<Vec<_>>();
        let refused = s.txn(Txn { guards: Vec::new(), writes: writes(MAX_WRITES + 1) }).await;
        assert!(matches!(refused, Err(StorageError::TooManyWrites(129))), "{refused:?}");
        let refused = s.txn(Txn { guards: guards(MAX_WRITES + 1), writes: Vec::new() }).await;
        assert!(matches!(refused, Err(StorageError::TooManyWrites(129))), "{refused:?}");
        assert_eq!(s.revision().await.unwrap(), 1);
        assert_eq!(s.txn(Txn { guards: guards(MAX_WRITES), writes: writes(MAX_WRITES) }).await.unwrap(), 2);
        assert_eq!(range(&*s, "/", None).await.unwrap().items.len(), MAX_WRITES);
    })
    .await;
}

#[tokio::test]
async fn compaction_keeps_what_lives() {
    each("compaction_keeps_what_lives", |s| async move {
        for key in ["/a", "/b"] {
            s.txn(Txn::create(key.into(), value("1"))).await.unwrap();
        }
        s.txn(Txn::update("/a".into(), 2, value("2"))).await.unwrap();
        s.txn(Txn::delete("/b".into(), 3)).await.unwrap();
        s.compact(5).await.unwrap();
        assert_eq!(texts(&range(&*s, "/", None).await.unwrap()), ["/a=2@4"]);
        assert!(matches!(range(&*s, "/", Some(4)).await, Err(StorageError::Compacted { oldest: 5, .. })));
        assert!(matches!(s.watch("/", 4).await.err(), Some(StorageError::Compacted { .. })));
        assert!(s.watch("/", 5).await.is_ok());
        assert_eq!(s.txn(Txn::create("/b".into(), value("again"))).await.unwrap(), 6);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_write_one_key_each_revision_has_one() {
    each("of_many_who_write_one_key_each_revision_has_one", |s| async move {
        let first = s.revision().await.unwrap();
        let mut watch = s.watch("/n", first).await.unwrap();
        let claims: Vec<_> = (0..8)
            .map(|n| {
                let s = s.clone();
                tokio::spawn(async move {
                    let mut won = 0;
                    while won < 10 {
                        // Read, and write what was read plus one, unless somebody was quicker.
                        let page = range(&*s, "/n", None).await.unwrap();
                        let txn = match page.items.first() {
                            None => Txn::create("/n".into(), value("1")),
                            Some(kv) => {
                                let count: u32 = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
                                Txn::update("/n".into(), kv.mod_revision, value(&(count + 1).to_string()))
                            }
                        };
                        match s.txn(txn).await {
                            Ok(_) => won += 1,
                            Err(StorageError::Conflict { current, .. }) => assert!(current.is_some(), "task {n}"),
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        for claim in claims {
            claim.await.unwrap();
        }
        let last = range(&*s, "/n", None).await.unwrap().items[0].clone();
        assert_eq!(&last.value[..], b"80");
        assert_eq!(last.create_revision, first + 1);
        let mut seen = Vec::new();
        while watch.reached() < last.mod_revision {
            seen.extend(watch.next().await.unwrap().events.into_iter().map(|e| e.value.unwrap()));
        }
        let expect: Vec<_> = (1..=80).map(|n: u32| value(&n.to_string())).collect();
        assert_eq!(seen, expect, "a watch misses and reorders nothing");
    })
    .await;
}

#[tokio::test]
async fn large_values_and_many_keys_come_back_as_they_were() {
    each("large_values_and_many_keys_come_back_as_they_were", |s| async move {
        let from = s.revision().await.unwrap();
        let mut watch = s.watch("/", from).await.unwrap();
        let large: Vec<bytes::Bytes> = (0..4u8).map(|n| vec![n; 1 << 20].into()).collect();
        for (n, value) in large.iter().enumerate() {
            s.txn(Txn::create(format!("/large/{n}").into(), value.clone())).await.unwrap();
        }
        for group in 0..20 {
            let writes = (0..MAX_WRITES).map(|n| Write::Put(format!("/many/{group:02}-{n:03}").into(), value("x")));
            s.txn(Txn { guards: Vec::new(), writes: writes.collect() }).await.unwrap();
        }
        let at = s.revision().await.unwrap();
        s.txn(Txn { guards: Vec::new(), writes: vec![Write::Delete("/many/00-000".into())] }).await.unwrap();
        let (mut keys, mut after) = (Vec::new(), String::new());
        loop {
            let page =
                s.range(RangeRequest { prefix: "/many/", after: &after, limit: 300, at: Some(at) }).await.unwrap();
            assert_eq!(page.revision, at);
            keys.extend(page.items.iter().map(|kv| kv.key.to_string()));
            after = keys.last().unwrap().clone();
            if !page.more {
                break;
            }
        }
        assert_eq!(keys.len(), 20 * MAX_WRITES);
        assert!(keys.is_sorted());
        let mut scan = s.scan("/", at).await.unwrap();
        let mut scanned = std::collections::BTreeMap::new();
        while let Some(piece) = scan.recv().await {
            scanned.extend(piece.unwrap().into_iter().map(|kv| (kv.key.to_string(), kv.value)));
        }
        assert_eq!(scanned.len(), 4 + 20 * MAX_WRITES);
        let mut seen = 0;
        while watch.reached() <= at {
            for event in watch.next().await.unwrap().events {
                match event.key.strip_prefix("/large/") {
                    Some(n) => assert!(event.value.unwrap() == large[n.parse::<usize>().unwrap()]),
                    None => seen += usize::from(event.value.is_some()),
                }
            }
        }
        assert_eq!(seen, 20 * MAX_WRITES);
        for (n, value) in large.iter().enumerate() {
            assert!(scanned[&format!("/large/{n}")] == *value);
        }
    })
    .await;
}

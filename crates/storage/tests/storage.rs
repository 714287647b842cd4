//! One contract, checked against every implementation; and what only the store on disk promises.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kybern_storage::lock::LockError;
use kybern_storage::memory::Memory;
use kybern_storage::sqlite::{OpenError, Options, Sqlite};
use kybern_storage::{Guard, MAX_WRITES, Page, RangeRequest, Revision, Storage, StorageError, Txn, Write};

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Runs a check against every implementation.
async fn each<F: Future<Output = ()>>(check: impl Fn(Arc<dyn Storage>) -> F) {
    check(Arc::new(Memory::default())).await;
    let directory = tempfile::tempdir().unwrap();
    check(Arc::new(Sqlite::open(directory.path(), Options::default()).unwrap())).await;
}

async fn range(storage: &dyn Storage, prefix: &str, at: Option<Revision>) -> Result<Page, StorageError> {
    storage.range(RangeRequest { prefix, after: "", limit: 1000, at }).await
}

fn texts(page: &Page) -> Vec<String> {
    page.items
        .iter()
        .map(|kv| format!("{}={}@{}", kv.key, String::from_utf8_lossy(&kv.value), kv.mod_revision))
        .collect()
}

#[tokio::test]
async fn guards_refuse_and_revisions_count() {
    each(|s| async move {
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
    each(|s| async move {
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
    each(|s| async move {
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
        }
        assert!(matches!(range(&*s, "/p/", Some(99)).await, Err(StorageError::Future { current: 8, .. })));
    })
    .await;
}

#[tokio::test]
async fn watches_resume_from_any_revision() {
    each(|s| async move {
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
    each(|s| async move {
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
    each(|s| async move {
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
    each(|s| async move {
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

#[tokio::test]
async fn a_slow_watcher_is_dropped_and_told_where_it_was() {
    let s = Memory::default();
    let mut watch = s.watch("/", 1).await.unwrap();
    for i in 0..1000 {
        s.txn(Txn::create(format!("/{i}").into(), value(""))).await.unwrap();
    }
    let mut seen = 1;
    let lagged = loop {
        match watch.next().await {
            Ok(batch) => seen = batch.revision,
            Err(StorageError::Lagged { last }) => break last,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(lagged, seen);
    assert!(seen < 1001);
    let mut resumed = s.watch("/", seen).await.unwrap();
    assert_eq!(resumed.next().await.unwrap().events.len() as u64, 1001 - seen);
}

#[tokio::test]
async fn concurrent_commits_keep_order_and_survive_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Arc::new(Sqlite::open(directory.path(), Options { history: 100 }).unwrap());
    let mut watch = storage.watch("/", 1).await.unwrap();
    let tasks: Vec<_> = (0..500)
        .map(|i| {
            let storage = storage.clone();
            tokio::spawn(
                async move { storage.txn(Txn::create(format!("/k/{i:03}").into(), value("x"))).await.unwrap() },
            )
        })
        .collect();
    let mut revisions = Vec::new();
    for task in tasks {
        revisions.push(task.await.unwrap());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..=501).collect::<Vec<_>>());
    let mut seen = Vec::new();
    while seen.len() < 500 {
        seen.extend(watch.next().await.unwrap().events.into_iter().map(|e| e.revision));
    }
    assert_eq!(seen, revisions);
    storage.compact(501).await.unwrap();
    let key: Arc<str> = "/k/000".into();
    let at = range(&*storage, "/k/000", None).await.unwrap().items[0].mod_revision;
    storage.txn(Txn::delete(key, at)).await.unwrap();
    storage.compact(502).await.unwrap();
    drop(storage);
    let storage = reopen(directory.path()).await;
    assert_eq!(storage.revision().await.unwrap(), 502, "a compacted deletion still counts");
    assert_eq!(storage.oldest().await.unwrap(), 502);
    assert_eq!(range(&storage, "/k/", None).await.unwrap().items.len(), 499);
}

/// The writer thread lets go of the lock a moment after the last handle is dropped.
async fn reopen(directory: &std::path::Path) -> Sqlite {
    for _ in 0..200 {
        match Sqlite::open(directory, Options::default()) {
            Err(OpenError::Lock(LockError::Held { .. })) => {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await
            }
            other => return other.unwrap(),
        }
    }
    panic!("the lock was never released");
}

#[tokio::test]
async fn history_is_kept_short_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Arc::new(Sqlite::open(directory.path(), Options { history: 10 }).unwrap());
    let mut at = storage.txn(Txn::create("/a".into(), value("x"))).await.unwrap();
    for _ in 0..1100 {
        at = storage.txn(Txn::update("/a".into(), at, value("y"))).await.unwrap();
    }
    let oldest = storage.oldest().await.unwrap();
    assert!(oldest > 1 && oldest <= at - 10, "{oldest} of {at}");
    assert_eq!(range(&*storage, "/a", None).await.unwrap().items[0].mod_revision, at);
}

#[test]
fn a_second_server_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Sqlite::open(directory.path(), Options::default()).unwrap();
    let text = Sqlite::open(directory.path(), Options::default()).err().unwrap().to_string();
    let pid = std::process::id().to_string();
    assert!(text.contains(&pid) && text.contains(directory.path().to_str().unwrap()), "{text}");
}

#[tokio::test]
async fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let storage = Sqlite::open(&directory.path().join("server"), Options::default()).unwrap();
    storage.txn(Txn::create("/a".into(), value("x"))).await.unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(directory.path().join("server")).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{:?} has mode {mode:o}", entry.path());
        files += 1;
    }
    assert!(files >= 3);
}

/// What a power cut leaves: the files as they are in the middle of writing. Everything acknowledged before must be there.
#[tokio::test]
async fn a_copy_of_the_files_at_any_moment_holds_all_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Arc::new(Sqlite::open(directory.path(), Options::default()).unwrap());
    for round in 0..5 {
        for i in 0..20 {
            storage.txn(Txn::create(format!("/{round}/{i}").into(), value("x"))).await.unwrap();
        }
        let acknowledged = storage.revision().await.unwrap();
        let busy = {
            let storage = storage.clone();
            tokio::spawn(async move {
                for i in 0..50 {
                    storage.txn(Txn::create(format!("/busy/{round}/{i}").into(), value("y"))).await.unwrap();
                }
            })
        };
        let copy = tempfile::tempdir().unwrap();
        for name in ["state.db", "state.db-wal"] {
            std::fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
        }
        busy.await.unwrap();
        let recovered = Sqlite::open(copy.path(), Options::default()).unwrap();
        assert!(recovered.revision().await.unwrap() >= acknowledged);
        assert_eq!(range(&recovered, &format!("/{round}/"), None).await.unwrap().items.len(), 20);
    }
}

#[test]
fn a_database_that_is_not_ours_is_refused_and_not_touched() {
    let newer =
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL); INSERT INTO meta VALUES ('format', 99)";
    for (statements, expect) in [(newer, "has format 99"), ("CREATE TABLE other (a)", "not a Kybern store")] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        rusqlite::Connection::open(&path).unwrap().execute_batch(statements).unwrap();
        let before = std::fs::read(&path).unwrap();
        let text = Sqlite::open(directory.path(), Options::default()).err().unwrap().to_string();
        assert!(text.contains(expect) && text.contains(&path.display().to_string()), "{text}");
        assert_eq!(std::fs::read(&path).unwrap(), before, "{statements}");
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("state.db"), vec![b'x'; 10_000]).unwrap();
    let text = Sqlite::open(directory.path(), Options::default()).err().unwrap().to_string();
    assert!(text.contains("not a database"), "{text}");
}

//! What only the stores of one process promise: how far behind a watcher may be, and what is on disk when.

use std::sync::Arc;
use std::time::Duration;

use kybern_storage::lock::LockError;
use kybern_storage::memory::Memory;
use kybern_storage::sqlite::{self, Inspection, OpenError, Options, SnapshotError, Sqlite};
use kybern_storage::{KeyValue, Storage, StorageError, Txn, Write};

use crate::{range, value};

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

/// What a scan shows, by key.
async fn scanned(storage: &Sqlite, prefix: &str, at: u64) -> Result<Vec<KeyValue>, StorageError> {
    let (sender, shown) = std::sync::mpsc::channel();
    let scan = storage.scan(prefix, at).await?;
    scan.for_each(move |piece| piece.into_iter().for_each(|item| sender.send(item).unwrap())).await?;
    let mut shown: Vec<_> = shown.into_iter().collect();
    shown.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(shown)
}

/// Makes, replaces and deletes some of a hundred keys, in revisions of several writes.
async fn churn(storage: &Sqlite, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let writes = (0..1 + n % 5).map(|i| {
            let key = format!("/{}/{}", if i == 3 { "b" } else { "a" }, (n * 37 + i * 61) % 100).into();
            if (n + i) % 3 == 0 { Write::Delete(key) } else { Write::Put(key, value(&n.to_string())) }
        });
        storage.txn(Txn { guards: Vec::new(), writes: writes.collect() }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_shows_what_lived_at_a_revision_whatever_is_written_and_forgotten_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Arc::new(Sqlite::open(directory.path(), Options { history: 1_000_000 }).unwrap());
    churn(&storage, 0..700).await;
    storage.compact(300).await.unwrap();
    let last = storage.revision().await.unwrap();
    for at in [300, 301, 450, last - 1, last] {
        for prefix in ["/", "/a/", "/b/", "/c/"] {
            let expect = range(&*storage, prefix, Some(at)).await.unwrap().items;
            assert_eq!(scanned(&storage, prefix, at).await.unwrap(), expect, "{prefix} at {at}");
            assert_eq!(expect.is_empty(), prefix == "/c/");
        }
    }
    let at = storage.revision().await.unwrap();
    let expect = range(&*storage, "/", Some(at)).await.unwrap().items;
    let writer = storage.clone();
    let writing = tokio::spawn(async move {
        for round in 7..30 {
            churn(&writer, round * 100..(round + 1) * 100).await;
            writer.compact((at - 50 + round * 4).min(at)).await.unwrap();
        }
    });
    while !writing.is_finished() {
        assert!(scanned(&storage, "/", at).await.unwrap() == expect);
    }
    writing.await.unwrap();
    storage.compact(at + 1).await.unwrap();
    assert!(matches!(scanned(&storage, "/", at).await, Err(StorageError::Compacted { .. })));
}

/// All pages of a range.
async fn paged(storage: &Sqlite, prefix: &str, at: u64) -> Vec<KeyValue> {
    let (mut all, mut after): (Vec<KeyValue>, Arc<str>) = (Vec::new(), "".into());
    loop {
        let request = kybern_storage::RangeRequest { prefix, after: &after, limit: 97, at: Some(at) };
        let page = storage.range(request).await.unwrap();
        all.extend(page.items);
        match all.last() {
            Some(last) if page.more => after = last.key.clone(),
            _ => return all,
        }
    }
}

/// More keys than are left to be replayed, so that the table of keys is always behind, and catches up on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_show_what_lived_however_far_the_table_of_keys_is() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Arc::new(Sqlite::open(directory.path(), Options { history: 1_000_000 }).unwrap());
    let mut seen = Vec::new();
    for round in 0..12_u64 {
        let writers: Vec<_> = (0..8_u64)
            .map(|task| {
                let storage = storage.clone();
                tokio::spawn(async move {
                    for n in 0..25 {
                        let writes = (0..10).map(|i| {
                            let number = (round * 8 + task) * 250 + n * 10 + i;
                            let key = format!("/{}/{:05}", number % 3, number * 7919 % 6007).into();
                            if number % 5 == 4 {
                                Write::Delete(key)
                            } else {
                                Write::Put(key, value(&number.to_string()))
                            }
                        });
                        storage.txn(Txn { guards: Vec::new(), writes: writes.collect() }).await.unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        let at = storage.revision().await.unwrap();
        seen.push((at, scanned(&storage, "/", at).await.unwrap()));
    }
    for (at, expect) in &seen {
        assert!(paged(&storage, "/", *at).await == *expect, "at {at}");
        let of_one: Vec<_> = expect.iter().filter(|item| item.key.starts_with("/1/")).cloned().collect();
        assert!(paged(&storage, "/1/", *at).await == of_one, "of one prefix at {at}");
    }
    // As after a crash, and as a server of the first format left it.
    let (last, expect) = seen.last().unwrap();
    let copy = tempfile::tempdir().unwrap();
    for name in ["state.db", "state.db-wal"] {
        std::fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
    }
    let recovered = Sqlite::open(copy.path(), Options { history: 1_000_000 }).unwrap();
    assert!(paged(&recovered, "/", *last).await == *expect);
    assert_eq!(Inspection::open(&copy.path().join("state.db")).unwrap().list("/").unwrap().len(), expect.len());
    drop(recovered);
    let recovered = reopen(copy.path()).await;
    assert!(paged(&recovered, "/", *last).await == *expect);
    drop(recovered);
    drop(reopen(copy.path()).await);
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let connection = rusqlite::Connection::open(copy.path().join("state.db")).unwrap();
    connection
        .execute_batch("UPDATE meta SET value = 1 WHERE name = 'format'; DELETE FROM meta WHERE name = 'applied'")
        .unwrap();
    drop(connection);
    assert_eq!(Inspection::open(&copy.path().join("state.db")).unwrap().list("/").unwrap().len(), expect.len());
    sqlite::verify(&copy.path().join("state.db")).unwrap();
    let older = reopen(copy.path()).await;
    assert!(paged(&older, "/", *last).await == *expect);
    let at = older.txn(Txn::create("/new".into(), value("1"))).await.unwrap();
    assert_eq!(
        (
            at,
            older
                .range(kybern_storage::RangeRequest { prefix: "/new", after: "", limit: 1, at: None })
                .await
                .unwrap()
                .items
                .len()
        ),
        (last + 1, 1)
    );
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

/// The log stays short while much is written, though no commit moves it, and nothing is lost by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_stays_short_under_load() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Arc::new(Sqlite::open(directory.path(), Options::default()).unwrap());
    let large = bytes::Bytes::from(vec![b'x'; 16 << 10]);
    let writers: Vec<_> = (0..8)
        .map(|task| {
            let (storage, large) = (storage.clone(), large.clone());
            tokio::spawn(async move {
                for n in 0..1000 {
                    storage.txn(Txn::create(format!("/{task}/{n}").into(), large.clone())).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    // 8,000 values of 16 KB are 128 MB and more.
    let log = std::fs::metadata(directory.path().join("state.db-wal")).unwrap().len();
    assert!(log < 96 << 20, "the log has {log} bytes");
    let (copy, copied) = (tempfile::tempdir().unwrap(), range(&*storage, "/7/999", None).await.unwrap());
    assert_eq!(copied.items.len(), 1);
    for name in ["state.db", "state.db-wal"] {
        std::fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
    }
    let recovered = Sqlite::open(copy.path(), Options::default()).unwrap();
    assert_eq!(recovered.revision().await.unwrap(), 8001);
}

/// While a server writes, a copy is taken, and put back elsewhere: all of one revision, with its history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_taken_under_load_is_put_back_whole() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let storage = Arc::new(Sqlite::open(from.path(), Options::default()).unwrap());
    for n in 0..200 {
        let at = storage.txn(Txn::create(format!("/registry/pods/ns/{n}").into(), value("1"))).await.unwrap();
        storage.txn(Txn::update(format!("/registry/pods/ns/{n}").into(), at, value("2"))).await.unwrap();
    }
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let busy = {
        let (storage, stop) = (storage.clone(), stop.clone());
        tokio::spawn(async move {
            for n in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                storage.txn(Txn::create(format!("/registry/events/ns/{n}").into(), value("x"))).await.unwrap();
            }
        })
    };
    let file = to.path().join("copies.db");
    let before = storage.revision().await.unwrap();
    let (directory, target) = (from.path().to_owned(), file.clone());
    let summary = tokio::task::spawn_blocking(move || sqlite::backup(&directory, &target)).await.unwrap().unwrap();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    busy.await.unwrap();
    assert!(summary.revision >= before, "{summary:?}");
    let exists = sqlite::backup(from.path(), &file).unwrap_err();
    assert!(matches!(exists, SnapshotError::Exists { .. }), "{exists}");

    let place = to.path().join("server");
    let (restored, replaced) = sqlite::restore(&file, &place).unwrap();
    assert_eq!((restored, replaced), (summary, None));
    let copy = Sqlite::open(&place, Options::default()).unwrap();
    assert_eq!(copy.revision().await.unwrap(), summary.revision);
    let refused = sqlite::restore(&file, &place).unwrap_err();
    assert!(matches!(refused, SnapshotError::Lock(LockError::Held { .. })), "{refused}");
    for at in [5, 100, before, summary.revision] {
        let [here, there] =
            [range(&*storage, "/", Some(at)).await.unwrap(), range(&copy, "/", Some(at)).await.unwrap()];
        assert_eq!(here.items, there.items, "at {at}");
    }
    let mut watch = copy.watch("/registry/pods/", 1).await.unwrap();
    assert_eq!(watch.next().await.unwrap().events.len(), 400, "the history is there");
    let next = copy.txn(Txn::create("/registry/pods/ns/new".into(), value("1"))).await.unwrap();
    assert_eq!(next, summary.revision + 1);
    drop(copy);
    reopen(&place).await;

    // Once more over what is there, which is kept.
    let (_, replaced) = loop {
        match sqlite::restore(&file, &place) {
            Err(SnapshotError::Lock(LockError::Held { .. })) => tokio::time::sleep(Duration::from_millis(10)).await,
            done => break done.unwrap(),
        }
    };
    let kept = sqlite::verify(&replaced.unwrap()).unwrap();
    assert_eq!(kept.revision, summary.revision + 1, "what was replaced is kept");
    let copy = Sqlite::open(&place, Options::default()).unwrap();
    assert_eq!(copy.revision().await.unwrap(), summary.revision);
}

#[tokio::test]
async fn what_is_damaged_is_neither_taken_for_a_copy_nor_put_back() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let storage = Sqlite::open(from.path(), Options::default()).unwrap();
    for n in 0..300 {
        storage.txn(Txn::create(format!("/registry/pods/ns/{n}").into(), value(&"v".repeat(500)))).await.unwrap();
    }
    // The table of keys knows all of them now.
    storage.compact(301).await.unwrap();
    let file = to.path().join("copy.db");
    sqlite::backup(from.path(), &file).unwrap();
    let whole = std::fs::read(&file).unwrap();
    let place = to.path().join("server");
    std::fs::create_dir(&place).unwrap();
    let mut torn = whole.clone();
    torn.truncate(whole.len() / 2);
    let mut turned = whole.clone();
    // In the middle of a value, where SQLite's own check sees nothing.
    let value_at = whole.windows(100).rposition(|bytes| bytes.iter().all(|b| *b == b'v')).unwrap();
    turned[value_at] = b'w';
    for (what, bytes) in [("torn", torn), ("turned", turned), ("foreign", vec![b'x'; 10_000]), ("empty", Vec::new())] {
        std::fs::write(&file, bytes).unwrap();
        let error = sqlite::restore(&file, &place).unwrap_err().to_string();
        assert!(error.contains("copy.db"), "{what}: {error}");
        assert!(!place.join(sqlite::FILE).exists(), "{what}");
    }
    // The tables disagree, which SQLite cannot know.
    std::fs::write(&file, &whole).unwrap();
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.execute("DELETE FROM current WHERE key = '/registry/pods/ns/7'", []).unwrap();
    drop(connection);
    let error = sqlite::restore(&file, &place).unwrap_err().to_string();
    assert!(error.contains("/registry/pods/ns/7"), "{error}");
    let missing = sqlite::restore(&to.path().join("none.db"), &place).unwrap_err().to_string();
    assert!(missing.contains("none.db"), "{missing}");
}

#[tokio::test]
async fn a_store_in_use_can_be_looked_into() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Sqlite::open(directory.path(), Options::default()).unwrap();
    storage.txn(Txn::create("/registry/pods/ns/a".into(), value("one"))).await.unwrap();
    storage.txn(Txn::update("/registry/pods/ns/a".into(), 2, value("three"))).await.unwrap();
    storage.txn(Txn::create("/registry/minions/n".into(), value("node"))).await.unwrap();
    storage.txn(Txn::delete("/registry/pods/ns/a".into(), 3)).await.unwrap();
    storage.txn(Txn::create("/registry/pods/ns/b".into(), value("b"))).await.unwrap();
    let inspection = Inspection::open(&directory.path().join(sqlite::FILE)).unwrap();
    let keys: Vec<_> = inspection.list("/registry/").unwrap().into_iter().map(|l| (l.key, l.mod_revision)).collect();
    assert_eq!(keys, [("/registry/minions/n".to_owned(), 4), ("/registry/pods/ns/b".to_owned(), 6)]);
    let get = |at| inspection.get("/registry/pods/ns/a", at).unwrap().map(|kv| kv.value);
    assert_eq!(
        [get(None), get(Some(4)), get(Some(2)), get(Some(1))],
        [None, Some(value("three")), Some(value("one")), None]
    );
    let history: Vec<_> =
        inspection.history("/registry/pods/ns/a").unwrap().into_iter().map(|c| (c.revision, c.value)).collect();
    assert_eq!(history, [(2, Some(value("one"))), (3, Some(value("three"))), (5, None)]);
    let stats = inspection.stats().unwrap();
    assert_eq!((stats.revision, stats.oldest, stats.keys, stats.writes), (6, 1, 2, 5));
    assert_eq!(stats.kinds, [("minions".to_owned(), 1, 4), ("pods".to_owned(), 1, 1)]);
}

#[tokio::test]
async fn of_copies_made_by_the_clock_the_last_ones_stay() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("snapshots");
    let storage = Sqlite::open(directory.path(), Options::default()).unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("mine.db"), "not a copy").unwrap();
    for n in 1..=4 {
        storage.txn(Txn::create(format!("/{n}").into(), value("x"))).await.unwrap();
        let (path, summary) =
            sqlite::keep_copies(directory.path(), &folder, &format!("2026-01-0{n}T00-00-00Z"), 2).unwrap();
        assert_eq!((sqlite::verify(&path).unwrap(), summary.keys), (summary, n));
    }
    let mut names: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["mine.db", "snapshot-2026-01-03T00-00-00Z.db", "snapshot-2026-01-04T00-00-00Z.db"]);
    // A copy that cannot be made removes none.
    let error = sqlite::keep_copies(&directory.path().join("none"), &folder, "2026-01-05T00-00-00Z", 1).unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
    assert!(folder.join("snapshot-2026-01-03T00-00-00Z.db").exists());
}

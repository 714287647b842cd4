use kybern_apimachinery::time::SystemClock;

use super::super::host::Life;
use super::*;

fn disk(faults: Faults) -> Arc<Disk> {
    Disk::new(Random::new(1), faults, Arc::new(|_, _| {}))
}

async fn mounted(disk: &Arc<Disk>) -> (watch::Sender<Life>, Arc<Mount>) {
    let (life, host) = Host::start(Arc::new(SystemClock));
    (life, disk.mount(host).await.unwrap())
}

fn put(key: &str) -> Txn {
    Txn::create(key.into(), Bytes::new())
}

fn is_unavailable<T>(result: Result<T, StorageError>) -> bool {
    matches!(result, Err(StorageError::Unavailable(_)))
}

#[tokio::test(start_paused = true)]
async fn a_commit_without_an_answer_has_happened_and_a_refused_one_has_not() {
    let disk = disk(Faults { unanswered_commit: 1.0, ..Faults::default() });
    let (_life, mount) = mounted(&disk).await;
    assert!(is_unavailable(mount.txn(put("/a")).await));
    assert_eq!((mount.revision().await.unwrap(), disk.written(2).unwrap().len()), (2, 1));
    disk.set_faults(Faults { failed_commit: 1.0, ..Faults::default() });
    assert!(mount.txn(put("/b")).await.is_err());
    assert_eq!((mount.revision().await.unwrap(), disk.written(3)), (2, None));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_refuses_reads_ends_watches_and_comes_back() {
    let disk = disk(Faults::default());
    let ((_one, cut_off), (_two, other)) = (mounted(&disk).await, mounted(&disk).await);
    let mut watch = cut_off.watch("/", 1).await.unwrap();
    cut_off.lose(Duration::from_secs(20));
    assert!(is_unavailable(watch.next().await) && is_unavailable(cut_off.watch("/", 1).await));
    assert!(is_unavailable(cut_off.revision().await) && is_unavailable(cut_off.txn(put("/a")).await));
    other.txn(put("/b")).await.unwrap();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(cut_off.revision().await.unwrap(), 2);
    assert_eq!(cut_off.watch("/", 1).await.unwrap().next().await.unwrap().revision, 2);
}

#[tokio::test(start_paused = true)]
async fn who_was_told_of_less_than_is_kept_begins_anew() {
    let disk = disk(Faults { watch_lag: Duration::from_secs(1), ..Faults::default() });
    let ((_one, mount), is_compacted) = (mounted(&disk).await, |error| matches!(error, StorageError::Compacted { .. }));
    let mut watch = mount.watch("/", 1).await.unwrap();
    mount.txn(put("/a")).await.unwrap();
    disk.compact().await.unwrap();
    assert!(watch.next().await.is_err_and(is_compacted));
    assert!(mount.watch("/", 1).await.is_err_and(is_compacted));
    // Who was told of all is not concerned, and what is forgotten stays so after a crash of all.
    let mut watch = mount.watch("/", 2).await.unwrap();
    disk.compact().await.unwrap();
    mount.txn(put("/b")).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, 3);
    mount.crash();
    assert_eq!(mounted(&disk).await.1.oldest().await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stands_still_waits_for_its_own_going_on() {
    let disk = disk(Faults::default());
    let (life, mount) = mounted(&disk).await;
    life.send_replace(Life::Stands);
    assert!(tokio::time::timeout(Duration::from_secs(60), mount.txn(put("/a"))).await.is_err());
    let late = mount.txn(put("/b"));
    life.send_replace(Life::Runs);
    assert_eq!(late.await.unwrap(), 2);
}

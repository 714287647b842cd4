//! What is committed together with an object, with other servers on the same store.

use std::collections::BTreeSet;
use std::sync::Arc;

use kybern_apimachinery::{ApiError, Reason, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation};
use kybern_apiserver::strategy::{Strategy, StrategyContext};
use kybern_apiserver::transaction::{CommitStep, StepError, Transaction};
use kybern_storage::memory::Memory;
use kybern_storage::sqlite::Sqlite;
use kybern_storage::{Guard, RangeRequest, Storage, Txn, Write};

use crate::fixture::*;

/// Gives each ConfigMap one of a few numbers, which it picks without knowing which are taken.
struct Numbers {
    storage: Arc<dyn Storage>,
    count: u32,
}

fn key(number: &str) -> Arc<str> {
    format!("/registry/numbers/{number}").into()
}

async fn taken(storage: &dyn Storage) -> BTreeSet<String> {
    let request = RangeRequest { prefix: "/registry/numbers/", after: "", limit: 1000, at: None };
    let page = storage.range(request).await.unwrap();
    page.items.iter().map(|kv| kv.key.rsplit('/').next().unwrap().to_owned()).collect()
}

impl Strategy for Numbers {
    fn claims(&self) -> bool {
        true
    }
    fn claim<'a>(
        &'a self,
        _: &'a StrategyContext<'a>,
        object: &'a mut Value,
        old: Option<&'a Value>,
        transaction: &'a Transaction,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            if old.is_some() {
                return Ok(());
            }
            // What was chosen by the try before is not what was asked for.
            assert!(object["data"].get("number").is_none(), "{object}");
            let known = taken(&*self.storage).await;
            let free = (0..self.count).map(|n| n.to_string()).find(|n| !known.contains(n));
            let free = free.ok_or_else(|| ApiError::new(Reason::Conflict, "all numbers are taken"))?;
            // Others choose, too.
            tokio::task::yield_now().await;
            transaction.guard(Guard::Absent(key(&free)));
            transaction.write(Write::Put(key(&free), object::name(object).to_owned().into()));
            object::set(object, &["data", "number"], free);
            Ok(())
        })
    }
    fn release<'a>(&'a self, object: &'a Value, transaction: &'a Transaction) -> BoxFuture<'a, Result<(), ApiError>> {
        transaction.write(Write::Delete(key(object["data"]["number"].as_str().unwrap_or(""))));
        Box::pin(async { Ok(()) })
    }
}

async fn numbered(storage: Arc<dyn Storage>, count: u32) -> Client {
    Client::with(|options| {
        let strategy = Arc::new(Numbers { storage: storage.clone(), count });
        options.resources = vec![row("", "v1", "ConfigMap", true, strategy)];
        options.storage = storage;
    })
    .await
}

async fn two_servers_share_numbers(storage: Arc<dyn Storage>) {
    let servers = [numbered(storage.clone(), 30).await, numbered(storage.clone(), 30).await];
    let tasks = (0..40).map(|i| {
        let client = Client { server: servers[i % 2].server.clone(), user: "admin" };
        tokio::spawn(async move { client.post(CONFIG_MAPS, config_map(&format!("c{i}"), "")).await })
    });
    let mut numbers = BTreeSet::new();
    let mut refused = 0;
    for task in tasks.collect::<Vec<_>>() {
        let answer = task.await.unwrap();
        if answer.code == 409 {
            refused += 1;
            continue;
        }
        let number = answer.ok()["data"]["number"].as_str().unwrap().to_owned();
        assert!(numbers.insert(number.clone()), "{number} was given twice");
    }
    assert_eq!((numbers.len(), refused), (30, 10));
    assert_eq!(numbers, taken(&*storage).await);
    // A name that is taken and a dry run claim nothing; a deletion frees in the same transaction.
    let [first, second] = servers;
    let name = object::name(&first.get(CONFIG_MAPS).await.ok()["items"][0]).to_owned();
    first.delete(&format!("{CONFIG_MAPS}/{name}")).await.ok();
    assert_eq!(taken(&*storage).await.len(), 29);
    let other = object::name(&first.get(CONFIG_MAPS).await.ok()["items"][0]).to_owned();
    assert_eq!(second.post(CONFIG_MAPS, config_map(&other, "")).await.code, 409);
    second.post(&format!("{CONFIG_MAPS}?dryRun=All"), config_map("dry", "")).await.ok();
    assert_eq!(taken(&*storage).await.len(), 29);
    second.post(CONFIG_MAPS, config_map("last", "")).await.ok();
    assert_eq!(taken(&*storage).await.len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_never_claim_one_thing_twice_in_memory() {
    two_servers_share_numbers(Arc::new(Memory::default())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_never_claim_one_thing_twice_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    two_servers_share_numbers(Arc::new(Sqlite::open(directory.path(), Default::default()).unwrap())).await;
}

/// Counts what is created in a key that all writers share, up to a limit.
struct Counts {
    storage: Arc<dyn Storage>,
    limit: u64,
}

struct Count {
    storage: Arc<dyn Storage>,
    limit: u64,
}

impl CommitStep for Count {
    fn run<'a>(&'a mut self, txn: &'a mut Txn) -> BoxFuture<'a, Result<(), StepError>> {
        Box::pin(async move {
            let key: Arc<str> = "/registry/count".into();
            let request = RangeRequest { prefix: &key, after: "", limit: 1, at: None };
            let page = self.storage.range(request).await.unwrap();
            let (count, guard) = match page.items.first() {
                None => (0, Guard::Absent(key.clone())),
                Some(kv) => {
                    let count: u64 = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
                    (count, Guard::At(key.clone(), kv.mod_revision))
                }
            };
            if count == self.limit {
                return Err(ApiError::new(Reason::Forbidden, "enough").into());
            }
            txn.guards.push(guard);
            txn.writes.push(Write::Put(key, (count + 1).to_string().into()));
            Ok(())
        })
    }
}

impl AdmissionPlugin for Counts {
    fn name(&self) -> &'static str {
        "Counts"
    }
    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        _: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        if request.operation == Operation::Create {
            request.transaction.at_commit(Count { storage: self.storage.clone(), limit: self.limit });
        }
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admission_charges_what_is_committed_and_nothing_else() {
    let storage: Arc<dyn Storage> = Arc::new(Memory::default());
    let server = |storage: Arc<dyn Storage>| {
        Client::with(|options| {
            options.admission = vec![Arc::new(Counts { storage: storage.clone(), limit: 50 })];
            options.storage = storage;
        })
    };
    let servers = [server(storage.clone()).await, server(storage.clone()).await];
    let tasks = (0..80).map(|i| {
        let client = Client { server: servers[i % 2].server.clone(), user: "admin" };
        // Every name twice: one of the two exists.
        tokio::spawn(async move { client.post(CONFIG_MAPS, config_map(&format!("c{}", i / 2), "")).await.code })
    });
    let mut made = 0;
    for task in tasks.collect::<Vec<_>>() {
        made += u32::from(task.await.unwrap() == 201);
    }
    assert_eq!(made, 40);
    let request = RangeRequest { prefix: "/registry/count", after: "", limit: 1, at: None };
    assert_eq!(storage.range(request).await.unwrap().items[0].value, "40", "what was refused is not charged");
    for i in 0..10 {
        servers[0].post(CONFIG_MAPS, config_map(&format!("more{i}"), "")).await.ok();
    }
    let (code, text) = servers[1].post(CONFIG_MAPS, config_map("over", "")).await.status();
    assert_eq!((code, text.as_str()), (403, "enough"));
}

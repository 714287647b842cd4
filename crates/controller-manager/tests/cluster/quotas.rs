//! Quotas with their controller: counted when they are new, given back when objects go, and never exceeded meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use kybern_api::core::v1::{ConfigMap, ResourceQuota};
use kybern_apimachinery::{Gvr, Value, json};
use kybern_client::{ClientError, DeleteOptions};

use crate::fixture::Cluster;

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "work"}})
}

async fn used(cluster: &Cluster, name: &str) -> Option<String> {
    let status = cluster.get::<ResourceQuota>("work", "all").await?.status?;
    status.used?.get(name).map(|amount| amount.0.clone())
}

async fn until_used(cluster: &Cluster, name: &str, expect: &str) {
    cluster.until(&format!("{name} to be {expect}"), async |c| used(c, name).await.as_deref() == Some(expect)).await;
}

async fn with_quota(hard: Value) -> Cluster {
    let cluster = Cluster::start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "work"}});
    cluster.create(namespace, "namespaces").await;
    // What the namespace is furnished with counts, too.
    cluster.until("the CA bundle", async |c| c.get::<ConfigMap>("work", "kube-root-ca.crt").await.is_some()).await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "all", "namespace": "work"}, "spec": {"hard": hard}});
    cluster.create(quota, "resourcequotas").await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_is_given_back() {
    let hard =
        json!({"configmaps": "3", "count/deployments.apps": "1", "services": "5", "count/widgets.example.com": "1"});
    let cluster = with_quota(hard).await;
    until_used(&cluster, "configmaps", "1").await;
    until_used(&cluster, "count/deployments.apps", "0").await;
    assert_eq!(used(&cluster, "count/widgets.example.com").await, None, "there is no such resource");
    let maps = cluster.client.raw(&Gvr::new("", "v1", "configmaps"));
    for name in ["a", "b"] {
        maps.create(&map(name)).await.expect("there is room");
    }
    assert_eq!(used(&cluster, "configmaps").await.as_deref(), Some("3"), "at once");
    let refusal = maps.create(&map("c")).await.expect_err("it is full").to_string();
    assert!(refusal.contains("exceeded quota: all, requested: configmaps=1, used: configmaps=3"), "{refusal}");
    cluster.client.delete::<ConfigMap>("work", "a", &DeleteOptions::default()).await.unwrap();
    until_used(&cluster, "configmaps", "2").await;
    maps.create(&map("c")).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_and_goes_never_exceeds() {
    const ROOM: i64 = 6;
    let cluster = with_quota(json!({"configmaps": (ROOM + 1).to_string()})).await;
    until_used(&cluster, "configmaps", "1").await;
    let (there, most, made) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let workers = (0..8).map(|worker| {
        let (there, most, made) = (there.clone(), most.clone(), made.clone());
        let maps = cluster.client.raw(&Gvr::new("", "v1", "configmaps"));
        async move {
            for i in 0..150 {
                let name = format!("m{worker}-{i}");
                match maps.create(&map(&name)).await {
                    Ok(_) => {
                        most.fetch_max(there.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        made.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        // It is gone at the earliest when it is asked for.
                        there.fetch_sub(1, Ordering::SeqCst);
                        maps.delete("work", &name, &DeleteOptions::default()).await.expect("it was there");
                    }
                    Err(ClientError::Api(error)) if error.code() == 403 => {
                        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    });
    futures_util::future::join_all(workers).await;
    assert!(most.load(Ordering::SeqCst) <= ROOM, "{most:?} at once");
    assert!(made.load(Ordering::SeqCst) > ROOM, "what went was given back: {made:?}");
    until_used(&cluster, "configmaps", "1").await;
}

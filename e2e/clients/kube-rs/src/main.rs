//! Does to a cluster, in the namespace given, what programs of kube-rs do. The kubeconfig is $KUBECONFIG's.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{
    AttachParams, DeleteParams, EvictParams, ListParams, LogParams, Patch, PatchParams, PostParams, Preconditions,
    PropagationPolicy,
};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PATIENCE: Duration = Duration::from_secs(90);

fn step(name: &str) {
    println!("ok: {name}");
}

async fn until<F: Future<Output = bool>>(what: &str, mut reached: impl FnMut() -> F) {
    let end = Instant::now() + PATIENCE;
    while !reached().await {
        assert!(Instant::now() < end, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object")
}

#[track_caller]
fn refused<T: Debug>(code: u16, result: kube::Result<T>) {
    match result {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, code, "{status:?}"),
        other => panic!("not refused with {code}: {other:?}"),
    }
}

fn shell(script: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": "busybox", "command": ["sh", "-c", script]}],
    })
}

async fn config_maps(client: &Client, namespace: &str) -> kube::Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let post = PostParams::default();
    let first: ConfigMap = object(json!({"metadata": {"name": "first"}, "data": {"a": "1"}}));
    let made = maps.create(&post, &first).await?;
    refused(409, maps.create(&post, &first).await);
    let patched = maps.patch("first", &PatchParams::default(), &Patch::Merge(json!({"data": {"b": "2"}}))).await?;
    assert_eq!(patched.data, Some(BTreeMap::from([("a".into(), "1".into()), ("b".into(), "2".into())])));
    refused(409, maps.replace("first", &post, &made).await);
    let apply = |value: &str| {
        Patch::Apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "first"}, "data": {"c": value},
        }))
    };
    maps.patch("first", &PatchParams::apply("one"), &apply("3")).await?;
    refused(409, maps.patch("first", &PatchParams::apply("two"), &apply("4")).await);
    let forced = maps.patch("first", &PatchParams::apply("two").force(), &apply("4")).await?;
    assert_eq!(forced.data.as_ref().map(|data| data["c"].as_str()), Some("4"));
    assert!(maps.get_opt("absent").await?.is_none());
    refused(422, maps.create(&post, &object(json!({"metadata": {"name": "Not a name"}}))).await);
    for n in 0..7 {
        let page = object(json!({"metadata": {"name": format!("page-{n}"), "labels": {"of": "pages"}}}));
        maps.create(&post, &page).await?;
    }
    let (mut names, mut list) = (0, ListParams::default().labels("of=pages").limit(3));
    loop {
        let page = maps.list(&list).await?;
        names += page.items.len();
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => list = list.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(names, 7);
    let pages = ListParams::default().labels("of=pages");
    maps.delete_collection(&DeleteParams::background().grace_period(0), &pages).await?;
    assert!(maps.list(&pages).await?.items.is_empty());
    let of = |uid: Option<String>| DeleteParams::default().preconditions(Preconditions { uid, resource_version: None });
    refused(409, maps.delete("first", &of(Some("another".into()))).await);
    maps.delete("first", &of(made.uid())).await?;
    step("ConfigMaps: create, patch, apply, list in pages, delete one and many");
    Ok(())
}

async fn watching(client: &Client, namespace: &str) -> kube::Result<()> {
    for streaming in [true, false] {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let config = if streaming { watcher::Config::default().streaming_lists() } else { watcher::Config::default() };
        let mut told = std::pin::pin!(watcher(secrets.clone(), config).default_backoff().touched_objects());
        let mut next = async || {
            let told = tokio::time::timeout(PATIENCE, told.try_next()).await.expect("told in time");
            told.expect("a watch").expect("a watch does not end").name_any()
        };
        let secret: Secret = object(json!({"metadata": {"name": "seen"}, "stringData": {"k": "v"}}));
        secrets.create(&PostParams::default(), &secret).await?;
        assert_eq!(next().await, "seen");
        secrets.patch("seen", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": "eA=="}}))).await?;
        // The first list may have seen it either way.
        secrets.delete("seen", &DeleteParams::default()).await?;
        assert_eq!(next().await, "seen");
    }
    step("a watcher, with a streamed list and a plain one");
    Ok(())
}

async fn pod(client: &Client, namespace: &str) -> kube::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let worker: Pod = object(json!({"metadata": {"name": "worker"}, "spec": shell("echo ready; exec sleep 3600")}));
    pods.create(&PostParams::default(), &worker).await?;
    let phase = || async {
        let pod = pods.get("worker").await.expect("the pod");
        pod.status.and_then(|s| s.phase).as_deref() == Some("Running")
    };
    until("the worker runs", phase).await;
    let log = || async { pods.logs("worker", &LogParams::default()).await.is_ok_and(|log| log == "ready\n") };
    until("its log", log).await;
    let streams = AttachParams::default().stdin(true).stdout(true).stderr(true);
    let mut running =
        pods.exec("worker", ["sh", "-c", "read line; echo $line; echo err >&2; exit 3"], &streams).await?;
    let ended = running.take_status().expect("a status");
    let (mut out, mut err) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (running.stdout().expect("stdout"), running.stderr().expect("stderr"));
    running.stdin().expect("stdin").write_all(b"typed\n").await.expect("written");
    stdout.read_to_string(&mut out).await.expect("read");
    stderr.read_to_string(&mut err).await.expect("read");
    assert_eq!((out.as_str(), err.as_str()), ("typed\n", "err\n"));
    let status = ended.await.expect("a status");
    assert_eq!((status.status.as_deref(), status.reason.as_deref()), (Some("Failure"), Some("NonZeroExitCode")));
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    // kube-rs sends the options of the deletion under a name that no server knows; those of the request arrive.
    let dry = EvictParams {
        delete_options: Some(now.clone()),
        post_options: PostParams { dry_run: true, ..PostParams::default() },
    };
    pods.evict("worker", &dry).await?;
    assert!(pods.get("worker").await?.metadata.deletion_timestamp.is_none(), "a dry run evicted");
    pods.evict("worker", &EvictParams { delete_options: Some(now), post_options: PostParams::default() }).await?;
    until("the evicted pod's end", || async { pods.get_opt("worker").await.expect("an answer").is_none() }).await;
    step("a pod: log, exec with all streams, eviction");
    Ok(())
}

async fn deployment(client: &Client, namespace: &str) -> kube::Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let web: Deployment = object(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": shell("exec sleep 3600")},
        },
    }));
    deployments.create(&PostParams::default(), &web).await?;
    let ready = async |count: i32| {
        let deployment = deployments.get_status("web").await.expect("the deployment");
        deployment.status.and_then(|s| s.ready_replicas) == Some(count)
    };
    until("one replica", || ready(1)).await;
    let scale = Patch::Merge(json!({"spec": {"replicas": 2}}));
    let scaled = deployments.patch_scale("web", &PatchParams::default(), &scale).await?;
    assert_eq!(scaled.spec.and_then(|s| s.replicas), Some(2));
    until("two replicas", || ready(2)).await;
    let foreground =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() };
    deployments.delete("web", &foreground).await?;
    until("the deployment's end", || async { deployments.get_opt("web").await.expect("an answer").is_none() }).await;
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
    assert!(sets.list(&ListParams::default()).await?.items.is_empty(), "in the foreground dependents go first");
    step("a Deployment: roll out, scale, delete in the foreground");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let namespace = std::env::args().nth(1).ok_or("give a namespace")?;
    let client = Client::try_default().await?;
    assert_eq!(client.apiserver_version().await?.minor, "35");
    config_maps(&client, &namespace).await?;
    watching(&client, &namespace).await?;
    pod(&client, &namespace).await?;
    deployment(&client, &namespace).await?;
    Ok(())
}

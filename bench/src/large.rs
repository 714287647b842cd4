//! 150,000 pods of 4 KB: what they cost in memory, how long a start takes, and that neither a write nor an event costs more
//! because of them.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use kybern_apimachinery::{Gvr, Value, json};
use kybern_client::{Client, Patch};

use crate::connection::{Dialer, JSON, PROTOBUF};
use crate::memory::Processor;
use crate::report::{Budget, Report, percentile};
use crate::server::Server;
use crate::{Site, memory};

const PODS: u32 = 150_000;
const PODS_PATH: &str = "/api/v1/pods";
/// Clients that create and update at once, each on a connection of its own.
const CLIENTS: usize = 8;
const AT_ONCE: usize = 64;
/// Updates of which the cost is taken.
const UPDATES: u32 = 4_000;
const STARTS: usize = 3;
const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = 1024.0 * MIB;

pub(crate) async fn measure(site: &Site) -> Result<Report> {
    let mut report = Report::default();
    let (server, _) = Server::start(site, "large").await?;
    let clients: Vec<Client> = (0..CLIENTS).map(|_| server.client()).collect::<Result<_>>()?;
    // As the service account controller would.
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "default"}});
    clients[0].raw(&Gvr::new("", "v1", "serviceaccounts")).create(&account).await?;
    let empty = memory::resident(server.pid());
    let some = create(&clients, 0..UPDATES).await?;
    let few = update(&server, &clients).await?;
    let more = create(&clients, UPDATES..PODS).await?;
    let json = (some + more) as f64 / MIB;
    report.add("a pod's JSON", json * MIB / f64::from(PODS), "B", Budget::None);
    let held = memory::resident(server.pid()) - empty;
    report.add("memory with 150,000 pods, just written", held / 1024.0, "GiB", Budget::None);
    report.add("… by their JSON", held / json, "×", Budget::AtMost(1.5));
    let many = update(&server, &clients).await?;
    report.add("an update: processor time among 4,000 pods", few, "µs", Budget::None);
    report.add("an update: processor time among 150,000 pods, by that", many / few, "×", Budget::AtMost(1.2));
    drop((clients, server));
    let (mut times, mut processor) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let (server, time) = Server::start(site, "large").await?;
        times.push(time.as_secs_f64());
        processor.push(memory::processor_seconds(server.pid()));
    }
    let note = format!("{:.2} s of processor time", percentile(&mut processor, 50.0));
    let start = percentile(&mut times, 50.0);
    report.add_with("start to /readyz with 150,000 pods on disk", start, "s", Budget::AtMost(0.5), note);
    let (server, _) = Server::start(site, "large").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let resident = (memory::resident(server.pid()) - empty) * MIB;
    report.add("memory with 150,000 pods, after a start", resident / GIB, "GiB", Budget::AtMost(1.1e9 / GIB));
    report.add("… by their JSON", resident / MIB / json, "×", Budget::AtMost(1.5));
    lists(&server, &mut report).await?;
    Ok(report)
}

/// Lists of all, one after the other; those in protobuf before and after lengths are known.
async fn lists(server: &Server, report: &mut Report) -> Result<()> {
    let mut connection = Dialer::new(server)?.dial().await?;
    for (what, accept, path) in [
        ("JSON", JSON, PODS_PATH.to_owned()),
        ("protobuf, the first", PROTOBUF, PODS_PATH.to_owned()),
        ("protobuf, the next", PROTOBUF, PODS_PATH.to_owned()),
        ("protobuf, 500 of them", PROTOBUF, format!("{PODS_PATH}?limit=500")),
    ] {
        let before = memory::resident(server.pid());
        memory::forget_peak(server.pid())?;
        let processor = Processor::of(server.pid());
        let answer = connection.take(&path, accept).await?;
        let cores = processor.cores();
        let rate = answer.bytes as f64 / 1e6 / answer.whole.as_secs_f64();
        let note = format!("{cores}; {:.0} MB", answer.bytes as f64 / 1e6);
        report.add_with(format!("LIST of 150,000 pods, {what}"), rate, "MB/s", Budget::None, note);
        let first = answer.first_byte.as_secs_f64() * 1e3;
        report.add(format!("LIST of 150,000 pods, {what}: first byte"), first, "ms", Budget::AtMost(20.0));
        let more = memory::peak(server.pid()) - before;
        report.add(format!("LIST of 150,000 pods, {what}: memory besides"), more, "MiB", Budget::AtMost(10.0));
    }
    Ok(())
}

/// Answers the length of their JSON.
async fn create(clients: &[Client], numbers: std::ops::Range<u32>) -> Result<usize> {
    let one = |number: u32| async move {
        let pods = clients[number as usize % CLIENTS].raw(&Gvr::new("", "v1", "pods"));
        let created = pods.create(&pod(number)).await.context("cannot create a pod")?;
        anyhow::Ok(created.to_string().len())
    };
    stream::iter(numbers).map(one).buffer_unordered(AT_ONCE).try_fold(0, |all, one| async move { Ok(all + one) }).await
}

/// Updates pods, and answers the server's processor time for each in microseconds.
async fn update(server: &Server, clients: &[Client]) -> Result<f64> {
    let before = memory::processor_seconds(server.pid());
    let one = |number: u32| async move {
        let pods = clients[number as usize % CLIENTS].raw(&Gvr::new("", "v1", "pods"));
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"changed": number.to_string()}}}));
        pods.patch("default", &format!("pod-{number}"), &patch, None).await.map(drop)
    };
    stream::iter(0..UPDATES).map(one).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    Ok((memory::processor_seconds(server.pid()) - before) / f64::from(UPDATES) * 1e6)
}

/// A pod of about 4 KB, as it is stored.
pub(crate) fn pod(number: u32) -> Value {
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example.com/team/{name}:v1.{}", number % 100),
            "args": ["--listen=0.0.0.0:8080", "--log-level=info"],
            "ports": [{"name": name, "containerPort": 8080}],
            "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "SETTING", "value": "x".repeat(900)}],
            "resources": {"requests": {"cpu": "100m", "memory": "200Mi"}, "limits": {"memory": "400Mi"}},
            "volumeMounts": [{"name": "settings", "mountPath": "/etc/settings"}],
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5},
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{number}"), "namespace": "default",
            "labels": {"app": format!("app-{}", number % 500), "pod-template-hash": "5d4f8c7b9"}},
        "spec": {
            "nodeName": format!("node-{}", number % 1_000), "automountServiceAccountToken": false,
            "containers": [container("web")],
            "volumes": [{"name": "settings", "configMap": {"name": format!("settings-{}", number % 500)}}],
        },
    })
}

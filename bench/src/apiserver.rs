//! `kybern kube-apiserver` alone: start, memory, GET, LIST, durable CREATE, at first empty and then with 38,000 objects.

use std::time::Duration;

use anyhow::Result;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use kybern_apimachinery::{Gvr, json};
use kybern_client::Client;

use crate::connection::{Dialer, JSON, PROTOBUF};
use crate::load::Target;
use crate::report::{Budget, Report, percentile};
use crate::server::Server;
use crate::{Site, load, memory};

const OBJECTS: u32 = 38_000;
/// The value of one key, so that an object is about 1 KB, and of the large ones about 1.7 KB.
const SMALL_VALUE: usize = 700;
const LARGE_VALUE: usize = 1_450;
const SECONDS: u32 = 4;
const MIB: f64 = 1024.0 * 1024.0;

pub(crate) async fn measure(site: &Site) -> Result<Report> {
    let mut report = Report::default();
    let mut starts = Vec::new();
    for run in 0..5 {
        let (_server, time) = Server::start(site, &format!("start-{run}")).await?;
        starts.push(time.as_secs_f64());
    }
    report.add("kube-apiserver: start to /readyz, fresh data", percentile(&mut starts, 50.0), "s", Budget::AtMost(0.3));

    let (server, _) = Server::start(site, "load").await?;
    let client = server.client()?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    report.add("kube-apiserver: resident memory, idle", memory::resident(server.pid()), "MiB", Budget::AtMost(40.0));

    create_one(&client, "bench", SMALL_VALUE).await?;
    let target = Target::server(server.pid());
    let collection = "/api/v1/namespaces/default/configmaps";
    let path = format!("{collection}/bench");
    for (connections, budget) in [(16, Budget::AtLeast(40_000.0)), (64, Budget::None), (256, Budget::None)] {
        let outcome = load::run(target, &path, connections, SECONDS, None)?;
        let what = format!("GET a ConfigMap, {connections} connections");
        report.add_with(what, outcome.requests_per_second, "/s", budget, outcome.note());
    }
    let script = site.folder.join("create.lua");
    std::fs::write(&script, create_script())?;
    for (connections, rate, p99) in [
        (16, Budget::None, Budget::None),
        (64, Budget::AtLeast(20_000.0), Budget::AtMost(12.0)),
        (256, Budget::None, Budget::None),
    ] {
        let outcome = load::run(target, collection, connections, SECONDS, Some(&script))?;
        let what = format!("durable CREATE of a 1 KB ConfigMap, {connections} connections");
        report.add_with(what, outcome.requests_per_second, "/s", rate, outcome.note());
        report.add(format!("durable CREATE, {connections} connections, p50"), outcome.p50, "ms", Budget::None);
        report.add(format!("durable CREATE, {connections} connections, p99"), outcome.p99, "ms", p99);
    }
    let mixed = site.folder.join("mixed.lua");
    std::fs::write(&mixed, MIXED)?;
    let outcome = load::run(target, &path, 64, SECONDS, Some(&mixed))?;
    let what = "mixed: 8 GETs, 1 page of 20, 1 PATCH; 64 connections";
    report.add_with(what, outcome.requests_per_second, "/s", Budget::None, outcome.note());
    report.add("mixed: p99", outcome.p99, "ms", Budget::None);
    drop((client, server));

    let (server, _) = Server::start(site, "many").await?;
    let client = server.client()?;
    let empty = memory::resident(server.pid());
    let sizes = stream::iter(0..OBJECTS)
        .map(|n| create(&client, format!("object-{n}"), LARGE_VALUE))
        .buffer_unordered(64)
        .try_collect::<Vec<usize>>()
        .await?;
    let json = sizes.iter().sum::<usize>() as f64 / MIB;
    let held = memory::resident(server.pid()) - empty;
    report.add("memory per stored object, by its JSON", held / json, "×", Budget::AtMost(1.5));
    let (list, target) = (collection, Target::server(server.pid()));
    first_bytes(&server, list, &mut report).await?;
    let before = memory::resident(server.pid());
    memory::forget_peak(server.pid())?;
    let outcome = load::run(target, list, 4, SECONDS, None)?;
    let (what, budget) = ("LIST of 38,000 ConfigMaps, 4 connections", Budget::AtLeast(1_300.0));
    report.add_with(what, outcome.megabytes_per_second, "MB/s", budget, outcome.cores.to_string());
    let script = site.folder.join("protobuf.lua");
    std::fs::write(&script, "wrk.headers['Accept'] = 'application/vnd.kubernetes.protobuf'\n")?;
    let outcome = load::run(target, list, 4, SECONDS, Some(&script))?;
    let (what, budget) = ("the same LIST in protobuf, 4 connections", Budget::AtLeast(800.0));
    report.add_with(what, outcome.megabytes_per_second, "MB/s", budget, outcome.cores.to_string());
    let more = memory::peak(server.pid()) - before;
    report.add("memory that these lists need besides", more, "MiB", Budget::AtMost(10.0));
    let outcome = load::run(target, &path.replace("bench", "object-7"), 16, SECONDS, None)?;
    report.add(
        "GET a ConfigMap among 38,000, 16 connections",
        outcome.requests_per_second,
        "/s",
        Budget::AtLeast(40_000.0),
    );
    report.add(
        "kube-apiserver: resident memory with 38,000 ConfigMaps",
        memory::resident(server.pid()),
        "MiB",
        Budget::AtMost(150.0),
    );
    drop((client, server));
    let (server, time) = Server::start(site, "many").await?;
    report.add("kube-apiserver: start to /readyz with 38,000 ConfigMaps", time.as_secs_f64(), "s", Budget::None);
    report.add("… and its resident memory", memory::resident(server.pid()), "MiB", Budget::AtMost(150.0));
    Ok(report)
}

/// Until the first byte of a list, when nobody has asked for one before.
async fn first_bytes(server: &Server, list: &str, report: &mut Report) -> Result<()> {
    let mut connection = Dialer::new(server)?.dial().await?;
    for (what, accept) in [("JSON", JSON), ("protobuf", PROTOBUF)] {
        let first = connection.take(list, accept).await?.first_byte.as_secs_f64() * 1e3;
        report.add(format!("the first LIST, {what}: first byte"), first, "ms", Budget::AtMost(20.0));
    }
    Ok(())
}

/// Requests in turn: eight reads of an object, a page, a write.
const MIXED: &str = r#"
local turn = 0
local patch = { ["Content-Type"] = "application/merge-patch+json" }
request = function()
  turn = turn + 1
  local kind = turn % 10
  if kind == 0 then
    for name, value in pairs(wrk.headers) do patch[name] = value end
    return wrk.format("PATCH", nil, patch, '{"data":{"turn":"' .. turn .. '"}}')
  elseif kind == 5 then
    return wrk.format("GET", "/api/v1/namespaces/default/configmaps?limit=20")
  end
  return wrk.format("GET")
end
"#;

async fn create_one(client: &Client, name: &str, bytes: usize) -> Result<()> {
    create(client, name.to_owned(), bytes).await?;
    Ok(())
}

/// Answers the length of the object's JSON.
async fn create(client: &Client, name: String, bytes: usize) -> Result<usize> {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": {"value": "x".repeat(bytes)},
    });
    let created = client.raw(&Gvr::new("", "v1", "configmaps")).create(&object).await?;
    Ok(created.to_string().len())
}

/// Names are generated by the server, so that repeated runs do not collide.
pub(crate) fn create_script() -> String {
    format!(
        "wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\n\
         wrk.body = '{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"generateName\":\"load-\"}},\"data\":{{\"value\":\"' .. \
         string.rep('x', {SMALL_VALUE}) .. '\"}}}}'\n"
    )
}

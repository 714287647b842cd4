//! CREATE of a custom resource whose schema has 200 properties and 10 rules, beside that of a ConfigMap of the same size.

use std::time::Duration;

use anyhow::{Result, ensure};
use kybern_apimachinery::{Gvr, Map, Value, json};
use kybern_client::Client;

use crate::load::{self, Target};
use crate::report::{Budget, Report};
use crate::server::Server;
use crate::{Site, apiserver};

const PROPERTIES: usize = 200;
const RULES: usize = 10;
/// Of the properties, those that each object has.
const SET: usize = 40;
const CONNECTIONS: u32 = 64;
const SECONDS: u32 = 4;

pub(crate) async fn measure(site: &Site) -> Result<Report> {
    let mut report = Report::default();
    let (server, _) = Server::start(site, "custom").await?;
    define(&server.client()?).await?;
    let target = Target::server(server.pid());
    let script = site.folder.join("configmap.lua");
    std::fs::write(&script, apiserver::create_script())?;
    let built_in = load::run(target, "/api/v1/namespaces/default/configmaps", CONNECTIONS, SECONDS, Some(&script))?;
    let what = format!("durable CREATE of a 1 KB ConfigMap, {CONNECTIONS} connections");
    report.add_with(what, built_in.requests_per_second, "/s", Budget::None, built_in.note());
    let script = site.folder.join("custom.lua");
    std::fs::write(&script, create_script())?;
    let path = "/apis/bench.kybern.example/v1/namespaces/default/things";
    let custom = load::run(target, path, CONNECTIONS, SECONDS, Some(&script))?;
    let what = format!("the same of a custom resource: {PROPERTIES} properties, {RULES} rules");
    report.add_with(what, custom.requests_per_second, "/s", Budget::None, custom.note());
    report.add("custom resource, p99", custom.p99, "ms", Budget::None);
    let share = custom.requests_per_second / built_in.requests_per_second * 100.0;
    report.add("… of the built-in rate", share, "%", Budget::AtLeast(70.0));
    Ok(report)
}

fn name(n: usize) -> String {
    format!("field{n}")
}

/// Texts, numbers, lists and objects in turn.
fn property(n: usize) -> Value {
    match n % 4 {
        0 => json!({"type": "string", "maxLength": 64, "pattern": "^[a-z0-9-]+$"}),
        1 => json!({"type": "integer", "minimum": 0, "maximum": 1_000_000, "default": n}),
        2 => json!({"type": "array", "maxItems": 8, "items": {"type": "string", "maxLength": 32}}),
        _ => json!({"type": "object", "properties": {"name": {"type": "string"}, "on": {"type": "boolean"}}}),
    }
}

fn value(n: usize) -> Value {
    match n % 4 {
        0 => "some-text-of-a-field".into(),
        1 => n.into(),
        2 => json!(["one", "two"]),
        _ => json!({"name": "x", "on": true}),
    }
}

fn rule(n: usize) -> Value {
    let (text, number) = (name(4 * n), name(4 * n + 1));
    let rule = format!("!has(self.{text}) || self.{text}.size() < 64 && self.{number} >= 0");
    json!({"rule": rule, "message": "no"})
}

async fn define(client: &Client) -> Result<()> {
    let properties: Map<String, Value> = (0..PROPERTIES).map(|n| (name(n), property(n))).collect();
    let rules: Vec<Value> = (0..RULES).map(rule).collect();
    let schema = json!({"type": "object", "properties": {"spec": {
        "type": "object", "properties": properties, "x-kubernetes-validations": rules}}});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.bench.kybern.example"},
        "spec": {
            "group": "bench.kybern.example", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    });
    let definitions = client.raw(&Gvr::new("apiextensions.k8s.io", "v1", "customresourcedefinitions"));
    definitions.create(&definition).await?;
    for _ in 0..500 {
        let now = definitions.get("", "things.bench.kybern.example").await?;
        let conditions = now["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ensure!(false, "the definition is not established");
    Ok(())
}

fn create_script() -> String {
    let spec: Map<String, Value> = (0..SET).map(|n| (name(n), value(n))).collect();
    let object = json!({"apiVersion": "bench.kybern.example/v1", "kind": "Thing", "metadata": {"generateName": "load-"}, "spec": spec});
    format!("wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\nwrk.body = '{object}'\n")
}

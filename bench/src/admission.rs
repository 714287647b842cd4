//! What admission costs: a CREATE that is not kept, one after the other on one connection, without and with 20 policies of three
//! expressions each, and with validating webhooks that take a while.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use base64::Engine;
use bytes::Bytes;
use http::{Request, Response};
use kybern_apimachinery::{Gvr, Value, json};
use kybern_client::{Client, DeleteOptions, body};
use kybern_testbed::https::{HttpsOptions, HttpsServer, TestCa};

use crate::Site;
use crate::report::{Budget, Report, percentile};
use crate::server::Server;

const POLICIES: usize = 20;
const REQUESTS: usize = 2_000;
const GROUP: &str = "admissionregistration.k8s.io";
const WEBHOOKS: usize = 5;
/// A webhook's time for an answer: far more than a call costs by itself.
const WEBHOOK_TIME: Duration = Duration::from_millis(5);

pub(crate) async fn measure(site: &Site) -> Result<Report> {
    let mut report = Report::default();
    let (server, _) = Server::start(site, "admission").await?;
    let client = server.client()?;
    let plain = median(&client).await?;
    report.add("CREATE, not kept, p50", plain, "µs", Budget::None);
    webhooks(&client, plain, &mut report).await?;
    for n in 0..POLICIES {
        install(&client, n).await?;
    }
    // Expressions are compiled when they are needed first.
    median(&client).await?;
    let judged = median(&client).await?;
    report.add("CREATE, not kept, with 20 policies, p50", judged, "µs", Budget::None);
    report.add("what 20 policies add to a CREATE", judged - plain, "µs", Budget::AtMost(50.0));
    Ok(report)
}

/// One webhook, then five, which are called at once.
async fn webhooks(client: &Client, plain: f64, report: &mut Report) -> Result<()> {
    let ca = TestCa::new("webhooks");
    let server = HttpsServer::start(HttpsOptions::new(&ca.issue(&["127.0.0.1"])), allow).await;
    let hooks: Vec<Value> = (0..WEBHOOKS)
        .map(|n| {
            json!({
                "name": format!("hook{n}.example.com"),
                "clientConfig": {
                    "url": format!("{}/{n}", server.url()),
                    "caBundle": base64::engine::general_purpose::STANDARD.encode(&ca.pem),
                },
                "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
                "sideEffects": "None", "admissionReviewVersions": ["v1"],
            })
        })
        .collect();
    let configurations = client.raw(&Gvr::new(GROUP, "v1", "validatingwebhookconfigurations"));
    let mut added = Vec::new();
    for count in [1, WEBHOOKS] {
        let name = format!("bench-{count}");
        let configuration = json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name}, "webhooks": hooks[..count],
        });
        configurations.create(&configuration).await?;
        // Connections are made when they are needed first.
        median_of(client, 20).await?;
        added.push(median_of(client, REQUESTS / 10).await? - plain);
        configurations.delete("", &name, &DeleteOptions::default()).await?;
    }
    report.add("what a webhook of 5 ms adds to a CREATE", added[0], "µs", Budget::None);
    report.add(format!("what {WEBHOOKS} of them add, by that"), added[1] / added[0], "×", Budget::AtMost(1.2));
    Ok(())
}

async fn allow(call: Request<Bytes>) -> Response<Bytes> {
    tokio::time::sleep(WEBHOOK_TIME).await;
    let review: Value = serde_json::from_slice(call.body()).unwrap_or_default();
    let answer = json!({
        "kind": "AdmissionReview", "apiVersion": review["apiVersion"],
        "response": {"uid": review["request"]["uid"], "allowed": true},
    });
    Response::new(Bytes::from(answer.to_string()))
}

async fn install(client: &Client, n: usize) -> Result<()> {
    let policy = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ValidatingAdmissionPolicy", "metadata": {"name": format!("p{n}")},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"],
            }]},
            "validations": [
                {"expression": "object.metadata.generateName.startsWith('load-')"},
                {"expression": "has(object.data) && object.data.size() < 10"},
                {"expression": "object.data.all(key, key.matches('^[a-z]+$'))"},
            ],
        },
    });
    client.raw(&Gvr::new(GROUP, "v1", "validatingadmissionpolicies")).create(&policy).await?;
    let binding = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": format!("p{n}")}, "spec": {"policyName": format!("p{n}"), "validationActions": ["Deny"]},
    });
    client.raw(&Gvr::new(GROUP, "v1", "validatingadmissionpolicybindings")).create(&binding).await?;
    Ok(())
}

/// Microseconds.
async fn median(client: &Client) -> Result<f64> {
    median_of(client, REQUESTS).await
}

async fn median_of(client: &Client, requests: usize) -> Result<f64> {
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "load-"}, "data": {"value": "x".repeat(700)},
    })
    .to_string();
    let mut times = Vec::with_capacity(requests);
    for _ in 0..requests {
        let request = http::Request::post("/api/v1/namespaces/default/configmaps?dryRun=All")
            .header("content-type", "application/json")
            .body(body::full(object.clone()))?;
        let started = Instant::now();
        let response = client.request(request).await?;
        let status = response.status();
        let answer = body::collect(response.into_body(), 1 << 20).await;
        times.push(started.elapsed().as_secs_f64() * 1e6);
        if !status.is_success() {
            bail!("a CREATE was answered {status}: {answer:?}");
        }
    }
    Ok(percentile(&mut times, 50.0))
}

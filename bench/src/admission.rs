//! What policies cost: a CREATE that is not kept, one after the other on one connection, without and with 20 policies of three
//! expressions each.

use std::time::Instant;

use anyhow::{Result, bail};
use kybern_apimachinery::{Gvr, json};
use kybern_client::{Client, body};

use crate::Site;
use crate::report::{Budget, Report, percentile};
use crate::server::Server;

const POLICIES: usize = 20;
const REQUESTS: usize = 2_000;
const GROUP: &str = "admissionregistration.k8s.io";

pub(crate) async fn measure(site: &Site) -> Result<Report> {
    let mut report = Report::default();
    let (server, _) = Server::start(site, "admission").await?;
    let client = server.client()?;
    let plain = median(&client).await?;
    report.add("CREATE, not kept, p50", plain, "µs", Budget::None);
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
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "load-"}, "data": {"value": "x".repeat(700)},
    })
    .to_string();
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
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

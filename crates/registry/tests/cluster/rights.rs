//! Who may grant what, act as whom, and ask about whom: `rights.jsonl` holds requests in order with upstream's answers.
//! A message is cut (`…`) where upstream's goes on with managed fields, which reviews do not get here. What is no
//! `Status` has neither message nor reason.

use http::{Method, Request};
use kybern_apimachinery::{Value, json};
use kybern_apiserver::access::UserInfo;
use kybern_apiserver::body;

use crate::harness::Cluster;

fn user(name: &str) -> UserInfo {
    let (uid, groups): (_, &[&str]) = match name {
        "admin" => ("1", &["system:masters", "system:authenticated"]),
        "joe" => ("2", &["system:authenticated"]),
        "ann" => ("3", &["system:authenticated"]),
        _ => ("4", &["system:authenticated"]),
    };
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    UserInfo { name: name.to_owned(), uid: uid.to_owned(), groups, ..UserInfo::default() }
}

async fn ask(cluster: &Cluster, line: &Value) -> (u16, Value) {
    let (method, path) = line["ask"].as_str().unwrap().split_once(' ').unwrap();
    let method: Method = method.parse().unwrap();
    let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let mut request = Request::builder().method(method).uri(path).header("content-type", media);
    for (name, value) in line["headers"].as_object().into_iter().flatten() {
        request = request.header(name, value.as_str().unwrap());
    }
    let content = line.get("body").map_or_else(body::empty, |object| body::full(object.to_string()));
    let mut request = request.body(content).unwrap();
    request.extensions_mut().insert(user(line["who"].as_str().unwrap()));
    let response = cluster.server.handle(request).await;
    let code = response.status().as_u16();
    let bytes = body::read(response.into_body()).await.unwrap();
    (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

#[tokio::test]
async fn rights_are_upstreams() {
    let cluster = Cluster::start().await;
    let mut differences = Vec::new();
    for (number, line) in include_str!("rights.jsonl").lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        let (code, answer) = ask(&cluster, &line).await;
        let message = answer["message"].as_str().unwrap_or("");
        let expect = line["message"].as_str().unwrap_or("");
        let same = match expect.strip_suffix('…') {
            Some(begin) => message.starts_with(begin),
            None => message == expect,
        };
        let reason = answer.get("reason").filter(|reason| **reason != json!("")) == line.get("reason");
        let status = line.get("status").is_none_or(|status| answer["status"] == *status);
        if line["code"] != code || !same || (code >= 400 && !reason) || !status {
            differences.push(format!("{}: {line}\n  is {code} {answer}", number + 1));
        }
    }
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

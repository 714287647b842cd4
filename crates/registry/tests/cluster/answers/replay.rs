//! A recording's requests, sent in order to a fresh server, and what its answers are compared with.

use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::read::GzDecoder;
use http::{Method, Request};
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::access::UserInfo;
use kybern_apiserver::body;
use serde::Deserialize;

use super::normal::Normal;
use crate::harness::{Cluster, admin};

/// A request and upstream's answer to it; a line without an answer only prepares what follows.
#[derive(Deserialize)]
pub(super) struct Line {
    pub(super) id: String,
    method: String,
    path: String,
    #[serde(default)]
    body: Option<Value>,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    accept: Option<String>,
    #[serde(default)]
    status: Option<u16>,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default)]
    answer: Value,
    #[serde(skip)]
    sent: String,
}

impl Line {
    pub(super) fn read(path: &Path) -> impl Iterator<Item = Self> {
        let file = std::fs::File::open(path).unwrap();
        let lines = BufReader::new(GzDecoder::new(file)).lines();
        lines.map(|text| {
            let text = text.unwrap();
            let mut line: Self = serde_json::from_str(&text).unwrap();
            line.sent = as_sent(&text);
            line
        })
    }
}

/// The request's body as it was written when the answer was recorded: in its order, a space after each comma and colon.
/// Some refusals show its beginning.
fn as_sent(line: &str) -> String {
    let start = line.find(r#""body":"#).map_or(line.len(), |at| at + r#""body":"#.len());
    let mut values = serde_json::Deserializer::from_str(&line[start..]).into_iter::<serde::de::IgnoredAny>();
    values.next();
    let (mut sent, mut quoted, mut escaped) = (String::new(), false, false);
    for c in line[start..start + values.byte_offset()].chars() {
        sent.push(c);
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ',' | ':' if !quoted => sent.push(' '),
            _ => {}
        }
    }
    sent
}

pub(super) struct Replay {
    cluster: Cluster,
    normal: Normal,
}

impl Replay {
    pub(super) async fn start(managed_fields: bool) -> Self {
        let cluster = Cluster::start_with_services("10.96.0.0/16").await;
        cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "t1"}})).await;
        cluster.create("/api/v1/namespaces/t1/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
        cluster.server.keep_flow_conditions();
        let replay = Self { cluster, normal: Normal::new(managed_fields) };
        replay.conditions("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas").await;
        replay
    }

    /// Waits for the conditions of all objects of a kind: whoever recorded was slower than those who write them.
    async fn conditions(&self, path: &str) {
        let written = async {
            loop {
                let list = self.cluster.get(path).await;
                let mut items = list["items"].as_array().into_iter().flatten();
                if items.all(|item| item["status"]["conditions"].is_array()) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), written).await.expect("conditions are written");
    }

    /// `None` where there is nothing to compare.
    pub(super) async fn send(&mut self, line: &Line) -> Option<Difference> {
        let mut sent = line.sent.clone();
        if sent.contains(r#""<rv>""#) {
            let path = line.path.split('?').next().unwrap_or_default();
            let (_, live) = self.cluster.ask(Method::GET, path, None).await;
            sent = sent.replace("<rv>", object::resource_version(&live));
        }
        let content = line.body.as_ref().map_or_else(body::empty, |_| body::full(sent));
        let mut request = Request::builder()
            .method(line.method.as_str())
            .uri(&line.path)
            .header("content-type", line.content_type.as_deref().unwrap_or("application/json"))
            .header("user-agent", "python-requests/2")
            .header("accept", line.accept.as_deref().unwrap_or("application/json"))
            .body(content)
            .unwrap();
        // Upstream's token file gave its administrator an uid.
        request.extensions_mut().insert(UserInfo { uid: "admin".to_owned(), ..admin() });
        let response = self.cluster.server.handle(request).await;
        let code = response.status().as_u16();
        let warnings = response.headers().get_all("warning");
        let mut warnings: Vec<String> =
            warnings.iter().map(|w| String::from_utf8_lossy(w.as_bytes()).into_owned()).collect();
        warnings.sort();
        let bytes = body::read(response.into_body()).await.unwrap();
        let (path, query) = line.path.split_once('?').unwrap_or((&line.path, ""));
        if code == 201
            && ["/flowschemas", "/apiservices"].iter().any(|s| path.ends_with(s))
            && !query.contains("dryRun")
        {
            self.conditions(path).await;
        }
        line.status?;
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let mut answer = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
        self.normal.apply(&mut answer);
        let mut warnings = Value::from(warnings);
        self.normal.apply(&mut warnings);
        let warnings = warnings.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
        let mut expected = line.answer.clone();
        self.normal.apply(&mut expected);
        Some(Difference::against(line, expected, code, warnings.collect(), answer))
    }
}

/// What differs between upstream's answer and ours.
pub(super) struct Difference {
    code: Option<u16>,
    warnings: Option<Vec<String>>,
    /// Upstream's and ours.
    answer: Option<(Value, Value)>,
}

impl Difference {
    pub(super) fn between(line: &Line, code: u16, warnings: Vec<String>, answer: Value) -> Self {
        Self::against(line, line.answer.clone(), code, warnings, answer)
    }

    fn against(line: &Line, expected: Value, code: u16, warnings: Vec<String>, answer: Value) -> Self {
        Self {
            code: (Some(code) != line.status).then_some(code),
            warnings: (warnings != line.warnings).then_some(warnings),
            answer: (answer != expected).then_some((expected, answer)),
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.code.is_none() && self.warnings.is_none() && self.answer.is_none()
    }

    /// One line of JSON.
    pub(super) fn describe(&self, file: &str, line: &Line) -> Value {
        let mut told = json!({"file": file, "id": line.id, "method": line.method, "path": line.path, "body": line.body,
            "code": line.status});
        if let Some(code) = self.code {
            told["our code"] = code.into();
        }
        if let Some(warnings) = &self.warnings {
            told["warnings"] = line.warnings.clone().into();
            told["our warnings"] = warnings.clone().into();
        }
        if let Some((expected, answer)) = &self.answer {
            let mut differences = Vec::new();
            compare(String::new(), expected, answer, &mut differences);
            told["differences"] = differences.into();
        }
        told
    }
}

/// `path: upstream's | ours`, for each place that differs.
fn compare(path: String, expected: &Value, found: &Value, differences: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(a), Value::Object(b)) => {
            let missing = b.keys().filter(|k| !a.contains_key(*k));
            for key in a.keys().chain(missing) {
                compare(format!("{path}.{key}"), &expected[key], &found[key], differences);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                compare(format!("{path}[{i}]"), a, b, differences);
            }
        }
        (a, b) if a != b => differences.push(format!("{path}: {a} | {b}")),
        _ => {}
    }
}

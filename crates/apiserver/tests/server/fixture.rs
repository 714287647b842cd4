//! A server with ConfigMaps, Pods, Deployments and Namespaces, and a client for it.

use std::sync::Arc;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Gvk, Gvr, Value, json, object};
use kybern_apiserver::access::{self, Attributes, Authorizer, Decision, UserInfo};
use kybern_apiserver::resource::{
    Column, Columns, Generation, Resource, Scale, SelectableField, StoredKind, Subresource, SubresourceHandler,
};
use kybern_apiserver::strategy::{Plain, Strategy, StrategyContext};
use kybern_apiserver::{Body, Options, Server, body};
use kybern_storage::Storage;
use kybern_storage::memory::Memory;

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

fn columns() -> Columns {
    let column = |name: &str, format: &str| Column {
        name: name.to_owned(),
        ty: "string".to_owned(),
        format: format.to_owned(),
        description: String::new(),
        priority: 0,
    };
    Columns {
        definitions: vec![column("Name", "name"), column("Kind", "")],
        cells: Arc::new(|object, _| vec![object::name(object).into(), object::kind(object).into()]),
        order: None,
    }
}

pub(crate) fn row(group: &str, version: &str, kind: &str, namespaced: bool, strategy: Arc<dyn Strategy>) -> Resource {
    let singular = kind.to_lowercase();
    let plural = format!("{singular}s");
    let gvk = Gvk::new(group, version, kind);
    let selectable =
        if kind == "Pod" { ["spec.nodeName", "status.phase"].map(SelectableField::at).into() } else { Vec::new() };
    Resource {
        gvr: Gvr::new(group, version, &plural),
        kind: kind.to_owned(),
        singular,
        namespaced,
        short_names: Vec::new(),
        categories: Vec::new(),
        verbs: VERBS.map(str::to_owned).into(),
        subresources: Vec::new(),
        ty: kybern_schema::builtin().kind(&gvk).unwrap(),
        schema: None,
        internal: gvk.clone(),
        stored: Arc::new(StoredKind {
            prefix: plural.clone(),
            gvk,
            resource: plural,
            namespaced,
            selectable,
            refusal: None,
            reader: None,
        }),
        conversion: None,
        strategy,
        generation: Generation::Spec,
        returns_deleted: false,
        columns: Arc::new(columns()),
        unstored: None,
    }
}

fn part(name: &str, kind: Gvk, handler: SubresourceHandler) -> Subresource {
    let verbs = ["get", "patch", "update"].map(str::to_owned).into();
    Subresource { name: name.to_owned(), verbs, kind, handler }
}

/// Deleted gracefully; a pod's node does not change.
struct Pods;
impl Strategy for Pods {
    fn graceful_deletion(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        let scheduled = !object::str_at(object, &["spec", "nodeName"]).is_empty();
        scheduled.then(|| requested.unwrap_or(30))
    }
    fn prepare_for_create(&self, _: &StrategyContext, object: &mut Value) {
        object::set(object, &["status", "phase"], "Pending");
    }
    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let node = |o: &Value| object::str_at(o, &["spec", "nodeName"]).to_owned();
        if node(object) == node(old) {
            return Vec::new();
        }
        vec![FieldError::forbidden(&FieldPath::new("spec.nodeName"), "field is immutable")]
    }
}

struct Namespaces;
impl Strategy for Namespaces {
    fn deletion_pending(&self, object: &Value) -> bool {
        object::at(object, &["spec", "finalizers"]).and_then(Value::as_array).is_some_and(|f| !f.is_empty())
    }
    fn prepare_for_create(&self, _: &StrategyContext, object: &mut Value) {
        object::set(object, &["spec", "finalizers"], json!(["kubernetes"]));
    }
    fn prepare_for_delete(&self, object: &mut Value) {
        object::set(object, &["status", "phase"], "Terminating");
    }
}

pub(crate) fn rows() -> Vec<Resource> {
    let mut pods = row("", "v1", "Pod", true, Arc::new(Pods));
    pods.returns_deleted = true;
    pods.subresources = vec![part("status", Gvk::new("", "v1", "Pod"), SubresourceHandler::Part(Arc::new(Plain)))];
    let mut deployments = row("apps", "v1", "Deployment", true, Arc::new(Plain));
    deployments.subresources = vec![
        part("status", Gvk::new("apps", "v1", "Deployment"), SubresourceHandler::Part(Arc::new(Plain))),
        part(
            "scale",
            Gvk::new("autoscaling", "v1", "Scale"),
            SubresourceHandler::Scale(Arc::new(Scale {
                spec_replicas: ["spec", "replicas"].map(str::to_owned).into(),
                status_replicas: ["status", "replicas"].map(str::to_owned).into(),
                selector: ["spec", "selector"].map(str::to_owned).into(),
                columns: columns(),
            })),
        ),
    ];
    let mut namespaces = row("", "v1", "Namespace", false, Arc::new(Namespaces));
    namespaces.subresources =
        vec![part("finalize", Gvk::new("", "v1", "Namespace"), SubresourceHandler::Part(Arc::new(Namespaces)))];
    vec![row("", "v1", "ConfigMap", true, Arc::new(Plain)), pods, deployments, namespaces]
}

/// `nobody` may do nothing, `changer` not create, everyone else everything.
pub(crate) struct Rules;
impl Authorizer for Rules {
    fn authorize<'a>(&'a self, attributes: &'a Attributes) -> access::Answer<'a> {
        let refused = match attributes.user.name.as_str() {
            "nobody" => true,
            "changer" => attributes.verb == "create",
            _ => false,
        };
        if refused { Decision::NoOpinion(String::new()) } else { Decision::Allow(None) }.into()
    }
}

pub(crate) struct Client {
    pub(crate) server: Arc<Server>,
    pub(crate) user: &'static str,
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) bytes: bytes::Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|e| panic!("{e}: {} {:?}", self.code, String::from_utf8_lossy(&self.bytes)))
    }

    /// The JSON of an answer that must be a success.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert!(self.code.is_success(), "{} {}", self.code, String::from_utf8_lossy(&self.bytes));
        self.json()
    }

    /// Code and message of an answer that must be a `Status`.
    #[track_caller]
    pub(crate) fn status(&self) -> (u16, String) {
        let status = self.json();
        assert_eq!(status["kind"], "Status", "{status}");
        assert_eq!(status["code"], self.code.as_u16());
        (self.code.as_u16(), status["message"].as_str().unwrap_or("").to_owned())
    }
}

impl Client {
    pub(crate) async fn new() -> Self {
        Self::on(Arc::new(Memory::default())).await
    }

    /// A server that differs.
    pub(crate) async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options::new(Arc::new(Memory::default()));
        options.resources = rows();
        options.authorizers = vec![Arc::new(Rules)];
        change(&mut options);
        Self { server: Server::start(options).await.unwrap(), user: "admin" }
    }

    pub(crate) async fn on(storage: Arc<dyn Storage>) -> Self {
        let mut options = Options::new(storage);
        options.resources = rows();
        options.authorizers = vec![Arc::new(Rules)];
        options.version = json!({"gitVersion": "v1.35.0"});
        Self { server: Server::start(options).await.unwrap(), user: "admin" }
    }

    pub(crate) async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let user = UserInfo { name: self.user.to_owned(), ..UserInfo::default() };
        self.server.handle(request.extension(user).body(body).unwrap()).await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<bytes::Bytes>,
    ) -> Answer {
        let response = self.raw(method, path, headers, body::full(body)).await;
        let (parts, body) = response.into_parts();
        Answer { code: parts.status, headers: parts.headers, bytes: body.collect().await.unwrap().to_bytes() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, object: Value) -> Answer {
        self.send("POST", path, &[], object.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, object: Value) -> Answer {
        self.send("PUT", path, &[], object.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], "").await
    }

    pub(crate) async fn patch(&self, path: &str, media: &str, patch: Value) -> Answer {
        self.send("PATCH", path, &[("content-type", media), ("user-agent", "test/1")], patch.to_string()).await
    }
}

pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/ns/configmaps";
pub(crate) const PODS: &str = "/api/v1/namespaces/ns/pods";
pub(crate) const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/ns/deployments";

pub(crate) fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"v": value}}, "data": {"k": value}})
}

pub(crate) fn pod(name: &str, node: &str) -> Value {
    let containers = json!([{"name": "c", "image": "i"}]);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers, "nodeName": node}})
}

pub(crate) fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    })
}

pub(crate) fn revision(object: &Value) -> u64 {
    object::resource_version(object).parse().unwrap()
}

pub(crate) fn pod_in(namespace: &str, name: &str, node: &str) -> Value {
    let mut pod = pod(name, node);
    object::set(&mut pod, &["metadata", "namespace"], namespace);
    pod
}

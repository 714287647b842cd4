//! An API server in a hundred lines: objects in a map, watches, merge patches. No validation, no defaults.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use kybern_apimachinery::{Value, json};
use kybern_client::{Body, BoxFuture, Transport, TransportError, body};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

/// Far above what anything here takes, also on a machine that is busy with other things.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

#[derive(Default)]
struct State {
    /// By resource, then by `namespace/name`.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    version: u64,
    /// How many tokens were issued.
    tokens: u64,
    watchers: Vec<(String, String, String, mpsc::UnboundedSender<Bytes>)>,
}

pub(crate) struct FakeApi {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

/// A request's coordinates.
struct Target {
    resource: String,
    namespace: String,
    name: String,
    subresource: String,
}

fn target(path: &str) -> Target {
    let mut parts = path.trim_start_matches('/').split('/');
    let skipped = if parts.next() == Some("api") { 1 } else { 2 };
    let mut parts = parts.skip(skipped).peekable();
    let namespace = match parts.next_if_eq(&"namespaces") {
        Some(_) => parts.next().unwrap_or("").to_owned(),
        None => String::new(),
    };
    let mut next = || parts.next().unwrap_or("").to_owned();
    Target { namespace, resource: next(), name: next(), subresource: next() }
}

fn key(object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or("").to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

fn selected(object: &Value, selector: &str) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        let (path, expect) = term.split_once('=').unwrap();
        let value = path.split('.').fold(object, |value, part| &value[part]);
        value.as_str() == Some(expect)
    })
}

fn merge(into: &mut Value, patch: &Value) {
    let (Some(map), Some(changes)) = (into.as_object_mut(), patch.as_object()) else {
        *into = patch.clone();
        if let Some(list) = into.as_array_mut() {
            list.retain(|item| item.get("$patch").is_none());
        }
        return;
    };
    for (name, change) in changes {
        match change {
            Value::Null => drop(map.remove(name)),
            change => merge(map.entry(name.clone()).or_insert_with(|| json!({})), change),
        }
    }
}

impl FakeApi {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: watch::Sender::new(0) })
    }

    /// Creates or replaces.
    pub(crate) fn put(&self, resource: &str, object: Value) -> Value {
        self.write(&mut self.state.lock(), resource, object)
    }

    /// Changes what is there, with nobody in between.
    fn change(&self, resource: &str, key: &str, change: impl FnOnce(&mut Value)) -> Option<Value> {
        let mut state = self.state.lock();
        let mut object = state.objects.get(resource)?.get(key)?.clone();
        change(&mut object);
        Some(self.write(&mut state, resource, object))
    }

    fn write(&self, state: &mut State, resource: &str, mut object: Value) -> Value {
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        let key = key(&object);
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", state.version).into();
        }
        let old = state.objects.entry(resource.to_owned()).or_default().insert(key, object.clone());
        state.notify(resource, if old.is_some() { "MODIFIED" } else { "ADDED" }, &object);
        self.changed.send_replace(state.version);
        object
    }

    pub(crate) fn get(&self, resource: &str, key: &str) -> Option<Value> {
        self.state.lock().objects.get(resource)?.get(key).cloned()
    }

    pub(crate) fn list(&self, resource: &str) -> Vec<Value> {
        self.state.lock().objects.get(resource).into_iter().flat_map(|m| m.values().cloned()).collect()
    }

    pub(crate) fn remove(&self, resource: &str, key: &str) -> Option<Value> {
        let mut state = self.state.lock();
        let mut object = state.objects.get_mut(resource)?.remove(key)?;
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.notify(resource, "DELETED", &object);
        self.changed.send_replace(state.version);
        Some(object)
    }

    /// What a user's delete does to a running pod.
    pub(crate) fn delete_gracefully(&self, key: &str, seconds: i64) {
        let deleted = self.change("pods", key, |pod| {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            pod["metadata"]["deletionGracePeriodSeconds"] = seconds.into();
        });
        deleted.expect("the pod is there");
    }

    /// Waits until `reached` holds; panics after ten seconds, showing the resource.
    pub(crate) async fn until(&self, resource: &str, key: &str, reached: impl Fn(Option<&Value>) -> bool) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !reached(self.get(resource, key).as_ref()) {
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!(
                "waited in vain; {resource} {key}: {:#}\nevents: {:?}",
                self.get(resource, key).unwrap_or_default(),
                self.events()
            );
        }
    }

    /// `reason: message` of every event.
    pub(crate) fn events(&self) -> Vec<String> {
        let text = |event: &Value, name: &str| event[name].as_str().unwrap_or("").to_owned();
        self.list("events").iter().map(|e| format!("{}: {}", text(e, "reason"), text(e, "message"))).collect()
    }

    /// Waits for an event that begins so.
    pub(crate) async fn until_event(&self, begin: &str) {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !self.events().iter().any(|event| event.starts_with(begin)) {
                changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("no event {begin:?} among {:?}", self.events());
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let (head, request_body) = request.into_parts();
        let sent = body::collect(request_body, 1 << 20).await.unwrap();
        let sent: Value = serde_json::from_slice(&sent).unwrap_or_default();
        let to = target(head.uri.path());
        let query: BTreeMap<String, String> =
            kybern_kubelet::server::query_pairs(head.uri.query().unwrap_or("")).into_iter().collect();
        let key = format!("{}/{}", to.namespace, to.name);
        let found = |object: Option<Value>| match object {
            Some(object) => reply(StatusCode::OK, object),
            None => reply(StatusCode::NOT_FOUND, status(404, "NotFound")),
        };
        match head.method {
            Method::GET if query.contains_key("watch") => self.watch(&to, &query),
            Method::GET if to.name.is_empty() => {
                let items = self.list(&to.resource);
                reply(StatusCode::OK, json!({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": items}))
            }
            Method::GET => found(self.get(&to.resource, &key)),
            Method::POST if to.subresource == "token" => {
                let seconds = sent["spec"]["expirationSeconds"].as_i64().unwrap();
                let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
                let mut state = self.state.lock();
                let number = state.tokens;
                state.tokens += 1;
                let token =
                    json!({"token": format!("token-{}-{number}", to.name), "expirationTimestamp": expires.to_string()});
                reply(StatusCode::CREATED, json!({"kind": "TokenRequest", "status": token}))
            }
            Method::POST => {
                if self.get(&to.resource, &crate::fake_api::key(&sent)).is_some() {
                    return reply(StatusCode::CONFLICT, status(409, "AlreadyExists"));
                }
                reply(StatusCode::CREATED, self.put(&to.resource, sent))
            }
            Method::PUT => reply(StatusCode::OK, self.put(&to.resource, sent)),
            Method::PATCH => found(self.change(&to.resource, &key, |object| merge(object, &sent))),
            Method::DELETE => found(self.remove(&to.resource, &key)),
            _ => reply(StatusCode::METHOD_NOT_ALLOWED, status(405, "MethodNotAllowed")),
        }
    }

    fn watch(&self, to: &Target, query: &BTreeMap<String, String>) -> Response<Body> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let selector = query.get("fieldSelector").cloned().unwrap_or_default();
        let mut state = self.state.lock();
        let matches = |object: &&Value| {
            selected(object, &selector)
                && (to.namespace.is_empty() || object["metadata"]["namespace"] == to.namespace.as_str())
        };
        let objects = state.objects.get(&to.resource).into_iter().flat_map(|m| m.values());
        for object in objects.filter(matches) {
            let _ = sender.send(line("ADDED", object));
        }
        let end = json!({"metadata": {
            "resourceVersion": state.version.to_string(), "annotations": {"k8s.io/initial-events-end": "true"},
        }});
        let _ = sender.send(line("BOOKMARK", &end));
        state.watchers.push((to.resource.clone(), to.namespace.clone(), selector, sender));
        let stream = futures_util::stream::poll_fn(move |cx| {
            receiver.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
        });
        Response::new(StreamBody::new(stream).boxed_unsync())
    }
}

impl State {
    fn notify(&mut self, resource: &str, kind: &str, object: &Value) {
        self.watchers.retain(|(watched, namespace, selector, sender)| {
            let matches = watched == resource
                && selected(object, selector)
                && (namespace.is_empty() || object["metadata"]["namespace"] == namespace.as_str());
            !matches || sender.send(line(kind, object)).is_ok()
        });
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code})
}

fn reply(code: StatusCode, value: Value) -> Response<Body> {
    let mut response = Response::new(body::full(value.to_string()));
    *response.status_mut() = code;
    response
}

/// The transport of a client of this server.
pub(crate) struct Wire(pub(crate) Arc<FakeApi>);

impl Transport for Wire {
    fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let api = self.0.clone();
        Box::pin(async move { Ok(api.answer(request).await) })
    }
}

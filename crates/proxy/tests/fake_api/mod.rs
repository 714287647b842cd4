//! An API server for tests of components that only watch.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use kybern_client::{Body, BoxFuture, Transport, TransportError};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// An API server that is a script: every watch begins with what there is and goes on with what is put later.
#[derive(Default)]
pub(crate) struct FakeApi(Mutex<BTreeMap<String, Resource>>);

#[derive(Default)]
struct Resource {
    objects: BTreeMap<String, Value>,
    version: u64,
    watchers: Vec<mpsc::UnboundedSender<Bytes>>,
}

impl FakeApi {
    /// Adds or replaces an object of a resource (its plural name).
    pub(crate) fn put(&self, resource: &str, mut object: Value) {
        let mut state = self.0.lock().unwrap();
        let resource = state.entry(resource.into()).or_default();
        resource.version += 1;
        object["metadata"]["resourceVersion"] = json!((resource.version + 10).to_string());
        let metadata = &object["metadata"];
        let name = format!("{}/{}", metadata["namespace"], metadata["name"]);
        let kind = if resource.objects.contains_key(&name) { "MODIFIED" } else { "ADDED" };
        resource.watchers.retain(|watcher| watcher.send(event(kind, &object)).is_ok());
        resource.objects.insert(name, object);
    }
}

fn event(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

impl Transport for FakeApi {
    fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        assert!(request.uri().query().is_some_and(|query| query.contains("watch=true")), "{}", request.uri());
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let mut state = self.0.lock().unwrap();
        let resource = state.entry(name).or_default();
        for object in resource.objects.values() {
            sender.send(event("ADDED", object)).unwrap();
        }
        let version = (resource.version + 10).to_string();
        let end =
            json!({"metadata": {"resourceVersion": version, "annotations": {"k8s.io/initial-events-end": "true"}}});
        sender.send(event("BOOKMARK", &end)).unwrap();
        resource.watchers.push(sender);
        let frames = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context))
            .map(|bytes| Ok(http_body::Frame::data(bytes)));
        Box::pin(async move { Ok(Response::new(StreamBody::new(frames).boxed_unsync())) })
    }
}

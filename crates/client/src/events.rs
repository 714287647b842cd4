//! Writes events about objects, in the background: callers never wait for them.

use std::sync::Arc;

use kybern_api::Object;
use kybern_apimachinery::time::{self, Clock};
use kybern_apimachinery::{GroupVersion, Gvr, Value, json};
use tokio::sync::mpsc;
use tracing::debug;

use crate::correlator::{Correlator, Identity, Verdict};
use crate::{Client, ClientError, Patch};

/// Events that may wait to be written; more are dropped, as upstream does.
const BACKLOG: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Normal,
    Warning,
}

/// `v1.ObjectReference`: what an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectRef {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    /// Such as `spec.containers{nginx}`.
    pub field_path: String,
}

impl ObjectRef {
    pub fn of<K: Object>(object: &K) -> Self {
        Self {
            api_version: GroupVersion::new(K::GROUP, K::VERSION).to_string(),
            kind: K::KIND.to_owned(),
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            uid: object.uid().to_owned(),
            resource_version: object.resource_version().to_owned(),
            field_path: String::new(),
        }
    }

    /// The same object, one of its containers: `spec.containers{name}`.
    #[must_use]
    pub fn with_field_path(mut self, path: impl Into<String>) -> Self {
        self.field_path = path.into();
        self
    }

    fn to_value(&self) -> Value {
        let fields = [
            ("apiVersion", &self.api_version),
            ("kind", &self.kind),
            ("namespace", &self.namespace),
            ("name", &self.name),
            ("uid", &self.uid),
            ("resourceVersion", &self.resource_version),
            ("fieldPath", &self.field_path),
        ];
        fields
            .into_iter()
            .filter(|(_, v)| !v.is_empty())
            .map(|(k, v)| (k.to_owned(), Value::from(v.as_str())))
            .collect()
    }
}

/// Records events of one source; clones share the queue.
#[derive(Clone)]
pub struct EventRecorder {
    sender: mpsc::Sender<Event>,
    clock: Arc<dyn Clock>,
}

struct Event {
    object: ObjectRef,
    kind: EventType,
    reason: String,
    message: String,
    at: jiff::Timestamp,
}

impl EventRecorder {
    /// Starts the writer on the current runtime; it ends when the last clone is dropped. `component` is upstream's name of
    /// the source (`deployment-controller`, `kubelet`), `host` the node's name or empty.
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let clock = client.clock().clone();
        let writer = Writer {
            client,
            component: component.to_owned(),
            host: host.to_owned(),
            correlator: Correlator::default(),
        };
        tokio::spawn(writer.run(receiver));
        Self { sender, clock }
    }

    /// Records that something happened. Never waits; drops the event when too many wait.
    pub fn event(&self, object: &ObjectRef, kind: EventType, reason: &str, message: impl Into<String>) {
        let event = Event {
            object: object.clone(),
            kind,
            reason: reason.to_owned(),
            message: message.into(),
            at: self.clock.now(),
        };
        if self.sender.try_send(event).is_err() {
            debug!(reason, "event dropped: too many wait");
        }
    }

    pub fn normal(&self, object: &ObjectRef, reason: &str, message: impl Into<String>) {
        self.event(object, EventType::Normal, reason, message);
    }

    pub fn warning(&self, object: &ObjectRef, reason: &str, message: impl Into<String>) {
        self.event(object, EventType::Warning, reason, message);
    }
}

struct Writer {
    client: Client,
    component: String,
    host: String,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Event>) {
        while let Some(event) = receiver.recv().await {
            if let Err(error) = self.write(&event).await {
                debug!(reason = event.reason, object = event.object.name, "cannot write an event: {error}");
            }
        }
    }

    async fn write(&mut self, event: &Event) -> Result<(), ClientError> {
        let o = &event.object;
        let identity = Identity {
            object: [&o.kind, &o.namespace, &o.name, &o.uid, &o.api_version, &o.field_path]
                .map(String::as_str)
                .join("\0"),
            what: format!("{:?}\0{}", event.kind, event.reason),
            message: event.message.clone(),
        };
        let name = format!("{}.{:x}", o.name, event.at.as_nanosecond());
        let events = self.client.raw(&Gvr::new("", "v1", "events"));
        match self.correlator.judge(&identity, &name, event.at) {
            Verdict::Drop => Ok(()),
            Verdict::Create { message } => events.create(&self.object(event, &name, &message, 1)).await.map(|_| ()),
            Verdict::Count { name: written, message, count } => {
                let patch = json!({"count": count, "message": message, "lastTimestamp": time::to_rfc3339(event.at)});
                match events.patch(namespace_of(o), &written, &Patch::Strategic(patch), None).await {
                    Err(error) if error.is_not_found() => {
                        // It expired meanwhile: begin anew.
                        self.correlator.forget(&written);
                        self.correlator.judge(&identity, &name, event.at);
                        events.create(&self.object(event, &name, &message, count)).await.map(|_| ())
                    }
                    result => result.map(|_| ()),
                }
            }
        }
    }

    fn object(&self, event: &Event, name: &str, message: &str, count: i64) -> Value {
        let at = time::to_rfc3339(event.at);
        let mut source = json!({"component": self.component});
        if !self.host.is_empty() {
            source["host"] = self.host.as_str().into();
        }
        json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace_of(&event.object)},
            "involvedObject": event.object.to_value(),
            "type": format!("{:?}", event.kind), "reason": event.reason, "message": message,
            "source": source, "reportingComponent": self.component, "reportingInstance": self.host,
            "firstTimestamp": at, "lastTimestamp": at, "count": count,
        })
    }
}

/// Events about cluster-scoped objects live in `default`.
fn namespace_of(object: &ObjectRef) -> &str {
    if object.namespace.is_empty() { "default" } else { &object.namespace }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use http_body_util::BodyExt;

    use super::*;
    use crate::{Body, BoxFuture, Transport, TransportError, body};

    /// Passes every request's method, path and body on.
    struct Tap(mpsc::UnboundedSender<(String, String, Value)>);

    impl Transport for Tap {
        fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
            let sender = self.0.clone();
            Box::pin(async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&body).unwrap();
                sender.send((parts.method.to_string(), parts.uri.to_string(), body)).unwrap();
                Ok(Response::new(body::full("{}")))
            })
        }
    }

    #[tokio::test]
    async fn an_event_is_created_and_then_counted() {
        let (sender, mut seen) = mpsc::unbounded_channel();
        let recorder = EventRecorder::new(Client::new(Arc::new(Tap(sender))), "tester", "");
        let node = ObjectRef { api_version: "v1".into(), kind: "Node".into(), name: "n1".into(), ..Default::default() };
        recorder.warning(&node, "Odd", "something is odd");
        recorder.warning(&node, "Odd", "something is odd");
        let (method, path, body) = seen.recv().await.unwrap();
        assert_eq!((method.as_str(), path.as_str()), ("POST", "/api/v1/namespaces/default/events"));
        assert_eq!((&body["type"], &body["reason"], &body["count"]), (&json!("Warning"), &json!("Odd"), &json!(1)));
        assert_eq!(body["involvedObject"], json!({"apiVersion": "v1", "kind": "Node", "name": "n1"}));
        let name = body["metadata"]["name"].as_str().unwrap().to_owned();
        let (method, path, body) = seen.recv().await.unwrap();
        assert_eq!((method.as_str(), path), ("PATCH", format!("/api/v1/namespaces/default/events/{name}")));
        assert_eq!(body["count"], 2);
    }
}

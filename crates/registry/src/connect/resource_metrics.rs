//! `metrics.k8s.io/v1beta1`, built in: what nodes and pods use, as metrics-server tells it. Kubelets are read when somebody
//! asks, and what they said is good for a while. An APIService for the group takes its place.

mod kubelets;
mod table;
mod usage;

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use jiff::Timestamp;
use kybern_apimachinery::selector::{FieldSelector, LabelSelector};
use kybern_apimachinery::time::Clock;
use kybern_apimachinery::{ApiError, GroupResource, Reason, Value, json, object};
use kybern_apiserver::connect::{Objects, ObjectsSlot};
use kybern_apiserver::{Body, BoxFuture, PrefixRequest, PrefixRoute, body};

use super::exchange::query_values;
use crate::Deps;
use crate::aggregation::BuiltIn;
use crate::tree::text;
use kubelets::Kubelets;
use usage::{node_metrics, pod_metrics};

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
const PATH: &str = "/apis/metrics.k8s.io/v1beta1";

struct ResourceMetrics {
    objects: ObjectsSlot,
    clock: Arc<dyn Clock>,
    kubelets: Kubelets,
}

/// The group, to be served where no APIService says who does.
pub fn built_in(deps: &Deps) -> BuiltIn {
    let (objects, clock) = (deps.objects.clone(), deps.clock.clone());
    let kubelets = Kubelets::new(kubelets::reader(deps.kubelet.clone()), clock.clone());
    let resource = |(name, kind, scope): (&str, &str, &str)| {
        json!({
            "resource": name, "responseKind": {"group": GROUP, "version": VERSION, "kind": kind}, "scope": scope,
            "singularResource": "", "verbs": ["get", "list"],
        })
    };
    let resources = [("nodes", "NodeMetrics", "Cluster"), ("pods", "PodMetrics", "Namespaced")].map(resource);
    BuiltIn {
        group: GROUP,
        version: VERSION,
        priorities: (100, 100),
        resources: resources.into_iter().collect(),
        route: Arc::new(ResourceMetrics { objects, clock, kubelets }),
    }
}

impl PrefixRoute for ResourceMetrics {
    fn serve(&self, request: PrefixRequest) -> BoxFuture<'_, Result<Response<Body>, ApiError>> {
        let asked = Asked::of(&request.request);
        let in_columns = table::is_asked_for(request.request.headers());
        Box::pin(async move {
            let asked = asked?;
            let in_columns = in_columns && asked.what != What::Resources;
            let object = self.answer(asked).await?;
            let object = if in_columns { table::of(&object) } else { object };
            Ok(body::json(StatusCode::OK, &object))
        })
    }
}

/// What a request is about.
#[derive(Debug)]
struct Asked {
    what: What,
    labels: LabelSelector,
    fields: FieldSelector,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Resources,
    Nodes,
    Node(String),
    /// Of all namespaces, if it is empty.
    Pods(String),
    Pod(String, String),
}

impl Asked {
    fn of(request: &Request<Body>) -> Result<Self, ApiError> {
        let query = request.uri().query().unwrap_or("");
        let value = |name| query_values(query, name).next().unwrap_or_default();
        if request.method() != Method::GET || matches!(value("watch").as_str(), "true" | "1") {
            return Err(ApiError::method_not_allowed());
        }
        let path = request.uri().path().strip_prefix(PATH).unwrap_or("");
        // An empty part is a part, as it was to who authorized this.
        let parts: Vec<&str> = path.trim_end_matches('/').split('/').skip(1).collect();
        let what = match parts.as_slice() {
            [] => What::Resources,
            ["nodes"] => What::Nodes,
            ["nodes", name] => What::Node((*name).to_owned()),
            ["pods"] => What::Pods(String::new()),
            ["namespaces", namespace, "pods"] => What::Pods((*namespace).to_owned()),
            ["namespaces", namespace, "pods", name] => What::Pod((*namespace).to_owned(), (*name).to_owned()),
            _ => return Err(ApiError::no_such_path()),
        };
        let labels = value("labelSelector");
        let labels = if labels.is_empty() { Ok(LabelSelector::everything()) } else { LabelSelector::parse(&labels) };
        let labels = labels.map_err(ApiError::bad_request)?;
        let fields = FieldSelector::parse(&value("fieldSelector")).map_err(ApiError::bad_request)?;
        Ok(Self { what, labels, fields })
    }
}

impl ResourceMetrics {
    async fn answer(&self, asked: Asked) -> Result<Value, ApiError> {
        let objects = self.objects.get()?;
        let objects = objects.as_ref();
        let missing = |kind: &str, name: &str| ApiError::not_found(&GroupResource::new(GROUP, kind), name);
        match &asked.what {
            What::Resources => Ok(resources()),
            What::Nodes => {
                let nodes = objects.select("", "nodes", "", &asked.labels, &asked.fields).await?;
                Ok(list("NodeMetricsList", self.of_nodes(nodes).await))
            }
            What::Node(name) => {
                let node = objects.get("", "nodes", "", name).await?;
                self.of_nodes(vec![node]).await.pop().ok_or_else(|| missing("nodemetrics", name))
            }
            What::Pods(namespace) => {
                let mut fields = asked.fields.clone();
                fields.terms.push(("status.phase".to_owned(), "Running".to_owned(), true));
                let pods = objects.select("", "pods", namespace, &asked.labels, &fields).await?;
                Ok(list("PodMetricsList", self.of_pods(objects, pods).await?))
            }
            What::Pod(namespace, name) => {
                let pod = objects.get("", "pods", namespace, name).await?;
                let found = self.of_pods(objects, vec![pod]).await?.pop();
                found.ok_or_else(|| missing("podmetrics", &object::key_of(namespace, name)))
            }
        }
    }

    async fn of_nodes(&self, nodes: Vec<Value>) -> Vec<Value> {
        let (used, now) = (self.kubelets.usages(nodes.clone()).await, self.now());
        let metrics = |node: &Value| Some(node_metrics(node, used.get(object::name(node))?.node.as_ref()?, now));
        nodes.iter().filter_map(metrics).collect()
    }

    /// Those that run, and of which all containers were seen twice.
    async fn of_pods(&self, objects: &dyn Objects, mut pods: Vec<Value>) -> Result<Vec<Value>, ApiError> {
        pods.retain(|pod| text(&pod["status"], "phase") == "Running");
        let names: BTreeSet<&str> = pods.iter().map(|pod| text(&pod["spec"], "nodeName")).collect();
        let mut nodes = Vec::with_capacity(names.len());
        for name in names {
            match objects.get("", "nodes", "", name).await {
                Err(error) if error.reason() == Reason::NotFound => {}
                found => nodes.push(found?),
            }
        }
        let (used, now) = (self.kubelets.usages(nodes).await, self.now());
        let metrics = |pod: &Value| {
            let node = used.get(text(&pod["spec"], "nodeName"))?;
            Some(pod_metrics(pod, node.pods.get(&object::key(pod))?, now))
        };
        Ok(pods.iter().filter_map(metrics).collect())
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

fn list(kind: &str, items: Vec<Value>) -> Value {
    json!({"kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": items})
}

fn resources() -> Value {
    let resource = |name: &str, kind: &str, namespaced: bool| {
        json!({
            "name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"],
        })
    };
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": [resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, path: &str) -> Result<Asked, ApiError> {
        Asked::of(&Request::builder().method(method).uri(format!("{PATH}{path}")).body(body::empty()).unwrap())
    }

    #[test]
    fn requests() {
        let pod = || What::Pod("n".into(), "p".into());
        let table = [
            ("", Ok(What::Resources)),
            ("/", Ok(What::Resources)),
            ("/nodes", Ok(What::Nodes)),
            ("/nodes/a", Ok(What::Node("a".into()))),
            ("/pods", Ok(What::Pods(String::new()))),
            ("/namespaces/n/pods?limit=500", Ok(What::Pods("n".into()))),
            ("/namespaces/n/pods/p", Ok(pod())),
            ("/namespaces/n/pods/p/log", Err(404)),
            ("/namespaces/n", Err(404)),
            ("/namespaces//pods", Ok(What::Pods(String::new()))),
            ("/namespaces/n//pods", Err(404)),
            ("//pods", Err(404)),
            ("/services", Err(404)),
            ("/pods?watch=true", Err(405)),
            ("/pods?labelSelector=a%21%21b", Err(400)),
        ];
        for (path, expect) in table {
            let found = asked(Method::GET, path).map(|asked| asked.what).map_err(|error| error.code());
            assert_eq!(found, expect, "{path}");
        }
        assert_eq!(asked(Method::DELETE, "/nodes/a").unwrap_err().code(), 405);
    }
}

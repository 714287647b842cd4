//! Every verb on every kind of discovery, in every version, through the one path that all of them take.

use http::{Method, Request};
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::body;
use kybern_schema::builtin::ResourceRow;
use kybern_schema::proto;

use crate::harness::{Cluster, admin};
use crate::minimal::minimal;

const JSON: &str = "application/json";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// One kind in one version, and where its objects are.
struct Subject<'a> {
    cluster: &'a Cluster,
    row: &'a ResourceRow,
    collection: String,
    name: &'static str,
    /// Of a second object, in the order of names.
    other: &'static str,
}

/// Names of two objects of a kind.
fn names(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "Service" | "Namespace" | "StatefulSet" => ("x", "y"),
        "IPAddress" => ("10.1.0.1", "2001:db8::1"),
        "APIService" => ("v1.x.example", "v1.y.example"),
        "CustomResourceDefinition" => ("x.a.example", "x.b.example"),
        _ => ("x.example", "y"),
    }
}

/// Kinds whose metadata a write of the status leaves alone.
const STATUS_ALONE: [&str; 9] = [
    "CustomResourceDefinition",
    "APIService",
    "DeviceTaintRule",
    "FlowSchema",
    "PriorityLevelConfiguration",
    "ResourceClaim",
    "ServiceCIDR",
    "ValidatingAdmissionPolicy",
    "VolumeAttachment",
];

impl Subject<'_> {
    fn has(&self, verb: &str) -> bool {
        self.row.verbs.contains(&verb)
    }

    fn api_version(&self) -> String {
        self.row.gvk().api_version()
    }

    fn object(&self, name: &str) -> Value {
        let mut object = minimal(self.row.kind);
        object["apiVersion"] = self.api_version().into();
        object["kind"] = self.row.kind.into();
        object["metadata"] = json!({"name": name, "labels": {"of": "every-verb"}});
        if let ("APIService", Some(group)) = (self.row.kind, name.strip_prefix("v1.")) {
            object["spec"]["group"] = group.into();
        }
        if let ("CustomResourceDefinition", Some(group)) = (self.row.kind, name.strip_prefix("x.")) {
            object["spec"]["group"] = group.into();
        }
        // An event has other fields in each of its groups.
        let kind = kybern_schema::builtin().kind(&self.row.gvk()).unwrap();
        object.as_object_mut().unwrap().retain(|field, _| kind.root().field(field).is_some());
        object
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection, self.name)
    }

    async fn send(&self, method: Method, path: &str, media: &str, object: Value) -> (u16, Value) {
        self.cluster.send(admin(), method, path, media, Some(object)).await
    }

    /// A write that succeeds, and answers with an object of this kind and version.
    async fn write(&self, method: Method, path: &str, media: &str, object: Value, expect: u16) -> Value {
        let (code, answer) = self.send(method.clone(), path, media, object).await;
        assert_eq!(code, expect, "{method} {media} {path}: {answer}");
        let is = (object::api_version(&answer).to_owned(), object::kind(&answer).to_owned());
        assert_eq!(is, (self.api_version(), self.row.kind.to_owned()), "{method} {media} {path}");
        answer
    }

    /// The five ways to change an object or its status: each sets an annotation of its own to `mark`.
    async fn change(&self, path: &str, mark: &str) {
        let note = |key: &str| json!({"metadata": {"annotations": {key: mark}}});
        for (media, patch) in [
            (MERGE, note("merge")),
            (STRATEGIC, note("strategic")),
            (JSON_PATCH, json!([{"op": "add", "path": "/metadata/annotations/json", "value": mark}])),
        ] {
            self.write(Method::PATCH, path, media, patch, 200).await;
        }
        let mut read = self.cluster.get(&self.path()).await;
        read["metadata"]["annotations"]["put"] = mark.into();
        self.write(Method::PUT, path, JSON, read.clone(), 200).await;
        let (code, stale) = self.send(Method::PUT, path, JSON, read).await;
        assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")), "{path}: {stale}");
        let applied_key = format!("applied-{mark}");
        let mut config = note(&applied_key);
        config["apiVersion"] = self.api_version().into();
        config["kind"] = self.row.kind.into();
        let applied = self.write(Method::PATCH, &format!("{path}?fieldManager=applier"), APPLY, config, 200).await;
        for key in ["merge", "strategic", "json", "put", &applied_key] {
            assert_eq!(object::annotation(&applied, key), Some(mark), "{path}: {applied}");
        }
        let entries = applied["metadata"]["managedFields"].as_array().unwrap_or_else(|| panic!("{path}: {applied}"));
        let own = entries.iter().find(|e| {
            let field = &e["fieldsV1"]["f:metadata"]["f:annotations"][format!("f:{applied_key}")];
            e["manager"] == "applier" && e["operation"] == "Apply" && field.is_object()
        });
        assert!(own.is_some_and(|e| e["apiVersion"] == self.api_version()), "{path}: {entries:?}");
        let (code, refused) =
            self.send(Method::PATCH, path, MERGE, json!({"metadata": {"annotations": {"a b": "c"}}})).await;
        assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")), "{path}: {refused}");
    }

    /// The object in the other forms that it has: protobuf, there and back, and a table.
    async fn shown_otherwise(&self) {
        let kind = kybern_schema::builtin().kind(&self.row.gvk()).unwrap();
        let plain = self.cluster.get(&self.path()).await;
        if proto::has_form(&kind) {
            let bytes = self.bytes(&self.path(), proto::MEDIA_TYPE).await;
            assert_eq!(proto::decode(&kind, &bytes).unwrap(), plain, "{}", self.path());
        }
        let rows = self.cluster.table(&self.path()).await;
        assert_eq!((rows.len(), rows[0].is_empty()), (1, false), "{}", self.path());
        let accept = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
        let bare: Value = serde_json::from_slice(&self.bytes(&self.path(), accept).await).unwrap();
        assert_eq!((&bare["kind"], &bare["metadata"]), (&json!("PartialObjectMetadata"), &plain["metadata"]));
    }

    async fn bytes(&self, path: &str, accept: &str) -> bytes::Bytes {
        let mut request = Request::builder().uri(path).header("accept", accept).body(body::empty()).unwrap();
        request.extensions_mut().insert(admin());
        let response = self.cluster.server.handle(request).await;
        assert_eq!(response.status(), 200, "{accept} {path}");
        body::read(response.into_body()).await.unwrap()
    }

    /// What a watch from a revision on has to tell of the objects made here.
    async fn events(&self, from: &str) -> Vec<String> {
        let path = format!(
            "{}?watch=1&resourceVersion={from}&labelSelector=of%3Devery-verb&timeoutSeconds=0",
            self.collection
        );
        let bytes = self.bytes(&path, JSON).await;
        let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| {
                let event: Value = serde_json::from_slice(line).unwrap();
                assert_eq!(event["object"]["kind"], self.row.kind, "{path}: {event}");
                event["type"].as_str().unwrap().to_owned()
            })
            .collect()
    }
}

#[tokio::test]
async fn every_kind_answers_every_verb() {
    let cluster = Cluster::start().await;
    let rows = kybern_schema::builtin().resources();
    let mut kinds = 0;
    for row in rows.iter().filter(|r| r.verbs.contains(&"create") && r.verbs.contains(&"get")) {
        kinds += 1;
        let root = if row.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", row.group) };
        let place = if row.namespaced { "/namespaces/default" } else { "" };
        let collection = format!("{root}/{}{place}/{}", row.version, row.resource);
        let (name, other) = names(row.kind);
        let subject = Subject { cluster: &cluster, row, collection, name, other };
        let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
        assert!(verbs.iter().all(|verb| subject.has(verb)), "{}: {:?}", row.kind, row.verbs);
        live(&subject).await;
    }
    // Every row that is stored has been here.
    assert_eq!(kinds, rows.iter().filter(|r| r.verbs.contains(&"watch")).count());
    assert!(kinds > 60, "{kinds}");
}

async fn live(subject: &Subject<'_>) {
    let Subject { cluster, row, collection, name, other: second } = subject;
    let path = subject.path();
    let before = cluster.get(collection).await;
    let before = object::resource_version(&before);
    subject.write(Method::POST, collection, JSON, subject.object(name), 201).await;
    let (code, again) = subject.send(Method::POST, collection, JSON, subject.object(name)).await;
    assert_eq!((code, &again["reason"]), (409, &json!("AlreadyExists")), "{path}: {again}");
    subject.change(&path, "1").await;
    for sub in row.subresources.iter().filter(|s| s.name == "status") {
        let status = format!("{path}/{}", sub.name);
        assert_eq!(cluster.get(&status).await["metadata"]["name"], *name, "{status}");
        if STATUS_ALONE.contains(&row.kind) {
            let note = json!({"metadata": {"annotations": {"merge": "2"}}});
            let kept = subject.write(Method::PATCH, &status, MERGE, note, 200).await;
            assert_eq!(object::annotation(&kept, "merge"), Some("1"), "{status}");
        } else {
            subject.change(&status, "2").await;
        }
    }
    subject.shown_otherwise().await;

    let mut other = subject.object(second);
    other["metadata"]["labels"] = json!({"of": "every-verb", "by": "apply"});
    let made = format!("{collection}/{second}?fieldManager=applier");
    subject.write(Method::PATCH, &made, APPLY, other, 201).await;
    let list = cluster.get(&format!("{collection}?labelSelector=of%3Devery-verb")).await;
    let names: Vec<&str> = list["items"].as_array().unwrap().iter().map(object::name).collect();
    assert_eq!(names, [*name, *second], "{collection}");

    let options = json!({"propagationPolicy": "Background"});
    let (code, gone) = cluster.ask(Method::DELETE, &path, Some(options.clone())).await;
    assert_eq!(code, 200, "{path}: {gone}");
    let rest = format!("{collection}?labelSelector=by%3Dapply");
    // Namespaces go one by one.
    let rest = if subject.has("deletecollection") { rest } else { format!("{collection}/{second}") };
    let (code, gone) = cluster.ask(Method::DELETE, &rest, Some(options)).await;
    assert_eq!(code, 200, "{rest}: {gone}");
    // Until their controllers let go.
    let held = matches!(row.kind, "Namespace" | "PersistentVolume" | "PersistentVolumeClaim" | "VolumeAttributesClass");
    for left in [path.as_str(), &format!("{collection}/{second}")] {
        let mut code = cluster.ask(Method::GET, left, None).await.0;
        // A definition goes once it was seen that there are no objects of it.
        for _ in 0..2000 {
            if row.kind != "CustomResourceDefinition" || code == 404 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            code = cluster.ask(Method::GET, left, None).await.0;
        }
        assert_eq!(code, if held { 200 } else { 404 }, "{left}");
    }
    let events = subject.events(before).await;
    let count = |kind: &str| events.iter().filter(|e| *e == kind).count();
    assert_eq!((count("ADDED"), count("DELETED")), (2, if held { 0 } else { 2 }), "{path}: {events:?}");
    assert!(count("MODIFIED") >= 5, "{path}: {events:?}");
    // Another version of the kind comes with the same names.
    for left in [path.as_str(), &format!("{collection}/{second}")] {
        if held && row.kind != "Namespace" {
            let (code, freed) = cluster.patch(left, json!({"metadata": {"finalizers": null}})).await;
            assert_eq!(code, 200, "{left}: {freed}");
        }
    }
}

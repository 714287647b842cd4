//! What admission plugins are shown of each request, and what they may do.

use std::sync::Arc;

use kybern_apimachinery::{ApiError, Gvk, Value, json, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation};
use kybern_apiserver::resource::{Resource, Subresource, SubresourceHandler};
use kybern_apiserver::strategy::Plain;
use parking_lot::Mutex;

use crate::fixture::*;
use crate::parts::Echo;

/// Labels what is created, and refuses what is named `bad`.
struct Labels;
impl AdmissionPlugin for Labels {
    fn name(&self) -> &'static str {
        "Labels"
    }
    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        if let (Operation::Create, Some(object)) = (request.operation, object) {
            object::set(object, &["metadata", "labels", "admitted"], request.user.name.as_str());
        }
        Box::pin(async { Ok(()) })
    }
    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        _: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let bad = request.name == "bad" && request.operation != Operation::Delete;
        let refusal = request.forbidden(None, "it is bad");
        Box::pin(async move { if bad { Err(refusal) } else { Ok(()) } })
    }
}

#[tokio::test]
async fn admission_changes_and_refuses() {
    let client = Client::with(|options| options.admission = vec![Arc::new(Labels)]).await;
    let created = client.post(CONFIG_MAPS, config_map("a", "")).await.ok();
    assert_eq!(object::label(&created, "admitted"), Some("admin"));
    let (code, text) = client.post(CONFIG_MAPS, config_map("bad", "")).await.status();
    assert_eq!((code, text.as_str()), (403, "configmaps \"bad\" is forbidden: it is bad"));
    let metrics = String::from_utf8(client.get("/metrics").await.bytes.to_vec()).unwrap();
    for (labels, count) in [
        (
            "controller_admission_duration_seconds_count{name=\"Labels\",type=\"admit\",operation=\"CREATE\",rejected=\"false\"}",
            2,
        ),
        (
            "controller_admission_duration_seconds_count{name=\"Labels\",type=\"validate\",operation=\"CREATE\",rejected=\"false\"}",
            1,
        ),
        (
            "controller_admission_duration_seconds_count{name=\"Labels\",type=\"validate\",operation=\"CREATE\",rejected=\"true\"}",
            1,
        ),
        ("step_admission_duration_seconds_count{type=\"admit\",operation=\"CREATE\",rejected=\"false\"}", 2),
        ("step_admission_duration_seconds_count{type=\"validate\",operation=\"CREATE\",rejected=\"true\"}", 1),
    ] {
        let line = format!("apiserver_admission_{labels} {count}");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    assert!(!metrics.contains("DELETE"), "who was not asked is not counted");
}

/// Writes down what it is shown, in one line each.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    fn note(&self, chain: &str, request: &AdmissionRequest<'_>, object: Option<&Value>) {
        let said = |object: Option<&Value>| match object {
            None => "-".to_owned(),
            Some(o) if object::name(o).is_empty() => object::kind(o).to_owned(),
            Some(o) => format!("{}:{}", object::kind(o), object::name(o)),
        };
        let gvr = &request.resource.gvr;
        self.0.lock().push(format!(
            "{chain} {} {}/{}/{}{}{} {}/{} {:?}/{:?} {} {}{}",
            request.operation.as_str(),
            gvr.group,
            gvr.version,
            gvr.resource,
            if request.subresource.is_empty() { "" } else { "/" },
            request.subresource,
            request.kind.api_version(),
            request.kind.kind,
            request.namespace,
            request.name,
            said(object),
            said(request.old),
            if request.dry_run { " dry" } else { "" },
        ));
    }

    #[track_caller]
    fn expect(&self, lines: &[&str]) {
        assert_eq!(std::mem::take(&mut *self.0.lock()), lines);
    }
}

impl AdmissionPlugin for Recorder {
    fn name(&self) -> &'static str {
        "Recorder"
    }
    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        self.note("admit", request, object.as_deref());
        Box::pin(async { Ok(()) })
    }
    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        self.note("validate", request, object);
        Box::pin(async { Ok(()) })
    }
}

fn connects(name: &str, verbs: &[&str], kind: Gvk) -> Subresource {
    let handler = SubresourceHandler::Connect(Arc::new(Echo));
    Subresource { name: name.into(), verbs: verbs.iter().map(|v| (*v).to_owned()).collect(), kind, handler }
}

async fn recorded() -> (Client, Recorder) {
    let recorder = Recorder::default();
    let client = Client::with(|options| {
        options.admission = vec![Arc::new(recorder.clone())];
        let pods = options.resources.iter_mut().find(|r| r.kind == "Pod").unwrap();
        pods.subresources.push(connects("binding", &["create"], Gvk::new("", "v1", "Binding")));
        pods.subresources.push(connects("exec", &["get", "create"], Gvk::new("", "v1", "PodExecOptions")));
    })
    .await;
    (client, recorder)
}

#[tokio::test]
async fn objects_are_shown_as_they_are_named() {
    let (client, seen) = recorded().await;
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    seen.expect(&[
        "admit CREATE /v1/configmaps v1/ConfigMap \"ns\"/\"a\" ConfigMap:a -",
        "validate CREATE /v1/configmaps v1/ConfigMap \"ns\"/\"a\" ConfigMap:a -",
    ]);
    // A generated name is there when it is about to be written.
    let generated = json!({"metadata": {"generateName": "g-"}});
    let made = client.post(&format!("{CONFIG_MAPS}?dryRun=All"), generated).await.ok();
    let name = object::name(&made);
    seen.expect(&[
        "admit CREATE /v1/configmaps v1/ConfigMap \"ns\"/\"\" ConfigMap - dry",
        &format!("validate CREATE /v1/configmaps v1/ConfigMap \"ns\"/{name:?} ConfigMap:{name} - dry"),
    ]);
    client.put(&format!("{CONFIG_MAPS}/a"), config_map("a", "2")).await.ok();
    seen.expect(&[
        "admit UPDATE /v1/configmaps v1/ConfigMap \"ns\"/\"a\" ConfigMap:a ConfigMap:a",
        "validate UPDATE /v1/configmaps v1/ConfigMap \"ns\"/\"a\" ConfigMap:a ConfigMap:a",
    ]);
    client.delete(&format!("{CONFIG_MAPS}/a")).await.ok();
    seen.expect(&[
        "admit DELETE /v1/configmaps v1/ConfigMap \"ns\"/\"a\" - ConfigMap:a",
        "validate DELETE /v1/configmaps v1/ConfigMap \"ns\"/\"a\" - ConfigMap:a",
    ]);
    // A collection's deletion names nothing, and shows each object.
    client.post(CONFIG_MAPS, config_map("b", "1")).await.ok();
    seen.0.lock().clear();
    client.delete(CONFIG_MAPS).await.ok();
    seen.expect(&[
        "admit DELETE /v1/configmaps v1/ConfigMap \"ns\"/\"\" - ConfigMap:b",
        "validate DELETE /v1/configmaps v1/ConfigMap \"ns\"/\"\" - ConfigMap:b",
    ]);
    // A namespace is in itself.
    client.post("/api/v1/namespaces", json!({"metadata": {"name": "x"}})).await.ok();
    seen.expect(&[
        "admit CREATE /v1/namespaces v1/Namespace \"x\"/\"x\" Namespace:x -",
        "validate CREATE /v1/namespaces v1/Namespace \"x\"/\"x\" Namespace:x -",
    ]);
}

#[tokio::test]
async fn subresources_are_shown_as_what_they_take() {
    let (client, seen) = recorded().await;
    client.post(PODS, pod("p", "")).await.ok();
    client.post(DEPLOYMENTS, deployment("d")).await.ok();
    seen.0.lock().clear();
    let status = json!({"status": {"phase": "Running"}});
    client.patch(&format!("{PODS}/p/status"), "application/merge-patch+json", status).await.ok();
    seen.expect(&[
        "admit UPDATE /v1/pods/status v1/Pod \"ns\"/\"p\" Pod:p Pod:p",
        "validate UPDATE /v1/pods/status v1/Pod \"ns\"/\"p\" Pod:p Pod:p",
    ]);
    let scale = json!({"spec": {"replicas": 3}});
    client.patch(&format!("{DEPLOYMENTS}/d/scale"), "application/merge-patch+json", scale).await.ok();
    seen.expect(&[
        "admit UPDATE apps/v1/deployments/scale autoscaling/v1/Scale \"ns\"/\"d\" Scale:d Scale:d",
        "validate UPDATE apps/v1/deployments/scale autoscaling/v1/Scale \"ns\"/\"d\" Scale:d Scale:d",
    ]);
    let binding = json!({"metadata": {"name": "p"}, "target": {"name": "n"}});
    client.post(&format!("{PODS}/p/binding?dryRun=All"), binding).await.ok();
    seen.expect(&[
        "admit CREATE /v1/pods/binding v1/Binding \"ns\"/\"p\" Binding:p - dry",
        "validate CREATE /v1/pods/binding v1/Binding \"ns\"/\"p\" Binding:p - dry",
    ]);
    client.get(&format!("{PODS}/p/exec?command=ls&stdin=true")).await;
    seen.expect(&[
        "admit CONNECT /v1/pods/exec v1/PodExecOptions \"ns\"/\"p\" PodExecOptions -",
        "validate CONNECT /v1/pods/exec v1/PodExecOptions \"ns\"/\"p\" PodExecOptions -",
    ]);
}

/// Doubles the replicas of whatever is scaled, and refuses to see more than eight.
struct Doubles;
impl AdmissionPlugin for Doubles {
    fn name(&self) -> &'static str {
        "Doubles"
    }
    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        if let ("scale", Some(scale)) = (request.subresource, object) {
            let asked = scale["spec"]["replicas"].as_i64().unwrap_or(0);
            scale["spec"]["replicas"] = (2 * asked).into();
        }
        Box::pin(async { Ok(()) })
    }
    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let too_many = object.is_some_and(|o| o["spec"]["replicas"].as_i64() > Some(8));
        let refusal = request.forbidden(object, "too many");
        Box::pin(async move { if too_many { Err(refusal) } else { Ok(()) } })
    }
}

#[tokio::test]
async fn what_admission_makes_of_a_scale_is_what_happens() {
    let client = Client::with(|options| options.admission = vec![Arc::new(Doubles)]).await;
    client.post(DEPLOYMENTS, deployment("d")).await.ok();
    let path = format!("{DEPLOYMENTS}/d/scale");
    let patch = |n: i64| json!({"spec": {"replicas": n}});
    let scaled = client.patch(&path, "application/merge-patch+json", patch(3)).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 6);
    assert_eq!(client.get(&format!("{DEPLOYMENTS}/d")).await.ok()["spec"]["replicas"], 6);
    let (code, text) = client.patch(&path, "application/merge-patch+json", patch(5)).await.status();
    assert_eq!((code, text.as_str()), (403, "deployments.apps \"d\" is forbidden: too many"));
}

/// Appends its letter to what it has seen; the last asks for a second round and knows that it did.
struct Letter(&'static str, bool);
impl AdmissionPlugin for Letter {
    fn name(&self) -> &'static str {
        self.0
    }
    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        if let Some(object) = object {
            let round = *request.reinvocation.recall::<usize>(self.0).unwrap_or_default() + 1;
            request.reinvocation.remember(self.0, round);
            let seen = format!("{}{}{round}", object["data"]["seen"].as_str().unwrap_or(""), self.0);
            object::set(object, &["data", "seen"], seen);
            if self.1 {
                request.reinvocation.request();
            }
        }
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn the_chain_runs_again_once_where_a_plugin_asks() {
    let once = Client::with(|options| options.admission = vec![Arc::new(Letter("a", false))]).await;
    assert_eq!(once.post(CONFIG_MAPS, config_map("x", "")).await.ok()["data"]["seen"], "a1");
    let twice = Client::with(|options| {
        options.admission = vec![Arc::new(Letter("a", false)), Arc::new(Letter("b", true))];
    })
    .await;
    assert_eq!(twice.post(CONFIG_MAPS, config_map("x", "")).await.ok()["data"]["seen"], "a1b1a2b2");
}

/// Shows the object to itself in every version in which it can be had, and takes it back from one.
struct Converts(Mutex<Vec<Value>>);
impl AdmissionPlugin for Converts {
    fn name(&self) -> &'static str {
        "Converts"
    }
    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let Some(object) = object else { return Ok(()) };
            for version in request.equivalents() {
                self.0.lock().push(version.resource.version.clone().into());
                let mut shown = request.shown(object, &version.kind).await?;
                assert_eq!(object::api_version(&shown), version.kind.api_version());
                object::set(&mut shown, &["spec", "unknown"], 1);
                object::remove(&mut shown, &["spec", "minReplicas"]);
                *object = request.taken(shown, &version.kind, object).await?;
                assert_eq!(object::api_version(object), "autoscaling/v2", "held as it is stored");
            }
            request.warnings.add("converted".to_owned());
            request.audit.annotate("test.example/converted", "yes");
            let other = Gvk::new("apps", "v1", "Deployment");
            assert!(request.shown(object, &other).await.is_err() && request.shape(&other).is_err());
            Ok(())
        })
    }
}

fn autoscalers() -> [Resource; 2] {
    let mut new = row("autoscaling", "v2", "HorizontalPodAutoscaler", true, Arc::new(Plain));
    new.gvr.resource = "horizontalpodautoscalers".to_owned();
    let mut old = row("autoscaling", "v1", "HorizontalPodAutoscaler", true, Arc::new(Plain));
    (old.gvr.resource, old.stored) = (new.gvr.resource.clone(), new.stored.clone());
    old.internal = new.internal.clone();
    [new, old]
}

#[tokio::test]
async fn objects_are_shown_in_any_of_their_versions() {
    let plugin = Arc::new(Converts(Mutex::default()));
    let client = Client::with(|options| {
        options.admission = vec![plugin.clone()];
        options.resources.extend(autoscalers());
    })
    .await;
    let scaler = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3, "minReplicas": 2,
        "scaleTargetRef": {"kind": "Deployment", "name": "d"}}});
    let made = client.post("/apis/autoscaling/v1/namespaces/ns/horizontalpodautoscalers", scaler).await;
    assert_eq!(made.headers["warning"], "299 - \"converted\"");
    let made = made.ok();
    assert_eq!((&made["apiVersion"], &made["spec"]["minReplicas"]), (&json!("autoscaling/v1"), &json!(1)), "{made}");
    assert!(made["spec"].get("unknown").is_none(), "{made}");
    assert_eq!(*plugin.0.lock(), ["v1", "v2"], "the request's own first");
}

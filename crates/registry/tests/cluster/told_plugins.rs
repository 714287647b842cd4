//! Plugins that do what a file tells them: limits of Events, a judge of images, and as whom webhooks are called. And labels
//! that pods have of their nodes.

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use http::{Method, Request, Response};
use kybern_apimachinery::{Value, json};
use kybern_registry::AdmissionConfiguration;
use kybern_testbed::https::{HttpsOptions, HttpsServer, TestCa};
use parking_lot::Mutex;

use crate::harness::{Cluster, pod, user};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A server with plugins that are off by default turned on, and this told to one plugin.
async fn told(enabled: &[&str], plugin: &str, configuration: Value) -> Cluster {
    let cluster = Cluster::told(read(plugin, configuration).unwrap().with_enabled(names(enabled)).unwrap()).await;
    cluster.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    cluster
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn read(plugin: &str, configuration: Value) -> Result<AdmissionConfiguration, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let document = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
        "plugins": [{"name": plugin, "configuration": configuration}],
    });
    std::fs::write(file.path(), document.to_string()).unwrap();
    AdmissionConfiguration::read(file.path())
}

fn limits(limits: Value) -> Value {
    json!({"apiVersion": "eventratelimit.admission.k8s.io/v1alpha1", "kind": "Configuration", "limits": limits})
}

#[tokio::test]
async fn events_are_limited() {
    let by_namespace = json!({"type": "Namespace", "qps": 1, "burst": 3, "cacheSize": 10});
    let by_user = json!({"type": "User", "qps": 1, "burst": 3});
    let cluster = told(&["EventRateLimit"], "EventRateLimit", limits(json!([by_namespace, by_user]))).await;
    let event = |name: &str, namespace: &str| {
        json!({
            "metadata": {"name": name}, "involvedObject": {"kind": "Namespace", "name": "default", "namespace": namespace},
            "reason": "r", "message": "m", "type": "Normal",
        })
    };
    let events = |namespace: &str| format!("/api/v1/namespaces/{namespace}/events");
    for name in ["dry", "dry", "dry", "dry"] {
        cluster.create(&format!("{}?dryRun=All", events("default")), event(name, "default")).await;
    }
    for name in ["a", "b", "c"] {
        cluster.create(&events("default"), event(name, "default")).await;
    }
    let text = cluster.refusal(Method::POST, &events("default"), Some(event("d", "default")), 429).await;
    let both = "[limit reached on type Namespace for key default, limit reached on type User for key admin]";
    assert_eq!(text, format!("Too many requests: {both}"));
    let text = cluster.refusal(Method::POST, &events("kube-public"), Some(event("d", "kube-public")), 429).await;
    assert_eq!(text, "Too many requests: limit reached on type User for key admin");
    let joe = user("joe", &["system:masters"]);
    let (code, answer) =
        cluster.as_user(joe, Method::POST, &events("kube-public"), Some(event("e", "kube-public"))).await;
    assert_eq!(code, 201, "{answer}");
    cluster.create(CONFIG_MAPS, json!({"metadata": {"name": "no-event"}})).await;
}

#[test]
fn what_is_told_wrongly_is_refused() {
    for (plugin, configuration, expect) in [
        ("EventRateLimit", limits(json!([])), "limits: Invalid value: null: must not be empty"),
        ("EventRateLimit", limits(json!([{"type": "Pod", "qps": 1, "burst": 1}])), "limits[0].type: Unsupported value"),
        ("EventRateLimit", json!({}), "no kind \"\" is registered for version \"\""),
        ("ImagePolicyWebhook", json!({"imagePolicy": {"allowTTL": 9999}}), "imagePolicy.allowTTL: valid value"),
        ("ImagePolicyWebhook", json!({"imagePolicy": {}}), "imagePolicy.kubeConfigFile: cannot read"),
        (
            "MutatingAdmissionWebhook",
            webhooks(Path::new("relative")),
            "kubeConfigFile: Invalid value: \"relative\": must be an absolute file path",
        ),
        ("ValidatingAdmissionWebhook", webhooks(Path::new("/nonexistent")), "cannot read /nonexistent"),
    ] {
        let error = read(plugin, configuration).unwrap_err();
        assert!(error.starts_with(&format!("couldn't init admission plugin {plugin:?}: ")), "{error}");
        assert!(error.contains(expect), "{error}");
    }
    for (plugin, expect) in [("EventRateLimit", "must not be empty"), ("ImagePolicyWebhook", "no config specified")] {
        let error = AdmissionConfiguration::default().with_enabled(names(&[plugin])).unwrap_err();
        assert!(error.contains(expect), "{error}");
    }
}

/// As whom, and what.
type Asked = (Option<String>, Value);

/// A server over TLS that writes down what it was sent, and as whom.
struct Judge {
    server: HttpsServer,
    ca: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Judge {
    async fn start(answer: impl Fn(&Value) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let ca = TestCa::new("judge");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        let server = HttpsServer::start(HttpsOptions::new(&ca.issue(&["127.0.0.1"])), move |call: Request<Bytes>| {
            let sent: Value = serde_json::from_slice(call.body()).unwrap();
            let whom = call.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
            let answer = answer(&sent);
            heard.lock().push((whom, sent));
            async move { Response::new(Bytes::from(answer)) }
        })
        .await;
        Self { server, ca: ca.pem, asked }
    }

    fn ca(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(&self.ca)
    }

    /// A kubeconfig file that leads here.
    fn kubeconfig(&self, user: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let document = json!({
            "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "judge", "user": user}}],
            "clusters": [{"name": "judge", "cluster": {
                "server": format!("{}/judge", self.server.url()), "certificate-authority-data": self.ca(),
            }}],
            "users": [{"name": user, "user": {"token": "secret"}}],
        });
        std::fs::write(file.path(), document.to_string()).unwrap();
        file
    }
}

fn with_image(name: &str, image: &str) -> Value {
    let mut pod = pod(name);
    pod["metadata"]["annotations"] = json!({"team.image-policy.k8s.io/ticket": "1", "other": "2"});
    pod["spec"]["containers"][0]["image"] = image.into();
    pod
}

#[tokio::test]
async fn images_are_judged() {
    let judge = Judge::start(|review| {
        let image = review["spec"]["containers"][0]["image"].as_str().unwrap();
        let status = match image {
            "bad" => json!({"allowed": false, "reason": "too old"}),
            "worse" => json!({"allowed": false}),
            "garbage" => return b"garbage".to_vec(),
            "lie" => return b"{\"kind\": \"Pod\", \"apiVersion\": \"v1\", \"status\": {\"allowed\": true}}".to_vec(),
            "big" => return vec![b' '; 10 << 20],
            _ => json!({"allowed": true, "auditAnnotations": {"seen": "yes"}}),
        };
        json!({"kind": "ImageReview", "apiVersion": "imagepolicy.k8s.io/v1alpha1", "status": status}).to_string().into()
    })
    .await;
    let file = judge.kubeconfig("me");
    let policy = |more: Value| {
        let mut policy = json!({"kubeConfigFile": file.path(), "retryBackoff": 1});
        for (field, value) in more.as_object().unwrap() {
            policy[field] = value.clone();
        }
        json!({"imagePolicy": policy})
    };
    let cluster = told(&["ImagePolicyWebhook"], "ImagePolicyWebhook", policy(json!({}))).await;
    cluster.create(PODS, with_image("a", "good")).await;
    let (whom, review) = judge.asked.lock().pop().unwrap();
    assert_eq!(whom.as_deref(), Some("Bearer secret"));
    let spec = json!({
        "containers": [{"image": "good"}], "namespace": "default",
        "annotations": {"team.image-policy.k8s.io/ticket": "1"},
    });
    assert_eq!((&review["kind"], &review["spec"]), (&json!("ImageReview"), &spec));
    cluster.create(PODS, with_image("b", "good")).await;
    assert!(judge.asked.lock().is_empty(), "what is known is not asked again");
    for (image, expect) in [
        ("bad", "image policy webhook backend denied one or more images: too old"),
        ("worse", "one or more images rejected by webhook backend"),
        ("garbage", "it is no JSON: "),
        ("lie", "no kind \"Pod\" is registered for version \"v1\""),
        ("big", "is longer than 8388608 bytes"),
    ] {
        let text = cluster.refusal(Method::POST, PODS, Some(with_image("c", image)), 403).await;
        assert!(text.starts_with("pods \"c\" is forbidden: ") && text.contains(expect), "{image}: {text}");
    }
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "bad"}]}});
    let (code, answer) = cluster.patch(&format!("{PODS}/a/ephemeralcontainers"), debug).await;
    assert_eq!(code, 403, "{answer}");
    cluster.create(CONFIG_MAPS, json!({"metadata": {"name": "no-pod"}})).await;

    let open = told(&["ImagePolicyWebhook"], "ImagePolicyWebhook", policy(json!({"defaultAllow": true}))).await;
    open.create(PODS, with_image("d", "garbage")).await;
    open.refusal(Method::POST, PODS, Some(with_image("e", "bad")), 403).await;
}

fn webhooks(kubeconfig: &Path) -> Value {
    json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "WebhookAdmissionConfiguration", "kubeConfigFile": kubeconfig})
}

#[tokio::test]
async fn webhooks_see_whom_a_file_says() {
    let judge = Judge::start(|review| {
        let response = json!({"uid": review["request"]["uid"], "allowed": true});
        json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}).to_string().into()
    })
    .await;
    let file = judge.kubeconfig(&judge.server.url().replace("https://", ""));
    let cluster = told(&[], "ValidatingAdmissionWebhook", webhooks(file.path())).await;
    for kind in ["validating", "mutating"] {
        let hook = json!({
            "name": "a.example.com", "clientConfig": {"url": format!("{}/a", judge.server.url()), "caBundle": judge.ca()},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
            "sideEffects": "None", "admissionReviewVersions": ["v1"],
        });
        let path = format!("/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations");
        cluster.create(&path, json!({"metadata": {"name": "a"}, "webhooks": [hook]})).await;
    }
    cluster.create(CONFIG_MAPS, json!({"metadata": {"name": "a"}})).await;
    let asked: Vec<_> = judge.asked.lock().iter().map(|(whom, _)| whom.clone()).collect();
    assert_eq!(asked, [None, Some("Bearer secret".to_owned())], "the other plugin was told nothing");
}

#[tokio::test]
async fn pods_have_the_zone_of_their_node() {
    let cluster = Cluster::start().await;
    let zone = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "other": "o"});
    cluster.create("/api/v1/nodes", json!({"metadata": {"name": "n", "labels": zone}})).await;
    cluster.create("/api/v1/nodes", json!({"metadata": {"name": "plain"}})).await;
    let placed = |name: &str, node: &str| {
        let mut pod = pod(name);
        pod["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": "mine"});
        pod["spec"]["nodeName"] = node.into();
        pod
    };
    let labels = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"});
    assert_eq!(cluster.create(PODS, placed("a", "n")).await["metadata"]["labels"], labels);
    for node in ["plain", "away"] {
        let made = cluster.create(PODS, placed(node, node)).await;
        assert_eq!(made["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "mine"}));
    }
    cluster.create(PODS, pod("bound")).await;
    let binding = json!({"metadata": {"name": "bound"}, "target": {"kind": "Node", "name": "n"}});
    cluster.create(&format!("{PODS}/bound/binding"), binding).await;
    let bound = &cluster.get(&format!("{PODS}/bound")).await["metadata"]["labels"];
    assert_eq!(
        (&bound["topology.kubernetes.io/zone"], &bound["topology.kubernetes.io/region"]),
        (&json!("z"), &json!("r"))
    );
}

//! A control plane without scheduler and node; [`Cluster`] plays both.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use kybern_api::Object;
use kybern_api::core::v1::{Pod, ServiceAccount};
use kybern_apimachinery::time::{Clock, SystemClock};
use kybern_apimachinery::{Gvr, Value, json, object};
use kybern_apiserver::access::UserInfo;
use kybern_apiserver::connect::ObjectsSlot;
use kybern_apiserver::strategy::Features;
use kybern_apiserver::{Options, Server};
use kybern_auth::authn::{BearerTokens, LegacyTokens, ServiceAccountTokens};
use kybern_auth::authz::Masters;
use kybern_auth::authz::rbac::Rbac;
use kybern_auth::pki::{Pki, PkiOptions};
use kybern_auth::token::{Issuer, SigningKey};
use kybern_client::{
    AccountTransport, Body, BoxFuture, Changes, Client, DeleteOptions, Informer, ListOptions, Patch, Transport,
    TransportError,
};
use kybern_controller_manager::Config;
use kybern_controller_manager::controllers::csr_signing::ClusterSigning;
use kybern_controller_manager::controllers::node_ipam::NodeRanges;
use kybern_registry::bootstrap::{self, BootstrapOptions};
use kybern_registry::{AdmissionConfiguration, Deps, KubeletClient, ServiceAllocators};
use kybern_webhook::{ClientManager, NoServices};
use tokio::task::JoinSet;

/// How long a test waits for what it expects; far beyond what it takes.
const PATIENCE: Duration = Duration::from_secs(60);

struct InProcess {
    server: Arc<Server>,
    user: UserInfo,
}

impl Transport for InProcess {
    fn call(
        &self,
        mut request: http::Request<Body>,
    ) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        request.extensions_mut().insert(self.user.clone());
        let server = self.server.clone();
        Box::pin(async move { Ok(server.handle(request).await) })
    }
}

/// Carries the controllers' requests, which say themselves who they are from, and notes what was refused.
struct Bare {
    server: Arc<Server>,
    refused: Arc<Mutex<Vec<String>>>,
}

impl Transport for Bare {
    fn call(&self, request: http::Request<Body>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let (server, refused) = (self.server.clone(), self.refused.clone());
        Box::pin(async move {
            let asked = format!("{} {} by {:?}", request.method(), request.uri(), request.headers().get("user-agent"));
            let response = server.handle(request).await;
            if response.status() != http::StatusCode::FORBIDDEN {
                return Ok(response);
            }
            let (head, body) = response.into_parts();
            let text = kybern_client::body::collect(body, 1 << 20).await.unwrap_or_default();
            // What a namespace that is being emptied takes no more is no matter of rights.
            if !String::from_utf8_lossy(&text).contains("is being terminated") {
                refused
                    .lock()
                    .expect("nobody panics here")
                    .push(format!("{asked}: {}", String::from_utf8_lossy(&text)));
            }
            Ok(http::Response::from_parts(head, kybern_client::body::full(text)))
        })
    }
}

fn client(server: &Arc<Server>, name: &str, groups: &[&str]) -> Client {
    let groups = groups.iter().chain(&["system:authenticated"]).map(|g| (*g).to_owned()).collect();
    let user = UserInfo { name: name.to_owned(), groups, ..UserInfo::default() };
    Client::new(Arc::new(InProcess { server: server.clone(), user }))
}

pub(crate) struct Cluster {
    pub(crate) client: Client,
    server: Arc<Server>,
    pub(crate) storage: Arc<kybern_storage::memory::Memory>,
    /// The cluster's authority, PEM.
    pub(crate) ca: String,
    refused: Arc<Mutex<Vec<String>>>,
    _directory: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

/// The gates that are open in these tests.
fn features() -> Features {
    ["DRADeviceTaints", "DRADeviceTaintRules"].into_iter().collect()
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let pki = PkiOptions {
            directory: directory.path().to_owned(),
            service_ip: [10, 96, 0, 1].into(),
            node_ips: vec![[192, 0, 2, 1].into()],
            extra_names: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
        };
        let pki = Pki::load_or_create(&pki, SystemClock.now()).expect("certificates");
        let (slot, clock): (_, Arc<dyn Clock>) = (ObjectsSlot::default(), Arc::new(SystemClock));
        let signer = SigningKey::from_pem(&pki.service_account_key_pem).expect("a key");
        let token_key = SigningKey::from_pem(&pki.service_account_key_pem).expect("a key");
        let issuer = Arc::new(Issuer::new(vec!["https://kubernetes.default.svc".to_owned()], vec![], signer, vec![]));
        let services = Arc::new(ServiceAllocators::new(
            &["10.96.0.0/12".parse().expect("a network")],
            30_000..=32_767,
            slot.clone(),
        ));
        let rbac = Arc::new(Rbac::default());
        let accounts = Arc::new(ServiceAccountTokens::new(issuer.clone(), slot.clone(), clock.clone()));
        let legacy = Arc::new(LegacyTokens::new(issuer.clone(), slot.clone(), clock.clone()));
        let tokens = Arc::new(BearerTokens::new(vec![legacy, accounts], issuer.audiences().to_vec()));
        let mut admission = AdmissionConfiguration::default();
        admission.enabled.push("NodeRestriction".to_owned());
        let deps = Deps {
            objects: slot.clone(),
            clock: clock.clone(),
            issuer: issuer.clone(),
            token_limits: Default::default(),
            tokens: tokens.clone(),
            authorizer: rbac.clone(),
            rbac: Some(rbac.clone()),
            services,
            elections: Default::default(),
            admission_views: Default::default(),
            admission,
            webhooks: Arc::new(ClientManager::new(Arc::new(NoServices), "test")),
            webhook_metrics: Default::default(),
            policy_metrics: Default::default(),
            definitions: Default::default(),
            aggregation: Default::default(),
            kubelet: Arc::new(KubeletClient::of(&pki).expect("certificates")),
        };
        let storage = Arc::new(kybern_storage::memory::Memory::default());
        let mut options = Options::new(storage.clone());
        options.resources = kybern_registry::resources(&deps);
        options.admission = kybern_registry::admission_plugins(&deps);
        options.authorizers = vec![Arc::new(Masters), rbac.clone()];
        options.authenticators = vec![tokens];
        options.observers = deps.observers();
        options.observers.push(rbac);
        options.features = features();
        let server = Server::start(options).await.expect("an empty store loads");
        slot.fill(server.clone());
        deps.definitions.start(&server, deps.webhooks.clone()).await.unwrap();
        let bootstrap = BootstrapOptions {
            advertise_address: [192, 0, 2, 1].into(),
            secure_port: 6443,
            kubernetes_ip: [10, 96, 0, 1].into(),
            service_cidrs: vec!["10.96.0.0/12".to_owned()],
            kubelet_client: None,
            features: features(),
        };
        bootstrap::run(server.as_ref(), &bootstrap).await.expect("first objects");
        bootstrap::joining(server.as_ref(), "https://192.0.2.1:6443", pki.ca.certificate_pem())
            .await
            .expect("what lets machines join");
        bootstrap::token_tracking(server.as_ref(), jiff::civil::date(2026, 11, 28)).await.expect("a ConfigMap");
        let admin = client(&server, "admin", &["system:masters"]);
        // Every controller with its own account and a token of it: its role must allow what it does.
        let manager = client(&server, "system:kube-controller-manager", &[]);
        let refused: Arc<Mutex<Vec<String>>> = Arc::default();
        let (bare, issuer): (Arc<dyn Transport>, _) =
            (Arc::new(Bare { server: server.clone(), refused: refused.clone() }), manager.clone());
        let client_for = move |account: &str| {
            Client::new(Arc::new(AccountTransport::new(bare.clone(), issuer.clone(), "kube-system", account)))
        };
        let net = |text: &str| text.parse().expect("a network");
        let ranges = NodeRanges::new(&[net("10.244.0.0/16"), net("fd00:10:244::/48")], &[net("10.96.0.0/12")], 24, 64);
        let config = Config {
            controllers: ["*", "bootstrapsigner", "tokencleaner"].map(str::to_owned).to_vec(),
            root_ca: Some(pki.ca.certificate_pem().to_owned()),
            node_ranges: Some(ranges.expect("ranges that fit")),
            signing: Some(Arc::new(ArcSwap::from_pointee(ClusterSigning::by(
                pki.ca.request_signer(),
                ClusterSigning::DURATION,
            )))),
            token_key: Some(Arc::new(ArcSwap::from_pointee(token_key))),
            client_for: Some(Arc::new(client_for)),
            device_taints: true,
            device_taint_rules: true,
            ..Config::default()
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(kybern_controller_manager::run(config, manager, std::future::pending()));
        tasks.spawn(play_node(admin.clone()));
        let ca = pki.ca.certificate_pem().to_owned();
        let cluster = Self { client: admin, server, storage, ca, refused, _directory: directory, _tasks: tasks };
        // Admission wants a pod's account to be there.
        for namespace in ["default", "kube-system"] {
            let made = async |c: &Self| c.get::<ServiceAccount>(namespace, "default").await.is_some();
            cluster.until("the default service account", made).await;
        }
        cluster
    }

    /// A client that is somebody else.
    pub(crate) fn client_as(&self, name: &str, groups: &[&str]) -> Client {
        client(&self.server, name, groups)
    }

    /// Whom the bearer of a token is, with the warnings that come with it; a code where nobody knows.
    pub(crate) async fn bearer(&self, token: &str) -> Result<(String, Vec<String>), u16> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(kybern_client::body::full(review.to_string()));
        let response = self.server.handle(request.expect("a request")).await;
        let (head, body) = response.into_parts();
        let body = kybern_client::body::collect(body, 1 << 20).await.expect("an answer");
        let answer: Value = serde_json::from_slice(&body).expect("JSON");
        if !head.status.is_success() {
            return Err(head.status.as_u16());
        }
        let warnings = head.headers.get_all("warning").iter().map(|text| text.to_str().expect("text").to_owned());
        Ok((object::str_at(&answer, &["status", "userInfo", "username"]).to_owned(), warnings.collect()))
    }

    /// A client without credentials.
    pub(crate) fn anonymous(&self) -> Client {
        let user = UserInfo {
            name: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..UserInfo::default()
        };
        Client::new(Arc::new(InProcess { server: self.server.clone(), user }))
    }

    pub(crate) async fn create(&self, object: Value, resource: &str) {
        let gvk = object::gvk(&object).expect("an object");
        self.client.raw(&Gvr::new(gvk.group, gvk.version, resource)).create(&object).await.expect("created");
    }

    pub(crate) async fn add_node(&self, name: &str) {
        self.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}), "nodes").await;
        let now = kybern_apimachinery::time::to_rfc3339(SystemClock.now());
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": now}]}});
        self.client
            .raw(&Gvr::new("", "v1", "nodes"))
            .patch("", name, &Patch::Merge(ready), Some("status"))
            .await
            .expect("patched");
    }

    /// The object, if it is there.
    pub(crate) async fn get<K: Object>(&self, namespace: &str, name: &str) -> Option<K> {
        match self.client.get(namespace, name).await {
            Ok(object) => Some(object),
            Err(error) if error.is_not_found() => None,
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn list<K: Object>(&self, namespace: &str) -> Vec<K> {
        self.client.list(namespace, &ListOptions::default()).await.expect("listed")
    }

    /// Waits until `reached` holds.
    pub(crate) async fn until(&self, what: &str, reached: impl AsyncFn(&Self) -> bool) {
        let waiting = async {
            while !reached(self).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("never came: {what}");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let refused = self.refused.lock().expect("nobody panics there");
        assert!(std::thread::panicking() || refused.is_empty(), "a controller lacks a right: {refused:#?}");
    }
}

/// Binds every pod to its node (or to `n1`), makes it ready, and ends it when it is deleted.
async fn play_node(client: Client) {
    let store = Informer::<Pod>::new(client.clone(), ListOptions::default()).spawn();
    let mut subscription = store.subscribe();
    let mut addresses = 1_u32;
    loop {
        let pods: Vec<Arc<Pod>> = match subscription.changed().await {
            Changes::Batch(changes) => changes.into_iter().filter_map(|c| c.new).collect(),
            Changes::Resync => store.list(),
        };
        for pod in pods {
            let (namespace, name) = (pod.namespace(), pod.name());
            if pod.is_deleting() {
                let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(pod.uid()) };
                let _ = client.delete::<Pod>(namespace, name, &now).await;
            } else if pod.spec.as_ref().and_then(|s| s.node_name.as_ref()).is_none() {
                let node = pinned_to(&pod).unwrap_or("n1");
                let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
                match client.create_subresource::<Pod>(namespace, name, "binding", &binding).await {
                    // It was deleted meanwhile.
                    Err(error) if error.is_not_found() || error.is_conflict() => {}
                    bound => drop(bound.expect("bound")),
                }
            } else if pod.status.as_ref().and_then(|s| s.pod_ip.as_ref()).is_none() {
                addresses += 1;
                let ip = format!("10.244.{}.{}", addresses / 256, addresses % 256);
                let status = json!({"status": {
                    "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
                let _ = client.patch::<Pod>(namespace, name, &Patch::Merge(status), Some("status")).await;
            }
        }
    }
}

fn pinned_to(pod: &Pod) -> Option<&str> {
    kybern_controller_manager::snapshot::node_of(pod)
}

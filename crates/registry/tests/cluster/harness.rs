//! A server in this process and requests to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Method, Request};
use kybern_apimachinery::time::{Clock, SystemClock};
use kybern_apimachinery::{Gvk, Value, json};
use kybern_apiserver::access::{Authorizer, UserInfo};
use kybern_apiserver::connect::{ObjectsSlot, Observer};
use kybern_apiserver::{Options, ProtobufStore, Server, body};
use kybern_auth::authn::{BearerTokens, ServiceAccountTokens, TokenFile};
use kybern_auth::authz::node::NodeAuthorizer;
use kybern_auth::authz::rbac::Rbac;
use kybern_auth::authz::{Masters, Union};
use kybern_auth::pki::{Pki, PkiOptions};
use kybern_auth::token::{Issuer, SigningKey};
use kybern_registry::bootstrap::{self, BootstrapOptions};
use kybern_registry::{AdmissionConfiguration, AggregationOptions, Deps, KubeletClient, Routing, ServiceAllocators};
use kybern_webhook::{ClientManager, NoServices};
use parking_lot::Mutex;

pub(crate) struct Cluster {
    pub(crate) server: Arc<Server>,
    pub(crate) tokens: Arc<BearerTokens>,
    pub(crate) pki: Pki,
    /// Where extension servers are found, if not by their Services' addresses.
    pub(crate) extensions: Arc<Mutex<Option<SocketAddr>>>,
    /// Where and as what each resource's objects are stored, by group and name.
    pub(crate) stored: BTreeMap<(String, String), (String, Gvk)>,
    _directory: tempfile::TempDir,
}

/// A user by name and groups.
pub(crate) fn user(name: &str, groups: &[&str]) -> UserInfo {
    let groups = groups.iter().chain(&["system:authenticated"]).map(|g| (*g).to_owned()).collect();
    UserInfo { name: name.to_owned(), groups, ..UserInfo::default() }
}

pub(crate) fn admin() -> UserInfo {
    user("admin", &["system:masters"])
}

pub(crate) fn node(name: &str) -> UserInfo {
    user(&format!("system:node:{name}"), &["system:nodes"])
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with_services("10.96.0.0/12").await
    }

    /// `services` are the addresses for Services.
    pub(crate) async fn start_with_services(services: &str) -> Self {
        let cluster = Self::with(Arc::new(kybern_storage::memory::Memory::default()), services).await;
        // What its controller would make.
        cluster.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
        cluster
    }

    /// A server on what another one has stored.
    pub(crate) async fn on(storage: Arc<dyn kybern_storage::Storage>) -> Self {
        Self::with(storage, "10.96.0.0/12").await
    }

    /// A server on what another one has stored or stores, with addresses of its own choice.
    pub(crate) async fn beside(storage: Arc<dyn kybern_storage::Storage>, services: &str) -> Self {
        Self::with(storage, services).await
    }

    /// A server whose plugins are told something.
    pub(crate) async fn told(admission: AdmissionConfiguration) -> Self {
        let storage = Arc::new(kybern_storage::memory::Memory::default());
        Self::configured(storage, "10.96.0.0/12", admission, false).await
    }

    /// A server that writes as upstream does by default.
    pub(crate) async fn in_protobuf(storage: Arc<dyn kybern_storage::Storage>) -> Self {
        Self::configured(storage, "10.96.0.0/12", Default::default(), true).await
    }

    async fn with(storage: Arc<dyn kybern_storage::Storage>, service_cidr: &str) -> Self {
        Self::configured(storage, service_cidr, Default::default(), false).await
    }

    async fn configured(
        storage: Arc<dyn kybern_storage::Storage>,
        service_cidr: &str,
        mut admission: AdmissionConfiguration,
        protobuf: bool,
    ) -> Self {
        admission.enabled.push("NodeRestriction".to_owned());
        let directory = tempfile::tempdir().unwrap();
        let options = PkiOptions {
            directory: directory.path().to_owned(),
            service_ip: [10, 96, 0, 1].into(),
            node_ips: vec![[192, 0, 2, 1].into()],
            extra_names: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
        };
        let pki = Pki::load_or_create(&options, jiff::Timestamp::now()).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let slot = ObjectsSlot::default();
        let signer = SigningKey::from_pem(&pki.service_account_key_pem).unwrap();
        let issuer = Arc::new(Issuer::new(
            vec!["https://kubernetes.default.svc.cluster.local".to_owned()],
            vec![],
            signer,
            vec![],
        ));
        let accounts = Arc::new(ServiceAccountTokens::new(issuer.clone(), slot.clone(), clock.clone()));
        let fixed = Arc::new(TokenFile::parse("static,joe,1").unwrap());
        let tokens = Arc::new(BearerTokens::new(vec![fixed, accounts], issuer.audiences().to_vec()));
        let (rbac, nodes) = (Arc::new(Rbac::default()), Arc::new(NodeAuthorizer::default()));
        let authorizers: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Masters), nodes.clone(), rbac.clone()];
        let networks: Vec<ipnet::IpNet> = service_cidr.split(',').map(|n| n.parse().unwrap()).collect();
        let services = Arc::new(ServiceAllocators::new(&networks, 30000..=32767, slot.clone()));
        let deps = Deps {
            objects: slot.clone(),
            clock,
            issuer,
            token_limits: Default::default(),
            tokens: tokens.clone(),
            authorizer: Arc::new(Union(authorizers.clone())),
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
            kubelet: Arc::new(KubeletClient::of(&pki).unwrap()),
        };
        let mut options = Options::new(storage);
        options.resources = kybern_registry::resources(&deps);
        if protobuf {
            options.storage = Arc::new(ProtobufStore::new(options.storage, &options.resources));
        }
        let stored = options.resources.iter().map(|row| {
            let name = (row.gvr.group.clone(), row.gvr.resource.clone());
            (name, (row.stored.prefix.clone(), row.stored.gvk.clone()))
        });
        let stored = stored.collect();
        options.admission = kybern_registry::admission_plugins(&deps);
        options.priorities = kybern_registry::aggregation::priorities;
        options.authorizers = authorizers;
        options.authenticators = vec![Arc::new(BearerTokens::new(
            vec![Arc::new(TokenFile::parse("eve-token,eve,1").unwrap())],
            vec!["api".to_owned()],
        ))];
        options.priority_and_fairness = true;
        options.observers = deps.observers();
        options.observers.extend([rbac as Arc<dyn Observer>, nodes]);
        let server = Server::start(options).await.unwrap();
        slot.fill(server.clone());
        deps.definitions.start(&server, deps.webhooks.clone()).await.unwrap();
        let extensions: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let (elsewhere, by_service) = (extensions.clone(), deps.aggregation.locate(Routing::ClusterIp));
        let aggregation = AggregationOptions {
            identity: Some((
                directory.path().join("front-proxy-client.crt"),
                directory.path().join("front-proxy-client.key"),
            )),
            locate: Arc::new(move |namespace, name, port| match *elsewhere.lock() {
                Some(address) => Ok((address.ip().to_string(), address.port())),
                None => by_service(namespace, name, port),
            }),
            rejects_redirects: true,
            built_in: Vec::new(),
        };
        deps.aggregation.start(&server, aggregation).await;
        let options = BootstrapOptions {
            advertise_address: [192, 0, 2, 1].into(),
            secure_port: 6443,
            kubernetes_ip: [10, 96, 0, 1].into(),
            service_cidrs: networks.iter().map(ToString::to_string).collect(),
            kubelet_client: None,
            features: Default::default(),
        };
        bootstrap::run(server.as_ref(), &options).await.unwrap();
        Self { server, tokens, pki, extensions, stored, _directory: directory }
    }

    pub(crate) async fn send(
        &self,
        user: UserInfo,
        method: Method,
        path: &str,
        media: &str,
        object: Option<Value>,
    ) -> (u16, Value) {
        let content = object.map_or_else(body::empty, |o| body::full(o.to_string()));
        let mut request =
            Request::builder().method(method).uri(path).header("content-type", media).body(content).unwrap();
        request.extensions_mut().insert(user);
        let response = self.server.handle(request).await;
        let code = response.status().as_u16();
        let bytes = body::read(response.into_body()).await.unwrap();
        (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into()))
    }

    pub(crate) async fn as_user(
        &self,
        user: UserInfo,
        method: Method,
        path: &str,
        object: Option<Value>,
    ) -> (u16, Value) {
        self.send(user, method, path, "application/json", object).await
    }

    /// As administrator.
    pub(crate) async fn ask(&self, method: Method, path: &str, object: Option<Value>) -> (u16, Value) {
        self.as_user(admin(), method, path, object).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (code, object) = self.ask(Method::GET, path, None).await;
        assert_eq!(code, 200, "GET {path}: {object}");
        object
    }

    pub(crate) async fn create(&self, path: &str, object: Value) -> Value {
        let (code, created) = self.ask(Method::POST, path, Some(object)).await;
        assert_eq!(code, 201, "POST {path}: {created}");
        created
    }

    /// The message of a refusal.
    pub(crate) async fn refusal(&self, method: Method, path: &str, object: Option<Value>, expect: u16) -> String {
        let (code, status) = self.ask(method.clone(), path, object).await;
        assert_eq!(code, expect, "{method} {path}: {status}");
        status["message"].as_str().unwrap_or("").to_owned()
    }

    pub(crate) async fn patch(&self, path: &str, patch: Value) -> (u16, Value) {
        self.send(admin(), Method::PATCH, path, "application/merge-patch+json", Some(patch)).await
    }

    /// The cells of `kubectl get`, by row.
    pub(crate) async fn table(&self, path: &str) -> Vec<Vec<Value>> {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let mut request = Request::builder().uri(path).header("accept", accept).body(body::empty()).unwrap();
        request.extensions_mut().insert(admin());
        let bytes = body::read(self.server.handle(request).await.into_body()).await.unwrap();
        let table: Value = serde_json::from_slice(&bytes).unwrap();
        let rows = table["rows"].as_array().unwrap_or_else(|| panic!("no table: {table}"));
        rows.iter().map(|r| r["cells"].as_array().unwrap().clone()).collect()
    }
}

pub(crate) fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "nginx:1.14", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1", "memory": "64Mi"}}}]}})
}

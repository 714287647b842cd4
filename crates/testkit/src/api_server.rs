//! The real API server with all built-in kinds, admission and authorization, in this process and on memory.

use std::sync::Arc;

use kybern_apimachinery::time::{Clock, SystemClock};
use kybern_apiserver::access::{Authorizer, UserInfo};
use kybern_apiserver::connect::ObjectsSlot;
use kybern_apiserver::{Options, Server};
use kybern_auth::authn::ServiceAccountTokens;
use kybern_auth::authz::node::NodeAuthorizer;
use kybern_auth::authz::rbac::Rbac;
use kybern_auth::authz::{Masters, Union};
use kybern_auth::pki::{Pki, PkiOptions};
use kybern_auth::token::{Issuer, SigningKey};
use kybern_client::{Body, BoxFuture, Client, Transport, TransportError};
use kybern_registry::bootstrap::{self, BootstrapOptions};
use kybern_registry::{Deps, KubeletClient, ServiceAllocators};

const SERVICE_CIDR: &str = "10.96.0.0/12";
const KUBERNETES_IP: [u8; 4] = [10, 96, 0, 1];
/// An address of RFC 5737 that nothing answers on.
const ADDRESS: [u8; 4] = [192, 0, 2, 1];

/// A server that holds what a new cluster holds.
pub struct ApiServer {
    server: Arc<Server>,
    /// Of the certificates.
    _directory: tempfile::TempDir,
}

impl ApiServer {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let pki = PkiOptions {
            directory: directory.path().to_owned(),
            service_ip: KUBERNETES_IP.into(),
            node_ips: vec![ADDRESS.into()],
            extra_names: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
        };
        let pki = Pki::load_or_create(&pki, clock.now()).expect("certificates");
        let signer = SigningKey::from_pem(&pki.service_account_key_pem).expect("a key");
        let names = vec!["https://kubernetes.default.svc.cluster.local".to_owned()];
        let issuer = Arc::new(Issuer::new(names, Vec::new(), signer, Vec::new()));
        let slot = ObjectsSlot::default();
        let (rbac, nodes) = (Arc::new(Rbac::default()), Arc::new(NodeAuthorizer::default()));
        let authorizers: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Masters), nodes.clone(), rbac.clone()];
        let services = ServiceAllocators::new(SERVICE_CIDR.parse().expect("a network"), 30_000..=32_767);
        let services = Arc::new(services);
        let deps = Deps {
            objects: slot.clone(),
            clock: clock.clone(),
            issuer: issuer.clone(),
            tokens: Arc::new(ServiceAccountTokens::new(issuer, slot.clone(), clock)),
            authorizer: Arc::new(Union(authorizers.clone())),
            rbac: Some(rbac.clone()),
            services: services.clone(),
            kubelet: Arc::new(KubeletClient::new(&pki).expect("a way to kubelets")),
        };
        let mut options = Options::new(Arc::new(kybern_storage::memory::Memory::default()));
        options.resources = kybern_registry::resources(&deps);
        options.admission = kybern_registry::admission_plugins(&deps);
        options.authorizers = authorizers;
        options.observers = vec![rbac, nodes, services];
        let server = Server::start(options).await.expect("an empty store loads");
        slot.fill(server.clone());
        let options = BootstrapOptions {
            advertise_address: ADDRESS.into(),
            secure_port: 6443,
            kubernetes_ip: KUBERNETES_IP.into(),
            service_cidr: SERVICE_CIDR.to_owned(),
        };
        bootstrap::run(server.as_ref(), &options).await.expect("the first objects");
        Self { server, _directory: directory }
    }

    /// A client that may do all.
    pub fn admin(&self) -> Client {
        self.client("admin", &["system:masters"])
    }

    /// A client of a user in these groups and that of the authenticated.
    pub fn client(&self, user: &str, groups: &[&str]) -> Client {
        let groups = groups.iter().chain(&["system:authenticated"]).map(|g| (*g).into()).collect();
        let user = UserInfo { name: user.into(), groups, ..UserInfo::default() };
        Client::new(Arc::new(InProcess { server: self.server.clone(), user }))
    }
}

/// Calls the server directly, its caller being known.
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

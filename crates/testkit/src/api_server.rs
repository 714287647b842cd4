//! The real API server with all built-in kinds, admission and authorization, in this process.

use std::sync::{Arc, OnceLock};

use kybern_apimachinery::ApiError;
use kybern_apimachinery::time::{Clock, SystemClock};
use kybern_apiserver::access::{Authorizer, UserInfo};
use kybern_apiserver::connect::{ObjectsSlot, Observer};
use kybern_apiserver::strategy::Features;
use kybern_apiserver::{Options, Server};
use kybern_auth::authn::{BearerTokens, ServiceAccountTokens};
use kybern_auth::authz::node::NodeAuthorizer;
use kybern_auth::authz::rbac::Rbac;
use kybern_auth::authz::{Masters, Union};
use kybern_auth::pki::{Pki, PkiOptions};
use kybern_auth::token::{Issuer, SigningKey};
use kybern_client::{Body, BoxFuture, Client, Transport, TransportError};
use kybern_registry::bootstrap::{self, BootstrapOptions};
use kybern_registry::{Deps, KubeletClient, ServiceAllocators};
use kybern_storage::memory::Memory;
use kybern_storage::{Storage, StorageError};
use kybern_webhook::{ClientManager, NoServices};

const SERVICE_CIDR: &str = "10.96.0.0/12";
const KUBERNETES_IP: [u8; 4] = [10, 96, 0, 1];
/// An address of RFC 5737 that nothing answers on.
const ADDRESS: [u8; 4] = [192, 0, 2, 1];

/// Made once for all servers of a test program: keys take long.
fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let options = PkiOptions {
            directory: directory.path().to_owned(),
            service_ip: KUBERNETES_IP.into(),
            node_ips: vec![ADDRESS.into()],
            extra_names: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
        };
        Pki::load_or_create(&options, SystemClock.now()).expect("certificates")
    })
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the store cannot be loaded: {0}")]
    Load(#[from] StorageError),
    #[error("the first objects cannot be made: {0}")]
    Bootstrap(#[from] ApiError),
}

/// A server that holds what a new cluster holds.
pub struct ApiServer {
    server: Arc<Server>,
}

impl ApiServer {
    /// A new cluster in memory.
    pub async fn start() -> Self {
        // With what is behind gates, too.
        let features = ["DRADeviceTaints", "GenericWorkload"].into_iter().collect();
        let started = Self::start_with(Arc::new(Memory::default()), Arc::new(SystemClock), features).await;
        started.expect("an empty store loads")
    }

    /// A server on a store that may hold a cluster already.
    pub async fn start_on(storage: Arc<dyn Storage>, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        Self::start_with(storage, clock, Features::default()).await
    }

    async fn start_with(
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        features: Features,
    ) -> Result<Self, StartError> {
        let pki = pki();
        let signer = SigningKey::from_pem(&pki.service_account_key_pem).expect("a key");
        let names = vec!["https://kubernetes.default.svc.cluster.local".to_owned()];
        let issuer = Arc::new(Issuer::new(names, Vec::new(), signer, Vec::new()));
        let slot = ObjectsSlot::default();
        let (rbac, nodes) = (Arc::new(Rbac::default()), Arc::new(NodeAuthorizer::default()));
        let authorizers: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Masters), nodes.clone(), rbac.clone()];
        let services =
            ServiceAllocators::new(&[SERVICE_CIDR.parse().expect("a network")], 30_000..=32_767, slot.clone());
        let services = Arc::new(services);
        let accounts = Arc::new(ServiceAccountTokens::new(issuer.clone(), slot.clone(), clock.clone()));
        let tokens = Arc::new(BearerTokens::new(vec![accounts], issuer.audiences().to_vec()));
        let deps = Deps {
            objects: slot.clone(),
            clock: clock.clone(),
            issuer,
            token_limits: Default::default(),
            tokens,
            authorizer: Arc::new(Union(authorizers.clone())),
            rbac: Some(rbac.clone()),
            services,
            elections: Default::default(),
            admission_views: Default::default(),
            admission: Default::default(),
            webhooks: Arc::new(ClientManager::new(Arc::new(NoServices), "test")),
            webhook_metrics: Default::default(),
            policy_metrics: Default::default(),
            definitions: Default::default(),
            aggregation: Default::default(),
            kubelet: Arc::new(KubeletClient::of(pki).expect("a way to kubelets")),
        };
        let mut options = Options::new(storage);
        options.resources = kybern_registry::resources(&deps);
        options.admission = kybern_registry::admission_plugins(&deps);
        options.authorizers = authorizers;
        options.observers = deps.observers();
        options.observers.extend([rbac as Arc<dyn Observer>, nodes]);
        options.clock = clock;
        options.features = features.clone();
        let server = Server::start(options).await?;
        slot.fill(server.clone());
        deps.definitions.start(&server, deps.webhooks.clone()).await?;
        let options = BootstrapOptions {
            advertise_address: ADDRESS.into(),
            secure_port: 6443,
            kubernetes_ip: KUBERNETES_IP.into(),
            service_cidrs: vec![SERVICE_CIDR.to_owned()],
            kubelet_client: None,
            features,
        };
        bootstrap::run(server.as_ref(), &options).await?;
        deps.elections.hold(&server);
        Ok(Self { server })
    }

    pub fn server(&self) -> &Arc<Server> {
        &self.server
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

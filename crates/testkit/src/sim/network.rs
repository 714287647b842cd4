//! The simulated network between clients and the API servers: it delays, loses and breaks off, and knows which writes were
//! acknowledged. Requests and responses are the real ones.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use kybern_apimachinery::{Value, object};
use kybern_apiserver::Server;
use kybern_apiserver::access::UserInfo;
use kybern_client::{Body, BoxFuture, Client, Transport, TransportError, body};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::faults::Faults;
use super::host::Host;
use super::load::Load;
use super::random::Random;
use super::volumes::Folders;

/// A server that is up, or none is; its changes break what goes on.
type Place = Option<Up>;

/// A server, and what its process does.
#[derive(Clone)]
pub(super) struct Up {
    pub(super) server: Arc<Server>,
    pub(super) host: Host,
}

/// API servers that there may be.
pub(super) const SERVERS: usize = 2;
/// The longest life of a watch that will be broken.
const BROKEN_WATCH_LIFE: Duration = Duration::from_secs(60);
/// What a connection attempt takes where nothing listens.
const REFUSAL: Duration = Duration::from_millis(10);

/// A write that a client was told to have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub revision: u64,
    pub uid: String,
}

/// See the module.
pub struct Network {
    state: Mutex<State>,
    /// The servers that are up; changes break what goes on with that one.
    servers: [watch::Sender<Place>; SERVERS],
    /// What nodes keep, which the server's way to them leads to.
    pub(super) folders: Arc<Folders>,
    load: Arc<Load>,
    /// The nodes that do not answer.
    silent: Mutex<BTreeSet<String>>,
}

struct State {
    random: Random,
    faults: Faults,
    acknowledged: Vec<Acknowledged>,
}

/// What will happen to one request.
struct Fate {
    before: Duration,
    after: Duration,
    request_lost: bool,
    response_lost: bool,
    watch_life: Option<Duration>,
    moves: bool,
}

impl Network {
    pub(super) fn new(random: Random, faults: Faults, load: Arc<Load>) -> Arc<Self> {
        let state = State { random, faults, acknowledged: Vec::new() };
        Arc::new(Self {
            state: Mutex::new(state),
            servers: Default::default(),
            folders: Arc::default(),
            load,
            silent: Mutex::default(),
        })
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// From now on this server answers in this place; `None`: nothing does. What went on with the last one breaks off.
    pub(super) fn set_server(&self, place: usize, server: Place) {
        self.servers[place].send_replace(server);
    }

    /// Whether a node answers the server.
    pub(super) fn set_silent(&self, node: &str, is_silent: bool) {
        let mut silent = self.silent.lock();
        if is_silent {
            silent.insert(node.to_owned())
        } else {
            silent.remove(node)
        };
    }

    /// What a node is asked through the server: to remove a volume's folder.
    fn ask_node(&self, path: &str) -> Option<Response<Body>> {
        let (node, what) = path.strip_prefix("/api/v1/nodes/")?.split_once("/proxy/")?;
        let is_silent = self.silent.lock().contains(node);
        if let Some(volume) = what.strip_prefix("volumes/").filter(|_| !is_silent) {
            self.folders.remove(node, volume);
        }
        let mut response = Response::new(body::empty());
        if is_silent {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        Some(response)
    }

    /// What the server of metrics answers, to which the API server leads.
    fn ask_metrics(&self, path: &str) -> Option<Response<Body>> {
        let namespace = path.strip_prefix("/apis/metrics.k8s.io/v1beta1/namespaces/")?.strip_suffix("/pods")?;
        Some(Response::new(body::full(self.load.pod_metrics(namespace).to_string())))
    }

    /// Those that are up.
    pub(super) fn servers(&self) -> Vec<Arc<Server>> {
        self.servers.iter().filter_map(|place| place.borrow().as_ref().map(|up| up.server.clone())).collect()
    }

    /// A server that is up: the one that was talked to last, or else the other, as a balancer of load chooses, or as who has
    /// the addresses of both does.
    fn reach(&self, home: &AtomicUsize) -> Option<(Up, watch::Receiver<Place>)> {
        let last = home.load(Ordering::Relaxed);
        (0..SERVERS).map(|n| (last + n) % SERVERS).find_map(|place| {
            let mut server = self.servers[place].subscribe();
            let up = server.borrow_and_update().clone()?;
            home.store(place, Ordering::Relaxed);
            Some((up, server))
        })
    }

    /// Whether whoever a client talks to stands still.
    fn stands(&self, home: &AtomicUsize) -> bool {
        let place = home.load(Ordering::Relaxed) % SERVERS;
        self.servers[place].borrow().as_ref().is_some_and(|up| up.host.stands())
    }

    /// Every write that was acknowledged since this was last called.
    pub fn take_acknowledged(&self) -> Vec<Acknowledged> {
        std::mem::take(&mut self.state.lock().acknowledged)
    }

    /// A client in a process, of a user in these groups and that of the authenticated.
    pub(super) fn client(self: &Arc<Self>, user: &str, groups: &[&str], host: &Host) -> Client {
        let groups = groups.iter().chain(&["system:authenticated"]).map(|g| (*g).into()).collect();
        let user = UserInfo { name: user.into(), groups, ..UserInfo::default() };
        let home = Arc::new(AtomicUsize::new(self.state.lock().random.below(SERVERS as u64) as usize));
        let link = Link { network: self.clone(), user, host: host.clone(), home };
        Client::new(Arc::new(link)).with_clock(host.clock.clone())
    }

    fn fate(&self) -> Fate {
        let mut state = self.state.lock();
        let State { random, faults, .. } = &mut *state;
        Fate {
            before: random.delay(faults.network_delay),
            after: random.delay(faults.network_delay),
            request_lost: random.chance(faults.lost_request),
            response_lost: random.chance(faults.lost_response),
            watch_life: random.chance(faults.broken_watch).then(|| random.delay(BROKEN_WATCH_LIFE)),
            moves: random.chance(faults.moves),
        }
    }

    fn event_delay(&self) -> Duration {
        let mut state = self.state.lock();
        let State { random, faults, .. } = &mut *state;
        random.delay(faults.network_delay)
    }

    async fn exchange(
        self: Arc<Self>,
        request: Request<Body>,
        home: Arc<AtomicUsize>,
        host: Host,
    ) -> Result<Response<Body>, TransportError> {
        let fate = self.fate();
        let method = request.method().clone();
        let path = request.uri().clone();
        let lost = |what: &str| TransportError::new(format!("{method} {path}"), format!("connection reset: {what}"));
        tokio::time::sleep(fate.before).await;
        home.fetch_add(usize::from(fate.moves), Ordering::Relaxed);
        let Some((up, mut server)) = self.reach(&home) else {
            tokio::time::sleep(REFUSAL).await;
            return Err(lost("connection refused"));
        };
        if fate.request_lost {
            return Err(lost("the request was lost"));
        }
        let is_watch = path.query().is_some_and(|q| q.split('&').any(|p| p == "watch=true" || p == "watch=1"));
        let work = async {
            up.host.runs().await;
            if let Some(response) = self.ask_node(path.path()).or_else(|| self.ask_metrics(path.path())) {
                return Ok(response);
            }
            let response = up.server.handle(request).await;
            up.host.runs().await;
            if is_watch {
                return Ok(response);
            }
            let (head, body) = response.into_parts();
            let bytes = body::collect(body, usize::MAX).await.map_err(|_| lost("the body broke off"))?;
            Ok(Response::from_parts(head, body::full(bytes)))
        };
        let response = tokio::select! {
            biased;
            _ = server.changed() => return Err(lost("the server crashed")),
            response = work => response?,
        };
        let sender = up.host.clone();
        // Nobody who waits keeps a server that is dead.
        drop(up);
        if is_watch {
            let end = fate.watch_life.map(|life| tokio::time::Instant::now() + life);
            return Ok(response.map(|body| self.watched(body, end, server, [sender, host])));
        }
        tokio::time::sleep(fate.after).await;
        if fate.response_lost {
            return Err(lost("the response was lost"));
        }
        self.acknowledge(&method, response).await
    }

    /// A watch's events come late, and end when the server does or at `end`.
    fn watched(
        self: &Arc<Self>,
        body: Body,
        end: Option<tokio::time::Instant>,
        mut server: watch::Receiver<Place>,
        hosts: [Host; 2],
    ) -> Body {
        let network = self.clone();
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
        // The server's side must see it when the client goes: the task ends with the receiver.
        tokio::spawn(async move {
            let mut pieces = body.into_data_stream();
            let until = async move {
                match end {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            let carry = async {
                while let Some(Ok(piece)) = pieces.next().await {
                    tokio::time::sleep(network.event_delay()).await;
                    for host in &hosts {
                        host.runs().await;
                    }
                    if sender.send(piece).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                biased;
                _ = server.changed() => {}
                () = sender.closed() => {}
                () = until => {}
                () = carry => {}
            }
        });
        let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
            let piece = receiver.recv().await?;
            Some((Ok(Frame::data(piece)), receiver))
        });
        StreamBody::new(frames).boxed_unsync()
    }

    async fn acknowledge(&self, method: &Method, response: Response<Body>) -> Result<Response<Body>, TransportError> {
        let is_write = [Method::POST, Method::PUT, Method::PATCH].contains(method) && response.status().is_success();
        if !is_write {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        let bytes = body::collect(body, usize::MAX).await.map_err(|e| TransportError::new("response", e))?;
        if let Ok(object) = serde_json::from_slice::<Value>(&bytes)
            && let Ok(revision) = object::resource_version(&object).parse()
            && !object::uid(&object).is_empty()
        {
            let uid = object::uid(&object).to_owned();
            self.state.lock().acknowledged.push(Acknowledged { revision, uid });
        }
        Ok(Response::from_parts(head, body::full(bytes)))
    }
}

/// One client's way to the servers.
#[derive(Clone)]
struct Link {
    network: Arc<Network>,
    user: UserInfo,
    host: Host,
    /// The server that it talks to.
    home: Arc<AtomicUsize>,
}

impl Link {
    async fn carry(self, request: Request<Body>) -> Result<Response<Body>, TransportError> {
        let Self { network, host, home, .. } = self;
        tokio::select! {
            biased;
            // The process is dead: its request dies with it, and nobody waits for an answer.
            () = host.dies() => std::future::pending().await,
            response = async {
                host.runs().await;
                let response = network.exchange(request, home, host.clone()).await;
                host.runs().await;
                response
            } => response,
        }
    }
}

impl Transport for Link {
    fn call(&self, mut request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        request.extensions_mut().insert(self.user.clone());
        let (method, path) = (request.method().clone(), request.uri().clone());
        let carried = self.clone().carry(request);
        if !self.host.stands() && !self.network.stands(&self.home) {
            return Box::pin(carried);
        }
        // It is as good as sent: that its sender gives up does not call it back.
        let carried = tokio::spawn(carried);
        Box::pin(async move {
            let lost = |e| TransportError::new(format!("{method} {path}"), format!("connection reset: {e}"));
            carried.await.map_err(lost).and_then(|response| response)
        })
    }
}

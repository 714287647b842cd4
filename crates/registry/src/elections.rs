//! Coordinated leader election: candidates say what they are, in LeaseCandidates, and the API server makes one of them the
//! holder of the Lease that they are after (`pkg/controlplane/controller/leaderelection`). Several servers may do so at once:
//! each decides on the same objects, and writes only what nobody has changed since.

mod decide;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use kybern_apimachinery::{ApiError, Reason, Value, json, object, time};
use kybern_apiserver::Server;
use kybern_apiserver::connect::{Objects, Observer, Unread};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::tree::text;
use decide::{Candidate, Held, Step};

const GROUP: &str = "coordination.k8s.io";
const CANDIDATES: &str = "leasecandidates";
const LEASES: &str = "leases";
/// Of a Lease that is made here; its holder says another when it renews it.
const LEASE_SECONDS: u32 = 5;
/// When an election that could not go on is looked at again.
const RETRY: Duration = Duration::from_secs(5);

/// Namespace and name of a Lease.
type Key = (String, String);

/// The candidates that there are.
#[derive(Default)]
pub struct Elections {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct Election {
    /// By name.
    candidates: BTreeMap<String, Candidate>,
    /// Who holds the Lease, as last seen.
    holder: Option<String>,
}

#[derive(Default)]
struct State {
    /// Which Lease a candidate is after.
    after: HashMap<Key, Key>,
    elections: BTreeMap<Key, Election>,
}

impl Observer for Elections {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[(GROUP, CANDIDATES), (GROUP, LEASES)]
    }

    fn sorts_by(&self, _: &str, resource: &str) -> Option<&'static [&'static str]> {
        // Nodes renew theirs all the time.
        (resource == LEASES).then_some(&["spec", "holderIdentity"])
    }

    fn sorted(&self, _: &str, _: &str, namespace: &str, name: &str, object: Option<(&str, Unread)>) {
        let mut state = self.state.lock();
        if state.elections.is_empty() {
            return;
        }
        let Some(election) = state.elections.get_mut(&(namespace.to_owned(), name.to_owned())) else { return };
        let holder = object.map_or("", |(holder, _)| holder);
        if election.holder.as_deref() != Some(holder) {
            election.holder = Some(holder.to_owned());
            self.changed.notify_one();
        }
    }

    fn changed(&self, _: &str, _: &str, namespace: &str, name: &str, object: Option<&Value>) {
        let mut state = self.state.lock();
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(lease) = state.after.remove(&key)
            && let Some(election) = state.elections.get_mut(&lease)
        {
            election.candidates.remove(name);
            if election.candidates.is_empty() {
                state.elections.remove(&lease);
            }
        }
        if let Some(object) = object {
            let lease = (namespace.to_owned(), text(&object["spec"], "leaseName").to_owned());
            let election = state.elections.entry(lease.clone()).or_default();
            election.candidates.insert(name.to_owned(), Candidate::of(object));
            state.after.insert(key, lease);
        }
        self.changed.notify_one();
    }
}

impl Elections {
    /// Holds elections for as long as the server is there.
    pub fn hold(self: &Arc<Self>, server: &Arc<Server>) {
        tokio::spawn(run(self.clone(), Arc::downgrade(server)));
    }

    fn by_lease(&self) -> Vec<(Key, Vec<Candidate>)> {
        let state = self.state.lock();
        let all = state.elections.iter();
        all.map(|(lease, election)| (lease.clone(), election.candidates.values().cloned().collect())).collect()
    }
}

async fn run(elections: Arc<Elections>, server: Weak<Server>) {
    loop {
        let Some(running) = server.upgrade() else { return };
        let mut next: Option<Timestamp> = None;
        for ((namespace, lease), candidates) in elections.by_lease() {
            let now = running.now();
            let again = round(&running, &namespace, &lease, &candidates).await.unwrap_or_else(|error| {
                tracing::warn!(lease, namespace, "the election of a leader does not go on: {error}");
                now.checked_add(RETRY).ok()
            });
            next = next.into_iter().chain(again).min();
        }
        let now = running.now();
        drop(running);
        match next {
            None => elections.changed.notified().await,
            Some(next) => {
                let wait = Duration::try_from(next.duration_since(now)).unwrap_or_default();
                let _ = tokio::time::timeout(wait + Duration::from_millis(10), elections.changed.notified()).await;
            }
        }
    }
}

/// One step of one election; answers when to look again without a change.
async fn round(
    server: &Server,
    namespace: &str,
    lease: &str,
    candidates: &[Candidate],
) -> Result<Option<Timestamp>, String> {
    let held = match server.get(GROUP, LEASES, namespace, lease).await {
        Ok(object) => Some(Held::of(&object)),
        Err(error) if error.reason() == Reason::NotFound => None,
        Err(error) => return Err(error.to_string()),
    };
    let now = server.now();
    let text = time::to_rfc3339_micro(now);
    match decide::step(candidates, held.as_ref(), now)? {
        None => Ok(None),
        Some(Step::Wait(until)) => Ok(Some(until)),
        Some(Step::Ping(names)) => {
            for name in names {
                let ask = |object: &mut Value| {
                    object::set(object, &["spec", "pingTime"], text.as_str());
                    Ok(())
                };
                gone(server.update(GROUP, CANDIDATES, namespace, &name, &ask).await.map(drop))?;
            }
            Ok(now.checked_add(RETRY).ok())
        }
        Some(Step::Elect { holder, strategy }) => {
            elect(server, (namespace, lease), holder.as_deref(), &strategy).await.map_err(|error| error.to_string())?;
            Ok(now.checked_add(RETRY).ok())
        }
    }
}

/// Whoever has gone need not be asked.
fn gone(result: Result<(), ApiError>) -> Result<(), String> {
    match result {
        Err(error) if error.reason() != Reason::NotFound => Err(error.to_string()),
        _ => Ok(()),
    }
}

async fn elect(server: &Server, place: (&str, &str), holder: Option<&str>, strategy: &str) -> Result<(), ApiError> {
    let (namespace, name) = place;
    let now = time::to_rfc3339_micro(server.now());
    let write = |lease: &mut Value| {
        object::set(lease, &["spec", "strategy"], strategy);
        let Some(holder) = holder else { return Ok(()) };
        let held = Held::of(lease);
        let is_over = held.ends().is_none_or(|end| end < server.now());
        let present = text(&lease["spec"], "holderIdentity").to_owned();
        if present.is_empty() || (is_over && present != holder) {
            let spec = lease["spec"].as_object_mut().expect("it was set");
            spec.remove("preferredHolder");
            spec.remove("acquireTime");
            spec.insert("holderIdentity".to_owned(), holder.into());
            spec.insert("renewTime".to_owned(), now.as_str().into());
            spec.insert("leaseDurationSeconds".to_owned(), LEASE_SECONDS.into());
        } else if present != holder {
            // The present one ends its term when it reads this.
            object::set(lease, &["spec", "preferredHolder"], holder);
        }
        Ok(())
    };
    match server.update(GROUP, LEASES, namespace, name, &write).await {
        Err(error) if error.reason() == Reason::NotFound => {}
        done => return done.map(drop),
    }
    let mut lease = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "Lease", "metadata": {"name": name, "namespace": namespace},
        "spec": {},
    });
    write(&mut lease)?;
    match server.create(GROUP, LEASES, lease).await {
        Err(error) if error.reason() == Reason::AlreadyExists => Ok(()),
        done => done.map(drop),
    }
}

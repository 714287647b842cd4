//! Leader election on a Lease (`k8s.io/client-go/tools/leaderelection`): of several candidates one works.

use std::time::Duration;

use jiff::Timestamp;
use kybern_api::coordination::v1::{Lease, LeaseSpec};
use kybern_api::meta::v1::MicroTime;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::events::{EventRecorder, ObjectRef};
use crate::{Client, ClientError, Informer, ListOptions, Store};

/// Which lease, and upstream's three durations.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    pub namespace: String,
    pub name: String,
    /// This candidate; unique among all.
    pub identity: String,
    /// How long others wait after the last renewal they saw.
    pub lease_duration: Duration,
    /// How long a leader that cannot renew goes on.
    pub renew_deadline: Duration,
    /// Time between renewals.
    pub retry_period: Duration,
    /// With this version of the program it is a candidate, and the API server elects (coordinated leader election).
    pub coordinated: Option<String>,
}

impl LeaseConfig {
    /// Upstream's durations: 15 s, 10 s, 2 s.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            coordinated: None,
        }
    }
}

/// A candidate.
pub struct LeaderElector {
    client: Client,
    config: LeaseConfig,
}

/// What a candidate does about the lease it sees.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Create(Lease),
    /// Take over or renew; carries the resourceVersion that was seen.
    Update(Lease),
    /// Another leads: look again when the lease changes, or after this time.
    Wait(Duration),
}

impl LeaderElector {
    pub fn new(client: Client, config: LeaseConfig) -> Self {
        Self { client, config }
    }

    /// Waits to become leader, then runs `work` for as long as the lease is held and nobody asks for `shutdown`. Whoever
    /// leaves on his own account gives the lease up, so that the next candidate need not wait for its end.
    pub async fn lead(&self, work: impl Future<Output = ()>, shutdown: impl Future<Output = ()>) {
        let options = ListOptions::fields(format!("metadata.name={}", self.config.name));
        let informer = Informer::<Lease>::new(self.client.clone(), options).in_namespace(&self.config.namespace);
        let store = informer.spawn();
        tokio::pin!(shutdown);
        let stand = candidate::stand(&self.client, &self.config);
        tokio::pin!(stand);
        let lease = tokio::select! {
            lease = self.acquire(&store) => lease,
            () = &mut stand => return,
            () = &mut shutdown => return,
        };
        info!(lease = self.config.name, identity = self.config.identity, "became leader");
        let (events, of_lease) =
            (EventRecorder::new(self.client.clone(), &self.config.name, ""), ObjectRef::of(&lease));
        let tell = |what| events.normal(&of_lease, "LeaderElection", format!("{} {what}", self.config.identity));
        tell("became leader");
        let lost = tokio::select! {
            () = work => false,
            () = self.hold(lease) => true,
            () = stand => true,
            () = shutdown => false,
        };
        // From here on nobody works. Whose term is over still has the lease.
        if lost {
            warn!(lease = self.config.name, "leader election lost");
        }
        if (!lost || self.config.coordinated.is_some())
            && !matches!(tokio::time::timeout(self.config.retry_period, self.release()).await, Ok(Ok(())))
        {
            warn!(lease = self.config.name, "cannot give the lease up: the next leader waits for its end");
        }
        tell("stopped leading");
    }

    /// Leaves the lease without a holder, if it is still this candidate's.
    async fn release(&self) -> Result<(), ClientError> {
        let mut lease = self.client.get::<Lease>(&self.config.namespace, &self.config.name).await?;
        if holder(&lease) != self.config.identity {
            return Ok(());
        }
        let now = Some(MicroTime(self.client.clock().now()));
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: now.clone(),
            renew_time: now,
            lease_transitions: lease.spec.and_then(|spec| spec.lease_transitions),
            ..LeaseSpec::default()
        });
        self.client.update(&lease).await.map(drop)
    }

    async fn acquire(&self, store: &Store<Lease>) -> Lease {
        store.synced().await;
        let key = format!("{}/{}", self.config.namespace, self.config.name);
        loop {
            let seen = store.get(&key);
            let seen_at = Instant::now();
            let mut waited = Duration::ZERO;
            loop {
                let result = match step(&self.config, seen.as_deref(), waited, self.client.clock().now()) {
                    Step::Create(lease) => self.client.create(&lease).await,
                    Step::Update(lease) => self.client.update(&lease).await,
                    Step::Wait(time) => {
                        let changed = store.wait_until(|s| s.get(&key).as_deref() != seen.as_deref());
                        if tokio::time::timeout(time, changed).await.is_ok() {
                            break;
                        }
                        waited = seen_at.elapsed();
                        continue;
                    }
                };
                match result {
                    Ok(lease) => return lease,
                    Err(error) => info!(lease = self.config.name, "cannot take the lease: {error}"),
                }
                tokio::time::sleep(self.config.retry_period).await;
                break;
            }
        }
    }

    /// Renews until that fails for too long.
    async fn hold(&self, mut lease: Lease) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < self.config.renew_deadline {
            tokio::time::sleep(self.config.retry_period).await;
            let Step::Update(next) = step(&self.config, Some(&lease), Duration::ZERO, self.client.clock().now()) else {
                return;
            };
            let attempt = tokio::time::timeout(self.config.retry_period, self.client.update(&next));
            match attempt.await {
                Ok(Ok(updated)) => (lease, renewed) = (updated, Instant::now()),
                Ok(Err(error @ ClientError::Api(_))) if error.is_conflict() => {
                    match self.client.get::<Lease>(&self.config.namespace, &self.config.name).await {
                        Ok(current) if holder(&current) == self.config.identity => lease = current,
                        Ok(_) => return,
                        Err(_) => {}
                    }
                }
                Ok(Err(error)) => warn!(lease = self.config.name, "cannot renew the lease: {error}"),
                Err(_) => warn!(lease = self.config.name, "cannot renew the lease: no answer"),
            }
        }
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|s| s.holder_identity.as_deref()).unwrap_or("")
}

/// Whether another was elected while this one holds the lease.
fn is_over(lease: &Lease) -> bool {
    let preferred = lease.spec.as_ref().and_then(|spec| spec.preferred_holder.as_deref());
    preferred.is_some_and(|preferred| !preferred.is_empty())
}

/// Decides. `unchanged_for` is how long this candidate has seen the lease as it is: clocks of others do not matter.
fn step(config: &LeaseConfig, seen: Option<&Lease>, unchanged_for: Duration, now: Timestamp) -> Step {
    let seconds = |d: Duration| i32::try_from(d.as_secs()).unwrap_or(i32::MAX);
    let mut spec = LeaseSpec {
        holder_identity: Some(config.identity.clone()),
        lease_duration_seconds: Some(seconds(config.lease_duration)),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(0),
        ..LeaseSpec::default()
    };
    if config.coordinated.is_some() && seen.is_none_or(|seen| holder(seen) != config.identity || is_over(seen)) {
        // Whoever elects changes the lease.
        return Step::Wait(config.lease_duration);
    }
    let Some(seen) = seen else {
        let mut lease = Lease { spec: Some(spec), ..Lease::default() };
        lease.metadata.name = Some(config.name.clone());
        lease.metadata.namespace = Some(config.namespace.clone());
        return Step::Create(lease);
    };
    let old = seen.spec.clone().unwrap_or_default();
    let transitions = old.lease_transitions.unwrap_or(0);
    if holder(seen) == config.identity {
        spec.acquire_time = old.acquire_time.or(spec.acquire_time);
        (spec.lease_transitions, spec.strategy) = (Some(transitions), old.strategy);
    } else {
        let duration = old
            .lease_duration_seconds
            .and_then(|s| u64::try_from(s).ok())
            .map_or(config.lease_duration, Duration::from_secs);
        if !holder(seen).is_empty() && unchanged_for < duration {
            return Step::Wait(duration - unchanged_for);
        }
        spec.lease_transitions = Some(transitions.saturating_add(1));
    }
    Step::Update(Lease { spec: Some(spec), ..seen.clone() })
}

#[path = "leader/candidate.rs"]
mod candidate;

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(holder: &str) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(15),
            acquire_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            lease_transitions: Some(4),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[test]
    fn a_candidate_respects_a_living_leader() {
        let config = LeaseConfig::new("kube-system", "x", "me");
        let now = Timestamp::from_second(1000).unwrap();
        let run = |lease: Option<&Lease>, seconds: u64| step(&config, lease, Duration::from_secs(seconds), now);
        assert!(matches!(run(None, 0), Step::Create(l) if holder(&l) == "me"));
        assert_eq!(run(Some(&seen("other")), 5), Step::Wait(Duration::from_secs(10)));
        for (lease, waited, transitions, acquired) in
            [(seen("other"), 15, 5, now), (seen(""), 0, 5, now), (seen("me"), 0, 4, Timestamp::UNIX_EPOCH)]
        {
            let Step::Update(taken) = run(Some(&lease), waited) else { panic!("expected an update") };
            let spec = taken.spec.unwrap();
            assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("me"), Some(transitions)));
            assert_eq!((spec.acquire_time, spec.renew_time), (Some(MicroTime(acquired)), Some(MicroTime(now))));
        }
    }
}

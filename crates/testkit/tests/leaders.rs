//! Leader election of two candidates against the real API server, on a clock that stands still while anybody works.

use std::sync::Arc;
use std::time::Duration;

use kybern_api::coordination::v1::Lease;
use kybern_api::core::v1::Event;
use kybern_client::{Client, LeaderElector, LeaseConfig, ListOptions};
use kybern_testkit::api_server::ApiServer;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const NAME: &str = "kube-controller-manager";

struct Candidate {
    task: JoinHandle<()>,
    shutdown: Option<oneshot::Sender<()>>,
}

/// Tells who leads, once for each time somebody begins.
fn candidate(client: &Client, identity: &'static str, leads: &mpsc::UnboundedSender<&'static str>) -> Candidate {
    let (shutdown, asked) = oneshot::channel();
    let (client, leads) = (client.clone(), leads.clone());
    let task = tokio::spawn(async move {
        let elector = LeaderElector::new(client, LeaseConfig::new("kube-system", NAME, identity));
        let work = async {
            leads.send(identity).expect("the test listens");
            std::future::pending().await
        };
        elector.lead(work, async { drop(asked.await) }).await;
    });
    Candidate { task, shutdown: Some(shutdown) }
}

/// One thread and the paused clock: time passes only when everybody waits.
fn on_paused_clock(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(test);
}

#[test]
fn a_leader_that_dies_is_replaced_within_fifteen_seconds_and_one_that_leaves_at_once() {
    on_paused_clock(async {
        let server = ApiServer::start().await;
        let client = server.client("system:kube-controller-manager", &[]);
        let (leads, mut led) = mpsc::unbounded_channel();
        let first = candidate(&client, "first", &leads);
        assert_eq!(led.recv().await, Some("first"));
        let mut second = candidate(&client, "second", &leads);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(led.try_recv().is_err(), "a leader that renews stays");

        first.task.abort();
        let died = Instant::now();
        assert_eq!(led.recv().await, Some("second"));
        let alone = died.elapsed();
        assert!(alone <= Duration::from_secs(15), "replaced after {alone:?}");
        assert!(alone >= Duration::from_secs(12), "the dead one might have gone on: {alone:?}");

        let third = candidate(&client, "third", &leads);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let left = Instant::now();
        second.shutdown.take().unwrap().send(()).unwrap();
        assert_eq!(led.recv().await, Some("third"));
        assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
        second.task.await.unwrap();

        let lease: Lease = client.get("kube-system", NAME).await.unwrap();
        let spec = lease.spec.unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("third"), Some(2)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let events = server.admin().list::<Event>("kube-system", &ListOptions::default()).await.unwrap();
        let told: Vec<_> = events.into_iter().filter_map(|event| event.message).collect();
        for message in ["first became leader", "second became leader", "second stopped leading", "third became leader"]
        {
            assert!(told.iter().any(|told| told == message), "{message} in {told:?}");
        }
        drop((third, Arc::new(server)));
    });
}

#[test]
fn a_leader_whose_lease_another_has_taken_stops() {
    on_paused_clock(async {
        let server = ApiServer::start().await;
        let client = server.client("system:kube-controller-manager", &[]);
        let (leads, mut led) = mpsc::unbounded_channel();
        let first = candidate(&client, "first", &leads);
        assert_eq!(led.recv().await, Some("first"));
        let mut lease: Lease = client.get("kube-system", NAME).await.unwrap();
        lease.spec.as_mut().unwrap().holder_identity = Some("thief".to_owned());
        client.update(&lease).await.unwrap();
        let within = tokio::time::timeout(Duration::from_secs(10), first.task).await;
        within.expect("it stops").unwrap();
        let lease: Lease = client.get("kube-system", NAME).await.unwrap();
        assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some("thief"), "what is another's is not given up");
    });
}

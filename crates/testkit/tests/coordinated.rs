//! Coordinated leader election: the API server elects among those who stand.

use std::time::Duration;

use kybern_api::coordination::v1::Lease;
use kybern_api::coordination::v1beta1::LeaseCandidate;
use kybern_apimachinery::json;
use kybern_client::{Client, LeaderElector, LeaseConfig, ListOptions, Patch};
use kybern_testkit::api_server::ApiServer;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

const NAME: &str = "kube-controller-manager";

struct Standing {
    task: JoinHandle<()>,
    shutdown: oneshot::Sender<()>,
}

fn stand(
    client: &Client,
    identity: &'static str,
    version: &str,
    leads: &mpsc::UnboundedSender<&'static str>,
) -> Standing {
    let (shutdown, asked) = oneshot::channel();
    let (client, leads) = (client.clone(), leads.clone());
    let config = LeaseConfig {
        coordinated: Some(version.to_owned()),
        retry_period: Duration::from_millis(200),
        ..LeaseConfig::new("kube-system", NAME, identity)
    };
    let task = tokio::spawn(async move {
        let work = async {
            leads.send(identity).expect("the test listens");
            std::future::pending().await
        };
        LeaderElector::new(client, config).lead(work, async { drop(asked.await) }).await;
    });
    Standing { task, shutdown }
}

async fn next(led: &mut mpsc::UnboundedReceiver<&'static str>) -> &'static str {
    tokio::time::timeout(Duration::from_secs(30), led.recv()).await.expect("somebody leads").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_elects_the_oldest_version_and_another_when_it_goes() {
    let server = ApiServer::start().await;
    let client = server.client("system:kube-controller-manager", &[]);
    let (leads, mut led) = mpsc::unbounded_channel();
    let new = stand(&client, "new", "1.36.0", &leads);
    assert_eq!(next(&mut led).await, "new");
    // One of an older version comes: the first ends its term, and only then the other begins.
    let old = stand(&client, "old", "1.35.0", &leads);
    assert_eq!(next(&mut led).await, "old");
    tokio::time::timeout(Duration::from_secs(5), new.task).await.expect("its term is over").unwrap();
    let lease: Lease = client.get("kube-system", NAME).await.unwrap();
    let spec = lease.spec.unwrap();
    let said = (spec.holder_identity.as_deref(), spec.strategy.as_deref(), spec.preferred_holder);
    assert_eq!(said, (Some("old"), Some("OldestEmulationVersion"), None));
    // A third of the same version waits, and follows when the second leaves.
    let third = stand(&client, "third", "1.35.0", &leads);
    let stands = async || client.get::<LeaseCandidate>("kube-system", "third").await.is_ok();
    while !stands().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(led.try_recv().is_err(), "nothing makes it better");
    // Those who have gone would be asked, and heard no more.
    client.delete::<LeaseCandidate>("kube-system", "new", &Default::default()).await.unwrap();
    old.shutdown.send(()).unwrap();
    old.task.await.unwrap();
    client.delete::<LeaseCandidate>("kube-system", "old", &Default::default()).await.unwrap();
    assert_eq!(next(&mut led).await, "third");
    // A candidate answers when it is asked.
    let ask = Patch::Merge(json!({"spec": {"pingTime": "2999-01-01T00:00:00.000000Z"}}));
    client.patch::<LeaseCandidate>("kube-system", "third", &ask, None).await.unwrap();
    let renewed = async || {
        let found: LeaseCandidate = client.get("kube-system", "third").await.unwrap();
        found.spec.unwrap().renew_time
    };
    let before = renewed().await;
    tokio::time::timeout(Duration::from_secs(10), async {
        while renewed().await == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it answers");
    drop(third);
    // Nobody else may stand for it.
    let stranger = server.client("system:serviceaccount:default:x", &["system:serviceaccounts"]);
    assert!(stranger.list::<LeaseCandidate>("kube-system", &ListOptions::default()).await.is_err());
}

//! Sandboxes whose network is slow, or does not let go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use kybern_cri::*;
use kybern_runtime::{Alive, PodNet, PodNetwork};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::fixture::Node;
use crate::sandboxes::assert_empty;

/// Holds an address for each sandbox, which it gives only when it may.
struct Addresses {
    held: Mutex<BTreeSet<String>>,
    asked: Semaphore,
    may_give: Semaphore,
    refusals: AtomicU32,
}

impl Addresses {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::default(),
            asked: Semaphore::new(0),
            may_give: Semaphore::new(0),
            refusals: AtomicU32::new(0),
        })
    }
}

impl PodNetwork for Addresses {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn add<'a>(&'a self, net: &'a PodNet) -> BoxFuture<'a, Result<Vec<String>, String>> {
        Box::pin(async {
            self.asked.add_permits(1);
            self.may_give.acquire().await.unwrap().forget();
            self.held.lock().insert(net.sandbox_id.clone());
            Ok(vec!["127.0.0.1".to_owned()])
        })
    }

    fn collect_garbage(&self, _: Alive) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn del<'a>(&'a self, net: &'a PodNet) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async {
            let refused = self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if refused.is_ok() {
                return Err("the network does not let go".to_owned());
            }
            self.held.lock().remove(&net.sandbox_id);
            Ok(())
        })
    }
}

/// Whoever asked for the sandbox has gone, and its removal comes, while the network is still at it: the removal waits, and what
/// the network gave in the end is given back.
pub(crate) async fn an_end_overtakes_the_network() {
    let network = Addresses::new();
    let node = Node::with_network(network.clone()).await;
    let pod = node.pod("overtaken");
    let mut call = node.service().run_pod_sandbox(pod, "");
    let given_up = tokio::select! {
        made = &mut call => panic!("{made:?}"),
        asked = network.asked.acquire() => asked.unwrap(),
    };
    given_up.forget();
    drop(call);
    let known = node.service().list_pod_sandbox().await.unwrap();
    assert_eq!(known.len(), 1, "it can be removed from before there is anything of it");
    let mut removal = node.service().remove_pod_sandbox(&known[0].id);
    assert!((&mut removal).now_or_never().is_none());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!((&mut removal).now_or_never().is_none(), "removed while it is being made");
    network.may_give.add_permits(1);
    removal.await.unwrap();
    assert!(network.held.lock().is_empty(), "the address is held for nobody");
    assert_empty(&node);
    node.finish().await;
}

/// What could not be removed stays known, and the next attempt removes it.
pub(crate) async fn a_network_that_does_not_let_go_is_asked_again() {
    let network = Addresses::new();
    network.may_give.add_permits(1);
    let node = Node::with_network(network.clone()).await;
    let sandbox = node.sandbox(&node.pod("kept")).await;
    network.refusals.store(2, Ordering::Relaxed);
    for _ in 0..2 {
        let error = node.service().remove_pod_sandbox(&sandbox).await.unwrap_err().to_string();
        assert!(error.contains("the network does not let go"), "{error}");
        assert_eq!(node.service().list_pod_sandbox().await.unwrap().len(), 1);
    }
    node.service().remove_pod_sandbox(&sandbox).await.unwrap();
    assert!(network.held.lock().is_empty());
    assert_empty(&node);
    node.finish().await;
}

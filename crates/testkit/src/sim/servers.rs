//! The API servers of a simulation: how they start, and what their store must not lose.

use std::collections::HashMap;
use std::sync::Arc;

use kybern_apimachinery::object;
use kybern_apimachinery::time::Clock;
use kybern_apiserver::Server;
use tokio::time::sleep;

use super::disk::{Disk, Mount};
use super::network::Acknowledged;
use super::processes::RESTART;
use crate::api_server::ApiServer;

/// A server that runs, and the store as it has it open.
pub(super) struct Running {
    pub(super) server: Arc<Server>,
    pub(super) mount: Arc<Mount>,
    /// Why it did not run before.
    pub(super) failures: Vec<String>,
}

/// Starts a server, as a service manager does: until it runs. The error names the rule that is broken.
pub(super) async fn start(disk: Arc<Disk>, clock: Arc<dyn Clock>) -> Result<Running, String> {
    let mut failures = Vec::new();
    loop {
        let mount = disk.mount().await.map_err(|e| format!("the store cannot be read: {e}"))?;
        match ApiServer::start_on(mount.clone(), clock.clone()).await {
            Ok(started) => return Ok(Running { server: started.server().clone(), mount, failures }),
            Err(error) => {
                failures.push(error.to_string());
                mount.crash();
                sleep(RESTART).await;
            }
        }
    }
}

/// What clients were told to be written is in the history of the store.
pub(super) async fn check_acknowledged(acknowledged: Vec<Acknowledged>, store: &Mount) -> Result<(), String> {
    let events = store.history().await.map_err(|e| format!("the store's history cannot be read: {e}"))?;
    let mut history: HashMap<u64, Vec<String>> = HashMap::new();
    for event in events {
        let object = event.value.and_then(|value| serde_json::from_slice(&value).ok()).unwrap_or_default();
        history.entry(event.revision).or_default().push(object::uid(&object).to_owned());
    }
    // An update that takes the last finalizer away is a deletion, which has no value.
    let happened = |uids: &Vec<String>, uid: &str| uids.iter().any(|u| u == uid || u.is_empty());
    match acknowledged.into_iter().find(|a| !history.get(&a.revision).is_some_and(|h| happened(h, &a.uid))) {
        Some(lost) => Err(format!("the store has lost an acknowledged write: {lost:?}")),
        None => Ok(()),
    }
}

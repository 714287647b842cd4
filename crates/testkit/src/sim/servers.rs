//! The API servers of a simulation: how they start, and what their store must not lose.

use std::sync::Arc;

use kybern_apimachinery::object;
use kybern_apiserver::Server;
use tokio::time::sleep;

use super::disk::{Disk, Mount};
use super::host::Host;
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
pub(super) async fn start(disk: Arc<Disk>, host: Host) -> Result<Running, String> {
    let mut failures = Vec::new();
    loop {
        let mount = disk.mount(host.clone()).await.map_err(|e| format!("the store cannot be read: {e}"))?;
        match ApiServer::start_on(mount.clone(), host.clock.clone()).await {
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
pub(super) fn check_acknowledged(acknowledged: Vec<Acknowledged>, disk: &Disk) -> Result<(), String> {
    let has_happened = |write: &Acknowledged| {
        let values = disk.written(write.revision).unwrap_or_default();
        values.into_iter().any(|value| match value {
            Some(value) => serde_json::from_slice(&value).is_ok_and(|object| object::uid(&object) == write.uid),
            // An update that takes the last finalizer away is a deletion.
            None => true,
        })
    };
    match acknowledged.into_iter().find(|write| !has_happened(write)) {
        Some(lost) => Err(format!("the store has lost an acknowledged write: {lost:?}")),
        None => Ok(()),
    }
}

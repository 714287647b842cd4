//! Events sent to a webhook, as an `EventList`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kybern_webhook::{Backoff, Client};
use tokio::runtime::Handle;

use super::backend::Sink;
use super::event::Event;

/// See the module. A call that waits for it must not be made on a runtime of one thread.
pub struct Webhook {
    client: Client,
    backoff: Backoff,
    runtime: Handle,
}

impl Webhook {
    /// Where a kubeconfig file says. Must be called within a tokio runtime.
    pub fn from_kubeconfig(file: &Path, initial_backoff: Duration) -> Result<Self, String> {
        let client = Client::from_kubeconfig(file, "kube-apiserver").map_err(|e| e.to_string())?;
        let backoff = Backoff { initial: initial_backoff, ..Backoff::default() };
        Ok(Self { client, backoff, runtime: Handle::current() })
    }

    async fn post(&self, body: Bytes) -> Result<(), String> {
        let call = self.backoff.run(async || self.client.post(body.clone(), None).await);
        call.await.map(drop).map_err(|e| e.to_string())
    }
}

impl Sink for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn send(&self, events: &[Arc<Event>]) -> Result<(), String> {
        let mut body =
            b"{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{},\"items\":[".to_vec();
        for (i, event) in events.iter().enumerate() {
            body.extend_from_slice(if i == 0 { b"" } else { b"," });
            body.extend(event.to_json());
        }
        body.extend_from_slice(b"]}");
        let post = self.post(body.into());
        match Handle::try_current() {
            // A request that waits for its event.
            Ok(_) => tokio::task::block_in_place(|| self.runtime.block_on(post)),
            Err(_) => self.runtime.block_on(post),
        }
    }
}

//! Keeps the condition `Dangling` of flow schemas: whether their level is there.

use std::sync::{Arc, Weak};

use kybern_apimachinery::{json, time};

use crate::flow::Flow;
use crate::server::Server;

const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";

impl Server {
    /// Follows the schemas for as long as the server is there.
    pub fn keep_flow_conditions(self: &Arc<Self>) {
        let Some(flow) = self.flow.clone() else { return };
        let server = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            loop {
                flow.changed().await;
                let Some(server) = Weak::upgrade(&server) else { return };
                server.write_flow_conditions(&flow).await;
            }
        });
        self.ends_with_it(task.abort_handle());
    }

    async fn write_flow_conditions(&self, flow: &Flow) {
        for (name, [status, reason, message]) in flow.conditions() {
            let now = time::to_rfc3339(self.clock.now());
            let config = json!({
                "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
                "status": {"conditions": [{
                    "type": "Dangling", "status": status, "reason": reason, "message": message, "lastTransitionTime": now,
                }]},
            });
            if let Err(error) = self.apply_status("flowcontrol.apiserver.k8s.io", "flowschemas", MANAGER, &config).await
                && error.code() != 404
            {
                tracing::warn!(%error, schema = name, "a flow schema's condition is not written");
            }
        }
    }
}

//! Keeps the condition `Dangling` of flow schemas: whether their level is there.

use std::sync::{Arc, Weak};

use kybern_apimachinery::{Value, json, object, time};

use crate::connect::Objects;
use crate::flow::Flow;
use crate::server::Server;

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
            let change = |schema: &mut Value| {
                let wanted = json!({
                    "type": "Dangling", "status": &status, "reason": &reason, "message": &message, "lastTransitionTime": &now,
                });
                let known = object::at(schema, &["status", "conditions"]).and_then(Value::as_array);
                let others = known.into_iter().flatten().filter(|condition| condition["type"] != "Dangling");
                let conditions: Vec<Value> = others.cloned().chain([wanted]).collect();
                object::set(schema, &["status", "conditions"], conditions);
                Ok(())
            };
            let written = self.update("flowcontrol.apiserver.k8s.io", "flowschemas", "", &name, &change).await;
            if let Err(error) = written
                && error.code() != 404
            {
                tracing::warn!(%error, schema = name, "a flow schema's condition is not written");
            }
        }
    }
}

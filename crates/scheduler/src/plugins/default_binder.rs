//! Binds a pod through its `binding` subresource.

use kybern_api::Object;
use kybern_api::core::v1::Pod;
use kybern_apimachinery::json;

use crate::framework::{ApiCall, Bind, Plugin, Verb};
use crate::pod::PodInfo;

pub struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }
}

impl Bind for DefaultBinder {
    fn bind(&self, pod: &PodInfo, node: &str) -> Option<ApiCall> {
        Some(ApiCall {
            gvr: Pod::gvr(),
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
            verb: Verb::Post {
                subresource: "binding",
                body: json!({
                    "apiVersion": "v1",
                    "kind": "Binding",
                    // The uid keeps a pod that was made anew under the same name from being bound.
                    "metadata": {"namespace": pod.namespace, "name": pod.name, "uid": pod.uid},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": node},
                }),
            },
        })
    }
}

//! `componentstatuses`: deprecated, and still asked for by `kubectl get cs`. In one process all parts are as healthy as
//! the one that answers.

use http::{Response, StatusCode};
use kybern_apimachinery::{ApiError, GroupResource, Value, json};
use kybern_apiserver::connect::{ConnectRequest, Connector, Objects};
use kybern_apiserver::{Body, BoxFuture, body};

pub(super) struct ComponentStatuses;

const NAMES: [&str; 3] = ["controller-manager", "etcd-0", "scheduler"];

fn status(name: &str) -> Value {
    json!({"metadata": {"name": name}, "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]})
}

impl Connector for ComponentStatuses {
    fn connect<'a>(
        &'a self,
        _: &'a dyn Objects,
        request: ConnectRequest,
    ) -> BoxFuture<'a, Result<Response<Body>, ApiError>> {
        Box::pin(async move {
            let mut object = if request.name.is_empty() {
                let items: Vec<Value> = NAMES.map(status).into();
                json!({"kind": "ComponentStatusList", "metadata": {}, "items": items})
            } else if NAMES.contains(&request.name.as_str()) {
                let mut one = status(&request.name);
                one["kind"] = "ComponentStatus".into();
                one
            } else {
                return Err(ApiError::not_found(&GroupResource::new("", "componentstatuses"), &request.name));
            };
            object["apiVersion"] = "v1".into();
            Ok(body::json(StatusCode::OK, &object))
        })
    }
}

//! `/pods`: the pods as the kubelet knows them, and finding one of their containers.

use http::{Response, StatusCode};
use kybern_apimachinery::{Value, json};
use kybern_cri::{ContainerState, ContainerStatus};

use super::{Body, Context, text};
use crate::worker::View;

/// `PodList`.
pub fn list(context: &Context) -> Response<Body> {
    let items: Vec<Value> =
        context.pods.list().iter().map(|view| kybern_api::encode::value(view.pod.as_ref())).collect();
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    super::json(list.to_string())
}

/// The pod, or the answer that there is none.
pub fn find(context: &Context, namespace: &str, pod: &str) -> Result<View, Box<Response<Body>>> {
    match context.pods.find(namespace, pod) {
        Some(view) => Ok(view.borrow().clone()),
        None => Err(Box::new(text(StatusCode::NOT_FOUND, format!("pod does not exist: {namespace}/{pod}")))),
    }
}

/// The running start of a container, or the answer that there is none.
pub fn running<'a>(view: &'a View, container: &str) -> Result<&'a ContainerStatus, Box<Response<Body>>> {
    let latest = view.observed.latest(container).filter(|c| c.container.state == ContainerState::Running);
    latest.ok_or_else(|| {
        let message = format!("container not found ({container:?})");
        Box::new(text(StatusCode::NOT_FOUND, message))
    })
}

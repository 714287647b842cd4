//! `DELETE /volumes/<name>`: the provisioner of local paths lets a volume of this node go.

use std::io::ErrorKind;

use http::{Response, StatusCode};

use super::{Body, Context, text};
use crate::volume::local_path;

pub(super) async fn remove(context: &Context, name: &str) -> Response<Body> {
    if context.shared.holders.are_there(name) {
        return text(StatusCode::LOCKED, format!("volume {name:?} is in use by a pod of this node\n"));
    }
    let (directory, owned) = (context.shared.config.volumes_dir.clone(), name.to_owned());
    match tokio::task::spawn_blocking(move || local_path::remove(&directory, &owned)).await {
        Ok(Ok(())) => {
            tracing::info!(volume = name, "removed a volume of this node");
            text(StatusCode::OK, "")
        }
        Ok(Err(error)) if error.kind() == ErrorKind::InvalidInput => {
            text(StatusCode::BAD_REQUEST, format!("{error}\n"))
        }
        Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

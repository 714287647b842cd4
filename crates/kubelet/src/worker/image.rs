//! The image of a container: present, or pulled with the pod's credentials (`pkg/kubelet/images`).

use std::time::Instant;

use kybern_api::core::v1::{Container, Pod};
use kybern_cri::{CriError, Image, ImageSpec};

use super::start::StartError;
use crate::image::credentials::{PullCredential, pull_credentials};
use crate::pod::env::References;
use crate::pod::memory::ERR_IMAGE_PULL;
use crate::pod::{labels, spec};
use crate::references::PodReferences;
use crate::shared::Shared;

const NEVER_PULL: &str = "ErrImageNeverPull";
const INVALID_NAME: &str = "InvalidImageName";
const INSPECT_ERROR: &str = "ImageInspectError";

/// Makes sure that the container's image is there.
pub async fn ensure(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    references: &PodReferences,
) -> Result<Image, StartError> {
    let name = container.image.as_deref().unwrap_or("");
    let image = ImageSpec {
        image: name.to_owned(),
        user_specified_image: name.to_owned(),
        annotations: labels::sandbox_labels(pod),
    };
    let events = |reason: &str, message: String| shared.events.warning(pod, Some(&container.name), reason, message);
    let present = shared.images.image_status(&image).await.map_err(|error| match error {
        CriError::InvalidArgument(cause) => {
            let message = format!("Failed to apply default image tag {name:?}: {cause}");
            events("InspectFailed", message.clone());
            StartError::new(INVALID_NAME, message)
        }
        error => {
            let message = format!("Failed to inspect image {name:?}: {error}");
            events("InspectFailed", message.clone());
            StartError::new(INSPECT_ERROR, message)
        }
    })?;
    let policy = container.image_pull_policy.as_deref().unwrap_or_else(|| default_policy(name));
    let credentials = credentials(shared, pod, name, references).await;
    if policy != "Always" {
        let secrets: Vec<_> = credentials.iter().map(|credential| &credential.secret).collect();
        let usable = present.as_ref().filter(|image| shared.pulled.may_use(name, &image.id, &secrets));
        if let Some(image) = usable {
            let text = format!("Container image {name:?} already present on machine and can be accessed by the pod");
            shared.events.normal(pod, Some(&container.name), "Pulled", text);
            return Ok(image.clone());
        }
    }
    if policy == "Never" {
        let mut message = format!("Container image {name:?} is not present with pull policy of Never");
        if present.is_some() {
            message += ": it was pulled for other pods, with credentials that this pod does not have";
        }
        events(NEVER_PULL, message.clone());
        return Err(StartError::new(NEVER_PULL, message));
    }
    shared.events.normal(pod, Some(&container.name), "Pulling", format!("Pulling image {name:?}"));
    let begun = Instant::now();
    match pull(shared, &image, &credentials).await {
        Ok(pulled) => {
            let took = go_seconds(begun.elapsed().as_millis());
            let text = format!(
                "Successfully pulled image {name:?} in {took} ({took} including waiting). Image size: {} bytes.",
                pulled.size_bytes
            );
            shared.events.normal(pod, Some(&container.name), "Pulled", text);
            Ok(pulled)
        }
        Err(cause) => {
            events("Failed", format!("Failed to pull image {name:?}: {cause}"));
            Err(StartError::new(ERR_IMAGE_PULL, cause))
        }
    }
}

/// The pod's credentials for an image's registry.
async fn credentials(shared: &Shared, pod: &Pod, image: &str, references: &PodReferences) -> Vec<PullCredential> {
    let named: Vec<&str> = spec::spec(pod).image_pull_secrets.iter().flatten().map(|r| r.name.as_str()).collect();
    if named.is_empty() {
        return Vec::new();
    }
    if let Err(error) = references.synced().await {
        tracing::warn!(pod = %spec::full_name(pod), error, "pulling without all of the pod's pull secrets");
    }
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in named {
        match references.secret(name) {
            Some(secret) => found.push(secret),
            None => missing.push(name),
        }
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        let text = format!(
            "Unable to retrieve some image pull secrets ({missing}); attempting to pull the image may not succeed."
        );
        shared.events.warning(pod, None, "FailedToRetrieveImagePullSecret", text);
    }
    pull_credentials(&found, image)
}

/// Pulls with one credential after the other until one will do; without any, as the node itself may.
async fn pull(shared: &Shared, image: &ImageSpec, credentials: &[PullCredential]) -> Result<Image, String> {
    let pulling = shared.pulled.begin(&image.image).map_err(|error| {
        let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        let cure = if full { ": free some space on this disk" } else { "" };
        format!("failed to record image pull intent: {error}{cure}")
    })?;
    let mut tries: Vec<Option<&PullCredential>> = credentials.iter().map(Some).collect();
    if tries.is_empty() {
        tries.push(None);
    }
    let mut failures: Vec<String> = Vec::new();
    for credential in tries {
        let pulled = match shared.images.pull_image(image, credential.map(|c| c.auth.clone())).await {
            Ok(_) => shared.images.image_status(image).await,
            Err(error) => Err(error),
        };
        match pulled {
            Ok(Some(pulled)) => {
                pulling.succeeded(&pulled.id, credential.map(|c| &c.secret));
                return Ok(pulled);
            }
            Ok(None) => failures.push("the image was pulled but is not there".to_owned()),
            Err(error) => failures.push(error.to_string()),
        }
    }
    pulling.failed();
    failures.dedup();
    Err(if failures.len() == 1 { failures.remove(0) } else { format!("[{}]", failures.join(", ")) })
}

/// Go's way of writing milliseconds as a duration.
fn go_seconds(millis: u128) -> String {
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let text = format!("{:.3}", (millis % 60_000) as f64 / 1000.0);
    let seconds = format!("{}s", text.trim_end_matches('0').trim_end_matches('.'));
    if millis < 60_000 { seconds } else { format!("{}m{seconds}", millis / 60_000) }
}

/// `Always` for the tag `latest`, else `IfNotPresent`.
fn default_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or("");
    match last.split_once('@') {
        Some(_) => "IfNotPresent",
        None => match last.split_once(':') {
            None | Some((_, "latest")) => "Always",
            Some(_) => "IfNotPresent",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        for (image, expect) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.14", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("nginx@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(default_policy(image), expect, "{image}");
        }
    }

    #[test]
    fn times() {
        for (millis, expect) in [(7, "7ms"), (1000, "1s"), (1250, "1.25s"), (60_000, "1m0s"), (150_500, "2m30.5s")] {
            assert_eq!(go_seconds(millis), expect);
        }
    }
}

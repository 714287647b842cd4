//! The image of a container: present, or pulled with the pod's credentials (`pkg/kubelet/images`).

use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kybern_api::core::v1::{Container, Pod, Secret};
use kybern_cri::{AuthConfig, CriError, Image, ImageSpec};
use serde_json::Value;

use super::start::StartError;
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
    match (policy, present) {
        ("Always", _) | ("IfNotPresent", None) => {}
        (_, Some(present)) => {
            let text = format!("Container image {name:?} already present on machine and can be accessed by the pod");
            shared.events.normal(pod, Some(&container.name), "Pulled", text);
            return Ok(present);
        }
        (_, None) => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            events(NEVER_PULL, message.clone());
            return Err(StartError::new(NEVER_PULL, message));
        }
    }
    shared.events.normal(pod, Some(&container.name), "Pulling", format!("Pulling image {name:?}"));
    let begun = Instant::now();
    if let Err(error) = references.synced().await {
        tracing::warn!(pod = %spec::full_name(pod), error, "pulling without the pod's pull secrets");
    }
    let secrets = spec::spec(pod).image_pull_secrets.iter().flatten();
    let secrets: Vec<_> = secrets.filter_map(|reference| references.secret(&reference.name)).collect();
    let credentials = secrets.iter().flat_map(|secret| credentials(secret, name)).collect();
    let pulled = match shared.images.pull_image(&image, credentials).await {
        Ok(_) => shared.images.image_status(&image).await,
        Err(error) => Err(error),
    };
    match pulled {
        Ok(Some(pulled)) => {
            let took = go_seconds(begun.elapsed().as_millis());
            let text = format!(
                "Successfully pulled image {name:?} in {took} ({took} including waiting). Image size: {} bytes.",
                pulled.size_bytes
            );
            shared.events.normal(pod, Some(&container.name), "Pulled", text);
            Ok(pulled)
        }
        failed => {
            let cause = match failed {
                Err(error) => error.to_string(),
                Ok(_) => "the image was pulled but is not there".to_owned(),
            };
            events("Failed", format!("Failed to pull image {name:?}: {cause}"));
            Err(StartError::new(ERR_IMAGE_PULL, cause))
        }
    }
}

/// Go's way of writing milliseconds as a duration.
fn go_seconds(millis: u128) -> String {
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let text = format!("{:.3}", millis as f64 / 1000.0);
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
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

/// The entries of a pull secret that are meant for an image's registry.
fn credentials(secret: &Secret, image: &str) -> Vec<AuthConfig> {
    let data = secret.data.as_ref();
    let entry = |key: &str| data.and_then(|d| d.get(key)).and_then(|b| serde_json::from_slice::<Value>(&b.0).ok());
    let auths = match entry(".dockerconfigjson") {
        Some(config) => config["auths"].clone(),
        None => entry(".dockercfg").unwrap_or_default(),
    };
    let place = place(image);
    let matching = auths.as_object().into_iter().flatten().filter(|(server, _)| matches(server, &place));
    matching
        .map(|(server, auth)| {
            let text = |name: &str| auth[name].as_str().unwrap_or("").to_owned();
            let decoded =
                STANDARD.decode(text("auth")).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
            let (user, password) = decoded.split_once(':').unwrap_or(("", ""));
            let or = |given: String, fallback: &str| if given.is_empty() { fallback.to_owned() } else { given };
            AuthConfig {
                username: or(text("username"), user),
                password: or(text("password"), password),
                auth: text("auth"),
                server_address: server.clone(),
                identity_token: text("identitytoken"),
                registry_token: text("registrytoken"),
            }
        })
        .collect()
}

/// The registry and repository of an image: `docker.io/library/nginx`.
fn place(image: &str) -> String {
    let name = image.split('@').next().unwrap_or("");
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// Whether a key of a docker configuration (`host`, `*.host:port/path`, a URL) covers an image's place.
fn matches(server: &str, place: &str) -> bool {
    let server = server.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = server.split_once('/').unwrap_or((server, ""));
    let path = path.trim_end_matches('/');
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host };
    let (image_host, image_path) = place.split_once('/').unwrap_or((place, ""));
    let hosts_match = host.split('.').count() == image_host.split('.').count()
        && host.split('.').zip(image_host.split('.')).all(|(pattern, part)| pattern == "*" || pattern == part);
    hosts_match && image_path.starts_with(path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kybern_api::ByteString;

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
    fn pull_secrets() {
        let json = format!(
            r#"{{"auths":{{"reg.example:5000":{{"auth":"{}"}},"https://index.docker.io/v1/":{{"username":"d"}},
            "*.lab/team":{{"username":"t","password":"p"}}}}}}"#,
            STANDARD.encode("u:p:w")
        );
        let data = BTreeMap::from([(".dockerconfigjson".to_owned(), ByteString(json.into_bytes()))]);
        let secret = Secret { data: Some(data), ..Default::default() };
        let check = |image: &str, expect: &[(&str, &str)]| {
            let got = credentials(&secret, image);
            let got: Vec<(&str, &str)> = got.iter().map(|c| (c.username.as_str(), c.password.as_str())).collect();
            assert_eq!(got, expect, "{image}");
        };
        check("reg.example:5000/a/b:1", &[("u", "p:w")]);
        check("nginx", &[("d", "")]);
        check("x.lab/team/a", &[("t", "p")]);
        check("x.lab/other", &[]);
        check("reg.example/a", &[]);
    }

    #[test]
    fn times() {
        for (millis, expect) in [(7, "7ms"), (1000, "1s"), (1250, "1.25s")] {
            assert_eq!(go_seconds(millis), expect);
        }
    }
}

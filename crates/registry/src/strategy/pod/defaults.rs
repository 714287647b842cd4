//! Defaults of a pod that depend on other fields (`pkg/apis/core/v1/defaults.go`).

use kybern_apimachinery::{Value, json};

use crate::tree::{default, drop_field, flag, has, int, list_mut, text};

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// What a pod and a pod template share.
pub(crate) fn pod_spec(spec: &mut Value) {
    for volume in list_mut(spec, "volumes") {
        let any =
            volume.as_object().is_some_and(|v| v.iter().any(|(field, value)| field != "name" && !value.is_null()));
        if volume.is_object() && !any {
            volume["emptyDir"] = json!({});
        }
        if has(volume, "image") {
            let policy = pull_policy(text(&volume["image"], "reference"));
            default(&mut volume["image"], "pullPolicy", policy);
        }
    }
    for field in CONTAINERS {
        for container in list_mut(spec, field) {
            let policy = pull_policy(text(container, "image"));
            default(container, "imagePullPolicy", policy);
        }
    }
    // The deprecated name of the field stays in step with its successor.
    if text(spec, "serviceAccountName").is_empty() && !text(spec, "serviceAccount").is_empty() {
        spec["serviceAccountName"] = spec["serviceAccount"].clone();
    }
    if text(spec, "serviceAccountName").is_empty() {
        drop_field(spec, "serviceAccount");
    } else {
        spec["serviceAccount"] = spec["serviceAccountName"].clone();
    }
}

/// A pod itself: besides [`pod_spec`], requests follow from limits.
pub(crate) fn pod(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec") else { return };
    pod_spec(spec);
    default(spec, "enableServiceLinks", true);
    // A template may keep a negative grace period, which its pods do not get.
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        spec["terminationGracePeriodSeconds"] = 1.into();
    }
    if flag(spec, "hostNetwork") {
        for field in ["initContainers", "containers"] {
            for container in list_mut(spec, field) {
                for port in list_mut(container, "ports") {
                    if int(port, "hostPort").unwrap_or(0) == 0 && has(port, "containerPort") {
                        port["hostPort"] = port["containerPort"].clone();
                    }
                }
            }
        }
    }
    for field in ["initContainers", "containers"] {
        for container in list_mut(spec, field) {
            let Some(limits) = container.pointer("/resources/limits").and_then(Value::as_object).cloned() else {
                continue;
            };
            let requests = kybern_apimachinery::object::map_at_mut(container, &["resources", "requests"]);
            for (name, limit) in limits {
                requests.entry(name).or_insert(limit);
            }
            if requests.is_empty() {
                drop_field(&mut container["resources"], "requests");
            }
        }
    }
}

/// `Always` for an image that can change under its name: tagged `latest`, or neither tagged nor named by digest. What is no
/// image's name is taken for one that cannot.
fn pull_policy(image: &str) -> &'static str {
    if !is_image(image) || image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

/// Whether a text is a reference to an image: a path of lower-case words, after a host that may have a port.
fn is_image(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or("");
    let (path, last) = name.rsplit_once('/').map_or(("", name), |(path, last)| (path, last));
    let (last, tag) = last.split_once(':').map_or((last, None), |(last, tag)| (last, Some(tag)));
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let word = |word: &str| {
        let bytes = word.as_bytes();
        let ends = |c: Option<&u8>| c.is_some_and(|c| alphanumeric(*c));
        ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|c| alphanumeric(*c) || b"._-".contains(c))
    };
    let host = |host: &str| {
        let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
        let known =
            name.contains('.') || name == "localhost" || port.is_some() || name.bytes().any(|c| c.is_ascii_uppercase());
        let good = name
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-'));
        known && good && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit()))
    };
    let mut parts: Vec<&str> = if path.is_empty() { Vec::new() } else { path.split('/').collect() };
    if parts.first().is_some_and(|first| host(first)) {
        parts.remove(0);
    }
    let tagged = tag.is_none_or(|tag| {
        let inner = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
        !tag.is_empty() && tag.len() <= 128 && tag.bytes().all(inner) && !tag.starts_with(['.', '-'])
    });
    image.len() <= 255 && parts.into_iter().all(word) && word(last) && tagged
}

/// The pod template below `spec.template`.
pub(crate) fn template(object: &mut Value) {
    if let Some(spec) = object.pointer_mut("/spec/template/spec")
        && has(spec, "containers")
    {
        pod_spec(spec);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn pull_policies() {
        for (image, expect) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.14", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("host:5000/a/nginx:1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("nginx:latest@sha256:abc", "IfNotPresent"),
            ("-Bad_", "IfNotPresent"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), expect, "{image}");
        }
    }

    #[test]
    fn requests_follow_limits_and_host_ports_container_ports() {
        let mut object = json!({"spec": {"hostNetwork": true, "serviceAccount": "sa", "containers": [{"image": "a:1",
            "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1"}}}]}});
        pod(&mut object);
        let container = &object["spec"]["containers"][0];
        assert_eq!(container["resources"]["requests"], json!({"cpu": "1", "memory": "1Gi"}));
        assert_eq!(container["ports"][0]["hostPort"], 80);
        assert_eq!(object["spec"]["serviceAccountName"], "sa");
    }
}

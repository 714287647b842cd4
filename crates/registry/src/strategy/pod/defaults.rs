//! Defaults of a pod that depend on other fields (`pkg/apis/core/v1/defaults.go`).

use kybern_apimachinery::Value;

use crate::tree::{default, drop_field, flag, has, int, list_mut, text};

const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// What a pod and a pod template share.
pub(crate) fn pod_spec(spec: &mut Value) {
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
    if flag(spec, "hostNetwork") {
        for field in ["initContainers", "containers"] {
            for container in list_mut(spec, field) {
                for port in list_mut(container, "ports") {
                    if int(port, "hostPort").unwrap_or(0) == 0 {
                        port["hostPort"] = port["containerPort"].clone();
                    }
                }
            }
        }
    }
}

/// A pod itself: besides [`pod_spec`], requests follow from limits.
pub(crate) fn pod(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec") else { return };
    pod_spec(spec);
    default(spec, "enableServiceLinks", true);
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

/// `Always` for an image that can change under its name: tagged `latest` or not at all, and not named by digest.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
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

//! What the controllers' store keeps of a pod. There are far more pods than anything else, and most of what a pod says is for
//! its kubelet. What is left out here is never written back: pods are changed by patches only.

use kybern_api::core::v1::{
    Container, ContainerState, ContainerStatus, EnvFromSource, EnvVar, EphemeralContainer, Pod, Volume,
};

use crate::controllers::persistent_volume_binder::recycled_by;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Drops what no controller reads.
pub(crate) fn trim(pod: &mut Pod) {
    // Of those it matters what they do.
    if recycled_by(pod).is_some() {
        return;
    }
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove(LAST_APPLIED);
        if annotations.is_empty() {
            pod.metadata.annotations = None;
        }
    }
    if let Some(spec) = &mut pod.spec {
        spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).for_each(container);
        spec.containers.shrink_to_fit();
        for ephemeral in spec.ephemeral_containers.iter_mut().flatten() {
            let EphemeralContainer { name, env, env_from, .. } = std::mem::take(ephemeral);
            let (env, env_from) = of_secrets(env, env_from);
            *ephemeral = EphemeralContainer { name, env, env_from, ..EphemeralContainer::default() };
        }
        if let Some(volumes) = &mut spec.volumes {
            volumes.retain(matters_beyond_its_node);
            volumes.shrink_to_fit();
        }
        spec.volumes.take_if(|volumes| volumes.is_empty());
        (spec.security_context, spec.dns_config, spec.host_aliases) = (None, None, None);
        (spec.service_account, spec.service_account_name, spec.scheduler_name) = (None, None, None);
        if let Some(tolerations) = &mut spec.tolerations {
            tolerations.shrink_to_fit();
        }
    }
    if let Some(status) = &mut pod.status {
        let all = [
            &mut status.container_statuses,
            &mut status.init_container_statuses,
            &mut status.ephemeral_container_statuses,
        ];
        for statuses in all.into_iter().flatten() {
            statuses.iter_mut().for_each(container_status);
            statuses.shrink_to_fit();
        }
        if let Some(conditions) = &mut status.conditions {
            conditions.shrink_to_fit();
        }
    }
}

/// Names, ports, what is asked for of which resources, and the Secrets that are used.
fn container(container: &mut Container) {
    let Container { name, ports, resources, restart_policy, env, env_from, .. } = std::mem::take(container);
    let (env, env_from) = of_secrets(env, env_from);
    let mut kept = Container { name, ports, resources, restart_policy, env, env_from, ..Container::default() };
    if let Some(ports) = &mut kept.ports {
        ports.shrink_to_fit();
    }
    if let Some(resources) = &mut kept.resources {
        resources.limits = None;
    }
    *container = kept;
}

/// Variables that come of Secrets: a token is in use as long as a pod names its Secret.
fn of_secrets(
    mut env: Option<Vec<EnvVar>>,
    mut env_from: Option<Vec<EnvFromSource>>,
) -> (Option<Vec<EnvVar>>, Option<Vec<EnvFromSource>>) {
    let names_secret = |var: &EnvVar| var.value_from.as_ref().is_some_and(|source| source.secret_key_ref.is_some());
    if let Some(env) = &mut env {
        env.retain(names_secret);
        env.shrink_to_fit();
    }
    if let Some(env_from) = &mut env_from {
        env_from.retain(|source| source.secret_ref.is_some());
        env_from.shrink_to_fit();
    }
    (env.filter(|env| !env.is_empty()), env_from.filter(|env_from| !env_from.is_empty()))
}

/// It may be a claim's, be attached, or be a token that is in use as long as it is mounted.
fn matters_beyond_its_node(volume: &Volume) -> bool {
    let is_for_the_kubelet = volume.config_map.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.host_path.is_some()
        || volume.image.is_some()
        || volume
            .projected
            .as_ref()
            .is_some_and(|projected| projected.sources.iter().flatten().all(|source| source.secret.is_none()));
    !is_for_the_kubelet
}

fn container_status(status: &mut ContainerStatus) {
    status.allocated_resources = None;
    status.allocated_resources_status = None;
    status.container_id = None;
    status.image = String::new();
    status.image_id = String::new();
    status.resources = None;
    status.user = None;
    status.volume_mounts = None;
    for state in [&mut status.state, &mut status.last_state] {
        if let Some(ContainerState { terminated: Some(terminated), .. }) = state {
            (terminated.container_id, terminated.message) = (None, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use kybern_api::{Object, encode};
    use kybern_apimachinery::json;

    use super::*;

    #[test]
    fn a_pod_that_scrubs_a_volume_stays_whole() {
        let scrubber = json!({"metadata": {"name": "recycler-for-v", "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "i", "command": ["x"]}]}});
        let pod = Pod::from_json(scrubber.to_string().as_bytes()).unwrap();
        let mut trimmed = pod.clone();
        trim(&mut trimmed);
        assert_eq!(trimmed, pod);
    }

    #[test]
    fn what_controllers_read_stays_and_the_rest_goes() {
        let whole = json!({
            "metadata": {"name": "p", "labels": {"a": "b"}, "finalizers": ["f"],
                "annotations": {LAST_APPLIED: "{}", "controller.kubernetes.io/pod-deletion-cost": "3"}},
            "spec": {
                "nodeName": "n", "tolerations": [{"operator": "Exists"}], "hostname": "h", "restartPolicy": "Never",
                "containers": [{"name": "c", "image": "i", "command": ["x"], "env": [{"name": "E", "value": "v"},
                        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                    "ports": [{"name": "web", "containerPort": 80}], "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}},
                    "volumeMounts": [{"name": "claim", "mountPath": "/m"}],
                    "readinessProbe": {"httpGet": {"path": "/", "port": 80}}}],
                "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "settings", "configMap": {"name": "s"}}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "c", "image": "i", "imageID": "id", "containerID": "x://1", "ready": true,
                    "restartCount": 2, "lastState": {"terminated": {"exitCode": 1, "message": "long"}}}]},
        });
        let mut pod = Pod::from_json(whole.to_string().as_bytes()).unwrap();
        trim(&mut pod);
        let kept = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"a": "b"}, "finalizers": ["f"],
                "annotations": {"controller.kubernetes.io/pod-deletion-cost": "3"}},
            "spec": {
                "nodeName": "n", "tolerations": [{"operator": "Exists"}], "hostname": "h", "restartPolicy": "Never",
                "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80}],
                    "env": [{"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                    "resources": {"requests": {"cpu": "1"}}}],
                "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": "data"}}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 2,
                    "lastState": {"terminated": {"exitCode": 1}}}]},
        });
        assert_eq!(encode::value(&pod), kept);
    }
}

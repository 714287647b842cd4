//! The objects that users of a simulation make.

use kybern_apimachinery::{Value, json};

use super::load::{LEAST, MOST, TARGET_PERCENT};

/// The priority class of what displaces others.
pub(super) const URGENT: &str = "urgent";

/// The Deployment that budgets are for.
pub(super) const GUARDED: &str = "guarded";
/// The Deployment that an autoscaler sizes, and what each of its pods requests.
pub(super) const ELASTIC: &str = "elastic";
pub(super) const ELASTIC_MILLI_CPU: i64 = 100;

fn template(app: &str, image: &str, cpu: &str) -> Value {
    let container = json!({"name": "c", "image": image, "resources": {"requests": {"cpu": cpu}}});
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [container]}})
}

pub(super) fn priority_class() -> Value {
    json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": URGENT}, "value": 1000})
}

pub(super) fn deployment(namespace: &str, name: &str, replicas: u64, image: &str) -> Value {
    let cpu = match name {
        URGENT => "1".to_owned(),
        ELASTIC => format!("{ELASTIC_MILLI_CPU}m"),
        _ => "200m".to_owned(),
    };
    let mut template = template(name, image, &cpu);
    if name == URGENT {
        template["spec"]["priorityClassName"] = URGENT.into();
    }
    let own = json!({"matchLabels": {"app": name}});
    match name {
        // One on each node.
        "db" => {
            let term = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": own}]);
            template["spec"]["affinity"] =
                json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
        }
        "web" => {
            template["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": 1, "labelSelector": own,
                "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}]);
        }
        _ => {}
    }
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}})
}

pub(super) fn daemon_set(namespace: &str, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent", "namespace": namespace},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", image, "100m")}})
}

pub(super) fn stateful_set(namespace: &str, replicas: u64, image: &str, policy: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "store", "namespace": namespace},
        "spec": {"replicas": replicas, "serviceName": "store", "podManagementPolicy": policy,
            "selector": {"matchLabels": {"app": "store"}}, "template": template("store", image, "100m")}})
}

pub(super) fn job(namespace: &str, completions: u64, parallelism: u64, mode: &str, image: &str) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work", "namespace": namespace},
        "spec": {"completions": completions, "parallelism": parallelism, "completionMode": mode, "backoffLimit": 5,
            "template": job_template(image)}})
}

pub(super) fn cron_job(namespace: &str, policy: &str, image: &str) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick", "namespace": namespace},
        "spec": {"schedule": "*/2 * * * *", "concurrencyPolicy": policy,
            "jobTemplate": {"spec": {"template": job_template(image)}}}})
}

fn job_template(image: &str) -> Value {
    let mut template = template("work", image, "50m");
    template["spec"]["restartPolicy"] = "Never".into();
    template
}

pub(super) fn service(namespace: &str, name: &str, kind: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": kind, "selector": {"app": name}, "ports": [{"port": 80}]}})
}

pub(super) fn quota(namespace: &str, pods: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "limit", "namespace": namespace},
        "spec": {"hard": {"pods": pods.to_string()}}})
}

pub(super) fn budget(namespace: &str, rule: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": GUARDED}}, "unhealthyPodEvictionPolicy": "AlwaysAllow"});
    spec.as_object_mut().expect("an object").extend(rule.as_object().cloned().unwrap_or_default());
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "guard", "namespace": namespace}, "spec": spec})
}

/// Of volumes that are folders of nodes.
pub(super) fn storage_class() -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local-path"},
        "provisioner": "kybern.io/local-path", "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer"})
}

/// A StatefulSet whose pods have a claim each; `kept` says what becomes of those that no pod uses any more.
pub(super) fn vault(namespace: &str, replicas: u64, image: &str, kept: &str) -> Value {
    let mut template = template("vault", image, "100m");
    template["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "local-path", "resources": {"requests": {"storage": "1Gi"}}}});
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "vault", "namespace": namespace},
        "spec": {"replicas": replicas, "serviceName": "vault", "selector": {"matchLabels": {"app": "vault"}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": kept, "whenScaled": kept},
            "volumeClaimTemplates": [claim], "template": template}})
}

pub(super) fn autoscaler(namespace: &str) -> Value {
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": TARGET_PERCENT}}});
    json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": ELASTIC, "namespace": namespace},
        "spec": {"minReplicas": LEAST, "maxReplicas": MOST, "metrics": [cpu],
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": ELASTIC},
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}}})
}

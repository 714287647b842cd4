//! DaemonSet `kube-proxy`, configured by the ConfigMap `kube-proxy` (keys `config.conf` and `kubeconfig.conf`).

use kybern_apimachinery::json;

use super::{Manifest, Settings};

pub(super) fn manifests(settings: &Settings) -> Vec<Manifest> {
    let labels = json!({"k8s-app": "kube-proxy"});
    let daemon_set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate"},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "priorityClassName": "system-node-critical",
                    "serviceAccountName": "kube-proxy",
                    "hostNetwork": true,
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": "kube-proxy",
                        "image": settings.image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": [
                            "/kybern", "kube-proxy", "--config=/var/lib/kube-proxy/config.conf",
                            "--hostname-override=$(NODE_NAME)",
                        ],
                        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                        "securityContext": {"privileged": true},
                        "volumeMounts": [
                            {"name": "kube-proxy", "mountPath": "/var/lib/kube-proxy"},
                            {"name": "xtables-lock", "mountPath": "/run/xtables.lock", "readOnly": false},
                            {"name": "lib-modules", "mountPath": "/lib/modules", "readOnly": true},
                        ],
                    }],
                    "volumes": [
                        {"name": "kube-proxy", "configMap": {"name": "kube-proxy"}},
                        {"name": "xtables-lock", "hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"}},
                        {"name": "lib-modules", "hostPath": {"path": "/lib/modules", "type": "DirectoryOrCreate"}},
                    ],
                },
            },
        },
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "kubeadm:node-proxier"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
        "subjects": [{"kind": "ServiceAccount", "name": "kube-proxy", "namespace": "kube-system"}],
    });
    let data = json!({
        "config.conf": configuration(&settings.cluster_cidr),
        "kubeconfig.conf": kubeconfig(&settings.api_server),
    });
    vec![
        Manifest::service_account("kube-proxy"),
        Manifest::new("rbac.authorization.k8s.io", "v1", "clusterrolebindings", binding),
        Manifest::config_map("kube-proxy", data),
        Manifest::new("apps", "v1", "daemonsets", daemon_set),
    ]
}

/// `KubeProxyConfiguration` (`kubeproxy.config.k8s.io/v1alpha1`).
fn configuration(cluster_cidr: &str) -> String {
    format!(
        "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 0.0.0.0
clientConnection:
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
clusterCIDR: {cluster_cidr}
healthzBindAddress: 0.0.0.0:10256
metricsBindAddress: 127.0.0.1:10249
mode: nftables
"
    )
}

/// kube-proxy makes Services reachable, so it cannot reach the API server through one.
fn kubeconfig(api_server: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Config
clusters:
- name: default
  cluster:
    certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
    server: {api_server}
users:
- name: default
  user:
    tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
contexts:
- name: default
  context:
    cluster: default
    namespace: default
    user: default
current-context: default
"
    )
}

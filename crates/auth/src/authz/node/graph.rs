//! Who uses what: nodes to pods to objects.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use kybern_apimachinery::{Value, object};
use kybern_apiserver::connect::Unread;

/// The annotation of a pod that a kubelet made from a file.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// The paths to what is read of a pod here.
pub(super) const READ_OF_PODS: &[&[&str]] = &[
    &["metadata", "annotations", MIRROR],
    &["metadata", "name"],
    &["spec", "serviceAccountName"],
    &["spec", "imagePullSecrets"],
    &["spec", "volumes"],
    &["spec", "resourceClaims"],
    &["spec", "initContainers", "env", "valueFrom"],
    &["spec", "initContainers", "envFrom"],
    &["spec", "containers", "env", "valueFrom"],
    &["spec", "containers", "envFrom"],
    &["spec", "ephemeralContainers", "env", "valueFrom"],
    &["spec", "ephemeralContainers", "envFrom"],
    &["status", "phase"],
    &["status", "resourceClaimStatuses"],
    &["status", "extendedResourceClaimStatus"],
];

/// What a pod can refer to, in its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
    ResourceClaim,
}

/// What a pod refers to, in its namespace.
type References = Box<[(Kind, Box<str>)]>;

/// A pod on a node, read when the node asks for something for the first time.
struct Pod {
    unread: Unread,
    references: OnceLock<References>,
}

impl Pod {
    fn refers_to(&self, kind: Kind, name: &str) -> bool {
        let names = self.references.get_or_init(|| match self.unread.read() {
            Ok(pod) => granting(&pod),
            Err(error) => {
                tracing::error!(%error, "a pod cannot be read: its node has no right by it");
                References::default()
            }
        });
        names.iter().any(|(k, n)| *k == kind && **n == *name)
    }
}

/// What a pod refers to, where that gives its node rights.
fn granting(pod: &Value) -> References {
    // A pod that has ended gives its node no right but to read it. So does one that the node made itself: else a node could
    // give itself any right.
    let ended = matches!(object::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed");
    let mirror = object::annotation(pod, MIRROR).is_some();
    let names = if ended || mirror { HashSet::new() } else { references(pod) };
    names.into_iter().map(|(kind, name)| (kind, name.into_boxed_str())).collect()
}

/// A volume's claim and the secrets that a kubelet needs to mount it, each with its namespace.
#[derive(Debug)]
struct Volume {
    claim: (String, String),
    secrets: Vec<(String, String)>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Graph {
    /// The nodes of pods, by namespace, then pod name.
    pods: HashMap<String, HashMap<String, Arc<str>>>,
    /// The pods of nodes, by namespace and pod name.
    nodes: HashMap<Arc<str>, HashMap<(String, String), Pod>>,
    volumes: HashMap<String, Volume>,
    /// Secret to the volumes that need it.
    volume_secrets: HashMap<(String, String), HashSet<String>>,
    /// VolumeAttachment to node.
    pub(super) attachments: HashMap<String, String>,
    /// ResourceSlice to node.
    pub(super) slices: HashMap<String, String>,
}

impl Graph {
    pub(super) fn uses(&self, node: &str, namespace: &str, kind: Kind, name: &str) -> bool {
        let mut pods = self.nodes.get(node).into_iter().flatten();
        if pods.any(|((of, _), pod)| of == namespace && pod.refers_to(kind, name)) {
            return true;
        }
        let volumes =
            self.volume_secrets.get(&(namespace.to_owned(), name.to_owned())).filter(|_| kind == Kind::Secret);
        volumes.into_iter().flatten().any(|volume| self.mounts(node, volume))
    }

    /// Whether a pod of the node claims a volume.
    pub(super) fn mounts(&self, node: &str, volume: &str) -> bool {
        let claim = self.volumes.get(volume).map(|v| &v.claim);
        claim.is_some_and(|(namespace, name)| self.uses(node, namespace, Kind::Claim, name))
    }

    /// Whether a pod is, or was, run by a node.
    pub(super) fn runs(&self, node: &str, namespace: &str, pod: &str) -> bool {
        self.pods.get(namespace).and_then(|pods| pods.get(pod)).is_some_and(|of| **of == *node)
    }

    /// Takes in a new, changed or (`None`) deleted pod, with the node that it is on.
    pub(super) fn put_pod(&mut self, namespace: &str, name: &str, pod: Option<(&str, Unread)>) {
        self.remove_pod(namespace, name);
        if let Some((node, unread)) = pod.filter(|(node, _)| !node.is_empty()) {
            let node: Arc<str> = self.nodes.get_key_value(node).map_or_else(|| node.into(), |(node, _)| node.clone());
            let pod = Pod { unread, references: OnceLock::new() };
            self.nodes.entry(node.clone()).or_default().insert((namespace.to_owned(), name.to_owned()), pod);
            self.pods.entry(namespace.to_owned()).or_default().insert(name.to_owned(), node);
        }
    }

    fn remove_pod(&mut self, namespace: &str, name: &str) {
        let Some(pods) = self.pods.get_mut(namespace) else { return };
        let Some(node) = pods.remove(name) else { return };
        if pods.is_empty() {
            self.pods.remove(namespace);
        }
        if let Some(pods) = self.nodes.get_mut(&node) {
            pods.remove(&(namespace.to_owned(), name.to_owned()));
            if pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
    }

    pub(super) fn put_volume(&mut self, name: &str, volume: Option<&Value>) {
        for secret in self.volumes.remove(name).into_iter().flat_map(|v| v.secrets) {
            if let Some(volumes) = self.volume_secrets.get_mut(&secret) {
                volumes.remove(name);
                if volumes.is_empty() {
                    self.volume_secrets.remove(&secret);
                }
            }
        }
        let Some(volume) = volume else { return };
        let part = |key| object::str_at(volume, &["spec", "claimRef", key]).to_owned();
        let claim = (part("namespace"), part("name"));
        if claim.1.is_empty() {
            return;
        }
        let secrets = volume_secrets(&volume["spec"], &claim.0);
        for secret in &secrets {
            self.volume_secrets.entry(secret.clone()).or_default().insert(name.to_owned());
        }
        self.volumes.insert(name.to_owned(), Volume { claim, secrets });
    }
}

/// The volume drivers that take a secret, by the names of the fields that name one.
const DRIVERS: [&str; 9] =
    ["csi", "flexVolume", "rbd", "cephfs", "cinder", "iscsi", "scaleIO", "storageos", "azureFile"];

/// The secrets with which a kubelet mounts a PersistentVolume; those of the controllers' side are not among them.
fn volume_secrets(spec: &Value, claim_namespace: &str) -> Vec<(String, String)> {
    let mut secrets = Vec::new();
    for driver in DRIVERS {
        let source = &spec[driver];
        for field in ["secretRef", "nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
            let own = object::str_at(source, &[field, "namespace"]);
            let namespace = if own.is_empty() { claim_namespace } else { own };
            secrets.push((namespace, object::str_at(source, &[field, "name"])));
        }
        let own = object::str_at(source, &["secretNamespace"]);
        let namespace = if own.is_empty() { claim_namespace } else { own };
        secrets.push((namespace, object::str_at(source, &["secretName"])));
    }
    let named = secrets.into_iter().filter(|(_, name)| !name.is_empty());
    named.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The names that a pod's spec refers to.
pub fn references(pod: &Value) -> HashSet<(Kind, String)> {
    let mut names = HashSet::new();
    let mut add = |kind: Kind, name: &Value| {
        if let Some(name) = name.as_str().filter(|n| !n.is_empty()) {
            names.insert((kind, name.to_owned()));
        }
    };
    let spec = &pod["spec"];
    add(Kind::ServiceAccount, &spec["serviceAccountName"]);
    for secret in list(&spec["imagePullSecrets"]) {
        add(Kind::Secret, &secret["name"]);
    }
    for volume in list(&spec["volumes"]) {
        add(Kind::Secret, &volume["secret"]["secretName"]);
        add(Kind::ConfigMap, &volume["configMap"]["name"]);
        add(Kind::Claim, &volume["persistentVolumeClaim"]["claimName"]);
        if volume["ephemeral"].is_object() {
            add(Kind::Claim, &format!("{}-{}", object::name(pod), object::str_at(volume, &["name"])).into());
        }
        for source in list(&volume["projected"]["sources"]) {
            add(Kind::Secret, &source["secret"]["name"]);
            add(Kind::ConfigMap, &source["configMap"]["name"]);
        }
        // The secrets of volume drivers, under the two names that their fields have.
        for driver in DRIVERS {
            let source = &volume[driver];
            for secret in [&source["nodePublishSecretRef"]["name"], &source["secretRef"]["name"], &source["secretName"]]
            {
                add(Kind::Secret, secret);
            }
        }
    }
    // A claim made from a template has the name that the status says.
    for claim in list(&spec["resourceClaims"]) {
        add(Kind::ResourceClaim, &claim["resourceClaimName"]);
    }
    for status in list(&pod["status"]["resourceClaimStatuses"]) {
        add(Kind::ResourceClaim, &status["resourceClaimName"]);
    }
    add(Kind::ResourceClaim, &pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"]);
    for container in ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|c| list(&spec[*c])) {
        for env in list(&container["env"]) {
            add(Kind::Secret, &env["valueFrom"]["secretKeyRef"]["name"]);
            add(Kind::ConfigMap, &env["valueFrom"]["configMapKeyRef"]["name"]);
        }
        for from in list(&container["envFrom"]) {
            add(Kind::Secret, &from["secretRef"]["name"]);
            add(Kind::ConfigMap, &from["configMapRef"]["name"]);
        }
    }
    names
}

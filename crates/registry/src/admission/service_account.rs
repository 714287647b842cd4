//! `ServiceAccount`: a pod runs as an account that exists, and finds its token, the cluster's CA and its namespace in a
//! volume.

use std::pin::pin;
use std::sync::Arc;

use kybern_apimachinery::{ApiError, GroupResource, Value, json, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_apiserver::connect::{ObjectsSlot, Observer};
use kybern_auth::authz::node::{Kind, MIRROR, references};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::tree::{has, list, list_mut, text};

/// Where programs look for their credentials.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Upstream's odd number: an hour and seven seconds, by which such tokens are told from hand-made ones.
const TOKEN_SECONDS: i64 = 3607;
/// How long a pod waits for the `default` account of its namespace, as upstream's.
const DEFAULT_ACCOUNT_WAIT: std::time::Duration = std::time::Duration::from_secs(1);
/// The annotation of an account whose pods name no secrets but those that it lists.
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

/// Tells whoever waits for a namespace's `default` account that one has come.
#[derive(Debug, Default)]
pub(super) struct AccountArrivals(Notify);

impl Observer for AccountArrivals {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "serviceaccounts")]
    }

    fn changed(&self, _group: &str, _resource: &str, _namespace: &str, name: &str, object: Option<&Value>) {
        if name == "default" && object.is_some() {
            self.0.notify_waiters();
        }
    }
}

pub(super) struct ServiceAccount {
    objects: ObjectsSlot,
    arrivals: Arc<AccountArrivals>,
}

impl ServiceAccount {
    pub(super) fn new(objects: ObjectsSlot, arrivals: Arc<AccountArrivals>) -> Self {
        Self { objects, arrivals }
    }

    /// The account. A namespace that was made a moment ago gets its `default` one from a controller, for which upstream
    /// waits a little, too: `kubectl create namespace` and `kubectl run` may follow each other.
    async fn find(&self, namespace: &str, name: &str) -> Result<Value, ApiError> {
        let objects = self.objects.get()?;
        let end = Instant::now() + DEFAULT_ACCOUNT_WAIT;
        loop {
            // Before it is looked for, so that none comes in between.
            let mut arrival = pin!(self.arrivals.0.notified());
            arrival.as_mut().enable();
            let answer = objects.get("", "serviceaccounts", namespace, name).await;
            let missing = answer.as_ref().is_err_and(|e| e.code() == 404);
            if !missing || name != "default" || tokio::time::timeout_at(end, arrival).await.is_err() {
                return answer;
            }
        }
    }

    /// The account that a pod names, or why the pod is refused.
    async fn account(&self, request: &AdmissionRequest<'_>, name: &str) -> Result<Value, ApiError> {
        self.find(request.namespace, name).await.map_err(|error| {
            if error.code() != 404 {
                return error;
            }
            let cause = format!(
                "error looking up service account {}/{name}: serviceaccount {name:?} not found",
                request.namespace
            );
            ApiError::forbidden(&GroupResource::new("", "pods"), request.name, &cause)
        })
    }
}

impl AdmissionPlugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, _: Step, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let (Some(pod), true) = (object, super::pod_defaults::is_pod(request, Operation::Create)) else {
            return Box::pin(async { Ok(()) });
        };
        Box::pin(async move {
            // A kubelet compares its mirror pods with its files: they stay as they are.
            if object::annotation(pod, MIRROR).is_some() {
                return Ok(());
            }
            let mut name = object::str_at(pod, &["spec", "serviceAccountName"]).to_owned();
            if name.is_empty() {
                "default".clone_into(&mut name);
            }
            let account = self.account(request, &name).await?;
            give(pod, &account, &suffix()?);
            Ok(())
        })
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let gvr = &request.resource.gvr;
        let created = super::pod_defaults::is_pod(request, Operation::Create);
        let debugged = gvr.group.is_empty()
            && gvr.resource == "pods"
            && request.subresource == "ephemeralcontainers"
            && request.operation == Operation::Update;
        let Some(pod) = object.filter(|_| created || debugged) else {
            return Box::pin(async { Ok(()) });
        };
        Box::pin(async move {
            let forbidden = |cause: &str| ApiError::forbidden(&gvr.group_resource(), request.name, cause);
            if created && object::annotation(pod, MIRROR).is_some() {
                return check_mirror(pod).map_err(forbidden);
            }
            let name = object::str_at(pod, &["spec", "serviceAccountName"]);
            if name.is_empty() {
                let cause = format!("no service account specified for pod {}/{}", request.namespace, object::name(pod));
                return Err(forbidden(&cause));
            }
            let account = self.account(request, name).await?;
            if !matches!(
                object::annotation(&account, ENFORCE_MOUNTABLE),
                Some("1" | "t" | "T" | "true" | "TRUE" | "True")
            ) {
                return Ok(());
            }
            check_secrets(pod, &account, debugged).map_err(|cause| forbidden(&cause))
        })
    }
}

/// A pod that a kubelet made from a file names nothing that would give the kubelet a right.
fn check_mirror(pod: &Value) -> Result<(), &'static str> {
    let names = references(pod);
    if names.iter().any(|(kind, _)| *kind == Kind::ServiceAccount) {
        return Err("a mirror pod may not reference service accounts");
    }
    if names.iter().any(|(kind, _)| *kind == Kind::Secret) {
        return Err("a mirror pod may not reference secrets");
    }
    let mut projections = list(&pod["spec"], "volumes").iter().flat_map(|v| list(&v["projected"], "sources"));
    if projections.any(|source| has(source, "serviceAccountToken")) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// Refuses secrets that an account which limits them does not list.
fn check_secrets(pod: &Value, account: &Value, ephemeral_only: bool) -> Result<(), String> {
    let spec = &pod["spec"];
    let holder = object::name(account);
    let listed = |field: &str, name: &str| list(account, field).iter().any(|s| text(s, "name") == name);
    let beyond = |name: &str| !name.is_empty() && !listed("secrets", name);
    if !ephemeral_only {
        let volumes = list(spec, "volumes").iter().map(|v| object::str_at(v, &["secret", "secretName"]));
        if let Some(name) = volumes.into_iter().find(|name| beyond(name)) {
            return Err(format!(
                "volume with secret.secretName={name:?} is not allowed because service account {holder} does not reference that secret"
            ));
        }
    }
    let groups: &[(&str, &str)] = if ephemeral_only {
        &[("ephemeralContainers", "ephemeral container")]
    } else {
        &[("initContainers", "init container"), ("containers", "container")]
    };
    for (field, what) in groups {
        for container in list(spec, field) {
            let title = text(container, "name");
            for env in list(container, "env") {
                let (name, secret) = (text(env, "name"), object::str_at(env, &["valueFrom", "secretKeyRef", "name"]));
                if beyond(secret) {
                    return Err(format!(
                        "{what} {title} with envVar {name} referencing secret.secretName={secret:?} is not allowed because service account {holder} does not reference that secret"
                    ));
                }
            }
            for from in list(container, "envFrom") {
                let secret = object::str_at(from, &["secretRef", "name"]);
                if beyond(secret) {
                    return Err(format!(
                        "{what} {title} with envFrom referencing secret.secretName={secret:?} is not allowed because service account {holder} does not reference that secret"
                    ));
                }
            }
        }
    }
    if !ephemeral_only {
        for (index, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
            let name = text(secret, "name");
            if !listed("imagePullSecrets", name) {
                return Err(format!(
                    "imagePullSecrets[{index}].name={name:?} is not allowed because service account {holder} does not reference that imagePullSecret"
                ));
            }
        }
    }
    Ok(())
}

/// Five characters of upstream's name alphabet, which spells no words.
fn suffix() -> Result<String, ApiError> {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bytes = [0u8; 5];
    getrandom::fill(&mut bytes).map_err(ApiError::internal)?;
    Ok(bytes.iter().map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()])).collect())
}

/// Names the account in the pod and mounts its credentials.
fn give(pod: &mut Value, account: &Value, suffix: &str) {
    let name = object::name(account).to_owned();
    let automount = |o: &Value| o.get("automountServiceAccountToken").and_then(Value::as_bool);
    let mount = automount(&pod["spec"]).or_else(|| automount(account)).unwrap_or(true);
    let spec = &mut pod["spec"];
    spec["serviceAccountName"] = name.clone().into();
    spec["serviceAccount"] = name.into();
    if list(spec, "imagePullSecrets").is_empty() && has(account, "imagePullSecrets") {
        spec["imagePullSecrets"] = account["imagePullSecrets"].clone();
    }
    if !mount {
        return;
    }
    let existing =
        list(spec, "volumes").iter().map(|v| text(v, "name")).find(|n| n.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let volume = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{suffix}"));
    let mut mounted = false;
    for field in ["initContainers", "containers"] {
        for container in list_mut(spec, field) {
            if list(container, "volumeMounts").iter().any(|m| text(m, "mountPath") == MOUNT_PATH) {
                continue;
            }
            let mut mounts = list(container, "volumeMounts").to_vec();
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
            container["volumeMounts"] = mounts.into();
            mounted = true;
        }
    }
    if mounted && existing.is_none() {
        let mut volumes = list(spec, "volumes").to_vec();
        volumes.push(json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
        spec["volumes"] = volumes.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_limits_the_secrets_of_its_pods() {
        let account = json!({"metadata": {"name": "sa"}, "secrets": [{"name": "mine"}]});
        let check = |spec: Value, ephemeral| check_secrets(&json!({"spec": spec}), &account, ephemeral);
        let volume = |name: &str| json!({"volumes": [{"name": "v", "secret": {"secretName": name}}]});
        assert!(check(volume("mine"), false).is_ok() && check(volume("other"), false).is_err());
        let env = json!({"ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "other"}}]}]});
        assert!(
            check(env.clone(), false).is_ok() && check(env, true).unwrap_err().starts_with("ephemeral container e")
        );
        assert!(check(json!({"imagePullSecrets": [{"name": "mine"}]}), false).is_err(), "it is no pull secret");
    }

    #[test]
    fn attack_a_mirror_pod_names_nothing_secret() {
        for (spec, expect) in [
            (json!({}), Ok(())),
            (json!({"serviceAccountName": "x"}), Err("a mirror pod may not reference service accounts")),
            (json!({"imagePullSecrets": [{"name": "x"}]}), Err("a mirror pod may not reference secrets")),
            (
                json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
                Err("a mirror pod may not use ServiceAccountToken volume projections"),
            ),
        ] {
            assert_eq!(check_mirror(&json!({"metadata": {"name": "p"}, "spec": spec})), expect);
        }
    }

    #[test]
    fn a_pod_gets_its_credentials_once() {
        let account = json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "pull"}]});
        let own = json!({"name": "b", "volumeMounts": [{"name": "x", "mountPath": MOUNT_PATH}]});
        let mut pod = json!({"spec": {"containers": [{"name": "a"}, own]}});
        give(&mut pod, &account, "abcde");
        let spec = &pod["spec"];
        assert_eq!((text(spec, "serviceAccountName"), text(spec, "serviceAccount")), ("default", "default"));
        assert_eq!(spec["imagePullSecrets"][0]["name"], "pull");
        assert_eq!(spec["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["mountPath"], MOUNT_PATH);
        assert_eq!(list(&spec["containers"][1], "volumeMounts").len(), 1);
        let before = pod.clone();
        give(&mut pod, &account, "fghij");
        assert_eq!(pod, before);

        let mut without = json!({"spec": {"automountServiceAccountToken": false, "containers": [{"name": "a"}]}});
        give(&mut without, &account, "abcde");
        assert!(without["spec"].get("volumes").is_none());
        assert_eq!(suffix().unwrap().len(), 5);
    }
}

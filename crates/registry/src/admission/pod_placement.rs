//! `PodNodeSelector` and `PodTolerationRestriction`: on which nodes a namespace's pods may run. Off by default.

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_apimachinery::validation::{label_key, label_value};
use kybern_apimachinery::{ApiError, Reason, Value, json, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_quota::qos;

use super::namespaces::NamespaceObjects;
use super::pod_defaults::is_pod;
use crate::tree::{int, list, map, text};

/// Upstream answers these as faults of the server.
fn fault(text: impl Into<String>) -> ApiError {
    ApiError::new(Reason::Unknown, text.into())
}

type Labels = BTreeMap<String, String>;

/// `a=b,c=d`.
fn labels_of(selector: &str) -> Result<Labels, String> {
    if selector.is_empty() {
        return Ok(Labels::new());
    }
    let parts = selector.split(',').map(|part| {
        let fields: Vec<&str> = part.split('=').collect();
        let [key, value] = fields[..] else { return Err(format!("invalid selector: [{}]", fields.join(" "))) };
        let (key, value) = (key.trim(), value.trim());
        match label_key(key).into_iter().chain(label_value(value)).next() {
            Some(error) => Err(format!("Invalid value: {key:?}: {error}")),
            None => Ok((key.to_owned(), value.to_owned())),
        }
    });
    parts.collect()
}

fn conflict(a: &Labels, b: &Labels) -> bool {
    a.iter().any(|(key, value)| b.get(key).is_some_and(|other| other != value))
}

pub(super) struct PodNodeSelector {
    pub(super) namespaces: Arc<NamespaceObjects>,
    /// The default under `clusterDefaultNodeSelector`, what pods may ask for by namespace.
    pub(super) selectors: BTreeMap<String, String>,
}

const NODE_SELECTOR: &str = "scheduler.alpha.kubernetes.io/node-selector";

impl PodNodeSelector {
    fn configured(&self, name: &str) -> Result<Labels, ApiError> {
        labels_of(self.selectors.get(name).map_or("", String::as_str)).map_err(fault)
    }

    fn of_namespace(&self, namespace: &Value) -> Result<Labels, ApiError> {
        match object::annotation(namespace, NODE_SELECTOR) {
            Some(selector) => labels_of(selector).map_err(fault),
            None => self.configured("clusterDefaultNodeSelector"),
        }
    }

    /// The labels that a pod's node must have.
    fn wanted(&self, request: &AdmissionRequest<'_>, pod: &Value) -> Result<Labels, ApiError> {
        let namespace = self.namespaces.get(request.namespace).ok_or_else(|| missing(request.namespace))?;
        let mut wanted = self.of_namespace(&namespace)?;
        let own: Labels =
            map(&pod["spec"], "nodeSelector").map(|(k, v)| (k.clone(), v.as_str().unwrap_or("").to_owned())).collect();
        if conflict(&wanted, &own) {
            let cause = "pod node label selector conflicts with its namespace node label selector";
            return Err(request.forbidden(Some(pod), cause));
        }
        wanted.extend(own);
        Ok(wanted)
    }

    fn may(&self, request: &AdmissionRequest<'_>, pod: &Value, selector: &Labels) -> Result<(), ApiError> {
        let allowed = self.configured(request.namespace)?;
        if allowed.is_empty() || selector.iter().all(|(key, value)| allowed.get(key) == Some(value)) {
            return Ok(());
        }
        let cause = "pod node label selector labels conflict with its namespace whitelist";
        Err(request.forbidden(Some(pod), cause))
    }
}

fn missing(namespace: &str) -> ApiError {
    ApiError::not_found(&kybern_apimachinery::GroupResource::new("", "namespaces"), namespace)
}

impl AdmissionPlugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    fn handles(&self, _: Step, operation: Operation) -> bool {
        operation == Operation::Create
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let Some(pod) = object.filter(|_| is_pod(request, Operation::Create)) else { return Ok(()) };
            let wanted = self.wanted(request, pod)?;
            self.may(request, pod, &wanted)?;
            if !wanted.is_empty() {
                pod["spec"]["nodeSelector"] = json!(wanted);
            }
            Ok(())
        })
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let Some(pod) = object.filter(|_| is_pod(request, Operation::Create)) else { return Ok(()) };
            self.wanted(request, pod)?;
            let own = map(&pod["spec"], "nodeSelector").map(|(k, v)| (k.clone(), v.as_str().unwrap_or("").to_owned()));
            self.may(request, pod, &own.collect())
        })
    }
}

pub(super) struct PodTolerationRestriction {
    pub(super) namespaces: Arc<NamespaceObjects>,
    /// For namespaces that say nothing themselves.
    pub(super) default: Vec<Value>,
    pub(super) whitelist: Vec<Value>,
}

const DEFAULT_TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const WHITELIST: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";

/// Whether everything that `other` tolerates is tolerated by `toleration`.
fn covers(toleration: &Value, other: &Value) -> bool {
    if toleration == other {
        return true;
    }
    let (operator, effect) = (text(toleration, "operator"), text(toleration, "effect"));
    let any_key = text(toleration, "key").is_empty() && operator == "Exists";
    if text(toleration, "key") != text(other, "key") && !any_key {
        return false;
    }
    if !effect.is_empty() && effect != text(other, "effect") {
        return false;
    }
    if let ("NoExecute", Some(seconds)) = (effect, int(toleration, "tolerationSeconds"))
        && int(other, "tolerationSeconds").is_none_or(|wanted| wanted > seconds)
    {
        return false;
    }
    match operator {
        "Equal" | "" => text(other, "operator") == "Equal" && text(toleration, "value") == text(other, "value"),
        "Exists" => true,
        _ => false,
    }
}

/// Of those that another covers, none stays.
fn merged(all: &[Value]) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    for (i, toleration) in all.iter().enumerate() {
        let before = merged.iter().any(|other| covers(other, toleration));
        let after = all[i + 1..].iter().any(|other| other != toleration && covers(other, toleration));
        if !before && !after {
            merged.push(toleration.clone());
        }
    }
    merged
}

/// The tolerations that a namespace's annotation lists; nothing where there is none.
fn annotated(namespace: &Value, annotation: &str) -> Result<Option<Vec<Value>>, ApiError> {
    match object::annotation(namespace, annotation) {
        None => Ok(None),
        Some("") => Ok(Some(Vec::new())),
        Some(listed) => serde_json::from_str(listed).map(Some).map_err(|error| fault(error.to_string())),
    }
}

impl PodTolerationRestriction {
    fn namespace(&self, request: &AdmissionRequest<'_>) -> Result<Arc<Value>, ApiError> {
        self.namespaces.get(request.namespace).ok_or_else(|| missing(request.namespace))
    }

    fn add(&self, request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<(), ApiError> {
        let mut extra = Vec::new();
        if request.operation == Operation::Create {
            let own = annotated(&*self.namespace(request)?, DEFAULT_TOLERATIONS)?;
            extra = own.unwrap_or_else(|| self.default.clone());
        }
        if qos::class(&pod["spec"]) != "BestEffort" {
            extra.push(json!({"key": MEMORY_PRESSURE, "operator": "Exists", "effect": "NoSchedule"}));
        }
        if !extra.is_empty() {
            let all: Vec<Value> = list(&pod["spec"], "tolerations").iter().cloned().chain(extra).collect();
            pod["spec"]["tolerations"] = merged(&all).into();
        }
        Ok(())
    }

    fn check(&self, request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), ApiError> {
        let tolerations = list(&pod["spec"], "tolerations");
        if tolerations.is_empty() {
            return Ok(());
        }
        let (whitelist, scope) = match annotated(&*self.namespace(request)?, WHITELIST)? {
            Some(whitelist) => (whitelist, "namespace"),
            None => (self.whitelist.clone(), "cluster"),
        };
        let may = |toleration: &Value| whitelist.iter().any(|allowed| covers(allowed, toleration));
        if whitelist.is_empty() || tolerations.iter().all(may) {
            return Ok(());
        }
        Err(fault(format!(
            "pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist"
        )))
    }
}

impl AdmissionPlugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    fn handles(&self, _: Step, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let written = is_pod(request, Operation::Create) || is_pod(request, Operation::Update);
            let Some(pod) = object.filter(|_| written) else { return Ok(()) };
            self.add(request, pod)?;
            self.check(request, pod)
        })
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let written = is_pod(request, Operation::Create) || is_pod(request, Operation::Update);
            object.filter(|_| written).map_or(Ok(()), |pod| self.check(request, pod))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_lists_of_labels() {
        assert_eq!(labels_of(""), Ok(Labels::new()));
        let labels = labels_of("a=b, c = d").unwrap();
        assert_eq!(labels, Labels::from([("a".into(), "b".into()), ("c".into(), "d".into())]));
        assert_eq!(labels_of("a"), Err("invalid selector: [a]".to_owned()));
        assert!(labels_of("a=b c").is_err());
        assert!(conflict(&labels, &Labels::from([("a".into(), "x".into())])));
        assert!(!conflict(&labels, &Labels::from([("x".into(), "x".into())])));
    }

    #[test]
    fn what_is_covered_goes() {
        let all = json!({"operator": "Exists"});
        let key = json!({"key": "a", "operator": "Exists"});
        let value = json!({"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"});
        assert!(covers(&all, &key) && covers(&key, &value) && !covers(&value, &key));
        let short = json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let long = json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9});
        assert!(covers(&long, &short) && !covers(&short, &long));
        assert_eq!(merged(&[value.clone(), key.clone(), value.clone()]), [key]);
        assert_eq!(merged(&[value.clone(), value.clone()]), [value]);
    }

    #[test]
    fn annotations_list_tolerations() {
        let of = |value: &str| json!({"metadata": {"annotations": {WHITELIST: value}}});
        assert_eq!(annotated(&of(""), WHITELIST).unwrap(), Some(Vec::new()));
        assert_eq!(annotated(&of("[{\"key\":\"a\"}]"), WHITELIST).unwrap(), Some(vec![json!({"key": "a"})]));
        assert_eq!(annotated(&json!({}), WHITELIST).unwrap(), None);
        assert!(annotated(&of("{"), WHITELIST).is_err());
    }
}

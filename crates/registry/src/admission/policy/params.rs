//! The objects that a policy is parameterized with.

use kybern_apimachinery::selector::LabelSelector;
use kybern_apimachinery::{Gvk, Reason, Value, object};
use kybern_apiserver::connect::{Objects, Place};

use crate::tree::{has, text};

/// The kind of a policy's parameters; none where it has none.
pub(super) fn kind(spec: &Value) -> Option<Gvk> {
    has(spec, "paramKind").then(|| {
        let kind = &spec["paramKind"];
        let version = text(kind, "apiVersion");
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        Gvk::new(group, version, text(kind, "kind"))
    })
}

/// As upstream writes a kind into an error.
pub(super) fn shown(kind: &Gvk) -> String {
    format!("{}/{}, Kind={}", kind.group, kind.version, kind.kind)
}

/// The parameters that a binding names: null where it names none, nothing where none is found and that is allowed.
pub(super) async fn collect(
    objects: &dyn Objects,
    kind: Option<&Gvk>,
    place: Option<&Place>,
    reference: &Value,
    namespace: &str,
) -> Result<Vec<Value>, String> {
    let (Some(kind), false) = (kind, reference.is_null()) else { return Ok(vec![Value::Null]) };
    let place = place.ok_or_else(|| format!("paramKind kind `{}` not known", shown(kind)))?;
    let named = text(reference, "namespace");
    let within = if place.namespaced {
        let within = if named.is_empty() { namespace } else { named };
        if within.is_empty() {
            return Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned()
            );
        }
        within
    } else if !named.is_empty() {
        return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
    } else {
        ""
    };
    let (group, resource, name) = (&place.gvr.group, &place.gvr.resource, text(reference, "name"));
    let found = if !name.is_empty() {
        match objects.get(group, resource, within, name).await {
            Ok(param) => vec![param],
            Err(error) if error.reason() == Reason::NotFound => Vec::new(),
            Err(error) => return Err(error.message().to_owned()),
        }
    } else if has(reference, "selector") {
        let selector = LabelSelector::from_object(&reference["selector"])?;
        let mut all = objects.list(group, resource, within).await.map_err(|error| error.message().to_owned())?;
        all.retain(|param| selector.matches_map(object::labels(param)));
        all
    } else {
        return Err("one of name or selector must be provided".to_owned());
    };
    if found.is_empty() && text(reference, "parameterNotFoundAction") == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    objects.shown(kind, found).await.map_err(|error| error.message().to_owned())
}

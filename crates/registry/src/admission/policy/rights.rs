//! Whoever writes a policy has its parameters read: the check that upstream makes in the storage of policies and bindings. It
//! is no plugin that could be turned off.

use std::fmt::Write;
use std::sync::Arc;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{ApiError, GroupKind, Gvk, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{Attributes, Authorizer, UserInfo};
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_apiserver::connect::ObjectsSlot;
use kybern_auth::MASTERS;

use super::params;
use crate::tree::{has, text};

const GROUP: &str = "admissionregistration.k8s.io";

pub(crate) struct PolicyParameters {
    objects: ObjectsSlot,
    authorizer: Arc<dyn Authorizer>,
}

/// Which resource of parameters has to be read; all that there are where that is not known.
struct Wanted {
    group: String,
    version: String,
    resource: String,
}

impl PolicyParameters {
    pub(crate) fn new(objects: ObjectsSlot, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { objects, authorizer }
    }

    fn wanted(&self, kind: Option<&Gvk>) -> Result<Wanted, ApiError> {
        let all = || "*".to_owned();
        let Some(kind) = kind else { return Ok(Wanted { group: all(), version: all(), resource: all() }) };
        let place = self.objects.get()?.place(kind);
        let resource = place.map_or_else(all, |place| place.gvr.resource);
        Ok(Wanted { group: kind.group.to_string(), version: kind.version.to_string(), resource })
    }

    async fn may(&self, user: &UserInfo, verb: &str, wanted: &Wanted, namespace: &str, name: &str) -> bool {
        let attributes = Attributes {
            user: user.clone(),
            verb: verb.to_owned(),
            resource_request: true,
            group: wanted.group.clone(),
            version: wanted.version.clone(),
            resource: wanted.resource.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        self.authorizer.allows(&attributes).await
    }

    /// Why the user may not write the policy.
    async fn of_policy(&self, user: &UserInfo, policy: &Value) -> Result<Option<String>, ApiError> {
        let Some(kind) = params::kind(&policy["spec"]) else { return Ok(None) };
        if self.may(user, "get", &self.wanted(Some(&kind))?, "*", "*").await {
            return Ok(None);
        }
        let kind = &policy["spec"]["paramKind"];
        Ok(Some(format!(
            "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
            shown(user),
            text(kind, "kind"),
            text(kind, "apiVersion")
        )))
    }

    /// Why the user may not write the binding.
    async fn of_binding(&self, user: &UserInfo, binding: &Value, policies: &str) -> Result<Option<String>, ApiError> {
        let spec = &binding["spec"];
        let (reference, policy) = (&spec["paramRef"], text(spec, "policyName"));
        let found = self.objects.get()?.get(GROUP, policies, "", policy).await;
        let kind = found.as_ref().ok().and_then(|policy| params::kind(&policy["spec"]));
        let wanted = self.wanted(kind.as_ref())?;
        let (namespace, name) = (text(reference, "namespace"), text(reference, "name"));
        let verb = if name.is_empty() { "list" } else { "get" };
        if self.may(user, verb, &wanted, namespace, name).await {
            return Ok(None);
        }
        let lacks = format!("user {} does not have {verb:?} permission", shown(user));
        let everything = "for all groups, versions and resources";
        Ok(Some(match (found, kind) {
            (Err(_), _) => {
                format!(
                    "unable to get policy {policy} to determine minimum required permissions and {lacks} {everything}"
                )
            }
            (Ok(_), Some(kind)) if wanted.resource == "*" => format!(
                "unable to resolve paramKind {} to determine minimum required permissions and {lacks} {everything}",
                params::shown(&kind)
            ),
            _ => format!("{lacks} on the object referenced by paramRef"),
        }))
    }
}

/// As Go shows a user.
fn shown(user: &UserInfo) -> String {
    let mut extra = String::new();
    for (key, values) in &user.extra {
        let separator = if extra.is_empty() { "" } else { " " };
        let _ = write!(extra, "{separator}{key}:[{}]", values.join(" "));
    }
    format!("&{{{} {} [{}] map[{extra}]}}", user.name, user.uid, user.groups.join(" "))
}

impl AdmissionPlugin for PolicyParameters {
    fn name(&self) -> &'static str {
        "PolicyParameters"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Validate && matches!(operation, Operation::Create | Operation::Update)
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let gvr = &request.resource.gvr;
        let is_policy = writes && gvr.group == GROUP && request.subresource.is_empty();
        let Some(object) = object.filter(|_| is_policy && !request.user.in_group(MASTERS)) else {
            return Box::pin(async { Ok(()) });
        };
        Box::pin(async move {
            let same = |field: &str| request.old.is_some_and(|old| old["spec"].get(field) == object["spec"].get(field));
            let (field, refusal) = match gvr.resource.as_str() {
                "validatingadmissionpolicies" | "mutatingadmissionpolicies" if !same("paramKind") => {
                    ("paramKind", self.of_policy(request.user, object).await?)
                }
                "validatingadmissionpolicybindings" | "mutatingadmissionpolicybindings"
                    if has(&object["spec"], "paramRef") && !(same("paramRef") && same("policyName")) =>
                {
                    let policies = gvr.resource.replace("policybindings", "policies");
                    ("paramRef", self.of_binding(request.user, object, &policies).await?)
                }
                _ => return Ok(()),
            };
            let Some(refusal) = refusal else { return Ok(()) };
            let fault = FieldError::forbidden(&FieldPath::new("spec").child(field), refusal);
            let kind = GroupKind::new(GROUP, &request.resource.kind);
            Err(ApiError::invalid(&kind, object::name(object), &[fault]))
        })
    }
}

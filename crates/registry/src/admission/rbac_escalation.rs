//! Nobody may grant what they do not have: the check that upstream makes in RBAC's storage. It is no plugin that could be
//! turned off.

use std::sync::Arc;

use kybern_apimachinery::{ApiError, Reason, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{Attributes, Authorizer};
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_apiserver::connect::ObjectsSlot;
use kybern_auth::MASTERS;
use kybern_auth::authz::rbac::{GROUP, Rbac, Rule, escalation_refusal, uncovered};

use crate::tree::{list, text};

pub(super) struct RbacEscalation {
    objects: ObjectsSlot,
    authorizer: Arc<dyn Authorizer>,
    rbac: Option<Arc<Rbac>>,
}

impl RbacEscalation {
    pub(super) fn new(objects: ObjectsSlot, authorizer: Arc<dyn Authorizer>, rbac: Option<Arc<Rbac>>) -> Self {
        Self { objects, authorizer, rbac }
    }

    /// Whether the user holds one of the verbs that lift the check, `escalate` or `bind`.
    async fn may(&self, request: &AdmissionRequest<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let attributes = Attributes {
            user: request.user.clone(),
            verb: verb.to_owned(),
            resource_request: true,
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: resource.to_owned(),
            namespace: request.namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        self.authorizer.allows(&attributes).await
    }

    fn judge<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        match (object, &self.rbac) {
            (Some(object), Some(rbac))
                if writes && request.resource.gvr.group == GROUP && !request.user.in_group(MASTERS) =>
            {
                Box::pin(self.check(rbac, request, object))
            }
            _ => Box::pin(async { Ok(()) }),
        }
    }

    async fn check(&self, rbac: &Rbac, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), ApiError> {
        // Any other change, be it of a label, is a grant: labels are what roles are gathered by.
        if request.old.is_some_and(|old| is_for_garbage_collection(old, object)) {
            return Ok(());
        }
        let gvr = &request.resource.gvr;
        let refusal = |text: &str| ApiError::forbidden(&gvr.group_resource(), object::name(object), text);
        let lacks = |wanted: &[Rule]| uncovered(&rbac.rules_for(request.user, request.namespace), wanted);
        let wanted = match gvr.resource.as_str() {
            resource @ ("roles" | "clusterroles") => {
                if self.may(request, "escalate", resource, object::name(object)).await {
                    return Ok(());
                }
                Rule::of_role(object)
            }
            "rolebindings" | "clusterrolebindings" => {
                let role = &object["roleRef"];
                let (kind, name) = (text(role, "kind"), text(role, "name"));
                let (resource, scope) = match kind {
                    "Role" => ("roles", request.namespace),
                    "ClusterRole" => ("clusterroles", ""),
                    _ => {
                        let text = format!("unsupported role reference kind: {kind:?}");
                        return Err(ApiError::new(Reason::Unknown, text));
                    }
                };
                if self.may(request, "bind", resource, name).await {
                    return Ok(());
                }
                if resource == "roles" && scope.is_empty() {
                    return Err(ApiError::bad_request("Namespace parameter required."));
                }
                if name.is_empty() {
                    return Err(ApiError::bad_request("Name parameter required."));
                }
                match self.objects.get()?.get(GROUP, resource, scope, name).await {
                    Ok(role) => Rule::of_role(&role),
                    Err(error) if error.code() == 404 => {
                        return Err(ApiError::not_found(&gvr.group_resource(), name));
                    }
                    Err(error) => return Err(error),
                }
            }
            _ => return Ok(()),
        };
        let missing = lacks(&wanted);
        if !missing.is_empty() {
            return Err(refusal(&escalation_refusal(request.user, &missing)));
        }
        // What a role gathers is not known, and what one no longer gathers was somebody's decision.
        if (gathers(object) || request.old.is_some_and(gathers)) && !lacks(&everything()).is_empty() {
            return Err(refusal("must have cluster-admin privileges to use the aggregationRule"));
        }
        Ok(())
    }
}

fn gathers(role: &Value) -> bool {
    !list(&role["aggregationRule"], "clusterRoleSelectors").is_empty()
}

/// Whether nothing changes but what the garbage collector writes, which has no rights of its own to grant.
pub(super) fn is_for_garbage_collection(old: &Value, new: &Value) -> bool {
    const FIELDS: [&str; 5] = ["ownerReferences", "finalizers", "selfLink", "managedFields", "resourceVersion"];
    let rest = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.retain(|field, _| !FIELDS.contains(&field.as_str()));
        }
        object
    };
    rest(old) == rest(new)
}

fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    let resources = Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() };
    [resources, Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() }]
}

impl AdmissionPlugin for RbacEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn handles(&self, _: Step, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    /// As upstream, which looks whether the object is valid only of those who may grant it.
    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        self.judge(request, object.map(|object| &*object))
    }

    /// Nothing that came after it has made it more.
    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        self.judge(request, object)
    }
}

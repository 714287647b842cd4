//! Nobody may grant what they do not have: the check that upstream makes in RBAC's storage. It is no plugin that could be
//! turned off.

use std::sync::Arc;

use kybern_apimachinery::{ApiError, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{AdmissionPlugin, AdmissionRequest, Attributes, Authorizer, Decision, Operation};
use kybern_apiserver::connect::ObjectsSlot;
use kybern_auth::MASTERS;
use kybern_auth::authz::rbac::{GROUP, Rbac, Rule, escalation_refusal, uncovered};

use crate::tree::text;

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
    fn may(&self, request: &AdmissionRequest<'_>, verb: &str, resource: &str, name: &str) -> bool {
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
        self.authorizer.authorize(&attributes) == Decision::Allow
    }

    async fn check(&self, rbac: &Rbac, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), ApiError> {
        let gvr = &request.resource.gvr;
        let wanted = match gvr.resource.as_str() {
            resource @ ("roles" | "clusterroles") => {
                let unchanged = request.old.is_some_and(|o| {
                    o["rules"] == object["rules"] && o["aggregationRule"] == object["aggregationRule"]
                });
                if unchanged || self.may(request, "escalate", resource, object::name(object)) {
                    return Ok(());
                }
                if object["aggregationRule"].is_object() {
                    // What it will aggregate is not known: whoever makes it must hold everything.
                    vec![everything()]
                } else {
                    Rule::of_role(object)
                }
            }
            "rolebindings" | "clusterrolebindings" => {
                let same = request
                    .old
                    .is_some_and(|o| o["roleRef"] == object["roleRef"] && o["subjects"] == object["subjects"]);
                let role = &object["roleRef"];
                let (resource, scope) =
                    if text(role, "kind") == "Role" { ("roles", request.namespace) } else { ("clusterroles", "") };
                if same || self.may(request, "bind", resource, text(role, "name")) {
                    return Ok(());
                }
                Rule::of_role(&self.objects.get()?.get(GROUP, resource, scope, text(role, "name")).await?)
            }
            _ => return Ok(()),
        };
        let missing = uncovered(&rbac.rules_for(request.user, request.namespace), &wanted);
        if missing.is_empty() {
            return Ok(());
        }
        Err(ApiError::forbidden(
            &gvr.group_resource(),
            object::name(object),
            &escalation_refusal(request.user, &missing),
        ))
    }
}

fn everything() -> Rule {
    let all = || vec!["*".to_owned()];
    Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() }
}

impl AdmissionPlugin for RbacEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let writes = matches!(request.operation, Operation::Create | Operation::Update);
            let (Some(object), Some(rbac), true) = (object, &self.rbac, writes && request.resource.gvr.group == GROUP)
            else {
                return Ok(());
            };
            if request.user.in_group(MASTERS) {
                return Ok(());
            }
            self.check(rbac, request, object).await
        })
    }
}

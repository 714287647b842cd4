//! `OwnerReferencesPermissionEnforcement`: who names an owner of an object could delete the object, and who keeps an owner
//! from going could set its finalizers. Off by default.

use std::sync::Arc;

use kybern_apimachinery::{ApiError, GroupVersion, Gvk, Value};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{Attributes, Authorizer};
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_apiserver::connect::ObjectsSlot;

use crate::tree::{flag, list, text};

pub(super) struct OwnerReferencesPermissionEnforcement {
    pub(super) authorizer: Arc<dyn Authorizer>,
    pub(super) objects: ObjectsSlot,
}

fn owners(object: &Value) -> &[Value] {
    list(&object["metadata"], "ownerReferences")
}

/// The owners that are kept from going, and were not before.
fn newly_blocking<'o>(object: &'o Value, old: Option<&Value>) -> Vec<&'o Value> {
    let before = old.map_or(&[][..], owners);
    let blocked = |uid: &str| before.iter().any(|o| text(o, "uid") == uid && flag(o, "blockOwnerDeletion"));
    owners(object).iter().filter(|o| flag(o, "blockOwnerDeletion") && !blocked(text(o, "uid"))).collect()
}

impl OwnerReferencesPermissionEnforcement {
    async fn refusal(&self, request: &AdmissionRequest<'_>, object: &Value) -> Option<String> {
        let gvr = &request.resource.gvr;
        let changes = request.old.map_or(!owners(object).is_empty(), |old| owners(old) != owners(object));
        if !changes || (gvr.group.is_empty() && gvr.resource == "pods" && request.subresource == "status") {
            return None;
        }
        let base = Attributes { user: request.user.clone(), resource_request: true, ..Attributes::default() };
        // Who creates an object could have left it.
        if request.operation != Operation::Create {
            let delete = Attributes {
                verb: "delete".to_owned(),
                namespace: request.namespace.to_owned(),
                group: gvr.group.clone(),
                version: gvr.version.clone(),
                resource: gvr.resource.clone(),
                subresource: request.subresource.to_owned(),
                name: request.name.to_owned(),
                ..base.clone()
            };
            if !self.authorizer.allows(&delete).await {
                return Some("cannot set an ownerRef on a resource you can't delete: , <nil>".to_owned());
            }
        }
        let blocking = newly_blocking(object, request.old);
        if blocking.is_empty() {
            return None;
        }
        let any = || "*".to_owned();
        let finalize = Attributes { verb: "update".to_owned(), subresource: "finalizers".to_owned(), ..base };
        let everything = Attributes { group: any(), version: any(), resource: any(), name: any(), ..finalize.clone() };
        if self.authorizer.allows(&everything).await {
            return None;
        }
        for owner in blocking {
            let (api_version, kind) = (text(owner, "apiVersion"), text(owner, "kind"));
            let place = GroupVersion::parse(api_version)
                .zip(self.objects.get().ok())
                .and_then(|(gv, objects)| objects.place(&Gvk::new(gv.group, gv.version, kind)));
            let Some(place) = place else {
                return Some(format!(
                    "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {api_version} \
                     Kind {kind}: no matches for kind {kind:?} in version {api_version:?}"
                ));
            };
            let owned = Attributes {
                namespace: if place.namespaced { request.namespace.to_owned() } else { String::new() },
                group: place.gvr.group,
                version: place.gvr.version,
                resource: place.gvr.resource,
                name: text(owner, "name").to_owned(),
                ..finalize.clone()
            };
            if !self.authorizer.allows(&owned).await {
                return Some(
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>"
                        .to_owned(),
                );
            }
        }
        None
    }
}

impl AdmissionPlugin for OwnerReferencesPermissionEnforcement {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Validate && matches!(operation, Operation::Create | Operation::Update)
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let writes = matches!(request.operation, Operation::Create | Operation::Update);
            let Some(object) = object.filter(|_| writes) else { return Ok(()) };
            let refusal = self.refusal(request, object).await;
            refusal.map_or(Ok(()), |cause| Err(request.forbidden(Some(object), &cause)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn only_new_blocks_count() {
        let owner = |uid: &str, blocks: bool| json!({"uid": uid, "blockOwnerDeletion": blocks});
        let object = |owners: &[Value]| json!({"metadata": {"ownerReferences": owners}});
        let new = object(&[owner("a", true), owner("b", true), owner("c", false), owner("d", true)]);
        let old = object(&[owner("a", true), owner("b", false)]);
        let found = |old: Option<&Value>| {
            newly_blocking(&new, old).iter().map(|o| text(o, "uid").to_owned()).collect::<String>()
        };
        assert_eq!((found(None).as_str(), found(Some(&old)).as_str()), ("abd", "bd"));
    }
}

//! Owner references (`k8s.io/apimachinery/pkg/apis/meta/v1/controller_ref.go`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kybern_apimachinery::GroupVersion;

use crate::Object;

/// A reference to `owner` as the managing controller: `controller` and `blockOwnerDeletion` are true.
pub fn controller_ref<K: Object>(owner: &K) -> OwnerReference {
    OwnerReference { controller: Some(true), block_owner_deletion: Some(true), ..owner_ref(owner) }
}

/// A plain reference to `owner`.
pub fn owner_ref<K: Object>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: GroupVersion::new(K::GROUP, K::VERSION).to_string(),
        kind: K::KIND.to_owned(),
        name: owner.name().to_owned(),
        uid: owner.uid().to_owned(),
        controller: None,
        block_owner_deletion: None,
    }
}

/// The reference whose `controller` is true; the API server admits at most one.
pub fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.as_deref().unwrap_or_default().iter().find(|r| r.controller == Some(true))
}

/// Whether `owner` is the managing controller of the object with this metadata.
pub fn is_controlled_by<K: Object>(metadata: &ObjectMeta, owner: &K) -> bool {
    controller_of(metadata).is_some_and(|r| r.uid == owner.uid())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    #[test]
    fn a_controller_is_found_among_owners() {
        let mut set = ReplicaSet::default();
        set.metadata.name = Some("web".into());
        set.metadata.uid = Some("1".into());
        let other = OwnerReference { uid: "2".into(), ..Default::default() };
        let mut pod = Pod::default();
        pod.metadata.owner_references = Some(vec![other, controller_ref(&set)]);
        assert!(is_controlled_by(&pod.metadata, &set));
        let found = controller_of(&pod.metadata).unwrap();
        assert_eq!((found.api_version.as_str(), found.kind.as_str()), ("apps/v1", "ReplicaSet"));
        pod.metadata.owner_references.as_mut().unwrap().pop();
        assert!(!is_controlled_by(&pod.metadata, &set));
    }
}

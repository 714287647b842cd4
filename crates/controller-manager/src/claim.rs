//! Adoption and release: a controller owns what bears its reference and matches its selector
//! (`pkg/controller/controller_ref_manager.go`).

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_api::meta::v1::ObjectMeta;
use kybern_api::{Metadata, Object, owner};
use kybern_apimachinery::selector::LabelSelector;
use kybern_apimachinery::{json, object};
use kybern_client::{Change, Patch, Store};

use crate::controller::Op;
use crate::snapshot::{OWNER, orphans};

/// What a controller owns, and the patches that make it so.
pub(crate) struct Claims<K> {
    pub(crate) owned: Vec<Arc<K>>,
    pub(crate) ops: Vec<Op>,
}

/// Finds the objects of an owner in a store with the index [`OWNER`]. Matching orphans are adopted, and count as owned:
/// what is decided about them comes after their adoption, or not at all. Owned ones that no longer match are released.
/// `may_adopt` filters orphans further.
pub(crate) fn claim<O, K>(
    owner: &O,
    selector: &LabelSelector,
    store: &Store<K>,
    may_adopt: impl Fn(&K) -> bool,
) -> Claims<K>
where
    O: Object,
    K: Object + Metadata<Ty = ObjectMeta>,
{
    claim_with(owner, selector, store, None, may_adopt)
}

/// As [`claim`]; with a finalizer, which those that are adopted get, and those that are released lose.
pub(crate) fn claim_with<O, K>(
    owner: &O,
    selector: &LabelSelector,
    store: &Store<K>,
    finalizer: Option<&str>,
    may_adopt: impl Fn(&K) -> bool,
) -> Claims<K>
where
    O: Object,
    K: Object + Metadata<Ty = ObjectMeta>,
{
    let matches =
        |object: &K| object.labels().map_or_else(|| selector.matches(|_| None), |l| selector.matches_btree(l));
    let mut claims = Claims { owned: Vec::new(), ops: Vec::new() };
    for object in store.by_index(OWNER, owner.uid()) {
        if matches(&object) {
            claims.owned.push(object);
        } else if !owner.is_deleting() {
            let mut release = json!({"metadata": {
                "uid": object.uid(), "ownerReferences": [{"$patch": "delete", "uid": owner.uid()}]}});
            if let Some(finalizer) = finalizer {
                release["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
            }
            claims.ops.push(Op::patch(&*object, Patch::Strategic(release)));
        }
    }
    if !owner.is_deleting() {
        for object in store.by_index(OWNER, &orphans(owner.namespace())) {
            if !object.is_deleting() && matches(&object) && may_adopt(&object) {
                let reference = owner::controller_ref(owner);
                let mut adopt = json!({"metadata": {"uid": object.uid(), "ownerReferences": [{
                    "apiVersion": reference.api_version, "kind": reference.kind, "name": reference.name,
                    "uid": reference.uid, "controller": true, "blockOwnerDeletion": true}]}});
                if let Some(finalizer) = finalizer {
                    adopt["metadata"]["finalizers"] = json!([finalizer]);
                }
                claims.ops.push(Op::patch(&*object, Patch::Strategic(adopt)));
                let mut adopted = (*object).clone();
                adopted.metadata_mut().owner_references.get_or_insert_default().push(reference);
                claims.owned.push(Arc::new(adopted));
            }
        }
    }
    claims
}

/// The keys of the controllers that a change concerns: the one that owns the object, the one that did, and for an orphan all
/// of its namespace that select it.
pub(crate) fn keys_of<O, K>(
    change: &Change<K>,
    owners: &Store<O>,
    selector: impl Fn(&O) -> Option<LabelSelector>,
) -> Vec<String>
where
    O: Object,
    K: Object + Metadata<Ty = ObjectMeta>,
{
    let mut keys = Vec::new();
    for object in [&change.old, &change.new].into_iter().flatten() {
        match owner::controller_of(object.metadata()) {
            Some(controller) if controller.kind == O::KIND => {
                keys.push(object::key_of(object.namespace(), &controller.name));
            }
            Some(_) => {}
            None => {
                let empty = BTreeMap::new();
                let labels = object.labels().unwrap_or(&empty);
                let selects = |o: &O| selector(o).is_some_and(|s| !s.is_everything() && s.matches_btree(labels));
                let all = owners.list_in(object.namespace());
                keys.extend(all.iter().filter(|o| selects(o)).map(|o| o.key()));
            }
        }
    }
    keys.dedup();
    keys
}

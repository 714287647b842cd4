//! `resourceclaim`: claims of devices are made from templates, kept for the pods that use them, and give their devices back when no
//! pod does (`pkg/controller/resourceclaim`). Keys are `claim/namespace/name` and `pod/namespace/name`.

#[cfg(test)]
mod tests;

use kybern_api::core::v1::{Pod, PodResourceClaim};
use kybern_api::meta::v1::ObjectMeta;
use kybern_api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimSpec};
use kybern_api::{Object, owner};
use kybern_apimachinery::{json, object};
use kybern_client::Patch;

use crate::controller::{Context, Controller, Op, Plan, Verb};
use crate::metrics::DEVICE_CLAIM_CREATES;
use crate::pods;
use crate::snapshot::{CLAIM, OWNER, Snapshot};
use crate::watches::Watches;

/// On a claim: the name in the pod of what it was made for.
const MADE_FOR: &str = "resource.kubernetes.io/pod-claim-name";
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// The longest prefix of a generated name.
const PREFIX_MAX: usize = 57;
/// How many pods may share a claim.
const CONSUMERS_MAX: usize = 256;

pub struct ResourceClaimController;

impl Controller for ResourceClaimController {
    fn name(&self) -> &'static str {
        "resourceclaim-controller"
    }

    fn component(&self) -> &'static str {
        "resource_claim"
    }

    fn account(&self) -> &'static str {
        "resource-claim-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.on(&snapshot.pods, |change, _| {
            let pod = change.object();
            let mut keys: Vec<String> = Vec::new();
            if names(pod).next().is_some() {
                keys.push(format!("pod/{}", pod.key()));
                if change.new.as_ref().is_none_or(|pod| is_over(pod)) {
                    keys.extend(claims_of(pod).into_iter().map(|claim| format!("claim/{claim}")));
                }
            }
            keys
        });
        watches.on(&snapshot.resource_claims, |change, snapshot| keys_of_claim(change.object(), snapshot));
        watches.on(&snapshot.resource_claim_templates, |change, snapshot| {
            let template = change.object();
            let key = format!("templates/{}", template.key());
            snapshot.pods.by_index(CLAIM, &key).iter().map(|pod| format!("pod/{}", pod.key())).collect()
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        match key.split_once('/') {
            Some(("pod", key)) => snapshot.pods.get(key).map_or_else(Plan::idle, |pod| supply(&pod, snapshot, context)),
            Some(("claim", key)) => {
                snapshot.resource_claims.get(key).map_or_else(Plan::idle, |claim| release(&claim, snapshot))
            }
            _ => Plan::idle(),
        }
    }
}

/// The claim itself, the pods that use it, and the one that it was made for, whose status may not name it yet.
fn keys_of_claim(claim: &ResourceClaim, snapshot: &Snapshot) -> Vec<String> {
    let key = claim.key();
    let users = snapshot.pods.by_index(CLAIM, &format!("devices/{key}"));
    let mut keys: Vec<String> = users.iter().map(|pod| format!("pod/{}", pod.key())).collect();
    let owner = owner::controller_of(&claim.metadata).filter(|owner| owner.kind == "Pod");
    keys.extend(owner.map(|owner| format!("pod/{}", object::key_of(claim.namespace(), &owner.name))));
    keys.push(format!("claim/{key}"));
    keys
}

/// Index [`CLAIM`] of pods, beside claims of volumes: the claims and templates of devices.
pub(crate) fn index(pod: &Pod) -> Vec<String> {
    let claims = claims_of(pod).into_iter().map(|key| format!("devices/{key}"));
    let templates = names(pod).filter_map(|wish| wish.resource_claim_template_name.as_ref());
    let templates = templates.map(|name| format!("templates/{}", object::key_of(pod.namespace(), name)));
    claims.chain(templates).collect()
}

pub(super) fn names(pod: &Pod) -> impl Iterator<Item = &PodResourceClaim> {
    pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten())
}

/// The name of a pod's claim: `None` where it is not made yet, empty where none is needed.
pub(super) fn name_of<'a>(pod: &'a Pod, wish: &'a PodResourceClaim) -> Option<&'a str> {
    let made = || pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    match &wish.resource_claim_name {
        Some(name) => Some(name),
        None => {
            let made = made().find(|status| status.name == wish.name)?;
            Some(made.resource_claim_name.as_deref().unwrap_or(""))
        }
    }
}

/// The keys of the claims that a pod uses.
fn claims_of(pod: &Pod) -> Vec<String> {
    let used = names(pod).filter_map(|wish| name_of(pod, wish)).filter(|name| !name.is_empty());
    used.map(|name| object::key_of(pod.namespace(), name)).collect()
}

/// Whether a pod runs no more, and never will.
fn is_over(pod: &Pod) -> bool {
    pods::is_finished(pod) || (pod.is_deleting() && pods::node_name(pod).is_empty())
}

pub(super) fn consumers(claim: &ResourceClaim) -> &[ResourceClaimConsumerReference] {
    claim.status.as_ref().and_then(|status| status.reserved_for.as_deref()).unwrap_or_default()
}

/// Whether a request is for administration, as metrics say it.
pub(crate) fn admin_access(spec: &ResourceClaimSpec) -> &'static str {
    let mut requests = spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
    let is = requests.any(|request| request.exactly.as_ref().is_some_and(|exactly| exactly.admin_access == Some(true)));
    if is { "true" } else { "false" }
}

/// Makes the claims of a pod that are to come of templates, and reserves those of a pod that no scheduler has placed.
fn supply(pod: &Pod, snapshot: &Snapshot, context: &Context) -> Plan {
    let mut plan = Plan::idle();
    if pod.is_deleting() || pods::is_finished(pod) {
        return plan;
    }
    let mut failure = context.failure.as_ref().filter(|failure| failure.verb == Verb::Create);
    let mut found = Vec::new();
    for wish in names(pod) {
        let failed = |plan: &mut Plan, cause: String| {
            let message = format!("PodResourceClaim {}: {cause}", wish.name);
            plan.push(Op::warning(pod, "FailedResourceClaimCreation", message));
        };
        let known = name_of(pod, wish).map(|name| (name, snapshot.resource_claims.get_in(pod.namespace(), name)));
        match known {
            Some(("", _)) => continue,
            Some((_, Some(claim)))
                if wish.resource_claim_name.is_some() || owner::is_controlled_by(&claim.metadata, pod) =>
            {
                continue;
            }
            _ => {}
        }
        let Some(template) = &wish.resource_claim_template_name else { continue };
        // One may have been made, and the pod's status not been written.
        let made = snapshot.resource_claims.by_index(OWNER, pod.uid());
        let is_for = |claim: &ResourceClaim| {
            claim.metadata.annotations.as_ref().and_then(|a| a.get(MADE_FOR)).is_some_and(|name| *name == wish.name)
        };
        if let Some(claim) = made.iter().find(|claim| is_for(claim)) {
            found.push(json!({"name": wish.name, "resourceClaimName": claim.name()}));
            continue;
        }
        let Some(template) = snapshot.resource_claim_templates.get_in(pod.namespace(), template) else {
            let cause = format!(
                "resource claim template {template:?}: resourceclaimtemplate.resource.k8s.io {template:?} not found"
            );
            failed(&mut plan, cause);
            continue;
        };
        if let Some(failure) = failure.take() {
            failed(&mut plan, format!("create ResourceClaim : {}", failure.message));
            plan.count(&DEVICE_CLAIM_CREATES, ["failure", admin_access(&template.spec.spec)]);
        }
        plan.count(&DEVICE_CLAIM_CREATES, ["success", admin_access(&template.spec.spec)]);
        let given = template.spec.metadata.clone().unwrap_or_default();
        let mut annotations = given.annotations.unwrap_or_default();
        annotations.insert(MADE_FOR.to_owned(), wish.name.clone());
        plan.push(Op::create(&ResourceClaim {
            metadata: ObjectMeta {
                generate_name: Some(prefix(pod.name(), &wish.name)),
                namespace: Some(pod.namespace().to_owned()),
                owner_references: Some(vec![owner::controller_ref(pod)]),
                annotations: Some(annotations),
                labels: given.labels,
                ..ObjectMeta::default()
            },
            spec: template.spec.spec.clone(),
            status: None,
        }));
    }
    if !found.is_empty() {
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"resourceClaimStatuses": found}});
        plan.push(Op::patch_status(pod, Patch::Strategic(patch)));
    }
    if !pods::node_name(pod).is_empty() {
        plan.ops.extend(reservations(pod, snapshot));
    }
    plan
}

/// Of both names something is left where they are too long together.
fn prefix(pod: &str, wish: &str) -> String {
    let whole = format!("{pod}-{wish}-");
    if whole.len() <= PREFIX_MAX {
        return whole;
    }
    let part = |name: &str| name.chars().take(name.len() * PREFIX_MAX / whole.len()).collect::<String>();
    format!("{}-{}", part(pod), part(wish))
}

fn reservations(pod: &Pod, snapshot: &Snapshot) -> Vec<Op> {
    let claims = claims_of(pod).into_iter().filter_map(|key| snapshot.resource_claims.get(&key));
    let lacking = claims.filter(|claim| {
        claim.status.as_ref().is_some_and(|status| status.allocation.is_some())
            && consumers(claim).len() < CONSUMERS_MAX
            && consumers(claim).iter().all(|consumer| consumer.uid != pod.uid())
    });
    let reserve = |claim: &ResourceClaim| {
        let own = ResourceClaimConsumerReference {
            resource: "pods".to_owned(),
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            ..ResourceClaimConsumerReference::default()
        };
        let mut new = claim.clone();
        new.status.get_or_insert_default().reserved_for.get_or_insert_default().push(own);
        Op::update_status(&new)
    };
    lacking.map(|claim| reserve(&claim)).collect()
}

/// Forgets the pods that use a claim no more. When none is left, its devices are given back.
fn release(claim: &ResourceClaim, snapshot: &Snapshot) -> Plan {
    let mut ops = Vec::new();
    let mut kept = Vec::new();
    for consumer in consumers(claim) {
        if consumer.resource != "pods" || consumer.api_group.as_deref().is_some_and(|group| !group.is_empty()) {
            return Plan::of(vec![Op::Fail(format!("unsupported ReservedFor entry: {consumer:?}"))]);
        }
        match snapshot.pods.get_in(claim.namespace(), &consumer.name) {
            Some(pod) if pod.uid() == consumer.uid && !is_over(&pod) => kept.push(consumer.clone()),
            Some(_) => {}
            // One that was made a moment ago may not have been seen here.
            None => ops.push(Op::RequireAbsent {
                gvr: Pod::gvr(),
                namespace: claim.namespace().to_owned(),
                name: consumer.name.clone(),
                uid: consumer.uid.clone(),
            }),
        }
    }
    let protected = claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    let is_allocated = claim.status.as_ref().is_some_and(|status| status.allocation.is_some());
    let has_ended = kept.is_empty() && !consumers(claim).is_empty();
    if kept.len() < consumers(claim).len() || (kept.is_empty() && protected && claim.is_deleting() && is_allocated) {
        let mut new = claim.clone();
        let status = new.status.get_or_insert_default();
        if kept.is_empty() && protected {
            status.allocation = None;
        }
        status.reserved_for = Some(kept).filter(|kept| !kept.is_empty());
        ops.push(Op::update_status(&new));
    } else if kept.is_empty() && protected && !is_allocated && (claim.is_deleting() || !is_being_given(claim, snapshot))
    {
        // It was given back, or is going: nothing protects it any more.
        let mut new = claim.clone();
        new.metadata.finalizers.get_or_insert_default().retain(|finalizer| finalizer != FINALIZER);
        ops.push(Op::update(&new));
    }
    let unused = consumers(claim).is_empty() || has_ended;
    if unused && !claim.is_deleting() && is_orphan(claim, snapshot) {
        ops.push(Op::delete(claim));
    }
    Plan::of(ops)
}

/// Whether a pod waits for the claim: then its scheduler may be giving it devices just now.
fn is_being_given(claim: &ResourceClaim, snapshot: &Snapshot) -> bool {
    let pods = snapshot.pods.by_index(CLAIM, &format!("devices/{}", claim.key()));
    pods.iter().any(|pod| !is_over(pod))
}

/// Whether the pod that a claim was made for will not need it. Of one that is gone the garbage collector takes care.
fn is_orphan(claim: &ResourceClaim, snapshot: &Snapshot) -> bool {
    let owner = owner::controller_of(&claim.metadata).filter(|owner| owner.kind == "Pod" && owner.api_version == "v1");
    let Some(owner) = owner else { return false };
    let pod = snapshot.pods.get_in(claim.namespace(), &owner.name);
    pod.is_some_and(|pod| pod.uid() != owner.uid || is_over(&pod))
}

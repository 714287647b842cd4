//! Claims of devices: a pod goes where the devices are that its claims have, or can get. Before it is bound, they are written
//! into the claims' status.

mod allocator;
mod programs;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kybern_api::node_affinity::{NodeTerm, terms};
use kybern_api::resource::v1::{ResourceClaim, ResourceSlice};
use kybern_api::{Object, owner};
use kybern_apimachinery::{Value, json, object};
use kybern_client::{Patch, Store};
use parking_lot::Mutex;

use self::allocator::{Patience, Wanted, allocate, device_key};
use self::programs::Programs;
use crate::cache::Cluster;
use crate::filters::Filters;
use crate::framework::{
    ApiCall, Diagnosis, Filter, Plugin, PostFilter, PreBind, PreFilter, Reason, Remedy, Reserve, Verb, Verdict,
};
use crate::node::{Node, NodeInfo};
use crate::pod::PodInfo;
use crate::stores::Stores;

const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// How many pods may share a claim.
const CONSUMERS_MAX: usize = 256;
const ELSEWHERE: &str = "resourceclaim not available on the node";

#[derive(Clone, Copy, Debug, Default)]
pub struct DynamicResources;

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }
}

/// Index of claims: the devices that they have. Who only administers a device does not have it.
pub const DEVICE: &str = "device";

pub fn devices_of(claim: &ResourceClaim) -> Vec<String> {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref()?.devices.as_ref());
    let results = allocation.iter().flat_map(|devices| devices.results.iter().flatten());
    let taken = results.filter(|result| result.admin_access != Some(true));
    taken.map(|result| device_key(&result.driver, &result.pool, &result.device)).collect()
}

/// Index of slices: the node that they belong to; empty for those that several nodes reach.
pub const SLICE_NODE: &str = "node";

pub fn node_of_slice(slice: &ResourceSlice) -> Vec<String> {
    vec![slice.spec.node_name.clone().unwrap_or_default()]
}

/// What is shared by all profiles: compiled selectors, and what is being written.
#[derive(Default)]
pub struct Shared {
    programs: Programs,
    /// By the uids of the claims.
    pending: Mutex<HashMap<String, Pending>>,
}

/// An allocation that is being written and not yet seen.
struct Pending {
    pod: Box<str>,
    claim: String,
    /// That of the claim which the allocation was made for: any other says that it was written, or failed.
    version: String,
    devices: Vec<String>,
}

impl Shared {
    fn forget_seen(&self, stores: &Stores) {
        self.pending.lock().retain(|uid, pending| {
            let claim = stores.resource_claims.get(&pending.claim);
            claim.is_some_and(|claim| claim.uid() == uid && claim.resource_version() == pending.version)
        });
    }
}

/// The claims of a pod.
struct Claims {
    allocated: Vec<Allocated>,
    /// Those that have no devices yet.
    wanted: Vec<Wanted>,
    patience: Patience,
}

struct Allocated {
    claim: Arc<ResourceClaim>,
    /// `None` for all nodes.
    terms: Option<Vec<NodeTerm>>,
}

fn is_reserved_for(claim: &ResourceClaim, uid: &str) -> bool {
    claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten()).any(|consumer| consumer.uid == uid)
}

fn consumers(claim: &ResourceClaim) -> usize {
    claim.status.as_ref().and_then(|status| status.reserved_for.as_ref()).map_or(0, Vec::len)
}

/// Finds a pod's claims; an error says what is wrong with one.
fn claims(pod: &PodInfo, stores: &Stores) -> Result<Claims, String> {
    stores.devices.forget_seen(stores);
    let mut found = Claims { allocated: Vec::new(), wanted: Vec::new(), patience: Patience::default() };
    for wish in &pod.wants().devices {
        let Some(name) = &wish.claim else {
            return Err(format!("pod \"{}/{}\": ResourceClaim not created yet", pod.namespace, pod.name));
        };
        // A template may come to nothing.
        if name.is_empty() {
            continue;
        }
        let Some(claim) = stores.resource_claims.get_in(&pod.namespace, name) else {
            return Err(format!("could not find ResourceClaim {:?}", object::key_of(&pod.namespace, name)));
        };
        if claim.is_deleting() {
            return Err(format!("resourceclaim {name:?} is being deleted"));
        }
        let is_own = owner::controller_of(&claim.metadata).is_some_and(|owner| owner.uid == *pod.uid);
        if wish.is_made && !is_own {
            let (namespace, pod) = (&pod.namespace, &pod.name);
            return Err(format!(
                "ResourceClaim {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
            ));
        }
        let Some(allocation) = claim.status.as_ref().and_then(|status| status.allocation.as_ref()) else {
            let pending = stores.devices.pending.lock();
            if pending.get(claim.uid()).is_some_and(|pending| pending.pod != pod.uid) {
                return Err(format!("resource claim {} is in the process of being allocated", claim.key()));
            }
            drop(pending);
            found.wanted.push(Wanted::of(claim, &|name| stores.device_classes.get(name))?);
            continue;
        };
        if consumers(&claim) >= CONSUMERS_MAX && !is_reserved_for(&claim, &pod.uid) {
            return Err("resourceclaim in use".to_owned());
        }
        let terms = allocation.node_selector.as_ref().map(terms);
        found.allocated.push(Allocated { claim, terms });
    }
    Ok(found)
}

/// The devices that the claims get on a node.
fn devices(claims: &Claims, pod: &PodInfo, node: &Node, stores: &Stores) -> Result<Option<Vec<Value>>, String> {
    let pending = stores.devices.pending.lock();
    let others = pending.values().filter(|pending| pending.pod != pod.uid);
    let taken: HashSet<String> = others.flat_map(|pending| pending.devices.iter().cloned()).collect();
    drop(pending);
    let in_use = |key: &str| taken.contains(key) || !stores.resource_claims.by_index(DEVICE, key).is_empty();
    let mut slices = stores.slices.by_index(SLICE_NODE, &node.name);
    slices.extend(stores.slices.by_index(SLICE_NODE, ""));
    let rules =
        stores.device_taints.as_ref().map(|taints| taints.rules.iter().flat_map(Store::list).collect::<Vec<_>>());
    let programs = &stores.devices.programs;
    allocate(&claims.wanted, &slices, node, &in_use, rules.as_deref(), programs, &claims.patience)
}

fn check(claims: &Claims, pod: &PodInfo, node: &Node, stores: &Stores) -> Verdict {
    if !claims.wanted.is_empty() {
        match devices(claims, pod, node, stores) {
            Ok(Some(_)) => {}
            Ok(None) => return Verdict::unresolvable("cannot allocate all claims"),
            Err(cause) => return Verdict::unresolvable(cause),
        }
    }
    let elsewhere = |allocated: &Allocated| {
        allocated.terms.as_ref().is_some_and(|terms| !terms.iter().any(|term| term.matches(&node.name, &node.labels)))
    };
    if claims.allocated.iter().any(elsewhere) { Verdict::unresolvable(ELSEWHERE) } else { Verdict::Fits }
}

impl Filter for DynamicResources {
    fn pre_filter<'a>(&'a self, pod: &'a PodInfo, cluster: &'a Cluster) -> PreFilter<'a> {
        if pod.wants().devices.is_empty() {
            return PreFilter::Skip;
        }
        match claims(pod, cluster.stores()) {
            Ok(claims) if claims.allocated.is_empty() && claims.wanted.is_empty() => PreFilter::Skip,
            Ok(claims) => PreFilter::by(move |info: &NodeInfo| check(&claims, pod, &info.node, cluster.stores())),
            Err(reason) => PreFilter::Reject(reason.into()),
        }
    }

    fn reads_storage(&self) -> bool {
        true
    }
}

fn patch_status(claim: &ResourceClaim, status: &Value) -> ApiCall {
    // The version keeps two pods from giving it two allocations.
    let metadata = json!({"uid": claim.uid(), "resourceVersion": claim.resource_version()});
    let patch = Patch::Merge(json!({"metadata": metadata, "status": status}));
    call(claim, Some("status"), patch)
}

fn call(claim: &ResourceClaim, subresource: Option<&'static str>, patch: Patch) -> ApiCall {
    let (namespace, name) = (claim.namespace().to_owned(), claim.name().to_owned());
    ApiCall { gvr: ResourceClaim::gvr(), namespace, name, verb: Verb::Patch { subresource, patch } }
}

impl PostFilter for DynamicResources {
    /// Takes the devices of a claim back that only this pod has, where they keep it from all nodes.
    fn post_filter(&self, filters: &mut Filters<'_>, diagnosis: &Diagnosis) -> Remedy {
        let (pod, stores) = (filters.pod, filters.cluster.stores());
        let message = |message: &str| Remedy { message: message.to_owned(), ..Remedy::default() };
        if pod.wants().devices.is_empty() {
            return message("no new claims to deallocate");
        }
        let claims = claims(pod, stores).ok().filter(|_| diagnosis.reasons.contains_key(&Reason::from(ELSEWHERE)));
        let mut all = claims.iter().flat_map(|claims| &claims.allocated);
        let is_alone = |allocated: &&Allocated| {
            let own = usize::from(is_reserved_for(&allocated.claim, &pod.uid));
            allocated.terms.is_some() && consumers(&allocated.claim) == own
        };
        match all.find(is_alone) {
            None => message("still not schedulable"),
            Some(Allocated { claim, .. }) => {
                let nothing = json!({"allocation": null, "reservedFor": null, "devices": null});
                Remedy {
                    calls: vec![patch_status(claim, &nothing)],
                    ..message("deallocation of ResourceClaim completed")
                }
            }
        }
    }
}

impl Reserve for DynamicResources {
    fn reserve(&self, _: &PodInfo, _: &NodeInfo, _: &Cluster) -> Result<(), Reason> {
        Ok(())
    }

    fn unreserve(&self, pod: &PodInfo, _: &str, cluster: &Cluster) {
        cluster.stores().devices.pending.lock().retain(|_, pending| pending.pod != pod.uid);
    }
}

fn has_finalizer(claim: &ResourceClaim) -> bool {
    claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

impl PreBind for DynamicResources {
    fn pre_bind(&self, pod: &PodInfo, node: &str, cluster: &Cluster) -> Vec<ApiCall> {
        let stores = cluster.stores();
        let Some(info) = cluster.node(node).filter(|_| !pod.wants().devices.is_empty()) else { return Vec::new() };
        let Ok(claims) = claims(pod, stores) else { return Vec::new() };
        // What has devices has the finalizer, whatever is interrupted: they are taken back before it goes.
        let bare: Vec<_> = claims.wanted.iter().filter(|wanted| !has_finalizer(&wanted.claim)).collect();
        if !bare.is_empty() {
            return bare.iter().map(|wanted| protect(&wanted.claim)).collect();
        }
        let allocations = match claims.wanted.is_empty() {
            true => Vec::new(),
            false => match devices(&claims, pod, &info.node, stores) {
                Ok(Some(allocations)) => allocations,
                _ => return Vec::new(),
            },
        };
        let mut calls = Vec::new();
        let reserve = |claim: &ResourceClaim, allocation: Option<&Value>| {
            let before = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
            let mut consumers: Vec<Value> = before
                .map(|c| json!({"apiGroup": c.api_group, "resource": c.resource, "name": c.name, "uid": c.uid}))
                .collect();
            consumers.push(json!({"resource": "pods", "name": pod.name, "uid": pod.uid}));
            let mut status = json!({"reservedFor": consumers});
            if let Some(allocation) = allocation {
                status["allocation"] = allocation.clone();
            }
            patch_status(claim, &status)
        };
        for (wanted, allocation) in claims.wanted.iter().zip(&allocations) {
            let claim = &wanted.claim;
            let pending = Pending {
                pod: pod.uid.clone(),
                claim: claim.key(),
                version: claim.resource_version().to_owned(),
                devices: taken(allocation),
            };
            stores.devices.pending.lock().insert(claim.uid().to_owned(), pending);
            calls.push(reserve(claim, Some(allocation)));
        }
        let unreserved = claims.allocated.iter().filter(|allocated| !is_reserved_for(&allocated.claim, &pod.uid));
        calls.extend(unreserved.map(|allocated| reserve(&allocated.claim, None)));
        calls
    }

    fn waits(&self, pod: &PodInfo, cluster: &Cluster) -> bool {
        if pod.wants().devices.is_empty() {
            return false;
        }
        let stores = cluster.stores();
        claims(pod, stores).map_or(true, |claims| {
            let pending = stores.devices.pending.lock();
            claims.wanted.iter().any(|wanted| !pending.contains_key(wanted.claim.uid()))
        })
    }
}

fn protect(claim: &ResourceClaim) -> ApiCall {
    let mut finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
    finalizers.push(FINALIZER.to_owned());
    let version = claim.resource_version();
    let metadata = json!({"uid": claim.uid(), "resourceVersion": version, "finalizers": finalizers});
    call(claim, None, Patch::Merge(json!({"metadata": metadata})))
}

fn taken(allocation: &Value) -> Vec<String> {
    let results = allocation["devices"]["results"].as_array().into_iter().flatten();
    let taken = results.filter(|result| result["adminAccess"] != true);
    let text = |result: &Value, field: &str| result[field].as_str().unwrap_or("").to_owned();
    taken.map(|r| device_key(&text(r, "driver"), &text(r, "pool"), &text(r, "device"))).collect()
}

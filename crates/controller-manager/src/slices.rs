//! Keeps a set of EndpointSlices equal to the wanted endpoints with few and small writes. Shared by the controllers that
//! make slices from pods and from hand-written Endpoints.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kybern_api::Object;
use kybern_api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use crate::controller::Op;

pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Endpoints of one slice, where nothing else is asked for.
pub(crate) const MAX_ENDPOINTS: usize = 100;

/// Endpoints of one slice share address type and ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    pub(crate) address_type: String,
    ports: Vec<PortKey>,
}

type PortKey = (Option<String>, Option<i32>, Option<String>, Option<String>);

impl Group {
    pub(crate) fn new(address_type: &str, ports: Vec<EndpointPort>) -> Self {
        let mut ports: Vec<PortKey> = ports.into_iter().map(|p| (p.name, p.port, p.protocol, p.app_protocol)).collect();
        ports.sort();
        Self { address_type: address_type.to_owned(), ports }
    }

    pub(crate) fn ports(&self) -> Vec<EndpointPort> {
        let port = |(name, port, protocol, app_protocol): PortKey| EndpointPort { name, port, protocol, app_protocol };
        self.ports.iter().cloned().map(port).collect()
    }

    fn of(slice: &EndpointSlice) -> Self {
        Self::new(&slice.address_type, slice.ports.clone().unwrap_or_default())
    }
}

pub(crate) fn is_managed_by(slice: &EndpointSlice, manager: &str) -> bool {
    slice.labels().and_then(|l| l.get(MANAGED_BY)).is_some_and(|m| m == manager)
}

/// `namespace/name` of the Service a slice belongs to.
pub(crate) fn service_key(slice: &EndpointSlice) -> Option<String> {
    let name = slice.labels()?.get(SERVICE_NAME)?;
    Some(format!("{}/{name}", slice.namespace()))
}

/// The writes, and how many endpoints come and go with them.
#[derive(Default)]
pub(crate) struct Writes {
    pub(crate) ops: Vec<Op>,
    pub(crate) added: usize,
    pub(crate) removed: usize,
}

/// Plans the writes. Endpoints stay in the slice they are in; new ones fill slices that are written anyway, then slices
/// with room, then new slices; slices of groups that are no more go.
pub(crate) fn reconcile(
    existing: &[Arc<EndpointSlice>],
    mut desired: BTreeMap<Group, Vec<Endpoint>>,
    make: &dyn Fn(&Group) -> EndpointSlice,
    labels: &BTreeMap<String, String>,
    most: usize,
) -> Writes {
    let mut by_group: BTreeMap<Group, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        by_group.entry(Group::of(slice)).or_default().push(slice);
    }
    // A group without endpoints stands for "nobody is there": a slice that would become empty serves as well.
    let placeholders: Vec<Group> = desired.iter().filter(|(_, e)| e.is_empty()).map(|(g, _)| g.clone()).collect();
    for placeholder in placeholders {
        let same_family = |g: &&Group| g.address_type == placeholder.address_type;
        let stand_in =
            by_group.keys().find(|g| **g == placeholder).or_else(|| by_group.keys().find(same_family)).cloned();
        if let Some(group) = stand_in
            && group != placeholder
        {
            desired.remove(&placeholder);
            desired.entry(group).or_default();
        }
    }
    let mut writes = Writes::default();
    for (group, endpoints) in desired {
        let slices = by_group.remove(&group).unwrap_or_default();
        reconcile_group(&group, &slices, endpoints, make, labels, most, &mut writes);
    }
    for slice in by_group.into_values().flatten() {
        writes.removed += slice.endpoints.len();
        writes.ops.push(Op::delete(&**slice));
    }
    writes
}

fn reconcile_group(
    group: &Group,
    slices: &[&Arc<EndpointSlice>],
    endpoints: Vec<Endpoint>,
    make: &dyn Fn(&Group) -> EndpointSlice,
    labels: &BTreeMap<String, String>,
    most: usize,
    Writes { ops, added: all_added, removed }: &mut Writes,
) {
    let identity = |e: &Endpoint| (e.addresses.clone(), e.target_ref.as_ref().and_then(|r| r.uid.clone()));
    let mut wanted: HashMap<_, Endpoint> = HashMap::with_capacity(endpoints.len());
    let mut order = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let id = identity(&endpoint);
        if wanted.insert(id.clone(), endpoint).is_none() {
            order.push(id);
        }
    }
    let mut kept: Vec<(Vec<Endpoint>, bool)> = Vec::with_capacity(slices.len());
    for slice in slices {
        let have = slice.endpoints.as_slice();
        let keep: Vec<Endpoint> = have.iter().filter_map(|e| wanted.remove(&identity(e))).collect();
        let changed = keep.as_slice() != have || slice.labels() != Some(labels);
        *removed += have.len() - keep.len();
        kept.push((keep, changed));
    }
    let mut added: Vec<Endpoint> = order.iter().filter_map(|id| wanted.remove(id)).collect();
    *all_added += added.len();
    added.reverse();
    let mut fill = |list: &mut Vec<Endpoint>| {
        let before = list.len();
        while list.len() < most {
            let Some(endpoint) = added.pop() else { break };
            list.push(endpoint);
        }
        list.len() != before
    };
    for (list, _) in kept.iter_mut().filter(|(_, changed)| *changed) {
        fill(list);
    }
    for (list, changed) in kept.iter_mut().filter(|(_, changed)| !*changed) {
        *changed = fill(list);
    }
    let survivors = kept.iter().filter(|(list, _)| !list.is_empty()).count();
    let mut placeholder_needed = survivors == 0 && added.is_empty();
    for (slice, (list, changed)) in slices.iter().zip(kept) {
        if list.is_empty() && !std::mem::take(&mut placeholder_needed) {
            ops.push(Op::delete(&***slice));
        } else if changed {
            let mut object = (***slice).clone();
            object.metadata.labels = Some(labels.clone());
            object.endpoints = list;
            ops.push(Op::update(&object));
        }
    }
    added.reverse();
    let mut rest = added.into_iter();
    loop {
        let list: Vec<Endpoint> = rest.by_ref().take(most).collect();
        if list.is_empty() && !std::mem::take(&mut placeholder_needed) {
            break;
        }
        let mut object = make(group);
        object.endpoints = list;
        ops.push(Op::create(&object));
    }
}

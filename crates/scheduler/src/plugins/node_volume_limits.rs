//! A node can have so many volumes of a CSI driver at a time and no more, as its CSINode says.

use std::collections::BTreeMap;

use kybern_api::Object;
use kybern_api::core::v1::PersistentVolume;

use crate::cache::Cluster;
use crate::framework::{Filter, Plugin, PreFilter, Verdict};
use crate::node::NodeInfo;
use crate::plugins::volume_binding::class_of;
use crate::pod::PodInfo;
use crate::stores::{BY_NODE, Stores};

pub struct NodeVolumeLimits;

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }
}

/// By the driver: what tells its volumes apart.
type Volumes = BTreeMap<String, Vec<String>>;

fn add(volumes: &mut Volumes, (driver, handle): (String, String)) {
    let known = volumes.entry(driver).or_default();
    if !known.contains(&handle) {
        known.push(handle);
    }
}

/// Adds what a pod's claims are, or are going to be. Those that no driver makes do not count.
fn add_volumes(pod: &PodInfo, stores: &Stores, volumes: &mut Volumes) {
    for (name, _) in &pod.claims {
        let Some(claim) = stores.claims.get_in(&pod.namespace, name) else { continue };
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
        let found = match stores.volumes.get(volume) {
            Some(volume) => csi_source(&volume),
            // Its name among volumes that are yet to be made.
            None => stores.classes.get(class_of(&claim)).map(|class| (class.provisioner.clone(), claim.key())),
        };
        if let Some(found) = found {
            add(volumes, found);
        }
    }
}

fn csi_source(volume: &PersistentVolume) -> Option<(String, String)> {
    let source = volume.spec.as_ref()?.csi.as_ref()?;
    Some((source.driver.clone(), source.volume_handle.clone()))
}

fn check(new: &Volumes, info: &NodeInfo, stores: &Stores) -> Verdict {
    let Some(limits) = stores.csi_nodes.get(&info.node.name) else { return Verdict::Fits };
    let limits = limits.facts.0.iter().filter_map(|(driver, most)| Some((driver, most, new.get(driver)?)));
    let mut limits = limits.peekable();
    if limits.peek().is_none() {
        return Verdict::Fits;
    }
    let mut there = Volumes::new();
    info.pods.iter().for_each(|pod| add_volumes(pod, stores, &mut there));
    for attachment in stores.attachments.by_index(BY_NODE, &info.node.name) {
        let volume = attachment.facts.volume.as_ref().and_then(|volume| stores.volumes.get(volume));
        if let Some((_, handle)) = volume.as_deref().and_then(csi_source) {
            add(&mut there, (attachment.facts.driver.clone(), handle));
        }
    }
    for (driver, most, new) in limits {
        let there = there.get(driver).map_or(&[][..], Vec::as_slice);
        let added = new.iter().filter(|volume| !there.contains(volume)).count();
        // A node that is over its limit still takes pods that mount what is there.
        if added > 0 && there.len() + added > *most {
            return Verdict::unschedulable("node(s) exceed max volume count");
        }
    }
    Verdict::Fits
}

impl Filter for NodeVolumeLimits {
    fn pre_filter<'a>(&'a self, pod: &'a PodInfo, cluster: &'a Cluster) -> PreFilter<'a> {
        let stores = cluster.stores();
        let mut new = Volumes::new();
        add_volumes(pod, stores, &mut new);
        match new.is_empty() {
            true => PreFilter::Skip,
            false => PreFilter::by(move |info: &NodeInfo| check(&new, info, stores)),
        }
    }

    fn may_fit_without(&self, _: &PodInfo, gone: &PodInfo) -> bool {
        !gone.claims.is_empty()
    }

    fn reads_storage(&self) -> bool {
        true
    }
}

//! A pod goes into the zone and region that the labels of its volumes name.

use kybern_api::Object;
use kybern_api::core::v1::PersistentVolume;

use crate::cache::Cluster;
use crate::framework::{Filter, Plugin, PreFilter, Reason, Verdict};
use crate::node::NodeInfo;
use crate::plugins::volume_binding::class_of;
use crate::pod::PodInfo;
use crate::stores::Stores;

/// The labels, each with the name that it has now.
const KEYS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];

pub struct VolumeZone;

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }
}

/// What a node's label must be: one of these.
struct Place {
    key: &'static str,
    current: &'static str,
    values: Vec<String>,
}

fn places(volume: &PersistentVolume) -> impl Iterator<Item = Place> {
    KEYS.iter().filter_map(|&(key, current)| {
        let text = volume.metadata.labels.as_ref()?.get(key)?;
        let values: Vec<String> = text.split("__").map(|value| value.trim().to_owned()).collect();
        // One that cannot be read asks for nothing.
        values.iter().all(|value| !value.is_empty()).then_some(Place { key, current, values })
    })
}

fn places_of(pod: &PodInfo, stores: &Stores) -> Result<Vec<Place>, Reason> {
    let mut found = Vec::new();
    for (name, _) in pod.claims.iter().filter(|(_, is_ephemeral)| !is_ephemeral) {
        let claim = stores.claims.get_in(&pod.namespace, name);
        let claim = claim.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("");
        if !volume.is_empty() {
            let volume = stores.volumes.get(volume).ok_or_else(|| format!("persistentvolume {volume:?} not found"))?;
            found.extend(places(&volume));
            continue;
        }
        let class = class_of(&claim);
        if class.is_empty() {
            return Err("PersistentVolumeClaim had no pv name and storageClass name".into());
        }
        let known = stores.classes.get(class);
        let known = known.ok_or_else(|| format!("storageclass.storage.k8s.io {:?} not found", class))?;
        match known.volume_binding_mode.as_deref() {
            Some("WaitForFirstConsumer") => {}
            Some(_) => return Err("PersistentVolume had no name".into()),
            None => return Err(format!("VolumeBindingMode not set for StorageClass {:?}", known.name()).into()),
        }
    }
    Ok(found)
}

impl Filter for VolumeZone {
    fn pre_filter<'a>(&'a self, pod: &'a PodInfo, cluster: &'a Cluster) -> PreFilter<'a> {
        let places = match places_of(pod, cluster.stores()) {
            Ok(places) if places.is_empty() => return PreFilter::Skip,
            Ok(places) => places,
            Err(reason) => return PreFilter::Reject(reason),
        };
        PreFilter::by(move |info: &NodeInfo| {
            let labels = &info.node.labels;
            let is_there = |place: &Place| {
                let value = labels.get(place.key).or_else(|| labels.get(place.current));
                value.is_some_and(|value| place.values.contains(value))
            };
            // A node without any of the labels is in a cluster without zones.
            let has_zone = KEYS.iter().any(|(key, _)| labels.contains_key(*key));
            match !has_zone || places.iter().all(is_there) {
                true => Verdict::Fits,
                false => Verdict::unresolvable("node(s) had no available volume zone"),
            }
        })
    }

    fn reads_storage(&self) -> bool {
        true
    }
}

//! The rules of claims and their volumes, and the folders that fake nodes keep for them.

use std::collections::{BTreeMap, BTreeSet};

use kybern_apimachinery::{Value, object};
use parking_lot::Mutex;

use super::model::{Model, has_ended, node_of, number, owner_uid};

/// By node: the volumes whose data it holds.
#[derive(Default)]
pub(super) struct Folders(Mutex<BTreeMap<String, BTreeSet<String>>>);

impl Folders {
    pub(super) fn make(&self, node: &str, volume: &str) {
        self.0.lock().entry(node.to_owned()).or_default().insert(volume.to_owned());
    }

    pub(super) fn remove(&self, node: &str, volume: &str) {
        self.0.lock().entry(node.to_owned()).or_default().remove(volume);
    }
}

/// The names of the claims that a pod uses.
pub(super) fn claims_of(pod: &Value) -> impl Iterator<Item = &str> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
}

/// The node that holds a local volume.
fn place_of(volume: &Value) -> Option<&str> {
    let terms = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"];
    terms[0]["matchExpressions"][0]["values"][0].as_str()
}

fn volume_of(claim: &Value) -> &str {
    object::str_at(claim, &["spec", "volumeName"])
}

fn claimant(volume: &Value) -> &str {
    object::str_at(volume, &["spec", "claimRef", "uid"])
}

impl Model {
    fn volume(&self, name: &str) -> Option<&Value> {
        self.objects.get(&format!("/registry/persistentvolumes/{name}"))
    }

    fn claim(&self, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&format!("/registry/persistentvolumeclaims/{namespace}/{name}"))
    }

    /// Why the volumes of a pod keep it from running on a node now.
    pub(super) fn barred_by_volumes(&self, pod: &Value, node: &str) -> Option<String> {
        claims_of(pod).find_map(|name| {
            let Some(claim) = self.claim(object::namespace(pod), name) else {
                return Some(format!("its claim {name} is not there"));
            };
            match self.volume(volume_of(claim)) {
                None => Some(format!("its claim {name} has no volume")),
                Some(volume) if claimant(volume) != object::uid(claim) => {
                    Some(format!("the volume {} of its claim {name} is another's", object::name(volume)))
                }
                Some(volume) => place_of(volume)
                    .filter(|place| *place != node)
                    .map(|place| format!("its volume {} is on {place}", object::name(volume))),
            }
        })
    }

    /// A claim keeps its volume, which is no other's.
    pub(super) fn check_claim(&mut self, key: &str, old: Option<&Value>, new: Option<&Value>) {
        let had = old.map_or("", volume_of);
        let Some(claim) = new else {
            let old = old.unwrap_or(&Value::Null);
            let name = object::name(old);
            let uses = |pod: &&Value| {
                object::namespace(pod) == object::namespace(old)
                    && claims_of(pod).any(|claim| claim == name)
                    && object::str_at(pod, &["status", "phase"]) == "Running"
                    && !object::is_deleting(pod)
            };
            let user = self.all("pods").find(uses).map(|pod| object::name(pod).to_owned());
            return user.into_iter().for_each(|pod| self.violated(format!("{key} went while pod {pod} used it")));
        };
        let has = volume_of(claim);
        if had == has {
            return;
        }
        if !had.is_empty() {
            self.violated(format!("{key} was bound to {had} and then to {has:?}"));
        }
        let other = |c: &&Value| volume_of(c) == has && object::uid(c) != object::uid(claim);
        let other = self.all("persistentvolumeclaims").find(other).map(object::key);
        if let Some(other) = other {
            self.violated(format!("{key} was bound to {has}, which {other} has"));
        }
        match self.volume(has).map(claimant) {
            Some(uid) if uid == object::uid(claim) => {}
            uid => {
                let text = format!("{key} was bound to {has}, which is for {:?}", uid.unwrap_or("nobody"));
                self.violated(text);
            }
        }
    }

    /// A volume has one claim, and stays as long as that.
    pub(super) fn check_volume(&mut self, key: &str, old: Option<&Value>, new: Option<&Value>) {
        let (had, has) = (old.map_or("", claimant), new.map_or("", claimant));
        if new.is_some() && !had.is_empty() && !has.is_empty() && had != has {
            self.violated(format!("{key} was claimed by {had} and then by {has}"));
        }
        let Some(old) = old.filter(|_| new.is_none()) else { return };
        let bound = |c: &&Value| volume_of(c) == object::name(old) && object::uid(c) == had;
        let claim = self.all("persistentvolumeclaims").find(bound).map(object::key);
        if let Some(claim) = claim {
            self.violated(format!("{key} went while claim {claim} had it"));
        }
    }

    /// Names what is not yet as it should be of claims, volumes and their data.
    pub(super) fn unsettled_volumes(&self, folders: &Folders, complaints: &mut Vec<String>) {
        for volume in self.all("persistentvolumes") {
            let (name, status) = (object::name(volume), &volume["status"]);
            let is_claimed = self
                .all("persistentvolumeclaims")
                .any(|claim| volume_of(claim) == name && object::uid(claim) == claimant(volume));
            if !is_claimed || status["phase"] != "Bound" {
                complaints.push(format!("volume {name} is left over or not bound: {status}"));
            }
        }
        for claim in self.all("persistentvolumeclaims") {
            let (key, name) = (object::key(claim), object::name(claim));
            let namespace = object::namespace(claim);
            let in_use = self.all("pods").any(|pod| {
                object::namespace(pod) == namespace
                    && !has_ended(pod)
                    && !node_of(pod).is_empty()
                    && claims_of(pod).any(|claim| claim == name)
            });
            let is_bound = !volume_of(claim).is_empty() && claim["status"]["phase"] == "Bound";
            if object::is_deleting(claim) || in_use && !is_bound {
                complaints.push(format!("claim {key} says {}", claim["status"]));
            }
            let set = self.all("statefulsets").find(|set| object::uid(set) == owner_of_any(claim));
            let ordinal = name.rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse::<i64>().ok());
            let wanted = |set: &Value| number(set, &["spec", "replicas"]);
            let is_surplus = set.is_some_and(|set| ordinal.is_some_and(|ordinal| ordinal >= wanted(set)));
            let policy = |set: &Value| set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Delete";
            // The claim is handed to its pod before that is deleted. Where others delete pods nobody does so, here as upstream.
            let is_handed_on = !self.faults.take_pods() && !self.faults.pauses;
            if is_surplus && is_handed_on && set.is_some_and(policy) {
                complaints.push(format!("claim {key} is left of a StatefulSet that was scaled down"));
            }
        }
        for (node, volumes) in &*folders.0.lock() {
            let left = volumes.iter().filter(|name| self.volume(name).is_none());
            complaints.extend(left.map(|name| format!("node {node} still has the data of volume {name}")));
        }
    }
}

/// Of the owner, controlling or not.
fn owner_of_any(claim: &Value) -> &str {
    let owner = owner_uid(claim);
    if owner.is_empty() { object::str_at(&claim["metadata"]["ownerReferences"][0], &["uid"]) } else { owner }
}

//! What must be true once nothing goes wrong any more and time has passed: what is there is what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kybern_apimachinery::{Value, object};
use kybern_apiserver::Server;

use super::load::Load;
use super::model::{Model, has_ended, is_serving, milli_cpu, node_of, number, owner_uid, quantity};
use super::volumes::Folders;

/// Names what is not yet as it should be; nothing when all is.
pub(super) fn unsettled(model: &Model, servers: &[Arc<Server>], folders: &Folders, load: &Load) -> Vec<String> {
    let mut complaints = Vec::new();
    namespaces(model, &mut complaints);
    deployments(model, &mut complaints);
    daemon_sets(model, &mut complaints);
    model.unsettled_workloads(&mut complaints);
    model.unsettled_budgets(&mut complaints);
    load.unsettled(model, &mut complaints);
    model.unsettled_volumes(folders, &mut complaints);
    pods(model, &mut complaints);
    owners(model, &mut complaints);
    endpoints(model, &mut complaints);
    model.unsettled_addresses(&mut complaints);
    // To read them all costs the most.
    if complaints.is_empty() {
        for server in servers {
            caches(model, server, &mut complaints);
        }
    }
    complaints
}

fn namespaces(model: &Model, complaints: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    for namespace in model.all("namespaces") {
        let name = object::name(namespace);
        names.insert(name);
        if object::is_deleting(namespace) {
            let conditions = &namespace["status"]["conditions"];
            complaints.push(format!("namespace {name} is still being deleted: {conditions}"));
        } else if !model.objects.contains_key(&format!("/registry/serviceaccounts/{name}/default")) {
            complaints.push(format!("namespace {name} has no service account default"));
        }
    }
    for (key, object) in &model.objects {
        let namespace = object::namespace(object);
        if !namespace.is_empty() && !names.contains(namespace) {
            complaints.push(format!("{key} is left of a namespace that is gone"));
        }
    }
}

fn deployments(model: &Model, complaints: &mut Vec<String>) {
    for deployment in model.all("deployments") {
        let (key, uid) = (object::key(deployment), object::uid(deployment));
        let wanted = number(deployment, &["spec", "replicas"]);
        let sets: BTreeSet<&str> =
            model.all("replicasets").filter(|rs| owner_uid(rs) == uid).map(object::uid).collect();
        let pods: Vec<&Value> = model.all("pods").filter(|pod| sets.contains(owner_uid(pod))).collect();
        let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
        let status = |what: &str| number(deployment, &["status", what]);
        if pods.iter().any(|pod| node_of(pod).is_empty()) {
            // There is no room, or else `pods` complains; what cannot be updated stays.
            let (all, ready) = (pods.len() as i64, pods.iter().filter(|pod| is_serving(pod)).count() as i64);
            if (status("replicas"), status("readyReplicas"), status("terminatingReplicas")) != (all, ready, 0) {
                let says = &deployment["status"];
                complaints.push(format!("deployment {key} has {all} pods, of them {ready} ready, and says {says}"));
            }
            // Then it says, after ten minutes, that it waits for too long; a larger one that was complete does not.
            let conditions = deployment["status"]["conditions"].as_array().into_iter().flatten();
            let progress = conditions.into_iter().find(|condition| condition["type"] == "Progressing");
            if progress.is_some_and(|c| c["status"] == "True" && c["reason"] != "NewReplicaSetAvailable") {
                complaints.push(format!("deployment {key} still believes that it progresses"));
            }
            continue;
        }
        let good = pods.iter().filter(|p| is_serving(p) && p["spec"]["containers"][0]["image"] == *image).count();
        if good as i64 != wanted || pods.len() as i64 != wanted {
            let all = pods.len();
            complaints.push(format!("deployment {key} wants {wanted} pods and has {all}, of them {good} as wanted"));
        }
        let counts = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
        let generation = object::generation(deployment);
        let terminating = status("terminatingReplicas");
        if terminating != 0
            || counts.iter().any(|what| status(what) != wanted)
            || status("observedGeneration") != generation
        {
            complaints.push(format!("deployment {key} of generation {generation} says {}", deployment["status"]));
        }
    }
}

fn daemon_sets(model: &Model, complaints: &mut Vec<String>) {
    let nodes: BTreeSet<&str> = model.all("minions").map(object::name).collect();
    for set in model.all("daemonsets") {
        let (key, uid) = (object::key(set), object::uid(set));
        let pods: Vec<&Value> = model.all("pods").filter(|pod| owner_uid(pod) == uid).collect();
        let on: BTreeSet<&str> = pods.iter().filter(|pod| is_serving(pod)).map(|pod| node_of(pod)).collect();
        let waits = pods.iter().any(|pod| node_of(pod).is_empty());
        if !waits && on != nodes || pods.len() != nodes.len() {
            complaints.push(format!("daemon set {key} has {} pods, serving on {on:?}", pods.len()));
        }
    }
}

fn pods(model: &Model, complaints: &mut Vec<String>) {
    for pod in model.all("pods") {
        let (key, node) = (object::key(pod), node_of(pod));
        if node.is_empty() && !object::is_deleting(pod) {
            complaints.extend(room_for(model, pod));
        } else if has_ended(pod) && model.jobs.contains_key(owner_uid(pod)) {
            // A Job's pod stays as long as the Job.
        } else if object::is_deleting(pod) {
            complaints.push(format!("pod {key} is still being deleted"));
        } else if !is_serving(pod) {
            complaints.push(format!("pod {key} on {node:?} is not serving: {}", pod["status"]));
        } else if is_to_be_disrupted(pod) {
            complaints.push(format!("pod {key} stays, and it is not said that it does: {}", pod["status"]));
        } else if !model.has_node(node) {
            complaints.push(format!("pod {key} is on {node}, which is gone"));
        }
    }
    for node in model.all("minions") {
        if node["spec"]["taints"].as_array().is_some_and(|taints| !taints.is_empty()) {
            complaints.push(format!("node {} has taints: {}", object::name(node), node["spec"]["taints"]));
        }
    }
}

/// What wanted to make room, and then did not, leaves this for two minutes.
fn is_to_be_disrupted(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == "DisruptionTarget" && c["status"] == "True")
}

/// Why a pod that waits need not: there is room, or pods of less importance are in its way.
fn room_for(model: &Model, pod: &Value) -> Option<String> {
    let priority = number(pod, &["spec", "priority"]);
    let name = object::key(pod);
    let affinity = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    // That of a daemon.
    let pinned_to = affinity["nodeSelectorTerms"][0]["matchFields"][0]["values"][0].as_str();
    let nodes = model.all("minions").filter(|node| pinned_to.is_none_or(|name| name == object::name(node)));
    nodes.into_iter().find_map(|node| {
        let allocatable = &node["status"]["allocatable"];
        let here = model.all("pods").filter(|p| node_of(p) == object::name(node) && !has_ended(p));
        let (lower, others): (Vec<_>, Vec<_>) = here.partition(|p| number(p, &["spec", "priority"]) < priority);
        let cpu = |pods: &[&Value]| pods.iter().map(|pod| milli_cpu(pod)).sum::<i64>();
        let fits = |cpu: i64, pods: usize| {
            cpu + milli_cpu(pod) <= quantity(&allocatable["cpu"])
                && (pods as i64 + 1) * 1000 <= quantity(&allocatable["pods"])
        };
        let node = object::name(node);
        if model.barred(pod, node, None).is_some() {
            return None;
        }
        if fits(cpu(&lower) + cpu(&others), lower.len() + others.len()) {
            Some(format!("pod {name} waits, and {node} has room"))
        } else if fits(cpu(&others), others.len()) {
            Some(format!("pod {name} of priority {priority} waits for pods of lower priority on {node}"))
        } else {
            None
        }
    })
}

/// Nobody makes these but for an owner.
const OWNED: [&str; 4] = ["pods", "replicasets", "controllerrevisions", "endpointslices"];

/// What has owners has one that is there, and what some controller makes has owners.
fn owners(model: &Model, complaints: &mut Vec<String>) {
    let uids: BTreeSet<&str> = model.objects.values().map(object::uid).collect();
    for (key, object) in &model.objects {
        let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let owners: Vec<&str> = owners.filter_map(|o| o["uid"].as_str()).collect();
        if !owners.is_empty() && !owners.iter().any(|uid| uids.contains(uid)) {
            complaints.push(format!("{key} is garbage"));
        }
    }
    for object in OWNED.iter().flat_map(|kind| model.all(kind)) {
        // The servers' own.
        let is_own = object::label(object, "kubernetes.io/service-name") == Some("kubernetes");
        if !is_own && object["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty) {
            complaints.push(format!("{} is nobody's", object::key(object)));
        }
    }
}

fn endpoints(model: &Model, complaints: &mut Vec<String>) {
    for service in model.all("services/specs") {
        let Some(selector) = service["spec"]["selector"].as_object() else { continue };
        let (key, namespace) = (object::key(service), object::namespace(service));
        let selected = |pod: &Value| selector.iter().all(|(k, v)| object::label(pod, k) == v.as_str());
        let pods = model.all("pods").filter(|p| object::namespace(p) == namespace && selected(p) && is_serving(p));
        let wanted: BTreeSet<String> = pods.map(|p| object::str_at(p, &["status", "podIP"]).to_owned()).collect();
        let name = Some(object::name(service));
        let slices = model
            .all("endpointslices")
            .filter(|s| object::namespace(s) == namespace && object::label(s, "kubernetes.io/service-name") == name)
            .collect::<Vec<_>>();
        if slices.is_empty() || !model.objects.contains_key(&format!("/registry/services/endpoints/{key}")) {
            complaints.push(format!("service {key} has no endpoints, not even none"));
        }
        let endpoints = slices.into_iter().flat_map(|s| s["endpoints"].as_array().into_iter().flatten());
        let ready = endpoints.filter(|e| e["conditions"]["ready"] == true);
        let addresses = ready.flat_map(|e| e["addresses"].as_array().into_iter().flatten());
        let has: BTreeSet<String> = addresses.filter_map(|a| a.as_str().map(str::to_owned)).collect();
        if has != wanted {
            complaints.push(format!("service {key} should lead to {wanted:?} and leads to {has:?}"));
        }
    }
}

/// A server's watch caches hold what was committed.
fn caches(model: &Model, server: &Server, complaints: &mut Vec<String>) {
    let mut cached = BTreeMap::new();
    for kind in server.cache().kinds() {
        let listing = kind.list(&Default::default(), None, 0, None, || server.cache().revision());
        for entry in listing.into_iter().flat_map(|l| l.items) {
            cached.insert(entry.key.to_string(), entry.bytes.clone());
        }
    }
    // What is claimed of ranges is read from the store itself: no kind is served from there.
    for (key, object) in model.objects.iter().filter(|(key, _)| !key.starts_with("/registry/ranges/")) {
        let found = cached.remove(key).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let found = found.map(|mut found| {
            object::remove(&mut found, &["metadata", "resourceVersion"]);
            found
        });
        if found.as_ref() != Some(object) {
            complaints.push(format!("the watch cache has another state of {key}"));
        }
    }
    complaints.extend(cached.keys().map(|key| format!("the watch cache still has {key}")));
}

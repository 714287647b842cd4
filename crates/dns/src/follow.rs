//! Follows the API server and keeps the tables of the cluster's names.

use std::net::IpAddr;
use std::sync::Arc;

use kybern_api::Object;
use kybern_api::core::v1::{Namespace, Pod, Service};
use kybern_api::discovery::v1::EndpointSlice;
use kybern_apimachinery::object::key_of;
use kybern_client::{Change, Changes, Client, Informer, ListOptions, Store, Subscription};

use crate::zone::{Cluster, endpoints, service_kind};

const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
const BY_SERVICE: &str = "service";

/// Keeps `cluster` for ever.
pub(crate) async fn follow(client: Client, cluster: Arc<Cluster>, with_pods: bool, pod_names: bool) {
    let services: Store<Service> = Informer::new(client.clone(), ListOptions::default()).spawn();
    let slices: Store<EndpointSlice> = Informer::new(client.clone(), ListOptions::default())
        .index(BY_SERVICE, |s| service_of(s).into_iter().collect())
        .spawn();
    let namespaces: Store<Namespace> = Informer::new(client.clone(), ListOptions::default()).spawn();
    let pods: Option<Store<Pod>> = with_pods.then(|| Informer::new(client, ListOptions::default()).spawn());

    let (mut services, mut slices, mut namespaces) = (services.subscribe(), slices.subscribe(), namespaces.subscribe());
    let mut pods = pods.map(|pods| pods.subscribe());
    let mut waiting = 3 + usize::from(with_pods);
    loop {
        // The first delivery of each is its whole store.
        let first = tokio::select! {
            changes = services.changed() => apply_services(&cluster, &services, changes),
            changes = slices.changed() => apply_slices(&cluster, &slices, changes, pod_names),
            changes = namespaces.changed() => apply_namespaces(&cluster, &namespaces, changes),
            changes = changed(&mut pods) => apply_pods(&cluster, pods.as_ref(), changes),
        };
        if first && waiting > 0 {
            waiting -= 1;
            if waiting == 0 {
                cluster.set_synced();
                tracing::info!("plugin/kubernetes: the cluster's services are known");
            }
        }
    }
}

async fn changed<K: Object>(subscription: &mut Option<Subscription<K>>) -> Changes<K> {
    match subscription {
        Some(subscription) => subscription.changed().await,
        None => std::future::pending().await,
    }
}

/// `namespace/service` of a slice.
fn service_of(slice: &EndpointSlice) -> Option<String> {
    let name = slice.metadata.labels.as_ref()?.get(LABEL_SERVICE_NAME)?;
    Some(key_of(slice.metadata.namespace.as_deref().unwrap_or(""), name))
}

/// The changes, or all objects as new ones; whether it was the latter.
fn unfold<K: Object>(changes: Changes<K>, store: &Store<K>) -> (Vec<Change<K>>, bool) {
    match changes {
        Changes::Batch(changes) => (changes, false),
        Changes::Resync => {
            (store.list().into_iter().map(|object| Change { old: None, new: Some(object) }).collect(), true)
        }
    }
}

fn apply_services(cluster: &Cluster, services: &Subscription<Service>, changes: Changes<Service>) -> bool {
    let (changes, all) = unfold(changes, services.store());
    if all {
        // Removals may have gone unseen.
        let known: Vec<Box<str>> = cluster.read().services.keys().cloned().collect();
        for key in known.iter().filter(|key| services.store().get(key).is_none()) {
            cluster.set_service(key, None);
        }
    }
    for change in changes {
        let kind = change.new.as_deref().and_then(service_kind);
        cluster.set_service(&change.object().key(), kind);
    }
    all
}

fn apply_slices(
    cluster: &Cluster,
    slices: &Subscription<EndpointSlice>,
    changes: Changes<EndpointSlice>,
    pod_names: bool,
) -> bool {
    let store = slices.store();
    let (changes, all) = unfold(changes, store);
    let mut touched: Vec<String> = changes
        .iter()
        .flat_map(|change| [&change.old, &change.new])
        .flatten()
        .filter_map(|slice| service_of(slice))
        .collect();
    if all {
        touched.extend(cluster.read().endpoints.keys().map(|key| key.to_string()));
    }
    touched.sort_unstable();
    touched.dedup();
    for service in touched {
        let of_service = store.by_index(BY_SERVICE, &service);
        cluster.set_endpoints(&service, endpoints(of_service.iter().map(|slice| &**slice), pod_names));
    }
    all
}

fn apply_namespaces(cluster: &Cluster, namespaces: &Subscription<Namespace>, changes: Changes<Namespace>) -> bool {
    let (changes, all) = unfold(changes, namespaces.store());
    if all {
        let known: Vec<Box<str>> = cluster.read().namespaces.iter().cloned().collect();
        for name in known.iter().filter(|name| namespaces.store().get(name).is_none()) {
            cluster.set_namespace(name, false);
        }
    }
    for change in changes {
        cluster.set_namespace(change.object().name(), change.new.is_some());
    }
    all
}

fn apply_pods(cluster: &Cluster, pods: Option<&Subscription<Pod>>, changes: Changes<Pod>) -> bool {
    let Some(pods) = pods else { return false };
    let (changes, all) = unfold(changes, pods.store());
    if all {
        let known: Vec<(Box<str>, IpAddr)> = cluster.read().pods.iter().cloned().collect();
        for (namespace, ip) in known {
            cluster.set_pod(&namespace, ip, false);
        }
    }
    for change in changes {
        if let Some(ip) = change.old.as_deref().and_then(pod_ip) {
            cluster.set_pod(change.object().namespace(), ip, false);
        }
        if let Some(ip) = change.new.as_deref().and_then(pod_ip) {
            cluster.set_pod(change.object().namespace(), ip, true);
        }
    }
    all
}

/// The address of a pod that has one of its own and still runs.
fn pod_ip(pod: &Pod) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if is_over { None } else { status.pod_ip.as_deref()?.parse().ok() }
}

//! `root-ca-certificate-publisher`: every active namespace has a ConfigMap `kube-root-ca.crt` with the cluster's CA, from
//! which pods' projected volumes take it.

use std::collections::BTreeMap;

use kybern_api::Object;
use kybern_api::core::v1::ConfigMap;
use kybern_api::meta::v1::ObjectMeta;

use crate::controller::{Context, Controller, Op, Plan};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints \
such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
clusters.";

pub struct RootCaPublisher {
    /// PEM.
    pub ca: String,
}

impl Controller for RootCaPublisher {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }

    fn account(&self) -> &'static str {
        "root-ca-cert-publisher"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.namespaces);
        watches.on(&snapshot.root_ca_maps, |change, _| vec![change.object().namespace().to_owned()]);
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        if snapshot.namespaces.get(key).is_none_or(|namespace| namespace.is_deleting()) {
            return Plan::idle();
        }
        let data = BTreeMap::from([(KEY.to_owned(), self.ca.clone())]);
        match snapshot.root_ca_maps.get_in(key, NAME) {
            Some(map) if map.data.as_ref() == Some(&data) => Plan::idle(),
            Some(map) => Plan::of(vec![Op::update(&ConfigMap { data: Some(data), ..(*map).clone() })]),
            None => {
                let annotations = BTreeMap::from([("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned())]);
                let metadata = ObjectMeta {
                    name: Some(NAME.into()),
                    namespace: Some(key.into()),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                };
                Plan::of(vec![Op::create(&ConfigMap { metadata, data: Some(data), ..ConfigMap::default() })])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, created, namespace, updated};

    #[test]
    fn the_bundle_is_published_and_kept() {
        let world = World::new();
        let controller = RootCaPublisher { ca: "PEM".into() };
        world.writers.namespaces.upsert(namespace("work"));
        let mut map: ConfigMap = created(&world.reconcile(&controller, "work")).remove(0);
        assert_eq!(map.data.as_ref().unwrap()["ca.crt"], "PEM");
        world.writers.root_ca_maps.upsert(map.clone());
        assert!(world.reconcile(&controller, "work").ops.is_empty());
        map.data.as_mut().unwrap().insert("extra".into(), "x".into());
        world.writers.root_ca_maps.upsert(map);
        let map: ConfigMap = updated(&world.reconcile(&controller, "work")).remove(0);
        assert_eq!(map.data.unwrap().into_keys().collect::<Vec<_>>(), ["ca.crt"]);
    }
}

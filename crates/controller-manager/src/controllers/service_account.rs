//! `serviceaccount`: every active namespace has a ServiceAccount `default`.

use kybern_api::Object;
use kybern_api::core::v1::ServiceAccount;
use kybern_api::meta::v1::ObjectMeta;

use crate::controller::{Context, Controller, Op, Plan};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

const NAME: &str = "default";

pub struct ServiceAccountController;

impl Controller for ServiceAccountController {
    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    fn account(&self) -> &'static str {
        "service-account-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.namespaces);
        watches.on(&snapshot.service_accounts, |change, _| {
            let account = change.object();
            Some(account.namespace().to_owned()).filter(|_| account.name() == NAME).into_iter().collect()
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        let active = snapshot.namespaces.get(key).is_some_and(|namespace| !namespace.is_deleting());
        if !active || snapshot.service_accounts.get_in(key, NAME).is_some() {
            return Plan::idle();
        }
        let metadata = ObjectMeta { name: Some(NAME.into()), namespace: Some(key.into()), ..ObjectMeta::default() };
        Plan::of(vec![Op::create(&ServiceAccount { metadata, ..ServiceAccount::default() })])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, created, namespace};

    #[test]
    fn an_active_namespace_gets_its_account_once() {
        let world = World::new();
        world.writers.namespaces.upsert(namespace("work"));
        let mut leaving = namespace("leaving");
        leaving.metadata.deletion_timestamp = Some(kybern_api::meta::v1::Time(crate::testing::now()));
        world.writers.namespaces.upsert(leaving);
        let plan = world.reconcile(&ServiceAccountController, "work");
        let account: ServiceAccount = created(&plan).remove(0);
        assert_eq!(account.key(), "work/default");
        world.writers.service_accounts.upsert(account);
        for key in ["work", "leaving", "unknown"] {
            assert!(world.reconcile(&ServiceAccountController, key).ops.is_empty(), "{key}");
        }
    }
}

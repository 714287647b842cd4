//! `tokencleaner`: bootstrap tokens go when they end (`pkg/controller/bootstrap`).

use kybern_api::Object;

use crate::bootstrap_tokens::{self, End, NAMESPACE};
use crate::controller::{Context, Controller, Op, Plan};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

pub struct TokenCleaner;

impl Controller for TokenCleaner {
    fn name(&self) -> &'static str {
        "token-cleaner-controller"
    }

    fn account(&self) -> &'static str {
        "token-cleaner"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.bootstrap_tokens);
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(secret) = snapshot.bootstrap_tokens.get(key) else { return Plan::idle() };
        let end = bootstrap_tokens::end(&secret);
        if secret.namespace() != NAMESPACE || secret.is_deleting() {
            return Plan::idle();
        }
        if end.is_over(context.now) {
            return Plan::of(vec![Op::delete(&*secret)]);
        }
        let mut plan = Plan::idle();
        if let End::At(end) = end {
            plan.requeue_at(end, context.now);
        }
        plan
    }
}

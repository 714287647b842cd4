//! `bootstrapsigner`: the ConfigMap `cluster-info` carries a signature of each bootstrap token that may sign, so that who
//! holds the token can believe what anyone may read (`pkg/controller/bootstrap`).

use std::collections::BTreeMap;

use kybern_api::core::v1::ConfigMap;
use kybern_auth::token::detached_signature;

use crate::bootstrap_tokens::{self, End, NAMESPACE};
use crate::controller::{Context, Controller, Op, Plan};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

const KEY: &str = "kube-public/cluster-info";
const INFO: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

pub struct BootstrapSigner;

impl Controller for BootstrapSigner {
    fn name(&self) -> &'static str {
        "bootstrap-signer-controller"
    }

    fn account(&self) -> &'static str {
        "bootstrap-signer"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.on(&snapshot.cluster_infos, |_, _| vec![KEY.to_owned()]);
        watches.on(&snapshot.bootstrap_tokens, |_, _| vec![KEY.to_owned()]);
    }

    fn reconcile(&self, _: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(map) = snapshot.cluster_infos.get(KEY) else { return Plan::idle() };
        let Some(info) = map.data.as_ref().and_then(|data| data.get(INFO)) else { return Plan::idle() };
        let mut plan = Plan::idle();
        let mut data: BTreeMap<String, String> = map.data.clone().unwrap_or_default();
        data.retain(|key, _| !key.starts_with(SIGNATURE));
        for secret in snapshot.bootstrap_tokens.list_in(NAMESPACE) {
            let Some((id, value)) = bootstrap_tokens::for_signing(&secret, context.now) else { continue };
            data.insert(format!("{SIGNATURE}{id}"), detached_signature(info, id, value));
            if let End::At(end) = bootstrap_tokens::end(&secret) {
                plan.requeue_at(end, context.now);
            }
        }
        if map.data.as_ref() != Some(&data) {
            plan.push(Op::update(&ConfigMap { data: Some(data), ..(*map).clone() }));
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use kybern_api::ByteString;
    use kybern_api::core::v1::Secret;
    use kybern_api::meta::v1::ObjectMeta;

    use super::*;
    use crate::controllers::token_cleaner::TokenCleaner;
    use crate::testing::{World, deleted, meta, updated};

    fn token(id: &str, changes: &[(&str, &str)]) -> Secret {
        let mut data: BTreeMap<String, ByteString> = BTreeMap::new();
        let usual = [("token-id", id), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];
        for (key, value) in usual.iter().chain(changes) {
            data.insert((*key).to_owned(), ByteString(value.as_bytes().to_vec()));
        }
        let name = format!("bootstrap-token-{id}");
        let metadata = ObjectMeta { namespace: Some(NAMESPACE.into()), ..meta(&name) };
        Secret { metadata, data: Some(data), ..Secret::default() }
    }

    fn signed(tokens: &[Secret], before: &[&str]) -> Option<Vec<String>> {
        let world = World::new();
        let mut data: BTreeMap<String, String> =
            before.iter().map(|id| (format!("{SIGNATURE}{id}"), "x".to_owned())).collect();
        data.insert(INFO.into(), "the cluster".into());
        let metadata = ObjectMeta { namespace: Some("kube-public".into()), ..meta("cluster-info") };
        world.writers.cluster_infos.upsert(ConfigMap { metadata, data: Some(data), ..ConfigMap::default() });
        tokens.iter().for_each(|token| world.writers.bootstrap_tokens.upsert(token.clone()));
        let plan = world.reconcile(&BootstrapSigner, KEY);
        let data = updated::<ConfigMap>(&plan).pop()?.data.unwrap();
        assert_eq!(data[INFO], "the cluster");
        Some(data.into_keys().filter_map(|k| k.strip_prefix(SIGNATURE).map(str::to_owned)).collect())
    }

    #[test]
    fn each_token_that_may_signs() {
        let ids = |list: &[&str]| Some(list.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
        assert_eq!(signed(&[token("abcdef", &[]), token("012345", &[])], &[]), ids(&["012345", "abcdef"]));
        assert_eq!(signed(&[token("abcdef", &[])], &["gone00"]), ids(&["abcdef"]));
        assert_eq!(signed(&[], &["gone00"]), ids(&[]));
        for bad in [
            ("usage-bootstrap-signing", "false"),
            ("token-id", "other0"),
            ("token-secret", ""),
            ("expiration", "2001-01-01T00:00:00Z"),
            ("expiration", "tomorrow"),
        ] {
            assert_eq!(signed(&[token("abcdef", &[bad])], &[]), None, "{bad:?}");
        }
    }

    #[test]
    fn a_token_goes_when_it_ends() {
        let check = |expiration: &str, goes: bool| {
            let world = World::new();
            world.writers.bootstrap_tokens.upsert(token("abcdef", &[("expiration", expiration)]));
            let plan = world.reconcile(&TokenCleaner, "kube-system/bootstrap-token-abcdef");
            assert_eq!(deleted(&plan).len(), usize::from(goes), "{expiration}");
            assert_eq!(plan.requeue_after.is_some(), !goes && !expiration.is_empty(), "{expiration}");
        };
        check("", false);
        check("2999-01-01T00:00:00Z", false);
        check("2001-01-01T00:00:00Z", true);
        check("tomorrow", true);
    }
}

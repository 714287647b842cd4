//! Tokens in Secrets: how they come, and how they go.

use kybern_api::core::v1::ConfigMap;
use kybern_apimachinery::{Value, json};

use super::*;
use crate::controllers::legacy_token_cleaner::LegacyTokenCleaner;
use crate::testing::{World, deleted, updated};

fn read<K: Object>(object: &Value) -> K {
    K::from_json(object.to_string().as_bytes()).unwrap()
}

fn controller() -> ServiceAccountTokens {
    let pair = rcgen::KeyPair::generate().unwrap();
    let key = SigningKey::from_pem(&pair.serialize_pem()).unwrap();
    ServiceAccountTokens { key: Arc::new(ArcSwap::from_pointee(key)), ca: Some("PEM".to_owned()) }
}

fn account(secrets: &[&str]) -> ServiceAccount {
    let secrets: Vec<Value> = secrets.iter().map(|name| json!({"name": name})).collect();
    read(
        &json!({"metadata": {"name": "sa", "namespace": "ns", "uid": "u1", "resourceVersion": "5"}, "secrets": secrets}),
    )
}

fn secret(uid: &str) -> Secret {
    read(&json!({
        "metadata": {
            "name": "t", "namespace": "ns", "uid": "u2", "resourceVersion": "7",
            "creationTimestamp": "2020-01-01T00:00:00Z",
            "annotations": {ACCOUNT: "sa", ACCOUNT_UID: uid},
        },
        "type": "kubernetes.io/service-account-token",
    }))
}

#[test]
fn a_secret_gets_the_token_of_its_account() {
    let (world, controller) = (World::new(), controller());
    world.writers.service_accounts.upsert(account(&[]));
    world.writers.token_secrets.upsert(secret(""));
    let filled: Secret = updated(&world.reconcile(&controller, "ns/t")).remove(0);
    let data = filled.data.clone().unwrap();
    assert_eq!((data["ca.crt"].0.as_slice(), data["namespace"].0.as_slice()), (&b"PEM"[..], &b"ns"[..]));
    assert_eq!(annotation(&filled, ACCOUNT_UID), "u1");
    assert_eq!(data["token"].0.split(|b| *b == b'.').count(), 3);
    world.writers.token_secrets.upsert(filled.clone());
    assert!(world.reconcile(&controller, "ns/t").ops.is_empty(), "nothing is missing");
    // Another authority; the token stays.
    let controller = ServiceAccountTokens { ca: Some("OTHER".to_owned()), ..controller };
    let mended: Secret = updated(&world.reconcile(&controller, "ns/t")).remove(0);
    let mended = mended.data.unwrap();
    assert_eq!((&mended["ca.crt"].0, &mended["token"]), (&b"OTHER".to_vec(), &data["token"]));
}

#[test]
fn tokens_go_with_their_account_and_accounts_forget_them() {
    let (world, controller) = (World::new(), controller());
    // Nobody is named.
    let mut stray = secret("");
    stray.metadata.annotations = None;
    world.writers.token_secrets.upsert(stray);
    assert!(world.reconcile(&controller, "ns/t").ops.is_empty());
    // The account is not there, or another of its name is.
    for there in [None, Some(account(&[]))] {
        there.into_iter().for_each(|account| world.writers.service_accounts.upsert(account));
        world.writers.token_secrets.upsert(secret("gone"));
        let plan = world.reconcile(&controller, "ns/t");
        assert!(matches!(&plan.ops[0], Op::RequireAbsent { name, uid, .. } if name == "sa" && uid == "gone"));
        assert_eq!(deleted(&plan).len(), 1);
    }
    world.writers.service_accounts.upsert(account(&["t", "other"]));
    world.writers.token_secrets.remove("ns/t", "9");
    let plan = world.reconcile(&controller, "ns/t");
    let forgot: ServiceAccount = updated(&plan).remove(0);
    assert_eq!(forgot.secrets.unwrap().len(), 1);
    assert!(world.reconcile(&controller, "ns/none").ops.is_empty());
}

#[test]
fn what_is_unused_is_marked_and_then_deleted() {
    let cleaner = LegacyTokenCleaner { period: std::time::Duration::from_secs(30 * 86_400) };
    // It is 2027-01-15 in tests.
    let check = |labels: Value, created: &str, since: &str, listed: bool, pod: Value| {
        let world = World::new();
        world.writers.service_accounts.upsert(account(if listed { &["t"] } else { &[] }));
        let tracking = "kube-apiserver-legacy-service-account-token-tracking";
        world.writers.token_tracking.upsert(read::<ConfigMap>(
            &json!({"metadata": {"name": tracking, "namespace": "kube-system"}, "data": {"since": since}}),
        ));
        let mut object: Value = serde_json::from_slice(&secret("u1").to_json()).unwrap();
        object["metadata"]["labels"] = labels;
        object["metadata"]["creationTimestamp"] = created.into();
        world.writers.token_secrets.upsert(read(&object));
        if !pod.is_null() {
            world.writers.pods.upsert(read(&json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": pod})));
        }
        let plan = world.reconcile(&cleaner, "ns/t");
        assert!(plan.requeue_after.is_some());
        match plan.ops.as_slice() {
            [] => "nothing".to_owned(),
            [Op::Patch { patch, .. }] => format!("{patch:?}"),
            [Op::Delete { options, .. }] => format!("delete at {}", options.resource_version.clone().unwrap()),
            other => panic!("{other:?}"),
        }
    };
    let (old, since) = ("2020-01-01T00:00:00Z", "2026-01-01");
    let plain = |labels: Value| check(labels, old, since, true, Value::Null);
    let marked = plain(json!({}));
    assert!(marked.contains("invalid-since") && marked.contains("2027-01-15") && marked.contains("u2"), "{marked}");
    assert_eq!(plain(json!({INVALID: "nonsense"})), marked);
    assert_eq!(plain(json!({INVALID: "2027-01-01"})), "nothing", "it is not long ago");
    assert_eq!(plain(json!({INVALID: "2026-12-01"})), "delete at 7");
    assert_eq!(plain(json!({USED: "2026-12-16", INVALID: "2026-12-01"})), "nothing", "it was used");
    assert_eq!(plain(json!({USED: "2026-12-15", INVALID: "2026-12-01"})), "delete at 7");
    assert_eq!(plain(json!({USED: "nonsense", INVALID: "2026-12-01"})), "nothing");
    let gone = json!({INVALID: "2026-12-01"});
    assert_eq!(check(gone.clone(), "2027-01-01T00:00:00Z", since, true, Value::Null), "nothing", "it is new");
    assert_eq!(check(gone.clone(), old, "2027-01-01", true, Value::Null), "nothing", "its use was not noted for long");
    assert_eq!(check(gone.clone(), old, "garbage", true, Value::Null), "nothing");
    assert_eq!(check(gone.clone(), old, since, false, Value::Null), "nothing", "somebody made it by hand");
    for pod in [
        json!({"containers": [{"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "t", "key": "k"}}}]}]}),
        json!({"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "t"}}]}),
        json!({"containers": [], "volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "t"}}]}}]}),
        json!({"containers": [], "imagePullSecrets": [{"name": "t"}]}),
    ] {
        assert_eq!(check(gone.clone(), old, since, true, pod.clone()), "nothing", "{pod}");
    }
    let other = json!({"containers": [], "volumes": [{"name": "v", "configMap": {"name": "t"}}]});
    assert_eq!(check(gone, old, since, true, other), "delete at 7");
}

const USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID: &str = "kubernetes.io/legacy-token-invalid-since";

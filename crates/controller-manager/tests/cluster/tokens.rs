//! Tokens of service accounts in Secrets: made, used, marked, taken back.

use kybern_api::core::v1::{Secret, ServiceAccount};
use kybern_apimachinery::{Value, json};
use kybern_client::{DeleteOptions, Patch};

use crate::fixture::Cluster;

fn secret(name: &str, account: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {
            "name": name, "namespace": "default", "annotations": {"kubernetes.io/service-account.name": account},
        },
    })
}

async fn token(cluster: &Cluster, name: &str) -> Option<String> {
    let data = cluster.get::<Secret>("default", name).await?.data?;
    assert_eq!(data.get("namespace").map(|b| b.0.as_slice()), Some(&b"default"[..]));
    String::from_utf8(data.get("token")?.0.clone()).ok()
}

async fn label(cluster: &Cluster, name: &str, key: &str) -> Option<String> {
    cluster.get::<Secret>("default", name).await?.metadata.labels?.get(key).cloned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secrets_token_is_its_accounts_as_long_as_both_are_there() {
    let cluster = Cluster::start().await;
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": "default"}});
    cluster.create(account, "serviceaccounts").await;
    cluster.create(secret("robot-token", "robot"), "secrets").await;
    let there = async |c: &Cluster| {
        let secret = c.get::<Secret>("default", "robot-token").await;
        secret.is_some_and(|secret| secret.data.is_some_and(|data| data.contains_key("token")))
    };
    cluster.until("a token", there).await;
    let robot = token(&cluster, "robot-token").await.unwrap();
    assert_eq!(cluster.bearer(&robot).await, Ok(("system:serviceaccount:default:robot".to_owned(), Vec::new())));
    let day = label(&cluster, "robot-token", "kubernetes.io/legacy-token-last-used").await.unwrap();
    assert!(day.starts_with("20") && day.len() == 10, "{day}");

    // Its account lists it, as those that were made for it: its bearer is warned.
    let list = json!({"secrets": [{"name": "robot-token"}]});
    cluster.client.patch::<ServiceAccount>("default", "robot", &Patch::Merge(list), None).await.unwrap();
    let (_, warnings) = cluster.bearer(&robot).await.unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains("auto-generated secret-based tokens."), "{warnings:?}");

    // Forged, of another cluster, or not what the Secret holds.
    let parts: Vec<&str> = robot.split('.').collect();
    for bad in [format!("{}.{}.{}", parts[0], parts[1], "AAAA"), format!("{}.{}.", parts[0], parts[1])] {
        assert_eq!(cluster.bearer(&bad).await, Err(401));
    }
    let mark =
        |day: Value| Patch::Merge(json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": day}}}));
    cluster.client.patch::<Secret>("default", "robot-token", &mark("2026-01-01".into()), None).await.unwrap();
    assert_eq!(cluster.bearer(&robot).await, Err(401), "it is marked");
    cluster.client.patch::<Secret>("default", "robot-token", &mark(Value::Null), None).await.unwrap();
    assert!(cluster.bearer(&robot).await.is_ok());

    // A Secret that goes is forgotten by its account, and its token is nobody's.
    cluster.client.delete::<Secret>("default", "robot-token", &DeleteOptions::default()).await.unwrap();
    assert_eq!(cluster.bearer(&robot).await, Err(401));
    let forgotten = async |c: &Cluster| {
        let account = c.get::<ServiceAccount>("default", "robot").await.unwrap();
        account.secrets.unwrap_or_default().is_empty()
    };
    cluster.until("the account to forget the Secret", forgotten).await;

    // Another, which goes with the account; one of nobody's goes at once.
    cluster.create(secret("robot-token", "robot"), "secrets").await;
    cluster.until("a token", there).await;
    let next = token(&cluster, "robot-token").await.unwrap();
    assert_eq!(cluster.bearer(&robot).await.is_ok(), robot == next, "the old token is not what the Secret holds");
    assert!(cluster.bearer(&next).await.is_ok());
    cluster.client.delete::<ServiceAccount>("default", "robot", &DeleteOptions::default()).await.unwrap();
    assert_eq!(cluster.bearer(&next).await, Err(401));
    cluster.create(secret("stray", "nobody"), "secrets").await;
    for name in ["robot-token", "stray"] {
        cluster
            .until("a token without an account to go", async |c| c.get::<Secret>("default", name).await.is_none())
            .await;
    }
}

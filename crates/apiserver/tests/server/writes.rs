//! Create and update.

use kybern_apimachinery::{Value, json, object};

use crate::fixture::*;

#[tokio::test]
async fn a_created_object_has_its_metadata() {
    let client = Client::new().await;
    let answer = client.post(CONFIG_MAPS, config_map("a", "1")).await;
    assert_eq!(answer.code, 201);
    let created = answer.ok();
    assert_eq!(object::namespace(&created), "ns");
    assert_eq!(object::uid(&created).len(), 36);
    assert!(revision(&created) > 1);
    assert!(!object::str_at(&created, &["metadata", "creationTimestamp"]).is_empty());
    assert_eq!(created["metadata"]["managedFields"][0]["operation"], "Update");
    assert_eq!(client.get(&format!("{CONFIG_MAPS}/a")).await.ok(), created);
}

#[tokio::test]
async fn names() {
    let client = Client::new().await;
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let again = client.post(CONFIG_MAPS, config_map("a", "1")).await;
    assert_eq!(again.status(), (409, "configmaps \"a\" already exists".to_owned()));
    let generated = client.post(CONFIG_MAPS, json!({"metadata": {"generateName": "x-"}})).await.ok();
    assert!(object::name(&generated).starts_with("x-") && object::name(&generated).len() == 7);
    let (code, text) = client.post(CONFIG_MAPS, json!({"metadata": {}})).await.status();
    assert_eq!(code, 422);
    assert_eq!(text, "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required");
    let other = json!({"metadata": {"name": "b", "namespace": "other"}});
    let text = "the namespace of the provided object does not match the namespace sent on the request";
    assert_eq!(client.post(CONFIG_MAPS, other).await.status(), (400, text.to_owned()));
}

#[tokio::test]
async fn bodies_that_are_refused() {
    let client = Client::new().await;
    let wrong = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    assert_eq!(client.post(CONFIG_MAPS, wrong).await.code, 400);
    let wrong = json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let (code, text) = client.post(CONFIG_MAPS, wrong).await.status();
    assert!(code == 400 && text.contains("no kind \"ConfigMap\" is registered for version \"v2\""), "{text}");
    let wrong = json!({"apiVersion": 7, "kind": "ConfigMap", "metadata": {"name": "a"}});
    let (code, text) = client.post(CONFIG_MAPS, wrong).await.status();
    assert!(code == 400 && text.contains("couldn't get version/kind"), "{text}");
    assert_eq!(client.send("POST", CONFIG_MAPS, &[], "{nonsense").await.code, 400);
    assert_eq!(client.send("POST", CONFIG_MAPS, &[("content-type", "text/csv")], "a,b").await.code, 415);
    assert_eq!(client.send("POST", CONFIG_MAPS, &[], vec![b' '; 4 << 20]).await.code, 413);
}

#[tokio::test]
async fn field_validation() {
    let client = Client::new().await;
    let mut object = config_map("a", "1");
    object["nonsense"] = 1.into();
    let warned = client.post(CONFIG_MAPS, object.clone()).await;
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"nonsense\\\"\"");
    assert!(warned.ok().get("nonsense").is_none());
    let (code, text) = client.post(&format!("{CONFIG_MAPS}?fieldValidation=Strict"), object).await.status();
    assert_eq!(code, 400);
    assert_eq!(
        text,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"nonsense\""
    );
}

#[tokio::test]
async fn defaults_and_generation() {
    let client = Client::new().await;
    let created = client.post(DEPLOYMENTS, deployment("d")).await.ok();
    assert_eq!(created["spec"]["replicas"], 1);
    assert_eq!(created["metadata"]["generation"], 1);
    let path = format!("{DEPLOYMENTS}/d");
    let mut changed = created.clone();
    changed["metadata"]["labels"] = json!({"x": "y"});
    changed["status"] = json!({"replicas": 7});
    let changed = client.put(&path, changed).await.ok();
    assert_eq!(changed["metadata"]["generation"], 1, "metadata does not count");
    assert!(changed["status"].get("replicas").is_none(), "status is not written with the rest");
    let mut changed = changed.clone();
    changed["spec"]["replicas"] = 3.into();
    assert_eq!(client.put(&path, changed).await.ok()["metadata"]["generation"], 2);
}

#[tokio::test]
async fn the_status_subresource_writes_status_only() {
    let client = Client::new().await;
    let mut object = client.post(DEPLOYMENTS, deployment("d")).await.ok();
    object["status"] = json!({"replicas": 2});
    object["spec"]["replicas"] = 9.into();
    let updated = client.put(&format!("{DEPLOYMENTS}/d/status"), object).await.ok();
    assert_eq!((&updated["status"]["replicas"], &updated["spec"]["replicas"]), (&json!(2), &json!(1)));
    assert_eq!(updated["metadata"]["generation"], 1);
}

#[tokio::test]
async fn optimistic_locking() {
    let client = Client::new().await;
    let first = client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let mut second = first.clone();
    second["data"]["k"] = "2".into();
    let second = client.put(&path, second).await.ok();
    assert!(revision(&second) > revision(&first));
    let mut stale = first.clone();
    stale["data"]["k"] = "3".into();
    let text = "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
changes to the latest version and try again";
    assert_eq!(client.put(&path, stale).await.status(), (409, text.to_owned()));
    let unconditional = client.put(&path, config_map("a", "4")).await.ok();
    assert_eq!(unconditional["data"]["k"], "4");
    assert_eq!(object::uid(&unconditional), object::uid(&first));
    let mut other = unconditional.clone();
    other["metadata"]["uid"] = "other".into();
    assert_eq!(client.put(&path, other).await.code, 409);
    assert_eq!(client.put(&format!("{CONFIG_MAPS}/none"), config_map("none", "")).await.code, 404);
    assert_eq!(client.put(&path, config_map("b", "")).await.code, 400);
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_none() {
    let client = Client::new().await;
    let first = client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let again = client.put(&format!("{CONFIG_MAPS}/a"), first.clone()).await.ok();
    assert_eq!(first, again);
}

#[tokio::test]
async fn dry_run_writes_nothing() {
    let client = Client::new().await;
    let answer = client.post(&format!("{CONFIG_MAPS}?dryRun=All"), config_map("a", "1")).await;
    assert_eq!(answer.code, 201);
    assert_eq!(object::name(&answer.ok()), "a");
    assert_eq!(client.get(&format!("{CONFIG_MAPS}/a")).await.code, 404);
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    client.put(&format!("{CONFIG_MAPS}/a?dryRun=All"), config_map("a", "2")).await.ok();
    client.delete(&format!("{CONFIG_MAPS}/a?dryRun=All")).await.ok();
    assert_eq!(client.get(&format!("{CONFIG_MAPS}/a")).await.ok()["data"]["k"], "1");
}

#[tokio::test]
async fn scale() {
    let client = Client::new().await;
    client.post(DEPLOYMENTS, deployment("d")).await.ok();
    let path = format!("{DEPLOYMENTS}/d/scale");
    let mut scale = client.get(&path).await.ok();
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)));
    assert_eq!(scale["status"]["selector"], "app=d");
    scale["spec"]["replicas"] = 5.into();
    assert_eq!(client.put(&path, scale.clone()).await.ok()["spec"]["replicas"], 5);
    assert_eq!(client.put(&path, scale).await.code, 409, "the scale is of an older revision");
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = client.send("GET", &path, &accept, "").await.ok();
    assert_eq!(table["rows"][0]["cells"], json!(["d", "Scale"]));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let patch = json!({"spec": {"replicas": 2}});
    client.patch(&path, "application/merge-patch+json", patch).await.ok();
    let parent = client.get(&format!("{DEPLOYMENTS}/d")).await.ok();
    assert_eq!((&parent["spec"]["replicas"], &parent["metadata"]["generation"]), (&json!(2), &json!(3)));
    let bad = client.patch(&path, "application/merge-patch+json", json!({"spec": {"replicas": -1}})).await;
    assert_eq!(bad.code, 422);
    // Who applies a scale meets whoever set the replicas before.
    let applied =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 7}});
    let apply = "application/apply-patch+yaml";
    let conflict = client.patch(&format!("{path}?fieldManager=other"), apply, applied.clone()).await;
    assert_eq!(conflict.code, 409);
    let forced = client.patch(&format!("{path}?fieldManager=other&force=true"), apply, applied).await.ok();
    assert_eq!(forced["spec"]["replicas"], 7);
}

#[tokio::test]
async fn yaml_and_protobuf_bodies() {
    let client = Client::new().await;
    let yaml = "metadata:\n  name: y1\ndata:\n  k: \"1\"\n";
    let created = client.send("POST", CONFIG_MAPS, &[("content-type", "application/yaml")], yaml).await.ok();
    assert_eq!(created["data"]["k"], "1");
    let kind = kybern_schema::builtin().kind(&kybern_apimachinery::Gvk::new("", "v1", "ConfigMap")).unwrap();
    let body = kybern_schema::proto::encode(&kind, &config_map("p", "2")).unwrap();
    let media = "application/vnd.kubernetes.protobuf";
    let answer = client.send("POST", CONFIG_MAPS, &[("content-type", media), ("accept", media)], body).await;
    assert_eq!((answer.code.as_u16(), &answer.headers["content-type"]), (201, &media.parse().unwrap()));
    let decoded: Value = kybern_schema::proto::decode(&kind, &answer.bytes).unwrap();
    assert_eq!(decoded["data"]["k"], "2");
}

#[tokio::test]
async fn options_and_places_that_are_refused() {
    let client = Client::new().await;
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let cause = |answer: &Answer| {
        let causes = answer.json()["details"]["causes"].clone();
        let only = causes.as_array().filter(|c| c.len() == 1).unwrap_or_else(|| panic!("{causes}"))[0].clone();
        (only["reason"].as_str().unwrap().to_owned(), only["field"].as_str().unwrap().to_owned())
    };
    for (method, query, text, reason, field) in [
        (
            "POST",
            "dryRun=Some",
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
            "FieldValueNotSupported",
            "dryRun",
        ),
        (
            "POST",
            "fieldValidation=x",
            "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"x\": supported values: \"Ignore\", \"Strict\", \"Warn\"",
            "FieldValueNotSupported",
            "fieldValidation",
        ),
        (
            "GET",
            "sendInitialEvents=true",
            "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
            "FieldValueForbidden",
            "sendInitialEvents",
        ),
        (
            "DELETE",
            "propagationPolicy=x",
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"x\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
            "FieldValueNotSupported",
            "propagationPolicy",
        ),
    ] {
        let answer = client.send(method, &format!("{CONFIG_MAPS}?{query}"), &[], "").await;
        assert_eq!(answer.status(), (422, text.to_owned()));
        assert_eq!(cause(&answer), (reason.to_owned(), field.to_owned()));
    }
    let one = format!("{CONFIG_MAPS}/a");
    let (code, text) = client.send("DELETE", &one, &[], "{bad").await.status();
    assert!(code == 400 && text.starts_with("the body of a delete request must be DeleteOptions: "), "{code} {text}");
    let (code, text) = client.send("DELETE", &one, &[], r#"{"gracePeriodSeconds":"x"}"#).await.status();
    assert!(code == 400 && text.contains("gracePeriodSeconds"), "{code} {text}");
    for (method, path) in [("PUT", CONFIG_MAPS), ("PATCH", CONFIG_MAPS), ("POST", one.as_str())] {
        let media = [("content-type", "application/merge-patch+json")];
        assert_eq!(client.send(method, path, &media, config_map("a", "1").to_string()).await.code, 405, "{method}");
    }
    let elsewhere = json!({"metadata": {"namespace": "other"}});
    let (code, text) = client.patch(&one, "application/merge-patch+json", elsewhere).await.status();
    assert_eq!(
        (code, text.as_str()),
        (400, "the namespace of the provided object does not match the namespace sent on the request")
    );
    let wrong = json!({"data": {"k": 1}});
    let (_, text) = client.patch(&one, "application/strategic-merge-patch+json", wrong.clone()).await.status();
    assert!(text.starts_with(r#" "" is invalid: patch: Invalid value: "map[data:map[k:1]]": "#), "{text}");
    let (_, text) = client.patch(&one, "application/merge-patch+json", wrong).await.status();
    assert!(text.starts_with(r#" "" is invalid: patch: Invalid value: "{\"apiVersion\":\"v1\""#), "{text}");
}

#[tokio::test]
async fn equal_owner_references_are_stored_once() {
    let client = Client::new().await;
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"});
    let mut other = owner.clone();
    other["name"] = "q".into();
    let mut object = config_map("a", "1");
    object["metadata"]["ownerReferences"] = json!([owner, owner, other]);
    let created = client.post(CONFIG_MAPS, object.clone()).await;
    assert!(created.headers["warning"].to_str().unwrap().contains("duplicate UID(s) observed: u"));
    assert_eq!(created.ok()["metadata"]["ownerReferences"], json!([owner, other]));
    let changed = client.put(&format!("{CONFIG_MAPS}/a"), object).await;
    assert_eq!(changed.ok()["metadata"]["ownerReferences"], json!([owner, other]));
}

#[tokio::test]
async fn refusals_carry_warnings() {
    let client = Client::new().await;
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let mut again = config_map("a", "1");
    again["nonsense"] = 1.into();
    let refused = client.post(CONFIG_MAPS, again).await;
    assert_eq!(refused.code, 409);
    assert_eq!(refused.headers["warning"], "299 - \"unknown field \\\"nonsense\\\"\"");
}

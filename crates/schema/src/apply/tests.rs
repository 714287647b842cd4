//! Flows as users run them, with the managed fields that upstream writes.

use kybern_apimachinery::{Map, json};
use proptest::prelude::*;

use super::*;
use crate::fixture;

/// A server with one object: what the API server does around this module.
struct Server {
    kind: KindType,
    object: Option<Value>,
    second: u32,
}

impl Server {
    fn new(kind: &str) -> Self {
        Self { kind: fixture::kind(kind), object: None, second: 0 }
    }

    fn run<T>(&mut self, manager: &str, subresource: &str, act: impl FnOnce(&Context<'_>, Option<&Value>) -> T) -> T {
        self.second += 1;
        let now = format!("2026-01-01T00:00:{:02}Z", self.second);
        let reset = match subresource {
            "status" => FieldSet::of_fields(&[&["spec"], &["metadata", "labels"]]),
            _ => FieldSet::of_fields(&[&["status"]]),
        };
        let ctx =
            Context { kind: &self.kind, versions: Versions::SameShape, manager, subresource, reset: &reset, now: &now };
        act(&ctx, self.object.as_ref())
    }

    fn write(&mut self, manager: &str, subresource: &str, mut new: Value) -> &Value {
        self.run(manager, subresource, |ctx, old| {
            track_update(ctx, old, &mut new);
            if let Some(old) = old {
                keep_times(old, &mut new);
            }
        });
        self.object.insert(new)
    }

    /// Writes the live object with one value changed.
    fn set(&mut self, manager: &str, path: &[&str], value: Value) -> &Value {
        let mut new = self.object.clone().unwrap();
        object::set(&mut new, path, value);
        self.write(manager, "", new)
    }

    fn apply(&mut self, manager: &str, config: Value, force: bool) -> Result<&Value, ApplyError> {
        let mut new = self.run(manager, "", |ctx, live| apply_patch(ctx, live, &config, force))?;
        if let Some(old) = &self.object {
            keep_times(old, &mut new);
        }
        Ok(self.object.insert(new))
    }

    /// `manager operation[/subresource] second: fieldsV1` of each entry; `-` where it has no time.
    fn owners(&self) -> Vec<(String, Value)> {
        let entries =
            self.object.as_ref().unwrap()["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let owner = |e: &Value| {
            let text = |field: &str| e[field].as_str().unwrap_or("").to_owned();
            let subresource =
                if e["subresource"].is_null() { String::new() } else { format!("/{}", text("subresource")) };
            format!(
                "{} {}{subresource} {}",
                text("manager"),
                text("operation"),
                text("time").get(17..19).unwrap_or("-")
            )
        };
        entries.iter().map(|e| (owner(e), e["fieldsV1"].clone())).collect()
    }

    fn check_owners(&self, expect: &[(&str, Value)]) {
        let expect: Vec<(String, Value)> =
            expect.iter().map(|(owner, set)| ((*owner).to_owned(), set.clone())).collect();
        assert_eq!(self.owners(), expect);
    }
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "nginx", "image": "nginx:1.14", "ports": [{"containerPort": 80}]}]},
            },
        },
    })
}

/// As the server stores it.
fn defaulted(mut object: Value) -> Value {
    object::set(
        &mut object,
        &["spec", "strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
    );
    object["spec"]["template"]["spec"]["restartPolicy"] = "Always".into();
    let container = &mut object["spec"]["template"]["spec"]["containers"][0];
    container["imagePullPolicy"] = "IfNotPresent".into();
    container["resources"] = json!({});
    container["ports"][0]["protocol"] = "TCP".into();
    object
}

/// `kubectl create deployment web --image=nginx:1.14 --port=80`, and what the controllers then do.
#[test]
fn create_scale_and_status() {
    let mut server = Server::new("Deployment");
    server.write("kubectl-create", "", defaulted(deployment()));
    let created = json!({
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}}, "f:type": {}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"nginx\"}": {
                        ".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {}, "f:resources": {},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                    }},
                    "f:restartPolicy": {},
                },
            },
        },
    });
    server.check_owners(&[("kubectl-create Update 01", created.clone())]);

    let mut with_status = server.object.clone().unwrap();
    with_status["status"] = json!({"replicas": 1});
    server.write("kube-controller-manager", "status", with_status);
    server.set("kubectl", &["spec", "replicas"], json!(3));
    let mut rest = created;
    object::remove(&mut rest, &["f:spec", "f:replicas"]);
    server.check_owners(&[
        ("kubectl-create Update 01", rest),
        ("kube-controller-manager Update/status 02", json!({"f:status": {"f:replicas": {}}})),
        ("kubectl Update 03", json!({"f:spec": {"f:replicas": {}}})),
    ]);

    // Writing the same again changes nothing, not even the time.
    let before = server.object.clone();
    server.set("kubectl", &["spec", "replicas"], json!(3));
    assert_eq!(server.object, before);
}

/// `kubectl apply --server-side` twice, then with a change; only then does anything change.
#[test]
fn apply_owns_what_it_sets() {
    let mut server = Server::new("Deployment");
    server.apply("kubectl", deployment(), false).unwrap();
    let set = json!({
        "f:metadata": {"f:labels": {"f:app": {}}},
        "f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:template": {
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"nginx\"}": {
                    ".": {}, "f:image": {}, "f:name": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                }}},
            },
        },
    });
    server.check_owners(&[("kubectl Apply 01", set.clone())]);
    // The server's defaults belong to nobody, and do not get in the way.
    server.object = server.object.map(defaulted);
    let before = server.object.clone();
    server.apply("kubectl", deployment(), false).unwrap();
    assert_eq!(server.object, before);

    let mut changed = deployment();
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "nginx:1.15".into();
    server.apply("kubectl", changed, false).unwrap();
    server.check_owners(&[("kubectl Apply 03", set)]);
    let mut expect = before.unwrap();
    expect["spec"]["template"]["spec"]["containers"][0]["image"] = "nginx:1.15".into();
    expect["metadata"]["managedFields"] = server.object.as_ref().unwrap()["metadata"]["managedFields"].clone();
    assert_eq!(server.object, Some(expect));
}

#[test]
fn conflicts_are_upstreams() {
    let mut server = Server::new("Deployment");
    server.write("kubectl-create", "", defaulted(deployment()));
    let mut config =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 5}});
    let error = server.apply("me", config.clone(), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-create\" using apps/v1: .spec.replicas"
    );
    let error = ApiError::from(error);
    assert_eq!((error.code(), error.reason()), (409, Reason::Conflict));
    assert_eq!(
        error.details().unwrap()["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"kubectl-create\" using apps/v1", "field": ".spec.replicas"}])
    );

    config["metadata"]["labels"] = json!({"app": "other"});
    server
        .apply("a", json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"labels": {"x": "1"}}}), false)
        .unwrap();
    config["metadata"]["labels"]["x"] = "2".into();
    assert_eq!(
        server.apply("me", config.clone(), false).unwrap_err().to_string(),
        "Apply failed with 3 conflicts: conflicts with \"a\":\n- .metadata.labels.x\nconflicts with \"kubectl-create\" using apps/v1:\n- .metadata.labels.app\n- .spec.replicas",
    );

    let before = server.owners();
    let object = server.apply("me", config, true).unwrap();
    assert_eq!(object["spec"]["replicas"], 5);
    let mine = json!({"f:metadata": {"f:labels": {"f:app": {}, "f:x": {}}}, "f:spec": {"f:replicas": {}}});
    let mut theirs = before[1].1.clone();
    object::remove(&mut theirs, &["f:spec", "f:replicas"]);
    theirs["f:metadata"] = json!({"f:labels": {}});
    server.check_owners(&[("me Apply 05", mine), ("kubectl-create Update 01", theirs)]);
}

/// Setting what is there already makes a second owner; what one of two stops setting stays, what the last one stops
/// setting goes.
#[test]
fn abandoned_fields_go_with_their_last_owner() {
    let config = |tags: Value, size: Option<i64>| {
        let mut config = json!({"apiVersion": "example.com/v1", "kind": "Widget", "spec": {"tags": tags, "parts": [{"name": "p", "size": 1}]}});
        if let Some(size) = size {
            config["spec"]["size"] = size.into();
        }
        config
    };
    let mut server = Server::new("Widget");
    server.apply("a", config(json!(["x", "y"]), Some(1)), false).unwrap();
    server.apply("b", config(json!(["y"]), Some(1)), false).unwrap();
    assert_eq!(server.owners().len(), 2);
    let object = server.apply("a", config(json!(["z"]), None), false).unwrap();
    assert_eq!(object["spec"], json!({"tags": ["y", "z"], "size": 1, "parts": [{"name": "p", "size": 1}]}));
    let object = server.apply("b", config(json!([]), None), false).unwrap();
    assert_eq!(object["spec"], json!({"tags": ["z"], "parts": [{"name": "p", "size": 1}]}));

    // An item goes with the last owner of the item itself, whoever owns fields in it.
    server.set("other", &["spec", "parts"], json!([{"name": "p", "size": 1, "tags": ["t"]}]));
    server
        .apply("b", json!({"apiVersion": "example.com/v1", "kind": "Widget", "spec": {"tags": ["z"]}}), false)
        .unwrap();
    let object = server
        .apply("a", json!({"apiVersion": "example.com/v1", "kind": "Widget", "spec": {"tags": ["z"]}}), false)
        .unwrap();
    assert_eq!(object["spec"], json!({"tags": ["z"]}));
}

/// An autoscaler takes over `replicas`: it is dropped from the configuration and stays.
#[test]
fn handing_over_a_field() {
    let mut server = Server::new("Deployment");
    server.apply("kubectl", deployment(), false).unwrap();
    server.set("autoscaler", &["spec", "replicas"], json!(7));
    assert_eq!(
        server.apply("kubectl", deployment(), false).unwrap_err().to_string(),
        "Apply failed with 1 conflict: conflict with \"autoscaler\" using apps/v1: .spec.replicas"
    );
    let mut config = deployment();
    object::remove(&mut config, &["spec", "replicas"]);
    assert_eq!(server.apply("kubectl", config, false).unwrap()["spec"]["replicas"], 7);
}

/// The first apply to an object without managed fields; and kubectl's from client-side to server-side apply.
#[test]
fn first_applies() {
    let mut server = Server::new("ConfigMap");
    server.object =
        Some(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}}));
    server.set("someone", &["data", "b"], json!("2"));
    server.check_owners(&[]);
    let config =
        |a: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": a}});
    server.apply("me", config("1"), false).unwrap();
    server.check_owners(&[
        // It changed nothing.
        ("me Apply -", json!({"f:data": {"f:a": {}}})),
        ("before-first-apply Update 02", json!({"f:data": {".": {}, "f:a": {}, "f:b": {}}})),
    ]);

    let mut server = Server::new("ConfigMap");
    let mut created = config("1");
    let last = created.to_string();
    created["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    server.write("kubectl-client-side-apply", "", created);
    assert!(server.apply("other", config("2"), false).is_err());
    let object = server.apply("kubectl", config("2"), false).unwrap();
    assert_eq!(object["data"]["a"], "2");
    let annotation = object::annotation(object, "kubectl.kubernetes.io/last-applied-configuration").unwrap();
    assert_eq!(annotation, format!("{}\n", config("2")));
    // What was changed since is no longer kubectl's.
    server.set("someone", &["data", "a"], json!("3"));
    assert!(server.apply("kubectl", config("4"), false).is_err());
}

#[test]
fn clients_may_write_managed_fields() {
    let mut server = Server::new("ConfigMap");
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}});
    server.write("one", "", object);
    let entries = server.object.as_ref().unwrap()["metadata"]["managedFields"].clone();
    // Dropped or malformed by a client that does not know them: kept.
    for sent in [json!([]), Value::Null, json!([{"manager": "x"}])] {
        server.set("two", &["metadata", "managedFields"], sent);
        assert_eq!(server.object.as_ref().unwrap()["metadata"]["managedFields"], entries);
    }
    // Renamed, as kubectl does when it migrates.
    let mut renamed = entries.clone();
    renamed[0]["manager"] = "kubectl".into();
    renamed[0]["operation"] = "Apply".into();
    server.set("two", &["metadata", "managedFields"], renamed.clone());
    assert_eq!(server.object.as_ref().unwrap()["metadata"]["managedFields"], renamed);
    // Not through a subresource.
    let mut new = server.object.clone().unwrap();
    new["metadata"]["managedFields"] = entries;
    server.write("two", "status", new);
    assert_eq!(server.object.as_ref().unwrap()["metadata"]["managedFields"], renamed);
    // One empty entry gives up all.
    server.set("two", &["metadata", "managedFields"], json!([{}]));
    server.set("two", &["data", "b"], json!("2"));
    server.check_owners(&[]);
}

#[test]
fn malformed_configurations() {
    let mut server = Server::new("Pod");
    let mut check = |config: Value, code: u16, expect: &str| {
        let error = server.apply("me", config, false).unwrap_err();
        assert_eq!(error.to_string(), expect);
        assert_eq!(ApiError::from(error).code(), code);
    };
    check(
        json!({"apiVersion": "v2", "kind": "Pod"}),
        400,
        "Incorrect version specified in apply patch. Specified patch version: v2, expected: v1",
    );
    check(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"managedFields": []}}),
        400,
        "metadata.managedFields must be nil",
    );
    check(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": {"foo": 1}}),
        500,
        "failed to create typed patch object (default/p; /v1, Kind=Pod): .spec.foo: field not declared in schema",
    );
}

/// Fields set in another version count through conversion; those of a version that is gone are forgotten.
#[test]
fn other_versions() {
    let kind = fixture::kind("ConfigMap");
    let owned = |version: &str| json!({"manager": "old", "operation": "Update", "apiVersion": version, "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:upper": {}}}});
    let convert = |object: &Value, version: &str| {
        let (from, to) = match version {
            "v1" => ("upper", "a"),
            "v2" => ("a", "upper"),
            _ => return None,
        };
        let mut object = object.clone();
        if let Some(value) = object::remove(&mut object, &["data", from]) {
            object::set(&mut object, &["data", to], value);
        }
        let mut kind = fixture::kind("ConfigMap");
        kind.gvk.version = version.to_owned();
        Some((kind, object))
    };
    let reset = FieldSet::default();
    let ctx = Context {
        kind: &kind,
        versions: Versions::Convert(&convert),
        manager: "me",
        subresource: "",
        reset: &reset,
        now: "2026-01-01T00:00:00Z",
    };
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "2"}});
    let live = |version: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"managedFields": [owned(version)]}, "data": {"a": "1"}});
    assert_eq!(
        apply_patch(&ctx, Some(&live("v2")), &config, false).unwrap_err().to_string(),
        "Apply failed with 1 conflict: conflict with \"old\" using v2: .data.upper"
    );
    let new = apply_patch(&ctx, Some(&live("v3")), &config, false).unwrap();
    assert_eq!(ManagedFields::of(&new).unwrap().0.len(), 1);
}

#[test]
fn user_agents() {
    for (agent, expect) in
        [("kubectl/v1.35.0 (linux/amd64)", "kubectl"), ("curl", "curl"), ("", ""), ("a\u{7}b/1", "ab")]
    {
        assert_eq!(manager_of_user_agent(agent), expect);
    }
}

fn config() -> impl Strategy<Value = Value> {
    let part = ("[a-c]", proptest::option::of(0..3i64)).prop_map(|(name, size)| match size {
        Some(size) => json!({"name": name, "size": size}),
        None => json!({"name": name}),
    });
    let parts = proptest::collection::btree_map("[a-c]", part, 1..3).prop_map(|parts| {
        let named = parts.into_iter().map(|(name, mut part)| {
            part["name"] = name.into();
            part
        });
        Value::Array(named.collect())
    });
    let tags = proptest::collection::btree_set("[x-z]", 1..3).prop_map(|tags| json!(tags));
    let labels = proptest::collection::btree_map("[k-m]", "[12]", 1..3).prop_map(|labels| json!(labels));
    let fields = (
        proptest::option::of(parts),
        proptest::option::of(tags),
        proptest::option::of(0..3i64),
        proptest::option::of(labels),
    );
    fields.prop_map(|(parts, tags, size, labels)| {
        let spec: Map<String, Value> = [("parts", parts), ("tags", tags), ("size", size.map(Value::from))]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect();
        let mut config =
            json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec});
        if let Some(labels) = labels {
            config["metadata"]["labels"] = labels;
        }
        config
    })
}

proptest! {
    /// Applying twice is applying once; applied values are there; and what two appliers agree on is never a conflict.
    #[test]
    fn apply_is_idempotent(first in config(), second in config(), other in config()) {
        let mut server = Server::new("Widget");
        server.apply("other", other.clone(), false).unwrap();
        server.apply("me", first, true).unwrap();
        server.apply("me", second.clone(), true).unwrap();
        let once = server.object.clone();
        server.apply("me", second.clone(), false).unwrap();
        prop_assert_eq!(&server.object, &once);
        let merged = merge::merge(&server.kind, once.as_ref().unwrap(), &second);
        prop_assert_eq!(Some(merged), once);
    }

    /// What one applier set alone is gone when it applies nothing.
    #[test]
    fn applying_nothing_leaves_nothing(first in config(), second in config()) {
        let nothing = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}});
        let mut server = Server::new("Widget");
        for config in [first, second, nothing] {
            server.apply("me", config, false).unwrap();
        }
        let object = server.object.unwrap();
        prop_assert!(object["spec"].as_object().is_none_or(Map::is_empty), "{}", object);
        prop_assert!(object["metadata"].get("managedFields").is_none());
    }
}

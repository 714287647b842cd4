//! Creating, changing and deleting objects in all the ways kubectl has.

use kybern_e2e::{Cluster, eventually};

use crate::manifests::shell_pod;

const TWO_DOCUMENTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata:
  name: settings
data:
  color: blue
  size: large
---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector: {app: web}
  ports:
  - port: 80
";

#[test]
fn deleting_a_namespace_takes_its_content() {
    let kubectl = Cluster::get().kubectl();
    kubectl.run(&["create", "ns", "e2e-gone"]).ok();
    let inside = kubectl.within("e2e-gone");
    inside.run(&["create", "configmap", "c"]).ok();
    inside.run(&["create", "deployment", "web", "--image=nginx:1.14"]).ok();
    inside.wait("deployment/web", "condition=Available");
    kubectl.run(&["delete", "ns", "e2e-gone", "--timeout=60s"]).ok();
    assert!(kubectl.run(&["get", "ns", "e2e-gone"]).fails().contains("namespaces \"e2e-gone\" not found"));
    kubectl.run(&["create", "ns", "e2e-gone"]).ok();
    assert_eq!(inside.run(&["get", "pods,deployments", "-o", "name"]).ok(), "");
    kubectl.run(&["delete", "ns", "e2e-gone", "--wait=false"]).ok();
}

#[test]
fn run_with_its_flags() {
    let namespace = Cluster::get().namespace("run");
    let overrides = r#"{"spec":{"terminationGracePeriodSeconds":3}}"#;
    namespace
        .run(&[
            "run",
            "nginx",
            "--image=nginx:1.14",
            "--port=80",
            "--labels=app=web,tier=front",
            "--env=COLOR=blue",
            "--restart=Never",
            "--overrides",
            overrides,
        ])
        .ok();
    namespace.wait("pod/nginx", "condition=Ready");
    let pod = namespace.get(&["pod", "nginx"]);
    assert_eq!(pod["metadata"]["labels"]["tier"], "front");
    assert_eq!(pod["spec"]["containers"][0]["env"][0]["value"], "blue");
    assert_eq!(pod["spec"]["restartPolicy"], "Never");
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 3);
    assert_eq!(pod["spec"]["containers"][0]["ports"][0]["containerPort"], 80);
    let output = namespace.run(&[
        "run",
        "once",
        "--image=busybox",
        "--restart=Never",
        "--command",
        "--",
        "sh",
        "-c",
        "echo hi; exit 3",
    ]);
    output.ok();
    namespace.wait("pod/once", "jsonpath={.status.phase}=Failed");
    assert_eq!(namespace.run(&["logs", "once"]).ok(), "hi\n");
    let code = namespace.jsonpath(&["pod", "once"], "{.status.containerStatuses[0].state.terminated.exitCode}");
    assert_eq!(code, "3");
    namespace.run(&["delete", "pod", "nginx", "--timeout=60s"]).ok();
    assert!(namespace.run(&["get", "pod", "nginx"]).fails().contains("pods \"nginx\" not found"));
}

#[test]
fn labels_and_annotations() {
    let namespace = Cluster::get().namespace("label");
    namespace.run(&["create", "configmap", "c"]).ok();
    namespace.run(&["label", "configmap", "c", "color=blue"]).ok();
    assert!(namespace.run(&["label", "configmap", "c", "color=red"]).fails().contains("already has a value"));
    namespace.run(&["label", "configmap", "c", "color=red", "--overwrite"]).ok();
    assert_eq!(namespace.jsonpath(&["configmap", "c"], "{.metadata.labels.color}"), "red");
    namespace.run(&["label", "configmap", "c", "color-"]).ok();
    assert_eq!(namespace.jsonpath(&["configmap", "c"], "{.metadata.labels}"), "");
    namespace.run(&["annotate", "configmap", "c", "note=some text"]).ok();
    assert_eq!(namespace.jsonpath(&["configmap", "c"], "{.metadata.annotations.note}"), "some text");
    namespace.run(&["annotate", "configmap", "c", "note-"]).ok();
    assert_eq!(namespace.jsonpath(&["configmap", "c"], "{.metadata.annotations}"), "");
    assert!(namespace.run(&["label", "configmap", "c", "bad key=x"]).fails().contains("bad key"));
}

#[test]
fn patches_of_three_kinds() {
    let namespace = Cluster::get().namespace("patch");
    namespace.apply(TWO_DOCUMENTS);
    let patch =
        |kind: &str, object: &str, body: &str| namespace.run(&["patch", object, "--type", kind, "-p", body]).ok();
    patch("merge", "configmap/settings", r#"{"data":{"color":"red","size":null}}"#);
    assert_eq!(namespace.jsonpath(&["configmap", "settings"], "{.data}"), r#"{"color":"red"}"#);
    patch(
        "json",
        "configmap/settings",
        r#"[{"op":"test","path":"/data/color","value":"red"},{"op":"add","path":"/data/new","value":"1"}]"#,
    );
    assert_eq!(namespace.jsonpath(&["configmap", "settings"], "{.data.new}"), "1");
    patch("strategic", "service/web", r#"{"spec":{"ports":[{"port":443,"name":"https"},{"port":80,"name":"http"}]}}"#);
    assert_eq!(namespace.jsonpath(&["service", "web"], "{.spec.ports[*].port}"), "443 80");
    let refused = namespace.run(&[
        "patch",
        "configmap/settings",
        "--type",
        "json",
        "-p",
        r#"[{"op":"test","path":"/data/color","value":"x"}]"#,
    ]);
    assert!(!refused.fails().is_empty());
}

#[test]
fn apply_changes_only_what_changed() {
    for kubectl in Cluster::get().newest_and_oldest() {
        let namespace = kubectl.namespace("apply");
        let output = namespace.apply(TWO_DOCUMENTS);
        assert_eq!(output, "configmap/settings created\nservice/web created\n");
        // Somebody else's field survives, what left the manifest goes.
        namespace.run(&["label", "configmap", "settings", "owner=someone"]).ok();
        let changed = TWO_DOCUMENTS.replace("blue", "green").replace("  size: large\n", "");
        let output = namespace.apply(&changed);
        assert_eq!(output, "configmap/settings configured\nservice/web unchanged\n");
        assert_eq!(namespace.jsonpath(&["configmap", "settings"], "{.data}"), r#"{"color":"green"}"#);
        assert_eq!(namespace.jsonpath(&["configmap", "settings"], "{.metadata.labels.owner}"), "someone");
        let differences = namespace.run_with_input(&["diff", "-f", "-"], &changed.replace("green", "black"));
        let differences = differences.exits_with(1).stdout;
        assert!(differences.contains("-  color: green") && differences.contains("+  color: black"), "{differences}");
        namespace.run_with_input(&["diff", "-f", "-"], &changed).exits_with(0);
        namespace.run_with_input(&["delete", "-f", "-"], &changed).ok();
        assert!(namespace.run(&["get", "service", "web"]).fails().contains("not found"));
    }
}

#[test]
fn server_side_apply_knows_who_owns_what() {
    let namespace = Cluster::get().namespace("ssa");
    let apply = |manager: &str, manifest: &str, more: &[&str]| {
        let manager = format!("--field-manager={manager}");
        namespace.run_with_input(&[&["apply", "--server-side", "-f", "-", &manager], more].concat(), manifest)
    };
    let mine = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: '1', b: '2'}}";
    assert_eq!(apply("me", mine, &[]).ok(), "configmap/c serverside-applied\n");
    let version = namespace.jsonpath(&["configmap", "c"], "{.metadata.resourceVersion}");
    apply("me", mine, &[]).ok();
    assert_eq!(
        namespace.jsonpath(&["configmap", "c"], "{.metadata.resourceVersion}"),
        version,
        "a repeated apply wrote"
    );
    let theirs = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {b: '3', c: '4'}}";
    let conflict = apply("you", theirs, &[]).fails();
    assert!(conflict.contains("conflict with \"me\"") && conflict.contains(".data.b"), "{conflict}");
    apply("you", theirs, &["--force-conflicts"]).ok();
    assert_eq!(namespace.jsonpath(&["configmap", "c"], "{.data}"), r#"{"a":"1","b":"3","c":"4"}"#);
    // What I no longer list and nobody else owns goes; what you own stays.
    apply("me", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {}}", &[]).ok();
    assert_eq!(namespace.jsonpath(&["configmap", "c"], "{.data}"), r#"{"b":"3","c":"4"}"#);
    let managed = namespace.run(&["get", "configmap", "c", "--show-managed-fields", "-o", "json"]).ok();
    let managed: serde_json::Value = serde_json::from_str(&managed).unwrap();
    let entries = managed["metadata"]["managedFields"].as_array().unwrap();
    let you = entries.iter().find(|e| e["manager"] == "you").expect("an entry for you");
    assert_eq!(you["operation"], "Apply");
    assert_eq!(you["fieldsV1"]["f:data"], serde_json::json!({"f:b": {}, "f:c": {}}));
}

#[test]
fn edit_replace_and_dry_runs() {
    let namespace = Cluster::get().namespace("edit");
    namespace.run(&["create", "configmap", "c", "--from-literal=color=blue"]).ok();
    let mut command = namespace.command(&["edit", "configmap", "c"]);
    let output = command.env("KUBE_EDITOR", "sed -i s/blue/red/").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(namespace.jsonpath(&["configmap", "c"], "{.data.color}"), "red");
    let live = namespace.run(&["get", "configmap", "c", "-o", "yaml"]).ok();
    namespace.run_with_input(&["replace", "-f", "-"], &live.replace("red", "green")).ok();
    let stale = namespace.run_with_input(&["replace", "-f", "-"], &live).fails();
    assert!(stale.contains("the object has been modified"), "{stale}");
    let pod = shell_pod("p", "sleep 1");
    namespace.run_with_input(&["apply", "--dry-run=client", "-f", "-"], &pod).ok();
    let seen = namespace.run_with_input(&["apply", "--dry-run=server", "-f", "-", "-o", "json"], &pod).ok();
    let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen["spec"]["dnsPolicy"], "ClusterFirst", "the server's defaults show");
    assert!(namespace.run(&["get", "pod", "p"]).fails().contains("not found"));
}

#[test]
fn bad_manifests_are_refused_with_the_cause() {
    let namespace = Cluster::get().namespace("bad");
    let check = |manifest: &str, expect: &[&str]| {
        let error = namespace.run_with_input(&["create", "--validate=false", "-f", "-"], manifest).fails();
        for part in expect {
            assert!(error.contains(part), "no {part:?} in {error}");
        }
    };
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: UPPER}\nspec: {containers: [{name: a, image: b}]}",
        &["UPPER", "RFC 1123"],
    );
    check(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}",
        &["spec.containers: Required value"],
    );
    check("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: 3}", &["cannot unmarshal"]);
    check(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {selector: {matchLabels: {x: one}}, template: {metadata: {labels: {x: two}}, spec: {containers: [{name: a, image: b}]}}}",
        &["`selector` does not match template `labels`"],
    );
    check("apiVersion: v1\nkind: Nonsense\nmetadata: {name: a}", &["Nonsense"]);
    let unknown =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {nonsense: 1, containers: [{name: a, image: b}]}";
    let error = namespace.run_with_input(&["create", "--validate=strict", "-f", "-"], unknown).fails();
    assert!(error.contains("unknown field \"spec.nonsense\""), "{error}");
    assert_eq!(namespace.run(&["get", "pods,deployments", "-o", "name"]).ok(), "", "something half-made stayed");
}

#[test]
fn owners_take_their_dependents_along() {
    let namespace = Cluster::get().namespace("gc");
    namespace.run(&["create", "deployment", "web", "--image=nginx:1.14", "--replicas=2"]).ok();
    namespace.wait("deployment/web", "condition=Available");
    namespace.run(&["delete", "deployment", "web", "--cascade=orphan"]).ok();
    let kept = namespace.run(&["get", "rs", "-o", "name"]).ok();
    assert_eq!(kept.lines().count(), 1, "orphaned ReplicaSet stays: {kept}");
    namespace.run(&["delete", kept.trim(), "--cascade=foreground", "--timeout=60s"]).ok();
    eventually("pods are gone", || {
        let left = namespace.run(&["get", "pods", "-o", "name"]).ok();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

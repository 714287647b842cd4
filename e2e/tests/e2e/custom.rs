//! A custom resource's life, as a person leads it with kubectl: defined and used a moment later, explained, listed, scaled,
//! changed in every way there is, and gone with its definition.

use kybern_e2e::{Cluster, Kubectl, eventually};

const NAME: &str = "crontabs.e2e.kybern.example";

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.e2e.kybern.example}
spec:
  group: e2e.kybern.example
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ctab], categories: [e2e-things]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    selectableFields: [{jsonPath: .spec.image}]
    additionalPrinterColumns:
    - {name: Schedule, type: string, jsonPath: .spec.schedule, description: When it runs}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Image, type: string, jsonPath: .spec.image, priority: 1}
    schema:
      openAPIV3Schema:
        description: Runs something at times.
        type: object
        properties:
          spec:
            description: What is wanted.
            type: object
            required: [schedule]
            x-kubernetes-validations:
            - {rule: 'self.replicas <= 10', message: too many replicas}
            properties:
              schedule: {type: string, description: When it runs., pattern: '^[0-9*/ ]+$'}
              image: {type: string, default: none}
              replicas: {type: integer, minimum: 0, default: 1}
              ports:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, port: {type: integer, description: Where it listens.}}
          status:
            type: object
            properties: {replicas: {type: integer}, selector: {type: string}}
";

fn crontab(name: &str, more: &str) -> String {
    format!(
        "{{apiVersion: e2e.kybern.example/v1, kind: CronTab, metadata: {{name: {name}}}, spec: {{schedule: '* * 5'{more}}}}}"
    )
}

fn rows(kubectl: &Kubectl, arguments: &[&str]) -> Vec<Vec<String>> {
    let table = kubectl.run(&[&["get"], arguments].concat()).ok();
    table.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn a_definitions_life() {
    let kubectl = Cluster::get().kubectl();
    let namespace = Cluster::get().namespace("custom");
    // The definition and a first object of it, one command after the other, as installers do.
    assert_eq!(kubectl.apply(DEFINITION), format!("customresourcedefinition.apiextensions.k8s.io/{NAME} created\n"));
    kubectl.run(&["wait", &format!("crd/{NAME}"), "--for=condition=Established", "--timeout=10s"]).ok();
    assert_eq!(namespace.apply(&crontab("one", "")), "crontab.e2e.kybern.example/one created\n");
    documented(&kubectl);
    listed(&namespace);
    checked(&namespace);
    scaled(&namespace);
    changed(&namespace);
    applied(&namespace);
    removed(&kubectl, &namespace);
}

fn documented(kubectl: &Kubectl) {
    let explained = kubectl.run(&["explain", "crontab"]).ok();
    for part in ["GROUP:      e2e.kybern.example", "KIND:       CronTab", "Runs something at times."] {
        assert!(explained.contains(part), "no {part:?} in {explained}");
    }
    let explained = kubectl.run(&["explain", "ctab.spec.ports.port"]).ok();
    assert!(explained.contains("Where it listens.") && explained.contains("<integer>"), "{explained}");
    let listed = kubectl.run(&["api-resources", "--api-group=e2e.kybern.example", "-o", "wide"]).ok();
    for part in ["crontabs", "ctab", "e2e.kybern.example/v1", "CronTab", "e2e-things"] {
        assert!(listed.contains(part), "no {part:?} in {listed}");
    }
    assert!(kubectl.run(&["api-versions"]).ok().lines().any(|line| line == "e2e.kybern.example/v1"));
    let document = kubectl.run(&["get", "--raw", "/openapi/v2"]).ok();
    assert!(document.contains("\"example.kybern.e2e.v1.CronTab\""), "not in /openapi/v2");
}

fn listed(namespace: &Kubectl) {
    let table = rows(namespace, &["ctab"]);
    assert_eq!(table[0], ["NAME", "SCHEDULE", "REPLICAS"], "its own columns, and no age");
    assert_eq!(table[1], ["one", "*", "*", "5", "1"]);
    assert_eq!(rows(namespace, &["crontab", "-o", "wide"])[0].last().map(String::as_str), Some("IMAGE"));
    assert_eq!(namespace.run(&["get", "e2e-things", "-o", "name"]).ok(), "crontab.e2e.kybern.example/one\n");
    namespace.apply(&crontab("two", ", image: other"));
    let selected = namespace.run(&["get", "ctab", "--field-selector=spec.image=other", "-o", "name"]).ok();
    assert_eq!(selected, "crontab.e2e.kybern.example/two\n");
    let described = namespace.run(&["describe", "ctab", "one"]).ok();
    assert!(described.contains("Schedule:  * * 5"), "{described}");
}

fn checked(namespace: &Kubectl) {
    let refused = |object: &str, parts: &[&str]| {
        let error = namespace.run_with_input(&["create", "-f", "-"], object).fails();
        parts.iter().for_each(|part| assert!(error.contains(part), "no {part:?} in {error}"));
    };
    refused(&crontab("bad", ", replicas: 11"), &["too many replicas"]);
    refused(&crontab("bad", ", replicas: -1"), &["spec.replicas in body should be greater than or equal to 0"]);
    refused(&crontab("bad", ", nonsense: 1"), &["strict decoding error: unknown field \"spec.nonsense\""]);
    refused(&crontab("bad", "").replace("* * 5", "soon"), &["spec.schedule in body should match"]);
    let dry = namespace.run_with_input(&["create", "--dry-run=server", "-o", "yaml", "-f", "-"], &crontab("dry", ""));
    assert!(dry.ok().contains("image: none"), "the server's defaults show");
    assert!(namespace.run(&["get", "ctab", "dry"]).fails().contains("crontabs.e2e.kybern.example \"dry\" not found"));
}

fn scaled(namespace: &Kubectl) {
    namespace.run(&["scale", "ctab/one", "--replicas=3", "--current-replicas=1"]).ok();
    assert_eq!(namespace.jsonpath(&["ctab", "one"], "{.spec.replicas}/{.metadata.generation}"), "3/2");
    let status = r#"{"status":{"replicas":2,"selector":"app=one"},"spec":{"replicas":9}}"#;
    namespace.run(&["patch", "ctab", "one", "--subresource=status", "--type=merge", "-p", status]).ok();
    let seen = "{.spec.replicas}/{.status.replicas}/{.metadata.generation}";
    assert_eq!(namespace.jsonpath(&["ctab", "one"], seen), "3/2/2", "a status has no spec");
    let scale = namespace.run(&["get", "ctab", "one", "--subresource=scale", "-o", "jsonpath={.kind} {.status}"]).ok();
    assert_eq!(scale, r#"Scale {"replicas":2,"selector":"app=one"}"#);
    let scale = r#"{"spec":{"replicas":4}}"#;
    namespace.run(&["patch", "ctab", "one", "--subresource=scale", "--type=merge", "-p", scale]).ok();
    assert_eq!(namespace.jsonpath(&["ctab", "one"], "{.spec.replicas}"), "4");
}

fn changed(namespace: &Kubectl) {
    let edit = |arguments: &[&str], script: &str| {
        let mut command = namespace.command(&[&["edit", "ctab", "one"], arguments].concat());
        let output = command.env("KUBE_EDITOR", format!("sed -i {script}")).output().expect("kubectl starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    edit(&[], "s/none/edited/");
    edit(&["--subresource=status"], "s/app=one/app=two/");
    assert_eq!(namespace.jsonpath(&["ctab", "one"], "{.spec.image} {.status.selector}"), "edited app=two");
    let json = r#"[{"op":"replace","path":"/spec/schedule","value":"1 2 3"}]"#;
    namespace.run(&["patch", "ctab", "one", "--type=json", "-p", json]).ok();
    assert_eq!(namespace.jsonpath(&["ctab", "one"], "{.spec.schedule}"), "1 2 3");
    let strategic = namespace.run(&["patch", "ctab", "one", "-p", "{\"spec\":{\"schedule\":\"2\"}}"]).fails();
    assert!(strategic.contains("application/strategic-merge-patch+json"), "{strategic}");
    namespace.run(&["label", "ctab", "one", "color=blue"]).ok();
    let live = namespace.run(&["get", "ctab", "one", "-o", "yaml"]).ok();
    namespace.run_with_input(&["replace", "-f", "-"], &live.replace("1 2 3", "4 5 6")).ok();
    assert!(namespace.run_with_input(&["replace", "-f", "-"], &live).fails().contains("the object has been modified"));
    // kubectl apply, by what it noted: a field that left the manifest goes, and its default comes.
    namespace.apply(&crontab("two", ""));
    assert_eq!(namespace.jsonpath(&["ctab", "two"], "{.spec.image}"), "none");
}

fn applied(namespace: &Kubectl) {
    let apply = |manager: &str, ports: &str, more: &[&str]| {
        let manager = format!("--field-manager={manager}");
        let arguments = [&["apply", "--server-side", "-f", "-", &manager], more].concat();
        namespace.run_with_input(&arguments, &crontab("ssa", &format!(", ports: [{ports}]")))
    };
    apply("me", "{name: a, port: 1}", &[]).ok();
    apply("you", "{name: b, port: 2}", &[]).ok();
    let ports = || namespace.jsonpath(&["ctab", "ssa"], "{.spec.ports[*].name}");
    assert_eq!(ports(), "a b", "lists are merged by their keys");
    let conflict = apply("you", "{name: a, port: 3}", &[]).fails();
    assert!(conflict.contains("conflict with \"me\": .spec.ports[name=\"a\"].port"), "{conflict}");
    apply("you", "{name: a, port: 3}", &["--force-conflicts"]).ok();
    assert_eq!(ports(), "a", "what nobody lists any more is gone");
}

fn removed(kubectl: &Kubectl, namespace: &Kubectl) {
    // A definition that changes is served so at once: a column, and a version.
    let column = r#"[{"op":"add","path":"/spec/versions/0/additionalPrinterColumns/-","value":{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}}]"#;
    kubectl.run(&["patch", "crd", NAME, "--type=json", "-p", column]).ok();
    eventually("the new column", || match rows(namespace, &["ctab"])[0].last().map(String::as_str) {
        Some("AGE") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let held = r#"{"metadata":{"finalizers":["e2e.kybern.example/held"]}}"#;
    namespace.run(&["patch", "ctab", "two", "--type=merge", "-p", held]).ok();
    kubectl.run(&["delete", "crd", NAME, "--wait=false"]).ok();
    eventually("all but what is held", || match namespace.run(&["get", "ctab", "-o", "name"]).ok().as_str() {
        "crontab.e2e.kybern.example/two\n" => Ok(()),
        other => Err(other.to_owned()),
    });
    let refused = namespace.run_with_input(&["create", "-f", "-"], &crontab("late", "")).fails();
    assert!(refused.contains("create not allowed while custom resource definition is terminating"), "{refused}");
    let condition = "{.status.conditions[?(@.type==\"Terminating\")].status}";
    assert_eq!(kubectl.jsonpath(&["crd", NAME], condition), "True");
    namespace.run(&["patch", "ctab", "two", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]).ok();
    kubectl.run(&["wait", &format!("crd/{NAME}"), "--for=delete", "--timeout=60s"]).ok();
    assert!(kubectl.run(&["get", "--raw", "/apis/e2e.kybern.example/v1"]).fails().contains("NotFound"));
}

//! The fields by which `--field-selector` may choose, besides name and namespace, and what an unset one reads as.

use kybern_apiserver::resource::SelectableField;

/// The selectable fields of a kind.
pub(crate) fn selectable(group: &str, resource: &str) -> Vec<SelectableField> {
    let unset = |path: &str, unset: &str| SelectableField { unset: unset.to_owned(), ..SelectableField::at(path) };
    let read = |path: &str, json: &str| SelectableField { path: path.to_owned(), ..SelectableField::at(json) };
    let paths = |paths: &[&str]| paths.iter().map(|path| SelectableField::at(path)).collect::<Vec<_>>();
    match (group, resource) {
        ("", "pods") => {
            let mut fields = paths(&[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "status.phase",
                "status.podIP",
                // Upstream takes this name, and finds nothing under it.
                "status.podIPs",
                "status.nominatedNodeName",
            ]);
            fields[0].aliases.push("spec.host".to_owned());
            fields.push(unset("spec.hostNetwork", "false"));
            fields
        }
        ("", "events") => events(),
        ("", "nodes") => vec![unset("spec.unschedulable", "false")],
        ("", "namespaces") => paths(&["status.phase"]),
        ("", "secrets") => paths(&["type"]),
        ("", "services") => paths(&["spec.clusterIP", "spec.type"]),
        ("", "replicationcontrollers") => vec![unset("status.replicas", "0")],
        ("batch", "jobs") => {
            vec![SelectableField { unset: "0".to_owned(), ..read("status.successful", "status.succeeded") }]
        }
        ("certificates.k8s.io", "certificatesigningrequests" | "clustertrustbundles") => paths(&["spec.signerName"]),
        ("certificates.k8s.io", "podcertificaterequests") => {
            paths(&["spec.signerName", "spec.podName", "spec.nodeName"])
        }
        ("resource.k8s.io", "resourceslices") => paths(&["spec.nodeName", "spec.driver"]),
        _ => Vec::new(),
    }
}

/// Events of both groups, which name the same fields differently.
fn events() -> Vec<SelectableField> {
    const OBJECT: [&str; 7] = ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"];
    let object = |field: &&str| SelectableField {
        aliases: vec![format!("regarding.{field}")],
        ..SelectableField::at(&format!("involvedObject.{field}"))
    };
    let mut fields: Vec<SelectableField> = OBJECT.iter().map(object).collect();
    let controller = fields.len();
    fields.push(SelectableField {
        aliases: vec!["reportingController".to_owned()],
        ..SelectableField::at("reportingComponent")
    });
    fields.push(SelectableField {
        path: "source".to_owned(),
        instead: Some(controller),
        ..SelectableField::at("source.component")
    });
    fields.extend(["reason", "type"].map(SelectableField::at));
    fields
}

/// How a field that is not among them is refused, where that is not said as of most kinds.
pub(crate) fn refusal(group: &str, resource: &str) -> Option<fn(&str) -> String> {
    match (group, resource) {
        ("batch", "jobs") => Some(|path| format!("field label {path:?} not supported for Job")),
        ("resource.k8s.io", "resourceslices") => {
            Some(|path| format!("field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: {path}"))
        }
        _ => None,
    }
}

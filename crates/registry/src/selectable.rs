//! The fields by which `--field-selector` may choose, besides name and namespace, and what an unset one reads as.

/// Path and unset value of each field.
pub(crate) fn selectable(group: &str, resource: &str) -> Vec<(&'static str, &'static str)> {
    match (group, resource) {
        ("", "pods") => vec![
            ("spec.nodeName", ""),
            ("spec.restartPolicy", ""),
            ("spec.schedulerName", ""),
            ("spec.serviceAccountName", ""),
            ("spec.hostNetwork", "false"),
            ("status.phase", ""),
            ("status.podIP", ""),
            ("status.nominatedNodeName", ""),
        ],
        ("", "events") => vec![
            ("involvedObject.kind", ""),
            ("involvedObject.namespace", ""),
            ("involvedObject.name", ""),
            ("involvedObject.uid", ""),
            ("involvedObject.apiVersion", ""),
            ("involvedObject.resourceVersion", ""),
            ("involvedObject.fieldPath", ""),
            ("reason", ""),
            ("reportingComponent", ""),
            ("source", ""),
            ("type", ""),
        ],
        ("", "nodes") => vec![("spec.unschedulable", "false")],
        ("", "namespaces") => vec![("status.phase", "")],
        ("", "secrets") => vec![("type", "")],
        ("", "services") => vec![("spec.clusterIP", ""), ("spec.type", "")],
        ("", "replicationcontrollers") | ("apps", "replicasets") => vec![("status.replicas", "0")],
        ("batch", "jobs") => vec![("status.successful", "0")],
        ("certificates.k8s.io", "certificatesigningrequests") => vec![("spec.signerName", "")],
        ("certificates.k8s.io", "clustertrustbundles") => vec![("spec.signerName", "")],
        ("certificates.k8s.io", "podcertificaterequests") => {
            vec![("spec.signerName", ""), ("spec.podName", ""), ("spec.nodeName", "")]
        }
        ("resource.k8s.io", "resourceslices") => vec![("spec.nodeName", ""), ("spec.driver", "")],
        ("networking.k8s.io", "ipaddresses") => vec![("spec.parentRef.name", "")],
        _ => Vec::new(),
    }
}

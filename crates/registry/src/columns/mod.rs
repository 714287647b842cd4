//! The columns of `kubectl get` (`pkg/printers/internalversion`): one pure function per kind, on the stored version.

mod access;
mod cell;
mod config;
mod devices;
mod event;
mod network;
mod node;
mod pod;
mod scheduling;
mod storage;
mod workload;

use kybern_apimachinery::Value;
use kybern_apiserver::resource::Columns;

use cell::{Printer, age, integer, name, string};

/// Name and age: what a kind without columns of its own shows.
const DEFAULT: Printer = Printer { definitions: &[name(), string("Age")], cells: default_cells };

fn default_cells(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    vec![cell::object_name(object), age(object, now)]
}

const SCALE: Printer = Printer {
    definitions: &[string("Name"), integer("Desired"), integer("Available"), string("Age")],
    cells: |scale, now| {
        let replicas = |part| cell::count(scale, &[part, "replicas"]).into();
        vec![cell::object_name(scale), replicas("spec"), replicas("status"), age(scale, now)]
    },
};

/// The columns of a resource.
pub(crate) fn columns(group: &str, resource: &str) -> Columns {
    let order = (resource == "flowschemas").then_some(access::precedence as fn(&Value) -> i64);
    Columns { order, ..printer(group, resource).into() }
}

/// What a `Scale` shows.
pub(crate) fn scale_columns() -> Columns {
    SCALE.into()
}

fn printer(group: &str, resource: &str) -> Printer {
    match (group, resource) {
        ("", "pods") => pod::PODS,
        ("", "podtemplates") => workload::POD_TEMPLATES,
        ("", "replicationcontrollers") => workload::REPLICATION_CONTROLLERS,
        ("apps", "deployments") => workload::DEPLOYMENTS,
        ("apps", "replicasets") => workload::REPLICA_SETS,
        ("apps", "daemonsets") => workload::DAEMON_SETS,
        ("apps", "statefulsets") => workload::STATEFUL_SETS,
        ("apps", "controllerrevisions") => workload::CONTROLLER_REVISIONS,
        ("batch", "jobs") => workload::JOBS,
        ("batch", "cronjobs") => workload::CRON_JOBS,
        ("", "services") => network::SERVICES,
        ("", "endpoints") => network::ENDPOINTS,
        ("discovery.k8s.io", "endpointslices") => network::ENDPOINT_SLICES,
        ("networking.k8s.io", "ingresses") => network::INGRESSES,
        ("networking.k8s.io", "ingressclasses") => network::INGRESS_CLASSES,
        ("networking.k8s.io", "networkpolicies") => network::NETWORK_POLICIES,
        ("networking.k8s.io", "servicecidrs") => network::SERVICE_CIDRS,
        ("networking.k8s.io", "ipaddresses") => network::IP_ADDRESSES,
        ("", "nodes") => node::NODES,
        ("", "namespaces") => node::NAMESPACES,
        ("coordination.k8s.io", "leases") => node::LEASES,
        ("node.k8s.io", "runtimeclasses") => node::RUNTIME_CLASSES,
        ("", "componentstatuses") => node::COMPONENT_STATUSES,
        ("", "configmaps") => config::CONFIG_MAPS,
        ("", "secrets") => config::SECRETS,
        ("", "resourcequotas") => config::RESOURCE_QUOTAS,
        ("", "limitranges") => config::LIMIT_RANGES,
        ("" | "events.k8s.io", "events") => event::EVENTS,
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => access::ROLES,
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => access::BINDINGS,
        ("certificates.k8s.io", "certificatesigningrequests") => access::SIGNING_REQUESTS,
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations" | "validatingwebhookconfigurations") => {
            access::WEBHOOKS
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => access::VALIDATING_POLICIES,
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => access::MUTATING_POLICIES,
        ("apiextensions.k8s.io", "customresourcedefinitions") => access::CUSTOM_RESOURCE_DEFINITIONS,
        ("apiregistration.k8s.io", "apiservices") => access::API_SERVICES,
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => access::FLOW_SCHEMAS,
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => access::PRIORITY_LEVELS,
        ("", "persistentvolumes") => storage::VOLUMES,
        ("", "persistentvolumeclaims") => storage::CLAIMS,
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings" | "validatingadmissionpolicybindings") => {
            access::POLICY_BINDINGS
        }
        ("resource.k8s.io", "devicetaintrules") => devices::TAINT_RULES,
        ("resource.k8s.io", "resourceclaims") => devices::CLAIMS,
        ("resource.k8s.io", "resourceslices") => devices::SLICES,
        ("storage.k8s.io", "volumeattributesclasses") => storage::ATTRIBUTES_CLASSES,
        ("storage.k8s.io", "storageclasses") => storage::CLASSES,
        ("storage.k8s.io", "volumeattachments") => storage::ATTACHMENTS,
        ("storage.k8s.io", "csidrivers") => storage::DRIVERS,
        ("storage.k8s.io", "csinodes") => storage::CSI_NODES,
        ("scheduling.k8s.io", "priorityclasses") => scheduling::PRIORITY_CLASSES,
        ("policy", "poddisruptionbudgets") => scheduling::DISRUPTION_BUDGETS,
        ("autoscaling", "horizontalpodautoscalers") => scheduling::AUTOSCALERS,
        _ => DEFAULT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn every_table_has_a_cell_per_column() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        for row in kybern_schema::builtin().resources() {
            let columns = columns(row.group, row.resource);
            let cells = (columns.cells)(&json!({"metadata": {"name": "a"}}), now);
            // But for the age of an IPAddress, as upstream.
            let more = usize::from(row.resource == "ipaddresses");
            assert_eq!(cells.len(), columns.definitions.len() + more, "{}/{}", row.group, row.resource);
        }
    }
}

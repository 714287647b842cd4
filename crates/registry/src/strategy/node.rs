//! Nodes and leases.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::label_key;
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use crate::tree::{has, int, list, map, text};
use crate::validation::{Errors, format, ip, resources, scheduling};

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Node;

impl Strategy for Node {
    fn keeps_status_on_create(&self) -> bool {
        true
    }

    fn default(&self, node: &mut Value) {
        // What pods may use is all there is, unless the node says less.
        if let Some(status) = node.get_mut("status").filter(|s| map(s, "allocatable").next().is_none())
            && has(status, "capacity")
        {
            status["allocatable"] = status["capacity"].clone();
        }
        // One range stands for the list of both families, of which it is the first.
        let Some(spec) = node.get_mut("spec") else { return };
        let range = spec.get("podCIDR").filter(|range| *range != "" && !range.is_null()).cloned();
        match (range, list(spec, "podCIDRs").first().cloned()) {
            (Some(range), first) if first.as_ref() != Some(&range) => spec["podCIDRs"] = json!([range]),
            (None, Some(first)) => spec["podCIDR"] = first,
            _ => {}
        }
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, node: &mut Value) {
        object::map_at_mut(node, &["spec"]).remove("configSource");
        object::map_at_mut(node, &["status"]).remove("config");
    }

    fn validate(&self, node: &Value) -> Vec<FieldError> {
        let (mut out, spec) = (Vec::new(), &node["spec"]);
        // The path in upstream's texts.
        scheduling::taints(&mut out, &FieldPath::new("metadata"), spec);
        amounts(&mut out, &node["status"]);
        swap(&mut out, &node["status"]);
        ranges(&mut out, &FieldPath::new("spec.podCIDRs"), spec);
        out
    }

    fn validate_update(&self, node: &Value, old: &Value) -> Vec<FieldError> {
        let (mut out, path) = (Vec::new(), FieldPath::new("spec"));
        addresses(&mut out, &node["status"]);
        let (new, before) = (list(&node["spec"], "podCIDRs"), list(&old["spec"], "podCIDRs"));
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        let changed = if new.len() == before.len() {
            new.iter().zip(before).filter(|(new, old)| new != old).count()
        } else {
            usize::from(!before.is_empty())
        };
        out.extend((0..changed).map(|_| FieldError::forbidden(&path.child("podCIDRs"), detail)));
        let provider = text(&old["spec"], "providerID");
        if !provider.is_empty() && text(&node["spec"], "providerID") != provider {
            let detail = "node updates may not change providerID except from \"\" to valid";
            out.push(FieldError::forbidden(&path.child("providerID"), detail));
        }
        if text(&node["spec"], "externalID") != text(&old["spec"], "externalID") {
            out.push(FieldError::forbidden(&path.child("externalID"), "may not be updated"));
        }
        out
    }

    fn warnings(&self, node: &Value, _old: Option<&Value>) -> Vec<String> {
        let (mut out, spec) = (Vec::new(), &node["spec"]);
        if has(spec, "configSource") {
            out.push("spec.configSource: the feature is removed".to_owned());
        }
        if !text(spec, "externalID").is_empty() {
            out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        for (i, range) in list(spec, "podCIDRs").iter().enumerate() {
            out.extend(ip::warn_cidr(&FieldPath::new("spec.podCIDRs").index(i), range.as_str().unwrap_or("")));
        }
        out
    }
}

/// Amounts of resources.
fn amounts(out: &mut Errors, status: &Value) {
    for field in ["capacity", "allocatable"] {
        for (name, given) in map(status, field) {
            let path = FieldPath::new("status").child(field).child(name);
            if let Some(given) = resources::quantity(given) {
                resources::amount(out, &path, name, given);
            }
        }
    }
}

fn swap(out: &mut Errors, status: &Value) {
    let capacity = object::at(status, &["nodeInfo", "swap", "capacity"]).and_then(Value::as_i64);
    if let Some(capacity) = capacity.filter(|capacity| *capacity <= 0) {
        let path = FieldPath::new("metadata.nodeSwapStatus.capacity");
        out.push(FieldError::invalid(&path, capacity, "must be greater than zero"));
    }
}

/// At most one range of each family.
fn ranges(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let ranges: Vec<&str> = list(spec, "podCIDRs").iter().map(|range| range.as_str().unwrap_or("")).collect();
    let parsed: Vec<_> =
        ranges.iter().enumerate().map(|(i, range)| ip::legacy_cidr(out, &path.index(i), range)).collect();
    if ranges.len() < 2 {
        return;
    }
    if let Some(i) = parsed.iter().position(Option::is_none) {
        let cause = format!("invalid CIDR[{i}]: <nil> (invalid CIDR address: {})", ranges[i]);
        let detail = format!("invalid PodCIDRs. failed to check with dual stack with error:{cause}");
        out.push(FieldError::internal(path, detail));
    }
    let v4 = parsed.iter().flatten().filter(|range| range.addr().is_ipv4()).count();
    if ranges.len() > 2 || parsed.iter().any(Option::is_none) || v4 != 1 {
        let detail = "may specify no more than one CIDR for each IP family";
        out.push(FieldError::invalid(path, spec["podCIDRs"].clone(), detail));
    }
}

/// `status`: amounts, and each address once.
pub(super) fn validate_status(node: &Value, _old: &Value) -> Errors {
    let mut out = Errors::new();
    amounts(&mut out, &node["status"]);
    addresses(&mut out, &node["status"]);
    out
}

fn addresses(out: &mut Errors, status: &Value) {
    let addresses = list(status, "addresses");
    for (i, address) in addresses.iter().enumerate().filter(|(i, address)| addresses[..*i].contains(address)) {
        out.push(FieldError::duplicate(&FieldPath::new("status.addresses").index(i), address.clone()));
    }
}

/// Never stored, hence without rules.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ComponentStatus;

impl Strategy for ComponentStatus {
    fn deprecation(&self) -> Option<&'static str> {
        Some("v1 ComponentStatus is deprecated in v1.19+")
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lease;

impl Strategy for Lease {
    fn validate(&self, lease: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &lease["spec"], FieldPath::new("spec"));
        if let Some(seconds) = int(spec, "leaseDurationSeconds").filter(|s| *s <= 0) {
            out.push(FieldError::invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
        }
        format::not_negative(&mut out, &path.child("leaseTransitions"), int(spec, "leaseTransitions"));
        let strategy = text(spec, "strategy");
        if has(spec, "strategy") {
            // Upstream names the field twice.
            let path = path.child("strategy").child("strategy");
            if strategy.contains('/') {
                format::invalid(&mut out, &path, strategy, label_key(strategy));
            } else {
                format::one_of(&mut out, &path, strategy, &["OldestEmulationVersion"]);
            }
        }
        if !text(spec, "preferredHolder").is_empty() && strategy.is_empty() {
            let detail = "may only be specified if `strategy` is defined";
            out.push(FieldError::forbidden(&path.child("preferredHolder"), detail));
        }
        out
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_unique_and_ranges_stay() {
        let taint = json!({"key": "a", "effect": "NoSchedule"});
        assert!(Node.validate(&json!({"spec": {"taints": [taint]}})).is_empty());
        let text = Node.validate(&json!({"spec": {"taints": [taint, taint]}}))[0].to_string();
        assert!(text.ends_with("taints must be unique by key and effect pair"), "{text}");
        let spec = |range: &str| {
            let mut node = json!({"spec": {"podCIDR": range}});
            Node.default(&mut node);
            node
        };
        assert!(Node.validate_update(&spec("10.0.0.0/24"), &spec("")).is_empty());
        assert_eq!(Node.validate_update(&spec("10.0.1.0/24"), &spec("10.0.0.0/24")).len(), 1);
    }

    #[test]
    fn what_a_node_leaves_out() {
        let mut node =
            json!({"spec": {"podCIDRs": ["10.0.0.0/24", "fd00::/64"]}, "status": {"capacity": {"cpu": "4"}}});
        Node.default(&mut node);
        assert_eq!(
            (&node["spec"]["podCIDR"], &node["status"]["allocatable"]),
            (&json!("10.0.0.0/24"), &json!({"cpu": "4"}))
        );
        let mut older = json!({"spec": {"podCIDR": "10.0.1.0/24", "podCIDRs": ["10.0.0.0/24"]}});
        Node.default(&mut older);
        assert_eq!(older["spec"]["podCIDRs"], json!(["10.0.1.0/24"]), "an older client knows one field");
    }

    #[test]
    fn amounts_and_ranges() {
        let texts = |node: Value| Node.validate(&node).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        assert_eq!(
            texts(json!({"status": {"capacity": {"cpu": "-1"}}})),
            "status.capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0"
        );
        assert_eq!(texts(json!({"spec": {"podCIDRs": ["10.0.0.0/24", "fd00::/64"]}})), "");
        assert!(texts(json!({"spec": {"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]}})).ends_with("for each IP family"));
    }
}

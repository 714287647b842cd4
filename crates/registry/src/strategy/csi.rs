//! CSIDriver, CSINode, CSIStorageCapacity and VolumeAttachment.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_subdomain, label_key};
use kybern_apimachinery::{Value, json};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use crate::tree::{default, has, int, list, map, text};
use crate::validation::names::driver_name;
use crate::validation::resources::quantity;
use crate::validation::update::immutable;
use crate::validation::{Errors, format, meta, node_labels};

/// The longest identity of a node.
const MAX_NODE_ID: usize = 256;
const MAX_ATTACHMENT_BYTES: usize = 256 << 10;
const MAX_ERROR_BYTES: usize = 1024;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CsiDriver;

impl Strategy for CsiDriver {
    fn default(&self, driver: &mut Value) {
        if !driver["spec"].is_object() {
            driver["spec"] = json!({});
        }
        let spec = &mut driver["spec"];
        for (field, value) in [
            ("attachRequired", json!(true)),
            ("fsGroupPolicy", json!("ReadWriteOnceWithFSType")),
            ("podInfoOnMount", json!(false)),
            ("requiresRepublish", json!(false)),
            ("seLinuxMount", json!(false)),
            ("storageCapacity", json!(false)),
        ] {
            default(spec, field, value);
        }
        if list(spec, "volumeLifecycleModes").is_empty() {
            spec["volumeLifecycleModes"] = json!(["Persistent"]);
        }
    }

    fn validate(&self, driver: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &driver["spec"], FieldPath::new("spec"));
        let policies = ["File", "None", "ReadWriteOnceWithFSType"];
        format::one_of(&mut out, &path.child("fsGroupPolicy"), text(spec, "fsGroupPolicy"), &policies);
        token_requests(&mut out, &path.child("tokenRequests"), list(spec, "tokenRequests"));
        for mode in list(spec, "volumeLifecycleModes") {
            let mode = mode.as_str().unwrap_or("");
            format::one_of(&mut out, &path.child("volumeLifecycleModes"), mode, &["Persistent", "Ephemeral"]);
        }
        let field = "nodeAllocatableUpdatePeriodSeconds";
        if let Some(period) = int(spec, field).filter(|p| *p < 10) {
            out.push(FieldError::invalid(&path.child(field), period, "must be greater than or equal to 10 seconds"));
        }
        out
    }

    fn validate_update(&self, driver: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        // Upstream's paths say `attachedRequired`.
        for (field, named) in [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
        {
            let path = FieldPath::new("spec").child(named);
            immutable(&mut out, &path, driver["spec"].get(field), old["spec"].get(field));
        }
        out
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn token_requests(out: &mut Errors, path: &FieldPath, requests: &[Value]) {
    for (i, request) in requests.iter().enumerate() {
        let path = path.index(i);
        let audience = text(request, "audience");
        if requests[..i].iter().any(|earlier| text(earlier, "audience") == audience) {
            out.push(FieldError::duplicate(&path.child("audience"), audience));
            continue;
        }
        let Some(seconds) = int(request, "expirationSeconds") else { continue };
        let path = path.child("expirationSeconds");
        if seconds < 600 {
            out.push(FieldError::invalid(&path, seconds, "may not specify a duration less than 10 minutes"));
        }
        if seconds > 1 << 32 {
            out.push(FieldError::invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds"));
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CsiNode;

impl Strategy for CsiNode {
    fn validate(&self, node: &Value) -> Vec<FieldError> {
        drivers(&node["spec"])
    }

    fn validate_update(&self, node: &Value, old: &Value) -> Vec<FieldError> {
        // Upstream's check of an update begins with that of a create, which ran already.
        let mut out = drivers(&node["spec"]);
        for before in list(&old["spec"], "drivers") {
            for after in list(&node["spec"], "drivers").iter().filter(|d| text(d, "name") == text(before, "name")) {
                immutable(&mut out, &FieldPath::new("spec.drivers"), Some(after), Some(before));
            }
        }
        out
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn drivers(spec: &Value) -> Errors {
    let mut out = Vec::new();
    let drivers = list(spec, "drivers");
    for (i, driver) in drivers.iter().enumerate() {
        let path = FieldPath::new("spec.drivers").index(i);
        let (name, id) = (text(driver, "name"), text(driver, "nodeID"));
        driver_name(&mut out, &path.child("name"), name);
        if id.is_empty() {
            out.push(FieldError::required(&path.child("nodeID"), ""));
        }
        if id.len() > MAX_NODE_ID {
            let detail = format!("must be {MAX_NODE_ID} characters or less");
            out.push(FieldError::invalid(&path.child("nodeID"), id, detail));
        }
        let count_path = path.child("allocatable").child("count");
        format::not_negative(&mut out, &count_path, int(&driver["allocatable"], "count"));
        if drivers[..i].iter().any(|earlier| text(earlier, "name") == name) {
            out.push(FieldError::duplicate(&path.child("name"), name));
        }
        let keys = list(driver, "topologyKeys");
        for (j, key) in keys.iter().enumerate() {
            let text = key.as_str().unwrap_or("");
            if text.is_empty() {
                out.push(FieldError::required(&path, ""));
            }
            if keys[..j].contains(key) {
                out.push(FieldError::duplicate(&path, text));
            }
            format::invalid(&mut out, &path, text, label_key(text));
        }
    }
    out
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CsiStorageCapacity;

impl Strategy for CsiStorageCapacity {
    fn validate(&self, capacity: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        meta::selector(&mut out, &FieldPath::new("nodeTopology"), &capacity["nodeTopology"]);
        let class = text(capacity, "storageClassName");
        format::invalid(&mut out, &FieldPath::new("storageClassName"), class, dns1123_subdomain(class));
        if let Some(size) = quantity(&capacity["capacity"]).filter(|q| q.is_negative()) {
            let detail = "must be greater than or equal to 0";
            out.push(FieldError::invalid(&FieldPath::new("capacity"), size.to_string(), detail));
        }
        out
    }

    fn validate_update(&self, capacity: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        for field in ["nodeTopology", "storageClassName"] {
            immutable(&mut out, &FieldPath::new(field), capacity.get(field), old.get(field));
        }
        out
    }

    fn warnings(&self, capacity: &Value, _old: Option<&Value>) -> Vec<String> {
        node_labels::label_selector(&FieldPath::new("nodeTopology"), &capacity["nodeTopology"])
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct VolumeAttachment;

impl Strategy for VolumeAttachment {
    fn prepare_for_create(&self, _: &StrategyContext<'_>, attachment: &mut Value) {
        attachment["status"] = json!({"attached": false});
    }

    fn validate(&self, attachment: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &attachment["spec"], FieldPath::new("spec"));
        if text(spec, "attacher").is_empty() {
            out.push(FieldError::required(&path.child("attacher"), ""));
        }
        let (source, source_path) = (&spec["source"], path.child("source"));
        let either = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        match (has(source, "inlineVolumeSpec"), has(source, "persistentVolumeName")) {
            (false, false) => out.push(FieldError::required(&source_path, either)),
            (true, true) => out.push(FieldError::forbidden(&source_path, either)),
            (false, true) if text(source, "persistentVolumeName").is_empty() => {
                let detail = "must specify non empty persistentVolumeName";
                out.push(FieldError::required(&source_path.child("persistentVolumeName"), detail));
            }
            _ => {}
        }
        let node = text(spec, "nodeName");
        format::invalid(&mut out, &path.child("nodeName"), node, dns1123_subdomain(node));
        validate_attachment_status(&mut out, &attachment["status"]);
        out
    }

    fn validate_create(&self, attachment: &Value) -> Vec<FieldError> {
        let (mut out, spec) = (Vec::new(), &attachment["spec"]);
        driver_name(&mut out, &FieldPath::new("spec.attacher"), text(spec, "attacher"));
        if has(&spec["source"], "persistentVolumeName") {
            let name = text(&spec["source"], "persistentVolumeName");
            let path = FieldPath::new("spec.source.persistentVolumeName");
            format::invalid(&mut out, &path, name, dns1123_subdomain(name));
        }
        out
    }

    fn validate_update(&self, attachment: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        immutable(&mut out, &FieldPath::new("spec"), attachment.get("spec"), old.get("spec"));
        out
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn validate_attachment_status(out: &mut Errors, status: &Value) {
    let path = FieldPath::new("status");
    let bytes: usize = map(status, "attachmentMetadata").map(|(k, v)| k.len() + v.as_str().unwrap_or("").len()).sum();
    if bytes > MAX_ATTACHMENT_BYTES {
        out.push(FieldError::too_long(&path.child("attachmentMetadata"), MAX_ATTACHMENT_BYTES));
    }
    for field in ["attachError", "detachError"] {
        let (path, error) = (path.child(field), &status[field]);
        if text(error, "message").len() > MAX_ERROR_BYTES {
            out.push(FieldError::too_long(&path.child("message"), MAX_ATTACHMENT_BYTES));
        }
        if let Some(code) = int(error, "errorCode").filter(|c| *c < 0) {
            let detail = "must be between 0 and 2147483647, inclusive";
            out.push(FieldError::invalid(&path.child("errorCode"), code, detail));
        }
    }
}

/// `status` of an attachment: the whole is validated again, and its spec stays.
pub(super) fn validate_status(attachment: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = VolumeAttachment.validate(attachment);
    out.extend(VolumeAttachment.validate_update(attachment, old));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_of_a_node_keeps_its_identity() {
        let node = |id: &str, count: i64| json!({"spec": {"drivers": [{"name": "d", "nodeID": id, "allocatable": {"count": count}}]}});
        assert!(CsiNode.validate_update(&node("a", 1), &node("a", 1)).is_empty());
        assert_eq!(CsiNode.validate_update(&node("a", 2), &node("a", 1)).len(), 1);
        assert_eq!(CsiNode.validate_update(&node("b", 1), &node("a", 1)).len(), 1);
        assert_eq!(CsiNode.validate(&node(&"a".repeat(257), 1)).len(), 1);
    }

    #[test]
    fn an_attachment_has_one_source() {
        let texts = |source: Value| {
            VolumeAttachment.validate(&json!({"spec": {"attacher": "a", "nodeName": "n", "source": source}})).len()
        };
        assert_eq!(texts(json!({"persistentVolumeName": "p"})), 0);
        assert_eq!(texts(json!({})), 1);
        assert_eq!(texts(json!({"persistentVolumeName": "p", "inlineVolumeSpec": {}})), 1);
    }
}

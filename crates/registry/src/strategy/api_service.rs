//! APIService.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1035_label, dns1123_subdomain};
use kybern_apimachinery::{Value, json, object, time};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use crate::tree::{default, flag, has, int, list, text};
use crate::validation::format;
use crate::validation::names::path_segment;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ApiService;

impl Strategy for ApiService {
    fn default(&self, service: &mut Value) {
        if has(&service["spec"], "service") {
            default(&mut service["spec"]["service"], "port", 443);
        }
    }

    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, service: &mut Value) {
        service["status"] = json!({});
        // What this server serves itself is there as soon as it is told of.
        if !has(&service["spec"], "service") {
            service["status"]["conditions"] = json!([{
                "type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available",
                "lastTransitionTime": time::to_rfc3339(ctx.now),
            }]);
        }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        path_segment(name)
    }

    fn validate(&self, service: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &service["spec"], FieldPath::new("spec"));
        let (group, version) = (text(spec, "group"), text(spec, "version"));
        let (name, wanted) = (object::name(service), format!("{version}.{group}"));
        if !name.is_empty() && name != wanted && path_segment(name).is_empty() {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            out.push(FieldError::invalid(&FieldPath::new("metadata.name"), name, detail));
        }
        if group.is_empty() && version != "v1" {
            let detail = "only v1 may have an empty group and it better be legacy kube";
            out.push(FieldError::required(&path.child("group"), detail));
        }
        if !group.is_empty() {
            format::invalid(&mut out, &path.child("group"), group, dns1123_subdomain(group));
        }
        format::invalid(&mut out, &path.child("version"), version, dns1035_label(version));
        for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let priority = int(spec, field).unwrap_or(0);
            if !(1..=most).contains(&priority) {
                let detail = format!("must be positive and less than {most}");
                out.push(FieldError::invalid(&path.child(field), priority, detail));
            }
        }
        let bundle = STANDARD.decode(text(spec, "caBundle")).map_or(0, |bytes| bytes.len());
        let (skips, skip_path) = (flag(spec, "insecureSkipTLSVerify"), path.child("insecureSkipTLSVerify"));
        if !has(spec, "service") {
            if bundle > 0 {
                let detail = "local APIServices may not have a caBundle";
                out.push(FieldError::invalid(&path.child("caBundle"), format!("{bundle} bytes"), detail));
            }
            if skips {
                let detail = "local APIServices may not have insecureSkipTLSVerify";
                out.push(FieldError::invalid(&skip_path, true, detail));
            }
            return out;
        }
        let (backend, backend_path) = (&spec["service"], path.child("service"));
        for field in ["namespace", "name"] {
            if text(backend, field).is_empty() {
                out.push(FieldError::required(&backend_path.child(field), ""));
            }
        }
        let port = int(backend, "port").unwrap_or(0);
        if !(1..=65535).contains(&port) {
            let detail = "port is not valid: must be between 1 and 65535, inclusive";
            out.push(FieldError::invalid(&backend_path.child("port"), port, detail));
        }
        if skips && bundle > 0 {
            out.push(FieldError::invalid(&skip_path, true, "may not be true if caBundle is present"));
        }
        out
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// `status`: conditions have a known status.
pub(super) fn validate_status(service: &Value, _old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    for (i, condition) in list(&service["status"], "conditions").iter().enumerate() {
        let path = FieldPath::new("status.conditions").index(i).child("status");
        format::one_of(&mut out, &path, text(condition, "status"), &["True", "False", "Unknown"]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_version_and_group() {
        let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"group": "a.b", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}});
        assert!(ApiService.validate(&service("v1.a.b")).is_empty());
        assert_eq!(
            ApiService.validate(&service("v1.a"))[0].to_string(),
            "metadata.name: Invalid value: \"v1.a\": must be `spec.version+\".\"+spec.group`: \"v1.a.b\""
        );
    }
}

//! FlowSchema and PriorityLevelConfiguration.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain};
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::status::reset_status;
use crate::bootstrap::mandatory_flow_control;
use crate::tree::{default, flag, has, int, list, text};
use crate::validation::{Errors, format};

const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const MAX_PRECEDENCE: i64 = 10_000;
const MAX_QUEUES: i64 = 10_000_000;
/// Bits of the hash that a hand of queues is dealt from.
const MAX_HASH_BITS: i64 = 60;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FlowSchema;

impl Strategy for FlowSchema {
    fn default(&self, schema: &mut Value) {
        if schema["spec"].is_object() && int(&schema["spec"], "matchingPrecedence").unwrap_or(0) == 0 {
            schema["spec"]["matchingPrecedence"] = 1000.into();
        }
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, schema: &mut Value) {
        reset_status(schema);
    }

    fn validate(&self, schema: &Value) -> Vec<FieldError> {
        let (name, spec, path) = (object::name(schema), &schema["spec"], FieldPath::new("spec"));
        let mut out = Vec::new();
        let (precedence, precedence_path) =
            (int(spec, "matchingPrecedence").unwrap_or(0), path.child("matchingPrecedence"));
        let mut wrong = |detail: String| out.push(FieldError::invalid(&precedence_path, precedence, detail));
        if precedence <= 0 {
            wrong("must be a positive value".to_owned());
        }
        if precedence > MAX_PRECEDENCE {
            wrong(format!("must not be greater than {MAX_PRECEDENCE}"));
        }
        if precedence == 1 && name != "exempt" {
            wrong("only the schema named 'exempt' may have matchingPrecedence 1".to_owned());
        }
        if has(spec, "distinguisherMethod") {
            let kind = text(&spec["distinguisherMethod"], "type");
            if !["ByNamespace", "ByUser"].contains(&kind) {
                let path = path.child("distinguisherMethod").child("type");
                out.push(FieldError::not_supported(&path, json!({"Type": kind}), &["ByNamespace", "ByUser"]));
            }
        }
        let level = text(&spec["priorityLevelConfiguration"], "name");
        let level_path = path.child("priorityLevelConfiguration").child("name");
        if level.is_empty() {
            out.push(FieldError::required(&level_path, "must reference a priority level"));
        } else {
            format::invalid(&mut out, &level_path, level, dns1123_subdomain(level));
        }
        for (i, item) in list(spec, "rules").iter().enumerate() {
            rule(&mut out, &path.child("rules").index(i), item);
        }
        fixed(&mut out, &path, "FlowSchema", name, spec);
        conditions(&mut out, schema);
        out
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PriorityLevel;

impl Strategy for PriorityLevel {
    fn default(&self, level: &mut Value) {
        let spec = &mut level["spec"];
        if has(spec, "exempt") {
            default(&mut spec["exempt"], "nominalConcurrencyShares", 0);
            default(&mut spec["exempt"], "lendablePercent", 0);
        }
        if !has(spec, "limited") {
            return;
        }
        let limited = &mut spec["limited"];
        default(limited, "nominalConcurrencyShares", 30);
        default(limited, "lendablePercent", 0);
        if has(&limited["limitResponse"], "queuing") {
            let queuing = &mut limited["limitResponse"]["queuing"];
            for (field, value) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
                if int(queuing, field).unwrap_or(0) == 0 {
                    queuing[field] = value.into();
                }
            }
        }
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, level: &mut Value) {
        reset_status(level);
    }

    fn validate(&self, level: &Value) -> Vec<FieldError> {
        let (name, spec, path) = (object::name(level), &level["spec"], FieldPath::new("spec"));
        let mut out = Vec::new();
        let preserve = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";
        if object::annotation(level, preserve).is_some() {
            let detail = format!("annotation '{preserve}' is forbidden");
            out.push(FieldError::forbidden(&FieldPath::new("metadata.annotations"), detail));
        }
        let kind = text(spec, "type");
        if (name == "exempt") != (kind == "Exempt") {
            let detail = "must be 'Exempt' if and only if `name` is 'exempt'";
            out.push(FieldError::invalid(&path.child("type"), kind, detail));
        }
        let (exempt_path, limited_path) = (path.child("exempt"), path.child("limited"));
        match kind {
            "Exempt" => {
                if has(spec, "limited") {
                    out.push(FieldError::forbidden(&limited_path, "must be nil if the type is not Limited"));
                }
                shares(&mut out, &exempt_path, &spec["exempt"]);
            }
            "Limited" => {
                if has(spec, "exempt") {
                    out.push(FieldError::forbidden(&exempt_path, "must be nil if the type is Limited"));
                }
                if has(spec, "limited") {
                    limited(&mut out, &limited_path, &spec["limited"]);
                } else {
                    out.push(FieldError::required(&limited_path, "must not be empty when type is Limited"));
                }
            }
            other => out.push(FieldError::not_supported(&path.child("type"), other, &["Exempt", "Limited"])),
        }
        fixed(&mut out, &path, "PriorityLevelConfiguration", name, spec);
        conditions(&mut out, level);
        out
    }
}

/// The objects that every server has stay as they are, but for what the exempt level lends.
fn fixed(out: &mut Errors, path: &FieldPath, kind: &str, name: &str, spec: &Value) {
    let Some(wanted) = mandatory_flow_control(kind, name) else { return };
    let (mut wanted, mut given) = (wanted["spec"].clone(), spec.clone());
    let mut except = "";
    if kind == "PriorityLevelConfiguration" && name == "exempt" {
        wanted["exempt"] = Value::Null;
        given["exempt"] = Value::Null;
        except = " except the 'spec.exempt' field";
    }
    if wanted != given {
        let detail = format!("spec of '{name}'{except} must equal the fixed value");
        out.push(FieldError::invalid(path, spec.clone(), detail));
    }
}

fn conditions(out: &mut Errors, object: &Value) {
    let conditions = list(&object["status"], "conditions");
    for (i, condition) in conditions.iter().enumerate() {
        let (path, kind) = (FieldPath::new("status.conditions").index(i).child("type"), text(condition, "type"));
        if conditions[..i].iter().any(|earlier| text(earlier, "type") == kind) {
            out.push(FieldError::duplicate(&path, kind));
        }
        if kind.is_empty() {
            out.push(FieldError::required(&path, ""));
        }
    }
}

/// `status` of both kinds.
pub(super) fn validate_status(object: &Value, _old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    conditions(&mut out, object);
    out
}

fn shares(out: &mut Errors, path: &FieldPath, level: &Value) {
    if let Some(shares) = int(level, "nominalConcurrencyShares").filter(|s| *s < 0) {
        let path = path.child("nominalConcurrencyShares");
        out.push(FieldError::invalid(&path, shares, "must be a non-negative integer"));
    }
}

fn lendable(out: &mut Errors, path: &FieldPath, level: &Value) {
    if let Some(percent) = int(level, "lendablePercent").filter(|p| !(0..=100).contains(p)) {
        out.push(FieldError::invalid(&path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive"));
    }
}

fn limited(out: &mut Errors, path: &FieldPath, level: &Value) {
    shares(out, path, level);
    let (response, response_path) = (&level["limitResponse"], path.child("limitResponse"));
    let queuing_path = response_path.child("queuing");
    match text(response, "type") {
        "Reject" if has(response, "queuing") => {
            let detail = "must be nil if limited.limitResponse.type is not Limited";
            out.push(FieldError::forbidden(&queuing_path, detail));
        }
        "Reject" => {}
        "Queue" if has(response, "queuing") => queuing(out, &queuing_path, &response["queuing"]),
        "Queue" => {
            let detail = "must not be empty if limited.limitResponse.type is Limited";
            out.push(FieldError::required(&queuing_path, detail));
        }
        other => out.push(FieldError::not_supported(&response_path.child("type"), other, &["Queue", "Reject"])),
    }
    lendable(out, path, level);
    if let Some(percent) = int(level, "borrowingLimitPercent").filter(|p| *p < 0) {
        let detail = "if specified, must be a non-negative integer";
        out.push(FieldError::invalid(&path.child("borrowingLimitPercent"), percent, detail));
    }
}

fn queuing(out: &mut Errors, path: &FieldPath, queuing: &Value) {
    let number = |field: &str| int(queuing, field).unwrap_or(0);
    let (length, queues, hand) = (number("queueLengthLimit"), number("queues"), number("handSize"));
    if length <= 0 {
        out.push(FieldError::invalid(&path.child("queueLengthLimit"), length, "must be positive"));
    }
    if queues <= 0 {
        out.push(FieldError::invalid(&path.child("queues"), queues, "must be positive"));
    } else if queues > MAX_QUEUES {
        let detail = format!("must not be greater than {MAX_QUEUES}");
        out.push(FieldError::invalid(&path.child("queues"), queues, detail));
    }
    let path = path.child("handSize");
    if hand <= 0 {
        out.push(FieldError::invalid(&path, hand, "must be positive"));
    } else if hand > queues {
        out.push(FieldError::invalid(&path, hand, format!("should not be greater than queues ({queues})")));
    } else if entropy_bits(queues, hand) > MAX_HASH_BITS {
        let detail = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {MAX_HASH_BITS}"
        );
        out.push(FieldError::invalid(&path, hand, detail));
    }
}

/// The bits that dealing a hand of distinct queues takes.
fn entropy_bits(queues: i64, hand: i64) -> i64 {
    ((queues as f64).log2() * hand as f64).ceil() as i64
}

fn rule(out: &mut Errors, path: &FieldPath, rule: &Value) {
    let subjects = list(rule, "subjects");
    if subjects.is_empty() {
        out.push(FieldError::required(&path.child("subjects"), "subjects must contain at least one value"));
    }
    for (i, item) in subjects.iter().enumerate() {
        subject(out, &path.child("subjects").index(i), item);
    }
    let (resources, urls) = (list(rule, "resourceRules"), list(rule, "nonResourceRules"));
    if resources.is_empty() && urls.is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        out.push(FieldError::required(path, detail));
    }
    for (i, rule) in resources.iter().enumerate() {
        resource_rule(out, &path.child("resourceRules").index(i), rule);
    }
    for (i, rule) in urls.iter().enumerate() {
        let path = path.child("nonResourceRules").index(i);
        verbs(out, &path, rule);
        non_resource_urls(out, &path.child("nonResourceURLs"), list(rule, "nonResourceURLs"));
    }
}

fn subject(out: &mut Errors, path: &FieldPath, subject: &Value) {
    const FIELDS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = text(subject, "kind");
    let Some((_, field)) = FIELDS.iter().find(|(k, _)| *k == kind) else {
        let kinds = ["Group", "ServiceAccount", "User"];
        out.push(FieldError::not_supported(&path.child("kind"), kind, &kinds));
        return;
    };
    let (chosen, chosen_path) = (&subject[*field], path.child(field));
    if !has(subject, field) {
        out.push(FieldError::required(&chosen_path, format!("{field} is required when subject kind is '{kind}'")));
    } else {
        let name = text(chosen, "name");
        if name.is_empty() {
            out.push(FieldError::required(&chosen_path.child("name"), ""));
        } else if kind == "ServiceAccount" && name != "*" {
            format::invalid(out, &chosen_path.child("name"), name, dns1123_subdomain(name));
        }
        if kind == "ServiceAccount" {
            let (namespace, path) = (text(chosen, "namespace"), chosen_path.child("namespace"));
            if namespace.is_empty() {
                out.push(FieldError::required(&path, "must specify namespace for service account"));
            } else {
                format::invalid(out, &path, namespace, dns1123_label(namespace));
            }
        }
    }
    for (other, field) in [FIELDS[0], FIELDS[1], FIELDS[2]] {
        if other != kind && has(subject, field) {
            let detail = format!("{field} is forbidden when subject kind is not '{other}'");
            out.push(FieldError::forbidden(&path.child(field), detail));
        }
    }
}

fn has_wildcard(values: &[Value]) -> bool {
    values.iter().any(|value| value == "*")
}

fn verbs(out: &mut Errors, path: &FieldPath, rule: &Value) {
    let (verbs, path) = (list(rule, "verbs"), path.child("verbs"));
    if verbs.is_empty() {
        out.push(FieldError::required(&path, "verbs must contain at least one value"));
    } else if has_wildcard(verbs) {
        if verbs.len() > 1 {
            let detail = "if '*' is present, must not specify other verbs";
            out.push(FieldError::invalid(&path, verbs.to_vec(), detail));
        }
    } else if !verbs.iter().all(|verb| VERBS.contains(&verb.as_str().unwrap_or(""))) {
        out.push(FieldError::not_supported(&path, verbs.to_vec(), &VERBS));
    }
}

fn resource_rule(out: &mut Errors, path: &FieldPath, rule: &Value) {
    verbs(out, path, rule);
    for (field, each, others) in [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")] {
        let (values, path) = (list(rule, field), path.child(field));
        if values.is_empty() {
            out.push(FieldError::required(&path, format!("resource rules must supply at least one {each}")));
        } else if values.len() > 1 && has_wildcard(values) {
            let detail = format!("if '*' is present, must not specify other {others}");
            out.push(FieldError::invalid(&path, values.to_vec(), detail));
        }
    }
    let (namespaces, path) = (list(rule, "namespaces"), path.child("namespaces"));
    if namespaces.is_empty() && !flag(rule, "clusterScope") {
        let detail = "resource rules that are not cluster scoped must supply at least one namespace";
        out.push(FieldError::required(&path, detail));
    } else if has_wildcard(namespaces) {
        if namespaces.len() > 1 {
            let detail = "if '*' is present, must not specify other namespaces";
            out.push(FieldError::invalid(&path, namespaces.to_vec(), detail));
        }
    } else {
        for (i, namespace) in namespaces.iter().enumerate() {
            let namespace = namespace.as_str().unwrap_or("");
            for fault in dns1123_label(namespace) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {fault}");
                out.push(FieldError::invalid(&path.index(i), namespace, detail));
            }
        }
    }
}

fn non_resource_urls(out: &mut Errors, path: &FieldPath, urls: &[Value]) {
    if urls.is_empty() {
        out.push(FieldError::required(path, "nonResourceURLs must contain at least one value"));
    } else if has_wildcard(urls) {
        if urls.len() > 1 {
            let detail = "if '*' is present, must not specify other non-resource URLs";
            out.push(FieldError::invalid(path, urls.to_vec(), detail));
        }
    } else {
        for (i, url) in urls.iter().enumerate() {
            let url = url.as_str().unwrap_or("");
            if let Some(detail) = url_fault(url) {
                out.push(FieldError::invalid(&path.index(i), url, detail));
            }
        }
    }
}

fn url_fault(url: &str) -> Option<&'static str> {
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ => match url.matches('*').count() {
            0 => None,
            1 if url.ends_with("/*") => None,
            _ => Some("wildcard can only do suffix matching"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn schemas() {
        let subject = json!({"kind": "Group", "group": {"name": "g"}});
        let rule = json!({"subjects": [subject], "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/a*"]}]});
        let mut schema =
            json!({"metadata": {"name": "x"}, "spec": {"priorityLevelConfiguration": {"name": "l"}, "rules": [rule]}});
        FlowSchema.default(&mut schema);
        assert_eq!(
            texts(&FlowSchema.validate(&schema)),
            [
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"/a*\": wildcard can only do suffix matching"
            ]
        );
    }

    #[test]
    fn mandatory_objects_stay() {
        let changed = json!({"metadata": {"name": "exempt"}, "spec": {"type": "Exempt", "exempt": {"lendablePercent": 5, "nominalConcurrencyShares": 0}}});
        assert!(PriorityLevel.validate(&changed).is_empty());
        let limited = json!({"metadata": {"name": "catch-all"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 9, "limitResponse": {"type": "Reject"}}}});
        assert!(
            texts(&PriorityLevel.validate(&limited))[0].ends_with("spec of 'catch-all' must equal the fixed value")
        );
    }

    #[test]
    fn hands_fit_the_hash() {
        assert!(entropy_bits(64, 8) <= MAX_HASH_BITS && entropy_bits(512, 7) > MAX_HASH_BITS);
    }
}

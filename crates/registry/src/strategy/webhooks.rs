//! MutatingWebhookConfiguration and ValidatingWebhookConfiguration.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::json;
use kybern_apimachinery::validation::{dns1035_label, dns1123_subdomain};
use kybern_apiserver::strategy::Strategy;

use super::admission_rules::{self, FAILURE_POLICIES, MATCH_POLICIES, match_conditions};
use crate::tree::{default, has, int, list, list_mut, text};
use crate::validation::names::fully_qualified;
use crate::validation::{Errors, format, meta};

const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const NO_SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
const ANY_SIDE_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WebhookConfiguration {
    pub mutating: bool,
}

/// What objects of before a rule was made may keep.
#[derive(Clone, Copy)]
struct Demands {
    no_side_effects: bool,
    known_review_version: bool,
    unique_names: bool,
    conditions: bool,
}

impl Demands {
    const NEW: Self = Self { no_side_effects: true, known_review_version: true, unique_names: true, conditions: true };

    fn of_update(new: &[Value], old: &[Value]) -> Self {
        let known = |hook: &Value| {
            let versions = list(hook, "admissionReviewVersions");
            versions.is_empty() || versions.iter().any(|v| REVIEW_VERSIONS.contains(&v.as_str().unwrap_or("")))
        };
        let same = |field: &str| {
            new.len() == old.len() && new.iter().zip(old).all(|(new, old)| list(new, field) == list(old, field))
        };
        Self {
            no_side_effects: old.iter().all(|hook| NO_SIDE_EFFECTS.contains(&text(hook, "sideEffects"))),
            known_review_version: old.iter().all(known),
            unique_names: old
                .iter()
                .enumerate()
                .all(|(i, hook)| !old[..i].iter().any(|earlier| text(earlier, "name") == text(hook, "name"))),
            conditions: !same("matchConditions"),
        }
    }
}

impl Strategy for WebhookConfiguration {
    fn default(&self, configuration: &mut Value) {
        for hook in list_mut(configuration, "webhooks") {
            if hook.is_null() {
                *hook = json!({});
            }
            default(hook, "failurePolicy", "Fail");
            default(hook, "timeoutSeconds", 10);
            admission_rules::default_matching(hook);
            admission_rules::default_rules(hook, "rules");
            if self.mutating {
                default(hook, "reinvocationPolicy", "Never");
            }
            if has(&hook["clientConfig"], "service") {
                default(&mut hook["clientConfig"]["service"], "port", 443);
            }
        }
    }

    fn validate_create(&self, configuration: &Value) -> Vec<FieldError> {
        self.hooks(list(configuration, "webhooks"), Demands::NEW)
    }

    fn validate_update(&self, configuration: &Value, old: &Value) -> Vec<FieldError> {
        let hooks = list(configuration, "webhooks");
        self.hooks(hooks, Demands::of_update(hooks, list(old, "webhooks")))
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

impl WebhookConfiguration {
    fn hooks(&self, hooks: &[Value], demands: Demands) -> Errors {
        let mut out = Vec::new();
        for (i, hook) in hooks.iter().enumerate() {
            let (path, name) = (FieldPath::new("webhooks").index(i), text(hook, "name"));
            self.hook(&mut out, &path, hook, demands);
            let versions = list(hook, "admissionReviewVersions");
            review_versions(&mut out, &path.child("admissionReviewVersions"), versions, demands);
            let repeats = hooks[..i].iter().any(|earlier| text(earlier, "name") == name);
            if demands.unique_names && !name.is_empty() && repeats {
                out.push(FieldError::duplicate(&path.child("name"), name));
            }
        }
        out
    }

    fn hook(&self, out: &mut Errors, path: &FieldPath, hook: &Value, demands: Demands) {
        fully_qualified(out, &path.child("name"), text(hook, "name"));
        for (i, rule) in list(hook, "rules").iter().enumerate() {
            admission_rules::rule(out, &path.child("rules").index(i), rule);
        }
        format::one_of(out, &path.child("failurePolicy"), text(hook, "failurePolicy"), &FAILURE_POLICIES);
        format::one_of(out, &path.child("matchPolicy"), text(hook, "matchPolicy"), &MATCH_POLICIES);
        let allowed: &[&str] = if demands.no_side_effects { &NO_SIDE_EFFECTS } else { &ANY_SIDE_EFFECTS };
        let effects_path = path.child("sideEffects");
        if has(hook, "sideEffects") {
            format::one_of(out, &effects_path, text(hook, "sideEffects"), allowed);
        } else {
            out.push(FieldError::required(&effects_path, format!("must specify one of {}", allowed.join(", "))));
        }
        if let Some(seconds) = int(hook, "timeoutSeconds").filter(|s| !(1..=30).contains(s)) {
            let detail = "the timeout value must be between 1 and 30 seconds";
            out.push(FieldError::invalid(&path.child("timeoutSeconds"), seconds, detail));
        }
        for field in ["namespaceSelector", "objectSelector"] {
            meta::selector(out, &path.child(field), &hook[field]);
        }
        if self.mutating {
            let policy = text(hook, "reinvocationPolicy");
            format::one_of(out, &path.child("reinvocationPolicy"), policy, &["IfNeeded", "Never"]);
        }
        client(out, &path.child("clientConfig"), &hook["clientConfig"]);
        if demands.conditions {
            match_conditions(out, &path.child("matchConditions"), list(hook, "matchConditions"), false);
        }
    }
}

fn review_versions(out: &mut Errors, path: &FieldPath, versions: &[Value], demands: Demands) {
    let known = REVIEW_VERSIONS.join(", ");
    if versions.is_empty() {
        out.push(FieldError::required(path, format!("must specify one of {known}")));
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        let (path, text) = (path.index(i), version.as_str().unwrap_or(""));
        if versions[..i].contains(version) {
            out.push(FieldError::invalid(&path, text, "duplicate version"));
        } else {
            format::invalid(out, &path, text, dns1035_label(text));
        }
    }
    let is_known = |version: &Value| REVIEW_VERSIONS.contains(&version.as_str().unwrap_or(""));
    if demands.known_review_version && !versions.iter().any(is_known) {
        out.push(FieldError::invalid(path, versions.to_vec(), format!("must include at least one of {known}")));
    }
}

fn client(out: &mut Errors, path: &FieldPath, client: &Value) {
    match (has(client, "url"), has(client, "service")) {
        (true, false) => webhook_url(out, &path.child("url"), text(client, "url")),
        (false, true) => webhook_service(out, &path.child("service"), &client["service"]),
        _ => out.push(FieldError::required(path, "exactly one of url or service is required")),
    }
}

/// Where a webhook is, as `https://host/path`.
pub(super) fn webhook_url(out: &mut Errors, path: &FieldPath, url: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let is_scheme = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphabetic())
            && s.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c))
    };
    let (scheme, rest) = rest.split_once(':').filter(|(scheme, _)| is_scheme(scheme)).unwrap_or(("", rest));
    let authority = rest.strip_prefix("//").map_or("", |rest| rest.split('/').next().unwrap_or(""));
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if !scheme.eq_ignore_ascii_case("https") {
        let detail = format!("'https' is the only allowed URL scheme{FORM}");
        out.push(FieldError::invalid(path, scheme.to_lowercase(), detail));
    }
    if host.is_empty() {
        out.push(FieldError::invalid(path, host, format!("host must be specified{FORM}")));
    }
    if let Some(user) = user {
        out.push(FieldError::invalid(path, user, "user information is not permitted in the URL"));
    }
    for (part, named) in [(fragment, "fragments"), (query, "query parameters")] {
        if !part.is_empty() {
            out.push(FieldError::invalid(path, part, format!("{named} are not permitted in the URL")));
        }
    }
}

/// The Service that a webhook is behind.
pub(super) fn webhook_service(out: &mut Errors, path: &FieldPath, service: &Value) {
    // Upstream's check takes the two the other way round.
    for (field, named) in [("namespace", "name"), ("name", "namespace")] {
        if text(service, field).is_empty() {
            out.push(FieldError::required(&path.child(named), ""));
        }
    }
    let port = int(service, "port").unwrap_or(0);
    if !(1..=65535).contains(&port) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        out.push(FieldError::invalid(&path.child("port"), port, detail));
    }
    let (place, path) = (text(service, "path"), path.child("path"));
    if matches!(place, "" | "/") {
        return;
    }
    if place == "//" {
        out.push(FieldError::invalid(&path, place, "segment[0] may not be empty"));
        return;
    }
    if !place.starts_with('/') {
        out.push(FieldError::invalid(&path, place, "must start with a '/'"));
    }
    // What stands first is taken for the slash.
    let mut rest = place.chars();
    rest.next();
    let rest = rest.as_str();
    for (i, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            out.push(FieldError::invalid(&path, place, format!("segment[{i}] may not be empty")));
            continue;
        }
        for fault in dns1123_subdomain(step) {
            out.push(FieldError::invalid(&path, place, format!("segment[{i}]: {fault}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(mut configuration: Value) -> Vec<String> {
        let strategy = WebhookConfiguration { mutating: true };
        strategy.default(&mut configuration);
        strategy.validate_create(&configuration).iter().map(ToString::to_string).collect()
    }

    fn hook(client: Value) -> Value {
        json!({
            "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": client,
            "rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["pods"]}],
        })
    }

    #[test]
    fn a_hook_is_at_one_place() {
        let service = json!({"service": {"name": "s", "namespace": "n", "path": "/a"}});
        assert!(texts(json!({"webhooks": [hook(service)]})).is_empty());
        let got = texts(json!({"webhooks": [hook(json!({}))]}));
        assert_eq!(got, ["webhooks[0].clientConfig: Required value: exactly one of url or service is required"]);
        let got = texts(json!({"webhooks": [hook(json!({"url": "http://u@h?q"}))]}));
        assert_eq!(got.len(), 3, "{got:?}");
    }

    #[test]
    fn names_differ() {
        let service = json!({"service": {"name": "s", "namespace": "n"}});
        let got = texts(json!({"webhooks": [hook(service.clone()), hook(service)]}));
        assert_eq!(got, ["webhooks[1].name: Duplicate value: \"a.example.com\""]);
    }

    #[test]
    fn old_faults_may_stay() {
        let mut old = json!({"webhooks": [hook(json!({"url": "https://h"}))]});
        old["webhooks"][0]["sideEffects"] = "Some".into();
        let strategy = WebhookConfiguration { mutating: false };
        strategy.default(&mut old);
        assert!(strategy.validate_update(&old, &old).is_empty());
        assert_eq!(strategy.validate_create(&old).len(), 1);
    }
}

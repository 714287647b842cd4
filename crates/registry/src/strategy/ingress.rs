//! Ingress and IngressClass.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1035_label, dns1123_label, dns1123_subdomain};
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use crate::tree::{default, has, int, list, text};
use crate::validation::names::{domain_prefixed_path, path_segment, wildcard_subdomain};
use crate::validation::update::immutable;
use crate::validation::{Errors, format, ip};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
const MAX_CONTROLLER: usize = 250;
const NOT_AN_IP: &str = "must be a DNS name, not an IP address";

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ingress;

/// What old objects may keep that new ones may not have.
#[derive(Clone, Copy, Default)]
struct Allowed {
    secret_names: bool,
    wildcard_rules: bool,
    /// A Service's name that begins with a digit.
    service_names: bool,
}

impl Allowed {
    fn by(old: &Value) -> Self {
        let spec = &old["spec"];
        let secrets = list(spec, "tls").iter().map(|tls| text(tls, "secretName"));
        let paths = || list(spec, "rules").iter().flat_map(|rule| list(&rule["http"], "paths"));
        let services = paths().map(|path| text(&path["backend"]["service"], "name")).filter(|name| !name.is_empty());
        let is_wild = |rule: &&Value| text(rule, "host").contains('*');
        let is_wrong = |rule: &Value| {
            let mut out = Vec::new();
            rule_value(&mut out, &FieldPath::root(), rule, Self::default());
            !out.is_empty()
        };
        Self {
            secret_names: secrets.into_iter().any(|name| !secret_name(name).is_empty()),
            wildcard_rules: list(spec, "rules").iter().filter(is_wild).any(is_wrong),
            service_names: services
                .into_iter()
                .any(|name| dns1123_label(name).is_empty() && !dns1035_label(name).is_empty()),
        }
    }
}

impl Strategy for Ingress {
    fn prepare_for_create(&self, _: &StrategyContext<'_>, ingress: &mut Value) {
        ingress["status"] = json!({"loadBalancer": {}});
    }

    fn validate_create(&self, ingress: &Value) -> Vec<FieldError> {
        let mut out = spec(&ingress["spec"], Allowed::default());
        let class = ingress["spec"].get("ingressClassName").and_then(Value::as_str);
        if let (Some(annotated), Some(class)) = (object::annotation(ingress, CLASS_ANNOTATION), class)
            && annotated != class
        {
            let path = FieldPath::new("annotations").child(CLASS_ANNOTATION);
            let detail = "must match `ingressClassName` when both are specified";
            out.push(FieldError::invalid(&path, annotated, detail));
        }
        out
    }

    fn validate_update(&self, ingress: &Value, old: &Value) -> Vec<FieldError> {
        spec(&ingress["spec"], Allowed::by(old))
    }

    fn warnings(&self, ingress: &Value, old: Option<&Value>) -> Vec<String> {
        let annotated = object::annotation(ingress, CLASS_ANNOTATION).is_some();
        if old.is_some() || !annotated || has(&ingress["spec"], "ingressClassName") {
            return Vec::new();
        }
        vec![format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead")]
    }
}

fn secret_name(name: &str) -> Vec<String> {
    if name.is_empty() { Vec::new() } else { dns1123_subdomain(name) }
}

/// A host, plain or with a wildcard.
fn host_name(host: &str) -> Vec<String> {
    if host.contains('*') { wildcard_subdomain(host) } else { dns1123_subdomain(host) }
}

fn spec(spec: &Value, allowed: Allowed) -> Errors {
    let (mut out, path) = (Vec::new(), FieldPath::new("spec"));
    let rules = list(spec, "rules");
    if rules.is_empty() && !has(spec, "defaultBackend") {
        let given = spec.get("rules").cloned().unwrap_or_default();
        out.push(FieldError::invalid(&path, given, "either `defaultBackend` or `rules` must be specified"));
    }
    if has(spec, "defaultBackend") {
        backend(&mut out, &path.child("defaultBackend"), &spec["defaultBackend"], allowed);
    }
    for (i, rule) in rules.iter().enumerate() {
        let (path, host) = (path.child("rules").index(i), text(rule, "host"));
        if !host.is_empty() {
            if ip::parse(host).is_some() {
                out.push(FieldError::invalid(&path.child("host"), host, NOT_AN_IP));
            }
            format::invalid(&mut out, &path.child("host"), host, host_name(host));
        }
        if !host.contains('*') || !allowed.wildcard_rules {
            rule_value(&mut out, &path, rule, allowed);
        }
    }
    for (i, tls) in list(spec, "tls").iter().enumerate() {
        let path = path.child("tls").index(i);
        for (j, host) in list(tls, "hosts").iter().enumerate() {
            let host = host.as_str().unwrap_or("");
            format::invalid(&mut out, &path.child("hosts").index(j), host, host_name(host));
        }
        let secret = text(tls, "secretName");
        if !allowed.secret_names {
            format::invalid(&mut out, &path.child("secretName"), secret, secret_name(secret));
        }
    }
    if has(spec, "ingressClassName") {
        let class = text(spec, "ingressClassName");
        format::invalid(&mut out, &path.child("ingressClassName"), class, dns1123_subdomain(class));
    }
    out
}

fn rule_value(out: &mut Errors, path: &FieldPath, rule: &Value, allowed: Allowed) {
    if !has(rule, "http") {
        return;
    }
    let (paths, path) = (list(&rule["http"], "paths"), path.child("http").child("paths"));
    if paths.is_empty() {
        out.push(FieldError::required(&path, ""));
    }
    for (i, entry) in paths.iter().enumerate() {
        let path = path.index(i);
        if !has(entry, "pathType") {
            out.push(FieldError::required(&path.child("pathType"), "pathType must be specified"));
            continue;
        }
        let (place, place_path) = (text(entry, "path"), path.child("path"));
        let mut wrong = |detail: String| out.push(FieldError::invalid(&place_path, place, detail));
        match text(entry, "pathType") {
            "Exact" | "Prefix" => {
                if !place.starts_with('/') {
                    wrong("must be an absolute path".to_owned());
                }
                for part in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|part| place.contains(part)) {
                    wrong(format!("must not contain '{part}'"));
                }
                for end in ["/..", "/."].into_iter().filter(|end| place.ends_with(end)) {
                    wrong(format!("cannot end with '{end}'"));
                }
            }
            "ImplementationSpecific" => {
                if !place.is_empty() && !place.starts_with('/') {
                    wrong("must be an absolute path".to_owned());
                }
            }
            other => out.push(FieldError::not_supported(&path.child("pathType"), other, &PATH_TYPES)),
        }
        backend(out, &path.child("backend"), &entry["backend"], allowed);
    }
}

fn backend(out: &mut Errors, path: &FieldPath, backend: &Value, allowed: Allowed) {
    match (has(backend, "service"), has(backend, "resource")) {
        (false, false) => out.push(FieldError::invalid(path, "", "resource or service backend is required")),
        (true, true) => out.push(FieldError::invalid(path, "", "cannot set both resource and service backends")),
        (false, true) => local_reference(out, &path.child("resource"), &backend["resource"]),
        (true, false) => {
            let (service, service_path) = (&backend["service"], path.child("service"));
            let check = if allowed.service_names { dns1123_label } else { dns1035_label };
            format::required_name(out, &service_path.child("name"), text(service, "name"), check);
            let (port, port_path) = (&service["port"], service_path.child("port"));
            match (text(port, "name"), int(port, "number").unwrap_or(0)) {
                ("", 0) => out.push(FieldError::required(path, "port name or number is required")),
                ("", number) => format::port_number(out, &port_path.child("number"), number),
                (name, 0) => format::invalid(out, &port_path.child("name"), name, format::port_name(name)),
                _ => out.push(FieldError::invalid(path, "", "cannot set both port name & port number")),
            }
        }
    }
}

/// A reference to an object of any kind, in the same namespace.
fn local_reference(out: &mut Errors, path: &FieldPath, reference: &Value) {
    if has(reference, "apiGroup") {
        let group = text(reference, "apiGroup");
        format::invalid(out, &path.child("apiGroup"), group, dns1123_subdomain(group));
    }
    for field in ["kind", "name"] {
        format::required_name(out, &path.child(field), text(reference, field), path_segment);
    }
}

/// `status` of an Ingress.
pub(super) fn validate_status(ingress: &Value, old: &Value) -> Vec<FieldError> {
    load_balancer(ingress, old, |_, _, _| ())
}

/// What a load balancer has been given; `more` checks an entry's own fields, after its address.
pub(super) fn load_balancer(
    object: &Value,
    old: &Value,
    more: impl Fn(&mut Errors, &FieldPath, &Value),
) -> Vec<FieldError> {
    let mut out = Vec::new();
    let old = list(&old["status"]["loadBalancer"], "ingress");
    for (i, entry) in list(&object["status"]["loadBalancer"], "ingress").iter().enumerate() {
        let path = FieldPath::new("status.loadBalancer.ingress").index(i);
        let (address, host) = (text(entry, "ip"), text(entry, "hostname"));
        if !address.is_empty() && !old.iter().any(|o| text(o, "ip") == address) {
            ip::legacy(&mut out, &path.child("ip"), address);
        }
        more(&mut out, &path, entry);
        if !host.is_empty() {
            let path = path.child("hostname");
            format::invalid(&mut out, &path, host, dns1123_subdomain(host));
            if ip::parse(host).is_some() {
                out.push(FieldError::invalid(&path, host, NOT_AN_IP));
            }
        }
    }
    out
}

pub(super) fn status_warnings(ingress: &Value) -> Vec<String> {
    let path = FieldPath::new("status.loadBalancer.ingress");
    let entries = list(&ingress["status"]["loadBalancer"], "ingress").iter().enumerate();
    entries.filter_map(|(i, entry)| ip::warn(&path.index(i), text(entry, "ip"))).collect()
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IngressClass;

impl Strategy for IngressClass {
    fn default(&self, class: &mut Value) {
        if has(&class["spec"], "parameters") {
            default(&mut class["spec"]["parameters"], "scope", "Cluster");
        }
    }

    fn validate_create(&self, class: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &class["spec"], FieldPath::new("spec"));
        let (controller, controller_path) = (text(spec, "controller"), path.child("controller"));
        if controller.len() > MAX_CONTROLLER {
            out.push(FieldError::too_long(&controller_path, MAX_CONTROLLER));
        }
        domain_prefixed_path(&mut out, &controller_path, controller);
        if has(spec, "parameters") {
            parameters(&mut out, &path.child("parameters"), &spec["parameters"]);
        }
        out
    }

    fn validate_update(&self, class: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let path = FieldPath::new("spec.controller");
        let controller = |class: &Value| Value::from(text(&class["spec"], "controller"));
        immutable(&mut out, &path, Some(&controller(class)), Some(&controller(old)));
        out.extend(self.validate_create(class));
        out
    }
}

fn parameters(out: &mut Errors, path: &FieldPath, parameters: &Value) {
    local_reference(out, path, parameters);
    let namespace_path = path.child("namespace");
    match text(parameters, "scope") {
        "Cluster" if has(parameters, "namespace") => {
            out.push(FieldError::forbidden(&namespace_path, "`parameters.scope` is set to 'Cluster'"));
        }
        "Cluster" => {}
        "Namespace" if has(parameters, "namespace") => {
            let namespace = text(parameters, "namespace");
            format::invalid(out, &namespace_path, namespace, dns1123_label(namespace));
        }
        "Namespace" => out.push(FieldError::required(&namespace_path, "`parameters.scope` is set to 'Namespace'")),
        other => out.push(FieldError::not_supported(&path.child("scope"), other, &["Cluster", "Namespace"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn backends_and_paths() {
        let ingress = |path: &str, backend: Value| json!({"spec": {"rules": [{"http": {"paths": [{"path": path, "pathType": "Prefix", "backend": backend}]}}]}});
        let good = json!({"service": {"name": "a", "port": {"number": 80}}});
        assert!(Ingress.validate_create(&ingress("/", good.clone())).is_empty());
        assert_eq!(
            texts(&Ingress.validate_create(&ingress("/", json!({"service": {"name": "a"}})))),
            ["spec.rules[0].http.paths[0].backend: Required value: port name or number is required"]
        );
        assert_eq!(
            texts(&Ingress.validate_create(&ingress("/a/..", good))),
            ["spec.rules[0].http.paths[0].path: Invalid value: \"/a/..\": cannot end with '/..'"]
        );
    }

    #[test]
    fn hosts_are_names() {
        let ingress = |host: &str| json!({"spec": {"rules": [{"host": host}]}});
        assert!(Ingress.validate_create(&ingress("*.example.com")).is_empty());
        assert_eq!(texts(&Ingress.validate_create(&ingress("10.0.0.1"))).len(), 1);
        assert_eq!(texts(&Ingress.validate_create(&ingress("a.*"))).len(), 1);
    }

    #[test]
    fn a_class_keeps_its_controller() {
        let class = |controller: &str| json!({"spec": {"controller": controller}});
        assert!(IngressClass.validate_create(&class("example.com/a")).is_empty());
        assert_eq!(
            texts(&IngressClass.validate_update(&class("example.com/b"), &class("example.com/a"))),
            ["spec.controller: Invalid value: \"example.com/b\": field is immutable"]
        );
    }
}

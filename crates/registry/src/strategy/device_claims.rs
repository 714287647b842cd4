//! ResourceClaim, ResourceClaimTemplate and DeviceClass. That their selectors compile is not checked here: they are CEL.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, dns1123_subdomain, label_key, label_value};
use kybern_apimachinery::{Value, json};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::device_gates;
use super::device_selectors;
use super::status::reset_status;
use crate::tree::{has, int, list, list_mut, text};
use crate::validation::names::{attribute_name, driver_name, is_extended_resource};
use crate::validation::update::immutable;
use crate::validation::{Errors, format, meta};

const MAX_REQUESTS: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
const MAX_SELECTORS: usize = 32;
const MAX_EXPRESSION: usize = 10 << 10;
const MAX_PARAMETERS: usize = 10 << 10;
const MAX_RESERVED: usize = 256;
pub(super) const TAINT_EFFECTS: [&str; 2] = ["NoExecute", "NoSchedule"];

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ResourceClaim;

/// One device, where a request does not say how many.
fn default_requests(spec: &mut Value) {
    let devices = &mut spec["devices"];
    if !devices.is_object() {
        return;
    }
    for request in list_mut(devices, "requests") {
        if has(request, "exactly") {
            default_mode(&mut request["exactly"]);
        }
        list_mut(request, "firstAvailable").iter_mut().for_each(default_mode);
    }
}

fn default_mode(request: &mut Value) {
    if !request.is_object() {
        *request = json!({});
    }
    if text(request, "allocationMode").is_empty() {
        request["allocationMode"] = "ExactCount".into();
    }
    if text(request, "allocationMode") == "ExactCount" && int(request, "count").unwrap_or(0) == 0 {
        request["count"] = 1.into();
    }
}

impl Strategy for ResourceClaim {
    fn default(&self, claim: &mut Value) {
        if claim["spec"].is_object() {
            default_requests(&mut claim["spec"]);
        }
    }

    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, claim: &mut Value) {
        reset_status(claim);
        device_gates::drop_disabled(ctx, device_gates::OF_CLAIMS, claim, None);
    }

    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, claim: &mut Value, old: &Value) {
        device_gates::drop_disabled(ctx, device_gates::OF_CLAIMS, claim, Some(old));
    }

    fn validate(&self, claim: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        devices(&mut out, &FieldPath::new("spec.devices"), &claim["spec"]["devices"]);
        out
    }

    fn validate_update(&self, claim: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        immutable(&mut out, &FieldPath::new("spec"), claim.get("spec"), old.get("spec"));
        out
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ResourceClaimTemplate;

impl Strategy for ResourceClaimTemplate {
    fn default(&self, template: &mut Value) {
        if template["spec"]["spec"].is_object() {
            default_requests(&mut template["spec"]["spec"]);
        }
    }

    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, template: &mut Value) {
        device_gates::drop_disabled(ctx, device_gates::OF_TEMPLATES, template, None);
    }

    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, template: &mut Value, old: &Value) {
        device_gates::drop_disabled(ctx, device_gates::OF_TEMPLATES, template, Some(old));
    }

    fn validate(&self, template: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let metadata = &template["spec"]["metadata"];
        meta::labels(&mut out, &FieldPath::new("spec.metadata"), metadata, "labels");
        for (key, _) in crate::tree::map(metadata, "annotations") {
            let path = FieldPath::new("spec.metadata.annotations");
            format::invalid(&mut out, &path, key, label_key(&key.to_lowercase()));
        }
        devices(&mut out, &FieldPath::new("spec.spec.devices"), &template["spec"]["spec"]["devices"]);
        out
    }

    fn validate_update(&self, template: &Value, old: &Value) -> Vec<FieldError> {
        ResourceClaim.validate_update(template, old)
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DeviceClass;

impl Strategy for DeviceClass {
    fn prepare_for_create(&self, ctx: &StrategyContext<'_>, class: &mut Value) {
        device_gates::drop_disabled(ctx, device_gates::OF_CLASSES, class, None);
    }

    fn prepare_for_update(&self, ctx: &StrategyContext<'_>, class: &mut Value, old: &Value) {
        device_gates::drop_disabled(ctx, device_gates::OF_CLASSES, class, Some(old));
    }

    fn validate(&self, class: &Value) -> Vec<FieldError> {
        let (mut out, spec, path) = (Vec::new(), &class["spec"], FieldPath::new("spec"));
        selectors(&mut out, &path, spec);
        let configs = list(spec, "config");
        for (i, config) in configs.iter().enumerate() {
            opaque(&mut out, &path.child("config").index(i), config);
        }
        at_most(&mut out, &path.child("config"), configs, MAX_REQUESTS);
        let name = text(spec, "extendedResourceName");
        if has(spec, "extendedResourceName") && !is_extended_resource(name) {
            let path = path.child("extendedResourceName");
            out.push(FieldError::invalid(&path, name, "must be a valid extended resource name"));
        }
        out
    }
}

pub(super) fn at_most(out: &mut Errors, path: &FieldPath, items: &[Value], most: usize) {
    if items.len() > most {
        out.push(FieldError::too_many(path, items.len(), most));
    }
}

/// Items that differ in what `key` makes of them; the empty field is the item itself.
pub(super) fn unique<K: PartialEq + Into<Value>>(
    out: &mut Errors,
    path: &FieldPath,
    items: &[Value],
    field: &str,
    key: impl Fn(&Value) -> K,
) {
    for (i, item) in items.iter().enumerate() {
        if items[..i].iter().any(|earlier| key(earlier) == key(item)) {
            let path = path.index(i);
            out.push(FieldError::duplicate(&if field.is_empty() { path } else { path.child(field) }, key(item)));
        }
    }
}

fn name_of(item: &Value) -> &str {
    text(item, "name")
}

/// `devices` of a claim.
fn devices(out: &mut Errors, path: &FieldPath, devices: &Value) {
    let (requests, requests_path) = (list(devices, "requests"), path.child("requests"));
    for (i, request) in requests.iter().enumerate() {
        device_request(out, &requests_path.index(i), request);
    }
    at_most(out, &requests_path, requests, MAX_REQUESTS);
    unique(out, &requests_path, requests, "name", |request| name_of(request).to_owned());
    let (constraints, constraints_path) = (list(devices, "constraints"), path.child("constraints"));
    for (i, constraint) in constraints.iter().enumerate() {
        let path = constraints_path.index(i);
        references(out, &path.child("requests"), list(constraint, "requests"), requests);
        if has(constraint, "matchAttribute") {
            let name = text(constraint, "matchAttribute");
            let path = path.child("matchAttribute");
            if name.is_empty() {
                out.push(FieldError::required(&path, "name required"));
                continue;
            }
            attribute_name(out, &path, name);
            if !name.contains('/') {
                out.push(FieldError::invalid(&path, name, "must include a domain"));
            }
        } else {
            out.push(FieldError::required(&path.child("matchAttribute"), ""));
        }
    }
    at_most(out, &constraints_path, constraints, MAX_REQUESTS);
    let (configs, configs_path) = (list(devices, "config"), path.child("config"));
    for (i, config) in configs.iter().enumerate() {
        let path = configs_path.index(i);
        references(out, &path.child("requests"), list(config, "requests"), requests);
        opaque(out, &path, config);
    }
    at_most(out, &configs_path, configs, MAX_REQUESTS);
}

fn device_request(out: &mut Errors, path: &FieldPath, request: &Value) {
    format::invalid(out, &path.child("name"), name_of(request), dns1123_label(name_of(request)));
    let (choices, choices_path) = (list(request, "firstAvailable"), path.child("firstAvailable"));
    for (i, choice) in choices.iter().enumerate() {
        let path = choices_path.index(i);
        format::invalid(out, &path.child("name"), name_of(choice), dns1123_label(name_of(choice)));
        wanted(out, &path, choice);
    }
    at_most(out, &choices_path, choices, MAX_ALTERNATIVES);
    unique(out, &choices_path, choices, "name", |choice| name_of(choice).to_owned());
    let exactly = has(request, "exactly");
    if exactly {
        wanted(out, &path.child("exactly"), &request["exactly"]);
    }
    let one = "exactly one of `exactly` or `firstAvailable` is required";
    match (exactly, choices.is_empty()) {
        (false, true) => out.push(FieldError::required(path, one)),
        (true, false) => {
            out.push(FieldError::invalid(path, Value::Null, format!("{one}, but multiple fields are set")));
        }
        _ => {}
    }
}

/// What is asked of the devices of a request or of one of its alternatives.
fn wanted(out: &mut Errors, path: &FieldPath, request: &Value) {
    format::required_name(out, &path.child("deviceClassName"), text(request, "deviceClassName"), dns1123_subdomain);
    selectors(out, path, request);
    let (mode, count, count_path) =
        (text(request, "allocationMode"), int(request, "count").unwrap_or(0), path.child("count"));
    match mode {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            out.push(FieldError::invalid(&count_path, count, detail));
        }
        "ExactCount" if count <= 0 => {
            out.push(FieldError::invalid(&count_path, count, "must be greater than zero"));
        }
        mode => format::one_of(out, &path.child("allocationMode"), mode, &["All", "ExactCount"]),
    }
    for (i, toleration) in list(request, "tolerations").iter().enumerate() {
        self::toleration(out, &path.child("tolerations").index(i), toleration);
    }
}

fn toleration(out: &mut Errors, path: &FieldPath, toleration: &Value) {
    let (key, value, effect) = (text(toleration, "key"), text(toleration, "value"), text(toleration, "effect"));
    if !key.is_empty() {
        format::invalid(out, &path.child("key"), key, label_key(key));
    }
    let (operator, value_path) = (text(toleration, "operator"), path.child("value"));
    match operator {
        "Exists" if !value.is_empty() => {
            out.push(FieldError::invalid(&value_path, value, "must be empty for operator `Exists`"));
        }
        "Exists" => {}
        "Equal" => format::invalid(out, &value_path, value, label_value(value)),
        _ => format::required_one_of(out, &path.child("operator"), operator, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        format::one_of(out, &path.child("effect"), effect, &TAINT_EFFECTS);
    }
}

fn selectors(out: &mut Errors, path: &FieldPath, owner: &Value) {
    let (selectors, path) = (list(owner, "selectors"), path.child("selectors"));
    for (i, selector) in selectors.iter().enumerate() {
        let path = path.index(i).child("cel");
        if !has(selector, "cel") {
            out.push(FieldError::required(&path, ""));
        } else if text(&selector["cel"], "expression").len() > MAX_EXPRESSION {
            out.push(FieldError::too_long(&path.child("expression"), MAX_EXPRESSION));
        } else {
            device_selectors::validate(out, &path.child("expression"), text(&selector["cel"], "expression"));
        }
    }
    at_most(out, &path, selectors, MAX_SELECTORS);
}

/// Requests, or alternatives of them as `request/alternative`, that a constraint or a configuration is for.
fn references(out: &mut Errors, path: &FieldPath, names: &[Value], requests: &[Value]) {
    const DETAIL: &str =
        "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let known = |name: &str| {
        let (request, choice) = name.split_once('/').map_or((name, None), |(request, choice)| (request, Some(choice)));
        let found = requests.iter().rfind(|known| name_of(known) == request);
        found.is_some_and(|request| {
            choice.is_none_or(|choice| list(request, "firstAvailable").iter().any(|c| name_of(c) == choice))
        })
    };
    for (i, name) in names.iter().enumerate() {
        let (path, name) = (path.index(i), name.as_str().unwrap_or(""));
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() > 2 {
            out.push(FieldError::invalid(&path, name, DETAIL));
        }
        for part in &parts {
            format::invalid(out, &path, part, dns1123_label(part));
        }
        if parts.len() > 2 || !known(name) {
            out.push(FieldError::invalid(&path, name, DETAIL));
        }
    }
    at_most(out, path, names, MAX_REQUESTS);
    unique(out, path, names, "", |name| name.as_str().unwrap_or("").to_owned());
}

/// What only a driver understands.
fn opaque(out: &mut Errors, path: &FieldPath, config: &Value) {
    let path = path.child("opaque");
    if !has(config, "opaque") {
        out.push(FieldError::required(&path, ""));
        return;
    }
    let opaque = &config["opaque"];
    driver_name(out, &path.child("driver"), text(opaque, "driver"));
    let path = path.child("parameters");
    match opaque.get("parameters") {
        None | Some(Value::Null) => out.push(FieldError::required(&path, "")),
        Some(parameters) if parameters.to_string().len() > MAX_PARAMETERS => {
            out.push(FieldError::too_long(&path, MAX_PARAMETERS));
        }
        Some(Value::Object(_)) => {}
        Some(_) => out.push(FieldError::invalid(&path, "<value omitted>", "must be a valid JSON object")),
    }
}

/// `status` of a claim: who has it reserved, and what was allocated, once.
pub(super) fn validate_status(claim: &Value, old: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    let (status, path) = (&claim["status"], FieldPath::new("status"));
    let (reserved, reserved_path) = (list(status, "reservedFor"), path.child("reservedFor"));
    for (i, consumer) in reserved.iter().enumerate() {
        for field in ["resource", "name", "uid"] {
            if text(consumer, field).is_empty() {
                out.push(FieldError::required(&reserved_path.index(i).child(field), ""));
            }
        }
    }
    at_most(&mut out, &reserved_path, reserved, MAX_RESERVED);
    unique(&mut out, &reserved_path, reserved, "uid", |consumer| text(consumer, "uid").to_owned());
    let (allocated, was) = (has(status, "allocation"), has(&old["status"], "allocation"));
    if !reserved.is_empty() && !allocated {
        let detail = "may not be specified when `allocated` is not set";
        out.push(FieldError::forbidden(&reserved_path, detail));
    } else if kybern_apimachinery::object::is_deleting(claim) {
        let before = list(&old["status"], "reservedFor");
        if reserved.iter().any(|consumer| !before.contains(consumer)) {
            let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            out.push(FieldError::forbidden(&reserved_path, detail));
        }
    }
    if allocated && was {
        let (new, old) = (status.get("allocation"), old["status"].get("allocation"));
        immutable(&mut out, &path.child("allocation"), new, old);
    } else if allocated {
        let requests = list(&claim["spec"]["devices"], "requests");
        let path = path.child("allocation").child("devices").child("results");
        let results = list(&status["allocation"]["devices"], "results");
        for (i, result) in results.iter().enumerate() {
            let path = path.index(i);
            let request = [Value::from(text(result, "request"))];
            let mut faults = Vec::new();
            references(&mut faults, &path.child("request"), &request, requests);
            // The request is no list.
            for fault in &mut faults {
                fault.path = path.child("request");
            }
            out.extend(faults);
            driver_name(&mut out, &path.child("driver"), text(result, "driver"));
            super::device_slices::pool_name(&mut out, &path.child("pool"), text(result, "pool"));
            let device = text(result, "device");
            format::invalid(&mut out, &path.child("device"), device, dns1123_label(device));
        }
        at_most(&mut out, &path, results, MAX_REQUESTS);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(devices: Value) -> Vec<String> {
        let mut claim = json!({"spec": {"devices": devices}});
        ResourceClaim.default(&mut claim);
        ResourceClaim.validate(&claim).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_request_is_exact_or_has_alternatives() {
        let exact = json!({"name": "r", "exactly": {"deviceClassName": "c"}});
        assert!(texts(json!({"requests": [exact]})).is_empty());
        assert_eq!(
            texts(json!({"requests": [{"name": "r"}]})),
            ["spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required"]
        );
        assert_eq!(
            texts(json!({"requests": [exact, exact]})),
            ["spec.devices.requests[1].name: Duplicate value: \"r\""]
        );
    }

    #[test]
    fn constraints_name_requests() {
        let choice = json!({"name": "a", "deviceClassName": "c"});
        let constraint = |name: &str| json!({"requests": [name], "matchAttribute": "x.io/a"});
        let devices = |name: &str| json!({"requests": [{"name": "r", "firstAvailable": [choice]}], "constraints": [constraint(name)]});
        assert!(texts(devices("r/a")).is_empty());
        assert_eq!(texts(devices("r/b")).len(), 1);
    }

    #[test]
    fn a_claim_is_allocated_once() {
        let claim = |device: &str| {
            json!({"spec": {"devices": {"requests": [{"name": "r"}]}}, "status": {"allocation": {"devices": {"results": [
                {"request": "r", "driver": "d", "pool": "p", "device": device},
            ]}}}})
        };
        assert!(validate_status(&claim("a"), &json!({})).is_empty());
        assert_eq!(validate_status(&claim("b"), &claim("a")).len(), 1);
    }
}

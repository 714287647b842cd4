//! `clusterIP`, `clusterIPs` and `ipFamilies`: checked by themselves before anything is claimed, and again with the rest
//! (`ValidateServiceClusterIPsRelatedFields`).

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use super::is_external_name;
use crate::tree::{has, list, text};
use crate::validation::{Errors, format, ip};

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];

pub(super) fn is_headless(spec: &Value) -> bool {
    matches!(list(spec, "clusterIPs"), [one] if one == "None")
}

pub(super) fn validate(spec: &Value, old: Option<&Value>) -> Errors {
    let mut out = Errors::new();
    if is_external_name(spec) {
        return out;
    }
    let path = FieldPath::new("spec");
    let (ips_path, families_path) = (path.child("clusterIPs"), path.child("ipFamilies"));
    let (single, ips, families) = (text(spec, "clusterIP"), list(spec, "clusterIPs"), list(spec, "ipFamilies"));
    let all = |detail: &str| FieldError::invalid(&ips_path, spec["clusterIPs"].clone(), detail);
    match ips.first() {
        None if !single.is_empty() => out.push(FieldError::required(&ips_path, "")),
        Some(_) if single.is_empty() => out.push(all("must be empty when `clusterIP` is not specified")),
        Some(first) if first != single => out.push(all("first value must match `clusterIP`")),
        _ => {}
    }
    for (i, family) in families.iter().enumerate() {
        let path = families_path.index(i);
        format::one_of(&mut out, &path, family.as_str().unwrap_or(""), &FAMILIES);
        if families[..i].contains(family) {
            out.push(FieldError::duplicate(&path, family.clone()));
        }
    }
    if has(spec, "ipFamilyPolicy") {
        format::one_of(&mut out, &path.child("ipFamilyPolicy"), text(spec, "ipFamilyPolicy"), &POLICIES);
    }
    let (mut malformed, kept) = (false, old.map_or(&[][..], |old| list(old, "clusterIPs")));
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && ip == "None" {
            if ips.len() > 1 {
                malformed = true;
                out.push(all("'None' must be the first and only value"));
            }
        } else if !kept.contains(ip) {
            malformed |= ip::legacy(&mut out, &ips_path.index(i), ip.as_str().unwrap_or("")).is_none();
        }
    }
    if ips.len() > 2 {
        out.push(all("may only hold up to 2 values"));
    }
    if malformed {
        return out;
    }
    let v6 = |ip: &Value| ip.as_str().and_then(ip::parse).is_some_and(|ip| ip.to_canonical().is_ipv6());
    if ips.len() > 1 && ips.iter().all(v6) == ips.iter().any(v6) {
        out.push(all("may specify no more than one IP for each IP family"));
    }
    if !is_headless(spec) {
        for (i, (ip, family)) in ips.iter().zip(families).enumerate() {
            let wrong = match family.as_str() {
                Some("IPv4") => v6(ip),
                Some("IPv6") => !v6(ip),
                _ => false,
            };
            if wrong {
                let family = family.as_str().unwrap_or("");
                let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
                out.push(FieldError::invalid(&ips_path.index(i), ip.clone(), detail));
            }
        }
    }
    out
}

/// What an update may not do to the addresses and families that a Service has.
pub(super) fn validate_update(spec: &Value, old: &Value) -> Errors {
    let mut out = Errors::new();
    if is_external_name(spec) || is_external_name(old) {
        return out;
    }
    let (headless, was_headless) = (is_headless(spec), is_headless(old));
    if !(headless && was_headless) {
        list_update(&mut out, spec, old, &IPS);
    }
    if !headless && !was_headless {
        list_update(&mut out, spec, old, &IP_FAMILIES);
    }
    out
}

/// How upstream tells of one of the two lists.
struct Told {
    field: &'static str,
    one: &'static str,
    /// The list that is shown where a list of another length begins otherwise.
    shown: &'static str,
    /// Whether a changed item is told at its own place, or at the first.
    in_place: bool,
}

const IPS: Told = Told { field: "clusterIPs", one: "clusterIP", shown: "clusterIPs", in_place: true };
const IP_FAMILIES: Told = Told { field: "ipFamilies", one: "ipFamily", shown: "clusterIPs", in_place: false };

fn list_update(out: &mut Errors, spec: &Value, old: &Value, told: &Told) {
    let path = FieldPath::new("spec").child(told.field);
    let (new, before) = (list(spec, told.field), list(old, told.field));
    const FIXED: &str = "may not change once set";
    if new.len() == before.len() {
        for (i, _) in new.iter().zip(before).enumerate().filter(|(_, (new, old))| new != old) {
            let path = path.index(if told.in_place { i } else { 0 });
            out.push(FieldError::invalid(&path, spec[told.field].clone(), FIXED));
        }
        return;
    }
    if new.len() < before.len() && list(spec, "clusterIPs").is_empty() {
        let detail = format!("primary {} can not be unset", told.one);
        out.push(FieldError::invalid(&path.index(0), spec[told.field].clone(), detail));
    }
    if let (Some(first), Some(was)) = (new.first(), before.first())
        && first != was
    {
        out.push(FieldError::invalid(&path.index(0), spec[told.shown].clone(), FIXED));
    }
    let policy = text(spec, "ipFamilyPolicy");
    if before.len() > 1 && new.len() == 1 && policy != "SingleStack" {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {}", told.one);
        out.push(FieldError::invalid(&FieldPath::new("spec.ipFamilyPolicy"), policy, detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn texts(errors: &[FieldError]) -> String {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn addresses_agree_with_each_other() {
        let check = |spec: Value, expect: &str| assert_eq!(texts(&validate(&spec, None)), expect);
        check(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}), "");
        check(
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]}),
            "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`",
        );
        check(
            json!({"clusterIPs": ["10.0.0.2"]}),
            "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: must be empty when `clusterIP` is not specified",
        );
        check(
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]}),
            "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family",
        );
        check(
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"]}),
            "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
        );
        check(json!({"ipFamilies": ["IPv4", "IPv4"]}), "spec.ipFamilies[1]: Duplicate value: \"IPv4\"");
        let old = json!({"clusterIPs": ["x"]});
        assert_eq!(texts(&validate(&json!({"clusterIP": "x", "clusterIPs": ["x"]}), Some(&old))), "");
    }

    #[test]
    fn the_address_stays() {
        let spec = |ip: &str| json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"]});
        let fault = "spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set";
        assert_eq!(texts(&validate_update(&spec("10.0.0.2"), &spec("10.0.0.1"))), fault);
        assert_eq!(texts(&validate_update(&json!({"type": "ExternalName"}), &spec("10.0.0.1"))), "");
    }
}

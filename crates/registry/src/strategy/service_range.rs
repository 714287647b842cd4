//! IPAddress and ServiceCIDR.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::dns1123_subdomain;
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::status::reset_status;
use crate::tree::{has, list, text};
use crate::validation::names::path_segment;
use crate::validation::update::immutable;
use crate::validation::{Errors, format, ip};

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IpAddress;

impl Strategy for IpAddress {
    /// The address itself, in its canonical form.
    fn validate_name(&self, name: &str) -> Vec<String> {
        ip::strict(name)
    }

    fn validate(&self, address: &Value) -> Vec<FieldError> {
        let (mut out, path) = (Vec::new(), FieldPath::new("spec.parentRef"));
        if !has(&address["spec"], "parentRef") {
            return vec![FieldError::required(&path, "")];
        }
        let parent = &address["spec"]["parentRef"];
        let group = text(parent, "group");
        if !group.is_empty() {
            format::invalid(&mut out, &path.child("group"), group, dns1123_subdomain(group));
        }
        for field in ["resource", "name"] {
            format::required_name(&mut out, &path.child(field), text(parent, field), path_segment);
        }
        let namespace = text(parent, "namespace");
        format::invalid(&mut out, &path.child("namespace"), namespace, path_segment(namespace));
        out
    }

    fn validate_update(&self, address: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        let path = FieldPath::new("spec.parentRef");
        immutable(&mut out, &path, address["spec"].get("parentRef"), old["spec"].get("parentRef"));
        out
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn prepare_for_create(&self, _: &StrategyContext<'_>, range: &mut Value) {
        reset_status(range);
    }

    fn validate_create(&self, range: &Value) -> Vec<FieldError> {
        ranges(list(&range["spec"], "cidrs"))
    }

    fn validate_update(&self, range: &Value, old: &Value) -> Vec<FieldError> {
        let (new, old) = (list(&range["spec"], "cidrs"), list(&old["spec"], "cidrs"));
        let (mut out, path) = (Vec::new(), FieldPath::new("spec.cidrs"));
        if new.len() == old.len() || (old.len() == 1 && new.len() == 2) {
            for (i, (new, old)) in new.iter().zip(old).enumerate() {
                immutable(&mut out, &path.index(i), Some(new), Some(old));
            }
        } else {
            out.push(FieldError::invalid(&path, new.to_vec(), "field is immutable"));
        }
        // A second family may be added.
        if old.len() == 1 && new.len() == 2 {
            out.extend(ranges(new));
        }
        out
    }
}

fn ranges(ranges: &[Value]) -> Errors {
    let (mut out, path) = (Vec::new(), FieldPath::new("spec.cidrs"));
    if ranges.is_empty() {
        out.push(FieldError::required(&path, "at least one CIDR required"));
    }
    if ranges.len() > 2 {
        let given = kybern_apimachinery::json!({"CIDRs": ranges});
        out.push(FieldError::invalid(&path, given, "may only hold up to 2 values"));
    }
    for (i, range) in ranges.iter().enumerate() {
        let text = range.as_str().unwrap_or("");
        format::invalid(&mut out, &path.index(i), text, ip::strict_cidr(text));
    }
    let family = |range: &Value| ip::parse_cidr(range.as_str()?).map(|(_, net)| net.addr().is_ipv4());
    if let [first, second] = ranges
        && family(first).is_some()
        && family(first) == family(second)
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        out.push(FieldError::invalid(&path, ranges.to_vec(), detail));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn an_address_is_its_name() {
        assert!(IpAddress.validate_name("2001:db8::5").is_empty());
        assert!(!IpAddress.validate_name("2001:DB8::5").is_empty());
    }

    #[test]
    fn a_range_gains_its_second_family_alone() {
        let range = |cidrs: Value| json!({"spec": {"cidrs": cidrs}});
        let one = range(json!(["10.0.0.0/24"]));
        assert!(ServiceCidr.validate_create(&one).is_empty());
        assert!(ServiceCidr.validate_update(&range(json!(["10.0.0.0/24", "2001:db8::/64"])), &one).is_empty());
        assert_eq!(ServiceCidr.validate_update(&range(json!(["10.0.0.0/24", "10.1.0.0/24"])), &one).len(), 1);
        assert_eq!(ServiceCidr.validate_update(&range(json!(["10.1.0.0/24"])), &one).len(), 1);
        assert_eq!(ServiceCidr.validate_create(&range(json!([]))).len(), 1);
    }
}

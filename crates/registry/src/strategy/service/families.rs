//! `ipFamilies` and `ipFamilyPolicy`, where the client left them open (`initIPFamilyFields`).

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, json};

use super::{addresses, is_external_name};
use crate::tree::{has, list, map, text};
use crate::validation::{Errors, ip};

/// A spec asked for, what it replaces, and the families that this cluster's Services have, the default one first.
pub(super) struct Families<'a> {
    pub spec: &'a mut Value,
    pub old: Option<&'a Value>,
    pub families: &'a [&'static str],
}

fn same(a: &Value, b: &Value, field: &str) -> bool {
    list(a, field) == list(b, field)
}

/// Whether an update leaves a Service as it is that prefers two families: it is not changed when the cluster's families are.
fn stays_preferring(spec: &Value, old: &Value) -> bool {
    text(spec, "ipFamilyPolicy") == "PreferDualStack"
        && matches!(text(old, "ipFamilyPolicy"), "" | "PreferDualStack")
        && text(spec, "type") == text(old, "type")
        && matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer")
        && same(spec, old, "clusterIPs")
        && same(spec, old, "ipFamilies")
}

fn family_of(ip: &str) -> &'static str {
    if ip::parse(ip).is_some_and(|ip| ip.to_canonical().is_ipv4()) { "IPv4" } else { "IPv6" }
}

impl Families<'_> {
    /// Fills in both fields; answers what cannot be.
    pub(super) fn fill(mut self) -> Result<(), Errors> {
        if is_external_name(self.spec) || self.old.is_some_and(|old| stays_preferring(self.spec, old)) {
            return Ok(());
        }
        let selects = map(self.spec, "selector").next().is_some();
        let free = text(self.spec, "clusterIP") == "None" && !selects;
        if !has(self.spec, "ipFamilyPolicy") {
            let before = self.old.map_or("", |old| text(old, "ipFamilyPolicy"));
            let policy = match before {
                "" if free => "RequireDualStack",
                "" => "SingleStack",
                kept => kept,
            };
            self.spec["ipFamilyPolicy"] = policy.into();
        }
        let errors = addresses::validate(self.spec, self.old);
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut errors = self.follow_policy();
        errors.extend(self.infer());
        if !errors.is_empty() {
            return Err(errors);
        }
        // A headless Service without selector may have endpoints of any family.
        if free {
            if list(self.spec, "ipFamilies").is_empty() {
                self.spec["ipFamilies"] = json!([self.families[0]]);
            }
            if let [one] = list(self.spec, "ipFamilies")
                && text(self.spec, "ipFamilyPolicy") != "SingleStack"
            {
                let other = if one == "IPv4" { "IPv6" } else { "IPv4" };
                self.spec["ipFamilies"] = json!([one, other]);
            }
            return Ok(());
        }
        let errors = self.unconfigured();
        if !errors.is_empty() {
            return Err(errors);
        }
        if list(self.spec, "ipFamilies").is_empty() {
            self.spec["ipFamilies"] = json!([self.families[0]]);
        }
        if self.families.len() == 2
            && text(self.spec, "ipFamilyPolicy") != "SingleStack"
            && let [one] = list(self.spec, "ipFamilies")
        {
            let other = if one == "IPv4" { "IPv6" } else { "IPv4" };
            self.spec["ipFamilies"] = json!([one, other]);
        }
        Ok(())
    }

    fn policy_fault(&self, detail: &str) -> FieldError {
        FieldError::invalid(&FieldPath::new("spec.ipFamilyPolicy"), text(self.spec, "ipFamilyPolicy"), detail)
    }

    /// A policy of one family drops the second of each; another keeps both.
    fn follow_policy(&mut self) -> Errors {
        let mut errors = Errors::new();
        let single = text(self.spec, "ipFamilyPolicy") == "SingleStack";
        for (field, released, several) in [
            ("clusterIPs", "cluster IP", "multiple cluster IPs are specified"),
            ("ipFamilies", "IP family", "multiple IP families are specified"),
        ] {
            let given = list(self.spec, field).len();
            if let Some(old) = self.old {
                let unchanged = same(self.spec, old, field);
                if single && unchanged && given > 1 {
                    self.spec[field] = json!([list(self.spec, field)[0]]);
                } else if !single && given != 0 && given < list(old, field).len() {
                    errors
                        .push(self.policy_fault(&format!("must be 'SingleStack' to release the secondary {released}")));
                }
            }
            if single && list(self.spec, field).len() == 2 {
                let detail = format!("must be 'RequireDualStack' or 'PreferDualStack' when {several}");
                errors.push(self.policy_fault(&detail));
            }
        }
        errors
    }

    /// The families of the addresses that are given.
    fn infer(&mut self) -> Errors {
        let mut errors = Errors::new();
        let ips: Vec<Value> = list(self.spec, "clusterIPs").to_vec();
        for (i, ip) in ips.iter().filter_map(Value::as_str).enumerate().take_while(|(_, ip)| *ip != "None") {
            let mut families = list(self.spec, "ipFamilies").to_vec();
            if i < families.len() {
                continue;
            }
            let family = family_of(ip);
            if self.families.contains(&family) {
                families.push(family.into());
                self.spec["ipFamilies"] = families.into();
            } else {
                let path = FieldPath::new("spec.clusterIPs").index(i);
                errors.push(FieldError::invalid(
                    &path,
                    ips.clone(),
                    format!("{family} is not configured on this cluster"),
                ));
            }
        }
        errors
    }

    /// What this cluster cannot give.
    fn unconfigured(&self) -> Errors {
        let mut errors = Errors::new();
        if text(self.spec, "ipFamilyPolicy") == "RequireDualStack" && self.families.len() < 2 {
            errors.push(self.policy_fault("this cluster is not configured for dual-stack services"));
        }
        let known = |family: &Value| self.families.iter().any(|f| family == f);
        for (i, other) in list(self.spec, "ipFamilies").iter().enumerate().filter(|(_, f)| !known(f)) {
            let path = FieldPath::new("spec.ipFamilies").index(i);
            errors.push(FieldError::invalid(&path, other.clone(), "not configured on this cluster"));
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(mut spec: Value, old: Option<Value>) -> Result<(Value, Value), String> {
        let families = Families { spec: &mut spec, old: old.as_ref(), families: &["IPv4"] };
        families.fill().map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        Ok((spec["ipFamilies"].clone(), spec["ipFamilyPolicy"].clone()))
    }

    #[test]
    fn what_is_open_follows_from_the_rest() {
        let selector = json!({"a": "b"});
        assert_eq!(filled(json!({"type": "ClusterIP"}), None).unwrap(), (json!(["IPv4"]), json!("SingleStack")));
        let headless = json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]});
        assert_eq!(filled(headless.clone(), None).unwrap(), (json!(["IPv4", "IPv6"]), json!("RequireDualStack")));
        let mut selecting = headless;
        selecting["selector"] = selector;
        assert_eq!(filled(selecting, None).unwrap(), (json!(["IPv4"]), json!("SingleStack")));
        let prefers = json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"});
        assert_eq!(filled(prefers, None).unwrap(), (json!(["IPv4"]), json!("PreferDualStack")));
    }

    #[test]
    fn what_the_cluster_has_not_is_refused() {
        let refused = |spec: Value, expect: &str| assert_eq!(filled(spec, None).unwrap_err(), expect);
        refused(
            json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack"}),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
        );
        refused(
            json!({"type": "ClusterIP", "clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}),
            "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster",
        );
        refused(
            json!({"type": "ClusterIP", "ipFamilies": ["IPv4", "IPv6"]}),
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
        );
    }

    #[test]
    fn a_policy_survives_an_update_that_does_not_name_it() {
        let old = json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "PreferDualStack"});
        let mut new = old.clone();
        crate::tree::drop_field(&mut new, "ipFamilyPolicy");
        assert_eq!(filled(new, Some(old)).unwrap().1, "PreferDualStack");
    }
}

//! Which devices a taint is on, and who bears it.

use k8s_openapi::api::resource::v1::DeviceToleration;
use k8s_openapi::api::resource::v1alpha3::DeviceTaintRule;

/// A taint of a device, whoever has put it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTaint<'a> {
    pub key: &'a str,
    pub value: &'a str,
    pub effect: &'a str,
}

impl<'a> DeviceTaint<'a> {
    /// One that its driver publishes.
    pub fn of_driver(taint: &'a k8s_openapi::api::resource::v1::DeviceTaint) -> Self {
        Self { key: &taint.key, value: taint.value.as_deref().unwrap_or(""), effect: &taint.effect }
    }

    /// One that an administrator puts on what a rule selects.
    pub fn of_rule(rule: &'a DeviceTaintRule) -> Self {
        let taint = &rule.spec.taint;
        Self { key: &taint.key, value: taint.value.as_deref().unwrap_or(""), effect: &taint.effect }
    }

    pub fn is_tolerated(&self, toleration: &DeviceToleration) -> bool {
        let matches =
            |text: &Option<String>, of: &str| text.as_deref().is_none_or(|text| text.is_empty() || text == of);
        matches(&toleration.effect, self.effect)
            && matches(&toleration.key, self.key)
            && match toleration.operator.as_deref().unwrap_or("") {
                "" | "Equal" => toleration.value.as_deref().unwrap_or("") == self.value,
                "Exists" => true,
                _ => false,
            }
    }
}

/// Whether a rule is about a device; one without a selector is about none.
pub fn selects(rule: &DeviceTaintRule, driver: &str, pool: &str, device: &str) -> bool {
    let matches = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
    rule.spec.device_selector.as_ref().is_some_and(|selector| {
        matches(&selector.driver, driver) && matches(&selector.pool, pool) && matches(&selector.device, device)
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::resource::v1alpha3::{DeviceTaint as RuleTaint, DeviceTaintRuleSpec, DeviceTaintSelector};

    use super::*;

    #[test]
    fn what_a_toleration_does_not_say_it_does_not_ask_for() {
        let taint = DeviceTaint { key: "bad", value: "yes", effect: "NoExecute" };
        // Key, operator, value and effect of a toleration.
        for (parts, expect) in [
            (["bad", "Equal", "yes", "NoExecute"], true),
            (["bad", "", "yes", ""], true),
            (["bad", "Equal", "no", ""], false),
            (["bad", "Exists", "", "NoSchedule"], false),
            (["other", "Exists", "", ""], false),
            (["", "Exists", "", ""], true),
            (["", "Equal", "", ""], false),
            (["", "In", "yes", ""], false),
        ] {
            let [key, operator, value, effect] =
                parts.map(|part| Some(part.to_owned()).filter(|part| !part.is_empty()));
            let toleration = DeviceToleration { key, operator, value, effect, toleration_seconds: None };
            assert_eq!(taint.is_tolerated(&toleration), expect, "{parts:?}");
        }
    }

    #[test]
    fn a_rule_selects_by_all_that_it_names() {
        let rule = |selector: Option<[&str; 3]>| DeviceTaintRule {
            spec: DeviceTaintRuleSpec {
                device_selector: selector.map(|names| {
                    let [driver, pool, device] =
                        names.map(|name| Some(name.to_owned()).filter(|name| !name.is_empty()));
                    DeviceTaintSelector { driver, pool, device }
                }),
                taint: RuleTaint::default(),
            },
            ..DeviceTaintRule::default()
        };
        for (selector, expect) in [
            (None, false),
            (Some(["", "", ""]), true),
            (Some(["d", "p", "x"]), true),
            (Some(["d", "p", "y"]), false),
            (Some(["", "q", ""]), false),
            (Some(["e", "", ""]), false),
        ] {
            assert_eq!(selects(&rule(selector), "d", "p", "x"), expect, "{selector:?}");
        }
    }
}

//! The expressions by which DeviceClasses and ResourceClaims select devices (`k8s.io/dynamic-resource-allocation/cel`).

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use kybern_apimachinery::quantity::Quantity;

use crate::error::EvalError;
use crate::functions::semver::Semver;
use crate::map::Map;
use crate::opaque::Opaque;
use crate::{DeclKind, DeclType, Env, Limits, Program, Value, Variables};

/// What one evaluation may cost.
pub const MAX_COST: u64 = 1_000_000;
/// Attributes and capacities of a device, and the characters of an attribute's value and of a driver's name.
const MAX_ATTRIBUTES: i64 = 32;
const MAX_VALUE: i64 = 64;
const MAX_DRIVER: i64 = 63;

/// With the variable `device`.
pub static ENV: LazyLock<Env> = LazyLock::new(|| {
    let bounded = |of: DeclType, max_elements: i64| DeclType { max_elements, ..of };
    let by_domain = |of: DeclType| {
        let by_name = bounded(DeclType::map(of), MAX_ATTRIBUTES);
        bounded(DeclType::map(by_name), MAX_ATTRIBUTES)
    };
    // Of what type an attribute is shows when the expression is evaluated.
    let attribute = bounded(DeclType::new(DeclKind::Dyn, 1), MAX_VALUE);
    let device = DeclType::object(
        "kubernetes.DRADevice",
        [
            ("driver", bounded(DeclType::string(), MAX_DRIVER)),
            ("attributes", by_domain(attribute)),
            ("capacity", by_domain(DeclType::object("kubernetes.Quantity", []))),
            ("allowMultipleAllocations", bounded(DeclType::bool(), 1)),
        ],
    );
    Env::kubernetes().with_bindings().with_declared("device", Arc::new(device))
});

/// A device as an expression sees it. A name without a domain is in its driver's.
#[derive(Clone, Debug, Default)]
pub struct Device<'a> {
    pub driver: &'a str,
    pub attributes: Vec<(&'a str, Attribute<'a>)>,
    pub capacity: Vec<(&'a str, Quantity)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute<'a> {
    Bool(bool),
    Int(i64),
    String(&'a str),
    Version(&'a str),
}

impl<'a> Device<'a> {
    /// Whether an expression selects the device, and what it cost to tell; an error says why that cannot be told.
    pub fn is_selected_by(&self, program: &Program) -> Result<(bool, u64), String> {
        let value = self.value().map_err(|e| e.to_string())?;
        let limits = Limits { cost: MAX_COST, ..Limits::default() };
        let evaluation = program.eval(&Variables::new().with("device", value), limits);
        let result = evaluation.result.map_err(|e| e.to_string())?;
        let selected = result.as_bool();
        let selected =
            selected.ok_or_else(|| format!("CEL expression must return a boolean, got {}", result.type_name()));
        Ok((selected?, evaluation.cost))
    }

    fn value(&self) -> Result<Value<'a>, EvalError> {
        let attribute = |of: &Attribute<'a>| {
            Ok(match *of {
                Attribute::Bool(b) => Value::Bool(b),
                Attribute::Int(i) => Value::Int(i),
                Attribute::String(text) => Value::borrowed(text),
                Attribute::Version(text) => {
                    let version =
                        Semver::parse(text).map_err(|e| EvalError::new(format!("parse semantic version: {e}")))?;
                    Value::Opaque(Arc::new(Opaque::Semver(version)))
                }
            })
        };
        let attributes = self.attributes.iter().map(|(name, of)| Ok((*name, attribute(of)?)));
        let attributes = attributes.collect::<Result<Vec<_>, EvalError>>()?;
        let quantity = |quantity: &Quantity| Value::Opaque(Arc::new(Opaque::Quantity(*quantity)));
        let capacity = self.capacity.iter().map(|(name, of)| (*name, quantity(of))).collect();
        Ok(Value::Map(Map::from_pairs([
            ("driver", Value::borrowed(self.driver)),
            ("attributes", self.by_domain(attributes)),
            ("capacity", self.by_domain(capacity)),
            ("allowMultipleAllocations", Value::Bool(false)),
        ])))
    }

    /// Of a domain that the device has nothing of there is an empty map.
    fn by_domain(&self, named: Vec<(&'a str, Value<'a>)>) -> Value<'a> {
        let mut domains: BTreeMap<&'a str, Vec<(&'a str, Value<'a>)>> = BTreeMap::new();
        for (name, value) in named {
            let (domain, id) = name.split_once('/').unwrap_or((self.driver, name));
            domains.entry(domain).or_default().push((id, value));
        }
        let map = |named| Value::Map(Map::from_pairs(named));
        let domains = domains.into_iter().map(|(domain, named)| (domain, map(named)));
        Value::Map(Map::from_pairs(domains).with_fallback(map(Vec::new())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_selects_a_device() {
        let device = Device {
            driver: "gpu.example.com",
            attributes: vec![
                ("model", Attribute::String("a100")),
                ("cores", Attribute::Int(8)),
                ("other.example.com/healthy", Attribute::Bool(true)),
                ("firmware", Attribute::Version("1.10.0")),
            ],
            capacity: vec![("memory", Quantity::parse("40Gi").unwrap())],
        };
        let selected = |text: &str| device.is_selected_by(&ENV.compile(text).expect("it compiles")).map(|(is, _)| is);
        for (text, expect) in [
            ("device.driver == 'gpu.example.com'", true),
            ("device.attributes['gpu.example.com'].model == 'a100'", true),
            ("device.attributes['gpu.example.com'].cores > 8", false),
            ("device.attributes['other.example.com'].healthy", true),
            ("device.attributes['gpu.example.com'].firmware.isGreaterThan(semver('1.9.0'))", true),
            ("device.capacity['gpu.example.com'].memory.compareTo(quantity('32Gi')) >= 0", true),
            ("has(device.attributes['nobody.example.com'].model)", false),
            ("'nobody.example.com' in device.attributes", false),
            ("'gpu.example.com' in device.attributes", true),
            ("device.allowMultipleAllocations == true", false),
        ] {
            assert_eq!(selected(text), Ok(expect), "{text}");
        }
        for (text, cause) in [
            ("device.attributes['nobody.example.com'].model == 'x'", "no such key: model"),
            ("device.attributes['gpu.example.com'].model", "CEL expression must return a boolean"),
        ] {
            let error = selected(text).unwrap_err();
            assert!(error.contains(cause), "{text}: {error}");
        }
    }
}

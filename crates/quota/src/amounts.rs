//! Amounts of named resources.

use std::collections::BTreeMap;

use kybern_apimachinery::quantity::{Format, Quantity};
use kybern_apimachinery::tree::map;
use kybern_apimachinery::{Map, Value};

/// Upstream's `ResourceList`.
pub type Amounts = BTreeMap<String, Quantity>;

/// Those of a field of an object.
pub fn amounts(object: &Value, field: &str) -> Amounts {
    map(object, field).filter_map(|(name, amount)| Some((name.clone(), Quantity::of(amount)?))).collect()
}

/// As an object holds them.
pub fn to_json(amounts: &Amounts) -> Value {
    Value::Object(amounts.iter().map(|(name, amount)| (name.clone(), amount.to_string().into())).collect::<Map<_, _>>())
}

pub(crate) fn one() -> Quantity {
    number(1)
}

pub(crate) fn number(count: i64) -> Quantity {
    Quantity::from_units(count, Format::DecimalSi)
}

/// Adds each resource's amount.
pub(crate) fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        to.entry(name.clone()).and_modify(|have| *have = have.plus(*amount)).or_insert(*amount);
    }
}

pub fn sum(mut a: Amounts, b: &Amounts) -> Amounts {
    add(&mut a, b);
    a
}

/// Raises each resource to at least the other's amount.
pub(crate) fn raise(to: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        let have = to.entry(name.clone()).or_insert(*amount);
        if *amount > *have {
            *have = *amount;
        }
    }
}

/// What is more than before; nothing less than zero.
pub(crate) fn growth(now: &Amounts, before: &Amounts) -> Amounts {
    let grown = now.iter().map(|(name, amount)| {
        let grown = before.get(name).map_or(*amount, |old| amount.minus(*old));
        (name.clone(), if grown.is_negative() { number(0) } else { grown })
    });
    grown.collect()
}

/// Whether both hold the same, however written.
pub fn equal(a: &Amounts, b: &Amounts) -> bool {
    let same = |a: &Quantity, b: &Quantity| a.partial_cmp(b) == Some(std::cmp::Ordering::Equal);
    a.len() == b.len() && a.iter().all(|(name, amount)| b.get(name).is_some_and(|other| same(amount, other)))
}

/// `cpu=1,memory=1Gi`, as refusals show them.
pub(crate) fn shown<'a>(amounts: impl Iterator<Item = (&'a String, &'a Quantity)>) -> String {
    amounts.map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

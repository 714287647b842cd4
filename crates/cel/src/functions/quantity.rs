//! Resource quantities.

use std::cmp::Ordering;

use kybern_apimachinery::quantity::{Format, Quantity};

use crate::decl::Functions;
use crate::error::EvalError;
use crate::opaque::Opaque;
use crate::value::Value;

use super::{int, of, opaque, str};

fn quantity(value: &Value<'_>) -> Result<Quantity, EvalError> {
    match opaque(value)? {
        Opaque::Quantity(quantity) => Ok(*quantity),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn compare(a: &[Value<'_>]) -> Result<Ordering, EvalError> {
    Ok(quantity(&a[0])?.partial_cmp(&quantity(&a[1])?).unwrap_or(Ordering::Equal))
}

fn whole(value: &Value<'_>) -> Result<Quantity, EvalError> {
    Ok(Quantity::from_units(int(value)?, Format::DecimalExponent))
}

pub(super) fn declare(f: &mut Functions) {
    const OWN: &str = "kubernetes.Quantity";
    let with = |rest: &str| rest.replace('Q', OWN);
    let mut add = |name, id, signature: &str, native| f.add(name, id, &with(signature), native);
    add("quantity", "string_to_quantity", "(string) -> Q", |a| {
        Quantity::parse(str(&a[0])?).map(|q| of(Opaque::Quantity(q))).map_err(EvalError::new)
    });
    add("isQuantity", "is_quantity_string", "(string) -> bool", |a| {
        Ok(Value::Bool(Quantity::parse(str(&a[0])?).is_ok()))
    });
    add("sign", "quantity_sign", "Q.() -> int", |a| {
        let q = quantity(&a[0])?;
        Ok(Value::Int(if q.is_zero() { 0 } else { 1 - 2 * i64::from(q.is_negative()) }))
    });
    add("isGreaterThan", "quantity_is_greater_than", "Q.(Q) -> bool", |a| {
        Ok(Value::Bool(compare(a)? == Ordering::Greater))
    });
    add("isLessThan", "quantity_is_less_than", "Q.(Q) -> bool", |a| Ok(Value::Bool(compare(a)? == Ordering::Less)));
    add("compareTo", "quantity_compare_to", "Q.(Q) -> int", |a| Ok(Value::Int(compare(a)? as i64)));
    add("asApproximateFloat", "quantity_get_float", "Q.() -> double", |a| Ok(Value::Double(quantity(&a[0])?.as_f64())));
    add("asInteger", "quantity_get_int", "Q.() -> int", |a| {
        let number = quantity(&a[0])?.as_i64();
        number.map(Value::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))
    });
    add("isInteger", "quantity_is_integer", "Q.() -> bool", |a| Ok(Value::Bool(quantity(&a[0])?.as_i64().is_some())));
    add("add", "quantity_add", "Q.(Q) -> Q", |a| Ok(of(Opaque::Quantity(quantity(&a[0])?.plus(quantity(&a[1])?)))));
    add("add", "quantity_add_int", "Q.(int) -> Q", |a| Ok(of(Opaque::Quantity(quantity(&a[0])?.plus(whole(&a[1])?)))));
    add("sub", "quantity_sub", "Q.(Q) -> Q", |a| Ok(of(Opaque::Quantity(quantity(&a[0])?.minus(quantity(&a[1])?)))));
    add("sub", "quantity_sub_int", "Q.(int) -> Q", |a| Ok(of(Opaque::Quantity(quantity(&a[0])?.minus(whole(&a[1])?)))));
}

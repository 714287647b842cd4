//! What one mutation of a policy makes of an object.

use kybern_apimachinery::{ApiError, Gvk, Value, json};
use kybern_apiserver::admission::AdmissionRequest;
use kybern_cel::{List, RUNTIME_COST_BUDGET, Struct, Value as Cel};
use kybern_schema::patch::{self, PatchError};
use kybern_schema::{Strictness, apply, decode_value};

use super::compiled::Mutation;
use super::expression::{Evaluator, Expression, Inputs, OUT_OF_BUDGET, Variables};

/// Why an object is not changed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is for the policy's `failurePolicy` to say what follows.
    Policy(String),
    /// The request fails, whatever that says.
    Status(ApiError),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Policy(text)
    }
}

/// The object that is wanted instead of the one that the inputs show, both in the version of `kind`; nothing where that
/// one stays.
pub(super) fn mutate<'a>(
    request: &AdmissionRequest<'_>,
    kind: &Gvk,
    mutation: &Mutation,
    variables: &'a Variables,
    inputs: Inputs<'a>,
) -> Result<Option<Value>, Failure> {
    match mutation {
        Mutation::Configuration(expression) => {
            let value = evaluate(expression, variables, inputs)?;
            let Cel::Struct(made) = &value else {
                return Err(format!(
                    "unsupported return type from ApplyConfiguration expression: {}",
                    value.type_name()
                )
                .into());
            };
            check_names(made)?;
            let mut configuration = plain(&value)?;
            configuration["apiVersion"] = kind.api_version().into();
            configuration["kind"] = kind.kind.as_str().into();
            let shape = request.shape(kind).map_err(Failure::Status)?;
            let merged = apply::merge_configuration(&shape, inputs.object, &configuration);
            Ok(Some(merged.map_err(|error| format!("error applying patch: {error}"))?))
        }
        Mutation::Patch(expression) => {
            let value = evaluate(expression, variables, inputs)?;
            let Cel::List(list) = &value else {
                return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned().into());
            };
            let operations = operations(list)?;
            let patched = match patch::json::apply(inputs.object.clone(), &operations) {
                Ok(patched) => patched,
                // A patch whose test fails is not applied, and that is no failure.
                Err(PatchError::TestFailed(_)) => return Ok(None),
                Err(error) => return Err(format!("JSON Patch: {error}").into()),
            };
            // Upstream reads built-in kinds strictly here.
            if request.resource.schema.is_none() {
                let shape = request.shape(kind).map_err(Failure::Status)?;
                let read = decode_value(&shape, patched.clone(), Strictness::Strict);
                read.map_err(|error| Failure::Status(ApiError::internal(error)))?;
            }
            Ok(Some(patched))
        }
    }
}

fn evaluate<'a>(expression: &Expression, variables: &'a Variables, inputs: Inputs<'a>) -> Result<Cel<'a>, Failure> {
    if let Err(error) = &expression.program {
        return Err(error.clone().into());
    }
    match Evaluator::new(inputs, variables, RUNTIME_COST_BUDGET).evaluate(expression) {
        Err(_) => Err(OUT_OF_BUDGET.to_owned().into()),
        Ok(result) => Ok(result?),
    }
}

/// As Go writes it: a number without a fraction is whole.
fn plain(value: &Cel<'_>) -> Result<Value, String> {
    fn whole(value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(whole),
            Value::Object(fields) => fields.values_mut().for_each(whole),
            Value::Number(number) if number.is_f64() => {
                // The conversion is exact below 2^53.
                if let Some(n) = number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15) {
                    *value = Value::from(n as i64);
                }
            }
            _ => {}
        }
    }
    let mut json = value.to_json().map_err(|error| error.to_string())?;
    whole(&mut json);
    Ok(json)
}

fn operations(list: &List<'_>) -> Result<Value, Failure> {
    let mut operations = Vec::with_capacity(list.len());
    for item in list.iter() {
        let item = item.map_err(|error| error.to_string())?;
        let Cel::Struct(operation) = &item else {
            let text = "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch";
            return Err(format!("{text}, got element of {}", item.type_name()).into());
        };
        let text = |field: &str| operation.fields.get(field).and_then(Cel::as_str).unwrap_or("");
        let mut made = json!({"op": text("op"), "path": text("path")});
        if !text("from").is_empty() {
            made["from"] = text("from").into();
        }
        if let Some(value) = operation.fields.get("value") {
            if let Cel::Struct(made) = value {
                check_names(made)?;
            }
            let wrong = "JSONPath valueExpression evaluated to a type that could not marshal to JSON";
            made["value"] = plain(value).map_err(|error| format!("{wrong}: {error}"))?;
        }
        operations.push(made);
    }
    Ok(Value::Array(operations))
}

/// An `Object` within another has to be called by the path of fields that leads to it.
fn check_names(made: &Struct<'_>) -> Result<(), String> {
    fn check(value: &Cel<'_>, path: &str, errors: &mut Vec<String>) {
        match value {
            Cel::Struct(made) => {
                if *made.name != *path {
                    errors.push(format!(
                        "unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
                        &*made.name
                    ));
                }
                made.fields.iter().for_each(|(name, field)| check(field, &format!("{path}.{name}"), errors));
            }
            Cel::List(list) => list.iter().flatten().for_each(|item| check(&item, path, errors)),
            Cel::Map(map) => map.entries().for_each(|(_, item)| check(&item, path, errors)),
            _ => {}
        }
    }
    let mut errors = Vec::new();
    made.fields.iter().for_each(|(name, field)| check(field, &format!("{}.{name}", made.name), &mut errors));
    if errors.is_empty() { Ok(()) } else { Err(format!("type mismatch: {}", errors.join("\n"))) }
}

//! The libraries: the language's own functions and those that Kubernetes adds.

use std::sync::{Arc, LazyLock};

use crate::decl::Functions;
use crate::error::EvalError;
use crate::list::List;
use crate::opaque::Opaque;
use crate::value::{Str, Value};

pub(crate) mod authorizer;
pub(crate) mod format;
pub(crate) mod formats;
mod lists;
mod net;
mod operators;
mod optionals;
mod quantity;
pub(crate) mod regexes;
pub(crate) mod semver;
mod strings;
mod times;
pub(crate) mod url;

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

/// The functions of the environment that Kubernetes 1.35 has for expressions.
pub(crate) fn base() -> Arc<Functions> {
    static BASE: LazyLock<Arc<Functions>> = LazyLock::new(|| {
        let mut functions = Functions::default();
        operators::declare(&mut functions);
        times::declare(&mut functions);
        optionals::declare(&mut functions);
        strings::declare(&mut functions);
        regexes::declare(&mut functions);
        lists::declare(&mut functions);
        net::declare(&mut functions);
        url::declare(&mut functions);
        quantity::declare(&mut functions);
        semver::declare(&mut functions);
        formats::declare(&mut functions);
        authorizer::declare(&mut functions);
        Arc::new(functions)
    });
    BASE.clone()
}

/// With what mutating policies have beside.
pub(crate) fn mutation() -> Arc<Functions> {
    static MUTATION: LazyLock<Arc<Functions>> = LazyLock::new(|| {
        let mut functions = Functions::clone(&base());
        functions.add("jsonpatch.escapeKey", "string_jsonpatch_escapeKey_string", "(string) -> string", |a| {
            Ok(Value::string(str(&a[0])?.replace('~', "~0").replace('/', "~1")))
        });
        Arc::new(functions)
    });
    MUTATION.clone()
}

// What natives take from their arguments. The checker has seen to the types, except where a value was `dyn`.

fn str<'v>(value: &'v Value<'_>) -> std::result::Result<&'v Str<'v>, EvalError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn int(value: &Value<'_>) -> std::result::Result<i64, EvalError> {
    match value {
        Value::Int(int) => Ok(*int),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn bool(value: &Value<'_>) -> std::result::Result<bool, EvalError> {
    value.as_bool().ok_or_else(EvalError::no_such_overload)
}

fn list<'v, 'a>(value: &'v Value<'a>) -> std::result::Result<&'v List<'a>, EvalError> {
    match value {
        Value::List(list) => Ok(list),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn opaque<'v>(value: &'v Value<'_>) -> std::result::Result<&'v Opaque, EvalError> {
    match value {
        Value::Opaque(opaque) => Ok(opaque),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn of<'a>(value: Opaque) -> Value<'a> {
    Value::Opaque(Arc::new(value))
}

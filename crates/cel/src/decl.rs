//! Functions and their overloads, declared by a short form of their signature.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::EvalError;
use crate::types::Type;
use crate::value::Value;

/// What evaluates an overload; its arguments are of the declared types.
pub(crate) type Native = for<'a> fn(&[Value<'a>]) -> Result<Value<'a>, EvalError>;

#[derive(Debug)]
pub(crate) struct Overload {
    /// Upstream's identifier: costs are by it.
    pub id: &'static str,
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
    /// The parameters in its types.
    pub params: Vec<Arc<str>>,
    pub native: Native,
}

#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub name: &'static str,
    pub overloads: Vec<Arc<Overload>>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Functions(HashMap<&'static str, Function>);

impl Functions {
    pub(crate) fn get(&self, name: &str) -> Option<&Function> {
        self.0.get(name)
    }

    /// Adds an overload: `string.(int) -> bool` is a member of string, `(string) -> int` a free function.
    pub(crate) fn add(&mut self, name: &'static str, id: &'static str, signature: &str, native: Native) {
        let (member, args, result) = parse(signature);
        let mut params = Vec::new();
        for t in args.iter().chain(std::iter::once(&result)) {
            collect_params(t, &mut params);
        }
        let overload = Arc::new(Overload { id, member, args, result, params, native });
        self.0.entry(name).or_insert_with(|| Function { name, overloads: Vec::new() }).overloads.push(overload);
    }
}

fn collect_params(t: &Type, params: &mut Vec<Arc<str>>) {
    match t {
        Type::Param(name) if !params.contains(name) => params.push(name.clone()),
        Type::List(element) => collect_params(element, params),
        Type::Map(entry) => {
            collect_params(&entry.0, params);
            collect_params(&entry.1, params);
        }
        Type::Opaque(_, of) => of.iter().for_each(|t| collect_params(t, params)),
        Type::Type(Some(of)) => collect_params(of, params),
        _ => {}
    }
}

fn parse(signature: &str) -> (bool, Vec<Type>, Type) {
    let (left, result) = signature.split_once(" -> ").expect("a signature has a result");
    let open = left.strip_suffix(')').map(matching_open).expect("a signature has arguments");
    let receiver = left[..open].strip_suffix('.');
    let inner = &left[open + 1..left.len() - 1];
    let args = receiver.into_iter().chain(split(inner)).map(parse_type).collect();
    (receiver.is_some(), args, parse_type(result))
}

/// Where the parenthesis opens that the end of the text would close.
fn matching_open(text: &str) -> usize {
    let mut depth = 1;
    for (i, c) in text.char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i;
        }
    }
    panic!("unbalanced signature {text}")
}

/// At the commas that are not within parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut from) = (0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[from..i]);
                from = i + 1;
            }
            _ => {}
        }
    }
    if !text[from..].trim().is_empty() {
        parts.push(&text[from..]);
    }
    parts
}

fn parse_type(text: &str) -> Type {
    let text = text.trim();
    if let Some((name, rest)) = text.split_once('(') {
        let mut of = split(&rest[..rest.len() - 1]).into_iter().map(parse_type);
        let mut next = || of.next().expect("a type has its parameters");
        return match name {
            "list" => Type::list(next()),
            "map" => Type::map(next(), next()),
            "optional" => Type::optional(next()),
            "type" => Type::of_type(next()),
            other => panic!("no type is called {other}"),
        };
    }
    match text {
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "null" => Type::Null,
        "net.IP" | "net.CIDR" => Type::opaque(text),
        param if param.len() == 1 => Type::Param(param.into()),
        object if object.starts_with("kubernetes.") => Type::object(object),
        other => panic!("no type is called {other}"),
    }
}

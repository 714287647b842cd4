//! Evaluates the compact form, and counts what it costs as upstream does.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::EvalError;
use crate::functions::regexes;
use crate::list::List;
use crate::map::{Map, MapKey};
use crate::ops;
use crate::overload;
use crate::plan::{Attribute, By, Call, Fold, Node, Qualifier, RegexCall, RegexKind, Root, Target};
use crate::program::{Activation, Limits};
use crate::value::{MAX_DEPTH, Struct, Value};

/// So many steps of comprehensions are made between looking whether to go on.
const CHECKED_EVERY: u32 = 100;

/// So many levels of the tree fit into what is left of the stack when it is looked at.
const CHECKED_LEVELS: u32 = 16;

type Outcome<'a> = Result<Value<'a>, EvalError>;

/// One evaluation.
pub(crate) struct Run<'p, 'a> {
    variables: &'p dyn Activation<'a>,
    slots: Vec<Slot<'p, 'a>>,
    cost: u64,
    limits: Limits<'p>,
    steps: u32,
    /// How deep within the tree it is.
    depth: u32,
}

enum Slot<'p, 'a> {
    Empty,
    /// To be evaluated when it is first looked at.
    Lazy(&'p Node),
    /// An error here is one that the expression may never look at.
    Held(Outcome<'a>),
}

impl<'p, 'a> Run<'p, 'a> {
    pub(crate) fn new(variables: &'p dyn Activation<'a>, limits: Limits<'p>, slots: usize) -> Self {
        Self { variables, slots: (0..slots).map(|_| Slot::Empty).collect(), cost: 0, limits, steps: 0, depth: 0 }
    }

    pub(crate) fn cost(&self) -> u64 {
        self.cost
    }

    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limits.cost { Err(EvalError::cost_limit()) } else { Ok(()) }
    }

    pub(crate) fn eval(&mut self, node: &'p Node) -> Outcome<'a> {
        if let Node::Const(value) = node {
            return Ok(value.clone());
        }
        self.depth += 1;
        let outcome = if self.depth.is_multiple_of(CHECKED_LEVELS) {
            crate::stack::with_room(|| self.eval_kind(node))
        } else {
            self.eval_kind(node)
        };
        self.depth -= 1;
        outcome
    }

    fn eval_kind(&mut self, node: &'p Node) -> Outcome<'a> {
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Attribute(attribute) => self.attribute(attribute, true),
            Node::Conditional(args) => self.conditional(args),
            Node::And(args) => self.logical(args, false),
            Node::Or(args) => self.logical(args, true),
            Node::NotStrictlyFalse(inner) => self.not_strictly_false(inner),
            Node::Equals { args, negated } => self.equals(args, *negated),
            Node::Call(call) => self.call(call),
            Node::Regex(call) => self.regex(call),
            Node::Membership { value, list } => self.membership(value, list),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Struct { name, fields } => self.structure(name, fields),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind { slot, value, result } => self.bind(*slot, value, result),
            Node::Append { slot, element } => self.append(*slot, element),
            Node::OptionalOr { args, value } => self.optional_or(args, *value),
        }
    }

    /// As a branch of a choice or as an index, where the name itself costs nothing.
    fn uncounted(&mut self, node: &'p Node) -> Outcome<'a> {
        match node {
            Node::Attribute(attribute) => self.attribute(attribute, false),
            other => self.eval(other),
        }
    }

    fn local(&mut self, slot: usize) -> Outcome<'a> {
        if let Slot::Lazy(node) = self.slots[slot] {
            self.slots[slot] = Slot::Empty;
            let outcome = self.eval(node);
            if let Err(error) = &outcome
                && error.is_fatal()
            {
                return outcome;
            }
            self.slots[slot] = Slot::Held(outcome);
        }
        match &self.slots[slot] {
            Slot::Held(outcome) => outcome.clone(),
            Slot::Empty | Slot::Lazy(_) => Err(EvalError::new("a variable is used before it has a value")),
        }
    }

    fn attribute(&mut self, attribute: &'p Attribute, counted: bool) -> Outcome<'a> {
        let outcome = self.qualified(attribute);
        let present = attribute.qualifiers.iter().any(|q| matches!(q.by, By::Presence(_)));
        if counted && !present && !matches!(attribute.root, Root::Choice(_)) {
            self.charge(1)?;
        }
        outcome
    }

    fn qualified(&mut self, attribute: &'p Attribute) -> Outcome<'a> {
        let mut value = match &attribute.root {
            Root::Variable(name) => match self.variables.variable(name) {
                Some(outcome) => outcome?,
                None => return Err(EvalError::new(format!("no such attribute(s): {name}"))),
            },
            Root::VariableField(name, field) => {
                self.charge(1)?;
                match self.variables.field(name, field) {
                    Some(outcome) => outcome?,
                    None => return Err(EvalError::new(format!("no such key: {field}"))),
                }
            }
            Root::Local(slot) => self.local(*slot)?,
            Root::Operand(node) => self.eval(node)?,
            Root::Choice(node) => self.eval(node)?,
        };
        if attribute.qualifiers.is_empty() {
            return Ok(value);
        }
        let mut optional = false;
        if let Value::Optional(inner) = &value {
            optional = true;
            match inner {
                None => {
                    let test = matches!(attribute.qualifiers.last(), Some(Qualifier { by: By::Presence(_), .. }));
                    return Ok(if test { Value::Bool(false) } else { value });
                }
                Some(inner) => value = (**inner).clone(),
            }
        }
        for qualifier in &attribute.qualifiers {
            optional = optional || qualifier.optional;
            if let By::Presence(field) = &qualifier.by {
                self.charge(1)?;
                return Ok(Value::Bool(present(&value, field)?));
            }
            match self.qualify(&value, &qualifier.by, optional)? {
                Some(next) => value = next,
                None => {
                    let test = matches!(attribute.qualifiers.last(), Some(Qualifier { by: By::Presence(_), .. }));
                    return Ok(if test { Value::Bool(false) } else { Value::Optional(None) });
                }
            }
        }
        if !optional {
            return Ok(value);
        }
        if value.depth() >= MAX_DEPTH {
            return Err(crate::list::too_deep());
        }
        Ok(Value::Optional(Some(Arc::new(value))))
    }

    /// What is selected from a value; none where it is absent, which is no error where it is optional.
    fn qualify(&mut self, value: &Value<'a>, by: &'p By, optional: bool) -> Result<Option<Value<'a>>, EvalError> {
        let found = match by {
            By::Field(field) => select_field(value, field, optional),
            By::Const(key) => select(value, key, optional),
            By::Dynamic(node) => {
                let key = self.uncounted(node)?;
                match &key {
                    Value::String(field) => select_field(value, field, optional),
                    key => select(value, key, optional),
                }
            }
            By::Presence(_) => Ok(None),
        };
        if !matches!(found, Ok(None)) {
            self.charge(1)?;
        }
        found
    }

    fn conditional(&mut self, [condition, yes, no]: &'p [Node; 3]) -> Outcome<'a> {
        match self.eval(condition)? {
            Value::Bool(true) => self.uncounted(yes),
            Value::Bool(false) => self.uncounted(no),
            _ => Err(EvalError::no_such_overload()),
        }
    }

    /// `&&` ends with `false` and `||` with `true` whatever else there is, errors too.
    fn logical(&mut self, terms: &'p [Node; 2], decisive: bool) -> Outcome<'a> {
        let mut failed = None;
        for term in terms {
            match self.eval(term) {
                Ok(Value::Bool(b)) if b == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => {
                    failed.get_or_insert_with(EvalError::no_such_overload);
                }
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn not_strictly_false(&mut self, inner: &'p Node) -> Outcome<'a> {
        let outcome = self.eval(inner);
        self.charge(1)?;
        match outcome {
            Ok(Value::Bool(b)) => Ok(Value::Bool(b)),
            Err(error) if error.is_fatal() => Err(error),
            _ => Ok(Value::Bool(true)),
        }
    }

    fn equals(&mut self, [left, right]: &'p [Node; 2], negated: bool) -> Outcome<'a> {
        let left = self.eval(left);
        let right = self.eval(right);
        let (left, right) = match (left, right) {
            (Ok(left), Ok(right)) => (left, right),
            (Err(error), _) | (_, Err(error)) => {
                self.charge(1)?;
                return Err(error);
            }
        };
        let cost = match &left {
            Value::Opaque(_) => 1,
            _ => left.size().min(right.size()).div_ceil(10),
        };
        self.charge(cost)?;
        match ops::equal(&left, &right) {
            Ok(same) => Ok(Value::Bool(same != negated)),
            // Unequal is everything that is not equal.
            Err(error) if negated && !error.is_fatal() => Ok(Value::Bool(true)),
            Err(error) => Err(error),
        }
    }

    fn args(&mut self, nodes: &'p [Node]) -> Result<Vec<Value<'a>>, EvalError> {
        let mut args = Vec::with_capacity(nodes.len());
        for node in nodes {
            match self.eval(node) {
                Ok(value) => args.push(value),
                Err(error) if error.is_fatal() => return Err(error),
                Err(error) => {
                    self.charge(1)?;
                    return Err(error);
                }
            }
        }
        Ok(args)
    }

    fn call(&mut self, call: &'p Call) -> Outcome<'a> {
        match &call.args[..] {
            [] => self.apply(call, &[]),
            [arg] => {
                let args = [self.arg(arg)?];
                self.apply(call, &args)
            }
            [first, second] => {
                let args = [self.arg(first)?, self.arg(second)?];
                self.apply(call, &args)
            }
            many => {
                let args = self.args(many)?;
                self.apply(call, &args)
            }
        }
    }

    fn arg(&mut self, node: &'p Node) -> Outcome<'a> {
        let outcome = self.eval(node);
        if let Err(error) = &outcome
            && !error.is_fatal()
        {
            self.charge(1)?;
        }
        outcome
    }

    fn apply(&mut self, call: &'p Call, args: &[Value<'a>]) -> Outcome<'a> {
        self.charge(call.cost.before(args))?;
        let outcome = match &call.target {
            Target::One(native) => native(args),
            Target::Many(overloads) => match overloads.iter().find(|o| overload::fits(o, args)) {
                Some(chosen) => (chosen.native)(args),
                None => Err(EvalError::no_such_overload()),
            },
        };
        match outcome {
            Ok(value) => {
                if call.cost.needs_result() {
                    self.charge(call.cost.after(&value))?;
                }
                Ok(value)
            }
            Err(error) if error == EvalError::no_such_overload() => Err(overload::missing(&call.name, args)),
            Err(error) => Err(error),
        }
    }

    fn regex(&mut self, call: &'p RegexCall) -> Outcome<'a> {
        let text = self.arg(&call.text)?;
        let count = call.count.as_ref().map(|node| self.arg(node)).transpose()?;
        let pattern: Value<'a> = call.pattern.clone();
        let args = [text, pattern];
        self.charge(call.cost.before(&args))?;
        match call.kind {
            RegexKind::Matches => regexes::matches(&call.regex, &args[0]),
            RegexKind::Find => regexes::find(&call.regex, &args[0]),
            RegexKind::FindAll => regexes::find_all(&call.regex, &args[0], count.as_ref()),
        }
    }

    fn membership(&mut self, value: &'p Node, list: &'p Value<'static>) -> Outcome<'a> {
        let value = self.eval(value)?;
        let Value::List(items) = list else { return Err(EvalError::no_such_overload()) };
        let items: &List<'a> = items;
        items.contains(&value).map(Value::Bool)
    }

    fn list(&mut self, items: &'p [(Node, bool)]) -> Outcome<'a> {
        let mut values = Vec::with_capacity(items.len());
        for (node, optional) in items {
            let value = self.eval(node)?;
            match (value, optional) {
                (value, false) => values.push(value),
                (Value::Optional(inner), true) => values.extend(inner.map(|v| (*v).clone())),
                (other, true) => {
                    let shown = other.display();
                    let message = format!("cannot initialize optional list element from non-optional value {shown}");
                    return Err(EvalError::new(message));
                }
            }
        }
        // A list of constants is made once, and costs nothing.
        if !items.iter().all(|(node, _)| matches!(node, Node::Const(_))) {
            self.charge(10)?;
        }
        List::checked(values).map(Value::List)
    }

    fn map(&mut self, nodes: &'p [(Node, Node, bool)]) -> Outcome<'a> {
        let mut entries = BTreeMap::new();
        for (key, value, optional) in nodes {
            let key = self.eval(key)?;
            let value = self.eval(value)?;
            let Some(map_key) = MapKey::of(&key) else {
                return Err(EvalError::new(format!("unsupported key type: {}", key.type_name())));
            };
            match (value, optional) {
                (value, false) => {
                    entries.insert(map_key, value);
                }
                (Value::Optional(Some(inner)), true) => {
                    entries.insert(map_key, (*inner).clone());
                }
                (Value::Optional(None), true) => {
                    entries.remove(&map_key);
                }
                (other, true) => return Err(not_optional(&key.display(), &other)),
            }
        }
        if !nodes.iter().all(|(k, v, _)| matches!((k, v), (Node::Const(_), Node::Const(_)))) {
            self.charge(30)?;
        }
        Map::of(entries).map(Value::Map)
    }

    fn structure(&mut self, name: &Arc<str>, nodes: &'p [(Arc<str>, Node, bool)]) -> Outcome<'a> {
        let mut fields = BTreeMap::new();
        for (field, node, optional) in nodes {
            match (self.eval(node)?, optional) {
                (value, false) => {
                    fields.insert(field.clone(), value);
                }
                (Value::Optional(Some(inner)), true) => {
                    fields.insert(field.clone(), (*inner).clone());
                }
                (Value::Optional(None), true) => {
                    fields.remove(field);
                }
                (other, true) => return Err(not_optional(field, &other)),
            }
        }
        self.charge(40)?;
        let depth = 1 + fields.values().map(Value::depth).max().unwrap_or(0);
        if depth > MAX_DEPTH {
            return Err(crate::list::too_deep());
        }
        Ok(Value::Struct(Arc::new(Struct { name: name.clone(), fields, depth })))
    }

    fn bind(&mut self, slot: usize, value: &'p Node, result: &'p Node) -> Outcome<'a> {
        self.slots[slot] = Slot::Lazy(value);
        let outcome = self.eval(result);
        self.slots[slot] = Slot::Empty;
        outcome
    }

    fn append(&mut self, slot: usize, element: &'p Node) -> Outcome<'a> {
        // Evaluated where it is not yet, and then taken, so that the list is not copied.
        let held = self.local(slot);
        self.charge(1)?;
        held?;
        let value = self.arg(element)?;
        self.charge(10 + 1)?;
        let Slot::Held(Ok(Value::List(list))) = std::mem::replace(&mut self.slots[slot], Slot::Empty) else {
            return Err(EvalError::no_such_overload());
        };
        list.push(value).map(Value::List)
    }

    fn optional_or(&mut self, [left, right]: &'p [Node; 2], value: bool) -> Outcome<'a> {
        match self.eval(left)? {
            Value::Optional(None) => self.eval(right),
            Value::Optional(Some(inner)) if value => Ok((*inner).clone()),
            other => Ok(other),
        }
    }

    fn tick(&mut self) -> Result<(), EvalError> {
        self.steps += 1;
        if self.steps.is_multiple_of(CHECKED_EVERY)
            && let Some(interrupted) = self.limits.interrupted
            && interrupted()
        {
            return Err(EvalError::interrupted());
        }
        Ok(())
    }

    fn fold(&mut self, fold: &'p Fold) -> Outcome<'a> {
        let range = self.eval(&fold.range)?;
        self.slots[fold.accumulator] = Slot::Lazy(&fold.init);
        match &range {
            Value::List(list) => {
                for index in 0..list.len() {
                    let (first, second) = match fold.second {
                        None => (list.get(index), None),
                        Some(_) => (Ok(Value::Int(index as i64)), Some(list.get(index))),
                    };
                    if !self.step(fold, first, second)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let key = key.value();
                    let second = fold.second.map(|_| map.get(&key).map(|v| v.unwrap_or(Value::Null)));
                    if !self.step(fold, Ok(key), second)? {
                        break;
                    }
                }
            }
            other => {
                let message = format!("got '{}', expected iterable type", overload::go_name(other));
                return Err(EvalError::new(message));
            }
        }
        let result = self.eval(&fold.result);
        self.slots[fold.accumulator] = Slot::Empty;
        self.slots[fold.variable] = Slot::Empty;
        result
    }

    /// One element; whether to go on.
    fn step(&mut self, fold: &'p Fold, first: Outcome<'a>, second: Option<Outcome<'a>>) -> Result<bool, EvalError> {
        self.slots[fold.variable] = Slot::Held(first);
        if let (Some(slot), Some(second)) = (fold.second, second) {
            self.slots[slot] = Slot::Held(second);
        }
        if let Some(condition) = &fold.condition {
            match self.eval(condition) {
                Ok(Value::Bool(false)) => return Ok(false),
                Err(error) if error.is_fatal() => return Err(error),
                _ => {}
            }
        }
        let outcome = self.eval(&fold.step);
        if let Err(error) = &outcome
            && error.is_fatal()
        {
            return Err(error.clone());
        }
        self.slots[fold.accumulator] = Slot::Held(outcome);
        self.tick()?;
        Ok(true)
    }
}

fn not_optional(field: &str, value: &Value<'_>) -> EvalError {
    EvalError::new(format!("cannot initialize optional entry '{field}' from non-optional value {}", value.display()))
}

/// `has(value.field)`.
fn present(value: &Value<'_>, field: &str) -> Result<bool, EvalError> {
    Ok(match value {
        Value::Map(map) => map.field(field)?.is_some(),
        Value::Struct(made) => made.fields.contains_key(field),
        Value::List(_) => return Err(EvalError::new("unsupported index type 'string' in list")),
        _ => false,
    })
}

fn select_field<'a>(value: &Value<'a>, field: &str, optional: bool) -> Result<Option<Value<'a>>, EvalError> {
    let found = match value {
        Value::Map(map) => map.field(field)?,
        Value::Struct(made) if optional => made.fields.get(field).cloned(),
        Value::Struct(made) => Some(made.fields.get(field).cloned().unwrap_or(Value::Null)),
        Value::List(_) => return Err(EvalError::new("unsupported index type 'string' in list")),
        _ => None,
    };
    match found {
        Some(found) => Ok(Some(found)),
        None if optional => Ok(None),
        None => Err(EvalError::new(format!("no such key: {field}"))),
    }
}

fn select<'a>(value: &Value<'a>, key: &Value<'a>, optional: bool) -> Result<Option<Value<'a>>, EvalError> {
    match value {
        Value::List(list) => {
            let index = match key {
                Value::Int(i) => *i,
                Value::Uint(u) => i64::try_from(*u).unwrap_or(i64::MAX),
                Value::Double(d) if d.fract() == 0.0 => *d as i64,
                Value::Double(d) => return Err(EvalError::new(format!("unsupported index value {d} in list"))),
                other => {
                    return Err(EvalError::new(format!("unsupported index type '{}' in list", other.type_name())));
                }
            };
            match usize::try_from(index).ok().filter(|i| *i < list.len()) {
                Some(index) => list.get(index).map(Some),
                None if optional => Ok(None),
                None => Err(EvalError::new(format!("index out of bounds: {index}"))),
            }
        }
        Value::Map(map) => match map.get(key)? {
            Some(found) => Ok(Some(found)),
            None if optional => Ok(None),
            None => Err(EvalError::new(format!("no such key: {}", key.display()))),
        },
        _ if optional => Ok(None),
        _ => Err(EvalError::new(format!("no such key: {}", key.display()))),
    }
}

//! The checked tree made compact for evaluation: names resolved to slots, calls to functions, and what depends on no
//! variable evaluated once.

use std::collections::BTreeSet;
use std::sync::Arc;

use regex::Regex;

use crate::ast::{ACCUMULATOR, Comprehension, Expr, Kind, Literal};
use crate::call_cost::CallCost;
use crate::checker::{Checked, Reference};
use crate::cost::CostEstimate;
use crate::decl::{Native, Overload};
use crate::env::Env;
use crate::error::EvalError;
use crate::functions::regexes;
use crate::interp::Run;
use crate::program::{Limits, Program, Variables};
use crate::value::Value;

#[derive(Debug)]
pub(crate) enum Node {
    Const(Value<'static>),
    Attribute(Box<Attribute>),
    Conditional(Box<[Node; 3]>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    NotStrictlyFalse(Box<Node>),
    Equals {
        args: Box<[Node; 2]>,
        negated: bool,
    },
    Call(Box<Call>),
    Regex(Box<RegexCall>),
    /// `in` a list of constants.
    Membership {
        value: Box<Node>,
        list: Value<'static>,
    },
    List(Box<[(Node, bool)]>),
    Map(Box<[(Node, Node, bool)]>),
    Struct {
        name: Arc<str>,
        fields: Box<[(Arc<str>, Node, bool)]>,
    },
    Fold(Box<Fold>),
    Bind {
        slot: usize,
        value: Box<Node>,
        result: Box<Node>,
    },
    /// The gathered list and one more element.
    Append {
        slot: usize,
        element: Box<Node>,
    },
    OptionalOr {
        args: Box<[Node; 2]>,
        value: bool,
    },
}

/// Something, and what is selected from it.
#[derive(Debug)]
pub(crate) struct Attribute {
    pub root: Root,
    pub qualifiers: Vec<Qualifier>,
}

#[derive(Debug)]
pub(crate) enum Root {
    Variable(Arc<str>),
    /// A field of a variable whose fields are asked for one by one.
    VariableField(Arc<str>, Arc<str>),
    Local(usize),
    Operand(Node),
    /// A choice, which costs nothing itself.
    Choice(Node),
}

#[derive(Debug)]
pub(crate) struct Qualifier {
    pub by: By,
    pub optional: bool,
}

#[derive(Debug)]
pub(crate) enum By {
    Field(Arc<str>),
    Const(Value<'static>),
    Dynamic(Node),
    /// Whether the field is there.
    Presence(Arc<str>),
}

#[derive(Debug)]
pub(crate) struct Call {
    pub name: Arc<str>,
    pub target: Target,
    pub args: Box<[Node]>,
    pub cost: CallCost,
}

#[derive(Debug)]
pub(crate) enum Target {
    One(Native),
    /// Chosen by the values' types.
    Many(Vec<Arc<Overload>>),
}

#[derive(Debug)]
pub(crate) struct RegexCall {
    pub kind: RegexKind,
    pub regex: Regex,
    pub pattern: Value<'static>,
    pub text: Node,
    pub count: Option<Node>,
    pub cost: CallCost,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum RegexKind {
    Matches,
    Find,
    FindAll,
}

#[derive(Debug)]
pub(crate) struct Fold {
    pub range: Node,
    pub accumulator: usize,
    pub init: Node,
    pub variable: usize,
    pub second: Option<usize>,
    /// None where it is always true.
    pub condition: Option<Node>,
    pub step: Node,
    pub result: Node,
}

pub(crate) fn plan(env: &Env, checked: &Checked, estimate: CostEstimate) -> Result<Program, EvalError> {
    let mut planner =
        Planner { env, checked, scopes: Vec::new(), slots: 0, variables: BTreeSet::new(), fields: BTreeSet::new() };
    let node = planner.node(&checked.expr)?;
    let result = checked.type_of(&checked.expr).clone();
    let Planner { slots, variables, fields, .. } = planner;
    Ok(Program { node, slots, result, estimate, variables, fields })
}

struct Planner<'c> {
    env: &'c Env,
    checked: &'c Checked,
    /// The variables of the comprehensions around, by their slots.
    scopes: Vec<Arc<str>>,
    slots: usize,
    variables: BTreeSet<Arc<str>>,
    fields: BTreeSet<Arc<str>>,
}

impl Planner<'_> {
    fn push(&mut self, name: &Arc<str>) -> usize {
        self.scopes.push(name.clone());
        self.slots = self.slots.max(self.scopes.len());
        self.scopes.len() - 1
    }

    fn nodes<'e>(&mut self, exprs: impl Iterator<Item = &'e Expr>) -> Result<Vec<Node>, EvalError> {
        exprs.map(|e| self.node(e)).collect()
    }

    fn node(&mut self, e: &Expr) -> Result<Node, EvalError> {
        crate::stack::with_room(|| self.node_of_kind(e))
    }

    fn node_of_kind(&mut self, e: &Expr) -> Result<Node, EvalError> {
        match &e.kind {
            Kind::Error => Err(EvalError::new("an expression with errors cannot be evaluated")),
            Kind::Literal(literal) => Ok(Node::Const(constant(literal))),
            Kind::Ident(name) => Ok(self.ident(e, name)),
            Kind::Select { operand, field, test } => self.select(operand, field, *test),
            Kind::Call { .. } => self.call(e),
            Kind::List(elements) => {
                let items = elements
                    .iter()
                    .map(|element| Ok((self.node(&element.value)?, element.optional)))
                    .collect::<Result<Box<[_]>, EvalError>>()?;
                let fixed = items.iter().all(|(item, _)| matches!(item, Node::Const(_)));
                fold_constants(Node::List(items), fixed)
            }
            Kind::Map(entries) => {
                let entries = entries
                    .iter()
                    .map(|entry| Ok((self.node(&entry.key)?, self.node(&entry.value)?, entry.optional)))
                    .collect::<Result<Box<[_]>, EvalError>>()?;
                let fixed = entries.iter().all(|(k, v, _)| matches!((k, v), (Node::Const(_), Node::Const(_))));
                fold_constants(Node::Map(entries), fixed)
            }
            Kind::Struct { name, fields } => {
                let fields = fields
                    .iter()
                    .map(|field| Ok((field.name.clone(), self.node(&field.value)?, field.optional)))
                    .collect::<Result<Box<[_]>, EvalError>>()?;
                Ok(Node::Struct { name: name.clone(), fields })
            }
            Kind::Comprehension(c) => self.comprehension(c),
        }
    }

    fn ident(&mut self, e: &Expr, name: &Arc<str>) -> Node {
        if let Some(slot) = self.scopes.iter().rposition(|n| n == name) {
            return attribute(Root::Local(slot), Vec::new());
        }
        if let Some(Reference::Type(name)) = self.checked.references.get(&e.id) {
            return Node::Const(Value::Type(name.clone()));
        }
        self.variables.insert(name.clone());
        attribute(Root::Variable(name.clone()), Vec::new())
    }

    fn select(&mut self, operand: &Expr, field: &Arc<str>, test: bool) -> Result<Node, EvalError> {
        let node = self.node(operand)?;
        if let Node::Attribute(a) = &node
            && let Root::Variable(name) = &a.root
            && a.qualifiers.is_empty()
            && self.env.is_lazy(name)
        {
            // The checker knows that it is there.
            if test {
                return Ok(Node::Const(Value::Bool(true)));
            }
            let name = name.clone();
            self.fields.insert(field.clone());
            return Ok(attribute(Root::VariableField(name, field.clone()), Vec::new()));
        }
        let by = if test { By::Presence(field.clone()) } else { By::Field(field.clone()) };
        Ok(qualified(node, Qualifier { by, optional: false }))
    }

    fn call(&mut self, e: &Expr) -> Result<Node, EvalError> {
        let Kind::Call { function, target, args } = &e.kind else {
            return Err(EvalError::no_such_overload());
        };
        let args = self.nodes(target.as_deref().into_iter().chain(args))?;
        let overloads = self.checked.overloads(e);
        match &**function {
            "_?_:_" => return three(args).map(|args| Node::Conditional(Box::new(args))),
            "_&&_" => return two(args).map(|args| Node::And(Box::new(args))),
            "_||_" => return two(args).map(|args| Node::Or(Box::new(args))),
            "_==_" | "_!=_" => {
                let negated = &**function == "_!=_";
                return two(args).map(|args| Node::Equals { args: Box::new(args), negated });
            }
            "@not_strictly_false" => return one(args).map(|arg| Node::NotStrictlyFalse(Box::new(arg))),
            "_[_]" => return index(args, false),
            "_[?_]" | "_?._" => return index(args, true),
            "or" | "orValue" if overloads.iter().any(|o| o.id.starts_with("optional_or")) => {
                let value = &**function == "orValue";
                return two(args).map(|args| Node::OptionalOr { args: Box::new(args), value });
            }
            _ => {}
        }
        let id = if let [only] = overloads { only.id } else { "" };
        let cost = CallCost::of(function, id);
        if let Some(kind) = regex_kind(function)
            && let Some(Node::Const(Value::String(pattern))) = args.get(1)
        {
            let regex = regexes::compile(pattern).map_err(EvalError::new)?;
            let mut args = args.into_iter();
            let (Some(text), Some(Node::Const(pattern))) = (args.next(), args.next()) else {
                return Err(EvalError::no_such_overload());
            };
            let count = args.next();
            return Ok(Node::Regex(Box::new(RegexCall { kind, regex, pattern, text, count, cost })));
        }
        if id == "in_list"
            && let [_, Node::Const(list @ Value::List(items))] = &args[..]
            && let Some(simple) = membership(items)
        {
            let list = list.clone();
            let value = args.into_iter().next().map(Box::new);
            return match value {
                Some(_) if simple == 0 => Ok(Node::Const(Value::Bool(false))),
                Some(value) => Ok(Node::Membership { value, list }),
                None => Err(EvalError::no_such_overload()),
            };
        }
        if &**function == "_+_"
            && let [Node::Attribute(gathered), Node::List(items)] = &args[..]
            && let (Root::Local(slot), [], [(_, false)]) = (&gathered.root, &gathered.qualifiers[..], &items[..])
            && *self.scopes[*slot] == *ACCUMULATOR
        {
            let slot = *slot;
            if let Some(Node::List(items)) = args.into_iter().nth(1)
                && let Some((element, _)) = items.into_iter().next()
            {
                return Ok(Node::Append { slot, element: Box::new(element) });
            }
            return Err(EvalError::no_such_overload());
        }
        let target = match overloads {
            [only] => Target::One(only.native),
            many => Target::Many(many.to_vec()),
        };
        let fixed = args.len() == 1 && is_conversion(function) && matches!(args[0], Node::Const(_));
        let call = Call { name: function.clone(), target, args: args.into(), cost };
        fold_constants(Node::Call(Box::new(call)), fixed)
    }

    fn comprehension(&mut self, c: &Comprehension) -> Result<Node, EvalError> {
        if c.is_bind() {
            let value = self.node(&c.init)?;
            let slot = self.push(&c.accumulator);
            let result = self.node(&c.result);
            self.scopes.pop();
            return Ok(Node::Bind { slot, value: Box::new(value), result: Box::new(result?) });
        }
        let range = self.node(&c.range)?;
        let init = self.node(&c.init)?;
        let accumulator = self.push(&c.accumulator);
        let variable = self.push(&c.variable);
        let second = c.second.as_ref().map(|name| self.push(name));
        let condition = match &c.condition.kind {
            Kind::Literal(Literal::Bool(true)) => None,
            _ => Some(self.node(&c.condition)?),
        };
        let step = self.node(&c.step)?;
        self.scopes.truncate(accumulator + 1);
        let result = self.node(&c.result)?;
        self.scopes.pop();
        Ok(Node::Fold(Box::new(Fold { range, accumulator, init, variable, second, condition, step, result })))
    }
}

fn constant(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(i) => Value::Int(*i),
        Literal::Uint(u) => Value::Uint(*u),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(text) => Value::string(text.clone()),
        Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
    }
}

/// Evaluates what is fixed. Only what costs nothing when it is evaluated is folded, as upstream does.
fn fold_constants(node: Node, fixed: bool) -> Result<Node, EvalError> {
    if !fixed {
        return Ok(node);
    }
    let variables = Variables::new();
    let value = Run::new(&variables, Limits::default(), 0).eval(&node)?;
    Ok(Node::Const(value))
}

fn attribute(root: Root, qualifiers: Vec<Qualifier>) -> Node {
    Node::Attribute(Box::new(Attribute { root, qualifiers }))
}

/// The node with one more thing selected from it.
fn qualified(node: Node, qualifier: Qualifier) -> Node {
    match node {
        Node::Attribute(mut a) if !a.qualifiers.iter().any(|q| matches!(q.by, By::Presence(_))) => {
            a.qualifiers.push(qualifier);
            Node::Attribute(a)
        }
        choice @ Node::Conditional(_) => attribute(Root::Choice(choice), vec![qualifier]),
        other => attribute(Root::Operand(other), vec![qualifier]),
    }
}

fn index(args: Vec<Node>, optional: bool) -> Result<Node, EvalError> {
    let [on, by] = two(args)?;
    let by = match by {
        Node::Const(Value::String(name)) => By::Field((*name).into()),
        Node::Const(value) => By::Const(value),
        other => By::Dynamic(other),
    };
    Ok(qualified(on, Qualifier { by, optional }))
}

fn one(args: Vec<Node>) -> Result<Node, EvalError> {
    args.into_iter().next().ok_or_else(EvalError::no_such_overload)
}

fn two(args: Vec<Node>) -> Result<[Node; 2], EvalError> {
    args.try_into().map_err(|_| EvalError::no_such_overload())
}

fn three(args: Vec<Node>) -> Result<[Node; 3], EvalError> {
    args.try_into().map_err(|_| EvalError::no_such_overload())
}

fn regex_kind(function: &str) -> Option<RegexKind> {
    Some(match function {
        "matches" => RegexKind::Matches,
        "find" => RegexKind::Find,
        "findAll" => RegexKind::FindAll,
        _ => return None,
    })
}

fn is_conversion(function: &str) -> bool {
    matches!(
        function,
        "bool" | "bytes" | "double" | "dyn" | "duration" | "int" | "string" | "timestamp" | "type" | "uint"
    )
}

/// How many constants there are, if all are of simple types.
fn membership(items: &crate::list::List<'static>) -> Option<usize> {
    let simple = |item: Result<Value<'static>, EvalError>| {
        matches!(
            item,
            Ok(Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::String(_) | Value::Null)
        )
    };
    items.iter().all(simple).then(|| items.len())
}

//! Gives every node a type and every call its overloads, or says with upstream's words why there is none.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Comprehension, Element, Entry, Expr, Field, Id, Kind, Literal};
use crate::decl::{Function, Overload};
use crate::env::Env;
use crate::issues::Issues;
use crate::parser::Parsed;
use crate::types::Type;
use crate::unify::{Substitution, most_general};

/// Types that have more parts than this are refused: a type built from itself over and over grows exponentially.
const MAX_TYPE_SIZE: usize = 1_000;

/// What a name or a call refers to.
#[derive(Clone, Debug)]
pub(crate) enum Reference {
    Variable(Arc<str>),
    /// A type as a value.
    Type(Arc<str>),
    Overloads(Vec<Arc<Overload>>),
}

/// An expression whose types are known.
#[derive(Debug)]
pub(crate) struct Checked {
    pub expr: Expr,
    pub types: Vec<Type>,
    pub references: HashMap<Id, Reference>,
}

impl Checked {
    pub(crate) fn type_of(&self, expr: &Expr) -> &Type {
        &self.types[expr.id as usize]
    }

    pub(crate) fn overloads(&self, expr: &Expr) -> &[Arc<Overload>] {
        match self.references.get(&expr.id) {
            Some(Reference::Overloads(overloads)) => overloads,
            _ => &[],
        }
    }
}

pub(crate) fn check(env: &Env, text: &str, parsed: Parsed) -> Result<(Checked, Vec<usize>), Issues> {
    let mut checker = Checker {
        env,
        issues: Issues::new(text),
        types: vec![None; parsed.places.len()],
        places: parsed.places,
        references: HashMap::new(),
        scopes: Vec::new(),
        substitution: Substitution::default(),
        variables: 0,
        too_large: false,
    };
    let mut expr = parsed.expr;
    checker.check(&mut expr);
    if !checker.issues.is_empty() {
        return Err(checker.issues);
    }
    let types =
        checker.types.iter().map(|t| t.as_ref().map_or(Type::Dyn, |t| checker.substitution.apply(t, true))).collect();
    Ok((Checked { expr, types, references: checker.references }, checker.places))
}

struct Checker<'e> {
    env: &'e Env,
    issues: Issues,
    places: Vec<usize>,
    types: Vec<Option<Type>>,
    references: HashMap<Id, Reference>,
    /// The variables of the comprehensions around, innermost last.
    scopes: Vec<(Arc<str>, Type)>,
    substitution: Substitution,
    variables: u32,
    too_large: bool,
}

impl Checker<'_> {
    fn report(&mut self, id: Id, message: String) {
        self.issues.report(Some(self.places[id as usize]), message);
    }

    fn undeclared(&mut self, id: Id, name: &str) {
        self.report(id, format!("undeclared reference to '{name}' (in container '')"));
    }

    fn mismatch(&mut self, id: Id, expected: &Type, found: &Type) {
        self.report(id, format!("expected type '{expected}' but found '{found}'"));
    }

    fn set(&mut self, id: Id, t: Type) {
        if !self.too_large && t.size(MAX_TYPE_SIZE) > MAX_TYPE_SIZE {
            self.too_large = true;
            self.report(id, format!("the type of this expression has more than {MAX_TYPE_SIZE} parts"));
        }
        self.types[id as usize] = Some(if self.too_large { Type::Error } else { t });
    }

    fn get(&self, expr: &Expr) -> Type {
        self.types[expr.id as usize].clone().unwrap_or(Type::Error)
    }

    fn fresh(&mut self) -> Type {
        self.variables += 1;
        Type::Param(format!("_var{}", self.variables - 1).into())
    }

    fn assignable(&mut self, from: &Type, to: &Type) -> bool {
        self.substitution.assign(from, to)
    }

    fn lookup(&self, name: &str) -> Option<(Type, Reference)> {
        let name = name.strip_prefix('.').unwrap_or(name);
        let local = self.scopes.iter().rev().find(|(n, _)| **n == *name);
        if let Some((name, t)) = local {
            return Some((t.clone(), Reference::Variable(name.clone())));
        }
        if let Some((name, t)) = self.env.variable_type(name) {
            return Some((t.clone(), Reference::Variable(name.clone())));
        }
        self.env.type_named(name).map(|t| (Type::of_type(t), Reference::Type(name.into())))
    }

    fn check(&mut self, e: &mut Expr) {
        crate::stack::with_room(|| self.check_kind(e));
    }

    fn check_kind(&mut self, e: &mut Expr) {
        match &mut e.kind {
            Kind::Error => self.set(e.id, Type::Error),
            Kind::Literal(literal) => {
                let t = match literal {
                    Literal::Null => Type::Null,
                    Literal::Bool(_) => Type::Bool,
                    Literal::Int(_) => Type::Int,
                    Literal::Uint(_) => Type::Uint,
                    Literal::Double(_) => Type::Double,
                    Literal::String(_) => Type::String,
                    Literal::Bytes(_) => Type::Bytes,
                };
                self.set(e.id, t);
            }
            Kind::Ident(_) => self.ident(e),
            Kind::Select { .. } => self.select(e),
            Kind::Call { .. } => self.call(e),
            Kind::List(elements) => self.list(e.id, elements),
            Kind::Map(entries) => self.map(e.id, entries),
            Kind::Struct { .. } => self.structure(e),
            Kind::Comprehension(c) => self.comprehension(e.id, c),
        }
    }

    fn refer(&mut self, e: &mut Expr, (t, reference): (Type, Reference)) {
        let (Reference::Variable(name) | Reference::Type(name)) = &reference else { return };
        e.kind = Kind::Ident(name.clone());
        self.set(e.id, t);
        self.references.insert(e.id, reference);
    }

    fn ident(&mut self, e: &mut Expr) {
        let Kind::Ident(name) = &e.kind else { return };
        let name = name.clone();
        match self.lookup(&name) {
            Some(found) => self.refer(e, found),
            None => {
                self.set(e.id, Type::Error);
                self.undeclared(e.id, &name);
            }
        }
    }

    fn select(&mut self, e: &mut Expr) {
        if let Some(name) = e.qualified_name()
            && let Some(found) = self.lookup(&name)
        {
            return self.refer(e, found);
        }
        let id = e.id;
        let Kind::Select { operand, field, test } = &mut e.kind else { return };
        let (field, test) = (field.clone(), *test);
        self.check(operand);
        let operand_type = self.get(operand);
        let t = self.field(id, &operand_type, &field, false);
        let t = if test { Type::Bool } else { self.substitution.apply(&t, false) };
        self.set(id, t);
    }

    /// The type of a field of a value of the type.
    fn field(&mut self, id: Id, operand: &Type, field: &str, optional: bool) -> Type {
        let operand = self.substitution.apply(operand, false);
        let (target, was_optional) = match operand.unwrap_optional() {
            Some(inner) => (inner.clone(), true),
            None => (operand, false),
        };
        let result = match &target {
            Type::Map(entry) => entry.1.clone(),
            Type::Object(name) => match self.env.field_type(name, field) {
                Ok(t) => t,
                Err(true) => {
                    self.report(id, format!("undefined field '{field}'"));
                    Type::Error
                }
                Err(false) => {
                    self.report(id, format!("unexpected failed resolution of '{name}'"));
                    Type::Error
                }
            },
            Type::Param(_) => {
                self.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            t if t.is_dyn_or_error() => Type::Dyn,
            t => {
                self.report(id, format!("type '{t}' does not support field selection"));
                Type::Dyn
            }
        };
        if was_optional || optional { Type::optional(result) } else { result }
    }

    fn call(&mut self, e: &mut Expr) {
        let id = e.id;
        let Kind::Call { function, target, args } = &mut e.kind else { return };
        let function = function.clone();
        if *function == *"_?._" {
            return self.optional_select(id, args);
        }
        args.iter_mut().for_each(|a| self.check(a));
        // A call on a dotted name may be one of a function of that name: `format.named('uuid')`.
        if let Some(on) = target
            && let Some(prefix) = on.qualified_name()
        {
            let name = format!("{}.{function}", prefix.strip_prefix('.').unwrap_or(&prefix));
            if let Some(found) = self.env.function(&name) {
                let types: Vec<Type> = args.iter().map(|a| self.get(a)).collect();
                let ids: Vec<Id> = args.iter().map(|a| a.id).collect();
                let args = std::mem::take(args);
                e.kind = Kind::Call { function: found.name.into(), target: None, args };
                return self.resolve(id, found, false, types, &ids);
            }
        }
        let mut types = Vec::with_capacity(args.len() + 1);
        let member = target.is_some();
        if let Some(on) = target {
            self.check(on);
            types.push(self.get(on));
        }
        types.extend(args.iter().map(|a| self.get(a)));
        let ids: Vec<Id> = args.iter().map(|a| a.id).collect();
        let name = function.strip_prefix('.').unwrap_or(&function);
        match self.env.function(name) {
            Some(found) => self.resolve(id, found, member, types, &ids),
            None => {
                self.set(id, Type::Error);
                self.undeclared(id, &function);
            }
        }
    }

    fn optional_select(&mut self, id: Id, args: &mut [Expr]) {
        let [operand, field] = args else { return self.set(id, Type::Error) };
        let Kind::Literal(Literal::String(name)) = &field.kind else { return self.set(id, Type::Error) };
        let name = name.clone();
        self.check(operand);
        self.set(field.id, Type::String);
        let operand_type = self.get(operand);
        let t = self.field(id, &operand_type, &name, true);
        let t = self.substitution.apply(&t, false);
        self.set(id, t);
    }

    fn resolve(&mut self, id: Id, function: &Function, member: bool, types: Vec<Type>, args: &[Id]) {
        let mut chosen: Vec<Arc<Overload>> = Vec::new();
        let mut result: Option<Type> = None;
        for overload in function.overloads.iter().filter(|o| o.member == member) {
            if matches!(function.name, "_&&_" | "_||_") {
                let mut sound = true;
                for (t, arg) in types.iter().zip(args) {
                    if !self.assignable(t, &Type::Bool) {
                        let shown = self.substitution.apply(t, true);
                        self.mismatch(*arg, &Type::Bool, &shown);
                        sound = false;
                    }
                }
                self.set(id, if sound { Type::Bool } else { Type::Error });
                self.references.insert(id, Reference::Overloads(vec![overload.clone()]));
                return;
            }
            if overload.args.len() != types.len() {
                continue;
            }
            let (wanted, resulting) = self.instantiate(overload);
            if self.substitution.assign_all(types.iter().zip(&wanted)) {
                let t = self.substitution.apply(&resulting, false);
                chosen.push(overload.clone());
                result = Some(match result {
                    Some(before) if !before.is_dyn() && before != t => Type::Dyn,
                    Some(before) => before,
                    None => t,
                });
            }
        }
        let Some(result) = result else {
            let shown: Vec<String> = types.iter().map(|t| self.substitution.apply(t, true).to_string()).collect();
            let signature = match (member, &shown[..]) {
                (true, [on, args @ ..]) => format!("{on}.({})", args.join(", ")),
                (_, args) => format!("({})", args.join(", ")),
            };
            self.report(id, format!("found no matching overload for '{}' applied to '{signature}'", function.name));
            return self.set(id, Type::Error);
        };
        self.set(id, result);
        self.references.insert(id, Reference::Overloads(chosen));
    }

    /// The overload's types with fresh variables for its parameters.
    fn instantiate(&mut self, overload: &Overload) -> (Vec<Type>, Type) {
        if overload.params.is_empty() {
            return (overload.args.clone(), overload.result.clone());
        }
        let mut fresh = Substitution::default();
        for param in &overload.params {
            let variable = self.fresh();
            fresh.insert(param.clone(), variable);
        }
        (overload.args.iter().map(|a| fresh.apply(a, false)).collect(), fresh.apply(&overload.result, false))
    }

    /// The type that is common to the elements so far and the next; elements of mixed types are refused later, except where
    /// they are arguments of a format.
    fn join(&mut self, before: Option<Type>, next: Type) -> Type {
        let Some(before) = before else { return next };
        if self.assignable(&before, &next) { most_general(&before, &next) } else { Type::Dyn }
    }

    /// The type of what an optional entry adds, if it is one.
    fn unwrapped(&mut self, id: Id, t: Type, optional: bool) -> Type {
        if !optional {
            return t;
        }
        match t.unwrap_optional() {
            Some(inner) => inner.clone(),
            None => {
                if !t.is_dyn() {
                    self.mismatch(id, &Type::optional(t.clone()), &t);
                }
                t
            }
        }
    }

    fn list(&mut self, id: Id, elements: &mut [Element]) {
        let mut common = None;
        for element in elements {
            self.check(&mut element.value);
            let t = self.get(&element.value);
            let t = self.unwrapped(element.value.id, t, element.optional);
            common = Some(self.join(common, t));
        }
        let of = match common {
            Some(t) => t,
            None => self.fresh(),
        };
        self.set(id, Type::list(of));
    }

    fn map(&mut self, id: Id, entries: &mut [Entry]) {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            self.check(&mut entry.key);
            let t = self.get(&entry.key);
            keys = Some(self.join(keys, t));
            self.check(&mut entry.value);
            let t = self.get(&entry.value);
            let t = self.unwrapped(entry.value.id, t, entry.optional);
            values = Some(self.join(values, t));
        }
        let (key, value) = match keys.zip(values) {
            Some(types) => types,
            None => (self.fresh(), self.fresh()),
        };
        self.set(id, Type::map(key, value));
    }

    fn structure(&mut self, e: &mut Expr) {
        let id = e.id;
        let Kind::Struct { name, fields } = &mut e.kind else { return };
        let Some((t, _)) = self.lookup(name) else {
            let name = name.clone();
            self.undeclared(id, &name);
            return self.set(id, Type::Error);
        };
        if let Some(rest) = name.strip_prefix('.') {
            *name = rest.into();
        }
        let t = match t {
            Type::Type(Some(of)) => match &*of {
                Type::Object(_) => (*of).clone(),
                other => {
                    self.report(id, format!("'{}' is not a message type", other.name()));
                    Type::Error
                }
            },
            other => {
                self.report(id, format!("'{}' is not a type", other.name()));
                Type::Error
            }
        };
        self.set(id, t);
        let name = name.clone();
        for Field { id, name: field, value, optional } in fields {
            self.check(value);
            let wanted = match self.env.field_type(&name, field) {
                Ok(t) => t,
                Err(known) => {
                    let message = if known {
                        format!("undefined field '{field}'")
                    } else {
                        format!("unexpected failed resolution of '{name}'")
                    };
                    self.report(*id, message);
                    Type::Error
                }
            };
            let found = self.get(value);
            let found = self.unwrapped(value.id, found, *optional);
            if !self.assignable(&wanted, &found) {
                let shown = self.substitution.apply(&found, false);
                let message = format!("expected type of field '{field}' is '{wanted}' but provided type is '{shown}'");
                self.report(*id, message);
            }
        }
    }

    fn comprehension(&mut self, id: Id, c: &mut Comprehension) {
        self.check(&mut c.range);
        self.check(&mut c.init);
        let range = self.get(&c.range);
        let range = self.substitution.apply(&range, false);
        let gathered = self.get(&c.init);
        self.scopes.push((c.accumulator.clone(), gathered.clone()));
        let (first, second) = match &range {
            Type::List(element) if c.second.is_some() => (Type::Int, (**element).clone()),
            Type::List(element) => ((**element).clone(), Type::Error),
            Type::Map(entry) => (entry.0.clone(), entry.1.clone()),
            Type::Dyn | Type::Any | Type::Error | Type::Param(_) => {
                self.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            t => {
                let message = format!(
                    "expression of type '{t}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report(c.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        self.scopes.push((c.variable.clone(), first));
        if let Some(name) = &c.second {
            self.scopes.push((name.clone(), second));
        }
        self.check(&mut c.condition);
        self.assert_type(&c.condition, &Type::Bool);
        self.check(&mut c.step);
        self.assert_type(&c.step, &gathered);
        self.scopes.truncate(self.scopes.len() - 1 - usize::from(c.second.is_some()));
        self.check(&mut c.result);
        self.scopes.pop();
        let t = self.get(&c.result);
        let t = self.substitution.apply(&t, false);
        self.set(id, t);
    }

    fn assert_type(&mut self, e: &Expr, wanted: &Type) {
        let found = self.get(e);
        if !self.assignable(wanted, &found) {
            let (wanted, found) = (self.substitution.apply(wanted, false), self.substitution.apply(&found, false));
            self.mismatch(e.id, &wanted, &found);
        }
    }
}

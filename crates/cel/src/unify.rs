//! Which type may stand where another is wanted, and what type variables then stand for.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::Type;

/// What the type variables met so far stand for.
#[derive(Debug, Default)]
pub(crate) struct Substitution {
    bound: HashMap<Arc<str>, Type>,
    /// What was bound before, to undo a try that failed.
    trail: Vec<(Arc<str>, Option<Type>)>,
}

impl Substitution {
    fn find(&self, t: &Type) -> Option<&Type> {
        match t {
            Type::Param(name) => self.bound.get(name),
            _ => None,
        }
    }

    pub(crate) fn insert(&mut self, name: Arc<str>, t: Type) {
        let before = self.bound.insert(name.clone(), t);
        self.trail.push((name, before));
    }

    /// The type with its variables replaced; those that stand for nothing become `dyn` if so wanted.
    pub(crate) fn apply(&self, t: &Type, unbound_to_dyn: bool) -> Type {
        if let Some(found) = self.find(t) {
            return self.apply(found, unbound_to_dyn);
        }
        match t {
            Type::Param(_) if unbound_to_dyn => Type::Dyn,
            Type::List(element) => Type::list(self.apply(element, unbound_to_dyn)),
            Type::Map(entry) => Type::map(self.apply(&entry.0, unbound_to_dyn), self.apply(&entry.1, unbound_to_dyn)),
            Type::Opaque(name, params) if !params.is_empty() => {
                Type::Opaque(name.clone(), params.iter().map(|p| self.apply(p, unbound_to_dyn)).collect())
            }
            Type::Type(Some(of)) => Type::of_type(self.apply(of, unbound_to_dyn)),
            other => other.clone(),
        }
    }

    /// Whether all of `from` may stand for `to`; what that binds is kept only then.
    pub(crate) fn assign_all<'t>(&mut self, pairs: impl Iterator<Item = (&'t Type, &'t Type)>) -> bool {
        self.trail.clear();
        for (from, to) in pairs {
            if !self.assignable(from, to) {
                while let Some((name, before)) = self.trail.pop() {
                    match before {
                        Some(t) => self.bound.insert(name, t),
                        None => self.bound.remove(&name),
                    };
                }
                return false;
            }
        }
        true
    }

    pub(crate) fn assign(&mut self, from: &Type, to: &Type) -> bool {
        if !matches!((from, to), (Type::Param(_), _) | (_, Type::Param(_))) && from == to {
            return true;
        }
        self.assign_all(std::iter::once((from, to)))
    }

    fn assignable(&mut self, from: &Type, to: &Type) -> bool {
        if matches!(to, Type::Param(_)) {
            let (valid, bound) = self.substitutes(from, to);
            if valid {
                return true;
            }
            if bound {
                return false;
            }
        }
        if matches!(from, Type::Param(_)) {
            return self.substitutes(to, from).0;
        }
        if from.is_dyn_or_error() || to.is_dyn_or_error() {
            return true;
        }
        match (from, to) {
            (Type::Null, other) | (other, Type::Null) => {
                matches!(other, Type::Null | Type::Opaque(..) | Type::Object(_) | Type::Duration | Type::Timestamp)
            }
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) => self.assignable(a, b),
            (Type::Map(a), Type::Map(b)) => self.assignable(&a.0, &b.0) && self.assignable(&a.1, &b.1),
            (Type::Opaque(a, of), Type::Opaque(b, with)) => {
                a == b && of.len() == with.len() && of.iter().zip(with.iter()).all(|(x, y)| self.assignable(x, y))
            }
            _ => from == to,
        }
    }

    /// Whether the variable may stand for the type, and whether it stands for something already.
    fn substitutes(&mut self, t: &Type, variable: &Type) -> (bool, bool) {
        let Type::Param(name) = variable else { return (false, false) };
        if t == variable {
            return (true, true);
        }
        if let Some(bound) = self.find(variable).cloned() {
            if *t == bound {
                return (true, true);
            }
            if self.assignable(t, &bound) {
                let general = if at_most_as_specific(t, &bound) { t.clone() } else { bound };
                if !self.occurs(variable, &general) {
                    self.insert(name.clone(), general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.occurs(variable, t) {
            return (false, false);
        }
        self.insert(name.clone(), t.clone());
        (true, false)
    }

    fn occurs(&self, variable: &Type, within: &Type) -> bool {
        if variable == within {
            return true;
        }
        match within {
            Type::Param(_) => self.find(within).is_some_and(|t| self.occurs(variable, t)),
            Type::List(element) => self.occurs(variable, element),
            Type::Map(entry) => self.occurs(variable, &entry.0) || self.occurs(variable, &entry.1),
            Type::Opaque(_, params) => params.iter().any(|p| self.occurs(variable, p)),
            Type::Type(Some(of)) => self.occurs(variable, of),
            _ => false,
        }
    }
}

/// Of two types that go together, the one that says less.
pub(crate) fn most_general(a: &Type, b: &Type) -> Type {
    if at_most_as_specific(a, b) { a.clone() } else { b.clone() }
}

fn at_most_as_specific(a: &Type, b: &Type) -> bool {
    if a.is_dyn() || matches!(a, Type::Param(_)) {
        return true;
    }
    if b.is_dyn() || matches!(b, Type::Param(_)) {
        return false;
    }
    match (a, b) {
        (Type::List(x), Type::List(y)) => at_most_as_specific(x, y),
        (Type::Map(x), Type::Map(y)) => at_most_as_specific(&x.0, &y.0) && at_most_as_specific(&x.1, &y.1),
        (Type::Opaque(x, of), Type::Opaque(y, with)) => {
            x == y && of.len() == with.len() && of.iter().zip(with.iter()).all(|(x, y)| at_most_as_specific(x, y))
        }
        (Type::Type(_), Type::Type(_)) => true,
        _ => a == b,
    }
}

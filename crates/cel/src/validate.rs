//! What is checked of a sound tree beside types: literals that never work, lists of mixed types, formats.

use crate::ast::{Expr, Id, Kind, Literal};
use crate::checker::Checked;
use crate::functions::format::{Clause, Piece, pieces};
use crate::functions::regexes;
use crate::issues::Issues;
use crate::time;
use crate::types::Type;

pub(crate) fn validate(text: &str, checked: &Checked, places: &[usize]) -> Result<(), Issues> {
    let mut validator = Validator { checked, places, issues: Issues::new(text) };
    validator.literals();
    validator.aggregates(&checked.expr, false);
    validator.formats();
    if validator.issues.is_empty() { Ok(()) } else { Err(validator.issues) }
}

struct Validator<'c> {
    checked: &'c Checked,
    places: &'c [usize],
    issues: Issues,
}

impl<'c> Validator<'c> {
    fn report(&mut self, id: Id, message: String) {
        self.issues.report(Some(self.places[id as usize]), message);
    }

    fn literals(&mut self) {
        let mut bad = Vec::new();
        self.checked.expr.walk(&mut |e| {
            let Kind::Call { function, args, .. } = &e.kind else { return };
            let Some(Expr { id, kind: Kind::Literal(literal) }) = args.first() else { return };
            let sound = match (&**function, literal) {
                ("duration", Literal::String(text)) => time::parse_duration(text).is_some(),
                ("timestamp", Literal::String(text)) => time::parse(text).is_some(),
                ("timestamp", Literal::Int(seconds)) => time::Time::from_seconds(*seconds).is_some(),
                ("duration", Literal::Int(_)) => false,
                ("matches", Literal::String(pattern)) => regexes::compile(pattern).is_ok(),
                _ => true,
            };
            if !sound {
                bad.push((*id, function.clone()));
            }
        });
        for (id, function) in bad {
            self.report(id, format!("invalid {function} argument"));
        }
    }

    /// Elements of list literals, and keys and values of map literals, are of one type, except in arguments of `format`.
    fn aggregates(&mut self, e: &'c Expr, exempt: bool) {
        crate::stack::with_room(|| self.aggregates_within(e, exempt));
    }

    fn aggregates_within(&mut self, e: &'c Expr, exempt: bool) {
        match &e.kind {
            Kind::Error | Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => self.aggregates(operand, exempt),
            Kind::Call { function, target, args } => {
                let exempt = exempt || **function == *"format";
                for part in target.as_deref().into_iter().chain(args) {
                    self.aggregates(part, exempt);
                }
            }
            Kind::List(elements) => {
                let typed = elements.iter().map(|element| (&element.value, element.optional));
                if !exempt {
                    self.same(typed, true);
                }
                elements.iter().for_each(|element| self.aggregates(&element.value, exempt));
            }
            Kind::Map(entries) => {
                if !exempt {
                    self.same(entries.iter().map(|entry| (&entry.key, false)), false);
                    self.same(entries.iter().map(|entry| (&entry.value, entry.optional)), false);
                }
                for entry in entries {
                    self.aggregates(&entry.key, exempt);
                    self.aggregates(&entry.value, exempt);
                }
            }
            Kind::Struct { fields, .. } => fields.iter().for_each(|field| self.aggregates(&field.value, exempt)),
            Kind::Comprehension(c) => {
                for part in [&c.range, &c.init, &c.condition, &c.step, &c.result] {
                    self.aggregates(part, exempt);
                }
            }
        }
    }

    fn same(&mut self, exprs: impl Iterator<Item = (&'c Expr, bool)>, first_only: bool) {
        let mut common: Option<&Type> = None;
        for (e, optional) in exprs {
            let mut t = self.checked.type_of(e);
            if optional {
                t = t.unwrap_optional().unwrap_or(t);
            }
            match common {
                None => common = Some(t),
                Some(common) if common != t => {
                    self.report(e.id, format!("expected type '{common}' but found '{t}'"));
                    if first_only {
                        return;
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn formats(&mut self) {
        let mut calls = Vec::new();
        self.checked.expr.walk(&mut |e| {
            if let Kind::Call { function, target: Some(target), args } = &e.kind
                && **function == *"format"
                && let Kind::Literal(Literal::String(format)) = &target.kind
                && let [Expr { kind: Kind::List(arguments), .. }] = &args[..]
            {
                calls.push((e.id, format.clone(), arguments));
            }
        });
        for (id, format, arguments) in calls {
            let mut requested = 0;
            let outcome: Result<(), Complaint> = pieces(&format, arguments.len(), |piece, index| {
                if let Piece::Clause(clause) = piece {
                    requested = index + 1;
                    self.accepts(clause, &arguments[index].value)?;
                }
                Ok(())
            });
            if let Err(Complaint { about, message }) = outcome {
                self.report(about.unwrap_or(id), message);
            } else if arguments.len() > requested {
                let given = arguments.len();
                let what = "too many arguments supplied to string.format";
                self.report(id, format!("{what} (expected {requested}, got {given})"));
            }
        }
    }

    fn accepts(&self, clause: Clause, argument: &'c Expr) -> Result<(), Complaint> {
        let bad = match clause {
            Clause::Text => self.no_text(argument),
            _ => {
                let t = self.checked.type_of(argument);
                let fits = t.is_dyn()
                    || match clause {
                        Clause::Decimal | Clause::Octal => matches!(t, Type::Int | Type::Uint),
                        // Texts may be NaN or Infinity.
                        Clause::Fixed(_) | Clause::Scientific => matches!(t, Type::Double | Type::String),
                        Clause::Binary => matches!(t, Type::Bool | Type::Int | Type::Uint),
                        Clause::Hex { .. } => matches!(t, Type::Int | Type::Uint | Type::String | Type::Bytes),
                        Clause::Text => true,
                    };
                (!fits).then_some(argument)
            }
        };
        match bad {
            None => Ok(()),
            Some(bad) => {
                Err(Complaint { about: Some(bad.id), message: clause.refusal(self.checked.type_of(bad).name()) })
            }
        }
    }

    /// The part of an argument that has no form as a text.
    fn no_text(&self, e: &'c Expr) -> Option<&'c Expr> {
        if matches!(self.checked.type_of(e), Type::Object(_) | Type::Opaque(..) | Type::Any | Type::Error) {
            return Some(e);
        }
        match &e.kind {
            Kind::List(elements) => elements.iter().find_map(|element| self.no_text(&element.value)),
            Kind::Map(entries) => entries.iter().find_map(|e| self.no_text(&e.key).or_else(|| self.no_text(&e.value))),
            _ => None,
        }
    }
}

struct Complaint {
    about: Option<Id>,
    message: String,
}

impl From<String> for Complaint {
    fn from(message: String) -> Self {
        Self { about: None, message }
    }
}

//! Which fields an expression selects: for those who demand one for the sake of another.

use crate::ast::{Kind, Literal};
use crate::parser::parse;

/// A field that is selected by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The variable that it is selected of, if it is a variable's own.
    pub variable: Option<String>,
    pub field: String,
}

/// The selections of an expression, `has(a.b)` and `a.?b` among them, but not `a['b']`; none where it does not parse.
pub fn selections(text: &str) -> Vec<Selection> {
    let mut all = Vec::new();
    let Ok(parsed) = parse(text, false) else { return all };
    parsed.expr.walk(&mut |expr| {
        let (operand, field) = match &expr.kind {
            Kind::Select { operand, field, .. } => (&**operand, field),
            Kind::Call { function, target: None, args } if **function == *"_?._" => match args.as_slice() {
                [operand, field] => match &field.kind {
                    Kind::Literal(Literal::String(field)) => (operand, field),
                    _ => return,
                },
                _ => return,
            },
            _ => return,
        };
        let variable = match &operand.kind {
            Kind::Ident(name) => Some(name.to_string()),
            _ => None,
        };
        all.push(Selection { variable, field: field.to_string() });
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_are_found_wherever_they_are() {
        let of = |text: &str| {
            let show = |s: Selection| format!("{}.{}", s.variable.unwrap_or_default(), s.field);
            selections(text).into_iter().map(show).collect::<Vec<_>>()
        };
        assert_eq!(of("claims.email"), ["claims.email"]);
        assert_eq!(of("claims.foo.email"), [".email", "claims.foo"]);
        assert_eq!(of("has(claims.email) ? claims.?a.orValue('x') : 'b'"), ["claims.email", "claims.a"]);
        assert_eq!(of("[1].all(x, claims.email == x)"), ["claims.email"]);
        assert_eq!(of("{'a': claims.b}.a + claims['c']"), [".a", "claims.b"]);
        assert!(of("claims.").is_empty());
    }
}

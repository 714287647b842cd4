//! Calls that the parser turns into comprehensions and other forms.

use std::sync::Arc;

use crate::ast::{ACCUMULATOR, Comprehension, Element, Entry, Expr, Field, Id, Kind, Literal, OLD_ACCUMULATOR, UNUSED};
use crate::parser::{Factory, Parser};

/// A call, or what the macro of its name and number of arguments makes of it.
pub(crate) fn call(parser: &mut Parser<'_>, id: Id, function: &str, target: Option<Expr>, args: Vec<Expr>) -> Expr {
    let place = parser.factory.place(id);
    let binds =
        parser.bindings && target.as_ref().is_some_and(|t| matches!(&t.kind, Kind::Ident(name) if **name == *"cel"));
    let mut maker = Maker { factory: &mut parser.factory, place };
    let expanded = match (&target, function, args.len()) {
        (None, "has", 1) => maker.has(args),
        (Some(_), "all" | "exists" | "exists_one" | "existsOne", 2 | 3) => maker.quantifier(function, target, args),
        (Some(_), "map", 2 | 3) => maker.map(target, args),
        (Some(_), "filter", 2) => maker.filter(target, args),
        (Some(_), "transformList" | "transformMap" | "transformMapEntry", 3 | 4) => {
            maker.transform(function, target, args)
        }
        (Some(_), "optMap" | "optFlatMap", 2) => maker.optional_map(function, target, args),
        (Some(_), "bind", 3) if binds => maker.named(args),
        (Some(_), "sortBy", 2) => maker.sort_by(target, args),
        _ => {
            let kind = Kind::Call { function: function.into(), target: target.map(Box::new), args };
            return Expr { id, kind };
        }
    };
    expanded.unwrap_or_else(|(at, message)| {
        let place = parser.factory.place(at);
        parser.error(place, message)
    })
}

type Expanded = Result<Expr, (Id, String)>;

/// The variables of a comprehension.
type Names = (Arc<str>, Option<Arc<str>>);

/// Makes the nodes of an expansion, all of which stand where the call does.
struct Maker<'f> {
    factory: &'f mut Factory,
    place: usize,
}

impl Maker<'_> {
    fn expr(&mut self, kind: Kind) -> Expr {
        self.factory.expr(self.place, kind)
    }

    fn ident(&mut self, name: &str) -> Expr {
        self.expr(Kind::Ident(name.into()))
    }

    fn accumulator(&mut self) -> Expr {
        self.ident(ACCUMULATOR)
    }

    fn literal(&mut self, literal: Literal) -> Expr {
        self.expr(Kind::Literal(literal))
    }

    fn list(&mut self, elements: Vec<Expr>) -> Expr {
        self.expr(Kind::List(elements.into_iter().map(|value| Element { value, optional: false }).collect()))
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.expr(Kind::Call { function: function.into(), target: None, args })
    }

    fn member_call(&mut self, function: &str, target: Expr, args: Vec<Expr>) -> Expr {
        self.expr(Kind::Call { function: function.into(), target: Some(Box::new(target)), args })
    }

    fn has(&mut self, mut args: Vec<Expr>) -> Expanded {
        let argument = args.remove(0);
        match argument.kind {
            Kind::Select { operand, field, test: false } => Ok(self.expr(Kind::Select { operand, field, test: true })),
            _ => Err((argument.id, "invalid argument to has() macro".to_owned())),
        }
    }

    /// The names of the one or two variables at the front of the arguments, which are taken away.
    fn variables(args: &mut Vec<Expr>, count: usize, complaint: &str) -> Result<Names, (Id, String)> {
        let mut names: Vec<Arc<str>> = Vec::new();
        let ids: Vec<Id> = args.iter().take(count).map(|a| a.id).collect();
        for argument in args.drain(..count) {
            match argument.kind {
                Kind::Ident(name) => names.push(name),
                _ => return Err((argument.id, complaint.to_owned())),
            }
        }
        if count == 2 && names[0] == names[1] {
            return Err((ids[1], format!("duplicate variable name: {}", names[0])));
        }
        for (name, id) in names.iter().zip(ids) {
            if **name == *ACCUMULATOR || **name == *OLD_ACCUMULATOR {
                return Err((id, "iteration variable overwrites accumulator variable".to_owned()));
            }
        }
        let mut names = names.into_iter();
        Ok((names.next().unwrap_or_else(|| UNUSED.into()), names.next()))
    }

    fn quantifier(&mut self, function: &str, target: Option<Expr>, mut args: Vec<Expr>) -> Expanded {
        let count = args.len() - 1;
        let (variable, second) = Self::variables(&mut args, count, "argument must be a simple name")?;
        let predicate = args.remove(0);
        let (init, condition, step, result);
        match function {
            "all" => {
                init = self.literal(Literal::Bool(true));
                let gathered = self.accumulator();
                condition = self.call("@not_strictly_false", vec![gathered]);
                let gathered = self.accumulator();
                step = self.call("_&&_", vec![gathered, predicate]);
                result = self.accumulator();
            }
            "exists" => {
                init = self.literal(Literal::Bool(false));
                let gathered = self.accumulator();
                let negated = self.call("!_", vec![gathered]);
                condition = self.call("@not_strictly_false", vec![negated]);
                let gathered = self.accumulator();
                step = self.call("_||_", vec![gathered, predicate]);
                result = self.accumulator();
            }
            _ => {
                init = self.literal(Literal::Int(0));
                condition = self.literal(Literal::Bool(true));
                let (gathered, one) = (self.accumulator(), self.literal(Literal::Int(1)));
                let more = self.call("_+_", vec![gathered, one]);
                let same = self.accumulator();
                step = self.call("_?_:_", vec![predicate, more, same]);
                let (gathered, one) = (self.accumulator(), self.literal(Literal::Int(1)));
                result = self.call("_==_", vec![gathered, one]);
            }
        }
        Ok(self.comprehension(target, variable, second, init, condition, step, result))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a comprehension")]
    fn comprehension(
        &mut self,
        range: Option<Expr>,
        variable: Arc<str>,
        second: Option<Arc<str>>,
        init: Expr,
        condition: Expr,
        step: Expr,
        result: Expr,
    ) -> Expr {
        let range = match range {
            Some(range) => range,
            None => self.list(Vec::new()),
        };
        let accumulator = ACCUMULATOR.into();
        let parts = Comprehension { range, variable, second, accumulator, init, condition, step, result };
        self.expr(Kind::Comprehension(Box::new(parts)))
    }

    /// Gathers: appends to a list or inserts into a map, for those elements that a filter lets through.
    fn gather(
        &mut self,
        range: Option<Expr>,
        (variable, second): Names,
        init: Expr,
        filter: Option<Expr>,
        step: Expr,
    ) -> Expr {
        let condition = self.literal(Literal::Bool(true));
        let step = match filter {
            None => step,
            Some(filter) => {
                let same = self.accumulator();
                self.call("_?_:_", vec![filter, step, same])
            }
        };
        let result = self.accumulator();
        self.comprehension(range, variable, second, init, condition, step, result)
    }

    fn append(&mut self, element: Expr) -> Expr {
        let gathered = self.accumulator();
        let added = self.list(vec![element]);
        self.call("_+_", vec![gathered, added])
    }

    fn map(&mut self, target: Option<Expr>, mut args: Vec<Expr>) -> Expanded {
        let variables = Self::variables(&mut args, 1, "argument is not an identifier")?;
        let filter = (args.len() == 2).then(|| args.remove(0));
        let init = self.list(Vec::new());
        let step = self.append(args.remove(0));
        Ok(self.gather(target, variables, init, filter, step))
    }

    fn filter(&mut self, target: Option<Expr>, mut args: Vec<Expr>) -> Expanded {
        let element = Expr { id: args[0].id, kind: args[0].kind.clone() };
        let variables = Self::variables(&mut args, 1, "argument is not an identifier")?;
        let init = self.list(Vec::new());
        let step = self.append(element);
        Ok(self.gather(target, variables, init, args.pop(), step))
    }

    fn transform(&mut self, function: &str, target: Option<Expr>, mut args: Vec<Expr>) -> Expanded {
        let variables = Self::variables(&mut args, 2, "argument must be a simple name")?;
        let filter = (args.len() == 2).then(|| args.remove(0));
        let value = args.remove(0);
        let (init, step);
        if function == "transformList" {
            init = self.list(Vec::new());
            step = self.append(value);
        } else {
            init = self.expr(Kind::Map(Vec::new()));
            let mut insert = vec![self.accumulator()];
            if function == "transformMap" {
                insert.push(self.ident(&variables.0));
            }
            insert.push(value);
            step = self.call("cel.@mapInsert", insert);
        }
        Ok(self.gather(target, variables, init, filter, step))
    }

    /// Binds a name for the length of an expression.
    fn bind(&mut self, name: Arc<str>, value: Expr, result: Expr) -> Expr {
        let range = self.list(Vec::new());
        let condition = self.literal(Literal::Bool(false));
        let step = self.ident(&name);
        let parts = Comprehension {
            range,
            variable: UNUSED.into(),
            second: None,
            accumulator: name,
            init: value,
            condition,
            step,
            result,
        };
        self.expr(Kind::Comprehension(Box::new(parts)))
    }

    /// `cel.bind(name, value, result)`.
    fn named(&mut self, mut args: Vec<Expr>) -> Expanded {
        let (result, value, variable) = (args.pop(), args.pop(), args.pop());
        let (Some(variable), Some(value), Some(result)) = (variable, value, result) else {
            return Err((0, "cel.bind() takes three arguments".to_owned()));
        };
        match variable.kind {
            Kind::Ident(name) => Ok(self.bind(name, value, result)),
            _ => Err((variable.id, "cel.bind() variable names must be simple identifiers".to_owned())),
        }
    }

    fn optional_map(&mut self, function: &str, target: Option<Expr>, mut args: Vec<Expr>) -> Expanded {
        let variable = args.remove(0);
        let Kind::Ident(name) = variable.kind else {
            return Err((variable.id, format!("{function}() variable name must be a simple identifier")));
        };
        let target = target.unwrap_or(Expr { id: 0, kind: Kind::Error });
        let copy = self.copy(&target);
        let present = self.member_call("hasValue", target, Vec::new());
        let value = self.member_call("value", copy, Vec::new());
        let mapped = self.bind(name, value, args.remove(0));
        let mapped = if function == "optMap" { self.call("optional.of", vec![mapped]) } else { mapped };
        let none = self.call("optional.none", Vec::new());
        Ok(self.call("_?_:_", vec![present, mapped, none]))
    }

    fn sort_by(&mut self, target: Option<Expr>, args: Vec<Expr>) -> Expanded {
        const INPUT: &str = "@__sortBy_input__";
        let target = target.unwrap_or(Expr { id: 0, kind: Kind::Error });
        if !matches!(
            target.kind,
            Kind::List(_)
                | Kind::Select { .. }
                | Kind::Ident(_)
                | Kind::Comprehension(_)
                | Kind::Call { .. }
                | Kind::Error
        ) {
            let message = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
            return Err((target.id, message.to_owned()));
        }
        let input = self.ident(INPUT);
        let keys = self.map(Some(input), args)?;
        let input = self.ident(INPUT);
        let sorted = self.member_call("@sortByAssociatedKeys", input, vec![keys]);
        Ok(self.bind(INPUT.into(), target, sorted))
    }

    /// The same again, with ids of its own.
    fn copy(&mut self, expr: &Expr) -> Expr {
        if self.factory.full {
            return Expr { id: 0, kind: Kind::Error };
        }
        crate::stack::with_room(|| self.copy_within(expr))
    }

    fn copy_within(&mut self, expr: &Expr) -> Expr {
        let kind = match &expr.kind {
            Kind::Error => Kind::Error,
            Kind::Literal(literal) => Kind::Literal(literal.clone()),
            Kind::Ident(name) => Kind::Ident(name.clone()),
            Kind::Select { operand, field, test } => {
                Kind::Select { operand: Box::new(self.copy(operand)), field: field.clone(), test: *test }
            }
            Kind::Call { function, target, args } => Kind::Call {
                function: function.clone(),
                target: target.as_ref().map(|t| Box::new(self.copy(t))),
                args: args.iter().map(|a| self.copy(a)).collect(),
            },
            Kind::List(elements) => Kind::List(
                elements.iter().map(|e| Element { value: self.copy(&e.value), optional: e.optional }).collect(),
            ),
            Kind::Map(entries) => Kind::Map(
                entries
                    .iter()
                    .map(|e| Entry { key: self.copy(&e.key), value: self.copy(&e.value), optional: e.optional })
                    .collect(),
            ),
            Kind::Struct { name, fields } => Kind::Struct {
                name: name.clone(),
                fields: fields
                    .iter()
                    .map(|f| Field {
                        id: self.factory.id(self.place),
                        name: f.name.clone(),
                        value: self.copy(&f.value),
                        optional: f.optional,
                    })
                    .collect(),
            },
            Kind::Comprehension(c) => Kind::Comprehension(Box::new(Comprehension {
                range: self.copy(&c.range),
                variable: c.variable.clone(),
                second: c.second.clone(),
                accumulator: c.accumulator.clone(),
                init: self.copy(&c.init),
                condition: self.copy(&c.condition),
                step: self.copy(&c.step),
                result: self.copy(&c.result),
            })),
        };
        let place = self.factory.place(expr.id);
        self.factory.expr(place, kind)
    }
}

//! How much an expression can cost, from its form and the sizes that schemas allow.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Comprehension, Entry, Expr, Id, Kind, Literal, OLD_ACCUMULATOR};
use crate::call_estimate;
use crate::checker::Checked;
use crate::env::Env;
use crate::schema::{DeclKind, DeclType};
use crate::types::Type;

/// Between a least and a most: of costs, and of sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CostEstimate {
    pub min: u64,
    pub max: u64,
}

pub(crate) type Size = CostEstimate;

impl CostEstimate {
    pub(crate) const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    pub(crate) fn fixed(n: u64) -> Self {
        Self { min: n, max: n }
    }

    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    #[must_use]
    pub fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    #[must_use]
    pub(crate) fn scaled(self, factor: f64) -> Self {
        let scale = |n: u64| {
            let scaled = (n as f64 * factor).ceil();
            if scaled >= 2f64.powi(64) { u64::MAX } else { scaled as u64 }
        };
        Self { min: scale(self.min), max: scale(self.max) }
    }

    #[must_use]
    pub(crate) fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// The sizes of the keys (or indices) and values of a container.
#[derive(Clone, Copy, Debug)]
struct EntrySize {
    list: bool,
    key: Size,
    value: Size,
}

impl EntrySize {
    fn union(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        let (a, b) = (a?, b?);
        Some(Self { list: a.list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }
}

/// From a variable to a part of it: fields, `@items`, `@values`, `@keys`.
type Path = Vec<Arc<str>>;

#[derive(Clone, Debug)]
struct Local {
    name: Arc<str>,
    path: Path,
    size: Option<Size>,
    entry: Option<EntrySize>,
}

/// An argument of a call.
pub(crate) struct Argument<'c> {
    pub of: &'c Type,
    pub literal: Option<&'c Literal>,
    pub size: Option<Size>,
    pub cost: CostEstimate,
    /// The size of the elements of a list.
    pub element: Option<Size>,
    entry: Option<EntrySize>,
}

impl Argument<'_> {
    pub(crate) fn size(&self) -> Size {
        self.size.unwrap_or(Size::UNKNOWN)
    }
}

pub(crate) fn estimate(env: &Env, checked: &Checked) -> CostEstimate {
    let mut coster = Coster {
        env,
        checked,
        paths: HashMap::new(),
        locals: Vec::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
    };
    coster.cost(&checked.expr)
}

struct Coster<'c> {
    env: &'c Env,
    checked: &'c Checked,
    paths: HashMap<Id, Path>,
    locals: Vec<Local>,
    sizes: HashMap<Id, Size>,
    entries: HashMap<Id, EntrySize>,
}

impl<'c> Coster<'c> {
    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|l| *l.name == *name)
    }

    fn cost(&mut self, e: &'c Expr) -> CostEstimate {
        crate::stack::with_room(|| self.cost_of_kind(e))
    }

    fn cost_of_kind(&mut self, e: &'c Expr) -> CostEstimate {
        match &e.kind {
            Kind::Error | Kind::Literal(_) => CostEstimate::default(),
            Kind::Ident(name) => {
                let path = self.local(name).map_or_else(|| vec![name.clone()], |l| l.path.clone());
                self.paths.insert(e.id, path);
                CostEstimate::fixed(1)
            }
            Kind::Select { operand, test: true, .. } => self.cost(operand),
            Kind::Select { operand, field, .. } => {
                let cost = self.cost(operand);
                let mut path = self.path(operand);
                path.push(field.clone());
                self.paths.insert(e.id, path);
                let counted = matches!(self.checked.type_of(operand), Type::Map(_) | Type::Object(_) | Type::Param(_));
                if counted { cost.plus(CostEstimate::fixed(1)) } else { cost }
            }
            Kind::Call { .. } => self.call(e),
            Kind::List(elements) => {
                let mut sum = CostEstimate::fixed(10);
                let mut item = Size { min: if elements.is_empty() { 0 } else { u64::MAX }, max: 0 };
                for element in elements {
                    sum = sum.plus(self.cost(&element.value));
                    item = item.union(self.size_or_unknown(&element.value));
                }
                self.entries.insert(e.id, EntrySize { list: true, key: Size::fixed(1), value: item });
                sum
            }
            Kind::Map(entries) => self.map(e.id, entries),
            Kind::Struct { fields, .. } => {
                fields.iter().fold(CostEstimate::fixed(40), |sum, field| sum.plus(self.cost(&field.value)))
            }
            Kind::Comprehension(c) if c.is_bind() && *c.accumulator != *OLD_ACCUMULATOR => self.bind(e, c),
            Kind::Comprehension(c) => self.comprehension(e, c),
        }
    }

    fn map(&mut self, id: Id, entries: &'c [Entry]) -> CostEstimate {
        let least = if entries.is_empty() { 0 } else { u64::MAX };
        let (mut key, mut value) = (Size { min: least, max: 0 }, Size { min: least, max: 0 });
        let mut sum = CostEstimate::fixed(30);
        for entry in entries {
            sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
            key = key.union(self.size_or_unknown(&entry.key));
            value = value.union(self.size_or_unknown(&entry.value));
        }
        self.entries.insert(id, EntrySize { list: false, key, value });
        sum
    }

    fn bind(&mut self, e: &'c Expr, c: &'c Comprehension) -> CostEstimate {
        let mut sum = self.cost(&c.range).plus(self.cost(&c.init));
        self.push_value(&c.accumulator, &c.init);
        sum = sum.plus(self.cost(&c.result));
        let (size, entry) = (self.size(&c.result), self.entry(&c.result));
        self.locals.pop();
        self.note(e.id, size, entry);
        sum
    }

    fn note(&mut self, id: Id, size: Option<Size>, entry: Option<EntrySize>) {
        if let Some(size) = size {
            self.sizes.insert(id, size);
        }
        if let Some(entry) = entry {
            self.entries.insert(id, entry);
        }
    }

    fn push_value(&mut self, name: &Arc<str>, e: &Expr) {
        let local = Local { name: name.clone(), path: self.path(e), size: self.size(e), entry: self.entry(e) };
        self.locals.push(local);
    }

    fn push_part(&mut self, name: &Arc<str>, range: &Expr, size: Option<Size>, part: &str) {
        let mut path = self.path(range);
        path.push(part.into());
        self.locals.push(Local { name: name.clone(), path, size, entry: None });
    }

    fn comprehension(&mut self, e: &'c Expr, c: &'c Comprehension) -> CostEstimate {
        let mut sum = self.cost(&c.range).plus(self.cost(&c.init));
        self.push_value(&c.accumulator, &c.init);
        let entry = self.entry(&c.range);
        let list = entry.map_or_else(|| matches!(self.checked.type_of(&c.range), Type::List(_)), |e| e.list);
        let (key, value) = (entry.map(|e| e.key), entry.map(|e| e.value));
        match &c.second {
            Some(second) => {
                self.push_part(&c.variable, &c.range, key, if list { "@indices" } else { "@keys" });
                self.push_part(second, &c.range, value, if list { "@items" } else { "@values" });
            }
            None if list => self.push_part(&c.variable, &c.range, value, "@items"),
            None => self.push_part(&c.variable, &c.range, key, "@keys"),
        }
        let each = self.cost(&c.condition).plus(self.cost(&c.step));
        let stepped = self.entry(&c.step);
        self.locals.truncate(self.locals.len() - 1 - usize::from(c.second.is_some()));
        sum = sum.plus(self.cost(&c.result));
        self.locals.pop();
        let count = self.size_or_unknown(&c.range);
        sum = sum.plus(count.times(each));
        match &c.init.kind {
            Kind::Literal(_) => {
                let size = self.size(&c.init);
                self.note(e.id, size, None);
            }
            Kind::List(_) | Kind::Map(_) => self.note(e.id, Some(count), stepped),
            _ => {}
        }
        sum
    }

    fn argument(&mut self, e: &'c Expr, cost: CostEstimate) -> Argument<'c> {
        let of = self.checked.type_of(e);
        let mut path = self.path(e);
        let rooted = path.first().is_some_and(|root| !root.starts_with('@') && **root != *OLD_ACCUMULATOR);
        let element = match of {
            Type::List(_) if rooted => {
                path.push("@items".into());
                self.declared_size(&path)
            }
            _ => None,
        };
        let literal = if let Kind::Literal(literal) = &e.kind { Some(literal) } else { None };
        Argument { of, literal, size: self.size(e), cost, element, entry: self.entry(e) }
    }

    fn call(&mut self, e: &'c Expr) -> CostEstimate {
        let Kind::Call { function, target, args } = &e.kind else { return CostEstimate::default() };
        if **function == *"dyn"
            && let [arg] = &args[..]
        {
            let cost = self.cost(arg);
            let (size, entry) = (self.size(arg), self.entry(arg));
            self.note(e.id, size, entry);
            return cost.plus(CostEstimate::fixed(1));
        }
        let mut arguments = Vec::with_capacity(args.len());
        for arg in args {
            let cost = self.cost(arg);
            arguments.push(self.argument(arg, cost));
        }
        let overloads = self.checked.overloads(e);
        if overloads.is_empty() && **function != *"_?._" {
            return CostEstimate::default();
        }
        let mut sum = CostEstimate::default();
        let on = match target {
            Some(target) => {
                let cost = self.cost(target);
                sum = cost;
                Some(self.argument(target, cost))
            }
            None => None,
        };
        let mut cost = CostEstimate { min: u64::MAX, max: 0 };
        let mut size: Option<Size> = None;
        let optional_select = ["select_optional_field"];
        let ids = overloads.iter().map(|o| o.id).chain(optional_select.into_iter().filter(|_| overloads.is_empty()));
        for id in ids {
            let estimated = call_estimate::estimate(function, id, on.as_ref(), &arguments);
            cost = cost.union(estimated.cost);
            size = match (size, estimated.size) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
            self.note_entries(e.id, id, &arguments);
            if let ("index_list" | "index_map", Some(container)) = (id, args.first()) {
                size = self.entry(container).map(|entry| entry.value);
                let mut path = self.path(container);
                path.push(if id == "index_list" { "@items".into() } else { "@values".into() });
                self.paths.insert(e.id, path);
            }
            if size.is_none() {
                size = self.size(e);
            }
        }
        self.note(e.id, size, None);
        sum.plus(cost)
    }

    /// Of calls that pass elements on.
    fn note_entries(&mut self, id: Id, overload: &str, arguments: &[Argument<'_>]) {
        let entry = match (overload, arguments) {
            ("conditional", [_, yes, no]) => EntrySize::union(yes.entry, no.entry),
            ("add_string" | "add_bytes" | "add_list", [a, b]) => EntrySize::union(a.entry, b.entry),
            _ => None,
        };
        self.note(id, None, entry);
    }

    fn path(&self, e: &Expr) -> Path {
        if let Kind::Ident(name) = &e.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&e.id).cloned().unwrap_or_default()
    }

    fn size_or_unknown(&mut self, e: &Expr) -> Size {
        self.size(e).unwrap_or(Size::UNKNOWN)
    }

    fn size(&mut self, e: &Expr) -> Option<Size> {
        if let Some(size) = self.sizes.get(&e.id) {
            return Some(*size);
        }
        let literal = match &e.kind {
            Kind::Literal(Literal::String(text)) => Some(text.chars().count()),
            Kind::Literal(Literal::Bytes(bytes)) => Some(bytes.len()),
            Kind::Literal(_) => Some(1),
            Kind::List(elements) => Some(elements.len()),
            Kind::Map(entries) => Some(entries.len()),
            _ => None,
        };
        if let Some(size) = literal {
            return Some(Size::fixed(size as u64));
        }
        if let Some(size) = self.declared_size(&self.path(e)) {
            self.sizes.insert(e.id, size);
            return Some(size);
        }
        if is_scalar(self.checked.type_of(e)) {
            return Some(Size::fixed(1));
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.size),
            _ => None,
        }
    }

    fn entry(&self, e: &Expr) -> Option<EntrySize> {
        if let Some(entry) = self.entries.get(&e.id) {
            return Some(*entry);
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.entry),
            _ => None,
        }
    }

    /// What the schema of the variable says of the part.
    fn declared_size(&self, path: &[Arc<str>]) -> Option<Size> {
        let (root, rest) = path.split_first()?;
        let mut decl: &DeclType = self.env.variable_decl(root)?;
        for part in rest {
            decl = match (&**part, &decl.kind) {
                ("@items" | "@values", DeclKind::List { element, .. }) => element,
                ("@items" | "@values", DeclKind::Map { value }) => value,
                ("@keys", DeclKind::Map { .. }) => return Some(Size::default()),
                (field, DeclKind::Object { fields, .. }) => &fields.get(field)?.of,
                _ => return None,
            };
        }
        Some(Size { min: 0, max: u64::try_from(decl.max_elements).unwrap_or(0) })
    }
}

fn is_scalar(t: &Type) -> bool {
    match t {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        t => t.unwrap_optional().is_some_and(is_scalar),
    }
}

//! Lists: of an object's tree, of values, or two of them one after the other.

use std::sync::Arc;

use kybern_apimachinery::Value as Json;

use crate::error::EvalError;
use crate::ops::equal;
use crate::schema::{DeclKind, DeclType, ListKind};
use crate::value::{MAX_DEPTH, Value};

/// A list that is joined to another is copied up to this length; longer ones are kept apart, for otherwise a list that is
/// doubled again and again takes all memory.
const COPIED: usize = 1000;
/// Of lists joined to lists.
const MAX_JOINTS: u16 = 64;
/// A list of many joints is copied into one, up to this length.
const FLATTENED: usize = 200_000;

#[derive(Clone, Debug)]
pub enum List<'a> {
    /// The schema is the list's.
    Json(&'a [Json], Option<&'a DeclType>),
    Values(Arc<Values<'a>>),
    Joined(Arc<Joined<'a>>),
}

#[derive(Clone, Debug)]
pub struct Values<'a> {
    items: Vec<Value<'a>>,
    depth: u16,
}

#[derive(Debug)]
pub struct Joined<'a> {
    first: List<'a>,
    second: List<'a>,
    length: usize,
    joints: u16,
    depth: u16,
}

impl<'a> List<'a> {
    /// A list of these; to be checked with [`List::checked`] where they may be deep.
    pub(crate) fn of(items: Vec<Value<'a>>) -> Self {
        let depth = 1 + items.iter().map(Value::depth).max().unwrap_or(0);
        Self::Values(Arc::new(Values { items, depth }))
    }

    pub(crate) fn checked(items: Vec<Value<'a>>) -> Result<Self, EvalError> {
        let list = Self::of(items);
        if list.depth() > MAX_DEPTH { Err(too_deep()) } else { Ok(list) }
    }

    pub(crate) fn depth(&self) -> u16 {
        match self {
            Self::Json(..) => 1,
            Self::Values(values) => values.depth,
            Self::Joined(joined) => joined.depth,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Json(items, _) => items.len(),
            Self::Values(values) => values.items.len(),
            Self::Joined(joined) => joined.length,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at an index below the length.
    pub fn get(&self, mut index: usize) -> Result<Value<'a>, EvalError> {
        let mut list = self;
        loop {
            match list {
                Self::Json(items, None) => return Ok(Value::json(&items[index])),
                Self::Json(items, Some(schema)) => return element(&items[index], schema),
                Self::Values(values) => return Ok(values.items[index].clone()),
                Self::Joined(joined) => {
                    let length = joined.first.len();
                    if index < length {
                        list = &joined.first;
                    } else {
                        index -= length;
                        list = &joined.second;
                    }
                }
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, EvalError>> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }

    pub(crate) fn contains(&self, value: &Value<'a>) -> Result<bool, EvalError> {
        let mut failed = None;
        for item in self.iter() {
            match item.and_then(|item| equal(&item, value)) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(false), Err)
    }

    /// Adds an element, in place where nobody else has the list.
    pub(crate) fn push(self, value: Value<'a>) -> Result<Self, EvalError> {
        let depth = value.depth() + 1;
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        let mut shared = match self {
            Self::Values(shared) => shared,
            other => Arc::new(Values { items: other.iter().collect::<Result<_, _>>()?, depth: other.depth() }),
        };
        let values = Arc::make_mut(&mut shared);
        values.depth = values.depth.max(depth);
        values.items.push(value);
        Ok(Self::Values(shared))
    }

    /// This list and the other after it; lists that are sets or maps in their schema are merged.
    pub(crate) fn concat(&self, other: &Self) -> Result<Self, EvalError> {
        match self.kind() {
            ListKind::Set => return self.merge(other, |a, b| equal(a, b)),
            ListKind::Map(keys) => return self.merge(other, |a, b| same_keys(a, b, keys)),
            ListKind::Atomic => {}
        }
        if other.is_empty() {
            return Ok(self.clone());
        }
        let length = self.len().saturating_add(other.len());
        let joints = self.joints().max(other.joints()) + 1;
        if length <= COPIED || (joints > MAX_JOINTS && length <= FLATTENED) {
            return Ok(Self::of(self.iter().chain(other.iter()).collect::<Result<_, _>>()?));
        }
        if joints > MAX_JOINTS {
            return Err(EvalError::new(format!("a list of {length} elements is too long to be added to again")));
        }
        let depth = self.depth().max(other.depth());
        Ok(Self::Joined(Arc::new(Joined { first: self.clone(), second: other.clone(), length, joints, depth })))
    }

    fn joints(&self) -> u16 {
        if let Self::Joined(joined) = self { joined.joints } else { 0 }
    }

    fn kind(&self) -> &'a ListKind {
        match self {
            Self::Json(_, Some(DeclType { kind: DeclKind::List { list, .. }, .. })) => list,
            _ => &ListKind::Atomic,
        }
    }

    fn merge(
        &self,
        other: &Self,
        same: impl Fn(&Value<'a>, &Value<'a>) -> Result<bool, EvalError>,
    ) -> Result<Self, EvalError> {
        let mut merged: Vec<Value<'a>> = self.iter().collect::<Result<_, _>>()?;
        'others: for item in other.iter() {
            let item = item?;
            for present in &mut merged {
                if same(present, &item)? {
                    *present = item;
                    continue 'others;
                }
            }
            merged.push(item);
        }
        Ok(Self::of(merged))
    }

    /// Equality: by position, or of sets and maps by element and by key.
    pub(crate) fn equals(&self, other: &Self) -> Result<bool, EvalError> {
        if self.len() != other.len() {
            return Ok(false);
        }
        match self.kind() {
            ListKind::Atomic => {
                for (a, b) in self.iter().zip(other.iter()) {
                    if !equal(&a?, &b?)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            ListKind::Set => {
                for item in other.iter() {
                    if !self.contains(&item?)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            ListKind::Map(keys) => self.equals_by_key(other, keys),
        }
    }

    fn equals_by_key(&self, other: &Self, keys: &[String]) -> Result<bool, EvalError> {
        'others: for item in other.iter() {
            let item = item?;
            for mine in self.iter() {
                let mine = mine?;
                if same_keys(&mine, &item, keys)? {
                    if equal(&mine, &item)? {
                        continue 'others;
                    }
                    return Ok(false);
                }
            }
            return Ok(false);
        }
        Ok(true)
    }
}

fn element<'a>(item: &'a Json, schema: &'a DeclType) -> Result<Value<'a>, EvalError> {
    match &schema.kind {
        DeclKind::List { element, .. } => Value::typed(item, element),
        _ => Ok(Value::json(item)),
    }
}

fn same_keys(a: &Value<'_>, b: &Value<'_>, keys: &[String]) -> Result<bool, EvalError> {
    let (Value::Map(a), Value::Map(b)) = (a, b) else { return Ok(false) };
    for key in keys {
        let same = match (a.field(key)?, b.field(key)?) {
            (None, None) => true,
            (Some(x), Some(y)) => equal(&x, &y)?,
            _ => false,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(crate) fn too_deep() -> EvalError {
    EvalError::new(format!("a value is nested more than {MAX_DEPTH} deep"))
}

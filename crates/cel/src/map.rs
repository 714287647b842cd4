//! Maps: of an object's tree, or of values.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_apimachinery::Value as Json;

use crate::error::EvalError;
use crate::escape::{escape, unescape};
use crate::list::too_deep;
use crate::ops::equal;
use crate::schema::{DeclKind, DeclType};
use crate::value::{MAX_DEPTH, Str, Value};

/// Maps of no more entries are searched one by one: a key to compare with need not be made.
const SCANNED: usize = 16;

#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// The schema is the map's.
    Json(&'a serde_json::Map<String, Json>, Option<&'a DeclType>),
    Values(Arc<Entries<'a>>),
}

#[derive(Clone, Debug, Default)]
pub struct Entries<'a> {
    entries: BTreeMap<MapKey<'a>, Value<'a>>,
    depth: u16,
    /// What is found where no entry is.
    fallback: Option<Value<'a>>,
}

/// What may be a key. Numbers are the same key whatever their type.
#[derive(Clone, Debug)]
pub enum MapKey<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(Str<'a>),
}

impl<'a> MapKey<'a> {
    pub(crate) fn of(value: &Value<'a>) -> Option<Self> {
        Some(match value {
            Value::Bool(b) => Self::Bool(*b),
            Value::Int(i) => Self::Int(*i),
            Value::Uint(u) => Self::Uint(*u),
            Value::Double(d) if d.fract() == 0.0 && *d >= -9.3e18 && *d < 9.2e18 => Self::Int(*d as i64),
            Value::Double(d) if d.fract() == 0.0 && *d >= 0.0 && *d < 1.8e19 => Self::Uint(*d as u64),
            Value::String(text) => Self::String(text.clone()),
            _ => return None,
        })
    }

    pub fn value(&self) -> Value<'a> {
        match self {
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(i) => Value::Int(*i),
            Self::Uint(u) => Value::Uint(*u),
            Self::String(text) => Value::String(text.clone()),
        }
    }

    fn number(&self) -> Option<i128> {
        match self {
            Self::Int(i) => Some(i128::from(*i)),
            Self::Uint(u) => Some(i128::from(*u)),
            Self::Bool(_) | Self::String(_) => None,
        }
    }
}

impl Ord for MapKey<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::String(a), Self::String(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Bool(_), _) => Ordering::Less,
            (_, Self::Bool(_)) => Ordering::Greater,
            _ => match (self.number(), other.number()) {
                (Some(a), Some(b)) => a.cmp(&b),
                (Some(_), None) => Ordering::Less,
                _ => Ordering::Greater,
            },
        }
    }
}

impl PartialOrd for MapKey<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for MapKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for MapKey<'_> {}

impl<'a> Map<'a> {
    pub(crate) fn of(entries: BTreeMap<MapKey<'a>, Value<'a>>) -> Result<Self, EvalError> {
        let depth = 1 + entries.values().map(Value::depth).max().unwrap_or(0);
        if depth > MAX_DEPTH {
            Err(too_deep())
        } else {
            Ok(Self::Values(Arc::new(Entries { entries, depth, fallback: None })))
        }
    }

    /// A map of texts to values, as for `request` and its like.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (&'a str, Value<'a>)>) -> Self {
        let entries: BTreeMap<_, _> = pairs.into_iter().map(|(k, v)| (MapKey::String(Str::Borrowed(k)), v)).collect();
        let depth = 1 + entries.values().map(Value::depth).max().unwrap_or(0);
        Self::Values(Arc::new(Entries { entries, depth, fallback: None }))
    }

    /// The same, where what has no entry is found to be this.
    #[must_use]
    pub(crate) fn with_fallback(self, fallback: Value<'a>) -> Self {
        match self {
            Self::Values(values) => {
                Self::Values(Arc::new(Entries { fallback: Some(fallback), ..Arc::unwrap_or_clone(values) }))
            }
            other => other,
        }
    }

    pub(crate) fn depth(&self) -> u16 {
        if let Self::Values(values) = self { values.depth } else { 1 }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Json(fields, _) => fields.len(),
            Self::Values(values) => values.entries.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key that is a text.
    pub fn field(&self, name: &str) -> Result<Option<Value<'a>>, EvalError> {
        match self {
            Self::Json(fields, None) => Ok(fields.get(name).map(Value::json)),
            Self::Json(fields, Some(schema)) => schema_field(fields, schema, name),
            Self::Values(values) => {
                if values.entries.len() <= SCANNED {
                    let found = values.entries.iter().find(|(k, _)| matches!(k, MapKey::String(k) if **k == *name));
                    return Ok(found.map(|(_, v)| v.clone()).or_else(|| values.fallback.clone()));
                }
                let found = values.entries.get(&MapKey::String(Str::Shared(name.into())));
                Ok(found.cloned().or_else(|| values.fallback.clone()))
            }
        }
    }

    pub(crate) fn get(&self, key: &Value<'a>) -> Result<Option<Value<'a>>, EvalError> {
        match (self, key) {
            (Self::Json(..), Value::String(name)) => self.field(name),
            (Self::Json(_, Some(_)), _) => Err(EvalError::no_such_overload()),
            (Self::Json(_, None), _) => Ok(None),
            (Self::Values(values), key) => {
                Ok(MapKey::of(key).and_then(|k| values.entries.get(&k).cloned()).or_else(|| values.fallback.clone()))
            }
        }
    }

    /// Whether there is an entry.
    pub(crate) fn contains(&self, key: &Value<'a>) -> Result<bool, EvalError> {
        match self {
            Self::Values(values) => Ok(MapKey::of(key).is_some_and(|k| values.entries.contains_key(&k))),
            Self::Json(..) => Ok(self.get(key)?.is_some()),
        }
    }

    /// The keys, in order; of an object with a schema, escaped and those that are declared.
    pub(crate) fn keys(&self) -> Vec<MapKey<'a>> {
        match self {
            Self::Json(fields, schema) => {
                fields.iter().filter_map(|(name, value)| Some(MapKey::String(key_of(name, value, *schema)?))).collect()
            }
            Self::Values(values) => values.entries.keys().cloned().collect(),
        }
    }

    /// Keys and values, but for values that are not of their schema's form.
    pub fn entries(&self) -> impl Iterator<Item = (Value<'a>, Value<'a>)> + '_ {
        self.keys().into_iter().filter_map(|key| {
            let key = key.value();
            let value = self.get(&key).ok().flatten()?;
            Some((key, value))
        })
    }

    pub(crate) fn try_each(
        &self,
        visit: &mut dyn FnMut(&MapKey<'a>, Value<'a>) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        match self {
            Self::Json(fields, schema) => {
                for (name, value) in *fields {
                    match schema {
                        None => visit(&MapKey::String(Str::Borrowed(name)), Value::json(value))?,
                        Some(_) => {
                            let Some(key) = key_of(name, value, *schema) else { continue };
                            let Some(value) = self.field(&key)? else { continue };
                            visit(&MapKey::String(key), value)?;
                        }
                    }
                }
            }
            Self::Values(values) => {
                for (key, value) in &values.entries {
                    visit(key, value.clone())?;
                }
            }
        }
        Ok(())
    }

    /// With one more entry, in place where nobody else has the map; an error where the key is there.
    pub(crate) fn insert(self, key: &Value<'a>, value: Value<'a>) -> Result<Self, EvalError> {
        let Some(map_key) = MapKey::of(key) else {
            return Err(EvalError::new(format!("unsupported key type: {}", key.type_name())));
        };
        let depth = value.depth() + 1;
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        let mut shared = match self {
            Self::Values(shared) => shared,
            other => {
                let mut entries = BTreeMap::new();
                other.try_each(&mut |k, v| {
                    entries.insert(k.clone(), v);
                    Ok(())
                })?;
                Arc::new(Entries { entries, depth: other.depth(), fallback: None })
            }
        };
        if shared.entries.contains_key(&map_key) {
            return Err(EvalError::new(format!("insert failed: key {} already exists", key.display())));
        }
        let inner = Arc::make_mut(&mut shared);
        inner.depth = inner.depth.max(depth);
        inner.entries.insert(map_key, value);
        Ok(Self::Values(shared))
    }

    pub(crate) fn equals(&self, other: &Self) -> Result<bool, EvalError> {
        if self.len() != other.len() {
            return Ok(false);
        }
        if let (Self::Json(a, Some(schema)), Self::Json(b, Some(_))) = (self, other) {
            return schemas_equal(a, b, schema, self, other);
        }
        let mut same = true;
        self.try_each(&mut |key, value| {
            if same {
                same = match other.get(&key.value())? {
                    Some(theirs) => equal(&value, &theirs)?,
                    None => false,
                };
            }
            Ok(())
        })?;
        Ok(same)
    }
}

/// Declared fields by their types, others as trees.
fn schemas_equal<'a>(
    a: &serde_json::Map<String, Json>,
    b: &serde_json::Map<String, Json>,
    schema: &DeclType,
    left: &Map<'a>,
    right: &Map<'a>,
) -> Result<bool, EvalError> {
    for (name, value) in a {
        let declared = match &schema.kind {
            DeclKind::Object { fields, .. } => escape(name).filter(|key| fields.contains_key(key.as_ref())),
            DeclKind::Map { .. } => Some(std::borrow::Cow::Borrowed(name.as_str())),
            _ => None,
        };
        let same = match declared {
            None => b.get(name).is_none_or(|other| other == value),
            Some(key) => match (left.field(&key)?, right.field(&key)?) {
                (None, None) => true,
                (Some(x), Some(y)) => equal(&x, &y)?,
                _ => false,
            },
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn key_of<'a>(name: &'a str, value: &Json, schema: Option<&DeclType>) -> Option<Str<'a>> {
    match schema.map(|s| &s.kind) {
        None | Some(DeclKind::Map { .. }) => Some(Str::Borrowed(name)),
        Some(DeclKind::Object { fields, .. }) => {
            let key = escape(name)?;
            let declared = fields.contains_key(key.as_ref()) && !value.is_null();
            declared.then(|| match key {
                std::borrow::Cow::Borrowed(key) => Str::Borrowed(key),
                std::borrow::Cow::Owned(key) => Str::Shared(key.into()),
            })
        }
        Some(_) => None,
    }
}

fn schema_field<'a>(
    fields: &'a serde_json::Map<String, Json>,
    schema: &'a DeclType,
    key: &str,
) -> Result<Option<Value<'a>>, EvalError> {
    match &schema.kind {
        DeclKind::Object { fields: declared, .. } => {
            let Some(field) = declared.get(key) else { return Ok(None) };
            let Some(name) = unescape(key) else { return Ok(None) };
            match fields.get(name.as_ref()) {
                None | Some(Json::Null) => Ok(None),
                Some(value) => Value::typed(value, &field.of).map(Some),
            }
        }
        DeclKind::Map { value: of } => fields.get(key).map(|value| Value::typed(value, of)).transpose(),
        _ => Ok(None),
    }
}

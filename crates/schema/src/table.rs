//! Parses the generated table: one line per struct, field and kind.
//!
//! ```text
//! kind <group|core> <version> <Kind> <struct name>
//! struct <OpenAPI name> [atomic]
//!  <json name> <type> <presence>[!] <protobuf tag> [list=set|<key>,<key>] [map=atomic|granular] [patch=<strategies>:<key>]
//!      [go=<Go type>] [default=<JSON, to the end of the line>]
//! ```
//!
//! A type is a scalar's name, a struct's name (one that starts with a dot is in the struct's own package), `[]` or `{}`
//! before the type of a list's items or a map's values, or `either:<number>:<struct>:<number>:<other>`. Presence is one
//! of `p`ointer, omit `e`mpty, `a`lways, `n`ull pointer; `!` marks a required field. A protobuf tag is `0` for none, or
//! field numbers joined with dots where the field is in a nested message.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kybern_apimachinery::Gvk;

use crate::types::{
    DefaultCondition, DefaultRule, EitherType, Field, ListKind, ListType, MapType, PatchStrategy, Presence, ProtoTag,
    Schema, StructId, StructType, Type,
};

/// A line that breaks the format. The table is compiled in, so this is a programming error.
#[derive(Debug, thiserror::Error)]
#[error("schema table line {line}: {problem}")]
pub struct TableError {
    pub line: usize,
    pub problem: String,
}

/// The structs of all tables together, and the kinds in the order of the tables.
pub fn parse(tables: &[&str]) -> Result<(Schema, Vec<(Gvk, StructId)>), TableError> {
    let lines = || tables.iter().flat_map(|t| t.lines()).enumerate().map(|(i, l)| (i + 1, l));
    let mut ids = HashMap::new();
    for (_, line) in lines() {
        if let Some(rest) = line.strip_prefix("struct ") {
            let id = StructId(u32::try_from(ids.len()).unwrap_or(u32::MAX));
            ids.insert(rest.split(' ').next().unwrap_or_default(), id);
        }
    }
    let mut parser = Parser { ids, strings: BTreeSet::new(), package: "" };
    let mut schema = Schema::new(Vec::with_capacity(parser.ids.len()));
    let mut kinds = Vec::new();
    let mut open: Option<(Arc<str>, bool, Vec<Field>)> = None;
    for (number, line) in lines() {
        let failed = |problem| TableError { line: number, problem };
        if let Some(field) = line.strip_prefix(' ') {
            let (_, _, fields) = open.as_mut().ok_or_else(|| failed("a field before any struct".into()))?;
            fields.push(parser.field(field).map_err(failed)?);
        } else if let Some(rest) = line.strip_prefix("struct ") {
            if let Some((name, atomic, fields)) = open.take() {
                schema.structs.push(StructType::new(name, fields, atomic, false));
            }
            let (name, flags) = rest.split_once(' ').unwrap_or((rest, ""));
            parser.package = name.rsplit_once('.').map_or("", |(package, _)| package);
            open = Some((parser.intern(name), flags == "atomic", Vec::new()));
        } else if let Some(rest) = line.strip_prefix("kind ") {
            let mut words = rest.split(' ');
            let mut next = || words.next().ok_or_else(|| failed("a kind line has four words".into()));
            let (group, version, kind, name) = (next()?, next()?, next()?, next()?);
            let gvk = Gvk::new(if group == "core" { "" } else { group }, version, kind);
            kinds.push((gvk, *parser.ids.get(name).ok_or_else(|| failed(format!("no struct {name}")))?));
        }
    }
    if let Some((name, atomic, fields)) = open {
        schema.structs.push(StructType::new(name, fields, atomic, false));
    }
    Ok((schema, kinds))
}

/// Adds the rules of `table/defaults.txt`, whose format is described there.
pub fn parse_defaults(schema: &mut Schema, text: &str) -> Result<(), TableError> {
    let ids: HashMap<Arc<str>, usize> = schema.structs.iter().enumerate().map(|(i, s)| (s.name.clone(), i)).collect();
    for (line, text) in text.lines().enumerate().filter(|(_, l)| !l.is_empty() && !l.starts_with('#')) {
        let failed = |problem: String| TableError { line: line + 1, problem };
        let json = |text: &str| serde_json::from_str(text).map_err(|e| failed(format!("{text}: {e}")));
        let words: Vec<&str> = text.split(' ').collect();
        let [name, path, value, ref conditions @ ..] = words[..] else {
            return Err(failed("a rule has a struct, a field and a value".into()));
        };
        let id = *ids.get(name).ok_or_else(|| failed(format!("no struct {name}")))?;
        let split = |path: &str| path.split('.').map(Arc::from).collect::<Vec<Arc<str>>>();
        let path = split(path);
        let leaf = leaf(schema, &schema.structs[id], &path).ok_or_else(|| failed(format!("no field {path:?}")))?;
        let mut rule = DefaultRule {
            replaces_zero: matches!(leaf.presence, Presence::OmitEmpty | Presence::Always),
            replaces_null: true,
            path,
            value: json(value)?,
            conditions: Vec::new(),
        };
        for pair in conditions.chunks(2) {
            let [word, operand] = *pair else { return Err(failed("a condition has an operand".into())) };
            let equation = || operand.split_once('=').ok_or_else(|| failed(format!("{operand} is no equation")));
            rule.conditions.push(match word {
                "when" => DefaultCondition::Equals(split(equation()?.0), json(equation()?.1)?),
                "unless" => DefaultCondition::Differs(split(equation()?.0), json(equation()?.1)?),
                "has" => DefaultCondition::Set(split(operand)),
                "lacks" => DefaultCondition::Unset(split(operand)),
                "only" => DefaultCondition::Only(operand.into()),
                _ => return Err(failed(format!("unknown condition {word}"))),
            });
        }
        schema.structs[id].defaults.push(rule);
    }
    Ok(())
}

/// The field at the end of a path of struct fields.
fn leaf<'a>(schema: &'a Schema, shape: &'a StructType, path: &[Arc<str>]) -> Option<&'a Field> {
    let (first, rest) = path.split_first()?;
    let field = shape.field(first)?;
    match (&field.ty, rest) {
        (_, []) => Some(field),
        (Type::Struct(id), rest) => leaf(schema, schema.get(*id), rest),
        _ => None,
    }
}

struct Parser<'a> {
    ids: HashMap<&'a str, StructId>,
    strings: BTreeSet<Arc<str>>,
    /// Of the struct being read.
    package: &'a str,
}

impl Parser<'_> {
    fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.strings.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.strings.insert(new.clone());
        new
    }

    fn field(&mut self, line: &str) -> Result<Field, String> {
        let mut words = line.splitn(5, ' ');
        let mut next = || words.next().ok_or("a field line has at least four words");
        let (name, ty, presence, tag) = (next()?, next()?, next()?, next()?);
        let mut field = Field::new(self.intern(name), self.ty(ty)?);
        field.required = presence.ends_with('!');
        field.presence = match presence.as_bytes().first() {
            Some(b'p') => Presence::Pointer,
            Some(b'e') => Presence::OmitEmpty,
            Some(b'a') => Presence::Always,
            Some(b'n') => Presence::NullPointer,
            _ => return Err(format!("unknown presence {presence:?}")),
        };
        if tag != "0" {
            let path: Result<Vec<u32>, _> = tag.split('.').map(str::parse).collect();
            field.proto = path.ok().and_then(|p| ProtoTag::new(&p)).ok_or_else(|| format!("bad tag {tag:?}"))?;
        }
        let mut rest = words.next().unwrap_or_default();
        while !rest.is_empty() {
            if let Some(json) = rest.strip_prefix("default=") {
                field.default = Some(serde_json::from_str(json).map_err(|e| format!("default {json:?}: {e}"))?);
                break;
            }
            let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
            rest = after;
            match (word.split_once('='), &mut field.ty) {
                (Some(("list", "set")), Type::List(list)) => list.kind = ListKind::Set,
                (Some(("list", keys)), Type::List(list)) => {
                    list.kind = ListKind::Map(keys.split(',').map(|k| self.intern(k)).collect());
                }
                (Some(("map", "atomic")), Type::Map(map)) => map.atomic = true,
                (Some(("map", "granular")), Type::Struct(_)) => field.granular = true,
                (Some(("go", name)), _) => field.go_type = Some(self.intern(name)),
                (Some(("patch", patch)), _) => {
                    let (strategies, key) = patch.split_once(':').ok_or("patch=<strategies>:<key>")?;
                    field.patch = PatchStrategy {
                        merge: strategies.split(',').any(|s| s == "merge"),
                        replace: strategies.split(',').any(|s| s == "replace"),
                        retain_keys: strategies.split(',').any(|s| s == "retainKeys"),
                        merge_key: (!key.is_empty()).then(|| self.intern(key)),
                    };
                }
                _ => return Err(format!("unknown attribute {word:?}")),
            }
        }
        Ok(field)
    }

    fn ty(&self, text: &str) -> Result<Type, String> {
        if let Some(item) = text.strip_prefix("[]") {
            return Ok(Type::List(Box::new(ListType { item: self.ty(item)?, kind: ListKind::Atomic })));
        }
        if let Some(value) = text.strip_prefix("{}") {
            return Ok(Type::Map(Box::new(MapType { value: self.ty(value)?, atomic: false })));
        }
        if let Some(either) = text.strip_prefix("either:") {
            let parts: Vec<&str> = either.split(':').collect();
            let [object_number, object, other_number, other] = parts[..] else {
                return Err(format!("bad type {text:?}"));
            };
            let number = |n: &str| n.parse().map_err(|_| format!("bad number in {text:?}"));
            return Ok(Type::Either(Box::new(EitherType {
                object: self.ty(object)?,
                object_number: number(object_number)?,
                other: self.ty(other)?,
                other_number: number(other_number)?,
            })));
        }
        Ok(match text {
            "bool" => Type::Bool,
            "int32" => Type::Int32,
            "int64" => Type::Int64,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "intorstring" => Type::IntOrString,
            "quantity" => Type::Quantity,
            "time" => Type::Time,
            "microtime" => Type::MicroTime,
            "duration" => Type::Duration,
            "fieldsv1" => Type::FieldsV1,
            "raw" => Type::RawExtension,
            "any" => Type::Any,
            name => {
                let id = match name.strip_prefix('.') {
                    Some(short) => self.ids.get(format!("{}.{short}", self.package).as_str()),
                    None => self.ids.get(name),
                };
                Type::Struct(*id.ok_or_else(|| format!("no struct {name} for package {}", self.package))?)
            }
        })
    }
}

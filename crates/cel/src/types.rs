//! Types as the checker sees them.

use std::fmt;
use std::sync::Arc;

/// The type of an expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// Anything; checked when it is evaluated.
    Dyn,
    Any,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List(Arc<Type>),
    Map(Arc<(Type, Type)>),
    /// An object of a declared type, by its name.
    Object(Arc<str>),
    /// A type that only its library looks into, such as `net.IP`, and `optional_type`.
    Opaque(Arc<str>, Arc<[Type]>),
    /// The type of a type.
    Type(Option<Arc<Type>>),
    /// A parameter of an overload's signature, or a variable of the checker's.
    Param(Arc<str>),
    /// Of what could not be checked.
    Error,
}

pub(crate) const OPTIONAL: &str = "optional_type";

impl Type {
    pub fn list(element: Self) -> Self {
        Self::List(Arc::new(element))
    }

    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    pub fn object(name: &str) -> Self {
        Self::Object(name.into())
    }

    pub fn optional(of: Self) -> Self {
        Self::Opaque(OPTIONAL.into(), Arc::new([of]))
    }

    pub fn opaque(name: &str) -> Self {
        Self::Opaque(name.into(), Arc::new([]))
    }

    pub(crate) fn of_type(of: Self) -> Self {
        Self::Type(Some(Arc::new(of)))
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn | Self::Any)
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Any | Self::Error)
    }

    /// What an optional holds.
    pub(crate) fn unwrap_optional(&self) -> Option<&Self> {
        match self {
            Self::Opaque(name, params) if **name == *OPTIONAL => params.first(),
            _ => None,
        }
    }

    /// Its name without parameters.
    pub fn name(&self) -> &str {
        match self {
            Self::Dyn => "dyn",
            Self::Any => "google.protobuf.Any",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Duration => "google.protobuf.Duration",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Object(name) | Self::Opaque(name, _) | Self::Param(name) => name,
            Self::Type(_) => "type",
            Self::Error => "!error!",
        }
    }

    /// As upstream names the result of an expression: with the full names of types.
    pub fn declared_name(&self) -> String {
        let all = |types: &[Self]| types.iter().map(Self::declared_name).collect::<Vec<_>>().join(", ");
        match self {
            Self::List(element) => format!("list({})", element.declared_name()),
            Self::Map(entry) => format!("map({}, {})", entry.0.declared_name(), entry.1.declared_name()),
            Self::Opaque(name, params) if !params.is_empty() => format!("{name}({})", all(params)),
            Self::Type(Some(of)) => format!("type({})", of.declared_name()),
            other => other.name().to_owned(),
        }
    }

    /// What is known of a policy's variable of this type: only of simple types, lists and maps; what else it is shows when it
    /// is evaluated.
    pub fn of_variable(&self) -> Self {
        match self {
            Self::List(element) => Self::list(element.of_variable()),
            Self::Map(entry) => Self::map(entry.0.of_variable(), entry.1.of_variable()),
            Self::Object(_) | Self::Opaque(..) | Self::Type(_) => Self::Dyn,
            simple => simple.clone(),
        }
    }

    /// How many parts it is made of, up to a bound: a type that is built from itself over and over grows exponentially.
    pub(crate) fn size(&self, bound: usize) -> usize {
        if bound == 0 {
            return 1;
        }
        let of =
            |types: &[&Self]| types.iter().fold(1, |sum, t| if sum > bound { sum } else { sum + t.size(bound - sum) });
        match self {
            Self::List(element) => of(&[element]),
            Self::Map(entry) => of(&[&entry.0, &entry.1]),
            Self::Opaque(_, params) => of(&params.iter().collect::<Vec<_>>()),
            Self::Type(Some(t)) => of(&[t]),
            _ => 1,
        }
    }
}

/// As upstream writes types in its complaints.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Duration => f.write_str("duration"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Null => f.write_str("null"),
            Self::List(element) => write!(f, "list({element})"),
            Self::Map(entry) => write!(f, "map({}, {})", entry.0, entry.1),
            Self::Opaque(name, params) if !params.is_empty() => {
                write!(f, "{name}(")?;
                for (i, param) in params.iter().enumerate() {
                    write!(f, "{}{param}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str(")")
            }
            Self::Type(Some(t)) => write!(f, "type({t})"),
            _ => f.write_str(self.name()),
        }
    }
}

//! What calls cost when they are evaluated: upstream's formulas, of the language and of Kubernetes' libraries.

use crate::list::List;
use crate::opaque::Opaque;
use crate::value::Value;

pub(crate) const STRING_FACTOR: f64 = 0.1;
pub(crate) const REGEX_FACTOR: f64 = 0.25;

/// How the cost of a call follows from its arguments, or its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallCost {
    Fixed(u64),
    /// Per character of the first argument, in tenths.
    Traverse(u64),
    /// Per character of the result, in tenths.
    TraverseResult(u64),
    /// Of every element of the first argument, within lists and maps too.
    Deep,
    /// One per element of the second argument.
    Elements,
    /// Of the smaller of two arguments.
    Smaller,
    /// Of two arguments together.
    Sum,
    /// Of the one for each of the other.
    Contains,
    Regex,
    Selector,
    ContainsIp {
        parsed: bool,
    },
    ContainsCidr {
        parsed: bool,
    },
    Validate,
    Sets {
        factor: u64,
    },
    /// A list of the result's length is made.
    ListResult,
    Flatten,
    /// Elements of the argument of this index are compared with each other.
    SelfCompare(usize),
}

fn ceil(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

impl CallCost {
    /// By the function's name and the overload's identifier, which is empty where it is only known by the values.
    pub(crate) fn of(function: &str, overload: &str) -> Self {
        // First the extensions, by overload.
        match overload {
            "list_sets_contains_list" | "list_sets_intersects_list" => return Self::Sets { factor: 1 },
            "list_sets_equivalent_list" => return Self::Sets { factor: 2 },
            "list_slice" | "lists_range" | "list_reverse" => return Self::ListResult,
            "list_flatten" | "list_flatten_int" => return Self::Flatten,
            "list_distinct" => return Self::SelfCompare(0),
            id if id.ends_with("_sort") && id.starts_with("list_") => return Self::SelfCompare(0),
            id if id.ends_with("_sortByAssociatedKeys") => return Self::SelfCompare(1),
            _ => {}
        }
        // Then Kubernetes' libraries, by function.
        match function {
            "check" => return Self::Fixed(350_000),
            "fieldSelector" | "labelSelector" => return Self::Selector,
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => return Self::Deep,
            "url"
            | "lowerAscii"
            | "upperAscii"
            | "substring"
            | "trim"
            | "jsonpatch.escapeKey"
            | "cidr"
            | "isIP"
            | "isCIDR"
            | "quantity"
            | "isQuantity"
            | "semver"
            | "isSemver" => return Self::Traverse(1),
            "ip" if overload == "cidr_ip" => return Self::Fixed(1),
            "ip" => return Self::Traverse(1),
            "replace" | "split" | "ip.isCanonical" => return Self::Traverse(2),
            "join" => return Self::TraverseResult(2),
            "find" | "findAll" => return Self::Regex,
            "containsIP" => return Self::ContainsIp { parsed: overload == "cidr_contains_ip_string" },
            "containsCIDR" => return Self::ContainsCidr { parsed: overload == "cidr_contains_cidr_string" },
            "validate" => return Self::Validate,
            _ => {}
        }
        match overload {
            "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string" | "strings_quote"
            | "string_format" => Self::Traverse(1),
            "in_list" => Self::Elements,
            "less_string"
            | "greater_string"
            | "less_equals_string"
            | "greater_equals_string"
            | "less_bytes"
            | "greater_bytes"
            | "less_equals_bytes"
            | "greater_equals_bytes" => Self::Smaller,
            "add_string" | "add_bytes" => Self::Sum,
            "matches_string" => Self::Regex,
            "contains_string" => Self::Contains,
            _ => Self::Fixed(1),
        }
    }

    /// Whether it is only known when the call has been made.
    pub(crate) fn needs_result(self) -> bool {
        matches!(self, Self::TraverseResult(_))
    }

    /// What the call costs, before it is made.
    pub(crate) fn before(self, args: &[Value<'_>]) -> u64 {
        let size = |i: usize| args.get(i).map_or(1, Value::size);
        let base = 1 + 10;
        match self {
            Self::Fixed(cost) => cost,
            Self::Traverse(factor) => ceil(size(0) * factor, STRING_FACTOR),
            Self::TraverseResult(_) => 0,
            Self::Deep => args.first().map_or(0, traversal),
            Self::Elements => size(1),
            Self::Smaller => ceil(size(0).min(size(1)), STRING_FACTOR),
            Self::Sum => ceil(size(0) + size(1), STRING_FACTOR),
            Self::Contains => ceil(size(0), STRING_FACTOR).saturating_mul(ceil(size(1), STRING_FACTOR)),
            Self::Regex => regex(size(0), size(1)),
            Self::Selector => selector(size(1)),
            Self::ContainsIp { parsed } => {
                ceil(size(0) * 2, STRING_FACTOR) + if parsed { ceil(size(1), STRING_FACTOR) } else { 0 }
            }
            Self::ContainsCidr { parsed } => {
                let network = size(0);
                ceil(network * 2, STRING_FACTOR)
                    + ceil(network, STRING_FACTOR)
                    + 1
                    + if parsed { ceil(size(1), STRING_FACTOR) } else { 0 }
            }
            Self::Validate => match args.first() {
                Some(Value::Opaque(opaque)) => match &**opaque {
                    Opaque::Format(format) => regex(size(1), format.regex_size),
                    _ => 1,
                },
                _ => 1,
            },
            Self::Sets { factor } => 1 + size(0).saturating_mul(size(1)).saturating_mul(factor),
            Self::ListResult => base + list_result(args),
            Self::Flatten => {
                let depth = match args.get(1) {
                    Some(Value::Int(depth)) => u64::try_from(*depth).unwrap_or(0),
                    _ => 1,
                };
                base + size(0).saturating_mul(depth)
            }
            Self::SelfCompare(index) => {
                let Some(Value::List(list)) = args.get(index) else { return base };
                let length = list.len() as u64;
                let texts = !list.is_empty() && matches!(list.get(0), Ok(Value::String(_) | Value::Bytes(_)));
                let factor = if texts { 2.1 } else { 2.0 };
                base + (length.saturating_mul(length) as f64 * factor) as u64
            }
        }
    }

    /// What it costs beside, by its result.
    pub(crate) fn after(self, result: &Value<'_>) -> u64 {
        match self {
            Self::TraverseResult(factor) => ceil(result.size() * factor, STRING_FACTOR),
            _ => 0,
        }
    }
}

/// The length of the list that `slice`, `range` and `reverse` make.
fn list_result(args: &[Value<'_>]) -> u64 {
    match args {
        [Value::Int(count)] => u64::try_from(*count).unwrap_or(0),
        [Value::List(list)] => list.len() as u64,
        [_, Value::Int(from), Value::Int(to)] => u64::try_from(to.saturating_sub(*from)).unwrap_or(0),
        _ => 0,
    }
}

pub(crate) fn regex(text: u64, pattern: u64) -> u64 {
    let text = ((text as f64 + 1.0) * STRING_FACTOR).ceil() as u64;
    text.saturating_mul(ceil(pattern, REGEX_FACTOR))
}

/// Parsing a selector and making its requirements.
pub(crate) fn selector(length: u64) -> u64 {
    let requirements = ceil(length, 0.5);
    10 + ceil(length, STRING_FACTOR) + requirements.saturating_mul(50)
}

fn traversal(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => (text.len() as f64 * STRING_FACTOR) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * STRING_FACTOR) as u64,
        Value::List(list) => each(list),
        Value::Map(map) => {
            let mut cost = 0;
            let _ = map.try_each(&mut |key, value| {
                cost += traversal(&key.value()) + traversal(&value);
                Ok(())
            });
            cost
        }
        _ => 1,
    }
}

fn each(list: &List<'_>) -> u64 {
    list.iter().map(|item| item.as_ref().map_or(1, traversal)).sum()
}

//! What calls can cost, from what is known of their arguments: upstream's estimates, of the language and of Kubernetes'
//! libraries. They go together with `call_cost`.

use crate::ast::Literal;
use crate::call_cost::{REGEX_FACTOR, STRING_FACTOR, selector};
use crate::cost::{Argument, CostEstimate, Size};
use crate::types::Type;

pub(crate) struct Estimate {
    pub cost: CostEstimate,
    pub size: Option<Size>,
}

fn costs(cost: CostEstimate) -> Option<Estimate> {
    Some(Estimate { cost, size: None })
}

fn sized(cost: CostEstimate, size: Size) -> Option<Estimate> {
    Some(Estimate { cost, size: Some(size) })
}

const ONE: CostEstimate = CostEstimate { min: 1, max: 1 };

/// What a call costs with its arguments, but for its target.
pub(crate) fn estimate(function: &str, overload: &str, on: Option<&Argument<'_>>, args: &[Argument<'_>]) -> Estimate {
    let arguments = args.iter().fold(CostEstimate::default(), |sum, a| sum.plus(a.cost));
    if let Some(own) = extension(overload, on, args)
        .or_else(|| library(function, overload, on, args))
        .or_else(|| language(overload, on, args))
    {
        return Estimate { cost: own.cost.plus(arguments), size: own.size };
    }
    match (overload, args) {
        // The right side may not be evaluated.
        ("logical_and" | "logical_or", [left, right]) => {
            let cost = CostEstimate { min: left.cost.min, max: left.cost.plus(right.cost).max };
            Estimate { cost, size: None }
        }
        ("conditional", [condition, yes, no]) => {
            let cost = condition.cost.plus(yes.cost.union(no.cost));
            Estimate { cost, size: Some(yes.size().union(no.size())) }
        }
        _ => Estimate { cost: ONE.plus(arguments), size: None },
    }
}

/// Extensions of the language, by overload.
fn extension(overload: &str, on: Option<&Argument<'_>>, args: &[Argument<'_>]) -> Option<Estimate> {
    let makes_list =
        |factor: f64, length: Size| sized(length.scaled(factor).plus(ONE).plus(CostEstimate::fixed(10)), length);
    match overload {
        "list_sets_contains_list" | "list_sets_intersects_list" | "list_sets_equivalent_list" => {
            let factor = if overload == "list_sets_equivalent_list" { 2.0 } else { 1.0 };
            costs(args[0].size().times(args[1].size()).scaled(factor).plus(ONE))
        }
        "list_slice" => {
            let size = on?.size();
            let start = as_int(args.first()?, 0);
            let end = as_int(args.get(1)?, size.max);
            makes_list(1.0, Size::fixed(end.wrapping_sub(start)))
        }
        "lists_range" => makes_list(1.0, Size::fixed(as_int(args.first()?, u64::MAX))),
        "list_reverse" => makes_list(1.0, on?.size()),
        "list_flatten" | "list_flatten_int" => {
            let depth = args.first().map_or(1, |a| as_int(a, u64::MAX));
            makes_list(depth as f64, on?.size())
        }
        "list_distinct" => makes_list(2.0, on?.size().times(on?.size())),
        id if id.starts_with("list_") && id.ends_with("_sort") => sorted(id, on?.size(), makes_list),
        id if id.ends_with("_sortByAssociatedKeys") => sorted(id, args.first()?.size(), makes_list),
        _ => None,
    }
}

fn sorted(id: &str, size: Size, makes_list: impl Fn(f64, Size) -> Option<Estimate>) -> Option<Estimate> {
    let texts = id.starts_with("list_string") || id.starts_with("list_bytes");
    makes_list(if texts { 2.1 } else { 2.0 }, size.times(size))
}

fn as_int(argument: &Argument<'_>, otherwise: u64) -> u64 {
    match argument.literal {
        Some(Literal::Int(i)) => u64::try_from(*i).unwrap_or(0),
        _ => otherwise,
    }
}

/// Kubernetes' libraries, by function.
fn library(function: &str, overload: &str, on: Option<&Argument<'_>>, args: &[Argument<'_>]) -> Option<Estimate> {
    match function {
        "check" => costs(CostEstimate::fixed(350_000)),
        "serviceAccount"
        | "path"
        | "group"
        | "resource"
        | "subresource"
        | "namespace"
        | "name"
        | "allowed"
        | "reason"
        | "error"
        | "errored"
        | "masked"
        | "prefixLength"
        | "family"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast"
        | "format.named"
        | "sign"
        | "asInteger"
        | "isInteger"
        | "asApproximateFloat"
        | "isGreaterThan"
        | "isLessThan"
        | "compareTo"
        | "add"
        | "sub"
        | "major"
        | "minor"
        | "patch"
        | "getScheme"
        | "getHostname"
        | "getHost"
        | "getPort"
        | "getEscapedPath"
        | "getQuery" => costs(ONE),
        "fieldSelector" | "labelSelector" if args.len() == 1 => {
            let size = args[0].size();
            let of = |n: u64| if n == u64::MAX { u64::MAX } else { selector(n) };
            costs(CostEstimate { min: of(size.min), max: of(size.max) })
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            let on = on?;
            match on.of {
                Type::List(element) => {
                    let texts = matches!(**element, Type::String | Type::Bytes);
                    let each =
                        if texts { ONE.plus(on.element.unwrap_or(Size::UNKNOWN).scaled(STRING_FACTOR)) } else { ONE };
                    costs(on.size().times(each))
                }
                _ => costs(on.size().scaled(STRING_FACTOR)),
            }
        }
        "url" | "jsonpatch.escapeKey" if args.len() == 1 => sized(args[0].size().scaled(STRING_FACTOR), args[0].size()),
        "lowerAscii" | "upperAscii" | "substring" | "trim" => {
            let size = on?.size();
            sized(size.scaled(STRING_FACTOR), size)
        }
        "replace" if args.len() >= 2 => replace(on?, args),
        "split" => {
            let size = on?.size();
            let max = match args.get(1).and_then(|a| a.literal) {
                Some(Literal::Int(i)) => *i as u64,
                _ => size.max,
            };
            sized(size.scaled(2.0 * STRING_FACTOR), Size { min: 0, max })
        }
        "join" => join(on?, args),
        "find" | "findAll" if !args.is_empty() => {
            let size = on?.size();
            sized(regex(size, args[0].size()), Size { min: 0, max: size.max })
        }
        "ip" if overload == "cidr_ip" => costs(ONE),
        "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
            costs(args.first()?.size().scaled(STRING_FACTOR))
        }
        "ip.isCanonical" => costs(args.first()?.size().scaled(2.0 * STRING_FACTOR)),
        "containsIP" | "containsCIDR" => {
            let network = Size { min: 4, max: 16 };
            let mut cost = network.plus(network).scaled(STRING_FACTOR);
            if function == "containsCIDR" {
                cost = cost.plus(network.scaled(STRING_FACTOR)).plus(ONE);
            }
            if overload.ends_with("_string") {
                cost = cost.plus(args.first()?.size().scaled(STRING_FACTOR));
            }
            costs(cost)
        }
        "validate" => costs(args.first()?.size().scaled(STRING_FACTOR).scaled(128.0 * REGEX_FACTOR)),
        "_==_" => equality(args),
        _ => None,
    }
}

/// Of values of Kubernetes' types.
fn equality(args: &[Argument<'_>]) -> Option<Estimate> {
    let [left, right] = args else { return None };
    if left.of != right.of {
        return None;
    }
    match left.of.name() {
        "net.IP" | "net.CIDR" | "kubernetes.Quantity" | "kubernetes.Semver" => costs(ONE),
        name if name.starts_with("kubernetes.authorization.") => costs(ONE),
        "kubernetes.NamedFormat" => costs(CostEstimate { min: 1, max: 64 }.scaled(STRING_FACTOR)),
        "kubernetes.URL" => {
            let max = right.size.map_or(1, |size| size.max);
            costs(CostEstimate { min: 1, max }.scaled(STRING_FACTOR))
        }
        _ => None,
    }
}

fn replace(on: &Argument<'_>, args: &[Argument<'_>]) -> Option<Estimate> {
    let (size, old, new) = (on.size(), args[0].size(), args[1].size());
    let (mut count, mut kept) = (Size::default(), Size::default());
    if old.min == 0 {
        count.max = size.max.saturating_add(1);
        kept.max = size.max;
    } else if new.max <= old.min {
        kept.max = size.max;
    } else {
        count.max = (size.max as f64 / old.min as f64).ceil() as u64;
    }
    if old.max == 0 {
        count.min = size.min.saturating_add(1);
        kept.min = size.min;
    } else if old.max <= new.min {
        kept.min = size.min;
    } else {
        count.min = (size.min as f64 / old.max as f64).ceil() as u64;
    }
    sized(size.scaled(2.0 * STRING_FACTOR), count.times(new).plus(kept))
}

fn join(on: &Argument<'_>, args: &[Argument<'_>]) -> Option<Estimate> {
    let list = on.size();
    let mut size = match on.of {
        Type::List(_) => list.times(on.element.unwrap_or(Size::UNKNOWN)),
        _ => Size::default(),
    };
    if let Some(separator) = args.first() {
        let separators = Size { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) };
        size = size.plus(separator.size().times(separators));
    }
    sized(size.scaled(STRING_FACTOR), size)
}

fn regex(text: Size, pattern: Size) -> CostEstimate {
    text.plus(Size::fixed(1)).scaled(STRING_FACTOR).times(pattern.scaled(REGEX_FACTOR))
}

/// The language itself, by overload.
fn language(overload: &str, on: Option<&Argument<'_>>, args: &[Argument<'_>]) -> Option<Estimate> {
    match (overload, args) {
        ("string_format", _) => costs(on?.size().scaled(STRING_FACTOR)),
        ("string_to_bytes", [text]) => {
            let size = text.size();
            sized(size.scaled(STRING_FACTOR), Size { min: size.min, max: size.max.wrapping_mul(4) })
        }
        ("bytes_to_string", [bytes]) => {
            let size = bytes.size();
            sized(size.scaled(STRING_FACTOR), Size { min: size.min / 4, max: size.max })
        }
        ("strings_quote", [text]) => {
            let size = text.size();
            let max = size.max.wrapping_mul(2).wrapping_add(2);
            sized(size.scaled(STRING_FACTOR), Size { min: size.min + 2, max })
        }
        ("starts_with_string" | "ends_with_string", [part]) => costs(part.size().scaled(STRING_FACTOR)),
        ("in_list", [_, list]) => costs(list.size()),
        ("matches_string", [pattern]) => costs(regex(on?.size(), pattern.size())),
        ("contains_string", [part]) => costs(on?.size().scaled(STRING_FACTOR).times(part.size().scaled(STRING_FACTOR))),
        ("add_list", [a, b]) => sized(ONE, a.size().plus(b.size())),
        ("add_string" | "add_bytes", [a, b]) => {
            let size = a.size().plus(b.size());
            sized(size.scaled(STRING_FACTOR), size)
        }
        (
            "less_string"
            | "greater_string"
            | "less_equals_string"
            | "greater_equals_string"
            | "less_bytes"
            | "greater_bytes"
            | "less_equals_bytes"
            | "greater_equals_bytes"
            | "equals"
            | "not_equals",
            [a, b],
        ) => {
            let max = a.size().max.min(b.size().max);
            costs(CostEstimate { min: u64::from(max > 0), max }.scaled(STRING_FACTOR))
        }
        _ => None,
    }
}

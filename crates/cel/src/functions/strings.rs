//! Functions of texts.

use crate::decl::{Functions, Native};
use crate::error::EvalError;
use crate::ops::MAX_OUTPUT;
use crate::text::quote_named;
use crate::value::Value;

use super::{int, list, str};

fn out_of_range<'a>(index: i64) -> super::Result<'a> {
    Err(EvalError::new(format!("index out of range: {index}")))
}

pub(super) fn declare(f: &mut Functions) {
    f.add("contains", "contains_string", "string.(string) -> bool", |a| {
        Ok(Value::Bool(str(&a[0])?.contains(&**str(&a[1])?)))
    });
    f.add("startsWith", "starts_with_string", "string.(string) -> bool", |a| {
        Ok(Value::Bool(str(&a[0])?.starts_with(&**str(&a[1])?)))
    });
    f.add("endsWith", "ends_with_string", "string.(string) -> bool", |a| {
        Ok(Value::Bool(str(&a[0])?.ends_with(&**str(&a[1])?)))
    });
    f.add("charAt", "string_char_at_int", "string.(int) -> string", char_at);
    f.add("indexOf", "string_index_of_string", "string.(string) -> int", |a| index_of(a, 0));
    f.add("indexOf", "string_index_of_string_int", "string.(string, int) -> int", |a| index_of(a, int(&a[2])?));
    f.add("lastIndexOf", "string_last_index_of_string", "string.(string) -> int", last_index_of);
    f.add("lastIndexOf", "string_last_index_of_string_int", "string.(string, int) -> int", last_index_of);
    f.add("lowerAscii", "string_lower_ascii", "string.() -> string", |a| {
        Ok(Value::string(str(&a[0])?.to_ascii_lowercase()))
    });
    f.add("upperAscii", "string_upper_ascii", "string.() -> string", |a| {
        Ok(Value::string(str(&a[0])?.to_ascii_uppercase()))
    });
    f.add("trim", "string_trim", "string.() -> string", |a| Ok(Value::string(str(&a[0])?.trim())));
    f.add("replace", "string_replace_string_string", "string.(string, string) -> string", |a| replace(a, -1));
    f.add("replace", "string_replace_string_string_int", "string.(string, string, int) -> string", |a| {
        replace(a, int(&a[3])?)
    });
    f.add("split", "string_split_string", "string.(string) -> list(string)", |a| split(a, -1));
    f.add("split", "string_split_string_int", "string.(string, int) -> list(string)", |a| split(a, int(&a[2])?));
    f.add("substring", "string_substring_int", "string.(int) -> string", substring);
    f.add("substring", "string_substring_int_int", "string.(int, int) -> string", substring);
    let join: Native = join;
    f.add("join", "list_join", "list(string).() -> string", join);
    f.add("join", "list_join_string", "list(string).(string) -> string", join);
    f.add("strings.quote", "strings_quote", "(string) -> string", |a| Ok(Value::string(quote_named(str(&a[0])?))));
    f.add("format", "string_format", "string.(list(dyn)) -> string", |a| {
        super::format::format(str(&a[0])?, list(&a[1])?).map(Value::string)
    });
}

fn char_at<'a>(a: &[Value<'a>]) -> super::Result<'a> {
    let (text, index) = (str(&a[0])?, int(&a[1])?);
    let Ok(at) = usize::try_from(index) else { return out_of_range(index) };
    match text.chars().nth(at) {
        Some(c) => Ok(Value::string(c.to_string())),
        None if at == text.chars().count() => Ok(Value::borrowed("")),
        None => out_of_range(index),
    }
}

fn index_of<'a>(a: &[Value<'a>], offset: i64) -> super::Result<'a> {
    let (text, part) = (str(&a[0])?, str(&a[1])?);
    if part.is_empty() {
        return Ok(Value::Int(offset));
    }
    let Ok(skip) = usize::try_from(offset) else { return out_of_range(offset) };
    let Some((from, _)) = text.char_indices().nth(skip) else { return Ok(Value::Int(-1)) };
    Ok(Value::Int(match text[from..].find(&**part) {
        Some(at) => offset + text[from..from + at].chars().count() as i64,
        None => -1,
    }))
}

fn last_index_of<'a>(a: &[Value<'a>]) -> super::Result<'a> {
    let (text, part) = (str(&a[0])?, str(&a[1])?);
    let length = text.chars().count();
    let offset = a.get(2).map(int).transpose()?;
    if part.is_empty() {
        return Ok(Value::Int(offset.unwrap_or(length as i64)));
    }
    // The part begins at the offset or before it.
    let end = match offset {
        None => text.len(),
        Some(offset) => {
            let Ok(skip) = usize::try_from(offset) else { return out_of_range(offset) };
            if skip >= length {
                return Ok(Value::Int(-1));
            }
            let from = text.char_indices().nth(skip).map_or(text.len(), |(i, _)| i);
            let mut end = (from + part.len()).min(text.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            end
        }
    };
    Ok(Value::Int(text[..end].rfind(&**part).map_or(-1, |at| text[..at].chars().count() as i64)))
}

fn replace<'a>(a: &[Value<'a>], count: i64) -> super::Result<'a> {
    let (text, old, new) = (str(&a[0])?, str(&a[1])?, str(&a[2])?);
    let places = if old.is_empty() { text.chars().count() + 1 } else { text.matches(&**old).count() };
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(places);
    if text.len().saturating_add(count.saturating_mul(new.len())) > MAX_OUTPUT {
        return Err(EvalError::cost_limit());
    }
    Ok(Value::string(text.replacen(&**old, new, count)))
}

fn split<'a>(a: &[Value<'a>], count: i64) -> super::Result<'a> {
    let (text, separator) = (str(&a[0])?, str(&a[1])?);
    let limit = usize::try_from(count).unwrap_or(usize::MAX);
    if limit == 0 {
        return Ok(Value::strings([]));
    }
    if separator.is_empty() {
        let mut parts = Vec::new();
        let mut rest: &str = text;
        while let Some(c) = rest.chars().next() {
            if parts.len() + 1 == limit {
                parts.push(rest.to_owned());
                break;
            }
            parts.push(c.to_string());
            rest = &rest[c.len_utf8()..];
        }
        return Ok(Value::strings(parts));
    }
    Ok(Value::strings(text.splitn(limit, &**separator).map(str::to_owned)))
}

fn substring<'a>(a: &[Value<'a>]) -> super::Result<'a> {
    let (text, start) = (str(&a[0])?, int(&a[1])?);
    let length = text.chars().count() as i64;
    let end = match a.get(2) {
        None => length,
        Some(end) => {
            let end = int(end)?;
            if start > end {
                return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
            }
            end
        }
    };
    if start < 0 || start > length {
        return out_of_range(start);
    }
    if end < 0 || end > length {
        return out_of_range(end);
    }
    Ok(Value::string(text.chars().skip(start as usize).take((end - start) as usize).collect::<String>()))
}

fn join<'a>(a: &[Value<'a>]) -> super::Result<'a> {
    let separator: &str = match a.get(1) {
        Some(separator) => str(separator)?,
        None => "",
    };
    let mut joined = String::new();
    for (i, item) in list(&a[0])?.iter().enumerate() {
        if i > 0 {
            joined.push_str(separator);
        }
        match item? {
            Value::String(text) => joined.push_str(&text),
            other => return Err(EvalError::new(format!("join: invalid input: {}", other.display()))),
        }
        if joined.len() > MAX_OUTPUT {
            return Err(EvalError::cost_limit());
        }
    }
    Ok(Value::string(joined))
}

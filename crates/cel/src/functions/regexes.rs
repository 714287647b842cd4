//! Regular expressions, in linear time as upstream's.

use regex::Regex;

use crate::decl::Functions;
use crate::error::EvalError;
use crate::text::quote;
use crate::value::Value;

use super::{int, str};

/// Compiled, an expression takes no more memory than this.
const MAX_SIZE: usize = 4 << 20;

pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(&ours(pattern)).size_limit(MAX_SIZE).nest_limit(250).build().map_err(|e| match e {
        regex::Error::CompiledTooBig(_) => {
            format!("error parsing regexp: expression is too large: it takes more than {MAX_SIZE} bytes when compiled")
        }
        other => format!("error parsing regexp: {}", complaint(&other.to_string(), pattern)),
    })
}

/// The pattern in the syntax of our library, where Go's differs: `\Q…\E` quotes, `\z` and `\C` are alike elsewhere.
fn ours(pattern: &str) -> std::borrow::Cow<'_, str> {
    if !pattern.contains("\\Q") {
        return pattern.into();
    }
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find("\\Q") {
        out.push_str(&rest[..at]);
        let quoted = &rest[at + 2..];
        let end = quoted.find("\\E").unwrap_or(quoted.len());
        out.push_str(&regex::escape(&quoted[..end]));
        rest = quoted.get(end + 2..).unwrap_or("");
    }
    out.push_str(rest);
    out.into()
}

/// Go's words for what is wrong, where they are known; the place is the whole pattern.
fn complaint(ours: &str, pattern: &str) -> String {
    let says = |text: &str| ours.contains(text);
    let (what, at) = if says("unclosed group") {
        ("missing closing )", pattern.to_owned())
    } else if says("unopened group") {
        ("unexpected )", pattern.to_owned())
    } else if says("unclosed character class") {
        let from = pattern.rfind('[').unwrap_or(0);
        ("missing closing ]", pattern[from..].to_owned())
    } else if says("repetition operator missing expression") {
        let at = pattern.find(['*', '+', '?']).map_or(String::new(), |i| pattern[i..=i].to_owned());
        ("missing argument to repetition operator", at)
    } else if says("look-around") {
        let from = pattern.find("(?").unwrap_or(0);
        ("invalid or unsupported Perl syntax", pattern[from..].chars().take(3).collect())
    } else if says("invalid escape") || says("unrecognized escape") || says("backreferences") {
        let from = pattern.find('\\').unwrap_or(0);
        ("invalid escape sequence", pattern[from..].chars().take(2).collect())
    } else {
        let last = ours.lines().last().unwrap_or("invalid");
        return format!("{}: {}", last.strip_prefix("error: ").unwrap_or(last), quote(pattern));
    };
    format!("{what}: `{at}`")
}

/// With a pattern that is only known now.
fn regex(pattern: &Value<'_>, prefix: &str) -> Result<Regex, EvalError> {
    compile(str(pattern)?).map_err(|e| EvalError::new(format!("{prefix}{e}")))
}

pub(crate) fn find<'a>(regex: &Regex, text: &Value<'a>) -> super::Result<'a> {
    let found = regex.find(str(text)?).map_or("", |m| m.as_str());
    Ok(Value::string(found))
}

pub(crate) fn find_all<'a>(regex: &Regex, text: &Value<'a>, count: Option<&Value<'a>>) -> super::Result<'a> {
    let count = count.map(int).transpose()?.unwrap_or(-1);
    let limit = usize::try_from(count).unwrap_or(usize::MAX);
    Ok(Value::strings(regex.find_iter(str(text)?).take(limit).map(|m| m.as_str().to_owned())))
}

pub(crate) fn matches<'a>(regex: &Regex, text: &Value<'a>) -> super::Result<'a> {
    Ok(Value::Bool(regex.is_match(str(text)?)))
}

pub(super) fn declare(f: &mut Functions) {
    f.add("matches", "matches", "(string, string) -> bool", |a| matches(&regex(&a[1], "")?, &a[0]));
    f.add("matches", "matches_string", "string.(string) -> bool", |a| matches(&regex(&a[1], "")?, &a[0]));
    f.add("find", "string_find_string", "string.(string) -> string", |a| {
        find(&regex(&a[1], "Illegal regex: ")?, &a[0])
    });
    f.add("findAll", "string_find_all_string", "string.(string) -> list(string)", |a| {
        find_all(&regex(&a[1], "Illegal regex: ")?, &a[0], None)
    });
    f.add("findAll", "string_find_all_string_int", "string.(string, int) -> list(string)", |a| {
        find_all(&regex(&a[1], "Illegal regex: ")?, &a[0], a.get(2))
    });
}

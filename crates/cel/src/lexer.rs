//! Characters to tokens.

use crate::issues::Issues;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    End,
    /// An operator, bracket or separator.
    Symbol(&'static str),
    /// `in`, `true`, `false` or `null`.
    Keyword(&'static str),
    Identifier,
    EscapedIdentifier,
    Int,
    Uint,
    Float,
    String,
    Bytes,
}

/// A token and where it stands, in code points.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lexeme {
    pub token: Token,
    pub start: usize,
    pub end: usize,
}

/// The longest first, so that the first that fits is the token.
const SYMBOLS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*",
    "/", "%",
];

const KEYWORDS: &[&str] = &["in", "true", "false", "null"];

pub(crate) fn tokens(source: &[char], issues: &mut Issues) -> Vec<Lexeme> {
    let mut lexemes = Vec::new();
    let mut at = 0;
    while at < source.len() {
        if matches!(source[at], '\t' | ' ' | '\r' | '\n' | '\u{c}') {
            at += 1;
        } else if source[at..].starts_with(&['/', '/']) {
            at += source[at..].iter().position(|c| *c == '\n').unwrap_or(source.len() - at);
        } else {
            match next(source, at) {
                Ok((token, end)) => {
                    lexemes.push(Lexeme { token, start: at, end });
                    at = end;
                }
                Err(bad) => {
                    let end = (bad + 1).min(source.len());
                    let text: String = source[at..end].iter().collect();
                    let shown = text.replace('\n', "\\n").replace('\t', "\\t").replace('\r', "\\r");
                    issues.report(Some(at), format!("Syntax error: token recognition error at: '{shown}'"));
                    at = end;
                }
            }
        }
    }
    lexemes.push(Lexeme { token: Token::End, start: source.len(), end: source.len() });
    lexemes
}

/// The token at `at` and where it ends, or the index of the character that no token has there.
fn next(source: &[char], at: usize) -> Result<(Token, usize), usize> {
    let peek = |i: usize| source.get(i).copied().unwrap_or('\0');
    let first = source[at];
    // Prefixes of strings: r"", b"", br"".
    let prefix = match (first.to_ascii_lowercase(), peek(at + 1).to_ascii_lowercase()) {
        ('"' | '\'', _) => Some((Token::String, false, 0)),
        ('r', '"' | '\'') => Some((Token::String, true, 1)),
        ('b', '"' | '\'') => Some((Token::Bytes, false, 1)),
        ('b', 'r') if matches!(peek(at + 2), '"' | '\'') => Some((Token::Bytes, true, 2)),
        _ => None,
    };
    if let Some((token, raw, skip)) = prefix {
        return quoted(source, at + skip, raw).map(|end| (token, end));
    }
    if first.is_ascii_alphabetic() || first == '_' {
        let end = at + source[at..].iter().take_while(|c| c.is_ascii_alphanumeric() || **c == '_').count();
        let word: String = source[at..end].iter().collect();
        let token = KEYWORDS.iter().find(|k| **k == word).map_or(Token::Identifier, |k| Token::Keyword(k));
        return Ok((token, end));
    }
    if first == '`' {
        let inside = |c: &&char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ' ');
        let end = at + 1 + source[at + 1..].iter().take_while(inside).count();
        return if peek(end) == '`' && end > at + 1 { Ok((Token::EscapedIdentifier, end + 1)) } else { Err(end) };
    }
    if first.is_ascii_digit() || (first == '.' && peek(at + 1).is_ascii_digit()) {
        return Ok(number(source, at));
    }
    for symbol in SYMBOLS {
        if symbol.chars().enumerate().all(|(i, c)| peek(at + i) == c) {
            return Ok((Token::Symbol(symbol), at + symbol.len()));
        }
    }
    // The first half of `==`, `&&` and `||`: what follows is at fault too.
    Err(if matches!(first, '=' | '&' | '|') { at + 1 } else { at })
}

fn number(source: &[char], at: usize) -> (Token, usize) {
    let peek = |i: usize| source.get(i).copied().unwrap_or('\0');
    let digits =
        |from: usize| from + source[from.min(source.len())..].iter().take_while(|c| c.is_ascii_digit()).count();
    if peek(at) == '0' && peek(at + 1) == 'x' && peek(at + 2).is_ascii_hexdigit() {
        let end = at + 2 + source[at + 2..].iter().take_while(|c| c.is_ascii_hexdigit()).count();
        return if matches!(peek(end), 'u' | 'U') { (Token::Uint, end + 1) } else { (Token::Int, end) };
    }
    let whole = digits(at);
    let mut end = whole;
    if peek(whole) == '.' && peek(whole + 1).is_ascii_digit() {
        end = digits(whole + 1);
    }
    if matches!(peek(end), 'e' | 'E') {
        let sign = usize::from(matches!(peek(end + 1), '+' | '-'));
        if peek(end + 1 + sign).is_ascii_digit() {
            end = digits(end + 1 + sign);
        }
    }
    if end > whole {
        (Token::Float, end)
    } else if matches!(peek(whole), 'u' | 'U') {
        (Token::Uint, whole + 1)
    } else {
        (Token::Int, whole)
    }
}

/// Where the quoted text whose quote stands at `at` ends, or the index of what cannot be part of it.
fn quoted(source: &[char], at: usize, raw: bool) -> Result<usize, usize> {
    let peek = |i: usize| source.get(i).copied();
    let quote = source[at];
    let triple = peek(at + 1) == Some(quote) && peek(at + 2) == Some(quote);
    if triple && let Ok(end) = body(source, at + 3, &[quote; 3], raw) {
        return Ok(end);
    }
    // An unfinished `"""` is an empty string and what follows.
    body(source, at + 1, &[quote], raw)
}

fn body(source: &[char], mut at: usize, close: &[char], raw: bool) -> Result<usize, usize> {
    loop {
        if source[at.min(source.len())..].starts_with(close) {
            return Ok(at + close.len());
        }
        match source.get(at) {
            None => return Err(at),
            Some('\n' | '\r') if close.len() == 1 => return Err(at),
            Some('\\') if !raw => at = escape(source, at)?,
            Some(_) => at += 1,
        }
    }
}

/// The end of the escape sequence that begins at `at`.
fn escape(source: &[char], at: usize) -> Result<usize, usize> {
    let digits = |count: usize, radix: u32| {
        let from = at + 2;
        match (from..from + count).find(|i| !source.get(*i).is_some_and(|c| c.is_digit(radix))) {
            Some(bad) => Err(bad),
            None => Ok(from + count),
        }
    };
    match source.get(at + 1) {
        Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`') => Ok(at + 2),
        Some('x' | 'X') => digits(2, 16),
        Some('u') => digits(4, 16),
        Some('U') => digits(8, 16),
        Some('0'..='3') => digits(2, 8),
        _ => Err(at + 1),
    }
}

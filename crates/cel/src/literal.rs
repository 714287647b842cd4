//! What literals say.

pub(crate) fn int(text: &str, negative: bool) -> Option<i64> {
    let magnitude = magnitude(text)?;
    let value = i128::from(magnitude);
    i64::try_from(if negative { -value } else { value }).ok()
}

pub(crate) fn uint(text: &str) -> Option<u64> {
    magnitude(&text[..text.len() - 1])
}

fn magnitude(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

pub(crate) fn double(text: &str, negative: bool) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    value.is_finite().then_some(if negative { -value } else { value })
}

/// The text of a string literal.
pub(crate) fn unquote(quoted: &str) -> Result<String, &'static str> {
    let mut text = String::new();
    each(quoted, false, &mut |piece| match piece {
        Piece::Character(c) => text.push(c),
        Piece::Byte(b) => text.push(char::from(b)),
    })?;
    Ok(text)
}

/// The bytes of a bytes literal, without its `b`.
pub(crate) fn unquote_bytes(quoted: &str) -> Result<Vec<u8>, &'static str> {
    let mut bytes = Vec::new();
    each(quoted, true, &mut |piece| match piece {
        Piece::Character(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        Piece::Byte(b) => bytes.push(b),
    })?;
    Ok(bytes)
}

enum Piece {
    Character(char),
    Byte(u8),
}

fn each(quoted: &str, bytes: bool, emit: &mut impl FnMut(Piece)) -> Result<(), &'static str> {
    let (raw, quoted) = match quoted.strip_prefix(['r', 'R']) {
        Some(rest) => (true, rest),
        None => (false, quoted),
    };
    let triple = quoted.len() >= 6 && (quoted.starts_with("\"\"\"") || quoted.starts_with("'''"));
    let skip = if triple { 3 } else { 1 };
    let inner = quoted[skip..quoted.len() - skip].replace("\r\n", "\n").replace('\r', "\n");
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        if raw || c != '\\' {
            emit(Piece::Character(c));
            continue;
        }
        let escaped = rest.next().ok_or("unable to unescape string, found '\\' as last character")?;
        let simple = match escaped {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '\\' | '\'' | '"' | '`' | '?' => escaped,
            'x' | 'X' | 'u' | 'U' | '0'..='3' => {
                emit(numeric(escaped, &mut rest, bytes)?);
                continue;
            }
            _ => return Err("unable to unescape string"),
        };
        emit(Piece::Character(simple));
    }
    Ok(())
}

fn numeric(kind: char, rest: &mut std::str::Chars<'_>, bytes: bool) -> Result<Piece, &'static str> {
    let (mut value, count, radix) = match kind {
        'x' | 'X' => (0, 2, 16),
        'u' => (0, 4, 16),
        'U' => (0, 8, 16),
        digit => (digit.to_digit(8).unwrap_or(0), 2, 8),
    };
    if bytes && matches!(kind, 'u' | 'U') {
        return Err("unable to unescape string");
    }
    for _ in 0..count {
        let digit = rest.next().and_then(|c| c.to_digit(radix)).ok_or("unable to unescape string")?;
        value = (value << if radix == 16 { 4 } else { 3 }) | digit;
    }
    if bytes {
        return Ok(Piece::Byte(value as u8));
    }
    char::from_u32(value).map(Piece::Character).ok_or("invalid unicode code point")
}

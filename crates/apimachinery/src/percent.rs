//! Percent-encoding (RFC 3986, 2.1), for every URL, query and header that has it.

/// Undoes percent-encoding. What is malformed stays as it is.
pub fn decode_bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap_or(0) as u8;
                out.push(digit(high) << 4 | digit(low));
                rest = after;
            }
            (byte, _) => out.push(*byte),
        }
    }
    out
}

/// As [`decode_bytes`]; bytes that are no UTF-8 are replaced.
pub fn decode(text: &str) -> String {
    String::from_utf8(decode_bytes(text)).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// As [`decode`]; in a query's names and values, `+` is a space.
pub fn decode_query(text: &str) -> String {
    decode(&text.replace('+', " "))
}

/// As [`decode`]; `None` where anything is malformed or no UTF-8.
pub fn decode_strict(text: &str) -> Option<String> {
    let hex = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_hexdigit);
    let whole = text.match_indices('%').all(|(at, _)| hex(at + 1) && hex(at + 2));
    String::from_utf8(decode_bytes(text)).ok().filter(|_| whole)
}

/// Encodes all but letters, digits, `-`, `.`, `_`, `~` and what is in `kept`.
pub fn encode(bytes: impl AsRef<[u8]>, kept: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let bytes = bytes.as_ref();
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || kept.contains(byte) {
            out.push(char::from(*byte));
        } else {
            out.push('%');
            out.extend([byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)])));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode_bytes(&encode(&all, b"")), all);
        assert_eq!(decode_bytes(&encode(&all, b"/:&=")), all);
        assert_eq!(encode("a b/ü", b"/"), "a%20b/%C3%BC");
        assert_eq!(decode_query("a+b%2Bc"), "a b+c");
        assert_eq!(decode("a+b%2fc"), "a+b/c");
    }

    #[test]
    fn what_is_malformed_stays() {
        for text in ["%", "%4", "%zz", "%+1", "%%", "a%", "%ü1"] {
            assert_eq!((decode(text), decode_strict(text)), (text.to_owned(), None));
        }
        assert_eq!(decode("%zz%41"), "%zzA");
        assert_eq!(decode("%ff"), "\u{fffd}");
        assert_eq!(decode_strict("%ff"), None);
        assert_eq!(decode_strict("a%41+"), Some("aA+".to_owned()));
    }
}

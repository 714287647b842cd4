//! The path that a backend is asked for.

/// The path after `…/proxy`, without `.`, `..` and empty parts, in one way of writing; it begins with `/`, and ends with one
/// where it did.
pub(super) fn clean(tail: &str) -> String {
    let decoded = decode(tail);
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in decoded.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut path = String::with_capacity(tail.len() + 1);
    for part in &parts {
        path.push('/');
        encode(part, &mut path);
    }
    if parts.is_empty() || decoded.ends_with(b"/") {
        path.push('/');
    }
    path
}

fn decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let hex = |byte: &u8| char::from(*byte).to_digit(16);
        match (first, tail) {
            (b'%', [high, low, after @ ..]) => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => {
                    out.push((high * 16 + low) as u8);
                    rest = after;
                }
                _ => out.push(b'%'),
            },
            (byte, _) => out.push(*byte),
        }
    }
    out
}

/// As Go writes paths.
fn encode(part: &[u8], path: &mut String) {
    for byte in part {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(byte) {
            path.push(char::from(*byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (tail, expect) in [
            ("", "/"),
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a/./b/../c//", "/a/c/"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("/a%20b/%3Fx%23", "/a%20b/%3Fx%23"),
            ("/%2e%2e/%2E%2E/x", "/x"),
            ("/a:b;c=d,e@f&g$h+i~", "/a:b;c=d,e@f&g$h+i~"),
            ("/%C3%BC%ff", "/%C3%BC%FF"),
            ("/100%", "/100%25"),
            ("/a%0d%0aHost:%20x", "/a%0D%0AHost:%20x"),
        ] {
            assert_eq!(clean(tail), expect, "{tail}");
        }
    }
}

//! The path that a backend is asked for.

use kybern_apimachinery::percent;

/// What Go leaves as it is in paths.
const KEPT: &[u8] = b"$&+,/:;=@";

/// The path after `…/proxy`, without `.`, `..` and empty parts, in one way of writing; it begins with `/`, and ends with one
/// where it did.
pub(super) fn clean(tail: &str) -> String {
    let decoded = percent::decode_bytes(tail);
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
        path.push_str(&percent::encode(part, KEPT));
    }
    if parts.is_empty() || decoded.ends_with(b"/") {
        path.push('/');
    }
    path
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

//! Links in a page, turned as the page passes: only attributes that hold URLs are looked at, all else goes through as it is
//! (`golang.org/x/net/html` and upstream's table of attributes).

use super::rewrite::Rewriter;

/// A tag longer than this passes unread.
const MAX_TAG: usize = 16 << 10;

/// Which attributes of which elements hold one URL.
const ATTRIBUTES: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is no markup.
const RAW: [&str; 8] = ["iframe", "noembed", "noframes", "script", "style", "textarea", "title", "xmp"];

#[derive(Clone, Copy)]
enum Within {
    Text,
    Comment,
    /// A declaration or an end tag: up to the next `>`.
    Markup,
    /// The content of a raw element, up to its end tag.
    Raw(&'static str),
}

/// A page on its way.
pub(super) struct Page {
    rewriter: Rewriter,
    within: Within,
    /// The beginning of what more has to come of.
    pending: Vec<u8>,
}

impl Page {
    pub(super) fn new(rewriter: Rewriter) -> Self {
        Self { rewriter, within: Within::Text, pending: Vec::new() }
    }

    /// Takes the next bytes and adds to `out` what can go on.
    pub(super) fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut buffer = std::mem::take(&mut self.pending);
        buffer.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(length) = self.step(&buffer[at..], out) {
            at += length;
        }
        buffer.drain(..at);
        self.pending = buffer;
    }

    /// What is left when the page has ended.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.pending);
    }

    /// Passes one piece; its length, or `None` when more is needed.
    fn step(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let mut pass = |length: usize| {
            out.extend_from_slice(&rest[..length]);
            Some(length).filter(|length| *length > 0)
        };
        match self.within {
            Within::Text => match rest.iter().position(|byte| *byte == b'<') {
                None => pass(rest.len()),
                Some(0) => self.tag(rest, out),
                Some(length) => pass(length),
            },
            Within::Comment => match find(rest, b"-->") {
                Some(i) => {
                    self.within = Within::Text;
                    pass(i + 3)
                }
                None => pass(rest.len().saturating_sub(2)),
            },
            Within::Markup => match rest.iter().position(|byte| *byte == b'>') {
                Some(i) => {
                    self.within = Within::Text;
                    pass(i + 1)
                }
                None => pass(rest.len()),
            },
            Within::Raw(name) => {
                let ends =
                    |window: &[u8]| window.starts_with(b"</") && window[2..].eq_ignore_ascii_case(name.as_bytes());
                let length = name.len() + 2;
                match rest.windows(length).position(ends) {
                    Some(i) => {
                        self.within = Within::Markup;
                        pass(i + length)
                    }
                    None => pass(rest.len().saturating_sub(length - 1)),
                }
            }
        }
    }

    /// Passes what begins with `<`.
    fn tag(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let mut pass = |length: usize| {
            out.extend_from_slice(&rest[..length]);
            Some(length)
        };
        match rest.get(1)? {
            b'!' if rest.len() < 4 && b"<!--".starts_with(rest) => None,
            b'!' if rest.starts_with(b"<!--") => {
                self.within = Within::Comment;
                pass(2)
            }
            b'!' | b'?' | b'/' => {
                self.within = Within::Markup;
                pass(1)
            }
            byte if byte.is_ascii_alphabetic() => match tag_length(rest) {
                Some(length) => {
                    let tag = &rest[..length];
                    let name = tag_name(tag);
                    self.turn(tag, &name, out);
                    if let Some(raw) = RAW.iter().find(|raw| **raw == name) {
                        self.within = Within::Raw(raw);
                    }
                    Some(length)
                }
                None if rest.len() > MAX_TAG => {
                    self.within = Within::Markup;
                    pass(rest.len())
                }
                None => None,
            },
            _ => pass(1),
        }
    }

    /// Passes a start tag, its URLs turned.
    fn turn(&self, tag: &[u8], name: &str, out: &mut Vec<u8>) {
        let wanted = ATTRIBUTES.iter().find(|(element, _)| *element == name).map_or(&[][..], |(_, names)| names);
        let mut copied = 0;
        if !wanted.is_empty() {
            for Attribute { key, value } in attributes(tag, 1 + name.len()) {
                if !wanted.iter().any(|w| w.as_bytes().eq_ignore_ascii_case(&tag[key.clone()])) {
                    continue;
                }
                let quoted = matches!(tag.get(value.start), Some(b'"' | b'\''));
                let inner = if quoted { value.start + 1..value.end - 1 } else { value.clone() };
                let text = tag.get(inner).and_then(|v| std::str::from_utf8(v).ok()).unwrap_or("");
                if let Some(turned) = self.rewriter.rewrite(&unescape(text)) {
                    out.extend_from_slice(&tag[copied..value.start]);
                    out.extend_from_slice(format!("\"{}\"", escape(&turned)).as_bytes());
                    copied = value.end;
                }
            }
        }
        out.extend_from_slice(&tag[copied..]);
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn tag_name(tag: &[u8]) -> String {
    let end = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>');
    let name = tag[1..].split(end).next().unwrap_or_default();
    String::from_utf8_lossy(name).to_ascii_lowercase()
}

/// How long a start tag is, with its `>`; quoted values may hold one.
fn tag_length(tag: &[u8]) -> Option<usize> {
    let (mut quote, mut before) = (None, b'<');
    for (i, byte) in tag.iter().enumerate().skip(1) {
        match (quote, byte) {
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') if before == b'=' => quote = Some(byte),
            (None, b'>') => return Some(i + 1),
            _ => {}
        }
        if !byte.is_ascii_whitespace() {
            before = *byte;
        }
    }
    None
}

struct Attribute {
    key: std::ops::Range<usize>,
    /// With its quotes.
    value: std::ops::Range<usize>,
}

/// The attributes that have a value, from `at` on in a whole tag.
fn attributes(tag: &[u8], mut at: usize) -> Vec<Attribute> {
    let mut found = Vec::new();
    let until = |from: usize, stops: &dyn Fn(u8) -> bool| {
        tag[from..].iter().position(|byte| stops(*byte)).map_or(tag.len(), |i| from + i)
    };
    let space = |byte: u8| byte.is_ascii_whitespace();
    loop {
        let start = until(at, &|b| !space(b) && b != b'/');
        if start >= tag.len() || tag[start] == b'>' {
            return found;
        }
        let end = until(start + 1, &|b| space(b) || matches!(b, b'=' | b'/' | b'>'));
        at = until(end, &|b| !space(b));
        if tag.get(at) != Some(&b'=') {
            at = end;
            continue;
        }
        let from = until(at + 1, &|b| !space(b));
        let to = match tag.get(from) {
            Some(quote @ (b'"' | b'\'')) => (until(from + 1, &|b| b == *quote) + 1).min(tag.len()),
            _ => until(from, &|b| space(b) || b == b'>'),
        };
        if from < tag.len() {
            found.push(Attribute { key: start..end, value: from..to });
        }
        at = to;
    }
}

const ENTITIES: [(&str, char); 5] = [("amp", '&'), ("lt", '<'), ("gt", '>'), ("quot", '"'), ("apos", '\'')];

/// Undoes the references that URLs are written with.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(i) = rest.find('&') {
        out.push_str(&rest[..i]);
        rest = &rest[i..];
        let reference = rest[1..].split_once(';').and_then(|(name, after)| {
            let number = name.strip_prefix('#').and_then(|n| match n.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok(),
                None => n.parse().ok(),
            });
            let named = ENTITIES.iter().find(|(entity, _)| *entity == name).map(|(_, c)| *c);
            Some((named.or_else(|| number.and_then(char::from_u32))?, after))
        });
        match reference {
            Some((meant, after)) => {
                out.push(meant);
                rest = after;
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&#34;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(page: &str, expect: &str) {
        let rewriter =
            Rewriter { base: "/x/proxy".to_owned(), backend: "10.0.0.1:80".to_owned(), host: "front".to_owned() };
        for size in [1, 3, 1000] {
            let (mut html, mut out) = (Page::new(rewriter.clone()), Vec::new());
            for chunk in page.as_bytes().chunks(size) {
                html.take(chunk, &mut out);
            }
            html.finish(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expect, "{page} in chunks of {size}");
        }
    }

    #[test]
    fn links_are_turned() {
        check(r#"<a href="/rewriteme">test</a>"#, r#"<a href="/x/proxy/rewriteme">test</a>"#);
        check("<A class=a HREF = '/a' >", r#"<A class=a HREF = "/x/proxy/a" >"#);
        check("<img src=/a.png/><p>", r#"<img src="/x/proxy/a.png/"><p>"#);
        check(
            r#"<form method="post" action="http://10.0.0.1:80/a?b=1&amp;c=2">"#,
            r#"<form method="post" action="/x/proxy/a?b=1&amp;c=2">"#,
        );
        check(r#"<a title="a > b" href="&#x2F;a">"#, r#"<a title="a > b" href="/x/proxy/a">"#);
        check(
            r#"<script src="/a.js">if (a < b) "<a href='/b'>"</script><a href="/c">"#,
            r#"<script src="/x/proxy/a.js">if (a < b) "<a href='/b'>"</script><a href="/x/proxy/c">"#,
        );
    }

    #[test]
    fn all_else_stays() {
        for page in [
            "",
            "text < > & \"'",
            "<!DOCTYPE html><!-- <a href='/a'> --><?php <a?>",
            "<a href='b'>",
            "<a href=\"//other/a\">",
            "<p data=\"/a\" href=\"/a\">",
            "<a href>",
            "<a href=",
            "<a href=\"/a",
            "<1 a=\"/b\">",
            "<!",
            "<",
            "</a",
            "<!-->x<b>",
            "<title><a href=\"/a\"></title>",
            "<style>a</styl",
            "<a href=\"mailto:a@b\">",
            "<a =\"/a\">",
            "<a / / href >",
        ] {
            check(page, page);
        }
    }

    #[test]
    fn a_tag_without_an_end_is_not_kept() {
        let rewriter = Rewriter { base: String::new(), backend: String::new(), host: String::new() };
        let (mut html, mut out) = (Page::new(rewriter), Vec::new());
        for _ in 0..64 {
            html.take(&[b'<', b'a'].repeat(4096), &mut out);
            assert!(html.pending.len() <= MAX_TAG + 8192, "{}", html.pending.len());
        }
    }
}

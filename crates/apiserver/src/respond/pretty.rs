//! JSON for people: compact JSON, as it comes in pieces, with line ends and indentation as Go's and `serde_json`'s.

const INDENT: &[u8] = b"  ";

/// Where in a document it stands.
#[derive(Default)]
pub(super) struct Indenter {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Whether a list or map has just begun, which may turn out to be empty.
    opened: bool,
}

impl Indenter {
    pub(super) fn feed(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(piece.len() * 3 / 2);
        for &byte in piece {
            if self.in_string {
                out.push(byte);
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                // The end of the document is all that remains of space.
                b'\n' if self.depth == 0 => out.push(byte),
                b' ' | b'\n' | b'\t' | b'\r' => {}
                b'{' | b'[' => {
                    self.begin(&mut out);
                    out.push(byte);
                    self.depth += 1;
                    self.opened = true;
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if !std::mem::take(&mut self.opened) {
                        self.line(&mut out);
                    }
                    out.push(byte);
                }
                b',' => {
                    out.push(byte);
                    self.line(&mut out);
                }
                b':' => out.extend_from_slice(b": "),
                _ => {
                    self.begin(&mut out);
                    out.push(byte);
                    self.in_string = byte == b'"';
                }
            }
        }
        out
    }

    /// Before the first thing in a list or map.
    fn begin(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.opened) {
            self.line(out);
        }
    }

    fn line(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(INDENT, self.depth).flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::{Value, json};

    #[test]
    fn it_is_what_serde_writes_wherever_it_is_cut() {
        let value: Value = json!({
            "a": [], "b": {}, "c": [1, -2.5, true, null, "x,y:{}[]\"\\", [[], {}], [{"d": "é\n"}]], "e": {"f": {"g": "h"}},
        });
        let (compact, expect) = (value.to_string(), serde_json::to_string_pretty(&value).unwrap());
        for size in [1, 2, 3, 7, 1000] {
            let mut indenter = Indenter::default();
            let got: Vec<u8> = compact.as_bytes().chunks(size).flat_map(|piece| indenter.feed(piece)).collect();
            assert_eq!(String::from_utf8(got).unwrap(), expect, "in pieces of {size}");
        }
    }
}

//! PEM armour: `-----BEGIN LABEL-----`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A block of a PEM file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub label: String,
    pub der: Vec<u8>,
}

/// Every block of a text, in order. What stands between blocks is ignored, as RFC 7468 allows.
pub fn decode(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("-----BEGIN ") {
        let after = &rest[start + 11..];
        let label_end = after.find("-----").ok_or("a BEGIN line does not end")?;
        let label = &after[..label_end];
        let end_line = format!("-----END {label}-----");
        let body = &after[label_end + 5..];
        let end = body.find(&end_line).ok_or_else(|| format!("the block {label} has no END line"))?;
        let mut base64: String = String::with_capacity(end);
        // Headers such as `Proc-Type:` precede an empty line in the old encrypted form, which is not supported.
        for line in body[..end].lines().map(str::trim) {
            if line.contains(':') {
                return Err(format!("the block {label} is encrypted"));
            }
            base64.push_str(line);
        }
        let der = STANDARD.decode(base64).map_err(|e| format!("the block {label} is not base64: {e}"))?;
        blocks.push(Block { label: label.to_owned(), der });
        rest = &body[end + end_line.len()..];
    }
    Ok(blocks)
}

/// One block, with lines of 64 characters.
pub fn encode(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_damage_is_named() {
        let text = format!("comment\n{}{}", encode("A", &[1; 100]), encode("B C", b"x"));
        let blocks = decode(&text).unwrap();
        assert_eq!(blocks[0], Block { label: "A".into(), der: vec![1; 100] });
        assert_eq!(blocks[1], Block { label: "B C".into(), der: b"x".to_vec() });
        assert!(decode("").unwrap().is_empty());
        assert!(decode("-----BEGIN A-----\nAQ==\n").unwrap_err().contains("no END"));
        assert!(decode("-----BEGIN A-----\n!!\n-----END A-----\n").unwrap_err().contains("base64"));
    }
}

//! Passes over lists and objects of JSON, 64 bytes at once: what most of the time goes to when many objects are read.

const BLOCK: usize = 64;
/// The bit by which brackets of lists differ from those of objects.
const SQUARE: u8 = b'{' ^ b'[';

/// Behind the bracket that closes the one at a place. `None` where there is none.
pub(super) fn end_of_container(json: &[u8], start: usize) -> Option<usize> {
    let mut padded = [b' '; BLOCK];
    let (mut at, mut depth) = (start, 0);
    // Whether the block before ended within a string, and with a backslash that concerns the first byte of this one.
    let (mut inside, mut escaping) = (false, false);
    while at < json.len() {
        let block = match json[at..].first_chunk::<BLOCK>() {
            Some(block) => block,
            None => {
                let rest = &json[at..];
                padded[..rest.len()].copy_from_slice(rest);
                &padded
            }
        };
        let backslashes = which(block, |byte| byte == b'\\');
        let mut quotes = which(block, |byte| byte == b'"');
        if backslashes != 0 || escaping {
            quotes &= !escaped(backslashes, &mut escaping);
        }
        let strings = between(quotes) ^ if inside { u64::MAX } else { 0 };
        inside = strings >> (BLOCK - 1) == 1;
        let opening = which(block, |byte| byte | SQUARE == b'{') & !strings;
        let closing = which(block, |byte| byte | SQUARE == b'}') & !strings;
        if depth > closing.count_ones() {
            depth = depth + opening.count_ones() - closing.count_ones();
        } else {
            let mut brackets = opening | closing;
            while brackets != 0 {
                let place = brackets.trailing_zeros();
                brackets &= brackets - 1;
                if opening >> place & 1 == 1 {
                    depth += 1;
                    continue;
                }
                depth -= 1;
                if depth == 0 {
                    return Some(at + place as usize + 1);
                }
            }
        }
        at += BLOCK;
    }
    None
}

/// A bit for each byte, the first one lowest. Compiled to instructions that look at many bytes at once.
fn which(block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> u64 {
    let found = block.map(|byte| u8::from(is(byte)));
    let (eights, _) = found.as_chunks::<8>();
    // Each product moves the low bits of eight bytes into its highest byte.
    let bits = eights.iter().map(|eight| u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56);
    bits.rev().fold(0, |all, bits| all << 8 | bits)
}

/// The bytes that follow a backslash which is not itself one of them.
fn escaped(mut backslashes: u64, escaping: &mut bool) -> u64 {
    let mut all = u64::from(std::mem::take(escaping));
    backslashes &= !all;
    while backslashes != 0 {
        let next = (backslashes & backslashes.wrapping_neg()) << 1;
        *escaping |= next == 0;
        all |= next;
        backslashes &= (backslashes - 1) & !next;
    }
    all
}

/// From each quote on, itself included, up to the next.
fn between(mut quotes: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        quotes ^= quotes << shift;
    }
    quotes
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::{Value, json};
    use proptest::prelude::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let text = r#"[a-z{}\[\]"\\\\,: é]{0,70}"#;
        let leaf = prop_oneof![text.prop_map(Value::from), any::<i64>().prop_map(Value::from), Just(Value::Null)];
        leaf.prop_recursive(6, 60, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map(text, inner, 0..8).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_end_is_where_a_parser_finds_it(value in any_json(), before in 0usize..70, after in r#"[\]}"\\x]{0,70}"#) {
            let inner = json!([value]).to_string();
            let json = [" ".repeat(before), inner.clone(), after].concat();
            prop_assert_eq!(end_of_container(json.as_bytes(), before), Some(before + inner.len()));
            for cut in 0..inner.len() {
                prop_assert_eq!(end_of_container(&json.as_bytes()[..before + cut], before), None);
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let json = [b"{".as_slice(), &bytes].concat();
            prop_assert!(end_of_container(&json, 0).is_none_or(|end| end <= json.len()));
        }
    }

    #[test]
    fn escapes_go_on_in_the_next_block() {
        for count in 0..140 {
            let json = format!(r#"["{}{}]"]"#, "\\".repeat(count), if count % 2 == 1 { "\"" } else { "" });
            assert_eq!(end_of_container(json.as_bytes(), 0), Some(json.len()), "{count}");
        }
    }
}

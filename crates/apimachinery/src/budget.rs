//! How large a tree may be. One budget holds for whatever makes trees of what others send: bodies of every encoding, patches
//! while they are applied, conversions, admission. What is within it can be walked, copied and dropped by recursion, and
//! read back from what was written of it.

use crate::Value;

/// Bounds of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Lists and maps within each other; an empty one is one.
    pub depth: usize,
    /// Values: lists, maps and what they hold.
    pub nodes: usize,
}

impl Budget {
    /// What a client may send, and what a patch may make.
    pub const REQUEST: Self = Self { depth: 110, nodes: 250_000 };
    /// What is stored: the managed fields mirror an object four levels deeper down, and lists, tables and watch events wrap
    /// it in up to five more. Readers of JSON stop at [`Budget::JSON_DEPTH`].
    pub const STORED: Self = Self { depth: 120, nodes: 500_000 };
    /// The depth that `serde_json` reads.
    pub const JSON_DEPTH: usize = 127;

    /// Measures a tree. Stops as soon as it is over the budget, and needs no stack.
    pub fn check(&self, tree: &Value) -> Result<Size, OverBudget> {
        let mut size = Size::default();
        let mut open = vec![(tree, 1)];
        while let Some((value, depth)) = open.pop() {
            size.nodes += 1;
            size.bytes += own_bytes(value);
            let is_container = match value {
                Value::Array(list) => {
                    open.extend(list.iter().map(|item| (item, depth + 1)));
                    true
                }
                Value::Object(map) => {
                    size.bytes += map.keys().map(|key| key.len() + 3).sum::<usize>();
                    open.extend(map.values().map(|item| (item, depth + 1)));
                    true
                }
                _ => false,
            };
            if is_container {
                size.depth = size.depth.max(depth);
            }
            self.allows(size)?;
        }
        Ok(size)
    }

    /// Measures JSON before a tree is made of it. Malformed JSON is not this function's concern: it counts what brackets and
    /// commas it finds outside of strings, and an empty list or map as two values.
    pub fn check_json(&self, json: &[u8]) -> Result<Size, OverBudget> {
        let mut size = Size { nodes: 1, bytes: json.len(), depth: 0 };
        let (mut depth, mut at) = (0usize, 0);
        while let Some(byte) = json.get(at) {
            match byte {
                b'"' => at = end_of_string(json, at),
                b'{' | b'[' => {
                    depth += 1;
                    size.depth = size.depth.max(depth);
                    size.nodes += 1;
                    self.allows(size)?;
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                b',' => {
                    size.nodes += 1;
                    self.allows(size)?;
                }
                _ => {}
            }
            at += 1;
        }
        Ok(size)
    }

    fn allows(&self, size: Size) -> Result<(), OverBudget> {
        match size {
            Size { depth, .. } if depth > self.depth => Err(OverBudget::Depth(self.depth)),
            Size { nodes, .. } if nodes > self.nodes => Err(OverBudget::Nodes(self.nodes)),
            _ => Ok(()),
        }
    }
}

/// What a tree measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub depth: usize,
    pub nodes: usize,
    /// About its length as JSON.
    pub bytes: usize,
}

/// Which bound a tree breaks, and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverBudget {
    #[error("json: exceeded max depth: lists and maps may be nested {0} deep")]
    Depth(usize),
    #[error("Request entity too large: an object may hold {0} values")]
    Nodes(usize),
}

impl From<OverBudget> for crate::ApiError {
    fn from(over: OverBudget) -> Self {
        match over {
            OverBudget::Depth(_) => Self::bad_request(over.to_string()),
            OverBudget::Nodes(_) => Self::new(crate::Reason::RequestEntityTooLarge, over.to_string()),
        }
    }
}

fn own_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(true) => 5,
        Value::Bool(false) | Value::Number(_) => 6,
        Value::String(text) => text.len() + 3,
        Value::Array(_) | Value::Object(_) => 3,
    }
}

/// The place of a string's closing quote; the end where there is none.
fn end_of_string(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn nested(depth: usize) -> Value {
        (0..depth).fold(Value::Null, |inner, _| json!({"a": inner}))
    }

    #[test]
    fn a_tree_and_its_json_measure_alike() {
        for (tree, depth, nodes) in [
            (json!(1), 0, 1),
            (json!({"a": "{[,\\\""}), 1, 2),
            (json!([1, [2, {"b": [3]}], "]"]), 4, 8),
            (nested(40), 40, 41),
        ] {
            let size = Budget::REQUEST.check(&tree).unwrap();
            assert_eq!((size.depth, size.nodes), (depth, nodes), "{tree}");
            let scanned = Budget::REQUEST.check_json(tree.to_string().as_bytes()).unwrap();
            assert_eq!((scanned.depth, scanned.nodes), (depth, nodes), "{tree}");
        }
    }

    #[test]
    fn each_bound_holds() {
        let budget = Budget::REQUEST;
        assert!(budget.check(&nested(budget.depth)).is_ok());
        assert_eq!(budget.check(&nested(budget.depth + 1)), Err(OverBudget::Depth(budget.depth)));
        let text = |n: usize| vec![b'['; n];
        assert!(budget.check_json(&text(budget.depth)).is_ok());
        assert_eq!(budget.check_json(&text(3 << 20)), Err(OverBudget::Depth(budget.depth)));
        let wide = |n: usize| Value::Array(vec![Value::Null; n]);
        assert!(budget.check(&wide(budget.nodes - 1)).is_ok());
        assert_eq!(budget.check(&wide(budget.nodes)), Err(OverBudget::Nodes(budget.nodes)));
        assert!(budget.check_json(wide(budget.nodes - 1).to_string().as_bytes()).is_ok());
        assert!(budget.check_json(wide(budget.nodes).to_string().as_bytes()).is_err());
        for odd in [&b"\""[..], b"\"\\", b"}}}]", b"", b"{\"a\\\""] {
            assert!(budget.check_json(odd).is_ok());
        }
    }

    /// What is stored can be read, in whatever it is wrapped.
    #[test]
    fn what_is_stored_can_be_read() {
        let deepest = nested(Budget::STORED.depth);
        let wrapped = (0..5).fold(deepest, |inner, _| json!([inner]));
        assert!(serde_json::from_str::<Value>(&wrapped.to_string()).is_ok());
        assert!(serde_json::from_str::<Value>(&nested(Budget::JSON_DEPTH).to_string()).is_ok());
        assert!(serde_json::from_str::<Value>(&nested(Budget::JSON_DEPTH + 1).to_string()).is_err());
        // The managed fields of the deepest that may be sent.
        const { assert!(Budget::REQUEST.depth + 4 <= Budget::STORED.depth) };
    }
}

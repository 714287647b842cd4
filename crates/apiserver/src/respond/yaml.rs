//! A list in YAML, one item after the other: a tree of the whole would be many times as large as what is stored.

use bytes::Bytes;
use kybern_apimachinery::{ApiError, Value};

/// From a list's JSON up to its first item, and the JSON of each item. The items stand at the indentation of their field's name.
pub(super) fn pieces<I: Iterator<Item = [Option<Bytes>; 2]> + Send>(
    head: &str,
    items: I,
) -> Result<impl Iterator<Item = Bytes> + Send + use<I>, ApiError> {
    let mut list: Value = serde_json::from_str(&format!("{head}]}}")).map_err(ApiError::internal)?;
    let field = head.rsplit('"').nth(1).unwrap_or_default().to_owned();
    list.as_object_mut().and_then(|list| list.remove(&field));
    let head = serde_saphyr::to_string(&list).map_err(ApiError::internal)?;
    let mut items = items.map(item).peekable();
    let empty = if items.peek().is_none() { " []" } else { "" };
    Ok(std::iter::once(Bytes::from(format!("{head}{field}:{empty}\n"))).chain(items))
}

fn item(pieces: [Option<Bytes>; 2]) -> Bytes {
    let json: Vec<u8> = pieces.into_iter().flatten().flatten().collect();
    let written = serde_json::from_slice::<Value>(&json).ok().and_then(|value| serde_saphyr::to_string(&[value]).ok());
    // JSON is YAML, too, in one line.
    written.map_or_else(|| [b"- ", &json[..], b"\n"].concat().into(), Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn written(head: &str, items: &[Value]) -> String {
        let items: Vec<_> = items.iter().map(|item| [Some(Bytes::from(item.to_string())), None]).collect();
        let pieces = pieces(head, items.into_iter()).unwrap().collect::<Vec<_>>();
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[test]
    fn lists_read_back_as_they_were() {
        let head = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":["#;
        let items = [
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "annotations": {"text": "two\nlines: {}\n"}}}),
            json!({"spec": {"args": ["- x", "", "no", "1e3", "#"], "empty": {}, "none": [], "nested": [[1], [{}]]}}),
            json!({}),
        ];
        for items in [&items[..], &[]] {
            let text = written(head, items);
            let read = kybern_schema::decode::yaml_to_value(text.as_bytes()).unwrap_or_else(|e| panic!("{e}: {text}"));
            let whole = json!({
                "kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"}, "items": items,
            });
            assert_eq!(read, whole, "{text}");
        }
        assert!(written(head, &items).contains("\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata:\n"));
    }
}

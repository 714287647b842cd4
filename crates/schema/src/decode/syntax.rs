//! Malformed JSON in the words of Go's decoder, which clients and scripts know.

use serde_json::error::Category;

/// Go's text for what serde found wrong.
pub(super) fn message(json: &[u8], error: &serde_json::Error) -> String {
    if error.classify() == Category::Eof {
        return "unexpected end of JSON input".to_owned();
    }
    let text = error.to_string();
    let Some(context) = CONTEXTS.iter().find(|(serde, _)| text.starts_with(serde)).map(|(_, go)| go) else {
        return text;
    };
    let line_start =
        json.split_inclusive(|b| *b == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len).sum::<usize>();
    let found = json.get(line_start + error.column().saturating_sub(1)).copied().unwrap_or(b' ');
    format!("invalid character {:?} {context}", char::from(found))
}

/// The start of serde's message, and Go's word for the same place.
const CONTEXTS: [(&str, &str); 9] = [
    ("expected value", "looking for beginning of value"),
    ("expected ident", "looking for beginning of value"),
    ("key must be a string", "looking for beginning of object key string"),
    ("trailing comma", "looking for beginning of object key string"),
    ("expected `:`", "after object key"),
    ("expected `,` or `}`", "after object key:value pair"),
    ("expected `,` or `]`", "after array element"),
    ("trailing characters", "after top-level value"),
    ("control character", "in string literal"),
];

//! What a client is told besides the answer: `Warning` headers (RFC 7234, section 5.5), on refusals, too.

use http::{HeaderValue, Response};
use parking_lot::Mutex;

use crate::Body;

/// The warnings of one request, each once, in the order in which they came up.
#[derive(Debug, Default)]
pub struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    pub fn add(&self, text: String) {
        let mut texts = self.0.lock();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }

    pub(crate) fn extend(&self, texts: impl IntoIterator<Item = String>) {
        texts.into_iter().for_each(|text| self.add(text));
    }

    /// Adds the headers.
    pub(crate) fn write(&self, response: &mut Response<Body>) {
        for warning in &*self.0.lock() {
            let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                response.headers_mut().append(http::header::WARNING, value);
            }
        }
    }
}

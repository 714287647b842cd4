//! What a client is told besides the answer: `Warning` headers (RFC 7234, section 5.5), on refusals, too.

use http::{HeaderValue, Response};
use parking_lot::Mutex;

use crate::Body;

/// Characters of all warnings of a request, upstream's bound: beyond it each is cut to [`CUT`], and what is still too much is
/// left out. Requests decide how many there are, and servers and clients hold only so many headers.
const TOTAL: usize = 4096;
const CUT: usize = 256;

/// The warnings of one request, each once, in the order in which they came up.
#[derive(Debug, Default)]
pub struct Warnings(Mutex<Texts>);

#[derive(Debug, Default)]
struct Texts {
    all: Vec<String>,
    /// Characters of all.
    length: usize,
    is_cut: bool,
}

impl Texts {
    fn add(&mut self, mut text: String) {
        if text.is_empty() || (self.is_cut && self.length >= TOTAL) {
            return;
        }
        if self.is_cut {
            cut(&mut text);
        }
        if self.all.contains(&text) {
            return;
        }
        self.length += text.chars().count();
        self.all.push(text);
        if self.length > TOTAL && !self.is_cut {
            self.is_cut = true;
            self.all.iter_mut().for_each(cut);
            self.length = self.all.iter().map(|text| text.chars().count()).sum();
        }
    }
}

fn cut(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(CUT) {
        text.truncate(end);
    }
}

impl Warnings {
    pub fn add(&self, text: String) {
        self.0.lock().add(text);
    }

    pub(crate) fn extend(&self, texts: impl IntoIterator<Item = String>) {
        texts.into_iter().for_each(|text| self.add(text));
    }

    /// Adds the headers.
    pub(crate) fn write(&self, response: &mut Response<Body>) {
        for warning in &self.0.lock().all {
            let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                response.headers_mut().append(http::header::WARNING, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_bounded() {
        let sent = |warnings: &Warnings| {
            let mut response = Response::new(crate::body::empty());
            warnings.write(&mut response);
            response.headers().get_all(http::header::WARNING).iter().count()
        };
        let warnings = Warnings::default();
        (0..3).for_each(|_| warnings.add("the same".to_owned()));
        warnings.add("\u{e9}".repeat(4000));
        assert_eq!((sent(&warnings), warnings.0.lock().all[1].chars().count()), (2, 4000));
        // One more than fits: all are cut, and then there is room for some.
        warnings.add("\u{e9}".repeat(300));
        assert_eq!(warnings.0.lock().all[1].chars().count(), CUT);
        (0..100_000).for_each(|n| warnings.add(format!("line {n}: key \"k\" already set in map")));
        let all = warnings.0.lock().all.len();
        assert!((100..200).contains(&all), "{all}");
    }
}

//! A watch stream: one JSON event per line.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use kybern_apimachinery::{ApiError, Value};

use crate::split::members;
use crate::{Body, ClientError, TransportError};

/// The longest event that is accepted, bytes. The largest object is a fraction of it.
const LINE_LIMIT: usize = 16 << 20;

/// What happened to an object. The bytes are the object's JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    Added(Bytes),
    Modified(Bytes),
    /// The object as it last was.
    Deleted(Bytes),
    /// All up to `resource_version` has been sent.
    Bookmark {
        resource_version: String,
        initial_events_end: bool,
    },
}

/// The events of one watch request.
pub struct Watcher {
    body: Body,
    lines: Lines,
}

impl Watcher {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, lines: Lines::default() }
    }

    /// The next event; `None` when the server ended the watch. A server's `ERROR` event is an [`ClientError::Api`].
    pub async fn next(&mut self) -> Option<Result<WatchEvent, ClientError>> {
        loop {
            if let Some(line) = self.lines.next() {
                return Some(parse_event(&line));
            }
            match self.body.frame().await? {
                Ok(frame) => {
                    let Ok(data) = frame.into_data() else { continue };
                    if let Err(length) = self.lines.push(data) {
                        return Some(Err(ClientError::Decode(format!("a watch event is longer than {length} bytes"))));
                    }
                }
                Err(cause) => return Some(Err(TransportError::new("the watch broke off", cause).into())),
            }
        }
    }
}

/// Cuts a stream of chunks into lines. A chunk of whole lines is not copied.
#[derive(Default)]
struct Lines {
    /// An unfinished line from earlier chunks.
    partial: BytesMut,
    chunk: Bytes,
}

impl Lines {
    fn push(&mut self, data: Bytes) -> Result<(), usize> {
        debug_assert!(self.chunk.is_empty(), "the last chunk was drained");
        if self.partial.len() + data.len() > LINE_LIMIT && !data.contains(&b'\n') {
            return Err(LINE_LIMIT);
        }
        self.chunk = data;
        Ok(())
    }

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.chunk) else {
                self.partial.extend_from_slice(&self.chunk);
                self.chunk.clear();
                return None;
            };
            let head = self.chunk.split_to(end);
            self.chunk.advance(1);
            let line = if self.partial.is_empty() {
                head
            } else {
                self.partial.extend_from_slice(&head);
                self.partial.split().freeze()
            };
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
    }
}

fn parse_event(line: &Bytes) -> Result<WatchEvent, ClientError> {
    let bad = || {
        let text = String::from_utf8_lossy(&line[..line.len().min(200)]);
        ClientError::Decode(format!("not a watch event: {text}"))
    };
    let (mut kind, mut object) = (&b""[..], None);
    for (key, value) in members(line).map_err(|_| bad())? {
        match key {
            b"type" => kind = value,
            b"object" => object = Some(line.slice_ref(value)),
            _ => {}
        }
    }
    let object = object.ok_or_else(bad)?;
    Ok(match kind {
        b"\"ADDED\"" => WatchEvent::Added(object),
        b"\"MODIFIED\"" => WatchEvent::Modified(object),
        b"\"DELETED\"" => WatchEvent::Deleted(object),
        b"\"BOOKMARK\"" => {
            let object: Value = serde_json::from_slice(&object).map_err(|_| bad())?;
            let metadata = &object["metadata"];
            WatchEvent::Bookmark {
                resource_version: metadata["resourceVersion"].as_str().unwrap_or("").to_owned(),
                initial_events_end: metadata["annotations"]["k8s.io/initial-events-end"] == "true",
            }
        }
        b"\"ERROR\"" => {
            let status: Value = serde_json::from_slice(&object).map_err(|_| bad())?;
            let code = status["code"].as_u64().and_then(|c| u16::try_from(c).ok()).unwrap_or(500);
            return Err(ApiError::from_response(code, &object).into());
        }
        _ => return Err(bad()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_across_chunks() {
        let text = b"one\ntwo\n\nthree\nfo";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut got = Vec::new();
            for chunk in text.chunks(size) {
                lines.push(Bytes::copy_from_slice(chunk)).unwrap();
                while let Some(line) = lines.next() {
                    got.push(line);
                }
            }
            assert_eq!(got, ["one", "two", "three"], "chunks of {size}");
        }
    }

    #[test]
    fn endless_lines_are_refused() {
        let mut lines = Lines::default();
        let chunk = Bytes::from(vec![b'a'; LINE_LIMIT / 2 + 1]);
        lines.push(chunk.clone()).unwrap();
        assert_eq!(lines.next(), None);
        assert!(lines.push(chunk).is_err());
    }

    #[test]
    fn events() {
        let parse = |text: &'static str| parse_event(&Bytes::from_static(text.as_bytes()));
        assert_eq!(
            parse(r#"{"type":"ADDED","object":{"a":1}}"#).unwrap(),
            WatchEvent::Added(Bytes::from_static(b"{\"a\":1}"))
        );
        let end = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        assert_eq!(
            parse(end).unwrap(),
            WatchEvent::Bookmark { resource_version: "7".into(), initial_events_end: true }
        );
        let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#;
        assert!(parse(gone).unwrap_err().is_expired());
        for bad in ["{}", "x", r#"{"type":"ODD","object":{}}"#, r#"{"type":"ADDED"}"#] {
            assert!(matches!(parse_event(&Bytes::from(bad)), Err(ClientError::Decode(_))), "{bad}");
        }
    }
}

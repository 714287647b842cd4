//! What the audit log is to say of a request.

use std::collections::BTreeMap;

use kybern_apimachinery::ApiError;
use parking_lot::Mutex;

/// One request's record, to which its stages and admission add.
#[derive(Default)]
pub struct Record(Mutex<Event>);

#[derive(Default)]
struct Event {
    id: String,
    annotations: BTreeMap<String, String>,
    refusal: Option<ApiError>,
}

impl Record {
    pub(crate) fn name(&self, id: &str) {
        id.clone_into(&mut self.0.lock().id);
    }

    /// The request's name, as `Audit-Id` tells it.
    pub fn id(&self) -> String {
        self.0.lock().id.clone()
    }

    /// Adds an annotation. The first value of a key stands; another one is logged and left out.
    pub fn annotate(&self, key: &str, value: &str) {
        let mut event = self.0.lock();
        match event.annotations.get(key) {
            None => drop(event.annotations.insert(key.to_owned(), value.to_owned())),
            Some(known) if known == value => {}
            Some(known) => {
                tracing::warn!(
                    key,
                    value,
                    known,
                    id = event.id,
                    "an audit annotation was already set to something else"
                );
            }
        }
    }

    /// Tells how the request was refused.
    pub(crate) fn ended(&self, error: &ApiError) {
        self.0.lock().refusal = Some(error.clone());
    }
}

//! What a request holds until the last of its work ends: a seat among the requests in flight, its line in the audit log.

use std::sync::Arc;

use parking_lot::Mutex;

/// Shared by everything that works for one request: its stages, a write that runs on when the client has gone, and the body
/// of its answer. When the last of them is done, what is held is dropped, in the order in which it was taken.
#[derive(Clone, Default)]
pub struct Held(Arc<Mutex<Vec<Box<dyn Send>>>>);

impl Held {
    pub(crate) fn keep(&self, guard: impl Send + 'static) {
        self.0.lock().push(Box::new(guard));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

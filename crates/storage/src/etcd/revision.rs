//! The current revision for everybody who asks: one request at a time, and each serves all that came before it was sent.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Inner;
use crate::{Revision, StorageError};

type Answer = oneshot::Sender<Result<Revision, StorageError>>;

#[derive(Default)]
pub(super) struct Coalesced(Mutex<State>);

#[derive(Default)]
struct State {
    asking: bool,
    waiting: Vec<Answer>,
}

pub(super) async fn current(inner: &Arc<Inner>) -> Result<Revision, StorageError> {
    let (answer, answered) = oneshot::channel();
    let starts = {
        let mut state = inner.revision.0.lock();
        state.waiting.push(answer);
        !std::mem::replace(&mut state.asking, true)
    };
    if starts {
        // On a task of its own: whoever asks first may go away before the others have their answer.
        tokio::spawn(serve(inner.clone()));
    }
    answered.await.unwrap_or(Err(StorageError::Closed))
}

async fn serve(inner: Arc<Inner>) {
    loop {
        let waiting = {
            let mut state = inner.revision.0.lock();
            if state.waiting.is_empty() {
                state.asking = false;
                return;
            }
            std::mem::take(&mut state.waiting)
        };
        let revision = inner.current_revision().await;
        for answer in waiting {
            let _ = answer.send(revision.clone());
        }
    }
}

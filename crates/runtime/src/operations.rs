//! Calls that run to their end, whether or not their caller waits for it: what makes or removes things is never dropped
//! half-way.

use kybern_cri::CriError;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// The calls under way. They end with the runtime, as in a crash.
#[derive(Default)]
pub(crate) struct Operations(Mutex<JoinSet<()>>);

impl Operations {
    /// Runs `work` to its end; the answer may be waited for or not.
    pub(crate) async fn whole<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, CriError>> + Send + 'static,
    ) -> Result<T, CriError> {
        let (sender, receiver) = oneshot::channel();
        self.spawn(async move {
            let _ = sender.send(work.await);
        });
        receiver.await.map_err(|_| CriError::Internal("the call did not come to its end".into()))?
    }

    /// Runs `work` beside everything else.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.0.lock();
        while running.try_join_next().is_some() {}
        running.spawn(work);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_dropped_call_goes_on() {
        let operations = Operations::default();
        let (begin, done) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let (begun, finished) = (begin.clone(), done.clone());
        let mut call = Box::pin(operations.whole(async move {
            begun.notified().await;
            finished.notify_one();
            Ok(())
        }));
        assert!(futures_util::FutureExt::now_or_never(&mut call).is_none());
        drop(call);
        begin.notify_one();
        done.notified().await;
        assert_eq!(operations.whole(async { Ok(1) }).await.unwrap(), 1);
    }
}

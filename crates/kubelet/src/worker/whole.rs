//! What must not be left half-done: parts of steps that run to their end when the step is dropped.

use tokio::sync::watch;

/// The parts under way of one pod's steps.
#[derive(Clone, Default)]
pub struct Whole {
    running: watch::Sender<usize>,
    /// The pod is on its way out: what only makes more of it may be left out.
    leaving: watch::Sender<bool>,
}

struct Guard(watch::Sender<usize>);

impl Guard {
    fn new(running: &watch::Sender<usize>) -> Self {
        running.send_modify(|count| *count += 1);
        Self(running.clone())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Whole {
    /// Runs `work` to its end.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, String> {
        let guard = Guard::new(&self.running);
        let task = tokio::spawn(async move {
            let _guard = guard;
            work.await
        });
        task.await.map_err(|error| error.to_string())
    }

    /// Runs `work`, which blocks, to its end.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        let guard = Guard::new(&self.running);
        let task = tokio::task::spawn_blocking(move || {
            let _guard = guard;
            work()
        });
        task.await.map_err(|error| error.to_string())
    }

    pub fn leave(&self) {
        self.leaving.send_replace(true);
    }

    pub fn is_leaving(&self) -> bool {
        *self.leaving.borrow()
    }

    pub fn is_idle(&self) -> bool {
        *self.running.borrow() == 0
    }

    /// Waits until nothing is under way.
    pub async fn idle(&self) {
        // The sender lives in self, so the wait cannot fail.
        let _ = self.running.subscribe().wait_for(|count| *count == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_is_dropped_goes_on_and_is_waited_for() {
        let whole = Whole::default();
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        let mut step = Box::pin(whole.run(held));
        assert!(step.as_mut().now_or_never().is_none());
        drop(step);
        assert!(!whole.is_idle() && whole.idle().now_or_never().is_none());
        release.send(()).unwrap();
        whole.idle().await;
        assert_eq!(whole.blocking(|| 7).await, Ok(7));
    }
}

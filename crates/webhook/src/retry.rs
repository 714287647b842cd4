//! Repeating calls, as upstream's webhooks of files do.

use std::time::Duration;

use crate::CallError;

/// Waits that grow from one attempt to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    pub initial: Duration,
    pub factor: f64,
    /// By what part of itself a wait may be longer.
    pub jitter: f64,
    /// How often is tried, the first time included.
    pub steps: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_millis(500), factor: 1.5, jitter: 0.2, steps: 5 }
    }
}

impl Backoff {
    /// Calls until there is an answer, an error that another attempt would not mend, or the steps are used up.
    pub async fn run<T, A>(&self, mut call: impl FnMut() -> A) -> Result<T, CallError>
    where
        A: Future<Output = Result<T, CallError>>,
    {
        let mut wait = self.initial;
        let mut left = self.steps.max(1);
        loop {
            left -= 1;
            match call().await {
                Err(error) if error.should_retry() && left > 0 => {
                    tokio::time::sleep(wait.mul_f64(1.0 + self.jitter * fraction())).await;
                    wait = wait.mul_f64(self.factor);
                }
                ended => return ended,
            }
        }
    }
}

/// Anything from 0 to 1.
fn fraction() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness nothing is lost but the spread.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::NoResponse;
    use kybern_apimachinery::{ApiError, Reason};
    use tokio::time::Instant;

    fn lost() -> CallError {
        CallError::NoResponse { url: "u".into(), cause: "c".into(), kind: NoResponse::Lost }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_tried_five_times_and_no_longer() {
        let (mut calls, start) = (0, Instant::now());
        let result = Backoff::default()
            .run(|| {
                calls += 1;
                std::future::ready(Err::<(), _>(lost()))
            })
            .await;
        assert_eq!((result, calls), (Err(lost()), 5));
        // 0.5 + 0.75 + 1.125 + 1.6875, and up to a fifth more.
        let took = start.elapsed().as_secs_f64();
        assert!((4.06..=4.90).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_attempt_does_not_mend_is_told_at_once() {
        for (error, expect) in [
            (CallError::Status(ApiError::unauthorized()), 1),
            (CallError::Status(ApiError::new(Reason::InternalError, "x")), 5),
            (CallError::Status(ApiError::new(Reason::TooManyRequests, "x")), 5),
            (CallError::Body("x".into()), 1),
        ] {
            let mut calls = 0;
            let _ = Backoff::default()
                .run(|| {
                    calls += 1;
                    std::future::ready(Err::<(), _>(error.clone()))
                })
                .await;
            assert_eq!(calls, expect, "{error}");
        }
    }
}

//! Connecting without waiting for TCP's first repetition.
//!
//! A first packet that gets lost is sent again after a second. It does get lost where a Service's address is called before
//! kube-proxy has written its rules, as every pod does that starts with its node; and then the repetition follows the way
//! that the first one took. A new attempt, from a port of its own, takes the way that there is by then.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

/// How long all attempts so far are given before there is one more.
const PATIENCE: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

/// What the first of some attempts to end answers; the others are dropped.
pub(crate) async fn first_of<T, A: Future<Output = T>>(attempt: impl Fn() -> A) -> T {
    let mut attempts = FuturesUnordered::from_iter([attempt()]);
    let mut patience = PATIENCE.into_iter();
    loop {
        let ended = match patience.next() {
            Some(time) => tokio::time::timeout(time, attempts.next()).await,
            None => Ok(attempts.next().await),
        };
        match ended {
            Ok(Some(answer)) => return answer,
            Ok(None) | Err(_) => attempts.push(attempt()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tokio::time::{Instant, sleep};

    /// Attempts that take so many milliseconds each; answers which one was taken, after how long, and how many were begun.
    async fn check(times: &[u64], expect: (usize, u64, usize)) {
        let (begun, start) = (Cell::new(0), Instant::now());
        let answer = first_of(|| {
            let number = begun.replace(begun.get() + 1);
            async move {
                sleep(Duration::from_millis(times[number])).await;
                number
            }
        });
        let answer = answer.await;
        assert_eq!((answer, start.elapsed().as_millis() as u64, begun.get()), expect, "{times:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_end_is_taken() {
        const LOST: u64 = 1_000_000;
        check(&[1], (0, 1, 1)).await;
        check(&[LOST, 1], (1, 101, 2)).await;
        check(&[LOST, LOST, 30], (2, 330, 3)).await;
        check(&[LOST, LOST, LOST, 5000], (3, 5700, 4)).await;
        // A long way is not a lost packet: the first attempt arrives.
        check(&[250, 250], (0, 250, 2)).await;
    }
}

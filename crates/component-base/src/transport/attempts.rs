//! Connecting without waiting for TCP's first repetition, and without waiting for a dead one of several addresses.
//!
//! A first packet that gets lost is sent again after a second. It does get lost where a Service's address is called before
//! kube-proxy has written its rules, as every pod does that starts with its node; and then the repetition follows the way
//! that the first one took. A new attempt, from a port of its own, takes the way that there is by then.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

/// How long all attempts so far are given before there is one more.
const PATIENCE: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

/// The first of some attempts to succeed, or the first error once each of `ways` has failed; attempts are numbered and take
/// the ways in turn. The others are dropped.
pub(super) async fn first_of<T, E, A: Future<Output = Result<T, E>>>(
    ways: usize,
    attempt: impl Fn(usize) -> A,
) -> Result<T, E> {
    let start = |number: usize| {
        let attempt = attempt(number);
        async move { (number % ways.max(1), attempt.await) }
    };
    let (mut begun, mut first_error) = (1, None);
    let mut failed = vec![false; ways.max(1)];
    let mut attempts = FuturesUnordered::from_iter([start(0)]);
    let mut patience = PATIENCE.into_iter();
    loop {
        let ended = match patience.next() {
            Some(time) => tokio::time::timeout(time, attempts.next()).await,
            None => Ok(attempts.next().await),
        };
        match ended {
            Ok(Some((_, Ok(answer)))) => return Ok(answer),
            Ok(Some((way, Err(error)))) => {
                failed[way] = true;
                let error = first_error.take().unwrap_or(error);
                if failed.iter().all(|failed| *failed) {
                    return Err(error);
                }
                first_error = Some(error);
                // A way that was not tried yet is tried at once.
                if begun >= ways {
                    continue;
                }
            }
            Ok(None) | Err(_) => {}
        }
        attempts.push(start(begun));
        begun += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tokio::time::{Instant, sleep};

    /// Attempts that take so many milliseconds each, negative ones fail; answers which one was taken, after how long, and how
    /// many were begun.
    async fn check(ways: usize, times: &[i64], expect: (Result<usize, usize>, u64, usize)) {
        let (begun, start) = (Cell::new(0), Instant::now());
        let answer = first_of(ways, |number| {
            begun.set(begun.get() + 1);
            async move {
                sleep(Duration::from_millis(times[number].unsigned_abs())).await;
                if times[number] > 0 { Ok(number) } else { Err(number) }
            }
        });
        let answer = answer.await;
        assert_eq!((answer, start.elapsed().as_millis() as u64, begun.get()), expect, "{ways} {times:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_end_is_taken() {
        const LOST: i64 = 1_000_000;
        check(1, &[1], (Ok(0), 1, 1)).await;
        check(1, &[-1], (Err(0), 1, 1)).await;
        check(1, &[LOST, 1], (Ok(1), 101, 2)).await;
        check(1, &[LOST, LOST, 30], (Ok(2), 330, 3)).await;
        check(1, &[LOST, LOST, LOST, 5000], (Ok(3), 5700, 4)).await;
        // A long way is not a lost packet: the first attempt arrives.
        check(1, &[250, 250], (Ok(0), 250, 2)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn each_of_several_addresses_is_tried() {
        const LOST: i64 = 1_000_000;
        check(2, &[-1, 2], (Ok(1), 3, 2)).await;
        check(2, &[LOST, 5], (Ok(1), 105, 2)).await;
        check(2, &[-1, -2], (Err(0), 3, 2)).await;
        check(3, &[-1, -1, -1], (Err(0), 3, 3)).await;
        // The first does not answer, the second refuses: the first may still.
        check(2, &[500, -1], (Ok(0), 500, 2)).await;
    }
}

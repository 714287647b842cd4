//! Answers that are good for a while, and never more of them than a limit.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Keeps answers by their questions. Where there are too many, the first that was put goes first, whoever asked.
pub struct Kept<K, V> {
    max: usize,
    inner: Mutex<Inner<K, V>>,
}

struct Inner<K, V> {
    answers: HashMap<K, Answer<V>>,
    /// In the order in which they were put, with the number of that time: a question that was put again stands in it twice.
    order: VecDeque<(K, u64)>,
    puts: u64,
}

struct Answer<V> {
    until: Instant,
    put: u64,
    value: V,
}

impl<K: Hash + Eq + Clone, V: Clone> Kept<K, V> {
    pub fn new(max: usize) -> Self {
        let inner = Inner { answers: HashMap::new(), order: VecDeque::new(), puts: 0 };
        Self { max, inner: Mutex::new(inner) }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let inner = self.inner.lock();
        inner.answers.get(key).filter(|answer| answer.until > Instant::now()).map(|answer| answer.value.clone())
    }

    /// A lifetime of nothing keeps nothing.
    pub fn put(&self, key: K, value: V, lifetime: Duration) {
        if lifetime.is_zero() {
            return;
        }
        let inner = &mut *self.inner.lock();
        inner.puts += 1;
        let answer = Answer { until: Instant::now() + lifetime, put: inner.puts, value };
        inner.order.push_back((key.clone(), inner.puts));
        inner.answers.insert(key, answer);
        // The order holds those that were put again, too: it is as short as the answers are few.
        while inner.answers.len() > self.max || inner.order.len() > 2 * self.max {
            let Some((key, put)) = inner.order.pop_front() else { break };
            if inner.answers.get(&key).is_some_and(|answer| answer.put == put) {
                inner.answers.remove(&key);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.inner.lock().answers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded_in_number_and_time() {
        let kept = Kept::new(4);
        let second = Duration::from_secs(1);
        for n in 0..10 {
            kept.put(n, n, second);
            // One that is put again and again stays.
            kept.put(100, 100, second);
        }
        assert_eq!(kept.len(), 4);
        assert_eq!([0, 6, 7, 9, 100].map(|n| kept.get(&n)), [None, None, Some(7), Some(9), Some(100)]);
        kept.put(11, 11, Duration::ZERO);
        assert_eq!(kept.get(&11), None);
        tokio::time::advance(second).await;
        assert_eq!(kept.get(&9), None);
        for _ in 0..100 {
            kept.put(1, 1, second);
        }
        assert!(kept.inner.lock().order.len() <= 8);
    }
}

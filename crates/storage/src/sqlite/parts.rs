//! How several threads share out the rows of a scan: whoever has none left takes the later half of what is left to another,
//! since nobody knows how the rows that live lie among the numbers.

use parking_lot::Mutex;

use super::schema;

/// Revisions that a thread takes at once, and that are worth another thread.
const STRIDE: u64 = 32;
const WORTHWHILE: u64 = 512;

/// What each thread has still to do.
pub(super) struct Parts(Mutex<Vec<Part>>);

#[derive(Clone, Copy)]
struct Part {
    /// Rows up to this one are scanned, or about to be.
    taken: i64,
    last: i64,
}

impl Parts {
    /// All rows from one to another. At first all are the first thread's.
    pub(super) fn new(first: i64, last: i64, threads: usize) -> Self {
        let mut parts = vec![Part { taken: last, last }; threads.max(1)];
        parts[0].taken = first - 1;
        Self(Mutex::new(parts))
    }

    /// Rows for a thread that has none; the first has some to begin with.
    pub(super) fn find(&self, thread: usize) -> Option<(i64, i64)> {
        let mut parts = self.0.lock();
        let own = parts[thread];
        if own.taken < own.last {
            return Some((own.taken + 1, own.last));
        }
        let most = parts.iter_mut().max_by_key(|part| part.last - part.taken)?;
        if most.last - most.taken < schema::first_id(WORTHWHILE) {
            return None;
        }
        let middle = most.taken + (most.last - most.taken) / 2;
        let last = std::mem::replace(&mut most.last, middle);
        parts[thread] = Part { taken: middle, last };
        Some((middle + 1, last))
    }

    /// Has a thread take a row and some that follow, and answers up to which; `None` where another has the row.
    pub(super) fn take(&self, thread: usize, row: i64) -> Option<i64> {
        let mut parts = self.0.lock();
        let own = &mut parts[thread];
        if row > own.last {
            own.taken = own.last;
            return None;
        }
        own.taken = own.last.min(row + schema::first_id(STRIDE));
        Some(own.taken)
    }

    /// Says that a thread has come to its end.
    pub(super) fn finish(&self, thread: usize) {
        let own = &mut self.0.lock()[thread];
        own.taken = own.last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_one_threads_however_they_lie() {
        // Evenly, all at the beginning, all at the end.
        for ids in [(0..40_000).collect::<Vec<i64>>(), (0..20_000).collect(), (3_000_000..3_020_000).collect()] {
            let ids: Vec<i64> = ids.into_iter().map(|n| n * 128 + n % 3).collect();
            let parts = Parts::new(5, 4_000_000 * 128, 4);
            let scan = |thread| {
                let mut seen = Vec::new();
                while let Some((first, last)) = parts.find(thread) {
                    let from = ids.partition_point(|id| *id < first);
                    let mut taken = first - 1;
                    for id in ids[from..].iter().take_while(|id| **id <= last) {
                        if *id > taken {
                            let Some(more) = parts.take(thread, *id) else { break };
                            taken = more;
                        }
                        seen.push(*id);
                    }
                    parts.finish(thread);
                }
                seen
            };
            let mut seen: Vec<i64> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || scan(thread))).collect();
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            });
            seen.sort_unstable();
            let expect: Vec<i64> = ids.into_iter().filter(|id| *id >= 5).collect();
            assert!(seen == expect, "{} of {}", seen.len(), expect.len());
        }
    }
}

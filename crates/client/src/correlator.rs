//! Which events are written, and which are counted up on an earlier one (`k8s.io/client-go/tools/record`): a token bucket
//! per source and object, aggregation of events that differ in the message only, and de-duplication. Pure.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

/// Events of one object by one source that may come at once; one more every [`SPAM_REFILL_SECONDS`].
const SPAM_BURST: f64 = 25.0;
const SPAM_REFILL_SECONDS: f64 = 300.0;
/// So many events alike but for the message are aggregated …
const AGGREGATE_FROM: usize = 10;
/// … when they come within this time of each other.
const AGGREGATE_SECONDS: i64 = 600;
/// What is remembered of the past, entries per table.
const MEMORY: usize = 4096;

/// What identifies an event for the correlator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    /// Kind, namespace, name, uid, apiVersion and field path of the object, joined.
    pub(crate) object: String,
    /// Type and reason, joined.
    pub(crate) what: String,
    pub(crate) message: String,
}

/// What to do with an event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    Drop,
    Create {
        message: String,
    },
    /// Count up the event that was written as `name`.
    Count {
        name: String,
        message: String,
        count: i64,
    },
}

#[derive(Default)]
pub(crate) struct Correlator {
    buckets: Bounded<String, (f64, Timestamp)>,
    similar: Bounded<(String, String), (BTreeSet<u64>, Timestamp)>,
    written: Bounded<(String, String, Option<u64>), (String, i64)>,
}

impl Correlator {
    /// Judges an event that happens `now`; `name` is the one it would be created under.
    pub(crate) fn judge(&mut self, event: &Identity, name: &str, now: Timestamp) -> Verdict {
        if self.is_spam(event, now) {
            return Verdict::Drop;
        }
        let hash = fingerprint(&event.message);
        let (messages, last) =
            self.similar.entry((event.object.clone(), event.what.clone()), || (BTreeSet::new(), now));
        if now.duration_since(*last).as_secs() > AGGREGATE_SECONDS {
            messages.clear();
        }
        *last = now;
        messages.insert(hash);
        let aggregate = messages.len() >= AGGREGATE_FROM;
        if aggregate {
            messages.pop_first();
        }
        let (key, message) = match aggregate {
            true => (None, format!("(combined from similar events): {}", event.message)),
            false => (Some(hash), event.message.clone()),
        };
        let mut first = false;
        let (written, count) = self.written.entry((event.object.clone(), event.what.clone(), key), || {
            first = true;
            (name.to_owned(), 0)
        });
        *count += 1;
        if first {
            Verdict::Create { message }
        } else {
            Verdict::Count { name: written.clone(), message, count: *count }
        }
    }

    /// Forgets that an event was written: it expired on the server.
    pub(crate) fn forget(&mut self, name: &str) {
        self.written.0.retain(|_, (_, (written, _))| written != name);
    }

    fn is_spam(&mut self, event: &Identity, now: Timestamp) -> bool {
        let (tokens, last) = self.buckets.entry(event.object.clone(), || (SPAM_BURST, now));
        let elapsed = now.duration_since(*last).as_secs_f64().max(0.0);
        *tokens = (*tokens + elapsed / SPAM_REFILL_SECONDS).min(SPAM_BURST);
        *last = now;
        let spam = *tokens < 1.0;
        if !spam {
            *tokens -= 1.0;
        }
        spam
    }
}

fn fingerprint(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A map that forgets its least recently used half when it is full.
struct Bounded<K, V>(HashMap<K, (u64, V)>, u64);

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self(HashMap::new(), 0)
    }
}

impl<K: std::hash::Hash + Eq, V> Bounded<K, V> {
    fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        self.1 += 1;
        let now = self.1;
        if self.0.len() >= MEMORY && !self.0.contains_key(&key) {
            let mut uses: Vec<u64> = self.0.values().map(|(used, _)| *used).collect();
            let (_, median, _) = uses.select_nth_unstable(MEMORY / 2);
            let median = *median;
            self.0.retain(|_, (used, _)| *used > median);
        }
        let entry = self.0.entry(key).or_insert_with(|| (now, make()));
        entry.0 = now;
        &mut entry.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn event(object: &str, message: &str) -> Identity {
        Identity { object: object.into(), what: "Normal/Pulled".into(), message: message.into() }
    }

    #[test]
    fn a_repeated_event_is_counted() {
        let mut correlator = Correlator::default();
        let mut judge = |name: &str, seconds| correlator.judge(&event("pod", "m"), name, at(seconds));
        assert_eq!(judge("first", 0), Verdict::Create { message: "m".into() });
        assert_eq!(judge("second", 1), Verdict::Count { name: "first".into(), message: "m".into(), count: 2 });
        assert_eq!(judge("third", 2), Verdict::Count { name: "first".into(), message: "m".into(), count: 3 });
        correlator.forget("first");
        assert_eq!(correlator.judge(&event("pod", "m"), "fourth", at(3)), Verdict::Create { message: "m".into() });
    }

    #[test]
    fn similar_events_are_combined() {
        let mut correlator = Correlator::default();
        let verdicts: Vec<Verdict> =
            (0..12).map(|i| correlator.judge(&event("pod", &i.to_string()), &format!("e{i}"), at(i))).collect();
        assert!(
            verdicts[..9].iter().all(|v| matches!(v, Verdict::Create { message } if message.len() == 1)),
            "{verdicts:?}"
        );
        assert_eq!(verdicts[9], Verdict::Create { message: "(combined from similar events): 9".into() });
        let expect = "(combined from similar events): 11".to_owned();
        assert_eq!(verdicts[11], Verdict::Count { name: "e9".into(), message: expect, count: 3 });
        let later = correlator.judge(&event("pod", "x"), "late", at(2000));
        assert_eq!(later, Verdict::Create { message: "x".into() });
    }

    #[test]
    fn spam_is_dropped_and_the_bucket_refills() {
        let mut correlator = Correlator::default();
        let verdicts: Vec<Verdict> = (0..26).map(|_| correlator.judge(&event("pod", "m"), "e", at(0))).collect();
        assert!(verdicts[..25].iter().all(|v| *v != Verdict::Drop));
        assert_eq!(verdicts[25], Verdict::Drop);
        assert_ne!(correlator.judge(&event("other", "m"), "e", at(0)), Verdict::Drop);
        assert_ne!(correlator.judge(&event("pod", "m"), "e", at(301)), Verdict::Drop);
        assert_eq!(correlator.judge(&event("pod", "m"), "e", at(302)), Verdict::Drop);
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = Correlator::default();
        for i in 0..3 * MEMORY {
            correlator.judge(&event(&i.to_string(), "m"), "e", at(0));
        }
        assert!(correlator.buckets.0.len() <= MEMORY && correlator.written.0.len() <= MEMORY);
    }
}

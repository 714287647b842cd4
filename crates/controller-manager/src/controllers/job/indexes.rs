//! Completion indexes, as intervals: what `status.completedIndexes` and `failedIndexes` hold, such as `1,3-5,7`.

use std::collections::BTreeSet;
use std::fmt;

use kybern_api::core::v1::Pod;

/// The annotation (and label) of a pod that says which index it works on.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Ordered intervals that neither overlap nor touch, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<(usize, usize)>);

impl Indexes {
    /// Reads what was written, up to `completions`, which may have been lowered since. What cannot be read is left out.
    pub(super) fn parse(text: &str, completions: usize) -> Self {
        let mut all = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>())
                && first < completions
                && first <= last
            {
                all.push((first, last.min(completions - 1)));
            }
        }
        Self::of(all)
    }

    fn of(mut intervals: Vec<(usize, usize)>) -> Self {
        intervals.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::with_capacity(intervals.len());
        for (first, last) in intervals {
            match merged.last_mut() {
                Some(end) if first <= end.1 + 1 => end.1 = end.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied().collect())
    }

    pub(super) fn total(&self) -> usize {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(super) fn has(&self, index: usize) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many indexes are in both.
    pub(super) fn common(&self, other: &Self) -> usize {
        let (mut i, mut k, mut common) = (0, 0, 0);
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(k)) {
            common += (a.1.min(b.1) + 1).saturating_sub(a.0.max(b.0));
            i += usize::from(a.1 <= b.1);
            k += usize::from(b.1 <= a.1);
        }
        common
    }

    /// The first `count` indexes below `completions` that are not here.
    pub(super) fn missing(&self, count: usize, completions: usize) -> Vec<usize> {
        let mut found = Vec::new();
        let mut next = 0;
        for (first, last) in &self.0 {
            found.extend((next..(*first).min(completions)).take(count - found.len()));
            next = last + 1;
        }
        found.extend((next..completions).take(count - found.len()));
        found
    }
}

impl FromIterator<usize> for Indexes {
    fn from_iter<I: IntoIterator<Item = usize>>(indexes: I) -> Self {
        let ordered: BTreeSet<usize> = indexes.into_iter().collect();
        Self::of(ordered.into_iter().map(|index| (index, index)).collect())
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// The index that a pod says it works on.
pub(super) fn of_pod(pod: &Pod) -> Option<usize> {
    number(pod, INDEX).and_then(|n| usize::try_from(n).ok())
}

/// A number in an annotation; what is none, negative or too large is as if it were not there.
pub(super) fn number(pod: &Pod, annotation: &str) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(annotation)?.parse().ok().filter(|n: &i32| *n >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_written_as_upstream_does() {
        for (text, completions, expect, total) in [
            ("", 10, "", 0),
            ("0", 10, "0", 1),
            ("0,1", 10, "0,1", 2),
            ("0-2", 10, "0-2", 3),
            ("0,1,2,4,6,7", 10, "0-2,4,6,7", 6),
            ("1,3-5,7", 10, "1,3-5,7", 5),
            ("1,3-20,30", 10, "1,3-9", 8),
            ("x,1,2-y,5-3,4", 10, "1,4", 2),
            ("3", 0, "", 0),
        ] {
            let read = Indexes::parse(text, completions);
            assert_eq!((read.to_string().as_str(), read.total()), (expect, total), "{text}");
        }
    }

    #[test]
    fn sets_of_indexes() {
        let set = Indexes::parse("1,3-5,7", 10);
        let held: Vec<usize> = (0..10).filter(|i| set.has(*i)).collect();
        assert_eq!(held, [1, 3, 4, 5, 7]);
        assert_eq!(set.missing(3, 10), [0, 2, 6]);
        assert_eq!(set.missing(20, 9), [0, 2, 6, 8]);
        assert_eq!(set.missing(20, 3), [0, 2]);
        assert_eq!(Indexes::default().missing(2, 10), [0, 1]);
        let other: Indexes = [9, 6, 5, 4].into_iter().collect();
        assert_eq!(set.union(&other).to_string(), "1,3-7,9");
        assert_eq!((set.common(&other), other.common(&set), set.common(&set)), (2, 2, 5));
    }
}

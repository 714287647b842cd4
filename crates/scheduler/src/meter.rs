//! How long plugins take and how often they are asked, counted where it costs next to nothing: the core adds numbers here,
//! and [`crate::Metrics`] fetches them once in a while.

use std::time::{Duration, Instant};

/// Of so many cycles one is looked at plugin by plugin, as upstream looks at one in ten.
const SAMPLED: usize = 10;

/// In such a cycle, of so many nodes one is timed.
pub const SAMPLED_NODES: usize = 16;

/// Spans that nobody has fetched; what comes after is not told.
const SPANS_MAX: usize = 1 << 14;

/// What something took: all plugins at an extension point, or one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Of the profile, in their order.
    pub profile: usize,
    pub point: &'static str,
    /// `None`: all of them together.
    pub plugin: Option<&'static str>,
    /// Upstream's name of what came of it.
    pub status: &'static str,
    pub took: Duration,
}

/// The extension points at which is counted how often a plugin is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    PreFilter,
    Filter,
    PreScore,
    Score,
}

impl Counted {
    pub const ALL: [Self; 4] = [Self::PreFilter, Self::Filter, Self::PreScore, Self::Score];

    pub fn name(self) -> &'static str {
        match self {
            Self::PreFilter => "PreFilter",
            Self::Filter => "Filter",
            Self::PreScore => "PreScore",
            Self::Score => "Score",
        }
    }

    /// Whether the places of its plugins are those of the filters.
    pub fn is_of_filters(self) -> bool {
        matches!(self, Self::PreFilter | Self::Filter)
    }
}

/// By extension point, and by the plugin's place among the filters or scores of its profile.
pub type Counts = [[u64; 32]; 4];

#[derive(Debug, Default)]
pub struct Meter {
    profile: usize,
    cycles: usize,
    spans: Vec<Span>,
    /// By profile.
    counts: Vec<Counts>,
}

impl Meter {
    /// A cycle of a profile begins.
    pub fn begin(&mut self, profile: usize) {
        self.profile = profile;
        self.cycles = self.cycles.wrapping_add(1);
        if self.counts.len() <= profile {
            self.counts.resize(profile + 1, Counts::default());
        }
    }

    /// Whether the plugins of this cycle are timed one by one.
    pub fn samples(&self) -> bool {
        self.cycles.is_multiple_of(SAMPLED)
    }

    /// When something begins that is told of only in some cycles.
    pub fn sampled(&self) -> Option<Instant> {
        self.samples().then(Instant::now)
    }

    pub fn count(&mut self, point: Counted, place: usize, by: u64) {
        if let Some(counts) = self.counts.get_mut(self.profile) {
            counts[point as usize][place & 31] += by;
        }
    }

    /// All plugins at an extension point are done.
    pub fn point(&mut self, point: &'static str, status: &'static str, began: Instant) {
        self.add(point, None, status, began.elapsed());
    }

    /// One plugin is done, if it was timed; `times` is how often it was asked.
    pub fn plugin(
        &mut self,
        point: &'static str,
        plugin: &'static str,
        status: &'static str,
        began: Option<Instant>,
        times: usize,
    ) {
        if let Some(began) = began {
            self.add(point, Some(plugin), status, began.elapsed() / u32::try_from(times.max(1)).unwrap_or(u32::MAX));
        }
    }

    pub fn add(&mut self, point: &'static str, plugin: Option<&'static str>, status: &'static str, took: Duration) {
        if self.spans.len() < SPANS_MAX {
            self.spans.push(Span { profile: self.profile, point, plugin, status, took });
        }
    }

    /// What came together since it was last fetched.
    pub fn fetch(&mut self) -> (Vec<Span>, Vec<Counts>) {
        let empty = vec![Counts::default(); self.counts.len()];
        (std::mem::take(&mut self.spans), std::mem::replace(&mut self.counts, empty))
    }
}

//! The higher priority first, then who waits longer.

use std::time::Duration;

use crate::framework::{Plugin, QueueSort, SortKey};
use crate::pod::PodInfo;

pub struct PrioritySort;

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        "PrioritySort"
    }
}

impl QueueSort for PrioritySort {
    fn key(&self, pod: &PodInfo, added: Duration) -> SortKey {
        (-i64::from(pod.priority), added)
    }
}

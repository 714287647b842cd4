//! The two strategies: `RollingUpdate` (`rolling.go`) and `Recreate` (`recreate.go`).

use kybern_api::apps::v1::ReplicaSet;

use super::progress;
use super::rollout::Rollout;

/// One step of a rolling update: first the new set grows as far as `maxSurge` lets it, then the old ones shrink as far as
/// `maxUnavailable` lets them.
pub(super) fn roll(rollout: &mut Rollout<'_>) {
    if rollout.new.is_none() {
        return;
    }
    if grow_new(rollout) {
        return;
    }
    if shrink_old(rollout) {
        return;
    }
    if progress::is_complete(rollout) {
        rollout.clean_up();
    }
}

fn total(rollout: &Rollout<'_>) -> i32 {
    rollout.all().map(|s| s.replicas).sum()
}

/// `NewRSNewReplicas`.
fn grow_new(rollout: &mut Rollout<'_>) -> bool {
    let (replicas, index) = (rollout.replicas(), rollout.old.len());
    let have = rollout.new.as_ref().map_or(0, |s| s.replicas);
    let size = match have.cmp(&replicas) {
        std::cmp::Ordering::Greater => replicas,
        std::cmp::Ordering::Equal => have,
        std::cmp::Ordering::Less => {
            let room = replicas + rollout.max_surge() - total(rollout);
            have + room.clamp(0, replicas - have)
        }
    };
    rollout.scale(index, size)
}

fn shrink_old(rollout: &mut Rollout<'_>) -> bool {
    if rollout.old.iter().all(|s| s.replicas == 0) {
        return false;
    }
    let min_available = rollout.replicas() - rollout.max_unavailable();
    let new_unavailable = rollout.new.as_ref().map_or(0, |s| s.replicas - s.available());
    let max_removed = total(rollout) - min_available - new_unavailable;
    if max_removed <= 0 {
        return false;
    }
    // Pods that do not serve are removed first: that costs no availability.
    let unhealthy = shrink_oldest(rollout, max_removed, |set| (set.0 - set.1).max(0));
    // A set that was shrunk still says that the pods are available which it is about to remove.
    let available: i32 = rollout.all().map(|s| s.available().min(s.replicas)).sum();
    let healthy = shrink_oldest(rollout, available - min_available, |set| set.0);
    unhealthy + healthy > 0
}

/// Removes up to `budget` replicas from the oldest sets; `removable` says how many of `(replicas, available)` may go.
fn shrink_oldest(rollout: &mut Rollout<'_>, budget: i32, removable: impl Fn((i32, i32)) -> i32) -> i32 {
    let mut removed = 0;
    for index in 0..rollout.old.len() {
        let set = &rollout.old[index];
        let (size, available) = (set.replicas, set.available());
        let count = removable((size, available)).min(budget - removed).min(size);
        if count > 0 && rollout.scale(index, size - count) {
            removed += count;
        }
    }
    removed
}

/// All old pods go before the first new one comes.
pub(super) fn recreate(rollout: &mut Rollout<'_>, is_running: impl Fn(&ReplicaSet) -> bool) {
    let mut scaled = false;
    for index in 0..rollout.old.len() {
        if rollout.old[index].replicas > 0 {
            scaled |= rollout.scale(index, 0);
        }
    }
    if scaled || rollout.old.iter().any(|set| is_running(&set.object)) {
        return;
    }
    rollout.ensure_new_set();
    let (index, replicas) = (rollout.old.len(), rollout.replicas());
    rollout.scale(index, replicas);
    if progress::is_complete(rollout) {
        rollout.clean_up();
    }
}

//! Scaling outside a rollout's own steps: `spec.replicas` changed, or the deployment is paused (`sync.go`).

use super::revision::MAX_REPLICAS;
use super::rollout::{Rollout, WorkingSet};

/// One active set takes all; a finished rollout drains the old ones; in the middle of one, all grow or shrink in proportion.
pub(super) fn scale(rollout: &mut Rollout<'_>) {
    let replicas = rollout.replicas();
    if let Some(index) = active_or_latest(rollout) {
        rollout.scale(index, replicas);
    } else if is_saturated(rollout) {
        for index in 0..rollout.old.len() {
            if rollout.old[index].replicas > 0 {
                rollout.scale(index, 0);
            }
        }
    } else if !rollout.is_recreate() {
        scale_in_proportion(rollout);
    }
}

/// The only set with replicas; the newest where none has any.
fn active_or_latest(rollout: &Rollout<'_>) -> Option<usize> {
    let active: Vec<usize> = rollout.all().enumerate().filter(|(_, s)| s.replicas > 0).map(|(i, _)| i).collect();
    // `all` puts the new set last only if there is one: its index is `old.len()` either way.
    match active[..] {
        [] if rollout.new.is_some() => Some(rollout.old.len()),
        [] => rollout.old.len().checked_sub(1),
        [one] => Some(one),
        _ => None,
    }
}

/// Whether the new set has, and was scaled for, all replicas.
fn is_saturated(rollout: &Rollout<'_>) -> bool {
    let replicas = rollout.replicas();
    rollout.new.as_ref().is_some_and(|new| {
        new.replicas == replicas
            && new.annotation(super::revision::DESIRED_REPLICAS) == Some(replicas)
            && new.available() == replicas
    })
}

fn scale_in_proportion(rollout: &mut Rollout<'_>) {
    let replicas = rollout.replicas();
    let total: i32 = rollout.all().map(|s| s.replicas).sum();
    let allowed = if replicas > 0 { replicas + rollout.max_surge() } else { 0 };
    let to_add = allowed - total;
    let mut order: Vec<usize> = rollout.all().enumerate().filter(|(_, s)| s.replicas > 0).map(|(i, _)| i).collect();
    let sizes: Vec<i32> = rollout.all().map(|s| s.replicas).collect();
    // The largest first; of equals, the newer gains first and the older loses first. Indices go from old to new.
    order.sort_by(|a, b| sizes[*b].cmp(&sizes[*a]).then_with(|| if to_add > 0 { b.cmp(a) } else { a.cmp(b) }));
    let mut added = 0;
    let mut sizes_after = Vec::with_capacity(order.len());
    for index in &order {
        let share = rollout.all().nth(*index).map_or(0, |set| proportion(set, rollout, to_add, added));
        added += share;
        sizes_after.push((*index, sizes[*index] + share));
    }
    // What rounding left goes to the first.
    if let Some((_, size)) = sizes_after.first_mut() {
        *size = (*size + to_add - added).max(0);
    }
    for (index, size) in sizes_after {
        rollout.scale(index, size);
    }
}

/// `GetReplicaSetProportion`: this set's share of what is to be added (or removed), within what is left.
fn proportion(set: &WorkingSet, rollout: &Rollout<'_>, to_add: i32, added: i32) -> i32 {
    if set.replicas == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let share = fraction(set, rollout);
    let left = to_add - added;
    if to_add > 0 { share.min(left) } else { share.max(left) }
}

fn fraction(set: &WorkingSet, rollout: &Rollout<'_>) -> i32 {
    if rollout.replicas() == 0 {
        return -set.replicas;
    }
    let max_now = rollout.replicas() + rollout.max_surge();
    let status = rollout.deployment.status.as_ref().and_then(|s| s.replicas).unwrap_or(0);
    let max_before = set.annotation(MAX_REPLICAS).filter(|n| *n != 0).unwrap_or(status).max(1);
    let grown = f64::from(set.replicas) * f64::from(max_now) / f64::from(max_before);
    grown.round() as i32 - set.replicas
}

//! Rolling updates of daemons (`update.go`): replace old pods within `maxUnavailable`, or add new ones beside them within
//! `maxSurge`.

use std::sync::Arc;

use kybern_api::apps::v1::DaemonSetSpec;
use kybern_api::core::v1::Pod;
use kybern_api::scaled::{Round, scaled_value};
use kybern_api::{IntOrString, Object};

use super::{Changes, OnNode, Pods, Work};

/// `maxSurge` in nodes.
pub(super) fn max_surge(spec: &DaemonSetSpec, nodes: usize) -> i32 {
    let rolling = spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let value = rolling.and_then(|r| r.max_surge.clone()).unwrap_or(IntOrString::Int(0));
    scaled_value(&value, i32::try_from(nodes).unwrap_or(i32::MAX), Round::Up).unwrap_or(0)
}

fn max_unavailable(spec: &DaemonSetSpec, nodes: usize) -> i32 {
    let rolling = spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let value = rolling.and_then(|r| r.max_unavailable.clone()).unwrap_or(IntOrString::Int(1));
    scaled_value(&value, i32::try_from(nodes).unwrap_or(i32::MAX), Round::Up).unwrap_or(0)
}

/// One step of a rolling update.
pub(super) fn roll(work: &Work<'_>) -> Changes {
    let nodes: Vec<&OnNode> = work.nodes.iter().filter(|node| node.fit.should_run).collect();
    let surge = max_surge(work.spec, nodes.len());
    let unavailable = max_unavailable(work.spec, nodes.len());
    // Neither allowed would never end: upstream validates against it, and replaces one at a time.
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    if surge == 0 { replace(work, &nodes, unavailable) } else { surge_over(work, &nodes, surge) }
}

/// The new and the old pod of a node that are not on their way out.
fn of_node<'a>(work: &Work<'_>, pods: &'a Pods) -> (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>) {
    let alive = || pods.iter().filter(|pod| !pod.is_deleting());
    (alive().find(|pod| work.is_current(pod)), alive().find(|pod| !work.is_current(pod)))
}

fn replace(work: &Work<'_>, nodes: &[&OnNode], max_unavailable: i32) -> Changes {
    let (mut unavailable, mut broken, mut candidates) = (0, Vec::new(), Vec::new());
    for node in nodes {
        match of_node(work, &node.pods) {
            (Some(new), None) => unavailable += i32::from(!work.is_available(new)),
            (None, Some(old)) if !work.is_available(old) => {
                // It serves nobody: replacing it costs nothing.
                broken.push(old.clone());
                unavailable += 1;
            }
            (None, Some(old)) => candidates.push(old.clone()),
            _ => unavailable += 1,
        }
    }
    let room = usize::try_from(max_unavailable - unavailable).unwrap_or(0).min(candidates.len());
    broken.extend(candidates.into_iter().take(room));
    Changes { delete: broken, ..Changes::default() }
}

fn surge_over(work: &Work<'_>, nodes: &[&OnNode], max_surge: i32) -> Changes {
    let mut surging = 0;
    let (mut changes, mut candidates) = (Changes::default(), Vec::new());
    for node in nodes {
        match of_node(work, &node.pods) {
            (Some(new), Some(old)) => {
                if work.is_available(new) {
                    changes.delete.push(old.clone());
                } else {
                    surging += 1;
                }
            }
            (None, Some(old)) => candidates.push((node.name.clone(), work.is_available(old))),
            // The new one is alone already, or `manage` makes it.
            (_, None) => {}
        }
    }
    // Where the old pod serves nobody, a new one comes first and outside the limit on surges.
    candidates.sort_by_key(|(_, available)| *available);
    for (node, available) in candidates {
        if !available {
            changes.create_on.push(node);
        } else if surging < max_surge {
            surging += 1;
            changes.create_on.push(node);
        }
    }
    changes
}

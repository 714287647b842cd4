//! What is told of the pods that a namespace has when its level becomes stricter.

use std::collections::{BTreeMap, BTreeSet};

use kybern_apimachinery::tree::{flag, list, text};
use kybern_apimachinery::{Value, object};

use crate::checks::{check, reasons};
use crate::configuration::Configuration;
use crate::policy::LevelVersion;

/// As many pods are looked at.
const MOST: usize = 3000;

fn controller(pod: &Value) -> Option<&str> {
    list(&pod["metadata"], "ownerReferences").iter().find(|owner| flag(owner, "controller")).map(|o| text(o, "uid"))
}

/// One pod of each controller first: the others are like it.
fn in_order<'a>(pods: &'a [Value], configuration: &Configuration) -> Vec<&'a Value> {
    let exempt =
        |pod: &&Value| configuration.runtime_classes.iter().any(|c| c == text(&pod["spec"], "runtimeClassName"));
    let mut seen = BTreeSet::new();
    let (mut first, further): (Vec<_>, Vec<_>) = pods
        .iter()
        .filter(|pod| !exempt(pod))
        .partition(|pod| controller(pod).is_none_or(|controller| seen.insert(controller)));
    first.extend(further);
    first
}

/// `is_late` ends the looking.
pub fn warnings_about(
    namespace: &str,
    pods: &[Value],
    enforced: LevelVersion,
    configuration: &Configuration,
    is_late: impl Fn() -> bool,
) -> Vec<String> {
    let pods = in_order(pods, configuration);
    let mut found: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    let mut checked = 0;
    for pod in pods.iter().take(MOST) {
        let violations = check(enforced, &pod["metadata"], &pod["spec"]);
        if !violations.is_empty() {
            let name = object::name(pod);
            let entry = found.entry(reasons(&violations)).or_insert((name, 0));
            entry.0 = entry.0.min(name);
            entry.1 += 1;
        }
        checked += 1;
        if is_late() {
            break;
        }
    }
    let mut warnings = Vec::new();
    if checked < pods.len() {
        let total = pods.len();
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {total} existing pods"
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforced}\""
        ));
    }
    let mut each: Vec<String> = found
        .into_iter()
        .map(|(reasons, (name, count))| match count {
            1 => format!("{name}: {reasons}"),
            2 => format!("{name} (and 1 other pod): {reasons}"),
            more => format!("{name} (and {} other pods): {reasons}", more - 1),
        })
        .collect();
    each.sort();
    warnings.extend(each);
    warnings
}

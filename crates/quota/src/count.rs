//! How much of a quota is used, counted anew (`pkg/controller/resourcequota`).

use jiff::Timestamp;
use kybern_apimachinery::tree::map;
use kybern_apimachinery::{Value, object};

use crate::amounts::{Amounts, add, amounts, equal, number, to_json};
use crate::evaluator::Evaluator;
use crate::scopes::{Scope, in_scope};

/// What there is of a resource that a quota bounds.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    Objects(&'a [Value]),
    /// So many of something that is only counted.
    Number(usize),
}

/// Whether a quota bounds something that the evaluator counts.
pub fn concerns(quota: &Value, evaluator: &Evaluator) -> bool {
    map(&quota["spec"], "hard").any(|(name, _)| evaluator.counts(name))
}

/// Whether a quota's status says what it bounds, so that writes are charged to it.
pub fn is_told(quota: &Value) -> bool {
    let (spec, status) = (&quota["spec"], &quota["status"]);
    status["hard"].is_object() && equal(&amounts(spec, "hard"), &amounts(status, "hard"))
}

/// What of a quota is used by the objects of one resource.
pub fn used(quota: &Value, evaluator: &Evaluator, found: Found<'_>, now: Timestamp) -> Amounts {
    let scopes = Scope::of_quota(quota);
    let bounded = map(&quota["spec"], "hard").map(|(name, _)| name).filter(|name| evaluator.counts(name));
    let mut used: Amounts = bounded.map(|name| (name.clone(), number(0))).collect();
    match found {
        // What has no scopes is in none.
        Found::Number(count) if scopes.is_empty() => {
            let count = number(i64::try_from(count).unwrap_or(i64::MAX));
            used.values_mut().for_each(|amount| *amount = count);
        }
        Found::Number(_) => {}
        Found::Objects(objects) => {
            let inside =
                |object: &&Value| scopes.iter().all(|scope| in_scope(evaluator, scope, object).unwrap_or(false));
            for object in objects.iter().filter(inside) {
                let mut usage = evaluator.usage(object, now);
                usage.retain(|name, _| used.contains_key(name));
                add(&mut used, &usage);
            }
        }
    }
    used
}

/// The quota with the status that it should have, if it has another. What could not be counted stays as it was last seen.
pub fn with_status(quota: &Value, counted: Amounts) -> Option<Value> {
    let hard = amounts(&quota["spec"], "hard");
    let status = &quota["status"];
    let mut now_used = amounts(status, "used");
    now_used.extend(counted);
    now_used.retain(|name, _| hard.contains_key(name));
    let same = is_told(quota) && status["used"].is_object() && equal(&now_used, &amounts(status, "used"));
    if same {
        return None;
    }
    let mut quota = quota.clone();
    object::set(&mut quota, &["status", "hard"], to_json(&hard));
    object::set(&mut quota, &["status", "used"], to_json(&now_used));
    Some(quota)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn shown(quota: &Value, evaluator: &Evaluator, found: Found<'_>) -> Value {
        to_json(&used(quota, evaluator, found, Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn objects_are_added_up() {
        let pod = |memory: &str, phase: &str| json!({"spec": {"containers": [{"resources": {"requests": {"memory": memory}}}]}, "status": {"phase": phase}});
        let pods = [pod("1Gi", "Running"), pod("512Mi", "Pending"), pod("1Gi", "Failed")];
        let mut quota =
            json!({"spec": {"hard": {"pods": "9", "requests.memory": "9Gi", "count/pods": "9", "services": "1"}}});
        let found = Found::Objects(&pods);
        let all = json!({"pods": "2", "requests.memory": "1536Mi", "count/pods": "3"});
        assert_eq!(shown(&quota, &Evaluator::Pods, found), all);
        quota["spec"]["scopes"] = json!(["Terminating"]);
        let none = json!({"pods": "0", "requests.memory": "0", "count/pods": "0"});
        assert_eq!(shown(&quota, &Evaluator::Pods, found), none);
        assert!(concerns(&quota, &Evaluator::Services) && !concerns(&quota, &Evaluator::Claims));
        let maps = Evaluator::of("", "configmaps").unwrap();
        let quota = json!({"spec": {"hard": {"configmaps": "1", "count/configmaps": "2"}}});
        assert_eq!(shown(&quota, &maps, Found::Number(7)), json!({"configmaps": "7", "count/configmaps": "7"}));
    }

    #[test]
    fn a_status_is_written_where_it_is_wrong() {
        let one = || Amounts::from([("pods".to_owned(), number(1))]);
        let fresh = json!({"spec": {"hard": {"pods": "2", "count/a.b": "1"}}});
        let first = with_status(&fresh, one()).unwrap();
        assert_eq!(first["status"], json!({"hard": {"pods": "2", "count/a.b": "1"}, "used": {"pods": "1"}}));
        assert_eq!(with_status(&first, one()), None);
        assert!(is_told(&first) && !is_told(&fresh));
        let mut changed = first.clone();
        changed["spec"]["hard"] = json!({"pods": "2000m"});
        assert!(!is_told(&changed));
        let after = with_status(&changed, Amounts::new()).unwrap();
        assert!(is_told(&after), "however the amounts are written");
        assert_eq!(
            after["status"],
            json!({"hard": {"pods": "2"}, "used": {"pods": "1"}}),
            "what was not counted stays"
        );
        assert!(with_status(&json!({"spec": {}}), Amounts::new()).is_some(), "it is told that there is nothing");
    }
}

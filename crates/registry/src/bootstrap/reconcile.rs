//! Making one object be there.

use kybern_apimachinery::{ApiError, Reason, Value, object};
use kybern_apiserver::connect::Objects;
use kybern_auth::authz::rbac::{Rule, uncovered};

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Brings the live object (first) to hold what is wanted (second); says whether it changed.
pub(super) type Merge = fn(&mut Value, &Value) -> bool;

/// Creates the object where it is missing, else merges it into the live one.
pub(super) async fn ensure(
    objects: &dyn Objects,
    group: &str,
    resource: &str,
    wanted: Value,
    merge: Merge,
) -> Result<(), ApiError> {
    let (namespace, name) = (object::namespace(&wanted).to_owned(), object::name(&wanted).to_owned());
    match objects.get(group, resource, &namespace, &name).await {
        Ok(mut live) => {
            if !merge(&mut live, &wanted) {
                return Ok(());
            }
            let change = |live: &mut Value| {
                merge(live, &wanted);
                Ok(())
            };
            objects.update(group, resource, &namespace, &name, &change).await.map(drop)
        }
        Err(error) if error.reason() == Reason::NotFound => match objects.create(group, resource, wanted).await {
            // Another server was faster.
            Err(error) if error.reason() == Reason::AlreadyExists => Ok(()),
            created => created.map(drop),
        },
        Err(error) => Err(error),
    }
}

/// The live object is good as it is.
pub(super) fn keep(_live: &mut Value, _wanted: &Value) -> bool {
    false
}

/// Adds rules for what the live role does not allow yet. An aggregated role's rules are its controller's.
pub(super) fn add_rules(live: &mut Value, wanted: &Value) -> bool {
    if is_frozen(live) || wanted.get("aggregationRule").is_some() {
        return false;
    }
    let missing = uncovered(&Rule::of_role(live), &Rule::of_role(wanted));
    append(live, "rules", missing.iter().map(Rule::to_value).collect())
}

/// Adds subjects that the live binding lacks.
pub(super) fn add_subjects(live: &mut Value, wanted: &Value) -> bool {
    if is_frozen(live) {
        return false;
    }
    let present = live["subjects"].as_array().cloned().unwrap_or_default();
    let wanted = wanted["subjects"].as_array().into_iter().flatten();
    append(live, "subjects", wanted.filter(|s| !present.contains(s)).cloned().collect())
}

fn is_frozen(live: &Value) -> bool {
    object::annotation(live, AUTOUPDATE) == Some("false")
}

fn append(live: &mut Value, field: &str, more: Vec<Value>) -> bool {
    if more.is_empty() {
        return false;
    }
    match &mut live[field] {
        Value::Array(present) => present.extend(more),
        absent => *absent = Value::Array(more),
    }
    true
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    #[test]
    fn rules_are_added_but_never_taken() {
        let rule = |verb: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]});
        let mut live = json!({"rules": [rule("get"), rule("delete")]});
        let wanted = json!({"rules": [rule("get"), rule("list")]});
        assert!(add_rules(&mut live, &wanted));
        assert_eq!(live["rules"].as_array().unwrap().len(), 3);
        assert!(!add_rules(&mut live, &wanted), "the second time changes nothing");
        let mut frozen = json!({"metadata": {"annotations": {AUTOUPDATE: "false"}}, "rules": []});
        assert!(!add_rules(&mut frozen, &wanted));
    }

    #[test]
    fn subjects_are_added() {
        let mut live = json!({"roleRef": {}});
        let wanted = json!({"subjects": [{"kind": "User", "name": "a"}]});
        assert!(add_subjects(&mut live, &wanted));
        assert_eq!(live["subjects"], wanted["subjects"]);
        assert!(!add_subjects(&mut live, &wanted));
    }
}

//! Static defaults: those that the schema declares and those of `table/defaults.txt`.
//!
//! A struct's own rules come first, then those of what it holds, what was just added included. A child's default never
//! makes its parent: only a rule for the parent does.

use std::sync::Arc;

use kybern_apimachinery::{Map, Value};

use crate::types::{DefaultCondition, DefaultRule, KindType, Schema, StructType, Type};

/// Fills in every default of the kind that depends on nothing outside its own struct.
pub fn apply_defaults(kind: &KindType, object: &mut Value) {
    value(&kind.schema, &Type::Struct(kind.root), object);
}

fn value(schema: &Schema, ty: &Type, tree: &mut Value) {
    match (ty, tree) {
        (Type::Struct(id), Value::Object(object)) => fields(schema, schema.get(*id), object),
        (Type::List(list), Value::Array(items)) if holds_structs(&list.item) => {
            items.iter_mut().for_each(|item| value(schema, &list.item, item));
        }
        (Type::Map(map), Value::Object(entries)) if holds_structs(&map.value) => {
            entries.values_mut().for_each(|entry| value(schema, &map.value, entry));
        }
        _ => {}
    }
}

fn holds_structs(ty: &Type) -> bool {
    matches!(ty, Type::Struct(_) | Type::List(_) | Type::Map(_))
}

fn fields(schema: &Schema, shape: &StructType, object: &mut Map<String, Value>) {
    let (declared, others) = shape.split_defaults();
    if !declared.is_empty() {
        apply_declared(declared, object);
    }
    for rule in others {
        if rule.conditions.iter().all(|c| holds(c, object)) {
            apply(rule, object);
        }
    }
    for (key, child) in object {
        if (child.is_object() || child.is_array())
            && let Some(field) = shape.field(key)
        {
            value(schema, &field.ty, child);
        }
    }
}

/// Applies the rules of fields, which are sorted as the object's keys are: both are gone through together.
fn apply_declared(rules: &[DefaultRule], object: &mut Map<String, Value>) {
    let mut missing: Vec<(String, Value)> = Vec::new();
    let mut set = object.iter_mut().peekable();
    for rule in rules {
        let name = &*rule.path[0];
        while set.next_if(|(key, _)| key.as_str() < name).is_some() {}
        match set.next_if(|(key, _)| key.as_str() == name) {
            Some((_, value)) if rule.replaces(value) => *value = rule.value.clone(),
            Some(_) => {}
            None => missing.push((name.to_owned(), rule.value.clone())),
        }
    }
    if missing.len() > FEW {
        object.append(&mut missing.into_iter().collect());
    } else {
        object.extend(missing);
    }
}

/// So many keys are sooner put into a map one by one than by building it anew.
const FEW: usize = 4;

impl DefaultRule {
    /// Whether a value that is there counts as unset.
    fn replaces(&self, value: &Value) -> bool {
        if value.is_null() { self.replaces_null } else { self.replaces_zero && is_zero(value) }
    }
}

fn apply(rule: &DefaultRule, object: &mut Map<String, Value>) {
    let Some((leaf, parents)) = rule.path.split_last() else { return };
    let mut at = object;
    for key in parents {
        match at.get_mut(key.as_ref()) {
            Some(Value::Object(inner)) => at = inner,
            _ => return,
        }
    }
    if at.get(leaf.as_ref()).is_none_or(|value| rule.replaces(value)) {
        at.insert(leaf.to_string(), rule.value.clone());
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
    }
}

fn holds(condition: &DefaultCondition, object: &Map<String, Value>) -> bool {
    let at = |path: &[Arc<str>]| {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(object.get(first.as_ref())?, |value, key| value.get(key.as_ref()))
    };
    let set = |path| at(path).is_some_and(|v| !is_zero(v) || v.is_number() || v.is_boolean());
    match condition {
        DefaultCondition::Equals(path, value) => at(path) == Some(value),
        DefaultCondition::Differs(path, value) => at(path) != Some(value),
        DefaultCondition::Set(path) => set(path),
        DefaultCondition::Unset(path) => !set(path),
        DefaultCondition::Only(key) => object.keys().all(|k| k == key.as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::{Gvk, json};

    use super::*;
    use crate::{Strictness, builtin, decode_value};

    fn check(group: &str, version: &str, kind: &str, object: Value, expect: &Value) {
        let kind = builtin().kind(&Gvk::new(group, version, kind)).unwrap();
        let (mut object, _) = decode_value(&kind, object, Strictness::Strict).unwrap();
        apply_defaults(&kind, &mut object);
        for (key, expect) in expect.as_object().unwrap() {
            assert_eq!(&object[key], expect, "{key} of {}", kind.gvk);
        }
    }

    #[test]
    fn pods() {
        check(
            "",
            "v1",
            "Pod",
            json!({"spec": {
                "containers": [{
                    "name": "a",
                    "ports": [{"containerPort": 80}],
                    "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 5},
                    "readinessProbe": {"grpc": {"port": 1}},
                    "env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                }],
                "volumes": [{"name": "v"}, {"name": "h", "hostPath": {"path": "/"}}, {"name": "s", "secret": {"secretName": "s", "defaultMode": 0}}],
            }}),
            &json!({"spec": {
                "containers": [{
                    "name": "a", "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                        "periodSeconds": 5, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3},
                    "readinessProbe": {"grpc": {"port": 1, "service": ""},
                        "periodSeconds": 10, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3},
                    "env": [{"name": "X", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                }],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/", "type": ""}},
                    {"name": "s", "secret": {"secretName": "s", "defaultMode": 0}}],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            }}),
        );
    }

    #[test]
    fn rules_with_conditions() {
        let deployment = |strategy: Value, expect: Value| {
            let expect = json!({"spec": {
                "replicas": 0, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600, "selector": null, "strategy": expect,
                "template": {"metadata": {}, "spec": {"containers": null, "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
                    "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30}},
            }});
            check("apps", "v1", "Deployment", json!({"spec": {"replicas": 0, "strategy": strategy}}), &expect);
        };
        deployment(
            json!({}),
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
        );
        deployment(
            json!({"rollingUpdate": {"maxSurge": 0}}),
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "25%"}}),
        );
        deployment(json!({"type": "Recreate"}), json!({"type": "Recreate"}));

        let service =
            |spec: Value, expect: Value| check("", "v1", "Service", json!({"spec": spec}), &json!({"spec": expect}));
        service(json!({}), json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"}));
        service(
            json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP"}),
            json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Cluster",
                "externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true,
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}}),
        );
        service(
            json!({"type": "ExternalName", "externalName": "a"}),
            json!({"type": "ExternalName", "sessionAffinity": "None", "externalName": "a"}),
        );

        let job = |spec: Value, expect: Value| {
            let kind = builtin().kind(&Gvk::new("batch", "v1", "Job")).unwrap();
            let mut object = json!({"spec": spec, "apiVersion": "batch/v1", "kind": "Job"});
            apply_defaults(&kind, &mut object);
            assert_eq!(
                [&object["spec"]["completions"], &object["spec"]["parallelism"], &object["spec"]["backoffLimit"]],
                [&expect[0], &expect[1], &expect[2]]
            );
        };
        job(json!({}), json!([1, 1, 6]));
        job(json!({"parallelism": 2}), json!([null, 2, 6]));
        job(json!({"completions": 3, "backoffLimitPerIndex": 1}), json!([3, 1, i32::MAX]));
        check(
            "rbac.authorization.k8s.io",
            "v1",
            "RoleBinding",
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}]}),
            &json!({
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}],
            }),
        );
        check(
            "networking.k8s.io",
            "v1",
            "NetworkPolicy",
            json!({"spec": {"egress": [{}]}}),
            &json!({"spec": {"egress": [{}], "podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}),
        );
    }
}

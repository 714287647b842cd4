//! What upstream accepts in a pod's spec, and warns of (`pkg/api/pod/warnings.go`).

use kybern_apimachinery::field::FieldPath;
use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::{Value, object};

use crate::tree::{int, list, map, text};

/// The warnings of a pod's spec.
pub(crate) fn pod_spec(path: &FieldPath, spec: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for (i, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            out.push(format!("{}: invalid empty name \"\"", path.child("imagePullSecrets").index(i).child("name")));
        }
    }
    for field in ["initContainers", "containers"] {
        for (i, container) in list(spec, field).iter().enumerate() {
            let path = path.child(field).index(i);
            env(&mut out, &path.child("env"), list(container, "env"));
            ports(&mut out, &path.child("ports"), list(container, "ports"));
            resources(&mut out, &path.child("resources"), &container["resources"]);
        }
    }
    out
}

/// Of a workload's template, when it is made or changed.
pub(crate) fn template(object: &Value, old: Option<&Value>) -> Vec<String> {
    let spec = |object| object::at(object, &["spec", "template", "spec"]);
    match (spec(object), old.and_then(spec)) {
        (Some(new), old) if old != Some(new) => pod_spec(&FieldPath::new("spec.template.spec"), new),
        _ => Vec::new(),
    }
}

fn env(out: &mut Vec<String>, path: &FieldPath, variables: &[Value]) {
    for (i, variable) in variables.iter().enumerate() {
        let name = text(variable, "name");
        let hides = variables[..i].iter().any(|earlier| text(earlier, "name") == name);
        // One that is made of what it hides, like PATH, is meant.
        if hides && !text(variable, "value").contains(&format!("$({name})")) {
            let path = path.index(i);
            out.push(format!("{path}: hides previous definition of {name:?}, which may be dropped when using apply"));
        }
    }
}

fn ports(out: &mut Vec<String>, path: &FieldPath, ports: &[Value]) {
    let key = |port: &Value| (int(port, "containerPort"), text(port, "protocol").to_owned(), int(port, "hostPort"));
    for (i, port) in ports.iter().enumerate() {
        if let Some(first) = ports[..i].iter().position(|earlier| key(earlier) == key(port)) {
            out.push(format!("{}: duplicate port definition with {}", path.index(i), path.index(first)));
        }
    }
}

/// A common mistake: `100m` of memory is a tenth of a byte.
fn resources(out: &mut Vec<String>, path: &FieldPath, resources: &Value) {
    for part in ["limits", "requests"] {
        for (resource, amount) in
            map(resources, part).filter(|(r, _)| matches!(r.as_str(), "memory" | "ephemeral-storage"))
        {
            let amount = amount.as_str().unwrap_or("");
            let fractional = |millis: i64| millis < i64::MAX && millis % 1000 != 0;
            if Quantity::parse(amount).is_ok_and(|quantity| fractional(quantity.milli_value())) {
                let path = path.child(part).key(resource);
                out.push(format!("{path}: fractional byte value {amount:?} is invalid, must be an integer"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn what_is_hardly_meant_is_told() {
        let check = |container: Value, expect: &[&str]| {
            let spec = json!({"containers": [container]});
            assert_eq!(pod_spec(&FieldPath::new("spec"), &spec), expect);
        };
        check(json!({"env": [{"name": "A", "value": "1"}, {"name": "B"}]}), &[]);
        check(
            json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}),
            &["spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply"],
        );
        check(json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A):2"}]}), &[]);
        check(
            json!({"ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP", "name": "b"}]}),
            &["spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]"],
        );
        check(
            json!({"ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}]}),
            &[],
        );
        check(
            json!({"resources": {"limits": {"cpu": "100m", "memory": "100m"}}}),
            &[
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            ],
        );
        let pull = json!({"imagePullSecrets": [{}]});
        assert_eq!(
            pod_spec(&FieldPath::new("spec"), &pull),
            ["spec.imagePullSecrets[0].name: invalid empty name \"\""]
        );
    }

    #[test]
    fn a_template_is_told_of_when_it_changes() {
        let object = json!({"spec": {"template": {"spec": {"imagePullSecrets": [{}]}}}});
        assert_eq!(template(&object, None).len(), 1);
        assert!(template(&object, Some(&object)).is_empty());
    }
}

//! `resource.k8s.io/v1beta1`: a claim's request is flat there and `exactly` in v1; a slice's device is `basic` there and
//! flat in v1.

use kybern_apimachinery::{Map, Value};

use crate::tree::list_mut;

/// What stays beside `exactly` in a request of v1.
const BESIDE: [&str; 2] = ["name", "firstAvailable"];

fn requests(object: &mut Value) -> impl Iterator<Item = &mut Value> {
    let at = if object.pointer("/spec/spec/devices").is_some() { "/spec/spec/devices" } else { "/spec/devices" };
    object.pointer_mut(at).filter(|d| d.is_object()).into_iter().flat_map(|d| list_mut(d, "requests"))
}

fn devices(object: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    object.get_mut("spec").into_iter().flat_map(|s| list_mut(s, "devices")).filter_map(Value::as_object_mut)
}

pub(super) fn to_v1(mut object: Value) -> Value {
    object["apiVersion"] = "resource.k8s.io/v1".into();
    for request in requests(&mut object).filter_map(Value::as_object_mut) {
        let keys: Vec<String> = request.keys().filter(|k| !BESIDE.contains(&k.as_str())).cloned().collect();
        let exactly: Map<String, Value> = keys.into_iter().filter_map(|k| request.remove(&k).map(|v| (k, v))).collect();
        if !exactly.is_empty() {
            request.insert("exactly".to_owned(), exactly.into());
        }
    }
    for device in devices(&mut object) {
        if let Some(Value::Object(basic)) = device.remove("basic") {
            device.extend(basic);
        }
    }
    object
}

pub(super) fn from_v1(mut object: Value) -> Value {
    object["apiVersion"] = "resource.k8s.io/v1beta1".into();
    for request in requests(&mut object).filter_map(Value::as_object_mut) {
        if let Some(Value::Object(exactly)) = request.remove("exactly") {
            request.extend(exactly);
        }
    }
    for device in devices(&mut object) {
        let keys: Vec<String> = device.keys().filter(|k| *k != "name").cloned().collect();
        let basic: Map<String, Value> = keys.into_iter().filter_map(|k| device.remove(&k).map(|v| (k, v))).collect();
        device.insert("basic".to_owned(), basic.into());
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn there_and_back() {
        let claim = json!({"apiVersion": "resource.k8s.io/v1beta1", "spec": {"devices": {"requests": [{"name": "a", "deviceClassName": "c"}]}}});
        let v1 = to_v1(claim.clone());
        assert_eq!(v1["spec"]["devices"]["requests"][0], json!({"name": "a", "exactly": {"deviceClassName": "c"}}));
        assert_eq!(from_v1(v1), claim);
        let slice = json!({"apiVersion": "resource.k8s.io/v1beta1", "spec": {"devices": [{"name": "d", "basic": {"attributes": {}}}]}});
        assert_eq!(from_v1(to_v1(slice.clone())), slice);
    }
}

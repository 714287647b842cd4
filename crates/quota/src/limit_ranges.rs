//! What the LimitRanges of a namespace make of a pod or a claim (`plugin/pkg/admission/limitranger`).

use std::collections::BTreeMap;

use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::tree::{list, list_mut, map, text};
use kybern_apimachinery::{Map, Value, object};

use crate::amounts::{Amounts, amounts};
use crate::resources::totals_for_limits;

/// Says on the pod what was set.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Up to here amounts are compared by thousandths.
const MAX_MILLIS: i64 = i64::MAX / 1000;

fn limits<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    list(&range["spec"], "limits").iter().filter(move |limit| text(limit, "type") == kind)
}

/// Gives a pod's containers the requests and limits that they do not name.
pub fn set_defaults(range: &Value, pod: &mut Value) {
    let mut defaults: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for limit in limits(range, "Container") {
        for (part, from) in [("requests", "defaultRequest"), ("limits", "default")] {
            defaults
                .entry(part)
                .or_default()
                .extend(map(limit, from).map(|(name, amount)| (name.clone(), amount.clone())));
        }
    }
    let mut told = Vec::new();
    for (field, noun) in [("containers", "container"), ("initContainers", "init container")] {
        for container in list_mut(&mut pod["spec"], field) {
            let name = text(container, "name").to_owned();
            for (part, word) in [("requests", "request"), ("limits", "limit")] {
                let set = set_missing(container, part, defaults.get(part));
                if !set.is_empty() {
                    told.push(format!("{} {word} for {noun} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        let annotations = object::map_at_mut(pod, &["metadata", "annotations"]);
        annotations.insert(ANNOTATION.to_owned(), format!("LimitRanger plugin set: {}", told.join("; ")).into());
    }
}

/// The names of what was set.
fn set_missing(container: &mut Value, part: &str, defaults: Option<&Map<String, Value>>) -> Vec<String> {
    let missing = |container: &Value| {
        let given = &container["resources"][part];
        let all = defaults.into_iter().flatten();
        all.filter(|(name, _)| given.get(name.as_str()).is_none()).map(|(n, a)| (n.clone(), a.clone())).collect()
    };
    let missing: Vec<(String, Value)> = missing(container);
    if missing.is_empty() {
        return Vec::new();
    }
    let names = missing.iter().map(|(name, _)| name.clone()).collect();
    object::map_at_mut(container, &["resources", part]).extend(missing);
    names
}

/// What a container, a pod or a claim asks for.
struct Asked<'a> {
    kind: &'a str,
    requests: Amounts,
    limits: Amounts,
}

impl Asked<'_> {
    /// Thousandths where none of them is too large for that.
    fn values(amounts: [Option<&Quantity>; 3]) -> [i64; 3] {
        let small = amounts.iter().flatten().all(|amount| amount.value() <= MAX_MILLIS);
        amounts.map(|amount| amount.map_or(0, |a| if small { a.milli_value() } else { a.value() }))
    }

    fn min(&self, name: &str, least: &Quantity) -> Option<String> {
        let (request, limit) = (self.requests.get(name), self.limits.get(name));
        let [asked, limited, least_value] = Self::values([request, limit, Some(least)]);
        let said = format!("minimum {name} usage per {} is {least}", self.kind);
        match (request, limit) {
            (None, _) => Some(format!("{said}.  No request is specified")),
            (Some(request), _) if asked < least_value => Some(format!("{said}, but request is {request}")),
            (_, Some(limit)) if limited < least_value => Some(format!("{said}, but limit is {limit}")),
            _ => None,
        }
    }

    fn max(&self, name: &str, most: &Quantity) -> Option<String> {
        let (request, limit) = (self.requests.get(name), self.limits.get(name));
        let [asked, limited, most_value] = Self::values([request, limit, Some(most)]);
        let said = format!("maximum {name} usage per {} is {most}", self.kind);
        match (request, limit) {
            (_, None) => Some(format!("{said}.  No limit is specified")),
            (_, Some(limit)) if limited > most_value => Some(format!("{said}, but limit is {limit}")),
            (Some(request), _) if asked > most_value => Some(format!("{said}, but request is {request}")),
            _ => None,
        }
    }

    /// Of what has no limits.
    fn max_request(&self, name: &str, most: &Quantity) -> Option<String> {
        let request = self.requests.get(name);
        let [asked, _, most_value] = Self::values([request, None, Some(most)]);
        let said = format!("maximum {name} usage per {} is {most}", self.kind);
        match request {
            None => Some(format!("{said}.  No request is specified")),
            Some(request) if asked > most_value => Some(format!("{said}, but request is {request}")),
            Some(_) => None,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "as upstream compares them")]
    fn ratio(&self, name: &str, most: &Quantity) -> Option<String> {
        let (request, limit) = (self.requests.get(name), self.limits.get(name));
        let [asked, limited, _] = Self::values([request, limit, Some(most)]);
        let said = format!("{name} max limit to request ratio per {} is {most}", self.kind);
        if asked == 0 {
            return Some(format!("{said}, but no request is specified or request is 0"));
        }
        if limited == 0 {
            return Some(format!("{said}, but no limit is specified or limit is 0"));
        }
        let ratio = limited as f64 / asked as f64;
        let (given, allowed) = if most.value() <= MAX_MILLIS {
            (ratio * 1000.0, most.milli_value() as f64)
        } else {
            (ratio, most.value() as f64)
        };
        (given > allowed).then(|| format!("{said}, but provided ratio is {ratio:.6}"))
    }

    fn check(&self, limit: &Value, out: &mut Vec<String>) {
        for (name, least) in &amounts(limit, "min") {
            out.extend(self.min(name, least));
        }
        for (name, most) in &amounts(limit, "max") {
            out.extend(self.max(name, most));
        }
        for (name, most) in &amounts(limit, "maxLimitRequestRatio") {
            out.extend(self.ratio(name, most));
        }
    }
}

/// Upstream's text for several errors, each told once.
fn together(mut texts: Vec<String>) -> Result<(), String> {
    let mut seen = std::collections::BTreeSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    match texts.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        several => Err(format!("[{}]", several.join(", "))),
    }
}

/// Whether a pod keeps to a LimitRange.
pub fn check_pod(range: &Value, pod: &Value) -> Result<(), String> {
    let mut out = Vec::new();
    for limit in list(&range["spec"], "limits") {
        match text(limit, "type") {
            kind @ "Container" => {
                for container in ["containers", "initContainers"].iter().flat_map(|field| list(&pod["spec"], field)) {
                    let resources = &container["resources"];
                    let (requests, limits) = (amounts(resources, "requests"), amounts(resources, "limits"));
                    Asked { kind, requests, limits }.check(limit, &mut out);
                }
            }
            kind @ "Pod" => {
                let (requests, limits) = totals_for_limits(pod);
                Asked { kind, requests, limits }.check(limit, &mut out);
            }
            _ => {}
        }
    }
    together(out)
}

/// Whether a claim keeps to a LimitRange: by what it requests alone.
pub fn check_claim(range: &Value, claim: &Value) -> Result<(), String> {
    let kind = "PersistentVolumeClaim";
    let requests = amounts(&claim["spec"]["resources"], "requests");
    let (asked, mut out) = (Asked { kind, requests, limits: Amounts::new() }, Vec::new());
    for limit in limits(range, kind) {
        for (name, least) in &amounts(limit, "min") {
            out.extend(asked.min(name, least));
        }
        for (name, most) in &amounts(limit, "max") {
            out.extend(asked.max_request(name, most));
        }
    }
    together(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn range(limit: Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    fn pod(resources: Value) -> Value {
        json!({"metadata": {}, "spec": {"containers": [{"name": "a", "resources": resources}]}})
    }

    #[test]
    fn what_is_missing_is_set_and_told() {
        let range = range(
            json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "500m"}}),
        );
        let mut object = pod(json!({"limits": {"cpu": "2"}}));
        object["spec"]["initContainers"] = json!([{"name": "i", "resources": {}}]);
        set_defaults(&range, &mut object);
        assert_eq!(
            object["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "500m"}})
        );
        assert_eq!(
            object["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; memory limit for container a; cpu request for init \
             container i; cpu, memory limit for init container i"
        );
        let before = object.clone();
        set_defaults(&range, &mut object);
        assert_eq!(object, before, "there is nothing left to set");
        let mut full = pod(json!({"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "1"}}));
        set_defaults(&range, &mut full);
        assert!(full["metadata"].get("annotations").is_none());
    }

    #[test]
    fn containers_keep_within() {
        let check = |limit: Value, resources: Value, expect: &str| {
            let text = check_pod(&range(limit), &pod(resources)).err().unwrap_or_default();
            assert_eq!(text, expect);
        };
        let min = json!({"type": "Container", "min": {"cpu": "100m"}});
        check(min.clone(), json!({}), "minimum cpu usage per Container is 100m.  No request is specified");
        check(
            min.clone(),
            json!({"requests": {"cpu": "50m"}}),
            "minimum cpu usage per Container is 100m, but request is 50m",
        );
        check(
            min.clone(),
            json!({"requests": {"cpu": "1"}, "limits": {"cpu": "50m"}}),
            "minimum cpu usage per Container is 100m, but limit is 50m",
        );
        check(min, json!({"requests": {"cpu": "100m"}}), "");
        let max = json!({"type": "Container", "max": {"cpu": "1", "memory": "1Gi"}});
        check(
            max.clone(),
            json!({"limits": {"cpu": "2"}}),
            "[maximum cpu usage per Container is 1, but limit is 2, maximum memory usage per Container is 1Gi.  No limit is specified]",
        );
        check(
            max,
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "2"}}),
            "maximum cpu usage per Container is 1, but request is 2",
        );
        let ratio = json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "1500m"}});
        check(ratio.clone(), json!({"limits": {"cpu": "3"}, "requests": {"cpu": "2"}}), "");
        check(
            ratio.clone(),
            json!({"limits": {"cpu": "5"}, "requests": {"cpu": "3"}}),
            "cpu max limit to request ratio per Container is 1500m, but provided ratio is 1.666667",
        );
        check(
            ratio.clone(),
            json!({"limits": {"cpu": "5"}}),
            "cpu max limit to request ratio per Container is 1500m, but no request is specified or request is 0",
        );
        check(
            ratio,
            json!({"requests": {"cpu": "5"}}),
            "cpu max limit to request ratio per Container is 1500m, but no limit is specified or limit is 0",
        );
    }

    #[test]
    fn pods_are_summed_up() {
        let limit = range(json!({"type": "Pod", "max": {"cpu": "1"}}));
        let mut object = pod(json!({"limits": {"cpu": "600m"}}));
        assert_eq!(check_pod(&limit, &object), Ok(()));
        object["spec"]["containers"] = json!([object["spec"]["containers"][0], object["spec"]["containers"][0]]);
        assert_eq!(check_pod(&limit, &object), Err("maximum cpu usage per Pod is 1, but limit is 1200m".to_owned()));
        object["spec"]["resources"] = json!({"limits": {"cpu": "900m", "hugepages-2Mi": "2Mi"}});
        object["spec"]["overhead"] = json!({"cpu": "5"});
        assert_eq!(check_pod(&limit, &object), Ok(()), "the pod as a whole says less; overhead is not its own");
    }

    #[test]
    fn claims_keep_within() {
        let limit =
            range(json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "5Gi"}}));
        let check = |size: &str| check_claim(&limit, &json!({"spec": {"resources": {"requests": {"storage": size}}}}));
        assert_eq!(check("2Gi"), Ok(()));
        let text = "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi";
        assert_eq!(check("1Mi"), Err(text.to_owned()));
        let text = "maximum storage usage per PersistentVolumeClaim is 5Gi, but request is 6Gi";
        assert_eq!(check("6Gi"), Err(text.to_owned()));
    }
}

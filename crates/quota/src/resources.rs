//! What a pod asks for as a whole (`k8s.io/component-helpers/resource`).

use std::collections::BTreeMap;

use kybern_apimachinery::Value;
use kybern_apimachinery::tree::{list, map, text};

use crate::amounts::{Amounts, add, amounts, raise};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Requests,
    Limits,
}

impl Part {
    fn field(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Limits => "limits",
        }
    }
}

/// Whether pods as a whole may ask for a resource.
pub fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn asks_as_a_whole(pod: &Value, parts: &[Part]) -> bool {
    let resources = &pod["spec"]["resources"];
    parts.iter().flat_map(|part| map(resources, part.field())).any(|(name, _)| is_pod_level(name))
}

/// Whether a pod as a whole says what it asks for.
pub fn is_set_for_pod(pod: &Value) -> bool {
    asks_as_a_whole(pod, &[Part::Requests, Part::Limits])
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

/// The statuses of containers that say what they have, by container; none where they are not to be looked at.
type Statuses<'a> = BTreeMap<&'a str, &'a Value>;

fn statuses(pod: &Value, looked_at: bool) -> Statuses<'_> {
    let fields = ["containerStatuses", "initContainerStatuses"].iter().filter(|_| looked_at);
    let all = fields.flat_map(|field| list(&pod["status"], field));
    all.filter(|status| !status["resources"].is_null()).map(|status| (text(status, "name"), status)).collect()
}

/// What a container asks for, or still has while it is resized.
fn of_container(container: &Value, part: Part, status: Option<&Value>, infeasible: bool) -> Amounts {
    let asked = amounts(&container["resources"], part.field());
    let Some(status) = status else { return asked };
    let mut all = if infeasible { Amounts::new() } else { asked };
    raise(&mut all, &amounts(&status["resources"], part.field()));
    if part == Part::Requests {
        raise(&mut all, &amounts(status, "allocatedResources"));
    }
    all
}

/// Containers run together, with the init containers that stay; each other init container runs beside those before it.
fn of_containers(pod: &Value, part: Part, use_status: bool) -> Amounts {
    let (spec, statuses) = (&pod["spec"], statuses(pod, use_status));
    let pending = list(&pod["status"], "conditions").iter().find(|c| text(c, "type") == "PodResizePending");
    let infeasible = pending.is_some_and(|condition| text(condition, "reason") == "Infeasible");
    let of =
        |container: &Value| of_container(container, part, statuses.get(text(container, "name")).copied(), infeasible);
    let mut all = Amounts::new();
    list(spec, "containers").iter().for_each(|container| add(&mut all, &of(container)));
    let (mut sidecars, mut initial) = (Amounts::new(), Amounts::new());
    for container in list(spec, "initContainers") {
        if is_sidecar(container) {
            let own = of(container);
            add(&mut all, &own);
            add(&mut sidecars, &own);
            raise(&mut initial, &sidecars);
        } else {
            let mut own = amounts(&container["resources"], part.field());
            add(&mut own, &sidecars);
            raise(&mut initial, &own);
        }
    }
    raise(&mut all, &initial);
    all
}

fn replace_as_a_whole(all: &mut Amounts, pod: &Value, part: Part) {
    let own = amounts(&pod["spec"]["resources"], part.field());
    all.extend(own.into_iter().filter(|(name, _)| is_pod_level(name)));
}

/// What a pod requests, its overhead included. `use_status`: as long as containers have more than they ask for, that.
pub fn pod_requests(pod: &Value, use_status: bool) -> Amounts {
    let mut all = of_containers(pod, Part::Requests, use_status);
    if asks_as_a_whole(pod, &[Part::Requests]) {
        replace_as_a_whole(&mut all, pod, Part::Requests);
    }
    add(&mut all, &amounts(&pod["spec"], "overhead"));
    all
}

/// What a pod is limited to; overhead counts where there is a limit.
pub fn pod_limits(pod: &Value, use_status: bool) -> Amounts {
    let mut all = of_containers(pod, Part::Limits, use_status);
    if is_set_for_pod(pod) {
        replace_as_a_whole(&mut all, pod, Part::Limits);
    }
    for (name, overhead) in amounts(&pod["spec"], "overhead") {
        if let Some(limit) = all.get_mut(&name).filter(|limit| !limit.is_zero()) {
            *limit = limit.plus(overhead);
        }
    }
    all
}

/// What LimitRanges take a pod to request and to be limited to: without overhead, and by its spec alone.
pub(crate) fn totals_for_limits(pod: &Value) -> (Amounts, Amounts) {
    let total = |part: Part| {
        let mut all = of_containers(pod, part, false);
        let own = amounts(&pod["spec"]["resources"], part.field());
        all.extend(own.into_iter().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory")));
        all
    };
    (total(Part::Requests), total(Part::Limits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amounts::to_json;
    use kybern_apimachinery::json;

    fn of(pod: &Value) -> (Value, Value) {
        (to_json(&pod_requests(pod, true)), to_json(&pod_limits(pod, true)))
    }

    fn container(name: &str, cpu: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}})
    }

    #[test]
    fn containers_run_together_and_init_containers_in_turn() {
        let mut pod = json!({"spec": {"containers": [container("a", "1"), container("b", "500m")]}});
        assert_eq!(of(&pod).0, json!({"cpu": "1500m"}));
        pod["spec"]["initContainers"] = json!([container("i", "2")]);
        assert_eq!(of(&pod).0, json!({"cpu": "2"}), "the largest");
        let mut sidecar = container("s", "1");
        sidecar["restartPolicy"] = "Always".into();
        pod["spec"]["initContainers"] = json!([sidecar, container("i", "2")]);
        assert_eq!(of(&pod).0, json!({"cpu": "3"}), "beside the sidecar before it");
        pod["spec"]["overhead"] = json!({"cpu": "100m", "memory": "1Mi"});
        assert_eq!(of(&pod), (json!({"cpu": "3100m", "memory": "1Mi"}), json!({"cpu": "3100m"})));
    }

    #[test]
    fn a_pod_as_a_whole_comes_first() {
        let mut pod = json!({"spec": {"containers": [container("a", "1")], "resources": {"requests": {"cpu": "4", "example.com/x": "3"}}}});
        assert_eq!(of(&pod), (json!({"cpu": "4"}), json!({"cpu": "1"})));
        assert!(is_set_for_pod(&pod));
        pod["spec"]["resources"] = json!({"requests": {"example.com/x": "3"}});
        assert!(!is_set_for_pod(&pod));
    }

    #[test]
    fn what_a_resized_container_still_has_counts() {
        let resources = json!({"requests": {"cpu": "3"}, "limits": {"cpu": "3"}});
        let mut pod = json!({"spec": {"containers": [container("a", "1")]},
            "status": {"containerStatuses": [{"name": "a", "resources": resources, "allocatedResources": {"cpu": "4"}}]}});
        assert_eq!(of(&pod), (json!({"cpu": "4"}), json!({"cpu": "3"})));
        assert_eq!(to_json(&pod_requests(&pod, false)), json!({"cpu": "1"}));
        pod["spec"]["containers"][0] = container("a", "9");
        assert_eq!(of(&pod).0, json!({"cpu": "9"}));
        pod["status"]["conditions"] = json!([{"type": "PodResizePending", "reason": "Infeasible"}]);
        assert_eq!(of(&pod), (json!({"cpu": "4"}), json!({"cpu": "3"})));
    }
}

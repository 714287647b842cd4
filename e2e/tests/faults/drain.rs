//! A node is emptied: budgets hold, and what had to go comes back.

use kybern_e2e::{Cluster, eventually};

/// Whatever comes out: the tests after this one need the node.
struct Uncordon<'a>(&'a str);

impl Drop for Uncordon<'_> {
    fn drop(&mut self) {
        Cluster::get().kubectl().run(&["uncordon", self.0]);
    }
}

#[test]
fn a_drain_honours_budgets_and_is_taken_back() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("drain");
    let app = namespace.name.clone();
    namespace.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: 3\n  \
         selector: {{matchLabels: {{app: {app}}}}}\n  template:\n    metadata: {{labels: {{app: {app}}}}}\n    spec:\n      \
         containers: [{{name: web, image: 'nginx:1.14'}}]\n---\napiVersion: policy/v1\nkind: PodDisruptionBudget\n\
         metadata: {{name: web}}\nspec: {{minAvailable: 2, selector: {{matchLabels: {{app: {app}}}}}}}\n"
    ));
    namespace.run(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    eventually("the budget allows one", || {
        let allowed = namespace.jsonpath(&["pdb", "web"], "{.status.disruptionsAllowed}");
        if allowed == "1" { Ok(()) } else { Err(allowed) }
    });
    let node = namespace.jsonpath(&["nodes"], "{.items[0].metadata.name}");
    // Only these pods: the add-ons of the only node would have nowhere to go.
    let selector = format!("--pod-selector=app={app}");
    let drain = |timeout: &str| namespace.run(&["drain", &node, &selector, &format!("--timeout={timeout}")]);
    let cordoned = Uncordon(&node);
    let refused = drain("12s").fails();
    assert!(refused.contains("Cannot evict pod as it would violate the pod's disruption budget."), "{refused}");
    let available = namespace.jsonpath(&["deployment", "web"], "{.status.availableReplicas}");
    assert_eq!(available, "2", "the budget promises two");
    eventually("its replacement waits and says why", || {
        let path = "{.items[*].status.conditions[?(@.type=='PodScheduled')].message}";
        let told = namespace.jsonpath(&["pods"], path);
        if told.contains("0/1 nodes are available: 1 node(s) were unschedulable") { Ok(()) } else { Err(told) }
    });
    drop(cordoned);
    namespace.run(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();

    // Without a budget all go, and come back.
    namespace.run(&["delete", "pdb", "web"]).ok();
    let cordoned = Uncordon(&node);
    assert!(drain("60s").ok().contains(&format!("node/{node} drained")));
    drop(cordoned);
    namespace.run(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
}

//! Pods from creation to deletion.

use http::Method;
use kybern_apimachinery::{Value, json};

use crate::harness::{Cluster, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn a_created_pod_reads_as_upstreams() {
    let cluster = Cluster::start().await;
    let made = cluster.create(PODS, pod("a")).await;
    let spec = &made["spec"];
    for (pointer, expect) in [
        ("/restartPolicy", json!("Always")),
        ("/dnsPolicy", json!("ClusterFirst")),
        ("/schedulerName", json!("default-scheduler")),
        ("/serviceAccountName", json!("default")),
        ("/serviceAccount", json!("default")),
        ("/terminationGracePeriodSeconds", json!(30)),
        ("/enableServiceLinks", json!(true)),
        ("/priority", json!(0)),
        ("/preemptionPolicy", json!("PreemptLowerPriority")),
        ("/securityContext", json!({})),
        ("/containers/0/imagePullPolicy", json!("IfNotPresent")),
        ("/containers/0/terminationMessagePath", json!("/dev/termination-log")),
        ("/containers/0/ports/0/protocol", json!("TCP")),
        ("/containers/0/resources/requests", json!({"cpu": "1", "memory": "64Mi"})),
        ("/containers/0/volumeMounts/0/mountPath", json!("/var/run/secrets/kubernetes.io/serviceaccount")),
        ("/tolerations/0/key", json!("node.kubernetes.io/not-ready")),
    ] {
        assert_eq!(spec.pointer(pointer), Some(&expect), "{pointer} of {spec}");
    }
    assert!(spec["volumes"][0]["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(made["status"], json!({"phase": "Pending", "qosClass": "Guaranteed"}));
    assert_eq!(cluster.table(PODS).await[0][..4], json!(["a", "0/1", "Pending", "0"]).as_array().unwrap()[..]);
}

#[tokio::test]
async fn a_pod_is_bound_and_deleted_with_grace() {
    let cluster = Cluster::start().await;
    cluster.create(PODS, pod("a")).await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    let path = format!("{PODS}/a");
    cluster.create(&format!("{path}/binding"), binding.clone()).await;
    let bound = cluster.get(&path).await;
    assert_eq!(
        (&bound["spec"]["nodeName"], &bound["status"]["conditions"][0]["type"]),
        (&json!("n"), &json!("PodScheduled"))
    );
    let text = cluster.refusal(Method::POST, &format!("{path}/binding"), Some(binding), 409).await;
    assert!(text.contains("is already assigned to node"), "{text}");

    let (code, image) = cluster.patch(&path, json!({"spec": {"activeDeadlineSeconds": 100}})).await;
    assert_eq!(code, 200, "{image}");
    let (code, refused) = cluster.patch(&path, json!({"spec": {"nodeName": "m"}})).await;
    assert_eq!(code, 422);
    assert!(refused["message"].as_str().unwrap().contains("pod updates may not change fields other than"), "{refused}");

    let (code, going) = cluster.ask(Method::DELETE, &path, None).await;
    assert_eq!((code, &going["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)), "{going}");
    assert_eq!(cluster.table(PODS).await[0][2], "Terminating");
    let now = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
    cluster.ask(Method::DELETE, &path, Some(now)).await;
    assert_eq!(cluster.refusal(Method::GET, &path, None, 404).await, "pods \"a\" not found");
}

#[tokio::test]
async fn an_update_that_leaves_out_what_admission_set_keeps_it() {
    let cluster = Cluster::start().await;
    cluster.create(PODS, pod("a")).await;
    let own = json!({"key": "k", "operator": "Exists"});
    let patch = json!({"spec": {"tolerations": [own], "priority": null, "preemptionPolicy": null}});
    let (code, pod) = cluster.patch(&format!("{PODS}/a"), patch).await;
    assert_eq!(code, 200, "{pod}");
    let keys: Vec<&str> =
        pod["spec"]["tolerations"].as_array().unwrap().iter().map(|t| t["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["k", "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]);
    assert_eq!(
        (&pod["spec"]["priority"], &pod["spec"]["preemptionPolicy"]),
        (&json!(0), &json!("PreemptLowerPriority"))
    );
}

#[tokio::test]
async fn an_unscheduled_pod_goes_at_once() {
    let cluster = Cluster::start().await;
    cluster.create(PODS, pod("a")).await;
    cluster.ask(Method::DELETE, &format!("{PODS}/a"), None).await;
    cluster.refusal(Method::GET, &format!("{PODS}/a"), None, 404).await;
}

#[tokio::test]
async fn bad_pods_are_refused_in_upstreams_words() {
    let cluster = Cluster::start().await;
    let mut no_image = pod("a");
    no_image["spec"]["containers"][0]["image"] = "".into();
    let text = cluster.refusal(Method::POST, PODS, Some(no_image), 422).await;
    assert_eq!(text, "Pod \"a\" is invalid: spec.containers[0].image: Required value");
    let text = cluster.refusal(Method::POST, "/api/v1/namespaces/none/pods", Some(pod("a")), 404).await;
    assert_eq!(text, "namespaces \"none\" not found");
    let mut account = pod("a");
    account["spec"]["serviceAccountName"] = "x".into();
    let text = cluster.refusal(Method::POST, PODS, Some(account), 403).await;
    assert_eq!(
        text,
        "pods \"a\" is forbidden: error looking up service account default/x: serviceaccount \"x\" not found"
    );
    let mut class = pod("a");
    class["spec"]["priorityClassName"] = "x".into();
    let text = cluster.refusal(Method::POST, PODS, Some(class), 403).await;
    assert_eq!(text, "pods \"a\" is forbidden: no PriorityClass with name x was found");
}

#[tokio::test]
async fn an_eviction_asks_the_budget() {
    let cluster = Cluster::start().await;
    let mut one = pod("a");
    one["spec"]["nodeName"] = "n".into();
    cluster.create(PODS, one).await;
    let path = format!("{PODS}/a");
    let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(cluster.patch(&format!("{path}/status"), running).await.0, 200);
    let budget =
        json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}});
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    cluster.create(budgets, budget).await;
    let allowed = |n: i64| json!({"status": {"disruptionsAllowed": n, "observedGeneration": 1, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    cluster.patch(&format!("{budgets}/b/status"), allowed(0)).await;
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a", "namespace": "default"}});
    let text = cluster.refusal(Method::POST, &format!("{path}/eviction"), Some(eviction.clone()), 429).await;
    assert_eq!(text, "Cannot evict pod as it would violate the pod's disruption budget.");
    cluster.patch(&format!("{budgets}/b/status"), allowed(1)).await;
    let mut of_another = eviction.clone();
    of_another["deleteOptions"] = json!({"preconditions": {"resourceVersion": "1"}});
    let text = cluster.refusal(Method::POST, &format!("{path}/eviction"), Some(of_another), 409).await;
    assert!(text.contains("the ResourceVersion in the precondition (1) does not match"), "{text}");
    cluster.patch(&format!("{budgets}/b/status"), allowed(1)).await;
    cluster.create(&format!("{path}/eviction"), eviction).await;
    let evicted = cluster.get(&path).await;
    assert!(evicted["metadata"]["deletionTimestamp"].is_string());
    let conditions = evicted["status"]["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|c| c["type"] == "DisruptionTarget").expect("why it goes");
    assert_eq!((&target["status"], &target["reason"]), (&json!("True"), &json!("EvictionByEvictionAPI")));
    assert_eq!(cluster.get(&format!("{budgets}/b")).await["status"]["disruptionsAllowed"], 0);
}

#[tokio::test]
async fn a_pod_names_a_runtime_class_that_exists() {
    let cluster = Cluster::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let with = |name: &str, overhead: Value| {
        let mut pod = pod(name);
        pod["spec"]["runtimeClassName"] = "vm".into();
        if !overhead.is_null() {
            pod["spec"]["overhead"] = overhead;
        }
        pod
    };
    let text = cluster.refusal(Method::POST, pods, Some(with("a", Value::Null)), 403).await;
    assert_eq!(text, "pods \"a\" is forbidden: pod rejected: RuntimeClass \"vm\" not found");
    let class = json!({"metadata": {"name": "vm"}, "handler": "vm", "overhead": {"podFixed": {"memory": "64Mi"}},
        "scheduling": {"nodeSelector": {"sandbox": "vm"}}});
    cluster.create("/apis/node.k8s.io/v1/runtimeclasses", class).await;
    let made = cluster.create(pods, with("a", Value::Null)).await;
    assert_eq!(made["spec"]["overhead"], json!({"memory": "64Mi"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"sandbox": "vm"}));
    cluster.create(pods, with("b", json!({"memory": "64Mi"}))).await;
    let text = cluster.refusal(Method::POST, pods, Some(with("c", json!({"memory": "1Mi"}))), 403).await;
    assert!(text.ends_with("Pod's Overhead doesn't match RuntimeClass's defined Overhead"), "{text}");
    let mut bare = with("d", json!({"memory": "64Mi"}));
    bare["spec"].as_object_mut().unwrap().remove("runtimeClassName");
    let text = cluster.refusal(Method::POST, pods, Some(bare), 403).await;
    assert!(text.ends_with("Pod Overhead set without corresponding RuntimeClass defined Overhead"), "{text}");
}

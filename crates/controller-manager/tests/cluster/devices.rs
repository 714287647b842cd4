//! Devices with taints, with the gates open.

use kybern_api::core::v1::{Event, Pod};
use kybern_api::resource::v1alpha3::DeviceTaintRule;
use kybern_apimachinery::json;
use kybern_client::Patch;

use crate::fixture::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_makes_pods_leave_its_devices_and_says_so() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    let slice = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "s"},
        "spec": {
            "driver": "dra.example.com", "nodeName": "n1", "pool": {"name": "n1", "resourceSliceCount": 1},
            "devices": [{"name": "a"}, {"name": "b"}],
        },
    });
    cluster.create(slice, "resourceslices").await;
    for (claim, device) in [("ill", "a"), ("well", "b")] {
        let requests = json!([{"name": "r", "exactly": {"deviceClassName": "c"}}]);
        let object = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"name": claim, "namespace": "default"}, "spec": {"devices": {"requests": requests}},
        });
        cluster.create(object, "resourceclaims").await;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": claim, "namespace": "default"},
            "spec": {
                "containers": [{"name": "main", "image": "nginx"}],
                "resourceClaims": [{"name": "device", "resourceClaimName": claim}],
            },
        });
        cluster.create(pod, "pods").await;
        let pod = cluster.get::<Pod>("default", claim).await.unwrap();
        let result = json!({"request": "r", "driver": "dra.example.com", "pool": "n1", "device": device});
        let user = json!({"resource": "pods", "name": claim, "uid": pod.metadata.uid});
        let status = json!({"allocation": {"devices": {"results": [result]}}, "reservedFor": [user]});
        let patch = Patch::Merge(json!({"status": status}));
        let kind = kybern_apimachinery::Gvr::new("resource.k8s.io", "v1", "resourceclaims");
        cluster.client.raw(&kind).patch("default", claim, &patch, Some("status")).await.expect("allocated");
    }
    let runs = async |c: &Cluster, name: &str| {
        let pod = c.get::<Pod>("default", name).await;
        pod.is_some_and(|pod| pod.status.and_then(|status| status.pod_ip).is_some())
    };
    cluster.until("both run", async |c| runs(c, "ill").await && runs(c, "well").await).await;
    let rule = json!({
        "apiVersion": "resource.k8s.io/v1alpha3", "kind": "DeviceTaintRule", "metadata": {"name": "bad"},
        "spec": {"deviceSelector": {"device": "a"}, "taint": {"key": "example.com/bad", "effect": "NoExecute"}},
    });
    cluster.create(rule, "devicetaintrules").await;
    cluster.until("it leaves", async |c| c.get::<Pod>("default", "ill").await.is_none()).await;
    let told = async |c: &Cluster| {
        let rule = c.get::<DeviceTaintRule>("", "bad").await.unwrap();
        let condition = rule.status.and_then(|status| status.conditions?.into_iter().next());
        condition.map(|condition| (condition.type_, condition.observed_generation))
    };
    let expect = Some(("EvictionInProgress".to_owned(), Some(1)));
    cluster.until("a condition", async |c| told(c).await == expect).await;
    let events = async |c: &Cluster| c.list::<Event>("default").await;
    let of_it = |event: &Event| {
        event.reason.as_deref() == Some("DeviceTaintManagerEviction")
            && event.involved_object.name.as_deref() == Some("ill")
    };
    cluster.until("an event", async |c| events(c).await.iter().any(of_it)).await;
    assert!(runs(&cluster, "well").await);
}

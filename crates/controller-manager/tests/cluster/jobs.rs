//! Jobs, CronJobs and what becomes of them, with pods that the test ends.

use kybern_api::Object;
use kybern_api::batch::v1::{CronJob, Job, JobStatus};
use kybern_api::core::v1::Pod;
use kybern_apimachinery::{Value, json};
use kybern_client::{DeleteOptions, Patch};

use crate::fixture::Cluster;

fn spec(more: &Value) -> Value {
    let container = json!([{"name": "main", "image": "busybox"}]);
    let template = json!({"spec": {"restartPolicy": "Never", "containers": container}});
    let mut spec = json!({"template": template, "parallelism": 2, "completions": 3});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

/// Ends the running pods of jobs.
async fn end_pods(cluster: &Cluster, phase: &str) {
    for pod in cluster.list::<Pod>("default").await {
        let runs = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
        if runs && pod.labels().is_some_and(|labels| labels.contains_key("batch.kubernetes.io/job-name")) {
            let status = Patch::Merge(json!({"status": {"phase": phase}}));
            let _ = cluster.client.patch::<Pod>("default", pod.name(), &status, Some("status")).await;
        }
    }
}

async fn until_ended(cluster: &Cluster, name: &str, more: Value, phase: &str) -> (Vec<String>, JobStatus) {
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": "default"}, "spec": spec(&more)});
    cluster.create(job, "jobs").await;
    let conditions =
        |status: &JobStatus| -> Vec<String> { status.conditions.iter().flatten().map(|c| c.type_.clone()).collect() };
    let status = async |c: &Cluster| c.get::<Job>("default", name).await.and_then(|job| job.status).unwrap_or_default();
    let ended = async |c: &Cluster| {
        end_pods(c, phase).await;
        conditions(&status(c).await).iter().any(|kind| kind == "Complete" || kind == "Failed")
    };
    cluster.until("the job's end", ended).await;
    let status = status(cluster).await;
    assert_eq!(status.uncounted_terminated_pods, Some(Default::default()));
    let pods = cluster.list::<Pod>("default").await;
    assert!(pods.iter().all(|pod| pod.metadata.finalizers.is_none()), "a finalizer is left");
    (conditions(&status), status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_to_their_end() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    let (conditions, status) = until_ended(&cluster, "plain", json!({}), "Succeeded").await;
    assert_eq!(conditions, ["SuccessCriteriaMet", "Complete"]);
    assert_eq!((status.succeeded, status.failed, status.active), (Some(3), None, None));
    let (_, status) = until_ended(&cluster, "indexed", json!({"completionMode": "Indexed"}), "Succeeded").await;
    assert_eq!((status.succeeded, status.completed_indexes.as_deref()), (Some(3), Some("0-2")));
    let hostnames = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
    let mut hosts: Vec<String> = cluster.list::<Pod>("default").await.iter().filter_map(hostnames).collect();
    hosts.sort();
    assert_eq!(hosts, ["indexed-0", "indexed-1", "indexed-2"]);
    let per_index = json!({"completionMode": "Indexed", "backoffLimitPerIndex": 0, "parallelism": 3});
    let (conditions, status) = until_ended(&cluster, "per-index", per_index, "Failed").await;
    assert_eq!(conditions, ["FailureTarget", "Failed"]);
    assert_eq!((status.failed, status.failed_indexes.as_deref()), (Some(3), Some("0-2")));
    let (conditions, status) = until_ended(&cluster, "failing", json!({"backoffLimit": 0}), "Failed").await;
    assert_eq!(conditions, ["FailureTarget", "Failed"]);
    assert_eq!((status.succeeded, status.active), (None, None));
    assert!((1..=2).contains(&status.failed.unwrap_or(0)), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_rests_and_goes_on_and_replaces_a_pod_that_is_deleted() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "rest", "namespace": "default"},
        "spec": spec(&json!({"suspend": true}))});
    cluster.create(job, "jobs").await;
    let says = |job: &Job, kind: &str, status: &str| {
        let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions.into_iter().any(|c| c.type_ == kind && c.status == status)
    };
    let get = async |c: &Cluster| c.get::<Job>("default", "rest").await.unwrap();
    let suspend = async |c: &Cluster, suspend: bool| {
        let patch = Patch::Merge(json!({"spec": {"suspend": suspend}}));
        c.client.patch::<Job>("default", "rest", &patch, None).await.unwrap();
    };
    let active = async |c: &Cluster| get(c).await.status.and_then(|s| s.active).unwrap_or(0);
    cluster.until("its rest", async |c| says(&get(c).await, "Suspended", "True")).await;
    assert_eq!(cluster.list::<Pod>("default").await.len(), 0);
    suspend(&cluster, false).await;
    cluster.until("two pods", async |c| active(c).await == 2).await;
    let job = get(&cluster).await;
    assert!(says(&job, "Suspended", "False") && job.status.unwrap().start_time.is_some());
    // A rest takes the pods away, and none of them counts.
    suspend(&cluster, true).await;
    let gone = async |c: &Cluster| c.list::<Pod>("default").await.is_empty() && active(c).await == 0;
    cluster.until("no pod", gone).await;
    let status = get(&cluster).await.status.unwrap();
    assert_eq!((status.failed, status.start_time), (None, None));
    suspend(&cluster, false).await;
    cluster.until("two pods again", async |c| active(c).await == 2 && c.list::<Pod>("default").await.len() == 2).await;
    let pod = cluster.list::<Pod>("default").await.remove(0);
    cluster.client.delete::<Pod>("default", pod.name(), &DeleteOptions::default()).await.unwrap();
    // It counts as failed; the next comes 10 s later.
    cluster.until("its count", async |c| get(c).await.status.unwrap().failed == Some(1)).await;
    let ended = async |c: &Cluster| {
        end_pods(c, "Succeeded").await;
        says(&get(c).await, "Complete", "True")
    };
    cluster.until("the job's end", ended).await;
    let status = get(&cluster).await.status.unwrap();
    assert_eq!((status.succeeded, status.failed, status.terminating), (Some(3), Some(1), Some(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cron_job_makes_jobs_and_they_go() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    let cron = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick", "namespace": "default"},
        "spec": {
            "schedule": "@every 1s", "concurrencyPolicy": "Forbid",
            "jobTemplate": {"spec": spec(&json!({"ttlSecondsAfterFinished": 0}))},
        },
    });
    cluster.create(cron, "cronjobs").await;
    let succeeded = async |c: &Cluster| {
        end_pods(c, "Succeeded").await;
        let status = c.get::<CronJob>("default", "tick").await.and_then(|cron| cron.status).unwrap_or_default();
        status.last_successful_time.is_some() && status.last_schedule_time.is_some()
    };
    cluster.until("a success", succeeded).await;
    let rest = Patch::Merge(json!({"spec": {"suspend": true}}));
    cluster.client.patch::<CronJob>("default", "tick", &rest, None).await.unwrap();
    let empty = async |c: &Cluster| {
        end_pods(c, "Succeeded").await;
        c.list::<Job>("default").await.is_empty() && c.list::<Pod>("default").await.is_empty()
    };
    cluster.until("the end of the jobs and their pods", empty).await;
}

//! Events on their way to a webhook: in batches, again where it fails, cut to size; and that nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use kybern_apimachinery::{Value, json};
use kybern_apiserver::audit::{Backend, Batching, Mode, Truncation, Webhook};
use kybern_testbed::https::{HttpsOptions, HttpsServer, TestCa};
use parking_lot::Mutex;

use crate::audit::{audited, stages};
use crate::fixture::*;

const BATCHING: Batching = Batching { buffer: 20, max_size: 3, max_wait: Duration::from_millis(200), throttle: None };
const RULES: &str = "omitStages: [RequestReceived]\nrules: [{level: RequestResponse}]";

/// Takes lists of events.
struct Collector {
    server: Option<HttpsServer>,
    lists: Arc<Mutex<Vec<Value>>>,
    kubeconfig: tempfile::NamedTempFile,
    _authority: tempfile::NamedTempFile,
}

impl Collector {
    /// `answer` is told how many calls there were before, and gives the code; 0: it never answers.
    async fn start(answer: impl Fn(usize) -> u16 + Send + Sync + 'static) -> Self {
        let ca = TestCa::new("collector");
        let (lists, calls) = (Arc::<Mutex<Vec<Value>>>::default(), AtomicUsize::new(0));
        let taken = lists.clone();
        let identity = ca.issue(&["127.0.0.1"]);
        let server = HttpsServer::start(HttpsOptions::new(&identity), move |request: Request<Bytes>| {
            assert_eq!((request.method(), request.uri().path()), (&http::Method::POST, "/events"));
            taken.lock().push(serde_json::from_slice(request.body()).expect("JSON"));
            let code = answer(calls.fetch_add(1, Ordering::Relaxed));
            async move {
                if code == 0 {
                    std::future::pending::<()>().await;
                }
                Response::builder().status(code).body(Bytes::new()).expect("an answer")
            }
        });
        let server = server.await;
        let ca_file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&ca_file, &ca.pem).unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}], "users": [{"name": "x", "user": {}}],
            "clusters": [{"name": "x", "cluster": {
                "server": format!("{}/events", server.url()), "certificate-authority": ca_file.path(),
            }}],
        });
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        Self { server: Some(server), lists, kubeconfig, _authority: ca_file }
    }

    async fn client(&self, mode: Mode, truncation: Option<Truncation>) -> Client {
        let webhook = Webhook::from_kubeconfig(self.kubeconfig.path(), Duration::from_millis(10)).unwrap();
        audited(RULES, Backend::new(Arc::new(webhook), mode, truncation).unwrap()).await
    }

    /// The events of each list, once there are so many.
    async fn events(&self, count: usize) -> Vec<Vec<Value>> {
        for _ in 0..200 {
            let lists = self.lists.lock().clone();
            let events = |list: &Value| list["items"].as_array().cloned().unwrap_or_default();
            let found: Vec<Vec<Value>> = lists.iter().map(events).collect();
            if found.iter().map(Vec::len).sum::<usize>() >= count {
                assert!(lists.iter().all(|l| l["kind"] == "EventList" && l["apiVersion"] == "audit.k8s.io/v1"));
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{count} events never came: {:?}", self.lists.lock());
    }
}

async fn errors(client: &Client, plugin: &str) -> u64 {
    let metrics = String::from_utf8(client.get("/metrics").await.bytes.to_vec()).unwrap();
    let line = format!("apiserver_audit_error_total{{plugin=\"{plugin}\"}} ");
    metrics.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_in_batches_in_their_order() {
    let collector = Collector::start(|_| 200).await;
    let client = collector.client(Mode::Batch(BATCHING), None).await;
    for name in ["a", "b", "c", "d"] {
        client.post(CONFIG_MAPS, config_map(name, "1")).await.ok();
    }
    let lists = collector.events(4).await;
    assert!(lists.iter().all(|list| list.len() <= 3) && lists.len() < 4, "{lists:?}");
    let events = lists.concat();
    assert_eq!(stages(&events), ["ResponseComplete"; 4]);
    let names: Vec<&str> = events.iter().map(|e| e["responseObject"]["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_sent_again_and_given_up_at_last() {
    let collector = Collector::start(|calls| if calls < 2 { 500 } else { 200 }).await;
    let client = collector.client(Mode::Batch(BATCHING), None).await;
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let lists = collector.events(3).await;
    assert!(lists.len() == 3 && lists.iter().all(|list| *list == lists[0]), "the same, three times: {lists:?}");
    assert_eq!(errors(&client, "webhook").await, 0);

    let broken = Collector::start(|_| 500).await;
    let client = broken.client(Mode::Batch(BATCHING), None).await;
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    for _ in 0..200 {
        // Reading the metrics is an event, too.
        if errors(&client, "webhook").await > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("that events are lost is not counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_comes_without_its_objects() {
    let collector = Collector::start(|_| 200).await;
    let truncation = Some(Truncation { max_event_size: 2000, max_batch_size: 3000 });
    let client = collector.client(Mode::Batch(BATCHING), truncation).await;
    client.post(CONFIG_MAPS, config_map("small", "1")).await.ok();
    let mut large = config_map("large", "1");
    large["data"] = json!({"k": "x".repeat(4000)});
    client.post(CONFIG_MAPS, large).await.ok();
    let events = collector.events(2).await.concat();
    assert_eq!(events[0]["requestObject"]["metadata"]["name"], "small");
    assert!(events[1].get("requestObject").is_none() && events[1].get("responseObject").is_none(), "{}", events[1]);
    assert_eq!(events[1]["annotations"]["audit.k8s.io/truncated"], "true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_collector_that_is_away_or_hangs() {
    for hangs in [false, true] {
        let mut collector = Collector::start(|_| 0).await;
        let client = collector.client(Mode::Batch(BATCHING), None).await;
        if !hangs {
            collector.server = None;
        }
        let began = Instant::now();
        for i in 0..60 {
            client.post(CONFIG_MAPS, config_map(&format!("a{i}"), "1")).await.ok();
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        if hangs {
            // One batch is under way and the buffer is full: the others are lost, and counted.
            assert!(errors(&client, "buffered").await >= 60 - 20 - 2 * 3, "{}", errors(&client, "buffered").await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_to_wait_finds_the_event_there() {
    let collector = Collector::start(|_| 200).await;
    let client = collector.client(Mode::BlockingStrict, None).await;
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    assert_eq!(collector.lists.lock().len(), 1, "before the answer");
}

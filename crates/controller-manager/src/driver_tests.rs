//! The driver against an API server that is scripted, and one that refuses.

use std::time::Duration;

use http::{Method, Response};
use kybern_api::core::v1::Pod;
use kybern_apimachinery::time::SystemClock;
use kybern_apimachinery::{ApiError, GroupResource, Value, json};
use kybern_client::{Body, BoxFuture, Transport, TransportError};

use super::*;
use crate::ask::{Ask, Then};
use crate::testing::{World, meta, pod};

/// Answers creations as told; counts them. Has one quota, and keeps what is written of it. Everything else is empty.
struct Server {
    refuse: bool,
    created: Mutex<usize>,
    counted: Arc<Mutex<Value>>,
}

impl Transport for Server {
    fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        if request.method() == Method::PUT && request.uri().path().ends_with("/resourcequotas/all/status") {
            let counted = self.counted.clone();
            return Box::pin(async move {
                let quota = body::collect(request.into_body(), 10_000).await.unwrap();
                *counted.lock() = serde_json::from_slice(&quota).unwrap();
                Ok(Response::new(body::full(quota)))
            });
        }
        let pods = request.uri().path().ends_with("/pods");
        let response = match (request.method(), pods) {
            (&Method::POST, true) => {
                let mut created = self.created.lock();
                *created += 1;
                if self.refuse {
                    let error = ApiError::forbidden(&GroupResource::new("", "pods"), "", "exceeded quota");
                    Response::builder().status(403).body(body::full(error.to_status().to_string())).unwrap()
                } else {
                    let name = format!("p{created}");
                    let object = json!({"metadata": {"namespace": "default", "name": name, "resourceVersion": "9"}});
                    Response::new(body::full(object.to_string()))
                }
            }
            (&Method::PUT, _) => {
                let error = ApiError::conflict(&GroupResource::new("", "pods"), "stale", "it has been modified");
                Response::builder().status(409).body(body::full(error.to_status().to_string())).unwrap()
            }
            (&Method::GET, _) if request.uri().path().ends_with("/gone") => {
                let error = ApiError::not_found(&GroupResource::new("", "things"), "gone");
                Response::builder().status(404).body(body::full(error.to_status().to_string())).unwrap()
            }
            (&Method::GET, _) if request.uri().path().ends_with("/resourcequotas") => {
                let hard = json!({"configmaps": "5"});
                let status = json!({"hard": hard, "used": {"configmaps": "2"}});
                let metadata = json!({"name": "all", "namespace": "default", "resourceVersion": "7"});
                let quota = json!({"metadata": metadata, "spec": {"hard": hard}, "status": status});
                let list = json!({"metadata": {"resourceVersion": "7"}, "items": [quota]});
                Response::new(body::full(list.to_string()))
            }
            (&Method::GET, _) if request.uri().path().ends_with("/configmaps") => {
                Response::new(body::full(r#"{"metadata": {"resourceVersion": "7"}, "items": []}"#))
            }
            _ => Response::new(body::full("{}")),
        };
        Box::pin(async move { Ok(response) })
    }
}

/// Makes pods; panics when told to, or writes what is old.
struct Maker;

impl Controller for Maker {
    fn name(&self) -> &'static str {
        "maker"
    }
    fn watches(&self, _: &mut Watches<'_>) {}
    fn reconcile(&self, key: &str, _: &Snapshot, _: &Context) -> Plan {
        assert_ne!(key, "panic", "a bug");
        if let "asks" | "asks and panics" = key {
            let key = key.to_owned();
            let then = Then::new(move |answers| {
                assert_eq!((key.as_str(), answers.len()), ("asks", 2), "a bug");
                vec![Op::Fail(format!("{:?}", answers.iter().map(Result::is_ok).collect::<Vec<_>>()))]
            });
            let asks = ["/api/v1/there", "/api/v1/gone"].map(|path| Ask::Get(path.to_owned())).to_vec();
            return Plan::of(vec![Op::Ask { asks, then }]);
        }
        if key == "stale" {
            return Plan::of(vec![Op::update_status(&pod("stale").build())]);
        }
        if key == "count" {
            let gvr = Gvr::new("", "v1", "configmaps");
            let counted = vec![Counted { evaluator: Evaluator::of("", "configmaps").unwrap(), gvr }];
            return Plan::of(vec![Op::Count { namespace: "default".into(), name: "all".into(), counted }]);
        }
        let create = Op::create(&Pod { metadata: meta(""), ..Pod::default() });
        Plan::of(vec![Op::SlowStart(vec![create; key.parse().unwrap()])])
    }
}

fn driver(refuse: bool) -> (Arc<Driver>, Arc<Server>, crate::snapshot::Writers) {
    let world = World::new();
    let server = Arc::new(Server { refuse, created: Mutex::default(), counted: Arc::default() });
    let client = Client::new(server.clone());
    let environment = Arc::new(Environment {
        client_for: Arc::new({
            let client = client.clone();
            move |_| client.clone()
        }),
        snapshot: Arc::new(world.snapshot),
        clock: Arc::new(SystemClock),
        metrics: Default::default(),
        workers: Default::default(),
        started: crate::testing::now(),
    });
    let recorder = EventRecorder::new(client.clone(), "maker", "");
    let (queue, failures) = (WorkQueue::new(), Mutex::default());
    (
        Arc::new(Driver { controller: Arc::new(Maker), environment, client, recorder, queue, failures }),
        server,
        world.writers,
    )
}

impl Driver {
    async fn process(&self, key: &str) {
        let outcome = self.carry_out(key).await;
        self.finish(key, outcome).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_work_is_tried_once_and_told() {
    let (driver, server, _writers) = driver(true);
    driver.process("100").await;
    assert_eq!(*server.created.lock(), 1, "not a hundred times");
    let failure = driver.failures.lock().get("100").cloned().unwrap();
    assert_eq!(failure.verb, Verb::Create);
    assert!(failure.message.contains("exceeded quota"), "{failure:?}");
    assert_eq!(driver.queue.failures(&"100".to_owned()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_waits_for_its_own_writes() {
    let (driver, server, writers) = driver(false);
    let working = tokio::spawn({
        let driver = driver.clone();
        async move { driver.process("3").await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*server.created.lock(), 3);
    assert!(!working.is_finished(), "the pods are not in the store yet");
    let mut newest = pod("p3").build();
    newest.metadata.resource_version = Some("9".into());
    writers.pods.upsert(newest);
    tokio::time::timeout(Duration::from_millis(10), working).await.expect("goes on at once").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_write_that_never_comes_back_does_not_block_for_ever() {
    let (driver, _server, _writers) = driver(false);
    let started = tokio::time::Instant::now();
    driver.process("1").await;
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_key_waits_and_its_worker_does_not() {
    let (driver, server, _writers) = driver(false);
    let keys = ["1", "01", "001", "0001"];
    keys.iter().for_each(|key| driver.queue.add((*key).to_owned()));
    let worker = tokio::spawn(driver.clone().work());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*server.created.lock(), keys.len(), "all are worked on while their writes are not seen");
    driver.queue.add("1".to_owned());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(*server.created.lock(), keys.len(), "but none twice");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(*server.created.lock(), keys.len() + 1);
    worker.abort();
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_one_keys_problem() {
    let (driver, _server, _writers) = driver(false);
    driver.process("panic").await;
    assert_eq!(driver.queue.failures(&"panic".to_owned()), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_stale_is_tried_again_soon_however_often_it_was() {
    let (driver, _server, _writers) = driver(false);
    for _ in 0..30 {
        driver.process("stale").await;
    }
    let started = tokio::time::Instant::now();
    assert_eq!(driver.queue.next().await, "stale");
    driver.queue.done(&"stale".to_owned());
    driver.process("stale").await;
    driver.queue.next().await;
    assert!(started.elapsed() <= 2 * STALE_MAX, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn answers_reach_the_rest_of_the_decision_and_its_bugs_are_one_keys_problem() {
    let (driver, _server, _writers) = driver(false);
    for (key, told) in [("asks", "[true, false]"), ("asks and panics", "panicked")] {
        driver.process(key).await;
        let failure = driver.failures.lock().get(key).cloned().unwrap();
        assert!(failure.message.contains(told), "{failure:?}");
    }
}

/// A charge that the controller has not heard of yet is given back all the same.
#[tokio::test(start_paused = true)]
async fn a_quota_is_compared_with_what_the_server_shows() {
    let (driver, server, _writers) = driver(false);
    driver.process("count").await;
    let written = server.counted.lock();
    assert_eq!(
        (&written["status"]["used"]["configmaps"], &written["metadata"]["resourceVersion"]),
        (&json!("0"), &json!("7"))
    );
    assert_eq!((&written["apiVersion"], &written["kind"]), (&json!("v1"), &json!("ResourceQuota")));
}

//! Extenders over HTTP: good ones, and all that bad ones do.

use std::sync::Arc;

use kybern_api::Object;
use kybern_scheduler::Config;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const GPU: &str = "example.com/gpu";

/// What an extender does with a question.
enum Reply {
    Json(Value),
    Text(&'static str),
    Code(u16),
    Hang,
    Close,
    /// A byte at a time, for ever.
    Drip,
    /// So many bytes of a JSON list.
    Long(usize),
}

/// A server of plain HTTP/1.1 on loopback, which notes what it was asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    async fn start(reply: impl Fn(&str, &Value) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let (noted, reply) = (asked.clone(), Arc::new(reply));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, noted.clone(), reply.clone()));
            }
        });
        Self { url, asked }
    }

    /// How often it was asked for each path.
    fn count(&self, path: &str) -> usize {
        self.asked.lock().iter().filter(|(asked, _)| asked == path).count()
    }
}

async fn serve(
    mut stream: TcpStream,
    noted: Arc<Mutex<Vec<(String, Value)>>>,
    reply: Arc<impl Fn(&str, &Value) -> Reply>,
) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break String::from_utf8(buffer.drain(..at + 4).collect()).unwrap();
            }
            (stream.read_buf(&mut buffer).await.ok()? > 0).then_some(())?;
        };
        let path = head.split(' ').nth(1)?.to_owned();
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        while buffer.len() < length? {
            (stream.read_buf(&mut buffer).await.ok()? > 0).then_some(())?;
        }
        let sent: Value = serde_json::from_slice(&buffer.drain(..length?).collect::<Vec<u8>>()).unwrap();
        let reply = reply(&path, &sent);
        noted.lock().push((path, sent));
        let head =
            |code: u16, length: usize| format!("HTTP/1.1 {code} X\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        let whole = |text: &str| [head(200, text.len()), text.as_bytes().to_vec()].concat();
        let bytes = match reply {
            Reply::Json(value) => whole(&value.to_string()),
            Reply::Text(text) => whole(text),
            Reply::Code(code) => head(code, 0),
            Reply::Close => return None,
            Reply::Hang => std::future::pending().await,
            Reply::Drip => {
                stream.write_all(&head(200, 1 << 20)).await.ok()?;
                loop {
                    stream.write_all(b" ").await.ok()?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Reply::Long(length) => [head(200, length), vec![b'['; length]].concat(),
        };
        stream.write_all(&bytes).await.ok()?;
    }
}

fn config(extenders: Value) -> Config {
    let file = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": false},
        "podInitialBackoffSeconds": 1,
        "podMaxBackoffSeconds": 1,
        "extenders": extenders,
    });
    Config::from_file(&file, "me").unwrap()
}

fn gpu(server: &Server, more: Value) -> Value {
    let managed = json!([{"name": GPU, "ignoredByScheduler": true}]);
    let mut extender = json!({"urlPrefix": server.url, "managedResources": managed});
    extender.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    extender
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extender_filters_prioritizes_and_binds() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c"] {
        cluster.node(name, "8", json!({})).await;
    }
    let binds = cluster.server.admin();
    let server = Server::start(move |path, sent| match path {
        "/x/filter" => {
            let left = sent["Nodes"]["items"].as_array().unwrap().iter();
            let left: Vec<&Value> = left.filter(|node| node["metadata"]["name"] != "a").collect();
            Reply::Json(json!({"Nodes": {"items": left}, "FailedNodes": {"a": "too hot"}}))
        }
        "/x/prioritize" => Reply::Json(json!([{"Host": "c", "Score": 10}, {"Host": "b", "Score": 0}])),
        _ => {
            let (name, node) = (sent["PodName"].as_str().unwrap().to_owned(), sent["Node"].clone());
            let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
            let client = binds.clone();
            tokio::spawn(async move {
                let pods = client.raw(&Gvr::new("", "v1", "pods"));
                pods.create_subresource("default", &name, "binding", &binding).await.unwrap();
            });
            Reply::Json(json!({}))
        }
    })
    .await;
    let verbs = json!({"filterVerb": "filter", "prioritizeVerb": "prioritize", "bindVerb": "bind", "weight": 5});
    let mut extender = gpu(&server, verbs);
    extender["urlPrefix"] = format!("{}/x/", server.url).into();
    let _scheduler = cluster.schedule_with(config(json!([extender])));
    cluster.pod_requesting("gpu", json!({"cpu": "1", GPU: "1"})).await;
    cluster.pod("plain", "1").await;
    cluster.until("both bindings", |pods| node_of(pods, "gpu") == "c" && !node_of(pods, "plain").is_empty()).await;
    let asked = server.asked.lock().clone();
    let paths: Vec<&str> = asked.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["/x/filter", "/x/prioritize", "/x/bind"], "of the plain pod nobody is asked");
    let filter = &asked[0].1;
    assert_eq!(filter["Pod"]["spec"]["containers"][0]["image"], "pause");
    assert_eq!(filter["NodeNames"], Value::Null);
    let whole = &filter["Nodes"]["items"][0];
    assert!(whole["status"]["allocatable"]["memory"] == "64Gi" && whole["metadata"]["managedFields"].is_null());
    assert_eq!(asked[1].1["Nodes"]["items"].as_array().unwrap().len(), 2);
    assert_eq!((&asked[2].1["PodNamespace"], &asked[2].1["Node"]), (&json!("default"), &json!("c")));
    let told = async {
        while !cluster.events("Scheduled").await.contains(&"Successfully assigned default/gpu to c".to_owned()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("the event");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extender_that_hangs_delays_no_other_pods() {
    let cluster = Cluster::start().await;
    cluster.node("a", "64", json!({})).await;
    let hangs = Server::start(|_, _| Reply::Hang).await;
    let works = Server::start(|_, sent| Reply::Json(json!({"nodeNames": sent["NodeNames"]}))).await;
    let mut other = json!({"urlPrefix": works.url, "filterVerb": "f", "nodeCacheCapable": true});
    other["managedResources"] = json!([{"name": "example.com/fpga", "ignoredByScheduler": true}]);
    let extender = gpu(&hangs, json!({"filterVerb": "f", "bindVerb": "b", "httpTimeout": "5s"}));
    let _scheduler = cluster.schedule_with(config(json!([extender, other])));
    for n in 0..20 {
        cluster.pod_requesting(&format!("gpu-{n}"), json!({"cpu": "10m", GPU: "1"})).await;
    }
    let asked = async {
        while hangs.count("/f") < 8 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap();
    let start = Instant::now();
    for n in 0..90 {
        cluster.pod(&format!("plain-{n}"), "10m").await;
    }
    for n in 0..10 {
        cluster.pod_requesting(&format!("fpga-{n}"), json!({"cpu": "10m", "example.com/fpga": "1"})).await;
    }
    let bound = |pods: &Store<Pod>| pods.list().iter().filter(|pod| is_bound(pod)).count();
    cluster.until("all others' bindings", |pods| bound(pods) == 100).await;
    assert!(start.elapsed() < Duration::from_secs(5), "nobody waits for the extender: {:?}", start.elapsed());
    assert_eq!((hangs.count("/f"), works.count("/f")), (8, 10));
    let text =
        format!("Post \"{}/f\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)", hangs.url);
    let told = ("False".to_owned(), "SchedulerError".to_owned(), text);
    let is_told = |pods: &Store<Pod>, n: usize| scheduled(pods, &format!("gpu-{n}")).as_ref() == Some(&told);
    cluster.until("the conditions", |pods| (0..20).filter(|n| is_told(pods, *n)).count() >= 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_answers_are_told_and_tried_again() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8", json!({})).await;
    cluster.node("b", "8", json!({})).await;
    let does: Arc<Mutex<Reply>> = Arc::new(Mutex::new(Reply::Close));
    let replies = does.clone();
    let server = Server::start(move |path, _| {
        if path == "/p" {
            return Reply::Json(
                json!([{"Host": "b", "Score": i64::MAX}, {"Host": "a", "Score": i64::MIN}, {"Host": "z", "Score": 1}]),
            );
        }
        match &*replies.lock() {
            Reply::Json(value) => Reply::Json(value.clone()),
            Reply::Text(text) => Reply::Text(text),
            Reply::Code(code) => Reply::Code(*code),
            Reply::Long(length) => Reply::Long(*length),
            Reply::Hang => Reply::Hang,
            Reply::Drip => Reply::Drip,
            Reply::Close => Reply::Close,
        }
    })
    .await;
    let verbs =
        json!({"filterVerb": "f", "prioritizeVerb": "p", "weight": 1, "nodeCacheCapable": true, "httpTimeout": "1s"});
    let _scheduler = cluster.schedule_with(config(json!([gpu(&server, verbs)])));
    let at = format!("{}/f", server.url);
    let told = |text: &str| ("False".to_owned(), "SchedulerError".to_owned(), text.to_owned());
    let unreadable = format!("cannot read the answer of the extender at {at}: ");
    cluster.pod_requesting("gpu", json!({"cpu": "1", GPU: "1"})).await;
    for (reply, expect) in [
        (Reply::Close, format!("Post \"{at}\": EOF")),
        (Reply::Code(503), format!("failed f with extender at URL {at}, code 503")),
        (Reply::Long(64 << 20), format!("the response of {at} is longer than {} bytes", 8 << 20)),
        (Reply::Long(100_000), format!("{unreadable}invalid type: sequence, expected a string at line 1 column 5")),
        (
            Reply::Drip,
            format!("Post \"{at}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"),
        ),
        (Reply::Text("{\"NodeNames\": [\"a"), format!("{unreadable}EOF while parsing a string at line 1 column 17")),
        (
            Reply::Json(json!({"NodeNames": ["a", "unheard-of"]})),
            format!(
                "extender {:?} claims a filtered node \"unheard-of\" which is not found in the input node list",
                server.url
            ),
        ),
        (Reply::Json(json!({"Error": "the licence has expired"})), "the licence has expired".to_owned()),
    ] {
        *does.lock() = reply;
        cluster.until(&expect, |pods| scheduled(pods, "gpu") == Some(told(&expect))).await;
    }
    *does.lock() = Reply::Json(
        json!({"NodeNames": [], "FailedNodes": {"a": "GPU is dirty", "z": "?"}, "FailedAndUnresolvableNodes": {"b": "no GPU"}}),
    );
    let text = "0/2 nodes are available: 1 GPU is dirty, 1 no GPU. no new claims to deallocate, preemption: 0/2 nodes are \
                available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.";
    let unschedulable = ("False".to_owned(), "Unschedulable".to_owned(), text.to_owned());
    cluster.until(text, |pods| scheduled(pods, "gpu").as_ref() == Some(&unschedulable)).await;
    *does.lock() = Reply::Json(json!({"NodeNames": ["a", "b", "a"]}));
    cluster.node("c", "1m", json!({})).await;
    cluster.until("the binding", |pods| node_of(pods, "gpu") == "b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_do_without_an_ignorable_extender() {
    let cluster = Cluster::start().await;
    cluster.node("a", "1", json!({})).await;
    let server = Server::start(|_, _| Reply::Close).await;
    let verbs = json!({"filterVerb": "f", "prioritizeVerb": "p", "weight": 1, "bindVerb": "b", "preemptVerb": "e", "ignorable": true});
    let _scheduler = cluster.schedule_with(config(json!([gpu(&server, verbs)])));
    cluster.pod_requesting("gpu", json!({"cpu": "1", GPU: "1"})).await;
    cluster.until("the binding", |pods| node_of(pods, "gpu") == "a").await;
    assert!(server.count("/f") > 0 && server.count("/b") > 0);
}

/// The extender sees the victims as they are, and decides which of them go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extender_decides_who_is_preempted() {
    let cluster = Cluster::start().await;
    let server = Server::start(|_, sent| {
        let victims = sent["NodeNameToVictims"]["b"]["Pods"].as_array().unwrap().iter();
        let uids: Vec<Value> = victims.map(|pod| json!({"UID": pod["metadata"]["uid"]})).collect();
        Reply::Json(json!({"NodeNameToMetaVictims": {"b": {"Pods": uids}}}))
    })
    .await;
    let _scheduler = cluster.schedule_with(config(json!([gpu(&server, json!({"preemptVerb": "e"}))])));
    for node in ["a", "b"] {
        cluster.node(node, "1", json!({})).await;
        cluster.pod(&format!("old-{node}"), "1").await;
        cluster.until("the old pod's binding", |pods| node_of(pods, &format!("old-{node}")) == node).await;
    }
    let metadata = json!({"name": "urgent"});
    let class =
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": metadata, "value": 10});
    cluster.client.raw(&Gvr::new("scheduling.k8s.io", "v1", "priorityclasses")).create(&class).await.unwrap();
    let amounts = json!({"cpu": "1", GPU: "1"});
    let containers = json!([{"name": "c", "image": "pause", "resources": {"requests": amounts, "limits": amounts}}]);
    let spec = json!({"priorityClassName": "urgent", "containers": containers});
    let metadata = json!({"name": "gpu", "namespace": "default"});
    cluster.create("pods", json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).await;
    let nominated = |pods: &Store<Pod>| pods.get_in("default", "gpu")?.status.clone()?.nominated_node_name;
    let leaves = |pods: &Store<Pod>, name| pods.get_in("default", name).is_some_and(|pod| pod.is_deleting());
    let done = |pods: &Store<Pod>| nominated(pods).as_deref() == Some("b") && leaves(pods, "old-b");
    cluster.until("the nomination", done).await;
    assert!(!leaves(&cluster.pods, "old-a"));
    let seen = &server.asked.lock()[0].1;
    assert_eq!(seen["NodeNameToVictims"]["a"]["Pods"][0]["spec"]["containers"][0]["image"], "pause");
}

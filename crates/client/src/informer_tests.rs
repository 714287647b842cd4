//! The reflector against a scripted server.

use std::collections::VecDeque;
use std::sync::Arc;

use http::{Request, Response};
use parking_lot::Mutex;

use super::*;
use crate::{Body, BoxFuture, Changes, Transport, TransportError, body};

/// No answer.
const SILENCE: u16 = 1;

/// Answers each request with the next entry of a script, and notes the requests. After the script, answers stay away.
struct Script {
    answers: Mutex<VecDeque<(u16, String)>>,
    requests: Mutex<Vec<String>>,
}

impl Transport for Script {
    fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        self.requests.lock().push(request.uri().to_string());
        let answer = self.answers.lock().pop_front();
        Box::pin(async move {
            match answer {
                Some((SILENCE, _)) => std::future::pending().await,
                Some((0, text)) => Err(TransportError::new("refused", text)),
                Some((code, text)) => Ok(Response::builder().status(code).body(body::full(text)).unwrap()),
                None => std::future::pending().await,
            }
        })
    }
}

fn script(answers: &[(u16, &str)]) -> (Client, Arc<Script>) {
    let answers = answers.iter().map(|(code, text)| (*code, (*text).to_owned())).collect();
    let script = Arc::new(Script { answers: Mutex::new(answers), requests: Mutex::default() });
    (Client::new(script.clone()), script)
}

fn informer(client: Client) -> Store<PartialMetadata> {
    Informer::metadata(client, &Gvr::new("", "v1", "things"), ListOptions::default()).spawn()
}

fn event(kind: &str, name: &str, version: u32) -> String {
    format!(r#"{{"type":"{kind}","object":{{"metadata":{{"name":"{name}","resourceVersion":"{version}"}}}}}}{}"#, "\n")
}

fn initial_end(version: u32) -> String {
    format!(
        r#"{{"type":"BOOKMARK","object":{{"metadata":{{"resourceVersion":"{version}","annotations":{{"k8s.io/initial-events-end":"true"}}}}}}}}{}"#,
        "\n"
    )
}

fn names(store: &Store<PartialMetadata>) -> Vec<String> {
    store.list().iter().map(|o| o.key()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_streamed_list_goes_on_as_a_watch_and_resumes() {
    let first = event("ADDED", "a", 1) + &event("ADDED", "b", 2) + &initial_end(5) + &event("MODIFIED", "a", 6);
    let second = event("DELETED", "b", 7);
    let (client, script) = script(&[(200, &first), (0, "down"), (200, &second)]);
    let store = informer(client);
    store.synced().await;
    store.wait_until(|s| s.resource_version() == 7).await;
    assert_eq!(names(&store), ["a"]);
    let requests = script.requests.lock().clone();
    assert!(
        requests[0].contains("sendInitialEvents=true") && requests[0].contains("resourceVersionMatch=NotOlderThan"),
        "{requests:?}"
    );
    assert!(requests[1].contains("resourceVersion=6") && !requests[1].contains("sendInitialEvents"), "{requests:?}");
    assert!(requests[2].contains("resourceVersion=6"), "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_without_streaming_lists_is_listed_in_pages() {
    let refusal = r#"{"kind":"Status","code":422,"reason":"Invalid","message":"sendInitialEvents is forbidden"}"#;
    let page = |name: &str, next: &str| {
        format!(
            r#"{{"metadata":{{"resourceVersion":"9","continue":"{next}"}},"items":[{{"metadata":{{"name":"{name}","resourceVersion":"3"}}}}]}}"#
        )
    };
    let watch = event("ADDED", "c", 10);
    let (client, script) = script(&[(422, refusal), (200, &page("a", "more")), (200, &page("b", "")), (200, &watch)]);
    let store = informer(client);
    store.wait_until(|s| s.len() == 3).await;
    assert_eq!(names(&store), ["a", "b", "c"]);
    let requests = script.requests.lock().clone();
    assert!(requests[2].contains("continue=more"), "{requests:?}");
    assert!(requests[3].contains("watch=true") && requests[3].contains("resourceVersion=9"), "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn lost_history_leads_to_a_new_list_that_notices_removals() {
    let first = event("ADDED", "a", 1) + &event("ADDED", "b", 2) + &initial_end(2);
    let gone = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410,\"reason\":\"Expired\",\"message\":\"too old\"}}\n";
    let again = event("ADDED", "b", 2) + &initial_end(20);
    let (client, _script) = script(&[(200, &first), (200, gone), (200, &again)]);
    let store = informer(client);
    let mut subscription = store.subscribe();
    assert!(matches!(subscription.changed().await, Changes::Resync));
    store.wait_until(|s| s.resource_version() == 20).await;
    assert_eq!(names(&store), ["b"]);
    let Changes::Batch(changes) = subscription.changed().await else { panic!("expected changes") };
    assert!(changes.len() == 1 && changes[0].is_removal() && changes[0].object().key() == "a");
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_object_is_left_out() {
    let text =
        "{\"type\":\"ADDED\",\"object\":{\"metadata\":7}}\n".to_owned() + &event("ADDED", "a", 2) + &initial_end(3);
    let (client, _script) = script(&[(200, &text)]);
    let store = informer(client);
    store.synced().await;
    assert_eq!(names(&store), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn the_reflector_ends_with_its_last_handle() {
    let (client, script) = script(&[(200, &initial_end(3))]);
    let store = informer(client);
    store.synced().await;
    let weak = Arc::downgrade(&script);
    drop((store, script));
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    assert!(weak.upgrade().is_none());
}

/// As upstream on an old etcd: the answer begins well and then fails.
#[tokio::test(start_paused = true)]
async fn a_streamed_list_that_fails_is_replaced_by_one_in_pages() {
    let failed =
        "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":500,\"message\":\"etcdserver: unsupported\"}}\n";
    let expired = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410,\"reason\":\"Expired\"}}\n";
    let bookmark = "{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"4\"}}}\n";
    let page = r#"{"metadata":{"resourceVersion":"9"},"items":[{"metadata":{"name":"b","resourceVersion":"3"}}]}"#;
    let a = event("ADDED", "a", 1);
    for streamed in [
        (200, a.clone() + failed),
        (200, expired.to_owned()),
        (200, a.clone() + bookmark),
        (200, a.clone()),
        (200, a + "nonsense\n"),
        (500, "{}".to_owned()),
    ] {
        let before = tokio::time::Instant::now();
        let (client, script) = script(&[(streamed.0, &streamed.1), (200, page), (200, &event("ADDED", "c", 10))]);
        let store = informer(client);
        store.wait_until(|s| s.len() == 2).await;
        assert_eq!(names(&store), ["b", "c"], "{streamed:?}");
        let requests = script.requests.lock().clone();
        assert!(requests[1].contains("limit=") && requests[2].contains("resourceVersion=9"), "{requests:?}");
        assert!(before.elapsed() < Duration::from_secs(1), "{streamed:?}: {:?}", before.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_fails_after_a_streamed_one_is_not_hurried() {
    let refusal = r#"{"kind":"Status","code":500,"message":"no"}"#;
    let (client, script) = script(&[(500, refusal); 20]);
    let _store = informer(client);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let requests = script.requests.lock().len();
    assert!((4..=14).contains(&requests), "{requests} requests in 3 s");
}

/// A server that ignores `sendInitialEvents` and `allowWatchBookmarks` sends what there is, and no end of it.
#[tokio::test(start_paused = true)]
async fn a_stream_that_goes_silent_is_replaced() {
    struct Silent(Arc<Script>);
    impl Transport for Silent {
        fn call(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
            if request.uri().to_string().contains("sendInitialEvents") {
                let first = futures_util::stream::once(async { Bytes::from(event("ADDED", "a", 1)) });
                let pieces = futures_util::StreamExt::chain(first, futures_util::stream::pending());
                let pieces =
                    futures_util::StreamExt::map(pieces, |b| Ok::<_, crate::BoxError>(http_body::Frame::data(b)));
                let body = http_body_util::BodyExt::boxed_unsync(http_body_util::StreamBody::new(pieces));
                return Box::pin(async move { Ok(Response::new(body)) });
            }
            self.0.call(request)
        }
    }
    let page = r#"{"metadata":{"resourceVersion":"9"},"items":[{"metadata":{"name":"b","resourceVersion":"3"}}]}"#;
    let (_, script) = script(&[(200, page)]);
    let store = informer(Client::new(Arc::new(Silent(script))));
    store.synced().await;
    assert_eq!(names(&store), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_a_pause_gets_it() {
    let busy = r#"{"kind":"Status","code":429,"reason":"TooManyRequests","details":{"retryAfterSeconds":7}}"#;
    let (client, script) = script(&[(429, busy), (200, &initial_end(3))]);
    let before = tokio::time::Instant::now();
    informer(client).synced().await;
    assert!(before.elapsed() >= Duration::from_secs(7), "{:?}", before.elapsed());
    assert!(script.requests.lock()[1].contains("sendInitialEvents=true"));
}

/// Whatever cannot be read is told of, changes nothing that is known, and stops nothing else.
#[tokio::test(start_paused = true)]
async fn an_object_that_became_unreadable_stays_as_it_was() {
    #[derive(Debug)]
    struct Picky(PartialMetadata);
    impl Cached for Picky {
        fn decode(json: &[u8]) -> Result<Self, DecodeError> {
            let odd = String::from_utf8_lossy(json).contains("odd");
            let error = DecodeError { kind: "Thing", cause: "it is odd".to_owned() };
            if odd { Err(error) } else { PartialMetadata::from_json(json).map(Self) }
        }
        fn key(&self) -> String {
            self.0.key()
        }
        fn resource_version(&self) -> &str {
            &self.0.resource_version
        }
    }
    let odd = r#"{"type":"MODIFIED","object":{"kind":"Thing","odd":1,"metadata":{"name":"a","resourceVersion":"6"}}}"#;
    let first =
        event("ADDED", "a", 1) + &event("ADDED", "b", 2) + &initial_end(5) + odd + "\n" + &event("ADDED", "c", 7);
    let gone = r#"{"kind":"Status","code":410,"reason":"Expired"}"#;
    let again = odd.replace("MODIFIED", "ADDED") + "\n" + &event("ADDED", "d", 8) + &initial_end(9);
    // The second request is the event's or the watch's: both are answered by what ends the watch.
    let (client, script) = script(&[(200, &first), (410, gone), (410, gone), (200, &again)]);
    let store: Store<Picky> = Informer::of(client, &Gvr::new("", "v1", "things"), ListOptions::default()).spawn();
    store.wait_until(|s| s.resource_version() == 9).await;
    assert_eq!(store.list().iter().map(|o| Cached::key(&**o)).collect::<Vec<_>>(), ["a", "d"]);
    assert_eq!(store.get("a").unwrap().resource_version(), "1");
    let requests = script.requests.lock().clone();
    assert!(requests.iter().any(|r| r.ends_with("/namespaces/default/events")), "{requests:?}");
    let mut registry = prometheus_client::registry::Registry::default();
    crate::register_informer_metrics(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("informer_unreadable_objects_total{component=\"kybern\",resource=\"things\"}"), "{text}");
}

/// The name of a node, unless that begins with "hidden".
struct Label(PartialMetadata);

impl Cached for Label {
    fn decode(_: &[u8]) -> Result<Self, DecodeError> {
        unreachable!("it is made of a node")
    }
    fn key(&self) -> String {
        self.0.key()
    }
    fn resource_version(&self) -> &str {
        &self.0.resource_version
    }
}

fn label(node: &kybern_api::core::v1::Node) -> Option<Label> {
    let is_hidden = node.metadata.labels.iter().flatten().any(|(key, _)| key == "hidden");
    let json = kybern_api::encode::value(node).to_string();
    (!is_hidden).then(|| Label(PartialMetadata::from_json(json.as_bytes()).unwrap()))
}

#[tokio::test(start_paused = true)]
async fn stores_of_one_kind_share_a_watch_and_keep_what_each_wants() {
    let hidden =
        |version: u32| event("MODIFIED", "b", version).replace("\"name\"", "\"labels\":{\"hidden\":\"\"},\"name\"");
    let list = event("ADDED", "a", 1) + &event("ADDED", "b", 2) + &initial_end(5);
    // The second store has everything listed anew, and so does the third; what the first holds already is no news to it.
    let second = list.clone() + &event("ADDED", "c", 6) + &hidden(7);
    let third = event("ADDED", "c", 6) + &initial_end(9);
    let (client, script) = script(&[(200, &list), (SILENCE, ""), (200, &second), (SILENCE, ""), (200, &third)]);
    let script_len = || script.requests.lock().len();
    let client = client.with_sources(&Sources::default());
    let nodes = || Informer::<kybern_api::core::v1::Node>::new(client.clone(), ListOptions::default()).shared().spawn();
    let labels = || {
        Informer::<Label>::of(client.clone(), &Gvr::new("", "v1", "nodes"), ListOptions::default())
            .shared_as(label)
            .spawn()
    };
    let first = nodes();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut changes = first.subscribe();
    assert!(matches!(changes.changed().await, Changes::Resync));
    let reduced = labels();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let keys = |store: &Store<Label>| store.list().iter().map(|label| label.key()).collect::<Vec<_>>();
    assert_eq!(keys(&reduced), ["a", "c"]);
    assert_eq!(first.list().iter().map(|node| Object::key(&**node)).collect::<Vec<_>>(), ["a", "b", "c"]);
    let Changes::Batch(seen) = changes.changed().await else { panic!("expected changes") };
    assert_eq!(seen.iter().map(|change| Object::key(&**change.object())).collect::<Vec<_>>(), ["c", "b"]);
    assert_eq!(script_len(), 4);
    // A store that is dropped is told nothing more, and the others go on.
    let forgotten = Arc::downgrade(&reduced.get("a").unwrap());
    drop(reduced);
    assert!(forgotten.upgrade().is_none());
    let again = labels();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(keys(&again), ["c"]);
    assert_eq!((first.len(), first.resource_version()), (1, 9));
    // With the last handle of all, the watch ends; then the next begins anew.
    let before = script_len();
    drop((first, changes, again));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(script_len(), before);
}

#[tokio::test(start_paused = true)]
async fn stores_that_come_at_once_share_one_watch() {
    let list = event("ADDED", "a", 1) + &initial_end(5);
    let (client, script) = script(&[(SILENCE, ""), (200, &list)]);
    let client = client.with_sources(&Sources::default());
    let nodes = || Informer::<kybern_api::core::v1::Node>::new(client.clone(), ListOptions::default()).shared().spawn();
    let first = nodes();
    tokio::time::sleep(Duration::from_millis(1)).await;
    // None of these but the last gets a turn.
    let others = [nodes(), nodes(), nodes()];
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(first.len() == 1 && others.iter().all(|store| store.len() == 1));
    // The silent list, the one for all, and the watch that it goes on as: nobody else asks.
    assert_eq!(script.requests.lock().len(), 3);
    // Nor does one that comes and goes before it has a turn leave a watch behind.
    drop((nodes(), first, others));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(Arc::strong_count(&script), 2, "besides this test and its client nobody could ask");
}

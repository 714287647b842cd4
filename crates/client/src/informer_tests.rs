//! The reflector against a scripted server.

use std::collections::VecDeque;
use std::sync::Arc;

use http::{Request, Response};
use parking_lot::Mutex;

use super::*;
use crate::{Body, BoxFuture, Changes, Transport, TransportError, body};

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

//! Asking the API server who somebody is and what he may do: TokenReview and SubjectAccessReview, with the answers kept for
//! a short while, so that a client that comes again costs nothing (upstream's delegating authenticator and authorizer).

use std::collections::BTreeMap;
use std::time::Duration;

use kybern_apimachinery::{Gvr, Value, json};
use kybern_component_base::Kept;

use crate::{Client, ClientError, TransportError};

/// How many answers of each sort are kept.
const KEPT_MAX: usize = 4096;
/// Questions longer than this are asked each time, as upstream's.
const QUESTION_MAX: usize = 10_000;
/// An API server that does not answer is no answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// For how long answers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    pub token: Duration,
    pub allowed: Duration,
    pub denied: Duration,
}

impl Default for Lifetimes {
    /// As components that serve others have it; the kubelet keeps answers longer.
    fn default() -> Self {
        let short = Duration::from_secs(10);
        Self { token: short, allowed: short, denied: short }
    }
}

/// Who the API server says that somebody is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reviewed {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access<'a> {
    /// `verb` on a path such as `/metrics`.
    Path { verb: &'a str, path: &'a str },
    /// `verb` on the subresource of a node.
    Node { verb: &'a str, name: &'a str, subresource: &'a str },
}

/// The API server's word. Its reason is for the refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    pub reason: String,
}

/// Asks, and remembers.
pub struct Reviews {
    client: Client,
    lifetimes: Lifetimes,
    /// By the token's digest: a token itself is not to lie in memory for longer than its request.
    tokens: Kept<[u8; 32], Option<Reviewed>>,
    verdicts: Kept<String, Verdict>,
}

impl Reviews {
    pub fn new(client: Client, lifetimes: Lifetimes) -> Self {
        Self { client, lifetimes, tokens: Kept::new(KEPT_MAX), verdicts: Kept::new(KEPT_MAX) }
    }

    /// Whose token it is; `None`: nobody's.
    pub async fn token(&self, token: &str) -> Result<Option<Reviewed>, ClientError> {
        let mut key = [0; 32];
        key.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, token.as_bytes()).as_ref());
        if let Some(known) = self.tokens.get(&key) {
            return Ok(known);
        }
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {"token": token},
        });
        let answer = self.ask(&Gvr::new("authentication.k8s.io", "v1", "tokenreviews"), &review).await?;
        let status = &answer["status"];
        let user = (status["authenticated"] == true).then(|| reviewed(&status["user"]));
        self.tokens.put(key, user.clone(), self.lifetimes.token);
        Ok(user)
    }

    /// Whether `who` may do what is asked for.
    pub async fn access(&self, who: &Reviewed, access: &Access<'_>) -> Result<Verdict, ClientError> {
        let mut spec = json!({"user": who.name, "uid": who.uid, "groups": who.groups, "extra": who.extra});
        match access {
            Access::Path { verb, path } => spec["nonResourceAttributes"] = json!({"verb": verb, "path": path}),
            Access::Node { verb, name, subresource } => {
                spec["resourceAttributes"] = json!({
                    "verb": verb, "group": "", "version": "v1", "resource": "nodes", "name": name,
                    "subresource": subresource,
                });
            }
        }
        let key = spec.to_string();
        if let Some(known) = self.verdicts.get(&key) {
            return Ok(known);
        }
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "spec": spec,
        });
        let answer = self.ask(&Gvr::new("authorization.k8s.io", "v1", "subjectaccessreviews"), &review).await?;
        let status = &answer["status"];
        let reason = status["reason"].as_str().unwrap_or_default().to_owned();
        let verdict = Verdict { allowed: status["allowed"] == true && status["denied"] != true, reason };
        if key.len() <= QUESTION_MAX {
            let lifetime = if verdict.allowed { self.lifetimes.allowed } else { self.lifetimes.denied };
            self.verdicts.put(key, verdict.clone(), lifetime);
        }
        Ok(verdict)
    }

    async fn ask(&self, of: &Gvr, review: &Value) -> Result<Value, ClientError> {
        let reviews = self.client.raw(of);
        let answer = tokio::time::timeout(TIMEOUT, reviews.create(review)).await;
        answer.unwrap_or_else(|_| {
            let context = format!("cannot ask for a {}", of.resource);
            let cause = format!("no answer within {} s", TIMEOUT.as_secs()).into();
            Err(TransportError { context, cause }.into())
        })
    }
}

fn reviewed(user: &Value) -> Reviewed {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let extra = user["extra"].as_object().into_iter().flatten();
    Reviewed {
        name: text(&user["username"]),
        uid: text(&user["uid"]),
        groups: texts(&user["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{Body, BoxFuture, Transport, TransportError};

    /// Knows one token and one permission, and counts what it is asked.
    #[derive(Default)]
    struct Server(AtomicUsize);

    impl Transport for Arc<Server> {
        fn call(
            &self,
            request: http::Request<Body>,
        ) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                use http_body_util::BodyExt;
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let review: Value = serde_json::from_slice(&body).unwrap();
                let spec = &review["spec"];
                let status = if review["kind"] == "TokenReview" {
                    json!({"authenticated": spec["token"] == "good",
                           "user": {"username": "u", "groups": ["g"], "extra": {"k": ["v"]}}})
                } else {
                    json!({"allowed": spec["nonResourceAttributes"]["path"] == "/metrics", "reason": "so"})
                };
                Ok(http::Response::new(crate::body::full(json!({"status": status}).to_string())))
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_kept_for_their_time() {
        let server = Arc::new(Server::default());
        let asked = || server.0.load(Ordering::Relaxed);
        let reviews = Reviews::new(Client::new(Arc::new(server.clone())), Lifetimes::default());
        let user = reviews.token("good").await.unwrap().unwrap();
        assert_eq!(
            (user.name.as_str(), &user.groups[..], &user.extra["k"][..]),
            ("u", &["g".into()][..], &["v".into()][..])
        );
        assert_eq!(reviews.token("bad").await.unwrap(), None);
        assert_eq!(reviews.token("good").await.unwrap().as_ref(), Some(&user));
        assert_eq!(asked(), 2);
        let may = async |path| reviews.access(&user, &Access::Path { verb: "get", path }).await.unwrap().allowed;
        assert!(may("/metrics").await && !may("/configz").await);
        assert!(may("/metrics").await && !may("/configz").await);
        assert_eq!(asked(), 4);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(reviews.token("good").await.unwrap().is_some() && may("/metrics").await);
        assert_eq!(asked(), 6);
    }
}

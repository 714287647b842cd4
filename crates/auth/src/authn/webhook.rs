//! Tokens that a webhook judges (`--authentication-token-webhook-config-file`): it is sent TokenReviews, and its answers are
//! kept for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use kybern_apimachinery::{Value, json};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::UserInfo;
use kybern_component_base::Kept;
use kybern_webhook::{Backoff, Client};
use parking_lot::Mutex;
use ring::hmac;

use super::{TokenAuthenticator, TokenUser};

/// How many tokens are remembered, good and bad ones each: bad ones never push out a good one.
const KEPT_MAX: usize = 8192;
/// How long all attempts of one question may take together.
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenWebhookSettings {
    /// Whether the webhook speaks `authentication.k8s.io/v1`; else v1beta1.
    pub v1: bool,
    /// How long answers are kept.
    pub ttl: Duration,
    pub backoff: Backoff,
}

/// What the webhook says of a token.
type Judgement = Result<Option<TokenUser>, String>;
type Question = [u8; 32];

pub struct TokenWebhook(Arc<Inner>);

struct Inner {
    client: Client,
    settings: TokenWebhookSettings,
    /// Of the questions: neither tokens nor what can be computed from them alone lie in memory.
    key: hmac::Key,
    good: Kept<Question, TokenUser>,
    bad: Kept<Question, ()>,
    /// What the webhook is being asked: who asks the same waits for the same answer.
    asked: Mutex<HashMap<Question, Shared<BoxFuture<'static, Judgement>>>>,
}

impl TokenWebhook {
    pub fn new(client: Client, settings: TokenWebhookSettings) -> Self {
        let mut random = [0; 32];
        getrandom::fill(&mut random).expect("the system gives random numbers");
        Self(Arc::new(Inner {
            client,
            settings,
            key: hmac::Key::new(hmac::HMAC_SHA256, &random),
            good: Kept::new(KEPT_MAX),
            bad: Kept::new(KEPT_MAX),
            asked: Mutex::default(),
        }))
    }

    /// How many answers are kept.
    pub fn kept(&self) -> usize {
        self.0.good.len() + self.0.bad.len()
    }
}

impl Inner {
    fn question(&self, token: &str, audiences: &[String]) -> Question {
        let mut context = hmac::Context::with_key(&self.key);
        // Lengths, so that no two questions are written alike.
        for text in std::iter::once(token).chain(audiences.iter().map(String::as_str)) {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        }
        let mut question = [0; 32];
        question.copy_from_slice(context.sign().as_ref());
        question
    }

    async fn ask(&self, token: &str, audiences: &[String]) -> Judgement {
        let version = if self.settings.v1 { "v1" } else { "v1beta1" };
        let mut review = json!({
            "kind": "TokenReview", "apiVersion": format!("authentication.k8s.io/{version}"),
            "metadata": {}, "spec": {"token": token}, "status": {"user": {}},
        });
        if !audiences.is_empty() {
            review["spec"]["audiences"] = json!(audiences);
        }
        let body = bytes::Bytes::from(review.to_string());
        let attempts = self.settings.backoff.run(|| self.client.post(body.clone(), None));
        let answer = match tokio::time::timeout(TIMEOUT, attempts).await {
            Ok(answer) => answer.map_err(|e| e.to_string())?,
            Err(_) => return Err(format!("Post {:?}: context deadline exceeded", self.client.url())),
        };
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|e| format!("the webhook's answer is no TokenReview: {e}"))?;
        if answer["kind"] != "TokenReview" {
            return Err(format!("the webhook's answer is no TokenReview, but of kind {}", answer["kind"]));
        }
        judge(&answer["status"], audiences)
    }
}

fn judge(status: &Value, wanted: &[String]) -> Judgement {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let named = texts(&status["audiences"]);
    let audiences = if named.is_empty() {
        // It knows no audiences: the token is good for the server's own.
        None
    } else {
        let good: Vec<String> = wanted.iter().filter(|wanted| named.contains(wanted)).cloned().collect();
        if good.is_empty() {
            return Ok(None);
        }
        Some(good)
    };
    if status["authenticated"] != true {
        let error = text(&status["error"]);
        return if error.is_empty() { Ok(None) } else { Err(error) };
    }
    let user = &status["user"];
    let extra = user["extra"].as_object().into_iter().flatten();
    let user = UserInfo {
        name: text(&user["username"]),
        uid: text(&user["uid"]),
        groups: texts(&user["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
    };
    Ok(Some(TokenUser { user, audiences, notes: Vec::new() }))
}

impl TokenAuthenticator for TokenWebhook {
    fn authenticate_token<'a>(&'a self, token: &'a str, audiences: &'a [String]) -> BoxFuture<'a, Judgement> {
        let question = self.0.question(token, audiences);
        if let Some(user) = self.0.good.get(&question) {
            return Box::pin(std::future::ready(Ok(Some(user))));
        }
        if self.0.bad.get(&question).is_some() {
            return Box::pin(std::future::ready(Ok(None)));
        }
        let mut asked = self.0.asked.lock();
        let answer = asked.entry(question).or_insert_with(|| {
            let (inner, token, audiences) = (self.0.clone(), token.to_owned(), audiences.to_vec());
            // On a task of its own: who asked first may go, and others wait.
            let asking = tokio::spawn(async move {
                let judgement = inner.ask(&token, &audiences).await;
                match &judgement {
                    Ok(Some(user)) => inner.good.put(question, user.clone(), inner.settings.ttl),
                    Ok(None) => inner.bad.put(question, (), inner.settings.ttl),
                    Err(error) => tracing::warn!("cannot ask the webhook whose token it is: {error}"),
                }
                inner.asked.lock().remove(&question);
                judgement
            });
            let answer = async { asking.await.unwrap_or_else(|_| Err("authentication failed".to_owned())) };
            let answer: BoxFuture<'static, Judgement> = Box::pin(answer);
            answer.shared()
        });
        Box::pin(answer.clone())
    }
}

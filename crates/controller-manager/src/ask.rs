//! Decisions that need to be told what no store holds: the driver asks the server, the rest of the decision gets the answers.

use std::fmt;
use std::sync::Arc;

use kybern_apimachinery::{Gvr, Value};
use kybern_client::{Client, ClientError, Patch};

use crate::controller::Op;

/// One question to the server.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Reads what the path (with its query) names.
    Get(String),
    /// Writes a subresource whole; the body's resourceVersion is the precondition.
    Put {
        gvr: Gvr,
        namespace: String,
        name: String,
        subresource: &'static str,
        body: Vec<u8>,
    },
    Patch {
        gvr: Gvr,
        namespace: String,
        name: String,
        patch: Patch,
    },
}

pub type Answer = Result<Value, Refusal>;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub not_found: bool,
    pub conflict: bool,
    pub message: String,
}

impl Ask {
    pub(crate) async fn put_to(&self, client: &Client) -> Answer {
        match self {
            Self::Get(path) => client.get_path(path.clone()).await.map_err(Refusal::from),
            Self::Put { gvr, namespace, name, subresource, body } => {
                let written = client.raw(gvr).put_bytes(namespace, name, Some(*subresource), body.clone()).await;
                written.map_err(Refusal::from)
            }
            Self::Patch { gvr, namespace, name, patch } => {
                client.raw(gvr).patch(namespace, name, patch, None).await.map_err(Refusal::from)
            }
        }
    }
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        let (not_found, conflict) = (error.is_not_found(), error.is_conflict());
        Self { not_found, conflict, message: error.to_string() }
    }
}

impl Op {
    /// One question, and what is decided on its answer.
    pub fn ask(ask: Ask, decide: impl Fn(Answer) -> Vec<Self> + Send + Sync + 'static) -> Self {
        let then = Then::new(move |mut answers| answers.pop().map_or_else(Vec::new, &decide));
        Self::Ask { asks: vec![ask], then }
    }
}

/// The rest of a decision. It is as pure as what comes before it.
#[derive(Clone)]
pub struct Then(Arc<dyn Fn(Vec<Answer>) -> Vec<Op> + Send + Sync>);

impl Then {
    pub fn new(decide: impl Fn(Vec<Answer>) -> Vec<Op> + Send + Sync + 'static) -> Self {
        Self(Arc::new(decide))
    }

    /// What to do after these answers, one for each question, in their order.
    pub fn decide(&self, answers: Vec<Answer>) -> Vec<Op> {
        (self.0)(answers)
    }
}

impl fmt::Debug for Then {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Then")
    }
}

impl PartialEq for Then {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.0), Arc::as_ptr(&other.0))
    }
}

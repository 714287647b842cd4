//! `authorizer` in expressions: the server's authorizer, asked for the request's user or a service account.
//!
//! Expressions are evaluated without waiting. An authorizer that has to ask someone else is asked between two evaluations:
//! what the first one wanted to know is then known to the second.

use std::sync::Arc;

use kybern_apimachinery::selector::FieldSelector;
use kybern_apiserver::access::{Answer, Attributes, Authorizer, Decision, UserInfo};
use kybern_cel::{Check, What};
use parking_lot::Mutex;

/// No evaluation has more to ask than this: each check is a good part of what one may cost.
const MAX_QUESTIONS: usize = 64;

pub(in crate::admission) struct Answers {
    authorizer: Arc<dyn Authorizer>,
    user: UserInfo,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Vec<(Attributes, Decision)>,
    wanted: Option<Attributes>,
}

impl Answers {
    pub(in crate::admission) fn new(authorizer: Arc<dyn Authorizer>, user: UserInfo) -> Self {
        Self { authorizer, user, state: Mutex::default() }
    }

    /// Finds out what the last evaluation wanted to know; whether there was something, and it is to be repeated.
    pub(in crate::admission) async fn find_out(&self) -> bool {
        let Some(wanted) = self.state.lock().wanted.take() else { return false };
        let decision = self.authorizer.authorize(&wanted).decision().await;
        let mut state = self.state.lock();
        state.known.push((wanted, decision));
        state.known.len() < MAX_QUESTIONS
    }

    fn attributes(&self, check: &Check<'_>) -> Attributes {
        let user = match check.service_account {
            None => self.user.clone(),
            Some((namespace, name)) => UserInfo {
                name: format!("system:serviceaccount:{namespace}:{name}"),
                groups: vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                    kybern_auth::AUTHENTICATED.to_owned(),
                ],
                ..UserInfo::default()
            },
        };
        let attributes = Attributes { user, verb: check.verb.to_owned(), ..Attributes::default() };
        match check.what {
            What::Path(path) => Attributes { path: path.to_owned(), ..attributes },
            What::Resource(about) => Attributes {
                resource_request: true,
                group: about.group.clone(),
                version: "*".to_owned(),
                resource: about.resource.clone(),
                subresource: about.subresource.clone(),
                namespace: about.namespace.clone(),
                name: about.name.clone(),
                field_selector: FieldSelector::parse(&about.field_selector).unwrap_or_default(),
                ..attributes
            },
        }
    }
}

impl kybern_cel::Authorizer for Answers {
    fn authorize(&self, check: &Check<'_>) -> kybern_cel::Decision {
        let attributes = self.attributes(check);
        let mut state = self.state.lock();
        if let Some((_, decision)) = state.known.iter().find(|(known, _)| *known == attributes) {
            return told(decision);
        }
        let now = match self.authorizer.authorize(&attributes) {
            Answer::Now(decision) => Some(decision),
            Answer::Later(_) => None,
        };
        let Some(decision) = now else {
            let error = Some("the authorizer has not answered yet".to_owned());
            state.wanted.get_or_insert(attributes);
            return kybern_cel::Decision { error, ..kybern_cel::Decision::default() };
        };
        let said = told(&decision);
        state.known.push((attributes, decision));
        said
    }
}

fn told(decision: &Decision) -> kybern_cel::Decision {
    let (allowed, reason, error) = match decision {
        Decision::Allow(reason) => (true, reason.as_deref().unwrap_or("").to_owned(), None),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => (false, reason.clone(), None),
        Decision::Error { text, .. } => (false, String::new(), Some(text.clone())),
    };
    kybern_cel::Decision { allowed, reason, error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_cel::Authorizer as _;

    /// Knows nothing by itself.
    struct Asks;

    impl Authorizer for Asks {
        fn authorize<'a>(&'a self, attributes: &'a Attributes) -> Answer<'a> {
            Answer::Later(Box::pin(async {
                tokio::task::yield_now().await;
                if attributes.verb == "get" { Decision::Allow(None) } else { Decision::NoOpinion("no".to_owned()) }
            }))
        }
    }

    #[tokio::test]
    async fn who_has_to_ask_is_waited_for_between_two_evaluations() {
        let answers = Answers::new(Arc::new(Asks), UserInfo::default());
        let check = |verb| Check { verb, service_account: None, what: What::Path("/metrics") };
        assert!(!answers.find_out().await, "nothing was asked");
        assert!(answers.authorize(&check("get")).error.is_some());
        assert!(answers.find_out().await);
        assert!(answers.authorize(&check("get")).allowed);
        assert!(!answers.find_out().await, "all is known");
        assert!(answers.authorize(&check("post")).error.is_some() && answers.find_out().await);
        let refused = answers.authorize(&check("post"));
        assert_eq!((refused.allowed, refused.reason.as_str(), refused.error), (false, "no", None));
    }
}

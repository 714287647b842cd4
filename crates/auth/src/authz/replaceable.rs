//! Authorizers that are replaced by others while requests are judged: those of a file that changes.

use std::sync::Arc;

use arc_swap::ArcSwap;
use kybern_apiserver::access::{self, Answer, Attributes, Authorizer};

/// Asks the authorizers of the moment, in order. A request is judged by one list, whatever happens meanwhile.
pub struct Replaceable(ArcSwap<Vec<Arc<dyn Authorizer>>>);

impl Replaceable {
    pub fn new(list: Vec<Arc<dyn Authorizer>>) -> Self {
        Self(ArcSwap::from_pointee(list))
    }

    pub fn replace(&self, list: Vec<Arc<dyn Authorizer>>) {
        self.0.store(Arc::new(list));
    }
}

impl Authorizer for Replaceable {
    fn authorize<'a>(&'a self, attributes: &'a Attributes) -> Answer<'a> {
        let list = self.0.load();
        if let Answer::Now(decision) = access::ask(&list, attributes) {
            return decision.into();
        }
        // Who has to be asked has not been yet: the answer was not waited for.
        let list = Arc::clone(&list);
        Answer::Later(Box::pin(async move { access::ask(&list, attributes).decision().await }))
    }
}

#[cfg(test)]
mod tests {
    use kybern_apiserver::access::Decision;

    use super::*;
    use crate::authz::{AlwaysAllow, AlwaysDeny};
    use crate::testing::block;

    #[test]
    fn others_judge_once_they_are_there() {
        let list = Replaceable::new(vec![Arc::new(AlwaysDeny)]);
        let ask = || block(list.authorize(&Attributes::default()).decision());
        assert_eq!(ask(), Decision::NoOpinion("Everything is forbidden.".into()));
        list.replace(vec![Arc::new(AlwaysAllow)]);
        assert_eq!(ask(), Decision::Allow(None));
        list.replace(Vec::new());
        assert_eq!(ask(), Decision::NoOpinion(String::new()), "nobody allows anything");
    }
}

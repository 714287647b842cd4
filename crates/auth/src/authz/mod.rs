//! The authorizers, in the order of `--authorization-mode`. Members of `system:masters` are allowed before any is asked.

mod modes;
pub mod node;
pub mod rbac;

use std::sync::Arc;

use kybern_apiserver::access::{Attributes, Authorizer, Decision};

pub use modes::{Mode, UnknownMode, parse_modes};

use crate::MASTERS;

/// `system:masters` may do everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Masters;

impl Authorizer for Masters {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        if attributes.user.in_group(MASTERS) { Decision::Allow } else { Decision::NoOpinion(String::new()) }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct AlwaysAllow;

impl Authorizer for AlwaysAllow {
    fn authorize(&self, _: &Attributes) -> Decision {
        Decision::Allow
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct AlwaysDeny;

impl Authorizer for AlwaysDeny {
    fn authorize(&self, _: &Attributes) -> Decision {
        Decision::NoOpinion("Everything is forbidden.".to_owned())
    }
}

/// Asks a list in order: the first `Allow` or `Deny` counts; the reasons of the others are gathered.
#[derive(Clone)]
pub struct Union(pub Vec<Arc<dyn Authorizer>>);

impl Authorizer for Union {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        let mut reasons = Vec::new();
        for authorizer in &self.0 {
            match authorizer.authorize(attributes) {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                answer => return answer,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_opinion_counts() {
        let ask = |list: &[Arc<dyn Authorizer>]| Union(list.to_vec()).authorize(&Attributes::default());
        assert_eq!(ask(&[Arc::new(Masters), Arc::new(AlwaysAllow)]), Decision::Allow);
        assert_eq!(ask(&[Arc::new(AlwaysDeny)]), Decision::NoOpinion("Everything is forbidden.".into()));
    }
}

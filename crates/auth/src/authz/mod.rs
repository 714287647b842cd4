//! The authorizers, in the order of `--authorization-mode`. Members of `system:masters` are allowed before any is asked.

pub mod abac;
mod conditions;
mod configuration;
mod metrics;
mod modes;
pub mod node;
pub mod rbac;
mod replaceable;
mod webhook;

use std::sync::Arc;

use kybern_apiserver::access::{self, Answer, Attributes, Authorizer, Decision};

pub use conditions::AccessConditions;
pub use configuration::{ConfiguredAuthorizer, ConfiguredWebhook, Connection, parse_configuration};
pub use metrics::Metrics as AuthorizationMetrics;
pub use modes::{Mode, UnknownMode, parse_modes};

pub use replaceable::Replaceable;
pub use webhook::{AccessWebhook, AccessWebhookSettings};

use crate::MASTERS;

/// `system:masters` may do everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Masters;

impl Authorizer for Masters {
    fn authorize<'a>(&'a self, attributes: &'a Attributes) -> Answer<'a> {
        if attributes.user.in_group(MASTERS) { Decision::Allow(None) } else { Decision::NoOpinion(String::new()) }
            .into()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct AlwaysAllow;

impl Authorizer for AlwaysAllow {
    fn authorize<'a>(&'a self, _: &'a Attributes) -> Answer<'a> {
        Decision::Allow(None).into()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct AlwaysDeny;

impl Authorizer for AlwaysDeny {
    fn authorize<'a>(&'a self, _: &'a Attributes) -> Answer<'a> {
        Decision::NoOpinion("Everything is forbidden.".to_owned()).into()
    }
}

/// Asks a list in order: the first `Allow` or `Deny` counts; the reasons of the others are gathered.
#[derive(Clone)]
pub struct Union(pub Vec<Arc<dyn Authorizer>>);

impl Authorizer for Union {
    fn authorize<'a>(&'a self, attributes: &'a Attributes) -> Answer<'a> {
        access::ask(&self.0, attributes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::testing::block;

    struct Says(Decision, AtomicUsize);

    impl Authorizer for Says {
        fn authorize<'a>(&'a self, _: &'a Attributes) -> Answer<'a> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let late = Box::pin(async { self.0.clone() });
            Answer::Later(late)
        }
    }

    fn says(decision: Decision) -> Arc<dyn Authorizer> {
        Arc::new(Says(decision, AtomicUsize::new(0)))
    }

    fn error(text: &str, deny: bool) -> Decision {
        Decision::Error { text: text.to_owned(), deny }
    }

    fn decide(list: &[Arc<dyn Authorizer>]) -> Decision {
        block(Union(list.to_vec()).authorize(&Attributes::default()).decision())
    }

    #[test]
    fn the_first_opinion_counts() {
        let refused = Decision::NoOpinion("Everything is forbidden.".into());
        assert_eq!(decide(&[Arc::new(Masters), Arc::new(AlwaysAllow)]), Decision::Allow(None));
        assert_eq!(decide(&[Arc::new(AlwaysDeny)]), refused);
        let late_refusal = Decision::Deny("no".into());
        assert_eq!(decide(&[says(refused.clone()), says(late_refusal.clone()), Arc::new(AlwaysAllow)]), late_refusal);
        assert_eq!(
            decide(&[says(refused.clone()), Arc::new(AlwaysDeny)]),
            Decision::NoOpinion("Everything is forbidden.\nEverything is forbidden.".into())
        );
    }

    #[test]
    fn who_cannot_tell_stops_only_those_whom_nobody_allows() {
        let away = || says(error("away", false));
        assert_eq!(decide(&[away(), Arc::new(AlwaysAllow)]), Decision::Allow(None));
        assert_eq!(decide(&[away(), Arc::new(AlwaysDeny)]), error("away", false));
        assert_eq!(decide(&[away(), away()]), error("[away, away]", false));
        assert_eq!(decide(&[says(error("away", true)), Arc::new(AlwaysAllow)]), error("away", true));
    }

    #[test]
    fn what_is_known_is_said_at_once() {
        let known: [Arc<dyn Authorizer>; 2] = [Arc::new(Masters), Arc::new(AlwaysAllow)];
        assert!(matches!(access::ask(&known, &Attributes::default()), Answer::Now(Decision::Allow(None))));
    }
}

//! The subresources that are neither a read nor a write of their object, and the resources that are never stored.

mod access_review;
mod binding;
mod component_status;
mod dial;
mod eviction;
mod exchange;
pub mod kubelet;
mod pod;
mod proxy;
pub(crate) mod resource_metrics;
mod review;
pub(crate) mod stream;
mod token;

use std::sync::Arc;

use kybern_apiserver::connect::Connector;
pub(crate) use proxy::forwarded_for;
pub use token::TokenLimits;

use crate::Deps;

/// Serves a subresource of a core resource; `None` for one that does not exist.
pub fn connector(resource: &str, subresource: &str, deps: &Deps) -> Option<Arc<dyn Connector>> {
    let kubelet = deps.kubelet.clone();
    Some(match (resource, subresource) {
        ("pods", "binding") => Arc::new(binding::Binding { clock: deps.clock.clone() }),
        ("pods", "eviction") => Arc::new(eviction::Eviction { clock: deps.clock.clone() }),
        ("pods", "log") => Arc::new(pod::Log { kubelet }),
        ("pods", "exec") => Arc::new(pod::Streams { kubelet, call: pod::Call::Exec }),
        ("pods", "attach") => Arc::new(pod::Streams { kubelet, call: pod::Call::Attach }),
        ("pods", "portforward") => Arc::new(pod::Streams { kubelet, call: pod::Call::PortForward }),
        ("pods", "proxy") => Arc::new(proxy::Proxy::new(kubelet, proxy::Kind::Pod)),
        ("services", "proxy") => Arc::new(proxy::Proxy::new(kubelet, proxy::Kind::Service)),
        ("nodes", "proxy") => Arc::new(proxy::Proxy::new(kubelet, proxy::Kind::Node)),
        ("serviceaccounts", "token") => {
            let (issuer, clock, limits) = (deps.issuer.clone(), deps.clock.clone(), deps.token_limits);
            Arc::new(token::TokenRequest { issuer, clock, limits })
        }
        _ => return None,
    })
}

/// Serves a resource that is never stored; `None` for all that are.
pub fn unstored(group: &str, resource: &str, deps: &Deps) -> Option<Arc<dyn Connector>> {
    let access = |scope| Arc::new(access_review::AccessReview { authorizer: deps.authorizer.clone(), scope });
    Some(match (group, resource) {
        ("", "bindings") => Arc::new(binding::Binding { clock: deps.clock.clone() }),
        ("", "componentstatuses") => Arc::new(component_status::ComponentStatuses),
        ("authentication.k8s.io", "tokenreviews") => Arc::new(review::TokenReview { tokens: deps.tokens.clone() }),
        ("authentication.k8s.io", "selfsubjectreviews") => {
            Arc::new(review::SelfSubjectReview { clock: deps.clock.clone() })
        }
        ("authorization.k8s.io", "subjectaccessreviews") => access(access_review::Scope::Subject),
        ("authorization.k8s.io", "localsubjectaccessreviews") => access(access_review::Scope::Local),
        ("authorization.k8s.io", "selfsubjectaccessreviews") => access(access_review::Scope::Own),
        ("authorization.k8s.io", "selfsubjectrulesreviews") => {
            Arc::new(review::RulesReview { rbac: deps.rbac.clone() })
        }
        _ => return None,
    })
}

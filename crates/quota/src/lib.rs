//! What objects use of the resources that quotas bound (`k8s.io/apiserver/pkg/quota`, `pkg/quota`), and whether quotas have
//! room for it. Pure, on untyped objects: the admission plugin charges by it, the controller counts by it.

mod amounts;
mod charge;
mod claims;
mod count;
mod evaluator;
pub mod limit_ranges;
mod pods;
pub mod qos;
pub mod resources;
mod scopes;

pub use amounts::{Amounts, amounts, equal, sum, to_json};
pub use charge::{Limited, Refusal, Request, charge};
pub use count::{Found, concerns, is_told, used, with_status};
pub use evaluator::{Evaluator, count_name};
pub use scopes::{Scope, in_scope};

//! `--load-balancers`: where Services of type LoadBalancer get their addresses from.

use std::sync::Arc;

use clap::ValueEnum;
use kybern_controller_manager::controllers::service_lb::{NodeAddresses, Provider};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadBalancers {
    /// Services are reached at their ports of the nodes' addresses
    NodeAddresses,
    /// Somebody else gives addresses: a cloud's controller, MetalLB, or nobody
    None,
}

impl LoadBalancers {
    pub(crate) fn provider(self) -> Option<Arc<dyn Provider>> {
        match self {
            Self::NodeAddresses => Some(Arc::new(NodeAddresses::default())),
            Self::None => None,
        }
    }
}

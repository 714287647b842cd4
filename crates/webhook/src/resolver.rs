//! Where a Service's servers are.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use kybern_component_base::transport::{BoxError, Resolve};

/// Finds the servers of a Service, from what is in memory.
pub trait ServiceResolver: Send + Sync + 'static {
    /// Addresses, best first: each is tried until one takes the connection. Errors have upstream's words, such as
    /// `service "a" not found` and `no endpoints available for service "a"`.
    fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<Vec<SocketAddr>, String>;
}

/// Where nobody knows of Services, as in a server that reads its configuration alone.
pub struct NoServices;

impl ServiceResolver for NoServices {
    fn resolve(&self, _: &str, name: &str, _: u16) -> Result<Vec<SocketAddr>, String> {
        Err(format!("service {name:?} not found"))
    }
}

/// One Service's way to be found, for a connector.
pub(crate) struct OneService {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) resolver: Arc<dyn ServiceResolver>,
}

impl Resolve for OneService {
    fn resolve<'a>(
        &'a self,
        _: &'a str,
        port: u16,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<SocketAddr>, BoxError>> + Send + 'a>> {
        let found = self.resolver.resolve(&self.namespace, &self.name, port).map_err(BoxError::from);
        Box::pin(std::future::ready(found))
    }
}

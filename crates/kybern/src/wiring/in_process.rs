//! The transport of components that live in the API server's process: the same requests through the same pipeline, with an
//! identity of their own and the same authorization, but no connection and no TLS.

use std::sync::Arc;

use kybern_apiserver::Server;
use kybern_apiserver::access::UserInfo;
use kybern_client::{Body, BoxFuture, Client, Transport, TransportError};

struct InProcess {
    server: Arc<Server>,
    user: UserInfo,
}

impl Transport for InProcess {
    fn call(
        &self,
        mut request: http::Request<Body>,
    ) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        request.extensions_mut().insert(self.user.clone());
        let server = Arc::clone(&self.server);
        Box::pin(async move { Ok(server.handle(request).await) })
    }
}

/// A client that acts as `name`, a member of `groups`.
pub(crate) fn client(server: &Arc<Server>, name: &str, groups: &[&str]) -> Client {
    let groups = groups.iter().chain(&["system:authenticated"]).map(|g| (*g).to_owned()).collect();
    let user = UserInfo { name: name.to_owned(), groups, ..UserInfo::default() };
    // User agents name a request's field manager: the part after `system:`.
    let agent = name.rsplit(':').next().unwrap_or(name);
    Client::new(Arc::new(InProcess { server: Arc::clone(server), user })).with_user_agent(agent)
}

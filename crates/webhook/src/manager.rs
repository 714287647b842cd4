//! The clients of webhooks that objects configure, shared by all who configure the same.

use std::collections::HashMap;
use std::sync::Arc;

use kybern_component_base::transport::{CertificateAuthorities, SystemResolver, Users};
use parking_lot::Mutex;

use crate::client::{Client, HTTP_1, HTTP_2, Settings};
use crate::config::{ClientConfig, Target, clean_path};
use crate::resolver::{OneService, ServiceResolver};

/// How many clients are kept, as upstream keeps them: the least recently used one goes.
const CLIENTS_MAX: usize = 200;

/// Makes clients, once for each configuration: webhooks of equal configurations share connections, and a configuration that
/// changes elsewhere keeps them.
pub struct ClientManager {
    resolver: Arc<dyn ServiceResolver>,
    user_agent: String,
    users: Users,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    clients: HashMap<ClientConfig, (Arc<Client>, u64)>,
    uses: u64,
}

impl ClientManager {
    pub fn new(resolver: Arc<dyn ServiceResolver>, user_agent: impl Into<String>) -> Self {
        Self { resolver, user_agent: user_agent.into(), users: Users::default(), kept: Mutex::default() }
    }

    /// One that shows servers who it is, by the users that are named after them; with clients of its own.
    #[must_use]
    pub fn with_users(&self, users: Users) -> Self {
        let (resolver, user_agent) = (self.resolver.clone(), self.user_agent.clone());
        Self { resolver, user_agent, users, kept: Mutex::default() }
    }

    /// The client of a configuration. Keep it as long as the configuration: asking costs a look-up.
    pub fn client(&self, config: &ClientConfig) -> Result<Arc<Client>, String> {
        let mut kept = self.kept.lock();
        kept.uses += 1;
        let now = kept.uses;
        if let Some((client, used)) = kept.clients.get_mut(config) {
            *used = now;
            return Ok(client.clone());
        }
        let client = Arc::new(self.make(config)?);
        if kept.clients.len() >= CLIENTS_MAX
            && let Some(oldest) = kept.clients.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone())
        {
            kept.clients.remove(&oldest);
        }
        kept.clients.insert(config.clone(), (client.clone(), now));
        Ok(client)
    }

    fn make(&self, config: &ClientConfig) -> Result<Client, String> {
        let ca = if config.ca_bundle.is_empty() {
            CertificateAuthorities::System
        } else {
            let unusable = |_| "unable to load root certificates: unable to parse bytes as PEM block".to_owned();
            CertificateAuthorities::from_pem(&config.ca_bundle).map_err(unusable)?
        };
        let mut rest;
        let mut settings = Settings::new(&self.user_agent);
        // HTTP/2 would send everything to one of several servers.
        settings.protocols = HTTP_1;
        match &config.target {
            Target::Service(service) => {
                let name = service.server_name();
                rest = self.users.for_server(&name, service.port).map_err(|e| e.0)?;
                rest.server = format!("https://{name}:{}{}", service.port, clean_path(&service.path));
                rest.server_name = Some(name);
                settings.resolver = Arc::new(OneService {
                    namespace: service.namespace.clone(),
                    name: service.name.clone(),
                    resolver: self.resolver.clone(),
                });
            }
            Target::Url(url) => {
                let uri: http::Uri = url.parse().map_err(|e| format!("Unparsable URL: parse {url:?}: {e}"))?;
                let scheme = uri.scheme_str().unwrap_or("https");
                let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
                let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
                let port = uri.port_u16().unwrap_or(443);
                rest = self.users.for_server(host, port).map_err(|e| e.0)?;
                rest.server = format!("{scheme}://{authority}{}", clean_path(uri.path()));
                if is_loopback(uri.host().unwrap_or_default()) {
                    settings.protocols = HTTP_2;
                }
                settings.resolver = Arc::new(SystemResolver);
            }
        }
        rest.ca = ca;
        Client::new(&rest, settings).map_err(|e| e.0)
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|a| a.is_loopback())
}

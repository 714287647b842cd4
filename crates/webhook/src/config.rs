//! What objects say about their webhooks: a URL or a Service, and whom to trust.

use base64::Engine;
use kybern_apimachinery::Value;

/// `clientConfig` of webhook configurations and of custom resources' conversions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientConfig {
    pub target: Target,
    /// PEM; empty for the system's authorities.
    pub ca_bundle: Vec<u8>,
}

/// Where calls go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    Url(String),
    Service(ServiceReference),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceReference {
    pub namespace: String,
    pub name: String,
    pub path: String,
    pub port: u16,
}

impl ClientConfig {
    /// Reads a `clientConfig`, which validation has let pass.
    pub fn from_value(config: &Value) -> Result<Self, String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let target = match (&config["service"], config["url"].as_str()) {
            (service @ Value::Object(_), _) => Target::Service(ServiceReference {
                namespace: text(&service["namespace"]),
                name: text(&service["name"]),
                path: text(&service["path"]),
                port: service["port"].as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(443),
            }),
            (_, Some(url)) if !url.is_empty() => Target::Url(url.to_owned()),
            _ => return Err("webhook configuration must have either service or URL".to_owned()),
        };
        let bundle = config["caBundle"].as_str().unwrap_or_default();
        let ca_bundle = base64::engine::general_purpose::STANDARD.decode(bundle);
        Ok(Self { target, ca_bundle: ca_bundle.map_err(|e| format!("caBundle is no base64: {e}"))? })
    }
}

impl ServiceReference {
    /// The name that the server's certificate must bear.
    pub fn server_name(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }
}

/// A path as Go's `path.Join` leaves it: from the root, without empty parts, dots and a slash at the end.
pub(crate) fn clean_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn a_client_config_is_read() {
        let service = json!({"service": {"namespace": "n", "name": "s", "path": "/p"}, "caBundle": "YQ=="});
        let read = ClientConfig::from_value(&service).unwrap();
        assert_eq!(read.ca_bundle, b"a");
        let Target::Service(service) = read.target else { panic!("no service") };
        assert_eq!((service.server_name().as_str(), service.port, service.path.as_str()), ("s.n.svc", 443, "/p"));
        let url = ClientConfig::from_value(&json!({"url": "https://a/b"})).unwrap();
        assert_eq!(url.target, Target::Url("https://a/b".to_owned()));
        assert!(ClientConfig::from_value(&json!({})).is_err());
    }

    #[test]
    fn paths_are_joined_as_go_does() {
        for (from, to) in [("", "/"), ("/", "/"), ("/a/", "/a"), ("a//b/./c", "/a/b/c"), ("/../a/../b", "/b")] {
            assert_eq!(clean_path(from), to);
        }
    }
}

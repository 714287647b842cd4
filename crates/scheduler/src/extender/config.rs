//! `extenders` of a `KubeSchedulerConfiguration`, as upstream reads and validates them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use kybern_apimachinery::time::parse_duration;
use kybern_apimachinery::validation::{is_extended_resource, label_key};
use kybern_apimachinery::{Value, json};
use kybern_component_base::transport::{CertificateAuthorities, Identity, RestConfig};
use kybern_webhook::{Client, Settings};
use serde::Deserialize;

use super::{Bits, Extender, Extenders, Verb};
use crate::config::ConfigError;

/// Of a call.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Wire {
    url_prefix: String,
    filter_verb: String,
    preempt_verb: String,
    prioritize_verb: String,
    weight: i64,
    bind_verb: String,
    #[serde(rename = "enableHTTPS")]
    enable_https: bool,
    tls_config: Option<Tls>,
    http_timeout: Option<String>,
    node_cache_capable: bool,
    managed_resources: Vec<Managed>,
    ignorable: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Tls {
    insecure: bool,
    server_name: String,
    cert_file: String,
    key_file: String,
    ca_file: String,
    /// As base64, as are the next two.
    cert_data: String,
    key_data: String,
    ca_data: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Managed {
    name: String,
    ignored_by_scheduler: bool,
}

impl Extenders {
    /// Reads `extenders`; also answers the resources that the scheduler itself is to ignore.
    pub fn of(listed: &Value) -> Result<(Self, Vec<String>), ConfigError> {
        let malformed = |path: String, error: String| ConfigError::Malformed { path, error };
        let listed = listed.as_array().map(Vec::as_slice).unwrap_or_default();
        if listed.len() > Bits::BITS as usize - 1 {
            return Err(malformed("extenders".to_owned(), format!("there are more than {}", Bits::BITS - 1)));
        }
        let mut read = Vec::with_capacity(listed.len());
        let (mut names, mut ignored) = (BTreeSet::new(), Vec::new());
        for (n, value) in listed.iter().enumerate() {
            let at = |field: &str| format!("extenders[{n}]{field}");
            let wire = Wire::deserialize(value).map_err(|e| malformed(at(""), e.to_string()))?;
            if !wire.prioritize_verb.is_empty() && wire.weight <= 0 {
                let (value, expected) = (wire.weight.into(), "must have a positive weight applied to it");
                return Err(ConfigError::Invalid { path: at(".weight"), value, expected });
            }
            for (m, managed) in wire.managed_resources.iter().enumerate() {
                let path = at(&format!(".managedResources[{m}].name"));
                let invalid = |why: &str| Err(malformed(path, format!("Invalid value: {:?}: {why}", managed.name)));
                if let Some(why) = label_key(&managed.name).first() {
                    return invalid(why);
                }
                if !is_extended_resource(&managed.name) {
                    return invalid("is an invalid extended resource name");
                }
                if !names.insert(managed.name.clone()) {
                    return invalid("duplicate extender managed resource name");
                }
                ignored.extend(managed.ignored_by_scheduler.then(|| managed.name.clone()));
            }
            read.push(wire);
        }
        let binders = read.iter().filter(|wire| !wire.bind_verb.is_empty()).count();
        if binders > 1 {
            let value = json!(format!("found {binders} extenders implementing bind"));
            let expected = "only one extender can implement bind";
            return Err(ConfigError::Invalid { path: "extenders".to_owned(), value, expected });
        }
        let mut made = Vec::with_capacity(read.len());
        for (n, wire) in read.into_iter().enumerate() {
            made.push(Arc::new(wire.make().map_err(|error| malformed(format!("extenders[{n}]"), error))?));
        }
        made.sort_by_key(|extender| extender.is_ignorable);
        Ok((Self(made), ignored))
    }
}

impl Wire {
    fn make(self) -> Result<Extender, String> {
        let timeout = match self.http_timeout.as_deref() {
            None | Some("") => DEFAULT_TIMEOUT,
            Some(text) => parse_duration(text).ok_or_else(|| format!("httpTimeout: {text:?} is no duration"))?,
        };
        let timeout = if timeout.is_zero() { DEFAULT_TIMEOUT } else { timeout };
        let prefix = self.url_prefix.trim_end_matches('/');
        let uri = prefix.parse::<http::Uri>().ok().filter(|uri| uri.host().is_some());
        if uri.is_none_or(|uri| !matches!(uri.scheme_str(), Some("http" | "https"))) {
            return Err(format!("urlPrefix: {:?} must begin with http:// or https:// and a host", self.url_prefix));
        }
        let mut rest = self.tls_config.unwrap_or_default().into_rest(self.enable_https)?;
        let mut verb = |name: String| -> Result<Option<Verb>, String> {
            if name.is_empty() {
                return Ok(None);
            }
            rest.server = format!("{prefix}/{name}");
            let settings = Settings { timeout, retries: 0, ..Settings::new("kube-scheduler") };
            let client = Client::new(&rest, settings).map_err(|e| e.to_string())?;
            Ok(Some(Verb { name, client }))
        };
        Ok(Extender {
            filter: verb(self.filter_verb)?,
            prioritize: verb(self.prioritize_verb)?,
            preempt: verb(self.preempt_verb)?,
            bind: verb(self.bind_verb)?,
            weight: self.weight,
            knows_nodes: self.node_cache_capable,
            managed: self.managed_resources.into_iter().map(|managed| managed.name).collect(),
            is_ignorable: self.ignorable,
            url: self.url_prefix,
        })
    }
}

impl Tls {
    /// Without authorities `enableHTTPS` trusts anyone, upstream's way.
    fn into_rest(self, enable_https: bool) -> Result<RestConfig, String> {
        let ca = source(&self.ca_data, &self.ca_file)?;
        let ca = match ca {
            Some(_) if self.insecure => {
                return Err("specifying a root certificates file with the insecure flag is not allowed".to_owned());
            }
            Some(pem) => CertificateAuthorities::from_pem(&pem).map_err(|e| e.to_string())?,
            None if self.insecure || enable_https => CertificateAuthorities::Anyone,
            None => CertificateAuthorities::System,
        };
        let identity = match (source(&self.cert_data, &self.cert_file)?, source(&self.key_data, &self.key_file)?) {
            (Some(chain), Some(key)) => Some(Identity::from_pem(&chain, &key).map_err(|e| e.to_string())?),
            (None, None) => None,
            _ => return Err("tlsConfig: a client certificate needs its key, and a key its certificate".to_owned()),
        };
        let server_name = Some(self.server_name).filter(|name| !name.is_empty());
        Ok(RestConfig { server_name, ca, identity, ..RestConfig::default() })
    }
}

/// What is written in the file itself, or else the file that is named there.
fn source(data: &str, file: &str) -> Result<Option<Vec<u8>>, String> {
    match (data, file) {
        ("", "") => Ok(None),
        ("", file) => std::fs::read(Path::new(file)).map(Some).map_err(|e| format!("cannot read {file}: {e}")),
        (data, _) => {
            let read = base64::engine::general_purpose::STANDARD.decode(data.trim());
            read.map(Some).map_err(|e| format!("tlsConfig holds malformed base64: {e}"))
        }
    }
}

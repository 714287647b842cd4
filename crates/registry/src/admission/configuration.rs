//! What the plugins are told by the administrator.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_component_base::transport::Users;
use kybern_pod_security::Configuration as PodSecurityConfiguration;
use kybern_quota::{Limited, Scope};

use super::event_rate_limit::EventLimit;
use super::image_policy::ImagePolicy;
use crate::tree::{has, list, map, text};

/// Without it, upstream's defaults.
#[derive(Clone, Debug, Default)]
pub struct AdmissionConfiguration {
    /// Of the plugins that are off by default, those that are on.
    pub enabled: Vec<String>,
    /// `ResourceQuota`: what may only be used where a quota covers it.
    pub limited: Vec<Limited>,
    /// `PodSecurity`.
    pub pod_security: PodSecurityConfiguration,
    /// `PodNodeSelector`: the default under `clusterDefaultNodeSelector`, what pods may ask for by namespace.
    pub node_selectors: BTreeMap<String, String>,
    /// `PodTolerationRestriction`, for namespaces without annotations.
    pub default_tolerations: Vec<Value>,
    pub allowed_tolerations: Vec<Value>,
    pub(super) event_limits: Vec<EventLimit>,
    pub(super) image_policy: Option<Arc<ImagePolicy>>,
    /// As whom webhooks are called.
    pub(super) mutating_users: Option<Users>,
    pub(super) validating_users: Option<Users>,
}

const FILE: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];
const POD_SECURITY: [&str; 3] = [
    "pod-security.admission.config.k8s.io/v1",
    "pod-security.admission.config.k8s.io/v1beta1",
    "pod-security.admission.config.k8s.io/v1alpha1",
];
const EVENT_LIMITS: [&str; 1] = ["eventratelimit.admission.k8s.io/v1alpha1"];
const WEBHOOKS: [(&str, &str); 2] =
    [("WebhookAdmissionConfiguration", FILE[0]), ("WebhookAdmission", "apiserver.config.k8s.io/v1alpha1")];
const TOLERATIONS: [&str; 1] = ["podtolerationrestriction.admission.k8s.io/v1alpha1"];

fn read(path: &Path) -> Result<Value, String> {
    let bytes = std::fs::read(path)
        .map_err(|error| format!("unable to read admission control configuration from {path:?} [{error}]"))?;
    parse(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}

fn parse(bytes: &[u8]) -> Result<Value, String> {
    kybern_schema::decode::yaml_to_value(bytes).map_err(|error| error.to_string())
}

/// That a document is of a kind, and has no field that nobody would read.
fn expect(document: &Value, versions: &[&str], kinds: &[&str], fields: &[&str]) -> Result<(), String> {
    let (version, kind) = (text(document, "apiVersion"), text(document, "kind"));
    if !versions.contains(&version) || !kinds.contains(&kind) {
        return Err(format!(
            "no kind {kind:?} is registered for version {version:?}: it must be {} of {}",
            kinds[0], versions[0]
        ));
    }
    let known = |field: &str| matches!(field, "apiVersion" | "kind") || fields.contains(&field);
    match document.as_object().and_then(|all| all.keys().find(|field| !known(field))) {
        Some(field) => Err(format!("strict decoding error: unknown field {field:?}")),
        None => Ok(()),
    }
}

impl AdmissionConfiguration {
    /// Of `--admission-control-config-file`.
    pub fn read(file: &Path) -> Result<Self, String> {
        let (document, mut configuration) = (read(file)?, Self::default());
        // A form from before there was one for all plugins.
        if document.get("apiVersion").is_none() && has(&document, "podNodeSelectorPluginConfig") {
            configuration.node_selectors(&document)?;
            return Ok(configuration);
        }
        expect(&document, &FILE, &["AdmissionConfiguration"], &["plugins"])?;
        for plugin in list(&document, "plugins") {
            let (name, path) = (text(plugin, "name"), text(plugin, "path"));
            let own = if has(plugin, "configuration") {
                plugin["configuration"].clone()
            } else if path.is_empty() {
                continue;
            } else {
                read(&file.parent().unwrap_or(Path::new(".")).join(path))?
            };
            configuration
                .take(name, &own)
                .map_err(|error| format!("couldn't init admission plugin {name:?}: {error}"))?;
        }
        Ok(configuration)
    }

    fn take(&mut self, plugin: &str, own: &Value) -> Result<(), String> {
        match plugin {
            "PodSecurity" => {
                expect(own, &POD_SECURITY, &["PodSecurityConfiguration"], &["defaults", "exemptions"])?;
                let parsed = PodSecurityConfiguration::parse(own);
                self.pod_security = parsed.map_err(|errors| joined(&errors))?;
            }
            "ResourceQuota" => self.limited = limited(own)?,
            "PodNodeSelector" => self.node_selectors(own)?,
            "PodTolerationRestriction" => {
                expect(own, &TOLERATIONS, &["Configuration"], &["default", "whitelist"])?;
                self.default_tolerations = list(own, "default").to_vec();
                self.allowed_tolerations = list(own, "whitelist").to_vec();
            }
            "EventRateLimit" => {
                expect(own, &EVENT_LIMITS, &["Configuration"], &["limits"])?;
                self.event_limits = EventLimit::parse(own).map_err(|errors| joined(&errors))?;
            }
            "ImagePolicyWebhook" => self.image_policy = Some(Arc::new(ImagePolicy::parse(own)?)),
            "MutatingAdmissionWebhook" => self.mutating_users = Some(webhook_users(own)?),
            "ValidatingAdmissionWebhook" => self.validating_users = Some(webhook_users(own)?),
            _ => {}
        }
        Ok(())
    }

    /// The same, with these of the plugins that are off by default turned on. Some of them can do nothing untold.
    pub fn with_enabled(self, enabled: Vec<String>) -> Result<Self, String> {
        let init = |name: &str, error: &str| Err(format!("couldn't init admission plugin {name:?}: {error}"));
        for name in &enabled {
            match name.trim() {
                "EventRateLimit" if self.event_limits.is_empty() => {
                    return init(name, "limits: Invalid value: null: must not be empty");
                }
                "ImagePolicyWebhook" if self.image_policy.is_none() => return init(name, "no config specified"),
                _ => {}
            }
        }
        Ok(Self { enabled, ..self })
    }

    fn node_selectors(&mut self, own: &Value) -> Result<(), String> {
        for (namespace, selector) in map(own, "podNodeSelectorPluginConfig") {
            let selector = selector.as_str().ok_or_else(|| format!("the selector of {namespace:?} is no text"))?;
            self.node_selectors.insert(namespace.clone(), selector.to_owned());
        }
        Ok(())
    }
}

fn joined(errors: &[FieldError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Those of a webhook plugin's `kubeConfigFile`.
fn webhook_users(own: &Value) -> Result<Users, String> {
    let known = WEBHOOKS.iter().find(|(kind, _)| *kind == text(own, "kind")).unwrap_or(&WEBHOOKS[0]);
    expect(own, &[known.1], &[known.0], &["kubeConfigFile"])?;
    let file = text(own, "kubeConfigFile");
    if !file.starts_with('/') {
        let path = FieldPath::new("kubeConfigFile");
        return Err(FieldError::invalid(&path, file, "must be an absolute file path").to_string());
    }
    Users::of_kubeconfig(Path::new(file)).map_err(|error| error.to_string())
}

fn limited(own: &Value) -> Result<Vec<Limited>, String> {
    let fields = ["limitedResources"];
    if text(own, "apiVersion") == FILE[0] {
        expect(own, &FILE[..1], &["ResourceQuotaConfiguration"], &fields)?;
    } else {
        let versions = ["resourcequota.admission.k8s.io/v1beta1", "resourcequota.admission.k8s.io/v1alpha1"];
        expect(own, &versions, &["Configuration"], &fields)?;
    }
    let resources = list(own, "limitedResources").iter().enumerate();
    let resources = resources.map(|(i, limited)| {
        let resource = text(limited, "resource");
        if resource.is_empty() {
            return Err(format!("limitedResources[{i}].resource: Required value"));
        }
        Ok(Limited {
            group: text(limited, "apiGroup").to_owned(),
            resource: resource.to_owned(),
            contains: list(limited, "matchContains").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            scopes: list(limited, "matchScopes").iter().map(Scope::of).collect(),
        })
    });
    resources.collect()
}

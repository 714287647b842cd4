//! The file of `--encryption-provider-config`: `EncryptionConfiguration` of `apiserver.config.k8s.io/v1`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::ciphers::Cipher;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

fn wrong<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(text.into()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    resources: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<ProviderEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderEntry {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<BTreeMap<String, String>>,
    kms: Option<KmsEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default)]
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    #[serde(default)]
    name: String,
    #[serde(default)]
    secret: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KmsEntry {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    endpoint: String,
    timeout: Option<String>,
    #[serde(rename = "cachesize")]
    cache_size: Option<i64>,
}

/// A plugin that holds the keys that keys are encrypted with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KmsOptions {
    pub(super) name: String,
    pub(super) socket: PathBuf,
    pub(super) timeout: Duration,
}

/// One way to encrypt and decrypt.
#[derive(Clone)]
pub(super) enum Provider {
    Identity,
    /// With the prefix of what it wrote: `k8s:enc:aesgcm:v1:key1:`.
    Keyed(String, Cipher),
    Kms(KmsOptions),
}

/// The providers of some resources, the one that writes first.
#[derive(Clone)]
pub(super) struct Rules(Vec<(String, Vec<Provider>)>);

impl Rules {
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: File = serde_saphyr::from_str(text).map_err(|e| ConfigError(e.to_string()))?;
        if (file.api_version.as_str(), file.kind.as_str()) != ("apiserver.config.k8s.io/v1", "EncryptionConfiguration")
        {
            return wrong(format!(
                "it is of kind {:?} in version {:?}, and not EncryptionConfiguration in apiserver.config.k8s.io/v1",
                file.kind, file.api_version
            ));
        }
        if file.resources.is_empty() {
            return wrong("resources: Required value: there must be at least one resource");
        }
        let mut rules: Vec<(String, Vec<Provider>)> = Vec::new();
        let mut names: Vec<String> = Vec::new();
        for (index, rule) in file.resources.into_iter().enumerate() {
            let at = format!("resources[{index}]");
            if rule.resources.is_empty() {
                return wrong(format!("{at}.resources: Required value: there must be at least one resource"));
            }
            if rule.providers.is_empty() {
                return wrong(format!("{at}.providers: Required value: there must be at least one provider"));
            }
            let mut providers = Vec::new();
            for (nth, entry) in rule.providers.into_iter().enumerate() {
                providers.extend(entry.read(&format!("{at}.providers[{nth}]"), &mut names)?);
            }
            for resource in rule.resources {
                check_resource(&at, &resource)?;
                let group = resource.split_once('.').map_or("", |(_, group)| group);
                let masking = [format!("*.{group}"), "*.*".to_owned()];
                if let Some((earlier, _)) = rules.iter().find(|(known, _)| masking.contains(known)) {
                    return wrong(format!("resource {resource:?} is masked by earlier rule {earlier:?}"));
                }
                match rules.iter_mut().find(|(known, _)| *known == resource) {
                    Some((_, known)) => known.extend(providers.clone()),
                    None => rules.push((resource, providers.clone())),
                }
            }
        }
        Ok(Self(rules))
    }

    /// The providers of a resource: its own, its group's, or those of all; `None` where none are said.
    pub(super) fn of(&self, group: &str, resource: &str) -> Option<&[Provider]> {
        let own = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        [own, format!("*.{group}"), "*.*".to_owned()]
            .iter()
            .find_map(|wanted| self.0.iter().find(|(known, _)| known == wanted))
            .map(|(_, providers)| providers.as_slice())
    }

    /// Every plugin once.
    pub(super) fn plugins(&self) -> Vec<&KmsOptions> {
        let mut plugins: Vec<&KmsOptions> = Vec::new();
        for provider in self.0.iter().flat_map(|(_, providers)| providers) {
            if let Provider::Kms(options) = provider
                && !plugins.iter().any(|known| known.name == options.name)
            {
                plugins.push(options);
            }
        }
        plugins
    }
}

fn check_resource(at: &str, resource: &str) -> Result<(), ConfigError> {
    let invalid = |cause: &str| wrong(format!("{at}.resources: Invalid value: {resource:?}: {cause}"));
    if resource.is_empty() {
        return invalid("resource cannot be empty");
    }
    if resource == "*" {
        return invalid("use *. to encrypt all the resources from core API group or *.* to encrypt all resources");
    }
    if resource.chars().any(char::is_uppercase) {
        return invalid("resource should be lowercase");
    }
    if resource.starts_with("*.") && resource[2..].contains('*') && resource != "*.*"
        || resource[1..].contains('*') && resource != "*.*"
    {
        return invalid("wildcards are of the form *.<group>, *. and *.*");
    }
    let (name, group) = resource.split_once('.').unwrap_or((resource, ""));
    if name == "apiserveripinfo" || name == "serviceipallocations" || name == "servicenodeportallocations" {
        return invalid("only resources that are served can be encrypted");
    }
    if name == "events" && group == "events.k8s.io" {
        return invalid("it is stored as events of the core group: name \"events\"");
    }
    Ok(())
}

impl ProviderEntry {
    fn read(self, at: &str, names: &mut Vec<String>) -> Result<Vec<Provider>, ConfigError> {
        let given = [
            self.aesgcm.is_some(),
            self.aescbc.is_some(),
            self.secretbox.is_some(),
            self.identity.is_some(),
            self.kms.is_some(),
        ];
        match given.into_iter().filter(|given| *given).count() {
            0 => {
                return wrong(format!(
                    "{at}: Invalid value: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"
                ));
            }
            1 => {}
            _ => {
                return wrong(format!(
                    "{at}: Invalid value: more than one provider specified in a single element, should split into different list elements"
                ));
            }
        }
        if let Some(keys) = self.aesgcm {
            return keys.read(at, "aesgcm", &[16, 24, 32], Cipher::AesGcm);
        }
        if let Some(keys) = self.aescbc {
            return keys.read(at, "aescbc", &[16, 24, 32], Cipher::AesCbc);
        }
        if let Some(keys) = self.secretbox {
            // The length is checked before.
            return keys.read(at, "secretbox", &[32], |key| Cipher::Secretbox(key.try_into().unwrap_or([0; 32])));
        }
        match self.kms {
            Some(kms) => Ok(vec![Provider::Kms(kms.read(at, names)?)]),
            None => Ok(vec![Provider::Identity]),
        }
    }
}

impl Keys {
    fn read(
        self,
        at: &str,
        kind: &str,
        lengths: &[usize],
        make: impl Fn(Vec<u8>) -> Cipher,
    ) -> Result<Vec<Provider>, ConfigError> {
        if self.keys.is_empty() {
            return wrong(format!("{at}.{kind}.keys: Required value: there must be at least one key"));
        }
        let mut providers = Vec::new();
        for (nth, key) in self.keys.into_iter().enumerate() {
            let at = format!("{at}.{kind}.keys[{nth}]");
            if key.name.is_empty() {
                return wrong(format!("{at}.name: Required value: key name must be provided"));
            }
            if key.name.contains(':') {
                return wrong(format!("{at}.name: Invalid value: {:?}: a key's name holds no colon", key.name));
            }
            if key.secret.is_empty() {
                return wrong(format!("{at}.secret: Required value: secret must be provided"));
            }
            // The secret itself is never shown.
            let secret = decode_base64(&key.secret);
            let Some(secret) = secret else {
                return wrong(format!("{at}.secret: Invalid value: secret must be base64 encoded"));
            };
            if !lengths.contains(&secret.len()) {
                return wrong(format!(
                    "{at}.secret: Invalid value: secret is not of the expected length, got {}, expected one of {lengths:?}",
                    secret.len()
                ));
            }
            providers.push(Provider::Keyed(format!("k8s:enc:{kind}:v1:{}:", key.name), make(secret)));
        }
        Ok(providers)
    }
}

impl KmsEntry {
    fn read(self, at: &str, names: &mut Vec<String>) -> Result<KmsOptions, ConfigError> {
        let at = format!("{at}.kms");
        if self.name.is_empty() {
            return wrong(format!("{at}.name: Required value: the KMS provider's name is required"));
        }
        if self.name.contains(':') {
            return wrong(format!("{at}.name: Invalid value: {:?}: should not contain \":\"", self.name));
        }
        if self.api_version != "v2" {
            return wrong(format!(
                "{at}.apiVersion: Unsupported value: {:?}: only v2 of the KMS API is spoken, as upstream does by default",
                self.api_version
            ));
        }
        if self.cache_size.is_some() {
            return wrong(format!("{at}.cachesize: Invalid value: cachesize is not supported in v2"));
        }
        if names.contains(&self.name) {
            return wrong(format!(
                "{at}.name: Invalid value: {:?}: duplicate KMS provider name, names must be unique",
                self.name
            ));
        }
        let Some(socket) = self.endpoint.strip_prefix("unix://").filter(|path| !path.is_empty()) else {
            return wrong(format!(
                "{at}.endpoint: Invalid value: {:?}: it must be of the form unix:///path",
                self.endpoint
            ));
        };
        // An at sign stands for a socket without a file.
        if socket.starts_with('@') {
            return wrong(format!(
                "{at}.endpoint: Invalid value: {:?}: sockets without a file are not dialled",
                self.endpoint
            ));
        }
        let timeout = match self.timeout.as_deref() {
            None => Duration::from_secs(3),
            Some(text) => match parse_duration(text) {
                Some(timeout) if !timeout.is_zero() => timeout,
                _ => return wrong(format!("{at}.timeout: Invalid value: {text:?}: should be a positive value")),
            },
        };
        names.push(self.name.clone());
        Ok(KmsOptions { name: self.name, socket: PathBuf::from(socket), timeout })
    }
}

/// Go's notation, as far as such files have it: `3s`, `500ms`, `1m`.
fn parse_duration(text: &str) -> Option<Duration> {
    kybern_apimachinery::time::parse_duration(text)
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n";

    fn parse(rest: &str) -> Result<Rules, String> {
        Rules::parse(&format!("{HEAD}{rest}")).map_err(|e| e.to_string())
    }

    #[test]
    fn the_most_particular_rule_counts() {
        let rules = parse(
            "resources:
- resources: [secrets, pandas.awesome.bears.example]
  providers: [{aescbc: {keys: [{name: key1, secret: c2VjcmV0IGlzIHNlY3VyZQ==}]}}, {identity: {}}]
- resources: ['*.apps']
  providers: [{aesgcm: {keys: [{name: key2, secret: c2VjcmV0IGlzIHNlY3VyZQ==}]}}]
- resources: ['*.']
  providers: [{identity: {}}]
- resources: ['*.*']
  providers: [{kms: {apiVersion: v2, name: k, endpoint: unix:///run/kms.sock, timeout: 500ms}}]
",
        )
        .unwrap();
        let first = |group: &str, resource: &str| match &rules.of(group, resource).unwrap()[0] {
            Provider::Identity => "identity".to_owned(),
            Provider::Keyed(prefix, _) => prefix.clone(),
            Provider::Kms(kms) => format!("{}@{} {:?}", kms.name, kms.socket.display(), kms.timeout),
        };
        assert_eq!(first("", "secrets"), "k8s:enc:aescbc:v1:key1:");
        assert_eq!(first("awesome.bears.example", "pandas"), "k8s:enc:aescbc:v1:key1:");
        assert_eq!(first("apps", "deployments"), "k8s:enc:aesgcm:v1:key2:");
        assert_eq!(first("", "configmaps"), "identity");
        assert_eq!(first("batch", "jobs"), "k@/run/kms.sock 500ms");
        assert_eq!(rules.of("", "secrets").unwrap().len(), 2);
        assert_eq!(rules.plugins().len(), 1);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_place() {
        let rule = |providers: &str| format!("resources:\n- resources: [secrets]\n  providers: [{providers}]\n");
        let key = |kind: &str, secret: &str| rule(&format!("{{{kind}: {{keys: [{{name: k, secret: {secret}}}]}}}}"));
        for (text, expect) in [
            (String::new(), "at least one resource"),
            (rule(""), "at least one provider"),
            (rule("{}"), "does not contain any of the expected providers"),
            (rule("{identity: {}, aesgcm: {keys: []}}"), "more than one provider"),
            (rule("{aesgcm: {keys: []}}"), "resources[0].providers[0].aesgcm.keys: Required value"),
            (key("aescbc", "'!'"), "base64"),
            (key("aescbc", "c2VjcmV0"), "got 6, expected one of [16, 24, 32]"),
            (key("secretbox", "c2VjcmV0IGlzIHNlY3VyZQ=="), "got 16, expected one of [32]"),
            (rule("{aesgcm: {keys: [{secret: x}]}}"), "name must be provided"),
            (rule("{kms: {apiVersion: v1, name: k, endpoint: unix:///a}}"), "only v2"),
            (rule("{kms: {apiVersion: v2, name: k, endpoint: tcp://a}}"), "unix:///path"),
            (rule("{kms: {apiVersion: v2, name: 'a:b', endpoint: unix:///a}}"), "should not contain"),
            (rule("{kms: {apiVersion: v2, name: k, endpoint: unix:///a, timeout: 0s}}"), "positive"),
            (rule("{rot13: {}}"), "rot13"),
            ("resources:\n- resources: ['*']\n  providers: [{identity: {}}]\n".to_owned(), "use *."),
            (
                "resources:\n- resources: ['*.*', secrets]\n  providers: [{identity: {}}]\n".to_owned(),
                "masked by earlier rule \"*.*\"",
            ),
            (
                "resources:\n- resources: ['*.apps', deployments.apps]\n  providers: [{identity: {}}]\n".to_owned(),
                "masked by earlier rule \"*.apps\"",
            ),
        ] {
            let refusal = parse(&text).err().unwrap_or_else(|| panic!("accepted: {text}"));
            assert!(refusal.contains(expect), "{text}: {refusal}");
        }
        let other = Rules::parse("apiVersion: v1\nkind: Secret\n").err().unwrap().to_string();
        assert!(other.contains("EncryptionConfiguration"), "{other}");
    }
}

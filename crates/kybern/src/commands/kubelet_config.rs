//! The `KubeletConfiguration` file (`kubelet.config.k8s.io/v1beta1`), as far as this kubelet has what it sets. Flags win.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kybern_api::core::v1::Taint;
use kybern_apimachinery::quantity::Quantity;
use kybern_cri::LogRotation;
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct KubeletFile {
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: Option<u16>,
    pub(crate) tls_cert_file: Option<PathBuf>,
    pub(crate) tls_private_key_file: Option<PathBuf>,
    pub(crate) tls_min_version: Option<String>,
    pub(crate) tls_cipher_suites: Vec<String>,
    pub(crate) authentication: Authentication,
    pub(crate) authorization: Authorization,
    pub(crate) healthz_bind_address: Option<IpAddr>,
    pub(crate) healthz_port: Option<u16>,
    pub(crate) enable_server: Option<bool>,
    pub(crate) enable_profiling_handler: Option<bool>,
    pub(crate) register_with_taints: Vec<Taint>,
    #[serde(rename = "clusterDNS")]
    pub(crate) cluster_dns: Option<Vec<String>>,
    pub(crate) cluster_domain: Option<String>,
    pub(crate) max_pods: Option<u32>,
    pub(crate) rotate_certificates: Option<bool>,
    #[serde(rename = "podCIDR")]
    pub(crate) pod_cidr: Option<String>,
    pub(crate) resolv_conf: Option<PathBuf>,
    pub(crate) cgroup_root: Option<String>,
    pub(crate) pod_logs_dir: Option<PathBuf>,
    container_log_max_size: Option<String>,
    container_log_max_files: Option<u32>,
    /// What this kubelet has not, and so has no effect.
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Authentication {
    pub(crate) x509: X509,
    pub(crate) anonymous: Switch,
    pub(crate) webhook: TokenWebhook,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct X509 {
    #[serde(rename = "clientCAFile")]
    pub(crate) client_ca_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Switch {
    pub(crate) enabled: Option<bool>,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct TokenWebhook {
    pub(crate) enabled: Option<bool>,
    #[serde(rename = "cacheTTL")]
    pub(crate) cache_ttl: Option<String>,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Authorization {
    pub(crate) mode: Option<String>,
    pub(crate) webhook: AccessWebhook,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct AccessWebhook {
    #[serde(rename = "cacheAuthorizedTTL")]
    pub(crate) cache_authorized_ttl: Option<String>,
    #[serde(rename = "cacheUnauthorizedTTL")]
    pub(crate) cache_unauthorized_ttl: Option<String>,
}

impl KubeletFile {
    /// Reads the file and logs which of its fields have no effect.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        let file = Self::parse(&text).with_context(|| format!("cannot use {shown}"))?;
        for field in file.without_effect() {
            tracing::warn!("{shown}: {field} has no effect in this kubelet");
        }
        Ok(file)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut file: Self = serde_saphyr::from_str(text).context("it is no KubeletConfiguration")?;
        let mut take = |name: &str| match file.others.remove(name) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let (version, kind) = (take("apiVersion"), take("kind"));
        if version != "kubelet.config.k8s.io/v1beta1" || kind != "KubeletConfiguration" {
            bail!(
                "no kind {kind:?} is registered for version {version:?}: it must be KubeletConfiguration of \
                 kubelet.config.k8s.io/v1beta1"
            );
        }
        Ok(file)
    }

    fn without_effect(&self) -> impl Iterator<Item = &str> {
        self.others.keys().map(String::as_str)
    }

    /// How logs are rotated, where the file says so; `usual` is what holds otherwise.
    pub(crate) fn log_rotation(&self, usual: LogRotation) -> Result<LogRotation> {
        let size = self.container_log_max_size.as_deref().map(|text| {
            let size = Quantity::parse(text).ok().map(|size| size.value()).filter(|size| *size > 0);
            let size = size.and_then(|size| u64::try_from(size).ok());
            size.with_context(|| format!("containerLogMaxSize {text:?} is no size: it must be as 10Mi and above zero"))
        });
        let max_files = self.container_log_max_files.unwrap_or(usual.max_files);
        if max_files < 2 {
            bail!("containerLogMaxFiles is {max_files}: it must be greater than 1");
        }
        Ok(LogRotation { max_bytes: size.transpose()?.unwrap_or(usual.max_bytes), max_files })
    }

    /// What flags say about it.
    pub(crate) fn set_log_rotation(&mut self, max_size: Option<String>, max_files: Option<u32>) {
        self.container_log_max_size = max_size.or(self.container_log_max_size.take());
        self.container_log_max_files = max_files.or(self.container_log_max_files);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

    #[test]
    fn fields() {
        let text = format!(
            "{HEAD}port: 10260\nclusterDNS: [10.96.0.10]\nclusterDomain: example.org\nmaxPods: 7\nevictionHard: {{}}\n\
             authentication: {{x509: {{clientCAFile: /ca.crt}}, anonymous: {{enabled: false}}}}\n"
        );
        let file = KubeletFile::parse(&text).unwrap();
        assert_eq!((file.port, file.max_pods), (Some(10260), Some(7)));
        assert_eq!(file.cluster_dns.as_deref(), Some(&["10.96.0.10".to_owned()][..]));
        assert_eq!(file.authentication.x509.client_ca_file, Some(PathBuf::from("/ca.crt")));
        assert_eq!(file.authentication.anonymous.enabled, Some(false));
        assert_eq!(file.without_effect().collect::<Vec<_>>(), ["evictionHard"]);
    }

    #[test]
    fn log_rotation() {
        let usual = LogRotation { max_bytes: 10 << 20, max_files: 5 };
        let read = |more: &str| KubeletFile::parse(&format!("{HEAD}{more}")).unwrap().log_rotation(usual);
        assert_eq!(read("").unwrap(), usual);
        let both = read("containerLogMaxSize: 1Mi\ncontainerLogMaxFiles: 3\n").unwrap();
        assert_eq!(both, LogRotation { max_bytes: 1 << 20, max_files: 3 });
        assert!(read("containerLogMaxFiles: 1\n").unwrap_err().to_string().contains("greater than 1"));
        assert!(read("containerLogMaxSize: much\n").unwrap_err().to_string().contains("\"much\""));
    }

    #[test]
    fn what_is_none() {
        let fails = |text: &str| format!("{:#}", KubeletFile::parse(text).unwrap_err());
        let other = fails("apiVersion: v1\nkind: Pod\n");
        assert!(other.contains("\"Pod\"") && other.contains("KubeletConfiguration"), "{other}");
        let wrong = fails(&format!("{HEAD}maxPods: many\n"));
        assert!(wrong.contains("many") || wrong.contains("maxPods") || wrong.contains("line"), "{wrong}");
    }
}

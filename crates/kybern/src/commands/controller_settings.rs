//! What the controller manager's flags say to single controllers: with what it signs, which networks nodes get, as whom each
//! controller works.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use arc_swap::ArcSwap;
use clap::Args;
use ipnet::IpNet;
use kybern_apimachinery::time::parse_duration;
use kybern_auth::pki::RequestSigner;
use kybern_auth::token::SigningKey;
use kybern_client::tls::HttpsTransport;
use kybern_client::{AccountTransport, Client, RestConfig, Transport};
use kybern_controller_manager::ClientFor;
use kybern_controller_manager::controllers::csr_signing::ClusterSigning;
use kybern_controller_manager::controllers::node_ipam::NodeRanges;

use crate::wiring::watched_files::WatchedFiles;

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SigningOptions {
    /// The authority that signs certificate requests (PEM); without one they are not signed.
    #[arg(long)]
    cluster_signing_cert_file: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long)]
    cluster_signing_key_file: Option<PathBuf>,
    /// The authority of kubernetes.io/kubelet-serving, where each signer has its own.
    #[arg(long)]
    cluster_signing_kubelet_serving_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    cluster_signing_kubelet_serving_key_file: Option<PathBuf>,
    /// The authority of kubernetes.io/kube-apiserver-client-kubelet.
    #[arg(long)]
    cluster_signing_kubelet_client_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    cluster_signing_kubelet_client_key_file: Option<PathBuf>,
    /// The authority of kubernetes.io/kube-apiserver-client.
    #[arg(long)]
    cluster_signing_kube_apiserver_client_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    cluster_signing_kube_apiserver_client_key_file: Option<PathBuf>,
    /// The authority of kubernetes.io/legacy-unknown.
    #[arg(long)]
    cluster_signing_legacy_unknown_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    cluster_signing_legacy_unknown_key_file: Option<PathBuf>,
    /// The longest life of what is signed [default: 8760h].
    #[arg(long, value_parser = positive)]
    cluster_signing_duration: Option<Duration>,
}

pub(super) fn positive(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| format!("{text:?} is not a positive duration of the form 24h"))
}

/// Gives what a file holds.
type Read<'a> = &'a dyn Fn(&PathBuf) -> Result<String>;

fn named(path: &Option<PathBuf>) -> Option<PathBuf> {
    path.clone().filter(|path| !path.as_os_str().is_empty())
}

/// Certificate and key of one signer; half of a pair is an error.
fn pair(
    certificate: &Option<PathBuf>,
    key: &Option<PathBuf>,
    flags: &str,
    read: Read<'_>,
) -> Result<Option<Arc<RequestSigner>>> {
    let (certificate, key) = match (named(certificate), named(key)) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        _ => bail!("--{flags}-cert-file and --{flags}-key-file need each other"),
    };
    let signer = RequestSigner::from_pem(&read(&certificate)?, &read(&key)?);
    let signer = signer
        .map_err(|cause| anyhow!("{} with {} is not usable to sign: {cause}", certificate.display(), key.display()))?;
    Ok(Some(Arc::new(signer)))
}

impl SigningOptions {
    /// With what requests are signed; `None` where no flag says it. The files are read again when they change.
    pub(crate) fn signing(&self) -> Result<Option<Arc<ArcSwap<ClusterSigning>>>> {
        let paths: Vec<PathBuf> = [
            &self.cluster_signing_cert_file,
            &self.cluster_signing_key_file,
            &self.cluster_signing_kubelet_serving_cert_file,
            &self.cluster_signing_kubelet_serving_key_file,
            &self.cluster_signing_kubelet_client_cert_file,
            &self.cluster_signing_kubelet_client_key_file,
            &self.cluster_signing_kube_apiserver_client_cert_file,
            &self.cluster_signing_kube_apiserver_client_key_file,
            &self.cluster_signing_legacy_unknown_cert_file,
            &self.cluster_signing_legacy_unknown_key_file,
        ]
        .into_iter()
        .filter_map(named)
        .collect();
        let files = WatchedFiles::read(&paths)?;
        let options = self.clone();
        let read = move |contents: &[String]| {
            let at = |path: &PathBuf| paths.iter().position(|known| known == path).map(|at| contents[at].clone());
            options.made(&|path| at(path).with_context(|| format!("cannot read {}", path.display())))
        };
        match read(files.contents())? {
            Some(signing) => Ok(Some(followed(signing, files, "authority of certificate requests", move |contents| {
                read(contents)?.context("there is no signer any more")
            }))),
            None => Ok(None),
        }
    }

    fn made(&self, read: Read<'_>) -> Result<Option<ClusterSigning>> {
        let duration = self.cluster_signing_duration.unwrap_or(ClusterSigning::DURATION);
        let all = pair(&self.cluster_signing_cert_file, &self.cluster_signing_key_file, "cluster-signing", read)?;
        let own = ClusterSigning {
            kubelet_serving: pair(
                &self.cluster_signing_kubelet_serving_cert_file,
                &self.cluster_signing_kubelet_serving_key_file,
                "cluster-signing-kubelet-serving",
                read,
            )?,
            kubelet_client: pair(
                &self.cluster_signing_kubelet_client_cert_file,
                &self.cluster_signing_kubelet_client_key_file,
                "cluster-signing-kubelet-client",
                read,
            )?,
            kube_apiserver_client: pair(
                &self.cluster_signing_kube_apiserver_client_cert_file,
                &self.cluster_signing_kube_apiserver_client_key_file,
                "cluster-signing-kube-apiserver-client",
                read,
            )?,
            legacy_unknown: pair(
                &self.cluster_signing_legacy_unknown_cert_file,
                &self.cluster_signing_legacy_unknown_key_file,
                "cluster-signing-legacy-unknown",
                read,
            )?,
            duration,
        };
        let has_own = [&own.kubelet_serving, &own.kubelet_client, &own.kube_apiserver_client, &own.legacy_unknown];
        match (all, has_own.iter().any(|signer| signer.is_some())) {
            (None, false) => Ok(None),
            (None, true) => Ok(Some(own)),
            (Some(all), false) => Ok(Some(ClusterSigning {
                kubelet_serving: Some(all.clone()),
                kubelet_client: Some(all.clone()),
                kube_apiserver_client: Some(all.clone()),
                legacy_unknown: Some(all),
                duration,
            })),
            (Some(_), true) => {
                bail!("--cluster-signing-cert-file is for all signers: leave it out, or the flags of single signers")
            }
        }
    }
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TokenOptions {
    /// The key that signs the tokens in Secrets (PEM); without one none are made.
    #[arg(long)]
    service_account_private_key_file: Option<PathBuf>,
    /// How long the token of a Secret may lie unused [default: 8760h].
    #[arg(long, value_parser = positive)]
    legacy_service_account_token_clean_up_period: Option<Duration>,
}

impl TokenOptions {
    /// The file is read again when it changes.
    pub(crate) fn key(&self) -> Result<Option<Arc<ArcSwap<SigningKey>>>> {
        let Some(path) = named(&self.service_account_private_key_file) else { return Ok(None) };
        let files = WatchedFiles::read([&path])?;
        let doing = format!("{} is not usable as --service-account-private-key-file", path.display());
        let read = move |contents: &[String]| SigningKey::from_pem(&contents[0]).with_context(|| doing.clone());
        let key = read(files.contents())?;
        Ok(Some(followed(key, files, "key of Secrets' tokens", read)))
    }

    pub(crate) fn clean_up_period(&self) -> Duration {
        self.legacy_service_account_token_clean_up_period.unwrap_or(Duration::from_secs(365 * 86_400))
    }
}

/// What is read again whenever the files change; what cannot be used leaves it as it is.
fn followed<T: Send + Sync + 'static>(
    first: T,
    mut files: WatchedFiles,
    what: &'static str,
    read: impl Fn(&[String]) -> Result<T> + Send + 'static,
) -> Arc<ArcSwap<T>> {
    let current = Arc::new(ArcSwap::from_pointee(first));
    let shared = Arc::clone(&current);
    tokio::spawn(async move {
        loop {
            match files.changed().await.and_then(&read) {
                Ok(next) => {
                    tracing::info!("the {what} is another from now on");
                    shared.store(Arc::new(next));
                }
                Err(error) => tracing::error!("the {what} stays as it is: {error:#}"),
            }
        }
    });
    current
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct NetworkOptions {
    /// Gives each node its part of --cluster-cidr [default: false].
    #[arg(long)]
    allocate_node_cidrs: Option<bool>,
    /// The pod network, one range or one per family.
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
    /// The Services' addresses, one range or one per family; nodes get nothing of them.
    #[arg(long, value_delimiter = ',')]
    service_cluster_ip_range: Vec<IpNet>,
    /// The prefix length of a node's part, where there is one family [default: 24 for IPv4, 64 for IPv6].
    #[arg(long)]
    node_cidr_mask_size: Option<u8>,
    /// The same for IPv4.
    #[arg(long)]
    node_cidr_mask_size_ipv4: Option<u8>,
    /// The same for IPv6.
    #[arg(long)]
    node_cidr_mask_size_ipv6: Option<u8>,
}

impl NetworkOptions {
    /// From what nodes get their parts; `None` where they get none.
    pub(crate) fn node_ranges(&self) -> Result<Option<NodeRanges>> {
        if self.allocate_node_cidrs != Some(true) {
            return Ok(None);
        }
        let both = self.cluster_cidr.len() > 1;
        if both && self.node_cidr_mask_size.is_some() {
            bail!(
                "--node-cidr-mask-size is for one family: use --node-cidr-mask-size-ipv4 and --node-cidr-mask-size-ipv6"
            );
        }
        let mask = |own: Option<u8>, usual| own.or(self.node_cidr_mask_size).filter(|mask| *mask != 0).unwrap_or(usual);
        let (v4, v6) = (mask(self.node_cidr_mask_size_ipv4, 24), mask(self.node_cidr_mask_size_ipv6, 64));
        let ranges = NodeRanges::new(&self.cluster_cidr, &self.service_cluster_ip_range, v4, v6);
        ranges.map(Some).map_err(anyhow::Error::msg)
    }
}

/// Each controller with the token of its own service account in `kube-system`, which `issuer` asks for.
pub(crate) fn own_accounts(reach: &RestConfig, issuer: &Client) -> Result<ClientFor> {
    // Without a certificate: it would be asked before the token.
    let bare: Arc<dyn Transport> = Arc::new(HttpsTransport::new(&reach.anonymous())?);
    let issuer = issuer.clone();
    Ok(Arc::new(move |account| {
        Client::new(Arc::new(AccountTransport::new(bare.clone(), issuer.clone(), "kube-system", account)))
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use kybern_auth::pki::CertificateAuthority;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        signing: SigningOptions,
        #[command(flatten)]
        network: NetworkOptions,
    }

    fn parse(arguments: &[&str]) -> Line {
        Line::parse_from(["x"].iter().chain(arguments))
    }

    #[tokio::test]
    async fn signers_have_one_authority_or_each_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::load_or_create(folder.path(), "ca", "a", jiff::Timestamp::now());
        ca.unwrap();
        let (certificate, key) = (folder.path().join("ca.crt"), folder.path().join("ca.key"));
        let flags = |prefix: &str| {
            [
                format!("--{prefix}-cert-file={}", certificate.display()),
                format!("--{prefix}-key-file={}", key.display()),
            ]
        };
        let signing = |flags: &[String]| {
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            parse(&flags).signing.signing().map(|signing| signing.map(|signing| signing.load_full()))
        };
        assert!(signing(&[]).unwrap().is_none());
        let all = signing(&flags("cluster-signing")).unwrap().unwrap();
        assert!(all.kubelet_serving.is_some() && all.legacy_unknown.is_some());
        let one = signing(&flags("cluster-signing-kubelet-client")).unwrap().unwrap();
        assert!(one.kubelet_client.is_some() && one.kubelet_serving.is_none());
        let both = [flags("cluster-signing"), flags("cluster-signing-kubelet-client")].concat();
        assert!(signing(&both).unwrap_err().to_string().contains("all signers"));
        assert!(signing(&flags("cluster-signing")[..1]).unwrap_err().to_string().contains("need each other"));
        let swapped = [format!("--cluster-signing-cert-file={}", key.display()), flags("cluster-signing")[1].clone()];
        assert!(signing(&swapped).unwrap_err().to_string().contains("not usable to sign"));
    }

    #[tokio::test]
    async fn an_authority_that_changes_signs_and_half_of_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let new = |name: &str| {
            CertificateAuthority::load_or_create(folder.path(), name, "a", jiff::Timestamp::now()).unwrap();
            ["crt", "key"].map(|extension| folder.path().join(format!("{name}.{extension}")))
        };
        let ([certificate, key], [other_certificate, other_key]) = (new("ca"), new("other"));
        let flags = [
            format!("--cluster-signing-cert-file={}", certificate.display()),
            format!("--cluster-signing-key-file={}", key.display()),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let signing = parse(&flags).signing.signing().unwrap().unwrap();
        let first = signing.load_full();
        std::fs::copy(&other_certificate, &certificate).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(Arc::ptr_eq(&first, &signing.load_full()), "a certificate without its key");
        std::fs::copy(&other_key, &key).unwrap();
        for _ in 0..100 {
            if !Arc::ptr_eq(&first, &signing.load_full()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the new authority does not sign");
    }

    #[test]
    fn nodes_get_networks_where_it_is_said() {
        let ranges = |arguments: &[&str]| parse(arguments).network.node_ranges();
        assert!(ranges(&["--cluster-cidr=10.244.0.0/16"]).unwrap().is_none());
        let on = "--allocate-node-cidrs=true";
        assert!(ranges(&[on]).unwrap_err().to_string().contains("--cluster-cidr"));
        assert!(ranges(&[on, "--cluster-cidr=10.244.0.0/16", "--node-cidr-mask-size=26"]).unwrap().is_some());
        let both = "--cluster-cidr=10.244.0.0/16,fd00::/48";
        assert!(ranges(&[on, both]).unwrap().is_some());
        assert!(ranges(&[on, both, "--node-cidr-mask-size=26"]).is_err());
    }
}

//! A kubelet's client certificate: asked for with a bootstrap token as it joins, and by itself before it ends.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;
use kybern_api::ByteString;
use kybern_api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kybern_api::meta::v1::ObjectMeta;
use kybern_auth::pki::{Credentials, Kubeconfig, NODE_CLIENT_USAGES, NodeCertificate, are_valid};
use kybern_client::{CertificateAuthorities, Client, Informer, ListOptions, RestConfig};

use crate::commands::kube_controller_manager::authorities;

const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// How long an answer is waited for, as upstream does; the request is taken up again afterwards.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Between attempts to renew.
const RETRY: Duration = Duration::from_secs(60);

/// Where what a kubelet joins with lies.
#[derive(Clone, Debug)]
pub(crate) struct Joining {
    pub(crate) bootstrap_kubeconfig: PathBuf,
    /// Made where it holds no valid certificate.
    pub(crate) kubeconfig: PathBuf,
    pub(crate) cert_dir: PathBuf,
    pub(crate) node: String,
}

impl Joining {
    /// Gets the first certificate, unless the kubeconfig has one that is valid.
    pub(crate) async fn join(&self) -> Result<()> {
        if self.is_joined()? {
            return Ok(());
        }
        let bootstrap = self.bootstrap_kubeconfig.display();
        let config = RestConfig::from_kubeconfig(&self.bootstrap_kubeconfig)
            .with_context(|| format!("cannot use {bootstrap} to join"))?;
        let CertificateAuthorities::These(_) = &config.ca else {
            bail!("{bootstrap} does not name the cluster's authority, by which the server is recognized later");
        };
        let ca = authorities(&config.ca).unwrap_or_default();
        let client = Client::from_config(&config)?.with_user_agent("kubelet");
        let certificate = NodeCertificate::of(&self.cert_dir, &self.node)?;
        tracing::info!("asking for a client certificate with {bootstrap}");
        obtain(&client, &certificate).await.with_context(|| format!("cannot join with {bootstrap}"))?;
        let current = certificate.current();
        let kubeconfig = Kubeconfig {
            server: &config.server,
            ca_pem: &ca,
            cluster: "default-cluster",
            user: "default-auth",
            credentials: Credentials::File(&current),
        };
        kubeconfig.write(&self.kubeconfig).with_context(|| format!("cannot write {}", self.kubeconfig.display()))
    }

    fn is_joined(&self) -> Result<bool> {
        let path = self.kubeconfig.display();
        if !self.kubeconfig.try_exists().with_context(|| format!("cannot read {path}"))? {
            return Ok(false);
        }
        match RestConfig::from_kubeconfig(&self.kubeconfig) {
            Ok(config) => {
                let chain = config.identity.map(|identity| identity.chain).unwrap_or_default();
                let chain: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
                let valid = are_valid(&chain, Timestamp::now());
                if !valid {
                    tracing::warn!("{path} holds no valid client certificate");
                }
                Ok(valid)
            }
            Err(error) => {
                tracing::warn!("{path} is of no use: {error}");
                Ok(false)
            }
        }
    }
}

/// Asks for the next certificate before the one in use ends. Connections that are made afterwards show it.
pub(crate) async fn keep_renewed(client: Client, certificate: NodeCertificate) {
    loop {
        let now = Timestamp::now();
        let due = certificate.renewal(now).duration_since(now);
        match Duration::try_from(due) {
            Ok(left) if !left.is_zero() => tokio::time::sleep(left).await,
            _ => match obtain(&client, &certificate).await {
                Ok(()) => tracing::info!("the client certificate is renewed"),
                Err(error) => {
                    tracing::warn!("the client certificate is not renewed: {error:#}");
                    tokio::time::sleep(RETRY).await;
                }
            },
        }
    }
}

async fn obtain(client: &Client, certificate: &NodeCertificate) -> Result<()> {
    let request = certificate.request()?;
    let csr = CertificateSigningRequest {
        metadata: ObjectMeta { name: Some(request.name.clone()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.pem.into_bytes()),
            signer_name: SIGNER.to_owned(),
            usages: Some(NODE_CLIENT_USAGES.map(str::to_owned).to_vec()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    match client.create(&csr).await {
        Err(error) if !error.is_already_exists() => return Err(error).context("cannot ask for a certificate"),
        _ => {}
    }
    let options = ListOptions::fields(format!("metadata.name={}", request.name));
    let store = Informer::<CertificateSigningRequest>::new(client.clone(), options).spawn();
    let answered = store.wait_until(|store| store.get(&request.name).is_some_and(|csr| answer(&csr).is_some()));
    let name = &request.name;
    tokio::time::timeout(PATIENCE, answered).await.map_err(|_| {
        anyhow!("nobody answered {name} within {} s: approve it with kubectl certificate approve", PATIENCE.as_secs())
    })?;
    let answer = store.get(name).and_then(|csr| answer(&csr)).unwrap_or_else(|| Err("it was deleted".to_owned()));
    let signed = answer.map_err(|cause| anyhow!("certificate request {name}: {cause}"))?;
    Ok(certificate.accept(&signed, Timestamp::now())?)
}

/// The certificate, or why there will be none.
fn answer(csr: &CertificateSigningRequest) -> Option<Result<String, String>> {
    let status = csr.status.as_ref()?;
    let refused = status.conditions.iter().flatten().find(|c| matches!(c.type_.as_str(), "Denied" | "Failed"));
    if let Some(condition) = refused {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        return Some(Err(format!(
            "it is {}: {}: {}",
            condition.type_.to_lowercase(),
            text(&condition.reason),
            text(&condition.message)
        )));
    }
    let certificate = status.certificate.as_ref().filter(|certificate| !certificate.0.is_empty())?;
    Some(String::from_utf8(certificate.0.clone()).map_err(|_| "its certificate is no text".to_owned()))
}

#[cfg(test)]
#[path = "kubelet_certificate_tests.rs"]
mod tests;

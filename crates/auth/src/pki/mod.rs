//! The cluster's certificates and keys, in the files and under the names that kubeadm uses, so that what is made here
//! can be used by upstream's components and the other way round. Certificate authorities and the service-account key are
//! made once and never replaced; what they sign is made anew when it is about to expire or no longer fits.

mod authority;
mod bundle;
mod certificate;
mod files;
mod kubeconfig;
mod node_certificate;
mod request;
mod request_signer;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

pub use authority::{CertificateAuthority, signed_by};
pub use bundle::combine_bundles;
pub use certificate::{CertifiedKey, Profile, end_of_pem, needs_renewal, not_after};
pub use files::PkiError;
pub use kubeconfig::{Credentials, Kubeconfig};
pub use node_certificate::{NODE_CLIENT_USAGES, NodeCertificate, NodeRequest, are_valid};
pub use request::SigningRequest;
pub use request_signer::RequestSigner;

/// How long before its end a certificate is renewed, in days; kubeadm's certificates live 365.
pub const RENEW_BEFORE_DAYS: i64 = 90;

/// What the certificates have to name.
#[derive(Clone, Debug)]
pub struct PkiOptions {
    /// `<data-dir>/server/pki`.
    pub directory: PathBuf,
    /// The first address of the service range: `10.96.0.1`.
    pub service_ip: IpAddr,
    /// Addresses under which the server is reached.
    pub node_ips: Vec<IpAddr>,
    /// Further names: the machine's host name, `--apiserver-cert-extra-sans`.
    pub extra_names: Vec<String>,
    pub cluster_domain: String,
}

/// The cluster's certificates, loaded.
pub struct Pki {
    directory: PathBuf,
    pub ca: CertificateAuthority,
    pub front_proxy_ca: CertificateAuthority,
    /// Serves the API.
    pub apiserver: CertifiedKey,
    /// Shown by the API server to kubelets.
    pub apiserver_kubelet_client: CertifiedKey,
    /// Shown by the API server to aggregated API servers.
    pub front_proxy_client: CertifiedKey,
    /// The service-account signing key, PKCS#8 PEM.
    pub service_account_key_pem: String,
}

/// What a certificate file is renewed by: the file's stem and what it must say.
fn served(options: &PkiOptions) -> Profile {
    let mut names: Vec<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).into();
    names.push(format!("kubernetes.default.svc.{}", options.cluster_domain));
    names.push("localhost".to_owned());
    names.extend(options.extra_names.iter().cloned());
    let mut ips = vec![options.service_ip, IpAddr::from([127, 0, 0, 1])];
    for ip in &options.node_ips {
        if !ips.contains(ip) {
            ips.push(*ip);
        }
    }
    Profile::server("kube-apiserver", None, names, ips)
}

/// The user that the API server is to kubelets.
pub const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

impl Pki {
    /// Loads the certificates of `options.directory`, makes what is missing and renews what expires within
    /// [`RENEW_BEFORE_DAYS`] or does not name what it has to. Answers an error for a file that is there but unusable: it
    /// may be the only copy of a key that a cluster trusts.
    pub fn load_or_create(options: &PkiOptions, now: jiff::Timestamp) -> Result<Self, PkiError> {
        let directory = &options.directory;
        files::make_directory(directory)?;
        let ca = CertificateAuthority::load_or_create(directory, "ca", "kubernetes", now)?;
        let front_proxy_ca = CertificateAuthority::load_or_create(directory, "front-proxy-ca", "front-proxy-ca", now)?;
        let apiserver = ca.leaf(directory, "apiserver", &served(options), now)?;
        // In no group: it may use the kubelets' API by its name, and nothing else.
        let kubelet_client = Profile::client(KUBELET_CLIENT, None);
        let apiserver_kubelet_client = ca.leaf(directory, "apiserver-kubelet-client", &kubelet_client, now)?;
        let front_proxy_client =
            front_proxy_ca.leaf(directory, "front-proxy-client", &Profile::client("front-proxy-client", None), now)?;
        let service_account_key_pem = files::load_or_create_signing_key(directory)?;
        Ok(Self {
            directory: directory.clone(),
            ca,
            front_proxy_ca,
            apiserver,
            apiserver_kubelet_client,
            front_proxy_client,
            service_account_key_pem,
        })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A client certificate that is kept by whoever asks, for a kubeconfig: CN `user`, O `group`.
    pub fn client(&self, user: &str, group: Option<&str>, now: jiff::Timestamp) -> Result<CertifiedKey, PkiError> {
        self.ca.issue(&Profile::client(user, group), now)
    }

    /// The administrator's credentials (`O=system:masters`).
    pub fn admin(&self, now: jiff::Timestamp) -> Result<CertifiedKey, PkiError> {
        self.client("kubernetes-admin", Some("system:masters"), now)
    }

    /// A kubelet's client credentials: `system:node:NAME` in `system:nodes`.
    pub fn kubelet_client(&self, node: &str, now: jiff::Timestamp) -> Result<CertifiedKey, PkiError> {
        self.client(&format!("system:node:{node}"), Some("system:nodes"), now)
    }

    /// A kubelet's serving certificate.
    pub fn kubelet_server(&self, node: &str, ips: &[IpAddr], now: jiff::Timestamp) -> Result<CertifiedKey, PkiError> {
        let profile =
            Profile::server(&format!("system:node:{node}"), Some("system:nodes"), vec![node.to_owned()], ips.to_vec());
        self.ca.issue(&profile, now)
    }

    /// When the first of the renewable certificates is due; a timer calls [`Pki::load_or_create`] again then.
    pub fn next_renewal(&self) -> Option<jiff::Timestamp> {
        [&self.apiserver, &self.apiserver_kubelet_client, &self.front_proxy_client]
            .into_iter()
            .filter_map(|c| not_after(c.certificate_der()))
            .min()
            .and_then(|end| end.checked_sub(jiff::SignedDuration::from_hours(24 * RENEW_BEFORE_DAYS)).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(directory: &Path) -> PkiOptions {
        PkiOptions {
            directory: directory.to_owned(),
            service_ip: "10.96.0.1".parse().unwrap(),
            node_ips: vec!["192.0.2.7".parse().unwrap()],
            extra_names: vec!["host.example".to_owned()],
            cluster_domain: "cluster.local".to_owned(),
        }
    }

    fn now() -> jiff::Timestamp {
        "2026-11-20T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_second_load_takes_what_is_there_and_renewal_keeps_the_authority() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::load_or_create(&options(dir.path()), now()).unwrap();
        let second = Pki::load_or_create(&options(dir.path()), now()).unwrap();
        assert_eq!(first.apiserver.certificate_pem, second.apiserver.certificate_pem);
        assert_eq!(first.service_account_key_pem, second.service_account_key_pem);

        let later = now() + jiff::SignedDuration::from_hours(24 * 300);
        let third = Pki::load_or_create(&options(dir.path()), later).unwrap();
        assert_eq!(first.ca.certificate_pem(), third.ca.certificate_pem());
        assert_ne!(first.apiserver.certificate_pem, third.apiserver.certificate_pem);

        let mut moved = options(dir.path());
        moved.node_ips.push("192.0.2.8".parse().unwrap());
        let fourth = Pki::load_or_create(&moved, later).unwrap();
        assert_ne!(
            third.apiserver.certificate_pem, fourth.apiserver.certificate_pem,
            "a new address needs a new certificate"
        );
    }

    #[test]
    fn secrets_are_private_files_under_kubeadms_names() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Pki::load_or_create(&options(dir.path()), now()).unwrap();
        let names = ["ca", "apiserver", "apiserver-kubelet-client", "front-proxy-ca", "front-proxy-client"];
        for name in names
            .iter()
            .flat_map(|n| [format!("{n}.crt"), format!("{n}.key")])
            .chain(["sa.key".into(), "sa.pub".into()])
        {
            let meta = std::fs::metadata(dir.path().join(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn what_a_crash_leaves_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        Pki::load_or_create(&options(dir.path()), now()).unwrap();
        // Of each pair, what is written last.
        for (lost, kept) in [
            ("sa.pub", "sa.key"),
            ("ca.crt", "ca.key"),
            ("front-proxy-ca.crt", "front-proxy-ca.key"),
            ("apiserver.crt", "ca.crt"),
            ("front-proxy-client.crt", "front-proxy-ca.crt"),
        ] {
            let before = read(kept);
            std::fs::remove_file(dir.path().join(lost)).unwrap();
            Pki::load_or_create(&options(dir.path()), now()).unwrap_or_else(|e| panic!("without {lost}: {e}"));
            assert!(dir.path().join(lost).exists(), "{lost}");
            assert_eq!(read(kept), before, "{kept} must stay");
        }
    }

    #[test]
    fn an_authority_is_never_silently_replaced() {
        let dir = tempfile::tempdir().unwrap();
        Pki::load_or_create(&options(dir.path()), now()).unwrap();
        let text = |r: Result<Pki, PkiError>| r.err().expect("refused").to_string();

        std::fs::remove_file(dir.path().join("ca.key")).unwrap();
        let error = text(Pki::load_or_create(&options(dir.path()), now()));
        assert!(error.contains("ca.key") && error.contains("ca.crt"), "{error}");

        std::fs::write(dir.path().join("ca.key"), "rubbish").unwrap();
        let error = text(Pki::load_or_create(&options(dir.path()), now()));
        assert!(error.contains("ca.key"), "{error}");

        let other = tempfile::tempdir().unwrap();
        Pki::load_or_create(&options(other.path()), now()).unwrap();
        std::fs::copy(other.path().join("ca.key"), dir.path().join("ca.key")).unwrap();
        let error = text(Pki::load_or_create(&options(dir.path()), now()));
        assert!(error.contains("does not belong"), "{error}");
    }
}

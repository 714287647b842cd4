//! By which authorities clients and front proxies are recognized: those of the files of the flags, as they are now, and the
//! cluster's own.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use kybern_apiserver::access::Authenticator;
use kybern_auth::authn::{ClientAuthorities, ClientCertificate, RequestHeader, RequestHeaderNames};
use kybern_auth::pki::Pki;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::watch;

use super::control_plane::ApiServerOptions;
use super::watched_files::WatchedFiles;

const CLIENTS: &str = "--client-ca-file";
const FRONT_PROXIES: &str = "--requestheader-client-ca-file";

/// Authorities, as PEM, of clients and of front proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authorities {
    pub(super) clients: String,
    pub(super) front_proxies: String,
}

/// Where they come from.
struct Sources {
    /// The cluster's own.
    own: Authorities,
    /// Which of the two files there are.
    has_clients: bool,
    has_front_proxies: bool,
}

/// See the module.
pub(super) struct Trust {
    sources: Sources,
    files: WatchedFiles,
    clients: ClientAuthorities,
    front_proxies: ClientAuthorities,
    current: watch::Sender<Authorities>,
}

impl Trust {
    /// Must be called within a tokio runtime.
    pub(super) fn read(options: &ApiServerOptions, pki: &Pki) -> Result<Self> {
        let own = Authorities {
            clients: pki.ca.certificate_pem().to_owned(),
            front_proxies: pki.front_proxy_ca.certificate_pem().to_owned(),
        };
        Self::of_files(own, options.client_ca.as_ref(), options.front_proxy_ca.as_ref())
    }

    fn of_files(own: Authorities, clients: Option<&PathBuf>, front_proxies: Option<&PathBuf>) -> Result<Self> {
        let files = WatchedFiles::read(clients.into_iter().chain(front_proxies))?;
        let sources = Sources { own, has_clients: clients.is_some(), has_front_proxies: front_proxies.is_some() };
        let current = sources.with(files.contents())?;
        let authorities = |roots: Vec<CertificateDer<'static>>, flag| {
            ClientAuthorities::new(&roots).map_err(|error| anyhow!("{flag} is not usable: {error}"))
        };
        let (clients, front_proxies) = current.roots()?;
        Ok(Self {
            clients: authorities(clients, CLIENTS)?,
            front_proxies: authorities(front_proxies, FRONT_PROXIES)?,
            sources,
            files,
            current: watch::Sender::new(current),
        })
    }

    /// A front proxy's before any other, as upstream: it speaks for others.
    pub(super) fn authenticators(&self, headers: RequestHeaderNames) -> Vec<Arc<dyn Authenticator>> {
        vec![
            Arc::new(RequestHeader::new(self.front_proxies.clone(), headers)),
            Arc::new(ClientCertificate::new(self.clients.clone())),
        ]
    }

    /// Whose certificates TLS takes.
    pub(super) fn roots(&self) -> Result<Vec<CertificateDer<'static>>> {
        let (clients, front_proxies) = self.current.borrow().roots()?;
        Ok([clients, front_proxies].concat())
    }

    /// What they are, and become.
    pub(super) fn subscribe(&self) -> watch::Receiver<Authorities> {
        self.current.subscribe()
    }

    /// Lets other authorities count when their files say so; `apply` is told what TLS takes from then on. What cannot be used
    /// leaves all as it is.
    pub(super) async fn follow(mut self, apply: impl Fn(&[CertificateDer<'static>]) -> Result<()>) {
        loop {
            let changed = self.files.changed().await.map(<[String]>::to_vec);
            match changed.and_then(|contents| self.replace(&contents, &apply)) {
                Ok(()) => tracing::info!("authorities of clients and front proxies were read again"),
                Err(error) => tracing::error!("authorities of clients and front proxies stay as they are: {error:#}"),
            }
        }
    }

    fn replace(&self, contents: &[String], apply: &impl Fn(&[CertificateDer<'static>]) -> Result<()>) -> Result<()> {
        let next = self.sources.with(contents)?;
        let (clients, front_proxies) = next.roots()?;
        apply(&[clients.clone(), front_proxies.clone()].concat())?;
        self.clients.replace(&clients).map_err(|error| anyhow!("{CLIENTS} is not usable: {error}"))?;
        let replaced = self.front_proxies.replace(&front_proxies);
        replaced.map_err(|error| anyhow!("{FRONT_PROXIES} is not usable: {error}"))?;
        self.current.send_replace(next);
        Ok(())
    }
}

impl Sources {
    /// With what the files hold: clients are certified by the cluster's own authority, too, front proxies are not.
    fn with(&self, contents: &[String]) -> Result<Authorities> {
        let mut contents = contents.iter();
        let clients = if self.has_clients { contents.next() } else { None };
        let front_proxies = if self.has_front_proxies { contents.next() } else { None };
        let clients = match clients {
            None => self.own.clients.clone(),
            Some(more) => {
                roots(more, CLIENTS)?;
                format!("{}\n{more}", self.own.clients.trim_end())
            }
        };
        let front_proxies = front_proxies.unwrap_or(&self.own.front_proxies).clone();
        Ok(Authorities { clients, front_proxies })
    }
}

impl Authorities {
    fn roots(&self) -> Result<(Vec<CertificateDer<'static>>, Vec<CertificateDer<'static>>)> {
        Ok((roots(&self.clients, CLIENTS)?, roots(&self.front_proxies, FRONT_PROXIES)?))
    }
}

/// The certificates in a PEM text, of which there is at least one.
fn roots(pem: &str, flag: &str) -> Result<Vec<CertificateDer<'static>>> {
    let roots: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match roots.map_err(|error| anyhow!("{flag} is not usable: {error}"))? {
        roots if roots.is_empty() => bail!("{flag} is not usable: it holds no certificate"),
        roots => Ok(roots),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kybern_auth::pki::CertificateAuthority;
    use parking_lot::Mutex;

    use super::*;

    fn authority(name: &str) -> String {
        CertificateAuthority::create(name, jiff::Timestamp::now()).unwrap().certificate_pem().to_owned()
    }

    #[tokio::test]
    async fn authorities_are_read_again_when_their_files_change() {
        let own = Authorities { clients: authority("own"), front_proxies: authority("own-proxies") };
        let directory = tempfile::tempdir().unwrap();
        let (clients, proxies) = (directory.path().join("clients.crt"), directory.path().join("proxies.crt"));
        let (first, second, third) = (authority("first"), authority("second"), authority("third"));
        std::fs::write(&clients, &first).unwrap();
        std::fs::write(&proxies, &second).unwrap();
        let trust = Trust::of_files(own.clone(), Some(&clients), Some(&proxies)).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let (seen, mut current) = (Arc::clone(&told), trust.subscribe());
        let before = current.borrow_and_update().clone();
        assert!(before.clients.contains(&first) && before.clients.contains(own.clients.trim_end()));
        assert_eq!(before.front_proxies, second, "the cluster's own does not count");
        tokio::spawn(trust.follow(move |roots| {
            seen.lock().push(roots.len());
            Ok(())
        }));
        let mut next = async || {
            tokio::time::timeout(Duration::from_secs(10), current.changed()).await.expect("a change").unwrap();
            current.borrow_and_update().clone()
        };
        std::fs::write(&clients, format!("{first}{third}")).unwrap();
        let after = next().await;
        assert!(after.clients.contains(&third) && after.front_proxies == second);
        assert_eq!(*told.lock(), [4]);
        // What holds no certificate changes nothing, be the other file good or not.
        std::fs::write(&clients, "nonsense").unwrap();
        std::fs::write(&proxies, &third).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(*told.lock(), [4]);
        std::fs::write(&clients, &third).unwrap();
        let after = next().await;
        assert!(!after.clients.contains(&first) && after.front_proxies == third);
        assert_eq!(*told.lock(), [4, 3]);
    }

    #[tokio::test]
    async fn without_files_the_clusters_own_count() {
        let own = Authorities { clients: authority("own"), front_proxies: authority("own-proxies") };
        let trust = Trust::of_files(own.clone(), None, None).unwrap();
        assert_eq!(*trust.subscribe().borrow(), own);
        assert_eq!(trust.roots().unwrap().len(), 2);
        let none = PathBuf::from("/no/file");
        assert!(Trust::of_files(own.clone(), Some(&none), None).is_err());
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        let error = Trust::of_files(own.clone(), None, Some(&empty)).err().unwrap().to_string();
        assert_eq!(error, "--requestheader-client-ca-file is not usable: it holds no certificate");
        assert!(Trust::of_files(own, Some(&empty), None).is_err());
    }
}

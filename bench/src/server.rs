//! A `kybern kube-apiserver` to measure.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kybern_client::Client;

use crate::Site;

pub(crate) const PORT: u16 = 16443;
/// In the static token file; a member of `system:masters`.
pub(crate) const TOKEN: &str = "bench-token";
const KUBECONFIG: &str = "bench.kubeconfig";

/// A running server; it ends when this is dropped.
pub(crate) struct Server {
    child: Child,
    data: PathBuf,
}

impl Server {
    /// Starts on fresh or existing data below the site's folder; answers the time to `/readyz`, too.
    pub(crate) async fn start(site: &Site, name: &str) -> Result<(Self, Duration)> {
        Self::start_with(site, name, &[]).await
    }

    pub(crate) async fn start_with(site: &Site, name: &str, arguments: &[String]) -> Result<(Self, Duration)> {
        let data = site.folder.join(name);
        std::fs::create_dir_all(&data)?;
        let tokens = data.join("tokens.csv");
        std::fs::write(&tokens, format!("{TOKEN},bench,bench,system:masters\n"))?;
        let log = std::fs::File::create(site.folder.join(format!("{name}.log")))?;
        let start = Instant::now();
        let child = Command::new(&site.kybern)
            .arg("kube-apiserver")
            .args(["--bind-address=127.0.0.1", &format!("--secure-port={PORT}"), "--authorization-mode=RBAC"])
            .arg(format!("--token-auth-file={}", tokens.display()))
            .arg(format!("--data-dir={}", data.display()))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start kube-apiserver")?;
        let kubeconfig = write_kubeconfig(&data)?;
        let mut server = Self { child, data };
        while !is_ready(&kubeconfig).await {
            if let Some(status) = server.child.try_wait()? {
                bail!("kube-apiserver ended with {status}; see {name}.log in {}", site.folder.display());
            }
            if start.elapsed() > Duration::from_secs(60) {
                bail!("kube-apiserver is not ready after 60 s");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok((server, start.elapsed()))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data.join(KUBECONFIG)
    }

    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::from_kubeconfig(&self.kubeconfig())?)
    }
}

/// One for the administrator of the server on our port.
pub(crate) fn write_kubeconfig(folder: &Path) -> Result<PathBuf> {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: bench\ncontexts:\n- name: bench\n  context: {{cluster: bench, user: bench}}\n\
         clusters:\n- name: bench\n  cluster: {{server: 'https://127.0.0.1:{PORT}', insecure-skip-tls-verify: true}}\n\
         users:\n- name: bench\n  user: {{token: {TOKEN}}}\n"
    );
    let path = folder.join(KUBECONFIG);
    std::fs::write(&path, text)?;
    Ok(path)
}

pub(crate) async fn is_ready(kubeconfig: &Path) -> bool {
    let Ok(client) = Client::from_kubeconfig(kubeconfig) else { return false };
    let Ok(request) = http::Request::get("/readyz").body(kybern_client::body::empty()) else { return false };
    client.request(request).await.is_ok_and(|response| response.status().is_success())
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

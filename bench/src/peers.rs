//! Side by side with others: nginx serving the same bytes from memory, and upstream's kube-apiserver on the same etcd.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kybern_apimachinery::{Gvr, json};

use crate::connection::{Dialer, JSON};
use crate::load::{self, Target};
use crate::report::{Budget, Report, percentile};
use crate::server::{Server, TOKEN};
use crate::{Site, apiserver};

const NGINX_PORT: u16 = 16444;
/// Upstream's server, where there is one to compare with.
const UPSTREAM: &str = "KYBERN_UPSTREAM_APISERVER";
const CONNECTIONS: u32 = 16;
const SECONDS: u32 = 4;
/// Pairs of runs, one of each at a time, whose ratios' median is taken.
const PAIRS: usize = 5;
const MEMBERS: u16 = 3;

pub(crate) async fn measure(site: &Site) -> Result<Report> {
    let mut report = Report::default();
    nginx(site, &mut report).await?;
    etcd(site, &mut report).await?;
    Ok(report)
}

/// A process that ends when this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // nginx has workers, which a kill would leave behind.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

fn spawn(command: &mut Command, log: &Path) -> Result<Process> {
    let log = std::fs::File::create(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(Process(command.spawn().with_context(|| format!("cannot start {command:?}"))?))
}

async fn nginx(site: &Site, report: &mut Report) -> Result<()> {
    let (server, _) = Server::start(site, "nginx-beside").await?;
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bench", "namespace": "default"},
        "data": {"value": "x".repeat(700)},
    });
    server.client()?.raw(&Gvr::new("", "v1", "configmaps")).create(&object).await?;
    let path = "/api/v1/namespaces/default/configmaps/bench";
    let mut body = Dialer::new(&server)?.dial().await?.get(path, JSON).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = crate::connection::next(&mut body).await? {
        bytes.extend_from_slice(&piece);
    }
    let folder = site.folder.join("nginx");
    std::fs::create_dir_all(&folder)?;
    certificate(&folder)?;
    let place = folder.display();
    let text = String::from_utf8(bytes)?.replace('\\', "\\\\").replace('\'', "\\'");
    let config = format!(
        "daemon off; worker_processes 2; pid {place}/pid; error_log {place}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;\n\
         fastcgi_temp_path {place}/fastcgi; uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;\n\
         server {{ listen 127.0.0.1:{NGINX_PORT} ssl; ssl_certificate {place}/tls.crt; ssl_certificate_key {place}/tls.key;\n\
         location = {path} {{ default_type application/json; return 200 '{text}'; }} }} }}\n"
    );
    std::fs::write(folder.join("nginx.conf"), config)?;
    let nginx = spawn(Command::new("nginx").arg("-c").arg(folder.join("nginx.conf")), &site.folder.join("nginx.log"))?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (ours, theirs) = (Target::server(server.pid()), Target { port: NGINX_PORT, process: nginx.0.id() });
    let (mut ratios, mut rates) = (Vec::new(), (Vec::new(), Vec::new()));
    for _ in 0..PAIRS {
        let peer = load::once(theirs, path, CONNECTIONS, SECONDS, None)?.requests_per_second;
        let own = load::once(ours, path, CONNECTIONS, SECONDS, None)?.requests_per_second;
        ratios.push(own / peer);
        rates.0.push(own);
        rates.1.push(peer);
    }
    let (own, peer) = (percentile(&mut rates.0, 50.0), percentile(&mut rates.1, 50.0));
    let what = format!("GET a ConfigMap, {CONNECTIONS} connections, by nginx's rate");
    let note = format!("{own:.0}/s, nginx {peer:.0}/s");
    report.add_with(what, percentile(&mut ratios, 50.0), "×", Budget::AtLeast(0.8), note);
    Ok(())
}

fn certificate(folder: &Path) -> Result<()> {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    command.args(["-subj", "/CN=localhost"]).arg("-keyout").arg(folder.join("tls.key"));
    openssl(command.arg("-out").arg(folder.join("tls.crt")))
}

fn openssl(command: &mut Command) -> Result<()> {
    let output = command.output().context("cannot start openssl")?;
    if !output.status.success() {
        bail!("openssl: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// The same load on both servers, on one etcd of three members.
async fn etcd(site: &Site, report: &mut Report) -> Result<()> {
    let members = members(site)?;
    let endpoints = (0..MEMBERS).map(|n| format!("http://127.0.0.1:{}", client_port(n))).collect::<Vec<_>>().join(",");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let script = site.folder.join("create.lua");
    std::fs::write(&script, apiserver::create_script())?;
    let arguments = [format!("--etcd-servers={endpoints}")];
    let own = {
        let (server, _) = Server::start_with(site, "on-etcd", &arguments).await?;
        load::run(Target::server(server.pid()), CREATE_PATH, 64, SECONDS, Some(&script))?
    };
    let what = "durable CREATE of 1 KB on etcd of three members, 64 connections";
    match std::env::var_os(UPSTREAM).map(PathBuf::from) {
        None => {
            let note = format!("{}; {UPSTREAM} names no server to compare with", own.note());
            report.add_with(what, own.requests_per_second, "/s", Budget::None, note);
        }
        Some(program) => {
            let (upstream, pid) = upstream(site, &program, &endpoints).await?;
            let peer = load::run(Target::server(pid), CREATE_PATH, 64, SECONDS, Some(&script))?;
            drop(upstream);
            let note =
                format!("{:.0}/s, upstream {:.0}/s; {}", own.requests_per_second, peer.requests_per_second, own.note());
            let ratio = own.requests_per_second / peer.requests_per_second;
            report.add_with(format!("{what}, by upstream's rate"), ratio, "×", Budget::AtLeast(3.0), note);
        }
    }
    drop(members);
    Ok(())
}

const CREATE_PATH: &str = "/api/v1/namespaces/default/configmaps";

fn client_port(member: u16) -> u16 {
    16450 + 2 * member
}

fn members(site: &Site) -> Result<Vec<Process>> {
    let peer = |member: u16| format!("http://127.0.0.1:{}", client_port(member) + 1);
    let cluster = (0..MEMBERS).map(|n| format!("m{n}={}", peer(n))).collect::<Vec<_>>().join(",");
    let member = |n: u16| {
        let client = format!("http://127.0.0.1:{}", client_port(n));
        let mut etcd = Command::new("etcd");
        etcd.arg(format!("--name=m{n}")).arg("--data-dir").arg(site.folder.join(format!("etcd-{n}")));
        etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        etcd.args(["--listen-peer-urls", &peer(n), "--initial-advertise-peer-urls", &peer(n)]);
        etcd.args(["--initial-cluster", &cluster, "--unsafe-no-fsync=false"]);
        spawn(&mut etcd, &site.folder.join(format!("etcd-{n}.log")))
    };
    (0..MEMBERS).map(member).collect()
}

/// Upstream's server on the same port, once it is ready.
async fn upstream(site: &Site, program: &Path, endpoints: &str) -> Result<(Process, u32)> {
    let folder = site.folder.join("upstream");
    std::fs::create_dir_all(&folder)?;
    certificate(&folder)?;
    let tokens = folder.join("tokens.csv");
    std::fs::write(&tokens, format!("{TOKEN},bench,bench,system:masters\n"))?;
    let mut command = Command::new(program);
    // Upstream reads no public key from an EC key of PKCS #8.
    let key = folder.join("sa.key");
    openssl(Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048"))?;
    command.arg(format!("--etcd-servers={endpoints}")).arg("--etcd-prefix=/upstream");
    command.arg(format!("--cert-dir={}", folder.display())).arg(format!("--token-auth-file={}", tokens.display()));
    command.arg(format!("--service-account-key-file={}", key.display()));
    command.arg(format!("--service-account-signing-key-file={}", key.display()));
    command.args(["--service-account-issuer=https://bench.example", "--authorization-mode=RBAC"]);
    command.args(["--service-cluster-ip-range=10.96.0.0/16", "--bind-address=127.0.0.1"]);
    // It looks for one at the default route otherwise.
    command.arg("--advertise-address=192.0.2.1");
    command.arg(format!("--secure-port={}", crate::server::PORT));
    let process = spawn(&mut command, &site.folder.join("upstream.log"))?;
    let config = crate::server::write_kubeconfig(&folder)?;
    let start = Instant::now();
    while !crate::server::is_ready(&config).await {
        if start.elapsed() > Duration::from_secs(120) {
            bail!("upstream's server is not ready after 120 s; see upstream.log in {}", site.folder.display());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let pid = process.0.id();
    Ok((process, pid))
}

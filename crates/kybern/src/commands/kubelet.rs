//! `kybern kubelet`, with upstream's flags: the kubelet with the built-in container runtime, joined to any API server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use http::StatusCode;
use kybern_api::core::v1::Taint;
use kybern_auth::pki::NodeCertificate;
use kybern_client::Client;
use kybern_component_base::Reply;
use kybern_kubelet::ServerConfig;

use super::kubelet_access::AccessOptions;
use super::kubelet_config::KubeletFile;
use crate::ownership::Register;
use crate::paths::Directories;
use crate::serving::own_pair;
use crate::wiring::kubelet_certificate::{self, Joining};
use crate::wiring::{lone_network, node, shutdown};
use crate::{node_address, preflight, version};

#[derive(Debug, Args)]
pub(crate) struct Kubelet {
    /// Where the API server is, and who this is.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// With what the kubelet asks for a client certificate, where --kubeconfig holds no valid one: that file is made then.
    #[arg(long)]
    bootstrap_kubeconfig: Option<PathBuf>,
    /// Asks for the next client certificate before this one ends [default: false].
    #[arg(long)]
    rotate_certificates: Option<bool>,
    #[command(flatten)]
    directories: Directories,
    /// This node's name [default: the host name].
    #[arg(long)]
    hostname_override: Option<String>,
    /// This node's address, or two of both families [default: the default route's].
    #[arg(long, value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// A `KubeletConfiguration` file; flags win.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The pods' name servers [default: 10.96.0.10].
    #[arg(long, value_delimiter = ',')]
    cluster_dns: Option<Vec<String>>,
    /// The Services' DNS domain [default: cluster.local].
    #[arg(long)]
    cluster_domain: Option<String>,
    /// The most pods that run here [default: 110].
    #[arg(long)]
    max_pods: Option<u32>,
    /// The port of the kubelet's API [default: 10250].
    #[arg(long)]
    port: Option<u16>,
    /// The address of the kubelet's API [default: 0.0.0.0].
    #[arg(long)]
    address: Option<IpAddr>,
    /// The serving certificate with its chain (PEM) [default: one that certifies itself, in --cert-dir].
    #[arg(long)]
    tls_cert_file: Option<PathBuf>,
    /// The serving certificate's key (PEM).
    #[arg(long)]
    tls_private_key_file: Option<PathBuf>,
    /// Holds the client certificate that was asked for, and the serving certificate where none is named [default: <data-dir>/kubelet/pki].
    #[arg(long)]
    cert_dir: Option<PathBuf>,
    #[command(flatten)]
    access: AccessOptions,
    /// Serves the kubelet's API [default: true].
    #[arg(long)]
    enable_server: Option<bool>,
    /// external: a controller elsewhere has to make the node known to its cloud before pods come.
    #[arg(long)]
    cloud_provider: Option<String>,
    /// Where /healthz is served without TLS [default: 127.0.0.1].
    #[arg(long)]
    healthz_bind_address: Option<IpAddr>,
    /// The port of /healthz; 0 serves none [default: 10248].
    #[arg(long)]
    healthz_port: Option<u16>,
    /// The pod network on this node, where no controller assigns it.
    #[arg(long)]
    pod_cidr: Option<String>,
    /// The resolver configuration that pods' is made of [default: /etc/resolv.conf].
    #[arg(long)]
    resolv_conf: Option<PathBuf>,
    /// Labels that this node registers with.
    #[arg(long, value_delimiter = ',', value_parser = label)]
    node_labels: Vec<(String, String)>,
    /// Taints that this node registers with, as key=value:effect.
    #[arg(long, value_delimiter = ',', value_parser = taint)]
    register_with_taints: Vec<Taint>,
    /// A container's log is rotated at this size [default: 10Mi].
    #[arg(long)]
    container_log_max_size: Option<String>,
    /// How many files a container's log has [default: 5].
    #[arg(long)]
    container_log_max_files: Option<u32>,
}

pub(crate) async fn run(options: Kubelet) -> Result<()> {
    preflight::privileges("kubelet")?;
    let mut file = options.config.as_deref().map(KubeletFile::read).transpose()?.unwrap_or_default();
    let name = options.hostname_override.clone().map_or_else(node_address::host_name, Ok)?;
    let cert_dir = cert_dir(&options);
    if let Some(bootstrap_kubeconfig) = options.bootstrap_kubeconfig.clone() {
        let (kubeconfig, cert_dir) = (options.kubeconfig.clone(), cert_dir.clone());
        Joining { bootstrap_kubeconfig, kubeconfig, cert_dir, node: name.clone() }.join().await?;
    }
    let client = Client::from_kubeconfig(&options.kubeconfig)
        .with_context(|| format!("cannot use {}", options.kubeconfig.display()))?
        .with_user_agent("kubelet");
    if options.rotate_certificates.or(file.rotate_certificates) == Some(true) {
        let certificate = NodeCertificate::of(&cert_dir, &name)?;
        if certificate.current().exists() {
            tokio::spawn(kubelet_certificate::keep_renewed(client.clone(), certificate));
        }
    }
    let ip = match options.node_ip.first() {
        Some(ip) if !ip.is_unspecified() => *ip,
        _ => node_address::detect()?,
    };
    let server = server(&options, &file, &name, &client)?;
    let mut paths = options.directories.paths()?;
    paths.pod_logs = file.pod_logs_dir.clone().unwrap_or(paths.pod_logs);
    paths.cgroup_root = file.cgroup_root.clone().unwrap_or(paths.cgroup_root);
    preflight::machine()?;
    Register::of_machine().claim_for_kubelet(&paths)?;
    let runtime = node::open_runtime(&paths).await?;
    let pod_cidr = options.pod_cidr.clone().or(file.pod_cidr.clone());
    tokio::spawn(lone_network::configure(paths.clone(), client.clone(), name.clone(), pod_cidr.clone()));
    let mut config = kybern_kubelet::Config::new(name, ip, &paths.data);
    config.node_ips.extend(options.node_ip.get(1));
    config.labels = options.node_labels.clone();
    config.taints = options.register_with_taints.clone();
    config.taints.extend(file.register_with_taints.clone());
    config.taints.extend(cloud_taint(options.cloud_provider.as_deref())?);
    config.pod_logs_dir = paths.pod_logs;
    config.container_logs_dir = paths.container_logs.clone();
    file.set_log_rotation(options.container_log_max_size.clone(), options.container_log_max_files);
    config.log_rotation = file.log_rotation(config.log_rotation)?;
    config.cgroup_root = paths.cgroup_root;
    config.pod_cidr = pod_cidr;
    set(&mut config.cluster_dns, options.cluster_dns.or(file.cluster_dns));
    set(&mut config.cluster_domain, options.cluster_domain.or(file.cluster_domain));
    set(&mut config.max_pods, options.max_pods.or(file.max_pods));
    set(&mut config.resolv_conf, options.resolv_conf.or(file.resolv_conf));
    serve_health(
        options.healthz_bind_address.or(file.healthz_bind_address),
        options.healthz_port.or(file.healthz_port),
    )
    .await?;
    config.server = server;
    config.version = version::KUBERNETES.to_owned();
    Ok(kybern_kubelet::run(config, client, runtime.clone(), runtime, shutdown::requested()).await?)
}

fn set<T>(field: &mut T, said: Option<T>) {
    if let Some(value) = said {
        *field = value;
    }
}

/// Who is alive says so without TLS, as upstream's kubelet, whom kubeadm waits for so.
async fn serve_health(address: Option<IpAddr>, port: Option<u16>) -> Result<()> {
    let address = SocketAddr::new(address.unwrap_or(Ipv4Addr::LOCALHOST.into()), port.unwrap_or(10248));
    if address.port() == 0 {
        return Ok(());
    }
    let bound = kybern_component_base::Server::bind(address).await;
    let server = bound
        .map_err(|error| preflight::cannot_listen(address, "the kubelet's health", Some("--healthz-port"), &error))?;
    tokio::spawn(server.run(|path| match path {
        "/healthz" => Reply::text(StatusCode::OK, "ok"),
        _ => Reply::not_found(),
    }));
    Ok(())
}

fn cert_dir(options: &Kubelet) -> PathBuf {
    options.cert_dir.clone().unwrap_or_else(|| options.directories.data_dir.join("kubelet/pki"))
}

/// The kubelet's API; `None` where its port is 0.
fn server(options: &Kubelet, file: &KubeletFile, node: &str, client: &Client) -> Result<Option<ServerConfig>> {
    let address = options.address.or(file.address).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let address = SocketAddr::new(address, options.port.or(file.port).unwrap_or(10250));
    if address.port() == 0 || !options.enable_server.or(file.enable_server).unwrap_or(true) {
        return Ok(None);
    }
    let certificate = options.tls_cert_file.as_ref().or(file.tls_cert_file.as_ref());
    let key = options.tls_private_key_file.as_ref().or(file.tls_private_key_file.as_ref());
    let (certificate, key) = match (certificate, key) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        (None, None) => own_pair(&cert_dir(options), "kubelet")?,
        _ => bail!(
            "--tls-cert-file and --tls-private-key-file (in the configuration file tlsCertFile and tlsPrivateKeyFile) \
             need each other"
        ),
    };
    preflight::free(address, "the kubelet's API", Some("--port"))?;
    Ok(Some(ServerConfig {
        address,
        tls: options.access.tls(file)?,
        certificate,
        key,
        client_ca: options.access.client_ca(file),
        anonymous: options.access.anonymous(file),
        authorizer: options.access.authorizer(file, node, client)?,
        profiling: file.enable_profiling_handler.unwrap_or(true),
    }))
}

/// What an outside controller takes away once it has seen the node.
fn cloud_taint(provider: Option<&str>) -> Result<Option<Taint>> {
    match provider {
        None | Some("") => Ok(None),
        Some("external") => {
            let taint = taint("node.cloudprovider.kubernetes.io/uninitialized=true:NoSchedule");
            Ok(Some(taint.map_err(anyhow::Error::msg)?))
        }
        Some(other) => bail!("unknown cloud provider {other:?}: only external is there"),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.trim().split_once('=').unwrap_or((text, ""));
    if key.is_empty() { Err(format!("{text:?} is not of the form key=value")) } else { Ok((key.into(), value.into())) }
}

/// Upstream's notation: `key=value:effect`, or `key:effect`.
fn taint(text: &str) -> Result<Taint, String> {
    let invalid = |why: &str| format!("invalid taint spec: {text}, {why}");
    let (named, effect) = text.trim().rsplit_once(':').ok_or_else(|| invalid("it has no effect"))?;
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(format!("invalid taint effect: {effect}, unsupported taint effect"));
    }
    let (key, value) = named.split_once('=').map_or((named, None), |(key, value)| (key, Some(value.to_owned())));
    if key.is_empty() {
        return Err(invalid("it has no key"));
    }
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), ..Taint::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_taints() {
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(label("=b").is_err());
        let with = taint("node-role.kubernetes.io/control-plane:NoSchedule").unwrap();
        assert_eq!(
            (with.key.as_str(), with.value, with.effect.as_str()),
            ("node-role.kubernetes.io/control-plane", None, "NoSchedule")
        );
        assert_eq!(taint("a=b:NoExecute").unwrap().value.as_deref(), Some("b"));
        assert!(taint("a=b").is_err() && taint("a:Never").is_err() && taint(":NoSchedule").is_err());
    }
}

//! A pod's resolver, host name and hosts file (`pkg/kubelet/network/dns`, `pkg/kubelet/kubelet_pods.go`).

use std::fmt::Write;

use kybern_api::core::v1::Pod;
use kybern_cri::DnsConfig;

use super::spec;

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_HOSTNAME: usize = 63;

/// Reads the node's `resolv.conf`.
pub fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines().map(str::trim).filter(|l| !l.starts_with('#') && !l.starts_with(';')) {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            // The last list counts.
            Some("search" | "domain") => {
                config.searches =
                    words.map(|w| if w == "." { w } else { w.trim_end_matches('.') }.to_owned()).collect();
            }
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

/// The resolver of a pod on a node whose own is `node`.
pub fn pod_dns(pod: &Pod, cluster_dns: &[String], cluster_domain: &str, node: &DnsConfig) -> DnsConfig {
    let policy = spec::spec(pod).dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster_first = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !spec::host_network(pod),
        _ => false,
    };
    let mut config = match policy {
        "None" => DnsConfig::default(),
        _ if cluster_first && !cluster_dns.is_empty() => {
            let mut searches = Vec::new();
            if !cluster_domain.is_empty() {
                searches.push(format!("{}.svc.{cluster_domain}", spec::namespace(pod)));
                searches.push(format!("svc.{cluster_domain}"));
                searches.push(cluster_domain.to_owned());
            }
            searches.extend(node.searches.iter().cloned());
            DnsConfig { servers: cluster_dns.to_vec(), searches, options: vec!["ndots:5".to_owned()] }
        }
        _ => node.clone(),
    };
    if let Some(own) = &spec::spec(pod).dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or("");
            config.options.retain(|have| have.split(':').next() != Some(name));
            config.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.to_owned(),
            });
        }
    }
    unique(&mut config.servers);
    unique(&mut config.searches);
    config.servers.truncate(MAX_NAMESERVERS);
    config.searches.truncate(MAX_SEARCHES);
    config
}

fn unique(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// A pod's host name and its domain (empty without a subdomain).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hostname {
    /// What `hostname` prints in the pod.
    pub hostname: String,
    pub short: String,
    pub domain: String,
}

pub fn hostname(pod: &Pod, cluster_domain: &str) -> Result<Hostname, String> {
    let spec = spec::spec(pod);
    if let Some(name) = spec.hostname_override.as_ref().filter(|n| !n.is_empty()) {
        return Ok(Hostname { hostname: name.clone(), short: name.clone(), domain: String::new() });
    }
    let short = match spec.hostname.as_ref().filter(|n| !n.is_empty()) {
        Some(name) => name.clone(),
        None => {
            let name: String = spec::name(pod).chars().take(MAX_HOSTNAME).collect();
            name.trim_end_matches(['-', '.']).to_owned()
        }
    };
    let domain = match spec.subdomain.as_ref().filter(|n| !n.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", spec::namespace(pod)),
        None => String::new(),
    };
    let mut hostname = short.clone();
    if spec.set_hostname_as_fqdn == Some(true) && !domain.is_empty() {
        hostname = format!("{short}.{domain}");
        if hostname.len() > 64 {
            return Err(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {hostname} is too long \
                 (64 characters is the max, {} characters requested)",
                hostname.len()
            ));
        }
    }
    Ok(Hostname { hostname, short, domain })
}

/// The pod's `/etc/hosts`. `node_hosts` is the node's own file, taken with the host network.
pub fn hosts_file(pod: &Pod, ips: &[String], name: &Hostname, node_hosts: Option<&str>) -> String {
    let mut text = String::new();
    match node_hosts {
        Some(hosts) => {
            text.push_str("# Kubernetes-managed hosts file (host network).\n");
            text.push_str(hosts);
        }
        None => {
            text.push_str(
                "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
            );
            for ip in ips {
                let _ = match name.domain.as_str() {
                    "" => writeln!(text, "{ip}\t{}", name.short),
                    domain => writeln!(text, "{ip}\t{0}.{domain}\t{0}", name.short),
                };
            }
        }
    }
    let aliases = spec::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::{HostAlias, PodDNSConfig, PodDNSConfigOption};

    use super::*;
    use crate::pod::testing::pod;

    #[test]
    fn resolvers() {
        let node = parse_resolv_conf("# x\nnameserver 1.1.1.1\nsearch example.com. lab\noptions edns0\n");
        let check = |policy: &str,
                     host: bool,
                     own: Option<PodDNSConfig>,
                     servers: &[&str],
                     searches: &[&str],
                     options: &[&str]| {
            let mut pod = pod("p", vec![]);
            let spec = pod.spec.as_mut().unwrap();
            spec.dns_policy = Some(policy.into());
            spec.host_network = Some(host);
            spec.dns_config = own;
            let got = pod_dns(&pod, &["10.96.0.10".into()], "cluster.local", &node);
            assert_eq!(
                (got.servers, got.searches, got.options),
                (
                    servers.iter().map(|s| s.to_string()).collect(),
                    searches.iter().map(|s| s.to_string()).collect(),
                    options.iter().map(|s| s.to_string()).collect(),
                ),
                "{policy}"
            );
        };
        let cluster = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com", "lab"];
        let own = PodDNSConfig {
            nameservers: Some(vec!["9.9.9.9".into()]),
            searches: Some(vec!["own".into()]),
            options: Some(vec![PodDNSConfigOption { name: Some("ndots".into()), value: Some("2".into()) }]),
        };
        check("ClusterFirst", false, None, &["10.96.0.10"], &cluster, &["ndots:5"]);
        check("ClusterFirst", true, None, &["1.1.1.1"], &["example.com", "lab"], &["edns0"]);
        check("ClusterFirstWithHostNet", true, None, &["10.96.0.10"], &cluster, &["ndots:5"]);
        check("Default", false, None, &["1.1.1.1"], &["example.com", "lab"], &["edns0"]);
        check("None", false, Some(own.clone()), &["9.9.9.9"], &["own"], &["ndots:2"]);
        let with_own = [&cluster[..], &["own"]].concat();
        check("ClusterFirst", false, Some(own), &["10.96.0.10", "9.9.9.9"], &with_own, &["ndots:2"]);
    }

    #[test]
    fn names_and_hosts() {
        let mut pod = pod("p", vec![]);
        pod.spec.as_mut().unwrap().subdomain = Some("sub".into());
        pod.spec.as_mut().unwrap().host_aliases =
            Some(vec![HostAlias { ip: "1.2.3.4".into(), hostnames: Some(vec!["a".into(), "b".into()]) }]);
        let name = hostname(&pod, "cluster.local").unwrap();
        assert_eq!((name.hostname.as_str(), name.domain.as_str()), ("p", "sub.default.svc.cluster.local"));
        let hosts = hosts_file(&pod, &["10.0.0.2".into()], &name, None);
        assert!(hosts.contains("\n10.0.0.2\tp.sub.default.svc.cluster.local\tp\n"), "{hosts}");
        assert!(hosts.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{hosts}");
        pod.spec.as_mut().unwrap().set_hostname_as_fqdn = Some(true);
        assert_eq!(hostname(&pod, "cluster.local").unwrap().hostname, "p.sub.default.svc.cluster.local");
        pod.metadata.name = Some("x".repeat(60));
        assert!(hostname(&pod, "cluster.local").unwrap_err().contains("is too long"));
    }
}

//! From the Corefile's directives to a working server: which plugin knows which options. The order of plugins is fixed, as
//! CoreDNS' `plugin.cfg` fixes it: metrics, errors, log, loadbalance, cache, hosts, kubernetes, loop, forward.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kybern_apimachinery::time::parse_duration;

use crate::corefile::{CorefileError, Directive, ServerBlock, parse, zones_of};
use crate::metrics::Metrics;
use crate::name::Name;
use crate::plugin::cache::{self, Cache, Policy};
use crate::plugin::forward::{self, Forward, Order};
use crate::plugin::hosts::{Entries, Hosts};
use crate::plugin::kubernetes::{self, Kubernetes, PodsMode};
use crate::plugin::{Fallthrough, Plugin};
use crate::server::{Block, LoopProbe, PortServer};
use crate::zone::Cluster;

/// Everything that a Corefile asks for.
pub struct Setup {
    pub ports: BTreeMap<u16, Arc<PortServer>>,
    pub health: Option<SocketAddr>,
    /// How long to go on serving after the signal to stop.
    pub lameduck: Duration,
    pub ready: Option<SocketAddr>,
    pub prometheus: Option<SocketAddr>,
    pub reload: bool,
    /// Whether pods must be followed.
    pub needs_pods: bool,
    pub needs_cluster: bool,
    /// Endpoints are called by their pods' names.
    pub pod_names: bool,
}

impl Setup {
    /// Whether all plugins have what they need; otherwise the names of those that have not.
    pub fn not_ready(&self) -> Vec<&'static str> {
        let plugins = self.ports.values().flat_map(|port| &port.blocks).flat_map(|block| &block.plugins);
        let mut names: Vec<_> = plugins.filter(|plugin| !plugin.is_ready()).map(|plugin| plugin.name()).collect();
        names.dedup();
        names
    }

    /// The caches' sizes: successes and denials.
    pub fn cache_len(&self) -> (usize, usize) {
        let blocks = self.ports.values().flat_map(|port| &port.blocks);
        blocks.filter_map(|block| block.cache.as_ref()).map(Cache::len).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    }
}

/// Reads a Corefile and sets up all that it names. Nothing is opened yet.
pub(crate) fn load(
    text: &str,
    file: &str,
    default_port: u16,
    cluster: &Arc<Cluster>,
    metrics: &Metrics,
) -> Result<Setup, CorefileError> {
    let mut setup = Setup {
        ports: BTreeMap::new(),
        health: None,
        lameduck: Duration::ZERO,
        ready: None,
        prometheus: None,
        reload: false,
        needs_pods: false,
        needs_cluster: false,
        pod_names: false,
    };
    let mut ports: BTreeMap<u16, Vec<Block>> = BTreeMap::new();
    for server_block in parse(text, file, default_port)? {
        let mut by_port: BTreeMap<u16, Vec<Name>> = BTreeMap::new();
        for (zone, port) in &server_block.zones {
            by_port.entry(*port).or_default().push(zone.clone());
        }
        for (port, zones) in by_port {
            let block = setup.block(&server_block, zones, port, cluster, metrics)?;
            ports.entry(port).or_default().push(block);
        }
    }
    setup.ports = ports.into_iter().map(|(port, blocks)| (port, Arc::new(PortServer { blocks }))).collect();
    Ok(setup)
}

impl Setup {
    fn block(
        &mut self,
        source: &ServerBlock,
        zones: Vec<Name>,
        port: u16,
        cluster: &Arc<Cluster>,
        metrics: &Metrics,
    ) -> Result<Block, CorefileError> {
        let counters = metrics.block(&format!("dns://:{port}"), &zones[0].to_string());
        let mut block = Block::new(zones, counters);
        let (mut hosts, mut kubernetes) = (None, None);
        for directive in &source.directives {
            match directive.name.as_str() {
                "errors" => block.errors = true,
                "log" => block.log = true,
                "loadbalance" => match directive.args.first().map(String::as_str) {
                    None | Some("round_robin") => block.load_balance = true,
                    Some(other) => return Err(directive.error("loadbalance", format!("unknown policy: {other}"))),
                },
                "loop" => block.loop_probe = Some(LoopProbe::new(&block.zones[0])),
                "health" => self.health(directive)?,
                "ready" => self.ready = Some(listen_address(directive, "ready", 8181)?),
                "prometheus" => self.prometheus = Some(listen_address(directive, "prometheus", 9153)?),
                // The file is watched, so that neither interval nor jitter matters.
                "reload" => self.reload = true,
                "cache" => block.cache = Some(Cache::new(cache_options(directive, &block.zones)?)),
                "forward" => block.forwards.push(Forward::new(forward_options(directive)?)),
                "hosts" => hosts = Some(hosts_plugin(directive, &block.zones)?),
                "kubernetes" => {
                    let options = kubernetes_options(directive, &block.zones)?;
                    self.needs_cluster = true;
                    self.needs_pods |= options.pods == PodsMode::Verified;
                    self.pod_names |= options.pod_names;
                    kubernetes = Some(Kubernetes::new(options, cluster.clone()));
                }
                other => {
                    return Err(CorefileError::Syntax {
                        file: directive.file.clone(),
                        line: directive.line,
                        cause: format!("Unknown directive '{other}'"),
                    });
                }
            }
        }
        block.plugins.extend(hosts.map(|hosts| Box::new(hosts) as Box<dyn Plugin>));
        block.plugins.extend(kubernetes.map(|kubernetes| Box::new(kubernetes) as Box<dyn Plugin>));
        Ok(block)
    }

    fn health(&mut self, directive: &Directive) -> Result<(), CorefileError> {
        self.health = Some(listen_address(directive, "health", 8080)?);
        for option in &directive.block {
            match (option.name.as_str(), option.args.as_slice()) {
                ("lameduck", [duration]) => {
                    self.lameduck = parse_duration(duration)
                        .ok_or_else(|| option.error("health", format!("invalid duration {duration:?}")))?;
                }
                _ => return Err(option.unknown_property("health")),
            }
        }
        Ok(())
    }
}

/// `NAME [ADDRESS]`, where the address may leave out the host or the port.
fn listen_address(directive: &Directive, plugin: &str, default_port: u16) -> Result<SocketAddr, CorefileError> {
    let any = IpAddr::from([0, 0, 0, 0]);
    let [text] = directive.args.as_slice() else {
        return if directive.args.is_empty() {
            Ok((any, default_port).into())
        } else {
            Err(directive.wrong_args(plugin))
        };
    };
    let with_host =
        if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.replace("localhost", "127.0.0.1") };
    with_host.parse().or_else(|_| with_host.parse().map(|ip: IpAddr| SocketAddr::new(ip, default_port))).map_err(|_| {
        directive
            .error(plugin, format!("{text:?} is not an address such as :{default_port} or 127.0.0.1:{default_port}"))
    })
}

fn parse_zones(directive: &Directive, plugin: &str, texts: &[String]) -> Result<Vec<Name>, CorefileError> {
    let mut zones = Vec::new();
    for text in texts {
        zones.extend(zones_of(text).ok_or_else(|| directive.error(plugin, format!("not a domain name: {text:?}")))?);
    }
    Ok(zones)
}

fn number<T: std::str::FromStr>(directive: &Directive, plugin: &str, text: &str) -> Result<T, CorefileError> {
    text.parse().map_err(|_| directive.error(plugin, format!("not a number: {text:?}")))
}

fn kubernetes_options(directive: &Directive, block_zones: &[Name]) -> Result<kubernetes::Options, CorefileError> {
    const NAME: &str = "kubernetes";
    let zones = parse_zones(directive, NAME, &directive.args)?;
    let mut options = kubernetes::Options {
        zones: if zones.is_empty() { block_zones.to_vec() } else { zones },
        ttl: 5,
        pods: PodsMode::Disabled,
        fallthrough: Fallthrough::default(),
        pod_names: false,
        namespaces: Vec::new(),
    };
    for option in &directive.block {
        match (option.name.as_str(), option.args.as_slice()) {
            ("pods", [mode]) => {
                options.pods = match mode.as_str() {
                    "disabled" => PodsMode::Disabled,
                    "insecure" => PodsMode::Insecure,
                    "verified" => PodsMode::Verified,
                    other => {
                        return Err(option.error(
                            NAME,
                            format!("wrong value for pods: {other},  must be one of: disabled, verified, insecure"),
                        ));
                    }
                }
            }
            ("ttl", [seconds]) => {
                options.ttl = number(option, NAME, seconds)?;
                if options.ttl > 3600 {
                    return Err(option.error(NAME, format!("ttl must be in range [0, 3600]: {}", options.ttl)));
                }
            }
            ("fallthrough", zones) => options.fallthrough = Fallthrough::new(parse_zones(option, NAME, zones)?),
            ("endpoint_pod_names", []) => options.pod_names = true,
            ("namespaces", [_, ..]) => options.namespaces.clone_from(&option.args),
            ("pods" | "ttl" | "endpoint_pod_names" | "namespaces", _) => return Err(option.wrong_args(NAME)),
            _ => return Err(option.unknown_property(NAME)),
        }
    }
    Ok(options)
}

fn cache_options(directive: &Directive, block_zones: &[Name]) -> Result<cache::Options, CorefileError> {
    const NAME: &str = "cache";
    let mut options =
        cache::Options { zones: block_zones.to_vec(), success: Policy::success(), denial: Policy::denial() };
    let mut args = directive.args.as_slice();
    if let [first, rest @ ..] = args
        && let Ok(ttl) = first.parse::<u32>()
    {
        if ttl == 0 {
            return Err(directive.error(NAME, "cache TTL can not be zero or negative: 0"));
        }
        (options.success.max_ttl, options.denial.max_ttl) = (ttl, ttl);
        args = rest;
    }
    if !args.is_empty() {
        options.zones = parse_zones(directive, NAME, args)?;
    }
    for option in &directive.block {
        match (option.name.as_str(), option.args.as_slice()) {
            (kind @ ("success" | "denial"), [capacity, ttls @ ..]) if ttls.len() <= 2 => {
                let policy = if kind == "success" { &mut options.success } else { &mut options.denial };
                policy.capacity = number(option, NAME, capacity)?;
                for (text, field) in ttls.iter().zip([&mut policy.max_ttl, &mut policy.min_ttl]) {
                    *field = number(option, NAME, text)?;
                }
            }
            ("disable", [kind, zones @ ..]) => {
                let zones = if zones.is_empty() { options.zones.clone() } else { parse_zones(option, NAME, zones)? };
                match kind.as_str() {
                    "success" => options.success.disabled.extend(zones),
                    "denial" => options.denial.disabled.extend(zones),
                    other => {
                        return Err(
                            option.error(NAME, format!("cache type to disable must be success or denial: {other}"))
                        );
                    }
                }
            }
            ("success" | "denial" | "disable", _) => return Err(option.wrong_args(NAME)),
            _ => return Err(option.unknown_property(NAME)),
        }
        for policy in [&mut options.success, &mut options.denial] {
            policy.min_ttl = policy.min_ttl.min(policy.max_ttl);
        }
    }
    Ok(options)
}

fn forward_options(directive: &Directive) -> Result<forward::Options, CorefileError> {
    const NAME: &str = "forward";
    let [from, to @ ..] = directive.args.as_slice() else { return Err(directive.wrong_args(NAME)) };
    let [from] = parse_zones(directive, NAME, std::slice::from_ref(from))?
        .try_into()
        .map_err(|_| directive.error(NAME, format!("{from:?} stands for several zones: write one forward for each")))?;
    if to.is_empty() {
        return Err(directive.wrong_args(NAME));
    }
    let mut options = forward::Options {
        from,
        to: Vec::new(),
        except: Vec::new(),
        order: Order::Random,
        max_concurrent: forward::DEFAULT_MAX_CONCURRENT,
        max_fails: 2,
        force_tcp: false,
        prefer_udp: false,
    };
    for text in to {
        options.to.extend(upstreams(directive, text)?);
    }
    for option in &directive.block {
        match (option.name.as_str(), option.args.as_slice()) {
            ("except", zones @ [_, ..]) => options.except = parse_zones(option, NAME, zones)?,
            ("force_tcp", []) => options.force_tcp = true,
            ("prefer_udp", []) => options.prefer_udp = true,
            ("max_fails", [count]) => options.max_fails = number(option, NAME, count)?,
            ("max_concurrent", [count]) => {
                let count: usize = number(option, NAME, count)?;
                options.max_concurrent = if count == 0 { forward::DEFAULT_MAX_CONCURRENT } else { count };
            }
            ("policy", [policy]) => {
                options.order = match policy.as_str() {
                    "random" => Order::Random,
                    "round_robin" => Order::RoundRobin,
                    "sequential" => Order::Sequential,
                    other => return Err(option.error(NAME, format!("unknown policy '{other}'"))),
                }
            }
            // Connections are not kept, and servers are judged by their answers: nothing to set, and no harm in setting it.
            ("expire" | "health_check", [_, ..]) => {}
            ("except" | "force_tcp" | "prefer_udp" | "max_fails" | "max_concurrent" | "policy", _) => {
                return Err(option.wrong_args(NAME));
            }
            _ => return Err(option.unknown_property(NAME)),
        }
    }
    Ok(options)
}

/// The servers that one word of `forward` names: an address, or a file such as `/etc/resolv.conf`.
fn upstreams(directive: &Directive, text: &str) -> Result<Vec<SocketAddr>, CorefileError> {
    let text = text.strip_prefix("dns://").unwrap_or(text);
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(vec![(ip, 53).into()]);
    }
    let error = |cause: String| Err(directive.error("forward", cause));
    if text.contains("://") {
        return error(format!("the transport of {text:?} is not supported: only dns is"));
    }
    match std::fs::read_to_string(Path::new(text)) {
        Err(_) => error(format!("not an IP address or file: {text:?}")),
        Ok(contents) => {
            let servers = forward::name_servers(&contents);
            // CoreDNS refuses to start; a machine without name servers should still have cluster DNS.
            if servers.is_empty() {
                tracing::warn!("plugin/forward: no nameservers found in {text:?}: only the cluster's names resolve");
            }
            Ok(servers)
        }
    }
}

fn hosts_plugin(directive: &Directive, block_zones: &[Name]) -> Result<Hosts, CorefileError> {
    const NAME: &str = "hosts";
    let (file, zones) = match directive.args.as_slice() {
        [file, zones @ ..] => (Some(file.as_str()), parse_zones(directive, NAME, zones)?),
        [] => (directive.block.is_empty().then_some("/etc/hosts"), Vec::new()),
    };
    let mut hosts = Hosts {
        zones: if zones.is_empty() { block_zones.to_vec() } else { zones },
        ttl: 3600,
        fallthrough: Fallthrough::default(),
        entries: Entries::default(),
    };
    let reverse = !directive.block.iter().any(|option| option.name == "no_reverse");
    if let Some(file) = file {
        let text = std::fs::read_to_string(file)
            .map_err(|cause| directive.error(NAME, format!("unable to access hosts file {file:?}: {cause}")))?;
        hosts.entries.add_text(&text, reverse);
    }
    for option in &directive.block {
        match (option.name.as_str(), option.args.as_slice()) {
            ("ttl", [seconds]) => hosts.ttl = number(option, NAME, seconds)?,
            ("fallthrough", zones) => hosts.fallthrough = Fallthrough::new(parse_zones(option, NAME, zones)?),
            ("no_reverse", []) | ("reload", [_]) => {}
            (ip, [_, ..]) if ip.parse::<IpAddr>().is_ok() => {
                hosts.entries.add_text(&format!("{ip} {}", option.args.join(" ")), reverse);
            }
            _ => return Err(option.unknown_property(NAME)),
        }
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_load(text: &str) -> Result<Setup, String> {
        load(text, "Corefile", 53, &Arc::default(), &Metrics::new()).map_err(|error| error.to_string())
    }

    #[test]
    fn kubeadms_corefile_is_set_up() {
        let dir = tempfile::tempdir().unwrap();
        let resolv = dir.path().join("resolv.conf");
        std::fs::write(&resolv, "nameserver 192.0.2.1\n").unwrap();
        let text = format!(
            ".:53 {{\n errors\n health {{\n lameduck 5s\n }}\n ready\n kubernetes cluster.local in-addr.arpa ip6.arpa {{\n \
             pods insecure\n fallthrough in-addr.arpa ip6.arpa\n ttl 30\n }}\n prometheus :9153\n forward . {} {{\n \
             max_concurrent 1000\n }}\n cache 30 {{\n disable success cluster.local\n disable denial cluster.local\n }}\n \
             loop\n reload\n loadbalance\n}}\n",
            resolv.display()
        );
        let setup = try_load(&text).unwrap();
        let block = &setup.ports[&53].blocks[0];
        assert_eq!(setup.lameduck, Duration::from_secs(5));
        assert_eq!(
            (setup.health, setup.ready),
            (Some("0.0.0.0:8080".parse().unwrap()), Some("0.0.0.0:8181".parse().unwrap()))
        );
        assert_eq!(setup.prometheus, Some("0.0.0.0:9153".parse().unwrap()));
        assert!(setup.reload && setup.needs_cluster && !setup.needs_pods && !setup.pod_names);
        assert!(
            block.errors && block.load_balance && !block.log && block.cache.is_some() && block.loop_probe.is_some()
        );
        assert_eq!((block.plugins.len(), block.forwards.len()), (1, 1));
        assert_eq!(setup.not_ready(), ["kubernetes"]);
    }

    #[test]
    fn a_machine_without_name_servers_has_cluster_dns() {
        let dir = tempfile::tempdir().unwrap();
        let resolv = dir.path().join("resolv.conf");
        std::fs::write(&resolv, "search test\n").unwrap();
        let setup = try_load(&format!(". {{\n forward . {}\n}}\n", resolv.display())).unwrap();
        assert_eq!(setup.ports[&53].blocks[0].forwards.len(), 1);
    }

    #[test]
    fn errors_name_plugin_and_line() {
        for (text, expect) in [
            (". {\n frobnicate\n}\n", "Corefile:2 - Error during parsing: Unknown directive 'frobnicate'"),
            (
                ". {\n kubernetes {\n  podz insecure\n }\n}\n",
                "plugin/kubernetes: Corefile:3 - Error during parsing: unknown property 'podz'",
            ),
            (
                ". {\n kubernetes {\n  pods all\n }\n}\n",
                "plugin/kubernetes: Corefile:3 - Error during parsing: wrong value for pods: all",
            ),
            (
                ". {\n kubernetes {\n  ttl 9999\n }\n}\n",
                "plugin/kubernetes: Corefile:3 - Error during parsing: ttl must be in range",
            ),
            (
                ". {\n kubernetes {\n  ttl\n }\n}\n",
                "plugin/kubernetes: Corefile:3 - Error during parsing: Wrong argument count",
            ),
            (". {\n forward .\n}\n", "plugin/forward: Corefile:2 - Error during parsing: Wrong argument count"),
            (
                ". {\n forward . nowhere\n}\n",
                "plugin/forward: Corefile:2 - Error during parsing: not an IP address or file: \"nowhere\"",
            ),
            (
                ". {\n forward . tls://1.1.1.1\n}\n",
                "plugin/forward: Corefile:2 - Error during parsing: the transport of",
            ),
            (
                ". {\n forward . 1.1.1.1 {\n  policy best\n }\n}\n",
                "plugin/forward: Corefile:3 - Error during parsing: unknown policy 'best'",
            ),
            (". {\n cache 0\n}\n", "plugin/cache: Corefile:2 - Error during parsing: cache TTL can not be zero"),
            (
                ". {\n health {\n  lameduck long\n }\n}\n",
                "plugin/health: Corefile:3 - Error during parsing: invalid duration",
            ),
            (
                ". {\n prometheus here:there\n}\n",
                "plugin/prometheus: Corefile:2 - Error during parsing: \"here:there\" is not an address",
            ),
        ] {
            let error = try_load(text).err().unwrap();
            assert!(error.starts_with(expect), "{error}");
        }
    }
}

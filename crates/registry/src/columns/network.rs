//! Services and what stands behind and before them.

use super::cell::Printer;
use kybern_apimachinery::{Value, object};

use super::cell::{age, joined, labels, name, object_name, or_none, selector, string, wide};
use crate::tree::{int, list, text};

pub(super) const SERVICES: Printer = Printer {
    definitions: &[
        name(),
        string("Type"),
        string("Cluster-IP"),
        string("External-IP"),
        string("Port(s)"),
        string("Age"),
        wide("Selector"),
    ],
    cells: |s, now| {
        let spec = &s["spec"];
        let kind = match text(spec, "type") {
            "" => "ClusterIP",
            kind => kind,
        };
        let ip = list(spec, "clusterIPs").first().and_then(Value::as_str).unwrap_or(text(spec, "clusterIP"));
        vec![
            object_name(s),
            kind.into(),
            or_none(ip),
            external(s).into(),
            or_none(ports(spec)),
            age(s, now),
            labels(spec, "selector"),
        ]
    },
};

fn external(service: &Value) -> String {
    let spec = &service["spec"];
    let own = joined(list(spec, "externalIPs"));
    match text(spec, "type") {
        "LoadBalancer" => {
            let given = list(&service["status"]["loadBalancer"], "ingress");
            let given: Vec<&str> = given
                .iter()
                .map(|i| if text(i, "ip").is_empty() { text(i, "hostname") } else { text(i, "ip") })
                .collect();
            let all = [given.join(","), own].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(",");
            if all.is_empty() { "<pending>".to_owned() } else { all }
        }
        "ExternalName" => text(spec, "externalName").to_owned(),
        _ if own.is_empty() => "<none>".to_owned(),
        _ => own,
    }
}

fn ports(spec: &Value) -> String {
    let one = |port: &Value| {
        let node = int(port, "nodePort").filter(|n| *n > 0).map_or(String::new(), |n| format!(":{n}"));
        format!("{}{node}/{}", int(port, "port").unwrap_or(0), text(port, "protocol"))
    };
    list(spec, "ports").iter().map(one).collect::<Vec<_>>().join(",")
}

pub(super) const ENDPOINTS: Printer = Printer {
    definitions: &[name(), string("Endpoints"), string("Age")],
    cells: |e, now| vec![object_name(e), endpoints(e).into(), age(e, now)],
};

/// The first three, and how many more there are.
fn endpoints(endpoints: &Value) -> String {
    const MAX: usize = 3;
    let (mut all, mut total) = (Vec::new(), 0);
    for subset in list(endpoints, "subsets") {
        let addresses = list(subset, "addresses");
        let ports = list(subset, "ports");
        if ports.is_empty() {
            total += addresses.len();
            all.extend(addresses.iter().map(|a| text(a, "ip").to_owned()));
        }
        for port in ports {
            total += addresses.len();
            let number = int(port, "port").unwrap_or(0);
            let room = MAX.saturating_sub(all.len());
            all.extend(addresses.iter().take(room).map(|a| {
                let ip = text(a, "ip");
                if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }
            }));
        }
    }
    all.truncate(MAX);
    match (all.is_empty(), total > all.len()) {
        (true, _) => "<none>".to_owned(),
        (false, true) => format!("{} + {} more...", all.join(","), total - all.len()),
        (false, false) => all.join(","),
    }
}

pub(super) const ENDPOINT_SLICES: Printer = Printer {
    definitions: &[name(), string("AddressType"), string("Ports"), string("Endpoints"), string("Age")],
    cells: |e, now| {
        let ports: Vec<String> =
            list(e, "ports").iter().map(|p| int(p, "port").map_or_else(|| "*".to_owned(), |n| n.to_string())).collect();
        let addresses: Vec<&str> =
            list(e, "endpoints").iter().flat_map(|e| list(e, "addresses")).filter_map(Value::as_str).collect();
        let ports = if ports.is_empty() { "<unset>".to_owned() } else { shortened(&ports) };
        let addresses = if addresses.is_empty() { "<unset>".to_owned() } else { shortened(&addresses) };
        vec![object_name(e), text(e, "addressType").into(), ports.into(), addresses.into(), age(e, now)]
    },
};

fn shortened<T: AsRef<str>>(items: &[T]) -> String {
    let shown = items.iter().take(3).map(AsRef::as_ref).collect::<Vec<_>>().join(",");
    if items.len() > 3 { format!("{shown} + {} more...", items.len() - 3) } else { shown }
}

pub(super) const INGRESSES: Printer = Printer {
    definitions: &[name(), string("Class"), string("Hosts"), string("Address"), string("Ports"), string("Age")],
    cells: |i, now| {
        let spec = &i["spec"];
        let mut hosts: Vec<&str> =
            list(spec, "rules").iter().map(|r| text(r, "host")).filter(|h| !h.is_empty()).collect();
        let more = hosts.len().saturating_sub(3);
        hosts.truncate(3);
        let hosts = match (hosts.is_empty(), more) {
            (true, _) => "*".to_owned(),
            (false, 0) => hosts.join(","),
            (false, more) => format!("{} + {more} more...", hosts.join(",")),
        };
        let given = list(&i["status"]["loadBalancer"], "ingress");
        let address: Vec<&str> =
            given.iter().map(|g| if text(g, "ip").is_empty() { text(g, "hostname") } else { text(g, "ip") }).collect();
        let ports = if list(spec, "tls").is_empty() { "80" } else { "80, 443" };
        vec![
            object_name(i),
            or_none(text(spec, "ingressClassName")),
            hosts.into(),
            address.join(",").into(),
            ports.into(),
            age(i, now),
        ]
    },
};

pub(super) const INGRESS_CLASSES: Printer = Printer {
    definitions: &[name(), string("Controller"), string("Parameters"), string("Age")],
    cells: |c, now| {
        let parameters = &c["spec"]["parameters"];
        let group = text(parameters, "apiGroup");
        let group = if group.is_empty() { String::new() } else { format!(".{group}") };
        let parameters = if parameters.is_object() {
            format!("{}{group}/{}", text(parameters, "kind"), text(parameters, "name"))
        } else {
            "<none>".to_owned()
        };
        vec![object_name(c), object::str_at(c, &["spec", "controller"]).into(), parameters.into(), age(c, now)]
    },
};

pub(super) const NETWORK_POLICIES: Printer = Printer {
    definitions: &[name(), string("Pod-Selector"), string("Age")],
    cells: |p, now| vec![object_name(p), selector(p["spec"].get("podSelector")), age(p, now)],
};

pub(super) const SERVICE_CIDRS: Printer = Printer {
    definitions: &[name(), string("CIDRs"), string("Age")],
    cells: |c, now| vec![object_name(c), joined(list(&c["spec"], "cidrs")).into(), age(c, now)],
};

pub(super) const IP_ADDRESSES: Printer = Printer {
    definitions: &[name(), string("ParentRef")],
    // Upstream shows an age that it has no column for.
    cells: |a, now| {
        let parent = &a["spec"]["parentRef"];
        let parts = ["resource", "namespace", "name"].map(|f| text(parent, f));
        let parent = parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/");
        vec![object_name(a), or_none(parent), age(a, now)]
    },
};

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn services() {
        let check = |spec: Value, expect: Value| {
            let cells =
                (SERVICES.cells)(&json!({"metadata": {"name": "s"}, "spec": spec}), jiff::Timestamp::UNIX_EPOCH);
            assert_eq!(Value::from(cells[1..5].to_vec()), expect);
        };
        let ports = json!([{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]);
        check(
            json!({"type": "NodePort", "clusterIP": "10.96.0.9", "ports": ports}),
            json!(["NodePort", "10.96.0.9", "<none>", "80:30080/TCP,53/UDP"]),
        );
        check(
            json!({"type": "ExternalName", "externalName": "a.b"}),
            json!(["ExternalName", "<none>", "a.b", "<none>"]),
        );
        check(
            json!({"type": "LoadBalancer", "clusterIP": "1.2.3.4"}),
            json!(["LoadBalancer", "1.2.3.4", "<pending>", "<none>"]),
        );
        check(json!({"type": "ClusterIP", "clusterIP": "None"}), json!(["ClusterIP", "None", "<none>", "<none>"]));
    }

    #[test]
    fn only_three_endpoints_are_shown() {
        let addresses: Vec<Value> = (1..6).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect();
        let object = json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
        assert_eq!(endpoints(&object), "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...");
        assert_eq!(endpoints(&json!({})), "<none>");
    }
}

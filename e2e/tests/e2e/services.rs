//! Services and names.

use std::collections::HashSet;

use kybern_e2e::{Cluster, Namespace, Table, eventually};

use crate::manifests::shell_pod;

/// Pods that say their names, and one to ask from.
fn echo(namespace: &Namespace, replicas: u32) {
    namespace.apply(&format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: echo}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: echo}}}}
  template:
    metadata: {{labels: {{app: echo}}}}
    spec:
      containers:
      - name: echo
        image: kybern.local/kybern:{}
        command: [/kybern, testapp, serve]
        ports: [{{containerPort: 8080, name: http}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
",
        env!("CARGO_PKG_VERSION")
    ));
    namespace.apply(&shell_pod("client", "sleep 3600"));
    namespace.run(&["rollout", "status", "deployment/echo", "--timeout=60s"]).ok();
    namespace.wait("pod/client", "condition=Ready");
}

fn from_pod(namespace: &Namespace, url: &str) -> Result<String, String> {
    // Not `wget -T`: Debian's static busybox 1.35 crashes in it.
    let finished = namespace.run(&["exec", "client", "--", "timeout", "5", "wget", "-q", "-O", "-", url]);
    if finished.code == Some(0) { Ok(finished.stdout) } else { Err(finished.to_string()) }
}

#[test]
fn cluster_ip_node_port_and_dns() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("expose");
    echo(&namespace, 3);
    namespace.run(&["expose", "deployment", "echo", "--port=80", "--target-port=8080"]).ok();
    namespace
        .run(&["expose", "deployment", "echo", "--name=echo-np", "--type=NodePort", "--port=80", "--target-port=http"])
        .ok();
    let table = Table::parse(&namespace.run(&["get", "service", "-o", "wide"]).ok());
    assert_eq!(table.headers(), ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"]);
    let row = table.row("echo");
    assert_eq!((table.cell(row, "TYPE"), table.cell(row, "PORT(S)")), ("ClusterIP".into(), "80/TCP".into()));
    assert_eq!(table.cell(row, "EXTERNAL-IP"), "<none>");
    let address = table.cell(row, "CLUSTER-IP");
    assert!(address.starts_with("10."), "{address}");
    let port: u16 = namespace.jsonpath(&["service", "echo-np"], "{.spec.ports[0].nodePort}").parse().unwrap();
    assert!((30000..=32767).contains(&port), "{port}");

    let hostnames: HashSet<String> = (0..60)
        .map(|_| eventually("the cluster IP answers", || cluster.fetch(&format!("http://{address}/hostname"))))
        .collect();
    assert_eq!(hostnames.len(), 3, "all three pods answer: {hostnames:?}");
    eventually("the node port answers on the node", || {
        cluster.fetch(&format!("http://{}:{port}/hostname", cluster.node_ip))
    });
    eventually("the node port answers to the outside", || {
        cluster.fetch_from_lan(&format!("http://{}:{port}/hostname", cluster.node_ip))
    });
    eventually("the cluster IP answers in a pod", || from_pod(&namespace, &format!("http://{address}/hostname")));
    for name in ["echo", &format!("echo.{}", namespace.name), &format!("echo.{}.svc.cluster.local", namespace.name)] {
        eventually(&format!("{name} answers in a pod"), || from_pod(&namespace, &format!("http://{name}/hostname")));
    }
    let endpoints = namespace.run(&["get", "endpoints", "echo"]).ok();
    assert_eq!(endpoints.matches(":8080").count(), 3, "{endpoints}");
    let slices = Table::parse(&namespace.run(&["get", "endpointslices", "-l", "kubernetes.io/service-name=echo"]).ok());
    assert_eq!(slices.headers(), ["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"]);
    assert_eq!((slices.cell(0, "ADDRESSTYPE"), slices.cell(0, "PORTS")), ("IPv4".into(), "8080".into()));
    let described = namespace.run(&["describe", "service", "echo"]).ok();
    assert!(described.contains("Endpoints:") && described.contains(&address), "{described}");

    namespace.run(&["scale", "deployment", "echo", "--replicas=0"]).ok();
    eventually("without endpoints the Service refuses", || match cluster.fetch(&format!("http://{address}/")) {
        Ok(_) => Err("it still answers".to_owned()),
        Err(_) => Ok(()),
    });
}

#[test]
fn a_load_balancer_is_at_the_nodes_address() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("balanced");
    echo(&namespace, 2);
    let expose = |name: &str, port: &str| {
        let name = format!("--name={name}");
        let port = format!("--port={port}");
        namespace
            .run(&["expose", "deployment", "echo", &name, "--type=LoadBalancer", &port, "--target-port=http"])
            .ok();
    };
    expose("echo", "8123");
    let node = cluster.node_ip.to_string();
    eventually("the Service has an address", || {
        let table = Table::parse(&namespace.run(&["get", "service", "echo"]).ok());
        let shown = table.cell(0, "EXTERNAL-IP");
        if shown == node { Ok(()) } else { Err(shown) }
    });
    let url = format!("http://{node}:8123/hostname");
    eventually("it answers to the outside", || cluster.fetch_from_lan(&url));
    eventually("it answers on the node", || cluster.fetch(&url));
    eventually("it answers in a pod", || from_pod(&namespace, &url));
    // The port is taken, and those of the node's own are nobody's: the API server's least of all.
    expose("second", "8123");
    expose("thief", "6443");
    for (name, why) in [("second", "is that of the Service"), ("thief", "in use by the nodes themselves")] {
        eventually(&format!("{name} is told why it has none"), || {
            let described = namespace.run(&["describe", "service", name]).ok();
            let told = described.contains("SyncLoadBalancerFailed") && described.contains(why);
            if told { Ok(()) } else { Err(described) }
        });
        assert_eq!(namespace.jsonpath(&["service", name], "{.status.loadBalancer.ingress}"), "", "{name}");
    }
    // Only whom it lets in.
    let open = r#"{"spec":{"loadBalancerSourceRanges":["203.0.113.0/24"]}}"#;
    namespace.run(&["patch", "service", "echo", "-p", open]).ok();
    eventually("others are kept out", || match cluster.fetch_from_lan(&url) {
        Ok(_) => Err("it still answers".to_owned()),
        Err(_) => Ok(()),
    });
    namespace.run(&["delete", "service", "echo"]).ok();
    eventually("who waited for the port gets it", || cluster.fetch_from_lan(&url));
}

#[test]
fn create_service_subcommands() {
    let namespace = Cluster::get().namespace("svc");
    namespace.run(&["create", "service", "clusterip", "c", "--tcp=80:8080"]).ok();
    namespace.run(&["create", "service", "nodeport", "n", "--tcp=80:8080", "--node-port=31234"]).ok();
    namespace.run(&["create", "service", "externalname", "e", "--external-name=example.com"]).ok();
    assert_eq!(namespace.jsonpath(&["service", "n"], "{.spec.ports[0].nodePort}"), "31234");
    let taken = namespace.run(&["create", "service", "nodeport", "m", "--tcp=80:8080", "--node-port=31234"]).fails();
    assert!(taken.contains("provided port is already allocated"), "{taken}");
    let out = namespace.run(&["create", "service", "nodeport", "m", "--tcp=80:8080", "--node-port=80"]).fails();
    assert!(out.contains("provided port is not in the valid range"), "{out}");
    let table = Table::parse(&namespace.run(&["get", "service"]).ok());
    assert_eq!(table.cell(table.row("e"), "EXTERNAL-IP"), "example.com");
    assert_eq!(table.cell(table.row("n"), "PORT(S)"), "80:31234/TCP");
    namespace.apply(&shell_pod("client", "sleep 3600"));
    namespace.wait("pod/client", "condition=Ready");
    let answer = namespace.run(&[
        "exec",
        "client",
        "--",
        "nslookup",
        "-type=cname",
        &format!("e.{}.svc.cluster.local", namespace.name),
    ]);
    assert!(answer.stdout.contains("example.com"), "{answer}");
}

#[test]
fn session_affinity_keeps_a_client_on_one_pod() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("affinity");
    echo(&namespace, 3);
    namespace
        .run(&["expose", "deployment", "echo", "--port=80", "--target-port=8080", "--session-affinity=ClientIP"])
        .ok();
    let address = namespace.jsonpath(&["service", "echo"], "{.spec.clusterIP}");
    let url = format!("http://{address}/hostname");
    eventually("the Service answers", || cluster.fetch(&url));
    let hostnames: HashSet<String> = (0..20).map(|_| cluster.fetch(&url).unwrap()).collect();
    assert_eq!(hostnames.len(), 1, "{hostnames:?}");
}

#[test]
fn headless_services_name_their_pods() {
    let namespace = Cluster::get().namespace("headless");
    echo(&namespace, 2);
    namespace.run(&["expose", "deployment", "echo", "--port=80", "--target-port=8080", "--cluster-ip=None"]).ok();
    assert_eq!(namespace.jsonpath(&["service", "echo"], "{.spec.clusterIP}"), "None");
    let pods: HashSet<String> = namespace
        .jsonpath(&["pods", "-l", "app=echo"], "{.items[*].status.podIP}")
        .split(' ')
        .map(str::to_owned)
        .collect();
    let name = format!("echo.{}.svc.cluster.local", namespace.name);
    eventually("the name has both addresses", || {
        let answer = namespace.run(&["exec", "client", "--", "nslookup", "-type=a", &name]);
        let found: HashSet<String> = pods.iter().filter(|ip| answer.stdout.contains(ip.as_str())).cloned().collect();
        if found == pods { Ok(()) } else { Err(answer.to_string()) }
    });
}

#[test]
fn endpoints_by_hand() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("byhand");
    echo(&namespace, 1);
    let ip = namespace.jsonpath(&["pods", "-l", "app=echo"], "{.items[0].status.podIP}");
    namespace.apply(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: manual}}
spec:
  ports: [{{port: 80, targetPort: 8080}}]
---
apiVersion: v1
kind: Endpoints
metadata: {{name: manual}}
subsets:
- addresses: [{{ip: {ip}}}]
  ports: [{{port: 8080}}]
"
    ));
    eventually("the Service answers in a pod", || from_pod(&namespace, "http://manual/hostname"));
}

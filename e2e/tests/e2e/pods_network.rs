//! Names, resolvers and ports of pods.

use kybern_e2e::{Cluster, eventually};

#[test]
fn resolvers_and_full_names() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("resolver");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: own}
spec:
  restartPolicy: Never
  dnsPolicy: None
  dnsConfig: {nameservers: [192.0.2.53], searches: [a.example], options: [{name: ndots, value: '2'}, {name: edns0}]}
  setHostnameAsFQDN: true
  subdomain: sub
  containers: [{name: main, image: busybox, command: [sh, -c, 'hostname; cat /etc/resolv.conf']}]
---
apiVersion: v1
kind: Pod
metadata: {name: onhost}
spec:
  restartPolicy: Never
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  hostAliases: [{ip: 192.0.2.7, hostnames: [alias.example]}]
  containers: [{name: main, image: busybox, command: [sh, -c, 'cat /etc/resolv.conf /etc/hosts']}]
",
    );
    namespace.wait("pod/own", "jsonpath={.status.phase}=Succeeded");
    namespace.wait("pod/onhost", "jsonpath={.status.phase}=Succeeded");
    assert_eq!(
        namespace.run(&["logs", "own"]).ok(),
        format!(
            "own.sub.{}.svc.cluster.local\nsearch a.example\nnameserver 192.0.2.53\noptions ndots:2 edns0\n",
            namespace.name
        )
    );
    let seen = namespace.run(&["logs", "onhost"]).ok();
    for part in
        ["nameserver 10.96.0.10\n", "# Kubernetes-managed hosts file (host network).\n", "192.0.2.7\talias.example"]
    {
        assert!(seen.contains(part), "no {part:?} in\n{seen}");
    }
}

#[test]
fn a_host_port_is_given_once() {
    let namespace = Cluster::get().namespace("hostport");
    let pod = |name: &str, more: &str| {
        format!(
            "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  {more}
  containers: [{{name: main, image: busybox, command: [sleep, '3600'], ports: [{{containerPort: 80, hostPort: 18081}}]}}]
"
        )
    };
    namespace.apply(&pod("first", ""));
    namespace.wait("pod/first", "condition=Ready");
    let node = namespace.jsonpath(&["pod", "first"], "{.spec.nodeName}");
    namespace.apply(&(pod("second", "") + &pod("forced", &format!("nodeName: {node}"))));
    eventually("the scheduler says why the second waits", || {
        let condition = "{.status.conditions[?(@.type=='PodScheduled')].message}";
        let message = namespace.jsonpath(&["pod", "second"], condition);
        let named = message.contains("1 node(s) didn't have free ports for the requested pod ports");
        if named { Ok(()) } else { Err(message) }
    });
    eventually("the node refuses the one that was put on it", || {
        let shown = namespace.jsonpath(&["pod", "forced"], "{.status.phase} {.status.reason}: {.status.message}");
        let expect = "Failed NodePorts: Pod was rejected: Predicate NodePorts failed: \
                      node(s) didn't have free ports for the requested pod ports";
        if shown == expect { Ok(()) } else { Err(shown) }
    });
    // Once the port is free, the one that waits gets it.
    namespace.run(&["delete", "pod", "first", "--timeout=60s"]).ok();
    namespace.wait("pod/second", "condition=Ready");
}

//! What a user sees of a fresh cluster.

use kybern_e2e::{Cluster, Table, eventually};

#[test]
fn version_and_cluster_info() {
    let cluster = Cluster::get();
    for kubectl in cluster.newest_and_oldest() {
        let version = kubectl.run(&["version", "-o", "json"]).ok();
        let version: serde_json::Value = serde_json::from_str(&version).unwrap();
        let server = version["serverVersion"]["gitVersion"].as_str().unwrap();
        assert!(server.starts_with("v1.35.") && server.contains("+kybern"), "{server}");
        let info = kubectl.run(&["cluster-info"]).ok();
        assert!(info.contains("Kubernetes control plane"), "{info}");
        assert!(info.contains("CoreDNS"), "{info}");
    }
}

#[test]
fn api_resources_lists_every_group() {
    let cluster = Cluster::get();
    for kubectl in cluster.newest_and_oldest() {
        let table = Table::parse(&kubectl.run(&["api-resources"]).ok());
        assert_eq!(table.headers(), ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]);
        let row = table.row("deployments");
        assert_eq!(table.cell(row, "SHORTNAMES"), "deploy");
        assert_eq!(table.cell(row, "APIVERSION"), "apps/v1");
        assert_eq!(table.cell(row, "NAMESPACED"), "true");
        assert_eq!(table.cell(table.row("nodes"), "NAMESPACED"), "false");
        for resource in
            ["pods", "ingresses", "leases", "networkpolicies", "horizontalpodautoscalers", "customresourcedefinitions"]
        {
            table.row(resource);
        }
        let versions = kubectl.run(&["api-versions"]).ok();
        let is_early = |v: &&str| v.contains("alpha") || v.contains("beta");
        // There is no other version of the metrics.
        let known = |v: &&str| *v == "metrics.k8s.io/v1beta1";
        let early: Vec<&str> = versions.lines().filter(is_early).filter(|v| !known(v)).collect();
        assert!(early.is_empty(), "nobody asked for {early:?}");
    }
}

#[test]
fn the_node_tells_what_it_is() {
    let cluster = Cluster::get();
    let kubectl = cluster.kubectl();
    let table = Table::parse(&kubectl.run(&["get", "nodes", "-o", "wide"]).ok());
    assert_eq!(
        table.headers(),
        [
            "NAME",
            "STATUS",
            "ROLES",
            "AGE",
            "VERSION",
            "INTERNAL-IP",
            "EXTERNAL-IP",
            "OS-IMAGE",
            "KERNEL-VERSION",
            "CONTAINER-RUNTIME"
        ]
    );
    assert_eq!(table.len(), 1);
    assert_eq!(table.cell(0, "STATUS"), "Ready");
    assert_eq!(table.cell(0, "ROLES"), "control-plane");
    assert_eq!(table.cell(0, "INTERNAL-IP"), cluster.node_ip);
    assert!(table.cell(0, "VERSION").starts_with("v1.35."));
    assert!(table.cell(0, "CONTAINER-RUNTIME").starts_with("kybern://"));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(table.cell(0, "KERNEL-VERSION"), kernel.trim());
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap();
    let pretty = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap().trim_matches('"').to_owned();
    assert_eq!(table.cell(0, "OS-IMAGE"), pretty);
}

#[test]
fn the_default_namespaces_are_there() {
    let kubectl = Cluster::get().kubectl();
    let names = Table::parse(&kubectl.run(&["get", "ns"]).ok()).column("NAME");
    for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
        assert!(names.iter().any(|n| n == name), "{names:?}");
    }
}

#[test]
fn add_ons_are_pods() {
    let kubectl = Cluster::get().kubectl().within("kube-system");
    eventually("coredns and kube-proxy run", || {
        let table = Table::parse(&kubectl.run(&["get", "pods"]).ok());
        assert_eq!(table.headers(), ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
        for prefix in ["coredns-", "kube-proxy-"] {
            let row = table.column("NAME").iter().position(|n| n.starts_with(prefix)).ok_or(format!("no {prefix}"))?;
            let state = (table.cell(row, "READY"), table.cell(row, "STATUS"));
            if state != ("1/1".to_owned(), "Running".to_owned()) {
                return Err(format!("{prefix}: {state:?}"));
            }
        }
        Ok(())
    });
}

#[test]
fn output_formats() {
    let kubectl = Cluster::get().kubectl();
    let yaml = kubectl.run(&["get", "ns", "default", "-o", "yaml"]).ok();
    assert!(yaml.starts_with("apiVersion: v1\nkind: Namespace\nmetadata:\n"), "{yaml}");
    assert_eq!(kubectl.get(&["ns", "default"])["metadata"]["name"], "default");
    assert_eq!(kubectl.jsonpath(&["ns", "default"], "{.metadata.name}/{.status.phase}"), "default/Active");
    assert_eq!(kubectl.run(&["get", "ns", "default", "-o", "name"]).ok().trim(), "namespace/default");
    let columns = "custom-columns=N:.metadata.name,P:.status.phase";
    let table = Table::parse(&kubectl.run(&["get", "ns", "default", "-o", columns]).ok());
    assert_eq!(
        (table.headers(), table.cell(0, "N"), table.cell(0, "P")),
        (vec!["N", "P"], "default".into(), "Active".into())
    );
    let table = Table::parse(&kubectl.run(&["get", "ns", "default", "--show-labels"]).ok());
    assert_eq!(table.cell(0, "LABELS"), "kubernetes.io/metadata.name=default");
    let names = kubectl.run(&["get", "ns", "--sort-by=.metadata.name", "-o", "name"]).ok();
    let mut sorted: Vec<&str> = names.lines().collect();
    sorted.sort_unstable();
    assert_eq!(names.lines().collect::<Vec<_>>(), sorted);
}

#[test]
fn selectors_pick_objects() {
    let namespace = Cluster::get().namespace("selectors");
    for (name, tier, env) in [("a", "front", "prod"), ("b", "front", "test"), ("c", "back", "prod")] {
        namespace.run(&["create", "configmap", name]).ok();
        namespace.run(&["label", "configmap", name, &format!("tier={tier}"), &format!("env={env}")]).ok();
    }
    let check = |arguments: &[&str], expect: &[&str]| {
        let output = namespace.run(&[&["get", "configmap", "-o", "name"], arguments].concat()).ok();
        let names: Vec<&str> = output.lines().map(|l| l.trim_start_matches("configmap/")).collect();
        let names: Vec<&str> = names.into_iter().filter(|n| *n != "kube-root-ca.crt").collect();
        assert_eq!(names, expect, "{arguments:?}");
    };
    check(&["-l", "tier=front"], &["a", "b"]);
    check(&["-l", "tier=front,env=prod"], &["a"]);
    check(&["-l", "tier!=front"], &["c"]);
    check(&["-l", "env in (prod)"], &["a", "c"]);
    check(&["-l", "tier,env notin (prod)"], &["b"]);
    check(&["--field-selector", "metadata.name=b"], &["b"]);
    check(&["--field-selector", "metadata.name!=b", "-l", "tier"], &["a", "c"]);
    let all = namespace.run(&["get", "configmap", "-A", "-l", "tier=back"]).ok();
    let table = Table::parse(&all);
    assert_eq!(table.headers(), ["NAMESPACE", "NAME", "DATA", "AGE"]);
    assert_eq!((table.cell(0, "NAMESPACE"), table.cell(0, "NAME")), (namespace.name.clone(), "c".into()));
}

#[test]
fn a_watch_shows_changes_as_they_happen() {
    let namespace = Cluster::get().namespace("watch");
    namespace.run(&["create", "configmap", "first"]).ok();
    let mut command = namespace.command(&["get", "configmap", "-w", "-o", "name"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut expect = |name: &str| {
        let found = lines.by_ref().map_while(Result::ok).any(|line| line == format!("configmap/{name}"));
        assert!(found, "the watch ended before {name}");
    };
    expect("first");
    namespace.run(&["create", "configmap", "second"]).ok();
    expect("second");
    namespace.run(&["label", "configmap", "first", "seen=yes"]).ok();
    expect("first");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn describe_and_explain() {
    let cluster = Cluster::get();
    for kubectl in cluster.newest_and_oldest() {
        let namespace = kubectl.run(&["describe", "ns", "default"]).ok();
        assert!(
            namespace.contains("Name:         default") && namespace.contains("Status:       Active"),
            "{namespace}"
        );
        let node = kubectl.run(&["describe", "node"]).ok();
        for part in [
            "Conditions:",
            "KubeletReady",
            "Capacity:",
            "Allocatable:",
            "Container Runtime Version:",
            "Non-terminated Pods:",
        ] {
            assert!(node.contains(part), "no {part:?} in\n{node}");
        }
        let explained = kubectl.run(&["explain", "deployment.spec.replicas"]).ok();
        assert!(explained.contains("Deployment") && explained.contains("integer"), "{explained}");
        assert!(explained.contains("How many pods. 1 by default."), "{explained}");
        let explained = kubectl.run(&["explain", "pod.spec"]).ok();
        for field in ["containers", "restartPolicy", "nodeName"] {
            assert!(explained.contains(field), "no {field} in\n{explained}");
        }
        let explained = kubectl.run(&["explain", "pod.spec.restartPolicy"]).ok();
        assert!(explained.contains("Always") && !explained.contains("<no description>"), "{explained}");
        assert!(kubectl.run(&["explain", "pod.spec.nonsense"]).fails().contains("nonsense"));
    }
}

#[test]
fn get_all_and_events() {
    let namespace = Cluster::get().namespace("all");
    namespace.run(&["create", "deployment", "web", "--image=nginx:1.14"]).ok();
    namespace.wait("deployment/web", "condition=Available");
    let all = namespace.run(&["get", "all"]).ok();
    for part in ["pod/web-", "deployment.apps/web", "replicaset.apps/web-"] {
        assert!(all.contains(part), "no {part} in\n{all}");
    }
    let events = namespace.run(&["get", "events"]).ok();
    for part in ["Scheduled", "Pulled", "Created", "Started", "ScalingReplicaSet", "SuccessfulCreate"] {
        assert!(events.contains(part), "no {part} in\n{events}");
    }
    assert!(events.contains("Successfully assigned"), "{events}");
    let described = namespace.run(&["describe", "pod", "-l", "app=web"]).ok();
    for part in ["Controlled By:  ReplicaSet/web-", "Status:           Running", "nginx:1.14", "Container started"] {
        assert!(described.contains(part), "no {part:?} in\n{described}");
    }
    let described = namespace.run(&["describe", "deployment", "web"]).ok();
    for part in ["1 desired | 1 updated | 1 total | 1 available | 0 unavailable", "NewReplicaSet:", "ScalingReplicaSet"]
    {
        assert!(described.contains(part), "no {part} in\n{described}");
    }
}

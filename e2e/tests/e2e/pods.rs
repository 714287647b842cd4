//! What a container sees: command, environment, names, resources.

use kybern_e2e::{Cluster, eventually};

use crate::manifests::shell_pod;

#[test]
fn environment_from_everywhere() {
    let namespace = Cluster::get().namespace("env");
    namespace.run(&["create", "configmap", "settings", "--from-literal=color=blue", "--from-literal=SIZE=large"]).ok();
    namespace.run(&["create", "secret", "generic", "password", "--from-literal=word=s3cret"]).ok();
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: env, labels: {tier: front}, annotations: {note: hello}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    command: [sh, -c]
    args: ['env | sort; echo \"$0\" \"$1\"', 'arg $(PLAIN)', '$$(PLAIN)']
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 250m, memory: 64Mi}}
    envFrom:
    - configMapRef: {name: settings}
      prefix: CM_
    - secretRef: {name: missing, optional: true}
    env:
    - {name: PLAIN, value: text}
    - {name: COMPOSED, value: 'a-$(PLAIN)-b'}
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
    - {name: WORD, valueFrom: {secretKeyRef: {name: password, key: word}}}
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: TIER, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['tier']\"}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {resource: requests.memory}}}
",
    );
    namespace.wait("pod/env", "jsonpath={.status.phase}=Succeeded");
    let seen = namespace.run(&["logs", "env"]).ok();
    for line in [
        "CM_color=blue",
        "CM_SIZE=large",
        "PLAIN=text",
        "COMPOSED=a-text-b",
        "COLOR=blue",
        "WORD=s3cret",
        "POD_NAME=env",
        "TIER=front",
        "CPU=250",
        "MEMORY=33554432",
        "KUBERNETES_SERVICE_HOST=10.96.0.1",
        "arg text $(PLAIN)",
    ] {
        assert!(seen.lines().any(|l| l == line), "no {line:?} in\n{seen}");
    }
    let ip = namespace.jsonpath(&["pod", "env"], "{.status.podIP}");
    assert!(seen.contains(&format!("POD_IP={ip}")), "{seen}");
}

#[test]
fn a_missing_reference_is_named() {
    let namespace = Cluster::get().namespace("noref");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    command: [sleep, '3600']
    env: [{name: X, valueFrom: {configMapKeyRef: {name: absent, key: k}}}]
",
    );
    eventually("the status names the ConfigMap", || {
        let waiting = namespace.jsonpath(&["pod", "p"], "{.status.containerStatuses[0].state.waiting}");
        let named = waiting.contains("CreateContainerConfigError") && waiting.contains("absent");
        if named { Ok(()) } else { Err(waiting) }
    });
    namespace.run(&["create", "configmap", "absent", "--from-literal=k=v"]).ok();
    namespace.wait("pod/p", "jsonpath={.status.containerStatuses[0].state.running}");
}

#[test]
fn init_containers_run_first_and_in_order() {
    let namespace = Cluster::get().namespace("init");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  volumes: [{name: share, emptyDir: {}}]
  initContainers:
  - {name: one, image: busybox, command: [sh, -c, 'echo one >> /share/log'], volumeMounts: [{name: share, mountPath: /share}]}
  - {name: two, image: busybox, command: [sh, -c, 'echo two >> /share/log'], volumeMounts: [{name: share, mountPath: /share}]}
  containers:
  - {name: main, image: busybox, command: [cat, /share/log], volumeMounts: [{name: share, mountPath: /share}]}
",
    );
    namespace.wait("pod/p", "jsonpath={.status.phase}=Succeeded");
    assert_eq!(namespace.run(&["logs", "p", "-c", "main"]).ok(), "one\ntwo\n");
}

#[test]
fn names_and_resolver() {
    let namespace = Cluster::get().namespace("names");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  hostname: chosen
  subdomain: sub
  hostAliases: [{ip: 192.0.2.7, hostnames: [alias.example]}]
  dnsConfig: {searches: [extra.example], options: [{name: timeout, value: '3'}]}
  containers:
  - {name: main, image: busybox, command: [sh, -c, 'hostname; cat /etc/hosts /etc/resolv.conf']}
",
    );
    namespace.wait("pod/p", "jsonpath={.status.phase}=Succeeded");
    let seen = namespace.run(&["logs", "p"]).ok();
    let domain = format!("chosen.sub.{}.svc.cluster.local", namespace.name);
    for part in [
        "chosen\n",
        "192.0.2.7\talias.example",
        &domain,
        "nameserver 10.96.0.10",
        "extra.example",
        "ndots:5",
        "timeout:3",
        &format!("search {}.svc.cluster.local svc.cluster.local cluster.local", namespace.name),
    ] {
        assert!(seen.contains(part), "no {part:?} in\n{seen}");
    }
}

#[test]
fn limits_are_real() {
    let namespace = Cluster::get().namespace("limits");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'x=a; while true; do x=$x$x; done']
    resources: {limits: {memory: 32Mi, cpu: 500m}}
",
    );
    eventually("it is shown as killed for memory", || {
        let state = namespace.jsonpath(&["pod", "greedy"], "{.status.containerStatuses[0].state.terminated}");
        if state.contains("OOMKilled") && state.contains("137") { Ok(()) } else { Err(state) }
    });
    assert_eq!(namespace.jsonpath(&["pod", "greedy"], "{.status.qosClass}"), "Guaranteed");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: modest}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    command: [sleep, '3600']
    resources: {requests: {cpu: 100m}, limits: {cpu: 250m, memory: 64Mi}}
",
    );
    namespace.wait("pod/modest", "condition=Ready");
    assert_eq!(namespace.jsonpath(&["pod", "modest"], "{.status.qosClass}"), "Burstable");
    // What the container sees of its own group, in either version of the interface.
    let quota = "cd /sys/fs/cgroup; cat cpu.max 2>/dev/null || cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us";
    let seen = namespace.run(&["exec", "modest", "--", "sh", "-c", quota]).ok();
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["25000", "100000"]);
    let limit = "cd /sys/fs/cgroup; cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes";
    assert_eq!(namespace.run(&["exec", "modest", "--", "sh", "-c", limit]).ok().trim(), "67108864");
}

#[test]
fn host_ports_and_host_namespaces() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("host");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: hostport}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: nginx, image: 'nginx:1.14', ports: [{containerPort: 80, hostPort: 18080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: hostall}
spec:
  terminationGracePeriodSeconds: 1
  hostNetwork: true
  hostPID: true
  hostIPC: true
  containers:
  - {name: main, image: busybox, command: [sleep, '3600']}
---
apiVersion: v1
kind: Pod
metadata: {name: shared}
spec:
  terminationGracePeriodSeconds: 1
  shareProcessNamespace: true
  containers:
  - {name: a, image: busybox, command: [sleep, '3600']}
  - {name: b, image: busybox, command: [sleep, '1234']}
",
    );
    for pod in ["hostport", "hostall", "shared"] {
        namespace.wait(&format!("pod/{pod}"), "condition=Ready");
    }
    eventually("the host port answers to the outside", || {
        cluster.fetch_from_lan(&format!("http://{}:18080/", cluster.node_ip))
    });
    assert_eq!(namespace.jsonpath(&["pod", "hostall"], "{.status.podIP}"), cluster.node_ip);
    let own = std::fs::read_link("/proc/self/ns/pid").unwrap().display().to_string();
    let seen = namespace.run(&["exec", "hostall", "--", "readlink", "/proc/self/ns/pid"]).ok();
    assert_eq!(seen.trim(), own);
    let processes = namespace.run(&["exec", "shared", "-c", "a", "--", "ps"]).ok();
    assert!(processes.contains("sleep 1234"), "{processes}");
}

#[test]
fn unknown_images_name_the_registrys_reason() {
    let namespace = Cluster::get().namespace("pull");
    namespace.apply(&shell_pod("p", "true").replace("busybox", "no/such-image:1"));
    eventually("the pull error shows", || {
        let state = namespace.jsonpath(&["pod", "p"], "{.status.containerStatuses[0].state.waiting}");
        let shown = state.contains("ErrImagePull") || state.contains("ImagePullBackOff");
        if shown { Ok(()) } else { Err(state) }
    });
    let events = eventually("the event has the reason", || {
        let events = namespace.run(&["get", "events", "--field-selector=involvedObject.name=p"]).ok();
        if events.contains("Failed to pull image") { Ok(events) } else { Err(events) }
    });
    assert!(events.contains("not found") || events.contains("unknown"), "{events}");
}

#[test]
fn what_cannot_start_says_why() {
    let namespace = Cluster::get().namespace("cannot");
    namespace.apply(&shell_pod("name", "true").replace("busybox", "Bad//Image"));
    let of_host = shell_pod("sysctl", "true");
    let sysctl = "spec:\n  securityContext: {sysctls: [{name: net.core.somaxconn, value: '80'}]}\n";
    namespace.apply(&of_host.replace("spec:\n", sysctl));
    let missing = shell_pod("command", "true").replace("[sh,", "[no-such-program,");
    namespace.apply(&missing.replace("spec:\n", "spec:\n  restartPolicy: Never\n"));
    for (pod, path, part) in [
        ("name", "{.status.containerStatuses[0].state.waiting}", "InvalidImageName"),
        (
            "sysctl",
            "{.status.reason}: {.status.message}",
            "SysctlForbidden: Pod was rejected: forbidden sysctl: \"net.core.somaxconn\"",
        ),
        ("command", "{.status.containerStatuses[0].state.terminated}", "no-such-program"),
    ] {
        eventually("the reason shows", || {
            let shown = namespace.jsonpath(&["pod", pod], path);
            if shown.contains(part) { Ok(()) } else { Err(shown) }
        });
    }
    assert_eq!(namespace.jsonpath(&["pod", "command"], "{.status.containerStatuses[0].lastState}"), "{}");
}

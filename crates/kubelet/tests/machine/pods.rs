//! What pods see and do on a real node.

use std::time::Duration;

use kybern_apimachinery::{Value, json};
use kybern_cri::{ContainerState, RuntimeService};

use crate::fixture::{Machine, add_volume, container};

pub(crate) async fn volumes_and_environment() {
    let machine = Machine::new().await;
    machine
        .api
        .put("configmaps", json!({"metadata": {"name": "cm", "namespace": "default"}, "data": {"key": "from-map"}}));
    let script = "echo $GREETING $POD $(cat /cfg/key) $(cat /one) $(cat /token/token)\n\
                  echo data > /mem/x; cat /mem/x; mount | grep ' /mem ' | cut -d' ' -f5\n\
                  echo deep > /sub/file; cat /all/a/b/file\n\
                  (echo no > /cfg/key) 2>/dev/null || echo readonly\n\
                  grep nameserver /etc/resolv.conf; grep -c alias /etc/hosts; echo bye > /dev/termination-log";
    machine.create("p", script, |pod| {
        add_volume(
            pod,
            json!({"name": "cm", "configMap": {"name": "cm"}}),
            json!({"name": "cm", "mountPath": "/cfg", "readOnly": true}),
        );
        add_volume(
            pod,
            json!({"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
            json!({"name": "mem", "mountPath": "/mem"}),
        );
        add_volume(pod, json!({"name": "disk", "emptyDir": {}}), json!({"name": "disk", "mountPath": "/all"}));
        add_volume(
            pod,
            json!({"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}),
            json!({"name": "token", "mountPath": "/token"}),
        );
        let first = &mut pod["spec"]["containers"][0];
        let mounts = first["volumeMounts"].as_array_mut().unwrap();
        mounts.push(json!({"name": "disk", "mountPath": "/sub", "subPath": "a/b"}));
        mounts.push(json!({"name": "cm", "mountPath": "/one", "subPath": "key"}));
        first["env"] = json!([
            {"name": "GREETING", "value": "hello"},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ]);
        pod["spec"]["hostAliases"] = json!([{"ip": "1.2.3.4", "hostnames": ["alias"]}]);
    });
    let expect = "hello p from-map from-map token-default-0\ndata\ntmpfs\ndeep\nreadonly\nnameserver 10.96.0.10\n1\n";
    assert_eq!(machine.output("p").await, expect);
    assert_eq!(machine.pod("p")["status"]["containerStatuses"][0]["state"]["terminated"]["message"], "bye\n");
    machine.clean_up().await;
}

pub(crate) async fn limits_and_memory() {
    let machine = Machine::new().await;
    let script = "exec /bin/busybox dd if=/dev/zero of=/dev/null bs=200M count=1";
    machine.create("p", script, |pod| {
        pod["spec"]["containers"][0]["resources"] =
            json!({"limits": {"memory": "32Mi", "cpu": "500m"}, "requests": {"cpu": "250m"}});
    });
    machine.until("p", |pod| pod["status"]["phase"] == "Failed").await;
    let pod = machine.pod("p");
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&"OOMKilled".into(), &137.into()));
    let cgroups = kybern_linux::cgroup::Cgroups::detect().unwrap();
    let group = format!("{}/kubepods/burstable", machine.cgroup());
    assert!(cgroups.directories(&group).iter().any(|dir| dir.exists()));
    machine.clean_up().await;
}

pub(crate) async fn security() {
    let machine = Machine::new().await;
    let script = "id -u; id -g; id -G; stat -c %g /v; grep -E 'Seccomp:|NoNewPrivs:' /proc/self/status | cut -f2; \
                  (echo x > /x) 2>/dev/null || echo readonly";
    machine.create("p", script, |pod| {
        add_volume(pod, json!({"name": "v", "emptyDir": {}}), json!({"name": "v", "mountPath": "/v"}));
        pod["spec"]["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000});
        pod["spec"]["containers"][0]["securityContext"] =
            json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true});
    });
    assert_eq!(machine.output("p").await, "1000\n2000\n2000 3000\n3000\n1\n2\nreadonly\n");
    machine.create("q", "true", |pod| pod["spec"]["securityContext"] = json!({"runAsNonRoot": true}));
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    machine.until("q", |pod| waiting(pod)["reason"] == "CreateContainerConfigError").await;
    let message = waiting(&machine.pod("q"))["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("container has runAsNonRoot and image will run as root"), "{message}");
    machine.api.until_event("Failed: Error: container has runAsNonRoot").await;
    machine.clean_up().await;
}

pub(crate) async fn init_containers_and_exit_codes() {
    let machine = Machine::new().await;
    machine.create("p", "cat /v/x; exit 3", |pod| {
        add_volume(pod, json!({"name": "v", "emptyDir": {}}), json!({"name": "v", "mountPath": "/v"}));
        let mut init = container("i", "echo prepared > /v/x");
        init["volumeMounts"].as_array_mut().unwrap().push(json!({"name": "v", "mountPath": "/v"}));
        pod["spec"]["initContainers"] = json!([init]);
    });
    assert_eq!(machine.output("p").await, "prepared\n");
    let status = machine.pod("p")["status"].clone();
    assert_eq!(status["phase"], "Failed");
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    machine.clean_up().await;
}

pub(crate) async fn a_restart_takes_over() {
    let mut machine = Machine::new().await;
    machine.create("p", "sleep 1000", |_| {});
    machine.until("p", |pod| pod["status"]["phase"] == "Running").await;
    let before = machine.containers().await;
    machine.restart().await;
    machine.create("q", "true", |_| {});
    machine.until("q", |pod| pod["status"]["phase"] == "Succeeded").await;
    let after: Vec<_> =
        machine.containers().await.into_iter().filter(|c| c.container.state == ContainerState::Running).collect();
    assert_eq!(
        before.iter().map(|c| &c.container.id).collect::<Vec<_>>(),
        after.iter().map(|c| &c.container.id).collect::<Vec<_>>()
    );
    machine.clean_up().await;
}

pub(crate) async fn deletion_leaves_nothing() {
    let machine = Machine::new().await;
    for name in ["a", "b", "d"] {
        machine.create(name, "sleep 1000", |pod| {
            add_volume(
                pod,
                json!({"name": "m", "emptyDir": {"medium": "Memory"}}),
                json!({"name": "m", "mountPath": "/m", "subPath": "s"}),
            );
        });
    }
    for name in ["a", "b", "d"] {
        machine.until(name, |pod| pod["status"]["phase"] == "Running").await;
    }
    // One by force: its object goes at once, and its container must follow.
    machine.api.remove("pods", "default/a");
    machine.clean_up().await;
}

pub(crate) async fn streams() {
    let machine = Machine::new().await;
    machine.create("p", "sleep 1000", |_| {});
    machine.until("p", |pod| pod["status"]["phase"] == "Running").await;
    let id = machine.containers().await[0].container.id.clone();
    let command = ["/bin/busybox", "sh", "-c", "echo out; exit 4"].map(str::to_owned).to_vec();
    let done = machine.runtime.exec_sync(&id, command, Some(Duration::from_secs(5))).await.unwrap();
    assert_eq!((done.exit_code, done.stdout.as_slice()), (4, &b"out\n"[..]));
    machine.clean_up().await;
}

//! Volumes.

use kybern_e2e::{Cluster, eventually_within};
use std::time::Duration;

use crate::manifests::shell_pod;

#[test]
fn every_kind_of_volume() {
    let namespace = Cluster::get().namespace("volumes");
    namespace.run(&["create", "configmap", "settings", "--from-literal=color=blue", "--from-literal=size=large"]).ok();
    namespace.run(&["create", "secret", "generic", "password", "--from-literal=word=s3cret"]).ok();
    let host = std::env::temp_dir().join(&namespace.name);
    std::fs::create_dir_all(&host).unwrap();
    std::fs::write(host.join("from-host"), "host file").unwrap();
    namespace.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: p, labels: {{tier: front}}}}
spec:
  terminationGracePeriodSeconds: 1
  volumes:
  - {{name: disk, emptyDir: {{}}}}
  - {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 1Mi}}}}
  - {{name: host, hostPath: {{path: {host}, type: Directory}}}}
  - {{name: settings, configMap: {{name: settings, defaultMode: 0640}}}}
  - {{name: password, secret: {{secretName: password, items: [{{key: word, path: deep/word}}]}}}}
  - name: all
    projected:
      sources:
      - serviceAccountToken: {{path: token, audience: someone}}
      - configMap: {{name: kube-root-ca.crt, items: [{{key: ca.crt, path: ca.crt}}]}}
      - downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}
  containers:
  - name: main
    image: busybox
    command: [sleep, '3600']
    volumeMounts:
    - {{name: disk, mountPath: /disk}}
    - {{name: memory, mountPath: /memory}}
    - {{name: host, mountPath: /host, readOnly: true}}
    - {{name: settings, mountPath: /settings}}
    - {{name: settings, mountPath: /one/color, subPath: color}}
    - {{name: password, mountPath: /password}}
    - {{name: all, mountPath: /all}}
",
        host = host.display()
    ));
    namespace.wait("pod/p", "condition=Ready");
    let exec = |script: &str| namespace.run(&["exec", "p", "--", "sh", "-c", script]);
    let check = |script: &str, expect: &str| assert_eq!(exec(script).ok().trim(), expect, "{script}");
    check("echo x > /disk/f && cat /disk/f", "x");
    check("grep ' /memory ' /proc/mounts | cut -d' ' -f1", "tmpfs");
    assert!(exec("dd if=/dev/zero of=/memory/f bs=1M count=3").fails().contains("No space left"));
    check("cat /host/from-host", "host file");
    assert!(exec("touch /host/new").fails().contains("Read-only file system"));
    check("cat /settings/color /one/color", "blueblue");
    check("stat -L -c %a /settings/color", "640");
    check("cat /password/deep/word", "s3cret");
    check("cat /all/labels", "tier=\"front\"");
    check("head -1 /all/ca.crt", "-----BEGIN CERTIFICATE-----");
    check("tr -cd . < /all/token | wc -c", "2");
    // An update reaches the mounted files, but not the one mounted by subPath.
    namespace.run(&["patch", "configmap", "settings", "-p", r#"{"data":{"color":"red"}}"#]).ok();
    eventually_within(Duration::from_secs(90), "the new content arrives", || {
        let seen = exec("cat /settings/color").ok();
        if seen == "red" { Ok(()) } else { Err(seen) }
    });
    check("cat /one/color", "blue");
    namespace.run(&["delete", "pod", "p", "--timeout=60s"]).ok();
    std::fs::remove_dir_all(&host).unwrap();
}

#[test]
fn a_user_of_the_group_writes_where_the_group_may() {
    let namespace = Cluster::get().namespace("group");
    namespace.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 1000, runAsNonRoot: true, fsGroup: 3000}
  volumes: [{name: v, emptyDir: {}}, {name: m, emptyDir: {medium: Memory}}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'for d in /v /m /deep /own; do touch $d/f && stat -c %g $d/f; done']
    env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts:
    - {name: v, mountPath: /v}
    - {name: m, mountPath: /m}
    - {name: v, mountPath: /deep, subPath: one/two}
    - {name: v, mountPath: /own, subPathExpr: of-$(NAME)}
",
    );
    namespace.wait("pod/p", "jsonpath={.status.phase}=Succeeded");
    assert_eq!(namespace.run(&["logs", "p"]).ok(), "3000\n".repeat(4));
}

#[test]
fn a_service_account_token_opens_the_api() {
    let namespace = Cluster::get().namespace("token");
    namespace.apply(&shell_pod("p", "sleep 3600"));
    namespace.wait("pod/p", "condition=Ready");
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    let seen = namespace.run(&["exec", "p", "--", "cat", &format!("{folder}/namespace")]).ok();
    assert_eq!(seen, namespace.name);
    let token = namespace.run(&["exec", "p", "--", "cat", &format!("{folder}/token")]).ok();
    let with_token = |arguments: &[&str]| {
        let mut command = namespace.cluster.on_node(&namespace.program.display().to_string());
        command.args([
            "--kubeconfig=/dev/null",
            "--insecure-skip-tls-verify",
            "--server=https://127.0.0.1:6443",
            "--token",
            &token,
        ]);
        command.args(["-n", &namespace.name]).args(arguments).env("HOME", "/nonexistent").output().unwrap()
    };
    let refused = with_token(&["get", "pods"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    let user = format!("system:serviceaccount:{}:default", namespace.name);
    assert!(text.contains(&format!("User \"{user}\" cannot list resource \"pods\"")), "{text}");
    namespace
        .run(&[
            "create",
            "rolebinding",
            "view",
            "--clusterrole=view",
            &format!("--serviceaccount={}:default", namespace.name),
        ])
        .ok();
    let allowed = with_token(&["get", "pods", "-o", "name"]);
    assert_eq!(
        String::from_utf8_lossy(&allowed.stdout).trim(),
        "pod/p",
        "{}",
        String::from_utf8_lossy(&allowed.stderr)
    );
    assert!(!with_token(&["delete", "pod", "p"]).status.success());
}

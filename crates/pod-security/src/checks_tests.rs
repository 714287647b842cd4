use super::*;
use kybern_apimachinery::json;

fn at(level: Level, version: &str, metadata: &Value, spec: &Value) -> String {
    details(&check(LevelVersion { level, version: Version::parse(version).unwrap() }, metadata, spec))
}

fn baseline(spec: Value, expect: &str) {
    assert_eq!(at(Level::Baseline, "latest", &json!({}), &spec), expect, "{spec}");
}

/// A pod that is restricted, but for what a container or the pod says.
fn restricted(container: Value, pod: Value) -> Value {
    let context = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let mut spec = json!({"containers": [{"name": "a", "securityContext": context}],
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}});
    for (target, fields) in [("/containers/0/securityContext", container), ("/securityContext", pod)] {
        let target = spec.pointer_mut(target).unwrap().as_object_mut().unwrap();
        for (field, value) in fields.as_object().unwrap() {
            target.insert(field.clone(), value.clone());
        }
    }
    spec
}

#[test]
fn baseline_of_the_latest_version() {
    baseline(json!({"containers": [{"name": "a"}]}), "");
    baseline(json!({"hostPID": true, "hostNetwork": true}), "host namespaces (hostNetwork=true, hostPID=true)");
    let privileged = json!({"name": "a", "securityContext": {"privileged": true}});
    baseline(
        json!({"containers": [privileged], "initContainers": [{"name": "i", "securityContext": {"privileged": true}}]}),
        "privileged (containers \"i\", \"a\" must not set securityContext.privileged=true)",
    );
    let adds = json!({"name": "a", "securityContext": {"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "NET_RAW"]}}});
    baseline(
        json!({"containers": [adds]}),
        "non-default capabilities (container \"a\" must not include \"NET_RAW\", \"SYS_ADMIN\" in securityContext.capabilities.add)",
    );
    baseline(
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "emptyDir": {}}]}),
        "hostPath volumes (volume \"v\")",
    );
    baseline(
        json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 0}]}, {"name": "b", "ports": [{"hostPort": 443}]}]}),
        "hostPort (containers \"a\", \"b\" use hostPorts 443, 80)",
    );
    baseline(
        json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "b.example"}}, "lifecycle": {"preStop": {"tcpSocket": {"host": "a"}}}}]}),
        "probe or lifecycle host (container \"a\" uses probe or lifecycle hosts \"a\", \"b.example\")",
    );
    baseline(
        json!({"containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}]}),
        "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
    );
    baseline(
        json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]}}),
        "forbidden sysctls (kernel.msgmax)",
    );
    baseline(
        json!({"securityContext": {"windowsOptions": {"hostProcess": true}}, "ephemeralContainers": [{"name": "e", "securityContext": {"windowsOptions": {"hostProcess": true}}}]}),
        "hostProcess (pod and container \"e\" must not set securityContext.windowsOptions.hostProcess=true)",
    );
    baseline(
        json!({"securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u"}}, "containers": [{"name": "a", "securityContext": {"seLinuxOptions": {"role": "r"}}}]}),
        "seLinuxOptions (pod and container \"a\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set; role may not be set)",
    );
    baseline(
        json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}, "containers": [{"name": "a", "securityContext": {"seccompProfile": {"type": "Localhost"}}}]}),
        "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
    );
}

#[test]
fn app_armor_is_told_twice() {
    let key = "container.apparmor.security.beta.kubernetes.io/a";
    let metadata =
        json!({"annotations": {key: "unconfined", "container.apparmor.security.beta.kubernetes.io/b": "localhost/x"}});
    let spec = json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}, "containers": [{"name": "a"}]});
    assert_eq!(
        at(Level::Baseline, "v1.0", &metadata, &spec),
        "forbidden AppArmor profiles (pod and annotation must not set AppArmor profile type to \"Unconfined\", \
         \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\")"
    );
}

#[test]
fn restricted_of_the_latest_version() {
    let check = |spec: Value, expect: &str| {
        assert_eq!(at(Level::Restricted, "latest", &json!({}), &spec), expect, "{spec}");
    };
    check(restricted(json!({}), json!({})), "");
    check(
        json!({"containers": [{"name": "a"}]}),
        "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
    );
    check(
        restricted(json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "CHOWN"]}}), json!({})),
        "unrestricted capabilities (container \"a\" must not include \"CHOWN\" in securityContext.capabilities.add)",
    );
    check(
        restricted(json!({"runAsNonRoot": false, "runAsUser": 0}), json!({"runAsUser": 0})),
        "runAsNonRoot != true (container \"a\" must not set securityContext.runAsNonRoot=false), \
         runAsUser=0 (pod and container \"a\" must not set runAsUser=0)",
    );
    let mut volumes = restricted(json!({}), json!({}));
    volumes["volumes"] =
        json!([{"name": "h", "hostPath": {}}, {"name": "n", "nfs": {}}, {"name": "x"}, {"name": "s", "secret": {}}]);
    check(
        volumes,
        "restricted volume types (volumes \"h\", \"n\", \"x\" use restricted volume types \"hostPath\", \"nfs\", \"unknown\")",
    );
    let mut windows =
        json!({"os": {"name": "windows"}, "containers": [{"name": "a", "securityContext": {"runAsNonRoot": true}}]});
    check(windows.clone(), "");
    windows["hostIPC"] = true.into();
    check(windows, "host namespaces (hostIPC=true)");
}

#[test]
fn versions_differ() {
    let count = |level: Level, version: &str, spec: &Value| {
        check(LevelVersion { level, version: Version::parse(version).unwrap() }, &json!({}), spec).len()
    };
    let plain = json!({"containers": [{"name": "a"}]});
    for (version, expect) in
        [("v1.0", 1), ("v1.7", 1), ("v1.8", 2), ("v1.19", 3), ("v1.22", 4), ("v1.35", 4), ("v1.999", 4), ("latest", 4)]
    {
        assert_eq!(count(Level::Restricted, version, &plain), expect, "{version}");
    }
    let sysctls = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_wmem"}]}});
    assert_eq!((count(Level::Baseline, "v1.31", &sysctls), count(Level::Baseline, "v1.32", &sysctls)), (1, 0));
    let engine = json!({"securityContext": {"seLinuxOptions": {"type": "container_engine_t"}}});
    assert_eq!((count(Level::Baseline, "v1.30", &engine), count(Level::Baseline, "v1.31", &engine)), (1, 0));
    let probe = json!({"containers": [{"name": "a", "startupProbe": {"tcpSocket": {"host": "b"}}}]});
    assert_eq!((count(Level::Baseline, "v1.33", &probe), count(Level::Baseline, "v1.34", &probe)), (0, 1));
    assert_eq!(count(Level::Privileged, "latest", &json!({"hostPID": true})), 0);
}

#[test]
fn the_rows_are_in_order() {
    for rows in [BASELINE, RESTRICTED] {
        assert!(rows.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert!(rows.iter().all(|row| row.versions.windows(2).all(|pair| pair[0].0 < pair[1].0)));
    }
    assert!(RESTRICTED.iter().all(|r| r.overrides.is_empty() || BASELINE.iter().any(|b| b.id == r.overrides)));
}

//! Claims as users make them and as they are misused: what waits says why, what is used stays, and nobody gets out of a volume.

use kybern_e2e::{Cluster, Namespace, eventually};

fn claim(name: &str, class: &str, more: &str) -> String {
    format!(
        "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec:
  accessModes: [ReadWriteOnce]
  {class}
  resources: {{requests: {{storage: 1Mi}}}}
  {more}
---"
    )
}

fn volume(name: &str, class: &str, policy: &str, source: &str) -> String {
    format!(
        "
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {{storage: 2Mi}}
  storageClassName: {class}
  persistentVolumeReclaimPolicy: {policy}
  {source}
---"
    )
}

fn user(name: &str, claim: &str, mount: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {{fsGroup: 3000}}
  volumes: [{{name: v, persistentVolumeClaim: {{claimName: {claim}}}}}]
  containers:
  - {{name: c, image: busybox, command: [sleep, '3600'], volumeMounts: [{{name: v, mountPath: /v{mount}}}]}}
---"
    )
}

/// Waits until an event about an object says this.
fn told(namespace: &Namespace, about: &str, text: &str) {
    let selector = format!("--field-selector=involvedObject.name={about}");
    eventually(&format!("{about} is told: {text}"), || {
        let events = namespace.run(&["get", "events", &selector, "-o", "jsonpath={.items[*].message}"]).ok();
        if events.contains(text) { Ok(()) } else { Err(events) }
    });
}

fn is(namespace: &Namespace, what: &str, path: &str, expect: &str) {
    eventually(&format!("{what} {path} is {expect}"), || {
        let found = namespace.jsonpath(&[what], path);
        if found == expect { Ok(()) } else { Err(found) }
    });
}

#[test]
fn what_waits_says_why() {
    let namespace = Cluster::get().namespace("claims");
    let class = |name: &str| format!("storageClassName: {name:?}");
    namespace.apply(&claim("first", "", ""));
    told(&namespace, "first", "waiting for first consumer to be created before binding");
    is(&namespace, "pvc/first", "{.spec.storageClassName}", "local-path");
    namespace.apply(&claim("nowhere", &class("nope"), ""));
    told(&namespace, "nowhere", "storageclass.storage.k8s.io \"nope\" not found");
    namespace.apply(&claim("classless", &class(""), ""));
    told(&namespace, "classless", "no persistent volumes available for this claim and no storage class is set");
    // What a folder cannot be is told once its pod is there.
    namespace.apply(&claim("shared", "", "").replace("ReadWriteOnce", "ReadWriteMany"));
    namespace.apply(&user("p", "shared", ""));
    told(&namespace, "shared", "only the access modes ReadWriteOnce and ReadWriteOncePod are supported");
    namespace.apply(&user("q", "none", ""));
    told(&namespace, "q", "persistentvolumeclaim \"none\" not found");
}

#[test]
fn a_claim_grows_is_kept_while_it_is_used_and_nobody_gets_out_of_it() {
    let namespace = Cluster::get().namespace("folder");
    namespace.apply(&claim("data", "", ""));
    namespace.apply(&user("p", "data", ""));
    namespace.wait("pod/p", "condition=Ready");
    let exec = |pod: &str, script: &str| namespace.run(&["exec", pod, "--", "sh", "-c", script]);
    assert_eq!(exec("p", "stat -c %g /v").ok().trim(), "3000");
    exec("p", "echo kept > /v/file; ln -s / /v/root; ln -s ../.. /v/up; ln -s /etc/passwd /v/passwd; mkdir /v/in").ok();
    namespace.run(&["patch", "pvc", "data", "-p", r#"{"spec":{"resources":{"requests":{"storage":"3Mi"}}}}"#]).ok();
    is(&namespace, "pvc/data", "{.status.capacity.storage}", "3Mi");
    for (pod, sub_path) in [("root", "root"), ("up", "up/up"), ("passwd", "passwd"), ("deep", "root/tmp/x")] {
        namespace.apply(&user(pod, "data", &format!(", subPath: {sub_path}")));
        told(&namespace, pod, "failed to prepare subPath");
    }
    namespace.apply(&user("in", "data", ", subPath: in"));
    namespace.apply(&user("reader", "data", ", readOnly: true"));
    namespace.wait("pod/in", "condition=Ready");
    namespace.wait("pod/reader", "condition=Ready");
    assert!(exec("reader", "touch /v/new").fails().contains("Read-only file system"));
    assert_eq!(exec("reader", "cat /v/file").ok().trim(), "kept");
    // The volume is deleted in the middle: it stays as long as its claim does, and that as long as its pods do.
    let name = namespace.jsonpath(&["pvc", "data"], "{.spec.volumeName}");
    namespace.run(&["delete", "pv", &name, "--wait=false"]).ok();
    namespace.run(&["delete", "pvc", "data", "--wait=false"]).ok();
    assert_eq!(exec("p", "cat /v/file").ok().trim(), "kept");
    is(&namespace, "pvc/data", "{.status.phase}", "Bound");
    // Whoever names the claim now waits for ever: it is going.
    namespace.apply(&user("late", "data", ""));
    told(&namespace, "late", "persistentvolumeclaim \"data\" is being deleted");
    namespace.run(&["delete", "pods", "--all", "--timeout=60s"]).ok();
    eventually("the claim and its volume go", || {
        let left = namespace.run(&["get", "pv", &name, "--ignore-not-found", "-o", "name"]).ok();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn volumes_made_by_hand() {
    let namespace = Cluster::get().namespace("hand");
    let own = |name: &str| format!("{name}-{}", namespace.name);
    let class = own("class");
    let wanted = format!("storageClassName: {class}");
    let host = std::env::temp_dir().join(&namespace.name);
    std::fs::create_dir_all(host.join("local")).unwrap();
    // Paths that leave the volume are refused when they are written; so is scrubbing the whole host.
    for (source, policy, expect) in [
        ("hostPath: {path: /tmp/../etc}", "Retain", "must not contain '..'"),
        ("local: {path: /tmp/..}", "Retain", "must not contain '..'"),
        ("hostPath: {path: /}", "Recycle", "may not be 'recycle' for a hostPath mount of '/'"),
    ] {
        let refused = namespace.run_with_input(&["apply", "-f", "-"], &volume(&own("bad"), &class, policy, source));
        let message = refused.fails();
        assert!(message.contains(expect), "{message}");
    }
    // Two claims for one volume: one gets it, and the other waits until another volume comes.
    let source = format!("hostPath: {{path: {}}}", host.display());
    namespace.apply(&format!("{}{}", claim("a", &wanted, ""), claim("b", &wanted, "")));
    namespace.apply(&volume(&own("one"), &class, "Retain", &source));
    let bound = || namespace.jsonpath(&["pvc"], "{range .items[?(@.status.phase==\"Bound\")]}{.metadata.name}{end}");
    eventually("one is bound", || if bound().len() == 1 { Ok(()) } else { Err(bound()) });
    let (winner, loser) = if bound() == "a" { ("a", "b") } else { ("b", "a") };
    told(&namespace, loser, &format!("storageclass.storage.k8s.io {class:?} not found"));
    // Somebody takes the volume from the claim that has it: that one is lost, and says so. A pod does not get it.
    let pv = own("one");
    let stolen = r#"{"spec":{"claimRef":{"namespace":"x","name":"y","uid":"z"}}}"#;
    namespace.run(&["patch", "pv", &pv, "--type=merge", "-p", stolen]).ok();
    is(&namespace, &format!("pvc/{winner}"), "{.status.phase}", "Lost");
    told(&namespace, winner, "Two claims are bound to the same volume, this one is bound incorrectly");
    namespace.apply(&user("p", winner, ""));
    told(&namespace, "p", &format!("persistentvolumeclaim {winner:?} bound to non-existent persistentvolume"));
    namespace.run(&["delete", "pod", "p", "--timeout=60s"]).ok();
    // What nobody recycles or deletes says so.
    namespace.apply(&volume(&own("two"), &class, "Delete", &source));
    is(&namespace, &format!("pvc/{loser}"), "{.status.phase}", "Bound");
    namespace.run(&["delete", "pvc", loser, "--timeout=60s"]).ok();
    is(&namespace, &format!("pv/{}", own("two")), "{.status.phase}", "Failed");
    let cause = namespace.jsonpath(&["pv", &own("two")], "{.status.message}");
    assert!(cause.contains(&host.display().to_string()), "{cause}");
    // A disk of one node is found by the scheduler.
    let local = format!(
        "local: {{path: {}/local}}\n  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [HERE]}}]}}]}}}}",
        host.display()
    );
    let waiting = own("waiting");
    namespace.apply(&format!(
        "
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {{name: {waiting}}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---{}{}",
        claim("disk", &format!("storageClassName: {waiting}"), ""),
        volume(&own("far"), &waiting, "Retain", &local.replace("HERE", "elsewhere"))
    ));
    namespace.apply(&user("q", "disk", ""));
    told(&namespace, "q", "node(s) didn't find available persistent volumes to bind");
    let node = namespace.jsonpath(&["nodes"], "{.items[0].metadata.name}");
    namespace.apply(&volume(&own("near"), &waiting, "Retain", &local.replace("HERE", &node)));
    namespace.wait("pod/q", "condition=Ready");
    assert_eq!(namespace.jsonpath(&["pvc", "disk"], "{.spec.volumeName}"), own("near"));
    assert_eq!(namespace.run(&["exec", "q", "--", "stat", "-c", "%g", "/v"]).ok().trim(), "3000");
    namespace.run(&["delete", "pod/q", "pvc/disk", "pvc/a", "pvc/b", "--ignore-not-found", "--timeout=60s"]).ok();
    is(&namespace, &format!("pv/{}", own("near")), "{.status.phase}", "Released");
    let all = ["one", "two", "far", "near"].map(own);
    namespace.run(&["delete", "pv", &all[0], &all[1], &all[2], &all[3], "--timeout=60s"]).ok();
    namespace.run(&["delete", "storageclass", &waiting]).ok();
    std::fs::remove_dir_all(&host).unwrap();
}

#[test]
fn a_pod_with_devices_waits_at_its_node_for_their_driver() {
    let namespace = Cluster::get().namespace("devices");
    let node = namespace.jsonpath(&["nodes"], "{.items[0].metadata.name}");
    let own = &namespace.name;
    namespace.apply(&format!(
        "
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {{name: {own}}}
spec: {{selectors: [{{cel: {{expression: \"device.driver == '{own}.example.com'\"}}}}]}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {{name: t}}
spec: {{spec: {{devices: {{requests: [{{name: r, exactly: {{deviceClassName: {own}}}}}]}}}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: p}}
spec:
  terminationGracePeriodSeconds: 0
  resourceClaims: [{{name: d, resourceClaimTemplateName: t}}]
  containers: [{{name: c, image: busybox, command: [sleep, '3600'], resources: {{claims: [{{name: d}}]}}}}]
"
    ));
    told(&namespace, "p", "1 cannot allocate all claims. still not schedulable");
    namespace.apply(&format!(
        "
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {{name: {own}}}
spec:
  driver: {own}.example.com
  nodeName: {node}
  pool: {{name: {node}, generation: 1, resourceSliceCount: 1}}
  devices: [{{name: d0}}]
"
    ));
    told(
        &namespace,
        "p",
        &format!(
            "Failed to prepare dynamic resources: prepare dynamic resources: DRA driver {own}.example.com is not registered"
        ),
    );
    let device = "{.items[0].status.allocation.devices.results[0].device}";
    assert_eq!(namespace.jsonpath(&["resourceclaims"], device), "d0");
    namespace.run(&["delete", "pod", "p", "--timeout=60s"]).ok();
    eventually("the claim goes with its pod", || {
        let left = namespace.run(&["get", "resourceclaims", "-o", "name"]).ok();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    namespace.run(&["delete", &format!("resourceslice/{own}"), &format!("deviceclass/{own}")]).ok();
}

//! What a StatefulSet has written outlives its pods and the server, and goes when its claim goes.

use std::path::PathBuf;

use kybern_e2e::{Cluster, eventually};

const SET: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      securityContext: {runAsUser: 1000, fsGroup: 3000}
      containers:
      - name: main
        image: busybox
        command: [sh, -c, 'umask 077; echo $HOSTNAME >> /data/log; exec sleep 3600']
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
";

#[test]
fn data_survives_pods_and_the_server_and_goes_with_its_claim() {
    let cluster = Cluster::get();
    let namespace = cluster.namespace("data");
    namespace.apply(SET);
    let ready = || namespace.run(&["rollout", "status", "statefulset/db", "--timeout=90s"]).ok();
    let log = |pod: &str| namespace.run(&["exec", pod, "--", "cat", "/data/log"]).ok();
    ready();
    assert_eq!((log("db-0").as_str(), log("db-1").as_str()), ("db-0\n", "db-1\n"));
    cluster.crash_server();
    cluster.up();
    namespace.run(&["delete", "pods", "--all", "--timeout=60s"]).ok();
    ready();
    assert_eq!((log("db-0").as_str(), log("db-1").as_str()), ("db-0\ndb-0\n", "db-1\ndb-1\n"));
    // Now as another user of the same group.
    let user = r#"{"spec":{"template":{"spec":{"securityContext":{"runAsUser":1001}}}}}"#;
    namespace.run(&["patch", "statefulset", "db", "-p", user]).ok();
    ready();
    assert_eq!(log("db-1"), "db-1\n".repeat(3));
    // A claim that is used stays, and can be used, until its pod is gone; its folder goes with it, and no other does.
    let volume = |claim: &str| namespace.jsonpath(&["pvc", claim], "{.spec.volumeName}");
    let folder =
        |volume: &str| -> PathBuf { PathBuf::from(cluster.directory("--data-dir")).join("volumes").join(volume) };
    let (first, second) = (folder(&volume("data-db-0")), folder(&volume("data-db-1")));
    assert!(first.join("log").exists() && second.join("log").exists());
    namespace.run(&["delete", "pvc", "data-db-0", "--wait=false"]).ok();
    assert_eq!(log("db-0"), "db-0\n".repeat(3));
    assert!(namespace.run(&["describe", "pvc", "data-db-0"]).ok().contains("Terminating"));
    namespace.run(&["scale", "statefulset", "db", "--replicas=0"]).ok();
    eventually("the claim's folder goes", || if first.exists() { Err(format!("{first:?}")) } else { Ok(()) });
    assert!(second.join("log").exists());
    namespace.run(&["delete", "pvc", "data-db-1", "--timeout=60s"]).ok();
    eventually("the other goes, too", || if second.exists() { Err(format!("{second:?}")) } else { Ok(()) });
}

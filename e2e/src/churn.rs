//! Pods that are deleted while they start.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Namespace;
use crate::proxy::Proxy;
use crate::run::eventually;

const AT_A_TIME: u32 = 8;

/// How many pods come and go: `KYBERN_CHURN`, or what a run of all tests has time for.
#[must_use]
pub fn churn_size(usual: u32) -> u32 {
    match std::env::var("KYBERN_CHURN") {
        Ok(count) if count == "thousands" => 3000,
        Ok(count) => count.parse().expect("KYBERN_CHURN is a number, or `thousands`"),
        Err(_) => usual,
    }
}

/// Creates so many pods and deletes each within 60 ms: at once, with one second of grace, and with the grace of its own. Some
/// are for the scheduler, some name their node. Ends early once `stop` is set; answers how many were made.
pub fn churn(namespace: &Namespace, count: u32, stop: &AtomicBool) -> u32 {
    let proxy = Proxy::start(&namespace.kubectl);
    let of_namespace = format!("/api/v1/namespaces/{}", namespace.name);
    eventually("the namespace has its service account", || {
        let (code, _) = proxy.ask("GET", &format!("{of_namespace}/serviceaccounts/default"), None).map_err(text)?;
        if code == 200 { Ok(()) } else { Err(code.to_string()) }
    });
    let (next, made) = (AtomicU32::new(0), AtomicU32::new(0));
    let (pods, proxy, next, made) = (&format!("{of_namespace}/pods"), &proxy, &next, &made);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    come_and_go(proxy, pods, number, made);
                }
            });
        }
    });
    made.load(Ordering::Relaxed)
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

fn come_and_go(proxy: &Proxy, pods: &str, number: u32, made: &AtomicU32) {
    // A server may be down.
    if proxy.ask("POST", pods, Some(&pod(number))).is_ok_and(|(code, _)| code == 201) {
        made.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(u64::from(number * 7 % 61)));
    }
    let options = match number % 3 {
        2 => json!({}),
        grace => json!({"gracePeriodSeconds": grace}),
    };
    // Whether or not there was an answer, it may have been made.
    for _ in 0..600 {
        match proxy.ask("DELETE", &format!("{pods}/p{number}"), Some(&options)) {
            Ok((200 | 202 | 404, _)) => return,
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    panic!("p{number} cannot be deleted within a minute");
}

fn pod(number: u32) -> Value {
    let mounts = ["scratch", "labels"].map(|name| json!({"name": name, "mountPath": format!("/{name}")}));
    let labels = json!({"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]});
    let mut pod = json!({
        "metadata": {"name": format!("p{number}"), "labels": {"app": "churn"}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "volumes": [
                {"name": "scratch", "emptyDir": {"medium": "Memory"}},
                {"name": "labels", "downwardAPI": labels},
            ],
            "containers": [{"name": "c", "image": "busybox", "command": ["sleep", "3600"], "imagePullPolicy": "IfNotPresent",
                "volumeMounts": mounts, "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}],
        },
    });
    if number.is_multiple_of(2) {
        pod["spec"]["nodeName"] = crate::cluster::NODE.into();
    }
    if number.is_multiple_of(5) {
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 20_000 + number}]);
    }
    pod
}

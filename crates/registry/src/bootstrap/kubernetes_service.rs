//! The Service `kubernetes`: how pods reach the API server. Its endpoint is not a pod, so the server itself writes it.

use kybern_apimachinery::{ApiError, Reason, Value, json, object};
use kybern_apiserver::connect::Objects;

use super::BootstrapOptions;
use super::reconcile::{ensure, keep};
use crate::allocation::{ServiceClaims, address_of, is_of};
use crate::tree::{list, text};

const NAME: &str = "kubernetes";
const GROUP: &str = "networking.k8s.io";

pub(super) async fn ensure_all(objects: &dyn Objects, options: &BootstrapOptions) -> Result<(), ApiError> {
    service_cidr(objects, options).await?;
    ensure(objects, "", "services", service(options), keep).await?;
    repair_addresses(objects).await?;
    if options.advertise_address.is_loopback() {
        // No pod could reach it, and endpoints must not be loopback addresses.
        tracing::warn!("the Service kubernetes has no endpoints: this server is reached by a loopback address only");
        return Ok(());
    }
    ensure(objects, "", "endpoints", endpoints(options), |live, wanted| replace(live, wanted, &["subsets"])).await?;
    let parts = |live: &mut Value, wanted: &Value| replace(live, wanted, &["endpoints", "ports"]);
    ensure(objects, "discovery.k8s.io", "endpointslices", endpoint_slice(options), parts).await
}

/// The ranges of the flag as the first ServiceCIDR. A second family is added; other ranges than the flag's are the
/// administrator's to put right.
async fn service_cidr(objects: &dyn Objects, options: &BootstrapOptions) -> Result<(), ApiError> {
    let wanted = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": NAME},
        "spec": {"cidrs": options.service_cidrs},
    });
    let widen = |live: &mut Value, wanted: &Value| {
        let (now, then) = (list(&live["spec"], "cidrs"), list(&wanted["spec"], "cidrs"));
        let widens = now.len() == 1 && then.len() == 2 && now[0] == then[0];
        if widens {
            live["spec"]["cidrs"] = wanted["spec"]["cidrs"].clone();
        }
        widens
    };
    ensure(objects, GROUP, "servicecidrs", wanted.clone(), widen).await?;
    let ready = |live: &mut Value| {
        let same = live["spec"]["cidrs"] == wanted["spec"]["cidrs"];
        let known = list(&live["status"], "conditions").iter().any(|c| text(c, "type") == "Ready");
        if same && !known && !object::is_deleting(live) {
            // The server's own clock: the range is ready since it was made.
            let since = text(&live["metadata"], "creationTimestamp").to_owned();
            live["status"]["conditions"] = json!([{
                "type": "Ready", "status": "True", "reason": "", "lastTransitionTime": since,
                "message": "Kubernetes default Service CIDR is ready",
            }]);
        }
        Ok(())
    };
    objects.update(GROUP, "servicecidrs", "", NAME, &ready).await?;
    let live = objects.get(GROUP, "servicecidrs", "", NAME).await?;
    if live["spec"]["cidrs"] != wanted["spec"]["cidrs"] {
        tracing::warn!(
            stored = %live["spec"]["cidrs"], flag = %wanted["spec"]["cidrs"],
            "the ServiceCIDR kubernetes has other ranges than --service-cluster-ip-range: addresses come from the stored ones"
        );
    }
    Ok(())
}

/// Makes the IPAddresses of Services that lack theirs, such as those of a store from before there were any, and removes those
/// whose Service is gone. Services and their addresses are written together, so there are none in between.
async fn repair_addresses(objects: &dyn Objects) -> Result<(), ApiError> {
    let addresses = objects.list(GROUP, "ipaddresses", "").await?;
    let services = objects.list("", "services", "").await?;
    for service in &services {
        for ip in ServiceClaims::of(service).ips {
            if !addresses.iter().any(|a| object::name(a) == ip.to_string()) {
                match objects.create(GROUP, "ipaddresses", address_of(ip, service)).await {
                    Err(error) if error.reason() == Reason::AlreadyExists => {}
                    made => drop(made?),
                }
            }
        }
    }
    for address in &addresses {
        let parent = &address["spec"]["parentRef"];
        let has = |service: &Value| {
            let ips = ServiceClaims::of(service).ips;
            is_of(address, service) && ips.iter().any(|ip| ip.to_string() == object::name(address))
        };
        let managed = object::label(address, "ipaddress.kubernetes.io/managed-by") == Some("ipallocator.k8s.io");
        if managed && parent["resource"] == "services" && !services.iter().any(has) {
            let exact = json!({"preconditions": {"uid": object::uid(address)}});
            match objects.delete(GROUP, "ipaddresses", "", object::name(address), exact).await {
                Err(error) if matches!(error.reason(), Reason::NotFound | Reason::Conflict) => {}
                gone => drop(gone?),
            }
        }
    }
    Ok(())
}

fn replace(live: &mut Value, wanted: &Value, fields: &[&str]) -> bool {
    let differing: Vec<&&str> = fields.iter().filter(|f| live[**f] != wanted[**f]).collect();
    for field in &differing {
        live[**field] = wanted[**field].clone();
    }
    !differing.is_empty()
}

fn service(options: &BootstrapOptions) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": NAME, "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": options.kubernetes_ip.to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": options.secure_port}],
            "type": "ClusterIP",
        },
    })
}

fn endpoints(options: &BootstrapOptions) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": NAME, "namespace": "default",
            // The slice below says the same.
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": options.advertise_address.to_string()}],
            "ports": [{"name": "https", "port": options.secure_port, "protocol": "TCP"}],
        }],
    })
}

fn endpoint_slice(options: &BootstrapOptions) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": NAME, "namespace": "default",
            "labels": {"kubernetes.io/service-name": NAME},
        },
        "addressType": if options.advertise_address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [options.advertise_address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": options.secure_port, "protocol": "TCP"}],
    })
}

//! The Service `kubernetes`: how pods reach the API server. Its endpoint is not a pod, so the server itself writes it.

use kybern_apimachinery::{ApiError, Value, json};
use kybern_apiserver::connect::Objects;

use super::BootstrapOptions;
use super::reconcile::{ensure, keep};

const NAME: &str = "kubernetes";

pub(super) async fn ensure_all(objects: &dyn Objects, options: &BootstrapOptions) -> Result<(), ApiError> {
    let cidr = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": NAME},
        "spec": {"cidrs": [options.service_cidr]},
    });
    ensure(objects, "networking.k8s.io", "servicecidrs", cidr, keep).await?;
    ensure(objects, "", "services", service(options), keep).await?;
    if options.advertise_address.is_loopback() {
        // No pod could reach it, and endpoints must not be loopback addresses.
        tracing::warn!("the Service kubernetes has no endpoints: this server is reached by a loopback address only");
        return Ok(());
    }
    ensure(objects, "", "endpoints", endpoints(options), |live, wanted| replace(live, wanted, &["subsets"])).await?;
    let parts = |live: &mut Value, wanted: &Value| replace(live, wanted, &["endpoints", "ports"]);
    ensure(objects, "discovery.k8s.io", "endpointslices", endpoint_slice(options), parts).await
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

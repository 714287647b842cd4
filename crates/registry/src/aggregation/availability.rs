//! Whether another server can serve its version: upstream's checks, in upstream's order and words.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::api_service::{ApiService, Backend, Condition};
use super::backend::Connections;
use crate::service_addresses::{ServiceAddresses, Standing};

/// How often the server is asked at once: of several servers behind a Service one may do.
const ATTEMPTS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(5);

/// What the Service says; `None`: it can be called.
pub(super) fn of_service(backend: &Backend, standing: Standing) -> Option<Condition> {
    let Backend { namespace, name, port, .. } = backend;
    let missing = |reason: &str, message: String| Some(Condition::new("False", reason, message));
    match standing {
        Standing::Callable => None,
        Standing::Missing => missing("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")),
        Standing::NotListening => {
            missing("ServicePortError", format!("service/{name} in {namespace:?} is not listening on port {port}"))
        }
        Standing::NoSlices => {
            missing("EndpointsNotFound", format!("cannot find endpointslices for service/{name} in {namespace:?}"))
        }
        Standing::NoneReady(port_name) => missing(
            "MissingEndpoints",
            format!(
                "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
            ),
        ),
    }
}

/// The whole answer.
pub(super) async fn check(
    service: &ApiService,
    backend: &Backend,
    addresses: &ServiceAddresses,
    connections: &Result<std::sync::Arc<Connections>, String>,
) -> Condition {
    if let Some(condition) = of_service(backend, addresses.standing(&backend.namespace, &backend.name, backend.port)) {
        return condition;
    }
    let failed = |cause: String| Condition::new("False", "FailedDiscoveryCheck", cause);
    let connections = match connections {
        Ok(connections) => connections,
        Err(cause) => return failed(cause.clone()),
    };
    let path = service.discovery_path();
    let mut attempts: FuturesUnordered<_> = (0..ATTEMPTS).map(|_| connections.answers(&path, PATIENCE)).collect();
    let mut last = String::new();
    while let Some(answer) = attempts.next().await {
        match answer {
            Ok(()) => return Condition::new("True", "Passed", "all checks passed"),
            Err(cause) => last = cause,
        }
    }
    failed(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_upstreams() {
        let backend =
            Backend { namespace: "ns".into(), name: "api".into(), port: 443, ca_bundle: Vec::new(), insecure: true };
        let of = |standing| of_service(&backend, standing).map(|c| format!("{} {}: {}", c.status, c.reason, c.message));
        assert_eq!(of(Standing::Callable), None);
        for (standing, expect) in [
            (Standing::Missing, "False ServiceNotFound: service/api in \"ns\" is not present"),
            (Standing::NotListening, "False ServicePortError: service/api in \"ns\" is not listening on port 443"),
            (Standing::NoSlices, "False EndpointsNotFound: cannot find endpointslices for service/api in \"ns\""),
            (
                Standing::NoneReady("https".into()),
                "False MissingEndpoints: endpointslices for service/api in \"ns\" have no addresses with port name \"https\"",
            ),
        ] {
            assert_eq!(of(standing).as_deref(), Some(expect));
        }
    }
}

//! One check of a probe, with upstream's texts (`pkg/probe`).

use std::time::Duration;

use kybern_api::core::v1::{Container, Probe};
use kybern_cri::{CriError, RuntimeService};
use tokio::net::TcpStream;

use super::{grpc, http};

const MAX_OUTPUT: usize = 10 * 1024;
const USER_AGENT: &str = "kube-probe/1.35";

/// Whom a probe asks.
#[derive(Clone, Debug)]
pub struct Target {
    pub container_id: String,
    pub container: Container,
    pub pod_ip: String,
}

/// Runs the probe once. An error is the reason as events show it.
pub async fn check(probe: &Probe, target: &Target, runtime: &dyn RuntimeService) -> Result<(), String> {
    let timeout = Duration::from_secs(probe.timeout_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(1).max(1));
    if let Some(exec) = &probe.exec {
        return self::exec(runtime, target, exec.command.clone().unwrap_or_default(), timeout).await;
    }
    if let Some(action) = &probe.http_get {
        let status = http::get(action, &target.container, &target.pod_ip, USER_AGENT, timeout).await?.status;
        let healthy = (200..400).contains(&status);
        return if healthy { Ok(()) } else { Err(format!("HTTP probe failed with statuscode: {status}")) };
    }
    if let Some(action) = &probe.tcp_socket {
        let port = http::port(&target.container, &action.port)?;
        let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&target.pod_ip);
        return match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(format!("dial tcp {host}:{port}: {}", http::dial_error(&e))),
            Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
        };
    }
    if let Some(action) = &probe.grpc {
        let port = u16::try_from(action.port).map_err(|_| format!("invalid port number: {}", action.port))?;
        let service = action.service.as_deref().unwrap_or("");
        return grpc::check(&target.pod_ip, port, service, USER_AGENT, timeout).await;
    }
    Err("missing probe handler".to_owned())
}

async fn exec(
    runtime: &dyn RuntimeService,
    target: &Target,
    command: Vec<String>,
    timeout: Duration,
) -> Result<(), String> {
    match runtime.exec_sync(&target.container_id, command.clone(), Some(timeout)).await {
        Ok(done) if done.exit_code == 0 => Ok(()),
        Ok(done) => {
            let mut output = done.stdout;
            output.extend(done.stderr);
            output.truncate(MAX_OUTPUT);
            Err(String::from_utf8_lossy(&output).into_owned())
        }
        Err(CriError::DeadlineExceeded(_)) => {
            Err(format!("command timed out: {:?} timed out after {}s", command.join(" "), timeout.as_secs()))
        }
        Err(e) => Err(format!("error performing exec probe: {e}")),
    }
}

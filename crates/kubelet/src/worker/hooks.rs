//! Lifecycle hooks: exec, HTTP GET, sleep (`pkg/kubelet/lifecycle/handlers.go`).

use std::time::Duration;

use kybern_api::core::v1::{Container, LifecycleHandler};

use crate::probe::http;
use crate::shared::Shared;

const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a hook to its end.
pub async fn run(
    shared: &Shared,
    hook: &LifecycleHandler,
    container: &Container,
    id: &str,
    pod_ip: &str,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let done = shared.runtime.exec_sync(id, command.clone(), None).await.map_err(|e| e.to_string())?;
        return match done.exit_code {
            0 => Ok(()),
            code => Err(format!(
                "command {:?} exited with {code}: {}",
                command.join(" "),
                String::from_utf8_lossy(&done.stderr)
            )),
        };
    }
    if let Some(action) = &hook.http_get {
        // Any answer will do: only probes judge the status.
        return http::get(action, container, pod_ip, "kube-lifecycle/1.35", HTTP_TIMEOUT).await.map(drop);
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    // `tcpSocket` is in the API, but is no hook.
    Err("invalid handler: a hook is exec, httpGet or sleep".to_owned())
}

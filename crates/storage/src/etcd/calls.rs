//! Calls with bounds in time, and what their errors mean.

use std::time::Duration;

use kybern_component_base::grpc::{Connection, chain};
use tonic::{Code, Status};

use super::endpoints::Endpoints;
use crate::StorageError;

/// Attempts of a read, each at another member.
const READ_TRIES: u32 = 3;
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// See the module.
pub(super) struct Calls {
    pub(super) endpoints: Endpoints,
    pub(super) timeout: Duration,
}

/// What became of one call.
struct Failed {
    error: StorageError,
    /// Whether it may go better elsewhere or later.
    passing: bool,
}

impl Calls {
    pub(super) fn new(endpoints: Endpoints, timeout: Duration) -> Self {
        Self { endpoints, timeout }
    }

    /// A call that changes nothing: it is tried again while time remains.
    pub(super) async fn read<I, O>(&self, path: &'static str, message: I) -> Result<O, StorageError>
    where
        I: prost::Message + Clone + 'static,
        O: prost::Message + Default + 'static,
    {
        let tried = tokio::time::timeout(self.timeout, async {
            let mut attempt = 1;
            loop {
                let failed = match self.once(path, message.clone()).await {
                    Ok(answer) => return Ok(answer),
                    Err(failed) => failed,
                };
                if !failed.passing || attempt == READ_TRIES {
                    return Err(failed.error);
                }
                tokio::time::sleep(RETRY_AFTER * attempt).await;
                attempt += 1;
            }
        });
        tried.await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// A call that changes something: it is sent once at most.
    pub(super) async fn write<I, O>(&self, path: &'static str, message: I) -> Result<O, StorageError>
    where
        I: prost::Message + 'static,
        O: prost::Message + Default + 'static,
    {
        self.once(path, message).await.map_err(|failed| failed.error)
    }

    async fn once<I, O>(&self, path: &'static str, message: I) -> Result<O, Failed>
    where
        I: prost::Message + 'static,
        O: prost::Message + Default + 'static,
    {
        let connected = self.endpoints.connection().await;
        let (member, connection) = connected.map_err(|error| Failed { error, passing: true })?;
        match tokio::time::timeout(self.timeout / 2, connection.unary(path, message)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(self.failed(member, &connection, &status)),
            Err(_) => {
                // It hangs, or has nobody to agree with: the others may know more.
                self.endpoints.distrust(member);
                Err(Failed { error: timed_out(), passing: true })
            }
        }
    }

    fn failed(&self, member: usize, connection: &Connection, status: &Status) -> Failed {
        let error = meaning(status, self.endpoints.url(member));
        let passing = matches!(error, StorageError::Unavailable(_)) || connection.is_closed();
        if passing {
            self.endpoints.distrust(member);
        }
        Failed { error, passing }
    }
}

fn timed_out() -> StorageError {
    StorageError::Unavailable("etcdserver: request timed out".to_owned())
}

/// What etcd's answer means. Its own words stay: upstream's clients know them.
pub(super) fn meaning(status: &Status, url: &str) -> StorageError {
    let text = status.message();
    if text.contains("required revision has been compacted") {
        return StorageError::Compacted { requested: 0, oldest: 0 };
    }
    if text.contains("required revision is a future revision") {
        return StorageError::Future { requested: 0, current: 0 };
    }
    if text.starts_with("etcdserver:") {
        let passing = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unknown);
        let text = text.to_owned();
        return if passing { StorageError::Unavailable(text) } else { StorageError::Refused(text) };
    }
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument | Code::Unimplemented => {
            StorageError::Refused(format!("etcd {url} refuses: {text}"))
        }
        _ => StorageError::Unavailable(format!("the connection to etcd {url} failed: {}", chain(status))),
    }
}

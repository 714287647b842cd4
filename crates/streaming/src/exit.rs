//! How a command ended, as the error stream tells it (`k8s.io/apimachinery/pkg/util/remotecommand`).

use bytes::Bytes;
use serde_json::json;

/// The end of an exec or attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Exit code 0, or an attach whose container ended.
    Success,
    /// Any other exit code.
    Code(i32),
    /// The command could not be run, or the connection to it broke.
    Failed(String),
}

impl Exit {
    /// The `Status` of protocol version 4 and later.
    pub fn status(&self) -> Bytes {
        let status = match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Code(code) => json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(cause) => json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("Internal error occurred: {cause}"),
                "details": {"causes": [{"message": cause}]},
            }),
        };
        status.to_string().into()
    }

    /// The text of earlier versions; empty for success.
    pub fn text(&self) -> Bytes {
        match self {
            Self::Success => Bytes::new(),
            Self::Code(code) => format!("command terminated with non-zero exit code: exit status {code}").into(),
            Self::Failed(cause) => format!("error executing command in container: {cause}").into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        assert_eq!(&Exit::Success.status()[..], br#"{"metadata":{},"status":"Success"}"#);
        let status: serde_json::Value = serde_json::from_slice(&Exit::Code(3).status()).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        assert!(Exit::Success.text().is_empty());
    }
}

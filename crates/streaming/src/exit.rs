//! How a command ended, as the error stream tells it (`k8s.io/apimachinery/pkg/util/remotecommand`).

use bytes::Bytes;
use serde_json::{Value, json};

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
    /// The end that a `Status` tells.
    pub fn read(status: &[u8]) -> Self {
        let Ok(status) = serde_json::from_slice::<Value>(status) else {
            let said = String::from_utf8_lossy(status);
            return Self::Failed(if said.is_empty() {
                "the connection to the kubelet broke".into()
            } else {
                said.into()
            });
        };
        if status["status"] == "Success" {
            return Self::Success;
        }
        let causes = status["details"]["causes"].as_array().into_iter().flatten();
        let code = causes.filter(|cause| cause["reason"] == "ExitCode").find_map(|cause| cause["message"].as_str());
        match code.and_then(|code| code.parse().ok()) {
            Some(code) if status["reason"] == "NonZeroExitCode" => Self::Code(code),
            _ => {
                let text = status["message"].as_str().unwrap_or("");
                Self::Failed(text.strip_prefix("Internal error occurred: ").unwrap_or(text).to_owned())
            }
        }
    }

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
        for exit in [Exit::Success, Exit::Code(3), Exit::Failed("no such file".to_owned())] {
            assert_eq!(Exit::read(&exit.status()), exit);
        }
        assert_eq!(Exit::read(b""), Exit::Failed("the connection to the kubelet broke".to_owned()));
    }
}

//! Bootstrap tokens as their Secrets hold them (`k8s.io/cluster-bootstrap/util/secrets`).

use jiff::Timestamp;
use kybern_api::core::v1::Secret;

pub(crate) const NAMESPACE: &str = "kube-system";
/// The type of the Secrets, by which the store selects them.
pub(crate) const SELECTOR: &str = "type=bootstrap.kubernetes.io/token";

/// When a token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Never,
    At(Timestamp),
    /// What cannot be read counts as over.
    Unreadable,
}

impl End {
    pub(crate) fn is_over(self, now: Timestamp) -> bool {
        match self {
            Self::Never => false,
            Self::At(end) => end <= now,
            Self::Unreadable => true,
        }
    }
}

pub(crate) fn text<'s>(secret: &'s Secret, key: &str) -> &'s str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.and_then(|b| std::str::from_utf8(&b.0).ok()).unwrap_or("")
}

pub(crate) fn end(secret: &Secret) -> End {
    match text(secret, "expiration") {
        "" => End::Never,
        text => kybern_apimachinery::time::parse_rfc3339(text).map_or(End::Unreadable, End::At),
    }
}

/// Id and secret of a token that may sign.
pub(crate) fn for_signing(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let id = secret.metadata.name.as_deref()?.strip_prefix("bootstrap-token-")?;
    let is_id = id.len() == 6 && id.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    let value = text(secret, "token-secret");
    let good = is_id
        && text(secret, "token-id") == id
        && !value.is_empty()
        && !end(secret).is_over(now)
        && text(secret, "usage-bootstrap-signing") == "true";
    good.then_some((id, value))
}

//! What the plugins are told by the administrator.

use kybern_quota::Limited;

/// Of `--admission-control-config-file`; without one, upstream's defaults.
#[derive(Clone, Debug, Default)]
pub struct AdmissionConfiguration {
    /// `ResourceQuota`: what may only be used where a quota covers it.
    pub limited: Vec<Limited>,
}

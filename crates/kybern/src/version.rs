//! What this program calls itself.

/// The Kubernetes version that the API server and the kubelet report.
pub(crate) const KUBERNETES: &str = "v1.35.0+kybern0";
pub(crate) const KUBERNETES_MAJOR: &str = "1";
pub(crate) const KUBERNETES_MINOR: &str = "35";
/// This program's own version, the tag of the built-in image.
pub(crate) const KYBERN: &str = env!("CARGO_PKG_VERSION");

/// The image that the runtime makes of the running executable.
pub(crate) fn image() -> String {
    format!("kybern.local/kybern:{KYBERN}")
}

/// Go's name of this machine's architecture.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

//! The way to kubelets.

/// Reaches kubelets for logs, exec and the like.
pub struct KubeletClient;

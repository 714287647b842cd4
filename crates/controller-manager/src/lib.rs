//! kybern-controller-manager

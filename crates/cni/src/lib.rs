//! kybern-cni

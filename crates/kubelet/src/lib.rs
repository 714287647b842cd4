//! kybern-kubelet

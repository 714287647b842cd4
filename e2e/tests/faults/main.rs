//! What breaks, and what must not: crashes at any moment, and starts that cannot work. Run through `cargo xtask e2e`, after
//! the tutorial and on the same cluster.

mod churn;
mod components;
mod crashes;
mod cycles;
mod drain;
mod full_disk;
mod kubeadm;
mod modes;
mod pod_starts;
mod refusals;
mod starts;
mod two_clusters;
mod volumes;

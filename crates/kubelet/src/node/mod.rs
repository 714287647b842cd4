//! The node: what machine it is (`machine`), the object that says so (`status`, pure), and the tasks that keep object,
//! lease and CSINode fresh (`reporter`, `lease`, `csi`).

pub mod csi;
pub mod lease;
pub mod machine;
pub mod reporter;
pub mod status;

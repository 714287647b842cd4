//! The node: what machine it is (`machine`), the object that says so (`status`, pure), and the tasks that keep object and
//! lease fresh (`reporter`, `lease`).

pub mod lease;
pub mod machine;
pub mod reporter;
pub mod status;

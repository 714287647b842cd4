//! What `kybern up` shows and does: progress, the wait for a usable cluster, the demo.

pub(crate) mod background;
pub(crate) mod demo;
pub(crate) mod progress;
pub(crate) mod running;
pub(crate) mod wait;

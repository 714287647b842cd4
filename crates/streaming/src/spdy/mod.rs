//! SPDY/3.1 as Kubernetes uses it (the SPDY draft 3.1; `github.com/moby/spdystream` is the peer).

pub mod frame;
pub mod header;
pub mod session;

pub use frame::{Frame, FrameError};
pub use session::{Session, SpdyStream};

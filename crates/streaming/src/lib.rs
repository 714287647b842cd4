//! The server's side of exec, attach and port-forward on the wire: SPDY/3.1 and WebSocket, with Kubernetes'
//! subprotocols.
//!
//! A handler gives [`exec`] or [`port_forward`] an HTTP request; the answer is `101 Switching Protocols`, and a task then
//! serves the streams on the upgraded connection. All buffers are bounded: a client that does not read makes the
//! container's output wait. [`translate`] is the client's side, for a server that stands between.

pub mod channel;
pub mod exec;
pub mod exit;
pub mod port_forward;
pub mod reader;
pub mod relay;
pub mod spdy;
pub mod translate;
pub mod upgrade;
pub mod websocket;

pub use exec::{Wants, exec};
pub use exit::Exit;
pub use port_forward::port_forward;
pub use reader::reader;
pub use relay::relay;

#[cfg(test)]
mod tests;

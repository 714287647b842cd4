//! kybern-streaming

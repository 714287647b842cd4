//! kybern-linux

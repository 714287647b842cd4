//! kybern-storage

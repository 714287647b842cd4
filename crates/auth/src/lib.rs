//! kybern-auth

//! Images: credentials for pulling them, who may use those that are there, and removing those that nobody needs.

pub mod credentials;
pub mod gc;
pub mod pulled;

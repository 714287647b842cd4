//! Who asks and what they may: the authenticators and authorizers behind the API server's seams, service-account tokens,
//! and the cluster's certificates.

pub mod authn;
pub mod authz;
mod config_file;
mod der;
mod hash;
pub mod pem;
pub mod pki;
pub mod reload;
#[cfg(test)]
mod testing;
pub mod token;

/// The group of everyone who showed a valid credential.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everyone who showed none.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";

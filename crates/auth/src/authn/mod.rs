//! The authenticators, in the order in which they are asked: client certificate, front proxy, static tokens,
//! service-account tokens of old and of today, bootstrap tokens, those of OpenID Connect's issuers, a webhook's, anonymous.

mod anonymous;
mod bearer;
mod bootstrap_token;
mod certificate;
mod chain;
mod legacy_token;
pub mod oidc;
mod request_header;
mod service_account;
mod token;
mod token_file;
mod webhook;

pub use anonymous::Anonymous;
pub use bootstrap_token::BootstrapTokens;
pub use certificate::ClientCertificate;
pub use chain::ClientAuthorities;
pub use legacy_token::LegacyTokens;
pub use request_header::{RequestHeader, RequestHeaderNames};
pub use service_account::ServiceAccountTokens;
pub use token::{BearerTokens, TokenAuthenticator, TokenUser};
pub use token_file::{TokenFile, TokenFileError};
pub use webhook::{TokenWebhook, TokenWebhookSettings};

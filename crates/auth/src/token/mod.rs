//! Service-account tokens: the keys, the JWT form, what they claim, and who issues and judges them.

mod claims;
mod discovery;
mod jwt;
mod keys;

pub use claims::{BoundObject, Claims, ClaimsError, Issuer, TokenSpec};
pub use discovery::Discovery;
pub use jwt::{JwtError, decode_unverified_issuer, detached_signature, sign, verify};
pub(crate) use keys::sec1;
pub use keys::{KeyError, PublicKey, SigningKey, read_public_keys};

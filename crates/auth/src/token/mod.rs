//! Service-account tokens: the keys, the JWT form, what they claim, and who issues and judges them.

mod claims;
mod discovery;
mod external;
mod issuer;
mod jwt;
mod keys;
mod legacy;

pub use claims::{BoundObject, Claims, ClaimsError, TokenSpec};
pub use discovery::Discovery;
pub use external::ExternalSigner;
pub use issuer::Issuer;
pub use jwt::{JwtError, decode_unverified_issuer, detached_signature, sign, verify};
pub(crate) use keys::{Curve, sec1};
pub use keys::{KeyError, PublicKey, SigningKey, read_public_keys};
pub use legacy::{INVALID_SINCE, LAST_USED, LegacyToken};

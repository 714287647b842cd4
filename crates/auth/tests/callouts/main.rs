//! What the authenticators and authorizers ask others: webhooks, and issuers of tokens.

mod oidc;
mod webhooks;

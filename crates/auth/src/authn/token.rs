//! Bearer tokens: each kind has its judge, and one authenticator asks them all.

use std::sync::Arc;

use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{Authenticator, Credentials, Note, UserInfo};

use super::bearer;

/// Longer ones are nobody's: they would only cost time.
const TOKEN_MAX: usize = 64 << 10;

/// Who a token's bearer is, and for which of the audiences asked for the token is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenUser {
    pub user: UserInfo,
    /// `None` where a token knows no audience: it is good for the server's own.
    pub audiences: Option<Vec<String>>,
    /// What is told of the token.
    pub notes: Vec<Note>,
}

/// Judges one kind of bearer tokens.
pub trait TokenAuthenticator: Send + Sync + 'static {
    /// `Ok(None)`: it is no token of this kind, or good for none of the audiences. `Err`: it is one, and bad.
    fn authenticate_token<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Option<TokenUser>, String>>;
}

/// Asks the judges in order: the first that knows the token counts.
#[derive(Clone)]
pub struct BearerTokens {
    judges: Vec<Arc<dyn TokenAuthenticator>>,
    /// The server's own audiences.
    audiences: Vec<String>,
}

impl BearerTokens {
    pub fn new(judges: Vec<Arc<dyn TokenAuthenticator>>, audiences: Vec<String>) -> Self {
        Self { judges, audiences }
    }

    /// The user of a token and the audiences, of those asked for, that it is good for. None asked for: the server's own. The
    /// error of a token that nobody knows holds what those said who found it bad.
    pub async fn judge(&self, token: &str, wanted: &[String]) -> Result<Option<(UserInfo, Vec<String>)>, String> {
        let judged = self.ask(token, wanted).await?;
        Ok(judged.map(|TokenUser { user, audiences, .. }| (user, audiences.unwrap_or_default())))
    }

    /// The same, with what is told of the token.
    async fn ask(&self, token: &str, wanted: &[String]) -> Result<Option<TokenUser>, String> {
        if token.len() > TOKEN_MAX {
            return Err("the token is too long".to_owned());
        }
        let wanted = if wanted.is_empty() { &self.audiences } else { wanted };
        let own = || self.audiences.iter().filter(|own| wanted.contains(own)).cloned().collect::<Vec<_>>();
        let mut errors = Vec::new();
        for judge in &self.judges {
            match judge.authenticate_token(token, wanted).await {
                Ok(Some(TokenUser { user, audiences, notes })) => {
                    let audiences = audiences.unwrap_or_else(own);
                    if !audiences.is_empty() {
                        return Ok(Some(TokenUser { user, audiences: Some(audiences), notes }));
                    }
                }
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        match errors.len() {
            0 => Ok(None),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }
}

impl Authenticator for BearerTokens {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> BoxFuture<'a, Result<Option<UserInfo>, String>> {
        Box::pin(async {
            let Some(token) = bearer::token(credentials) else { return Ok(None) };
            match self.ask(&token, &[]).await? {
                Some(TokenUser { user, notes, .. }) => {
                    credentials.notes.extend(notes);
                    Ok(Some(user))
                }
                None => Err("invalid bearer token".to_owned()),
            }
        })
    }
}

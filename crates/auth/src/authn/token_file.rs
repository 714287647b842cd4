//! Static tokens: `--token-auth-file`, lines of `token,user,uid,"group1,group2"`.

use std::collections::HashMap;
use std::path::Path;

use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::UserInfo;

use super::{TokenAuthenticator, TokenUser};
use crate::AUTHENTICATED;

#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error("cannot read the token file {path}: {cause}")]
    Read { path: String, cause: std::io::Error },
    #[error("line {line} of the token file: {cause}; a line is token,user,uid,\"group1,group2\"")]
    Line { line: usize, cause: &'static str },
}

/// The tokens, held by their hash so that neither look-up time nor a debugger's print tells them.
pub struct TokenFile(HashMap<[u8; 32], UserInfo>);

impl TokenFile {
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        let fail = |cause| TokenFileError::Read { path: path.display().to_string(), cause };
        Self::parse(&std::fs::read_to_string(path).map_err(fail)?)
    }

    pub fn parse(text: &str) -> Result<Self, TokenFileError> {
        let mut tokens = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let fail = |cause| TokenFileError::Line { line: index + 1, cause };
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let fields = fields(line).ok_or_else(|| fail("a quote does not end"))?;
            let [token, user, uid, rest @ ..] = fields.as_slice() else {
                return Err(fail("it has fewer than three columns"));
            };
            if token.is_empty() || user.is_empty() {
                return Err(fail("token and user must not be empty"));
            }
            let groups = rest.first().into_iter().flat_map(|g| g.split(',')).map(str::trim).filter(|g| !g.is_empty());
            let groups = groups.chain([AUTHENTICATED]).map(str::to_owned).collect();
            let info = UserInfo { name: user.clone(), uid: uid.clone(), groups, ..UserInfo::default() };
            tokens.insert(hash(token), info);
        }
        Ok(Self(tokens))
    }
}

fn hash(token: &str) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The columns of a CSV line (RFC 4180, one line).
fn fields(line: &str) -> Option<Vec<String>> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.trim().chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                field.push('"');
                chars.next();
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field).trim().to_owned()),
            c => field.push(c),
        }
    }
    fields.push(field.trim().to_owned());
    (!quoted).then_some(fields)
}

impl TokenAuthenticator for TokenFile {
    fn authenticate_token<'a>(
        &'a self,
        token: &'a str,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<Option<TokenUser>, String>> {
        let user = self.0.get(&hash(token)).cloned();
        Box::pin(async { Ok(user.map(|user| TokenUser { user, audiences: None, notes: Vec::new() })) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_users() {
        let file = TokenFile::parse("# c\n\nabc,admin,1,\"system:masters, dev\"\nxyz,joe,2\n").unwrap();
        assert_eq!(file.0[&hash("abc")].groups, ["system:masters", "dev", "system:authenticated"]);
        assert_eq!(file.0[&hash("xyz")].groups, ["system:authenticated"]);
        for (bad, line) in [("a,b", 1), ("a,b,c\n,b,c", 2), ("a,\"b,c", 1)] {
            let error = TokenFile::parse(bad).err().unwrap().to_string();
            assert!(error.starts_with(&format!("line {line} ")), "{error}");
        }
    }
}

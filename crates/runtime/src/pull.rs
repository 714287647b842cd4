//! Pulling.
use kybern_cri::{AuthConfig, CriError};

use crate::runtime::Runtime;

impl Runtime {
    pub(crate) async fn pull(&self, name: &str, _auth: Vec<AuthConfig>) -> Result<String, CriError> {
        match self.images.find(name)? {
            Some(image) => Ok(image.id),
            None => Err(CriError::NotFound(format!("failed to pull and unpack image {name:?}"))),
        }
    }
}

//! `runtime.v1.ImageService`.

use std::collections::BTreeMap;

use crate::CriFuture;

/// The image asked for, as the pod names it, and the runtime's own reference once known.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImageSpec {
    pub image: String,
    pub user_specified_image: String,
    pub annotations: BTreeMap<String, String>,
}

/// Registry credentials from an `imagePullSecrets` entry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AuthConfig {
    pub username: String,
    pub password: String,
    /// Base64 of `username:password`.
    pub auth: String,
    pub server_address: String,
    pub identity_token: String,
    pub registry_token: String,
}

/// Never prints a secret.
impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Image {
    /// The config digest, `sha256:…`.
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    pub size_bytes: u64,
    /// The numeric user of the image's config, if it is one.
    pub uid: Option<i64>,
    /// The named user of the image's config, if it is one.
    pub username: String,
    pub pinned: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FilesystemUsage {
    pub mountpoint: String,
    pub used_bytes: u64,
    pub inodes_used: u64,
}

/// `runtime.v1.ImageService`.
pub trait ImageService: Send + Sync + 'static {
    fn list_images(&self) -> CriFuture<'_, Vec<Image>>;
    /// `None` when the image is not present.
    fn image_status(&self, image: &ImageSpec) -> CriFuture<'_, Option<Image>>;
    /// Pulls and answers the image's id. Without a credential the runtime may have one of its own.
    fn pull_image(&self, image: &ImageSpec, auth: Option<AuthConfig>) -> CriFuture<'_, String>;
    fn remove_image(&self, image: &ImageSpec) -> CriFuture<'_, ()>;
    fn image_fs_info(&self) -> CriFuture<'_, FilesystemUsage>;
}

//! A KMS plugin, version 2, on its socket: it encrypts seeds, of which the keys of values are derived here.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kybern_component_base::grpc::UnixServer;
use parking_lot::Mutex;
use prost::Message;

use super::ciphers::{Cipher, random};
use super::config::KmsOptions;

/// How long what the plugin said last lets values be encrypted.
const WRITE_LIFE: Duration = Duration::from_secs(180);
/// Between two questions whether it is well, where it was, and where it was not.
pub(super) const POLL: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));
/// Upstream's bounds.
const MAX_KEY_ID: usize = 1024;
const MAX_SEALED_SEED: usize = 1024;
const MAX_ANNOTATIONS: usize = 32 << 10;
/// Seeds kept open at most; there is one for each key of the plugin's and each start of a server.
const MAX_OPEN: usize = 4096;

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    healthz: String,
    #[prost(string, tag = "3")]
    key_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptRequest {
    #[prost(bytes = "bytes", tag = "1")]
    ciphertext: Bytes,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    uid: String,
}

#[derive(Clone, PartialEq, Message)]
struct EncryptResponse {
    #[prost(bytes = "bytes", tag = "1")]
    ciphertext: Bytes,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(btree_map = "string, bytes", tag = "3")]
    annotations: BTreeMap<String, Vec<u8>>,
}

/// A stored value, as upstream has it.
#[derive(Clone, PartialEq, Message)]
struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(bytes = "bytes", tag = "3")]
    sealed_seed: Bytes,
    #[prost(btree_map = "string, bytes", tag = "4")]
    annotations: BTreeMap<String, Vec<u8>>,
    /// 0: the key itself, as older servers wrote; 1: a seed.
    #[prost(int32, tag = "5")]
    source: i32,
}

impl EncryptedObject {
    fn check(&self) -> Result<(), String> {
        let annotations: usize = self.annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
        if !(0..=1).contains(&self.source) {
            return Err(format!("unknown encryptedDEKSourceType: {}", self.source));
        }
        if self.data.is_empty() {
            return Err("encrypted data is empty".to_owned());
        }
        if self.sealed_seed.is_empty() || self.sealed_seed.len() > MAX_SEALED_SEED {
            return Err(format!(
                "the encrypted DEK source has {} bytes, of at most {MAX_SEALED_SEED}",
                self.sealed_seed.len()
            ));
        }
        if self.key_id.is_empty() || self.key_id.len() > MAX_KEY_ID {
            return Err(format!("the keyID has {} bytes, of at most {MAX_KEY_ID}", self.key_id.len()));
        }
        if annotations > MAX_ANNOTATIONS {
            return Err(format!(
                "total size of annotations is {annotations}, which exceeds the max size of {MAX_ANNOTATIONS}"
            ));
        }
        Ok(())
    }

    /// What a seed is known by.
    fn seed(&self) -> Vec<u8> {
        Self { data: Vec::new(), ..self.clone() }.encode_to_vec()
    }
}

/// What values are encrypted with for now.
struct Current {
    cipher: Cipher,
    /// All but the value.
    head: EncryptedObject,
    expires: Instant,
}

/// See the module.
pub(super) struct Plugin {
    pub(super) options: KmsOptions,
    server: UnixServer,
    current: Mutex<Option<Current>>,
    open: Mutex<HashMap<Vec<u8>, Cipher>>,
    /// Held while the plugin opens a seed, which many values may wait for.
    opening: tokio::sync::Mutex<()>,
    /// Why it is not well.
    pub(super) sick: Mutex<Option<String>>,
}

impl Plugin {
    pub(super) fn new(options: KmsOptions) -> Self {
        Self {
            server: UnixServer::new(options.socket.clone()),
            options,
            current: Mutex::default(),
            open: Mutex::default(),
            opening: Default::default(),
            sick: Mutex::default(),
        }
    }

    async fn call<I, O>(&self, path: &'static str, message: I) -> Result<O, String>
    where
        I: Message + Clone + 'static,
        O: Message + Default + 'static,
    {
        let called = tokio::time::timeout(self.options.timeout, async {
            let connection = self.server.connection().await?;
            connection.unary(path, message).await.map_err(|status| status.message().to_owned())
        });
        called.await.unwrap_or_else(|_| Err("it does not answer in time".to_owned())).map_err(|cause| {
            format!("the KMS plugin {} at {}: {cause}", self.options.name, self.options.socket.display())
        })
    }

    /// Asks whether it is well, and takes a new seed where its key changed. What there is stays good for a while after
    /// it is not well any more.
    pub(super) async fn check(&self) -> Result<(), String> {
        let checked = self.refresh().await;
        *self.sick.lock() = checked.clone().err();
        checked
    }

    async fn refresh(&self) -> Result<(), String> {
        let began = Instant::now();
        let status: StatusResponse = self.call("/v2.KeyManagementService/Status", StatusRequest {}).await?;
        let name = &self.options.name;
        if status.healthz != "ok" {
            return Err(format!("got unexpected healthz status: {} of KMS provider {name}", status.healthz));
        }
        if !matches!(status.version.as_str(), "v2" | "v2beta1") {
            return Err(format!("KMS provider {name} speaks version {:?}, and not v2", status.version));
        }
        if status.key_id.is_empty() || status.key_id.len() > MAX_KEY_ID {
            return Err(format!("KMS provider {name} names no key"));
        }
        {
            let mut current = self.current.lock();
            if let Some(current) = current.as_mut().filter(|current| current.head.key_id == status.key_id) {
                current.expires = began + WRITE_LIFE;
                return Ok(());
            }
        }
        let seed: [u8; 32] = random()?;
        let uid = uid()?;
        let request = EncryptRequest { plaintext: seed.to_vec(), uid };
        let sealed: EncryptResponse = self.call("/v2.KeyManagementService/Encrypt", request).await?;
        let head = EncryptedObject {
            data: vec![0],
            key_id: sealed.key_id,
            sealed_seed: sealed.ciphertext,
            annotations: sealed.annotations,
            source: 1,
        };
        head.check().map_err(|cause| format!("what KMS provider {name} encrypted is not usable: {cause}"))?;
        if head.key_id != status.key_id {
            return Err(format!(
                "KMS provider {name} is about to change its key: it says {:?} and uses {:?}",
                status.key_id, head.key_id
            ));
        }
        let cipher = Cipher::DerivedGcm(seed.to_vec());
        self.remember(head.seed(), cipher.clone());
        *self.current.lock() = Some(Current { cipher, head, expires: began + WRITE_LIFE });
        Ok(())
    }

    fn remember(&self, seed: Vec<u8>, cipher: Cipher) {
        let mut open = self.open.lock();
        if open.len() >= MAX_OPEN {
            open.clear();
        }
        open.insert(seed, cipher);
    }

    /// What is encrypted now is marked with it.
    pub(super) fn key_id(&self) -> Option<String> {
        self.current.lock().as_ref().map(|current| current.head.key_id.clone())
    }

    pub(super) fn encrypt(&self, value: &[u8], about: &[u8]) -> Result<Vec<u8>, String> {
        let (cipher, mut object) = {
            let current = self.current.lock();
            let why = || self.sick.lock().clone().unwrap_or_else(|| "it was not asked yet".to_owned());
            let current = current.as_ref().ok_or_else(why)?;
            if Instant::now() > current.expires {
                return Err(format!(
                    "the key of KMS provider {} is no longer known to be good: {}",
                    self.options.name,
                    why()
                ));
            }
            (current.cipher.clone(), current.head.clone())
        };
        object.data = cipher.encrypt(value, about)?;
        Ok(object.encode_to_vec())
    }

    /// The value, and the plugin's key that its seed is sealed with.
    pub(super) async fn decrypt(&self, sealed: &[u8], about: &[u8]) -> Result<(Vec<u8>, String), String> {
        let object = EncryptedObject::decode(sealed).map_err(|e| e.to_string())?;
        object.check()?;
        let cipher = self.open(&object).await?;
        Ok((cipher.decrypt(&object.data, about)?, object.key_id))
    }

    async fn open(&self, object: &EncryptedObject) -> Result<Cipher, String> {
        let seed = object.seed();
        let known = || self.open.lock().get(&seed).cloned();
        if let Some(cipher) = known() {
            return Ok(cipher);
        }
        let _opening = self.opening.lock().await;
        if let Some(cipher) = known() {
            return Ok(cipher);
        }
        let request = DecryptRequest {
            ciphertext: object.sealed_seed.clone(),
            uid: uid()?,
            key_id: object.key_id.clone(),
            annotations: object.annotations.clone(),
        };
        let opened: Result<DecryptResponse, String> = self.call("/v2.KeyManagementService/Decrypt", request).await;
        let key = opened.map_err(|cause| format!("failed to decrypt DEK, error: {cause}"))?.plaintext;
        let cipher = match object.source {
            1 if key.len() >= 32 => Cipher::DerivedGcm(key),
            0 if matches!(key.len(), 16 | 24 | 32) => Cipher::AesGcm(key),
            _ => return Err(format!("the KMS plugin {} answered a key of {} bytes", self.options.name, key.len())),
        };
        self.remember(seed, cipher.clone());
        Ok(cipher)
    }
}

/// By which plugin and server tell a request in their logs.
fn uid() -> Result<String, String> {
    let bytes: [u8; 16] = random()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

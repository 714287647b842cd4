//! The ciphers of a provider with keys of its own, with upstream's layouts of bytes.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{Aead as OldAead, KeyInit as OldKeyInit};

const BLOCK: usize = 16;
const GCM_NONCE: usize = 12;
const BOX_NONCE: usize = 24;
/// Random bytes from which a key for one value is derived.
const INFO: usize = 32;

/// A key, and how it is used.
#[derive(Clone)]
pub(super) enum Cipher {
    AesCbc(Vec<u8>),
    AesGcm(Vec<u8>),
    Secretbox([u8; 32]),
    /// A seed; each value has an AES-GCM key that is derived from it.
    DerivedGcm(Vec<u8>),
}

const SHORT: &str = "the stored data was shorter than the required size";
const RANDOM: &str = "unable to read sufficient random bytes";

impl Cipher {
    /// `about` is what the value belongs to; where the cipher can, it is held to that.
    pub(super) fn encrypt(&self, value: &[u8], about: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::AesCbc(key) => {
                let iv: [u8; BLOCK] = random()?;
                let sealed = match key.len() {
                    16 => seal_cbc::<Aes128>(key, &iv, value),
                    24 => seal_cbc::<Aes192>(key, &iv, value),
                    _ => seal_cbc::<Aes256>(key, &iv, value),
                };
                Ok([&iv[..], &sealed?].concat())
            }
            Self::AesGcm(key) => seal_gcm(key, value, about),
            Self::Secretbox(key) => {
                let nonce: [u8; BOX_NONCE] = random()?;
                let sealed = XSalsa20Poly1305::new(key.into()).encrypt(&nonce.into(), value);
                Ok([&nonce[..], &sealed.map_err(|_| "the value cannot be encrypted".to_owned())?].concat())
            }
            Self::DerivedGcm(seed) => {
                let info: [u8; INFO] = random()?;
                Ok([&info[..], &seal_gcm(&derive(seed, &info)?, value, about)?].concat())
            }
        }
    }

    pub(super) fn decrypt(&self, sealed: &[u8], about: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::AesCbc(key) => {
                let (iv, sealed) = sealed.split_first_chunk::<BLOCK>().ok_or(SHORT)?;
                if sealed.len() % BLOCK != 0 {
                    return Err("the stored data is not a multiple of the block size".to_owned());
                }
                match key.len() {
                    16 => open_cbc::<Aes128>(key, iv, sealed),
                    24 => open_cbc::<Aes192>(key, iv, sealed),
                    _ => open_cbc::<Aes256>(key, iv, sealed),
                }
            }
            Self::AesGcm(key) => open_gcm(key, sealed, about),
            Self::Secretbox(key) => {
                let (nonce, sealed) = sealed.split_first_chunk::<BOX_NONCE>().ok_or(SHORT)?;
                let opened = XSalsa20Poly1305::new(key.into()).decrypt(nonce.into(), sealed);
                opened.map_err(|_| "message authentication failed".to_owned())
            }
            Self::DerivedGcm(seed) => {
                let (info, sealed) = sealed.split_first_chunk::<INFO>().ok_or(SHORT)?;
                open_gcm(&derive(seed, info)?, sealed, about)
            }
        }
    }
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| RANDOM.to_owned())?;
    Ok(bytes)
}

/// HKDF's second half alone: the seed is random already.
fn derive(seed: &[u8], info: &[u8]) -> Result<Vec<u8>, String> {
    struct Length;
    impl ring::hkdf::KeyType for Length {
        fn len(&self) -> usize {
            32
        }
    }
    let mut key = vec![0; 32];
    ring::hkdf::Prk::new_less_safe(ring::hkdf::HKDF_SHA256, seed)
        .expand(&[info], Length)
        .and_then(|derived| derived.fill(&mut key))
        .map_err(|_| "a key cannot be derived".to_owned())?;
    Ok(key)
}

fn seal_cbc<C>(key: &[u8], iv: &[u8; BLOCK], value: &[u8]) -> Result<Vec<u8>, String>
where
    C: aes::cipher::BlockCipherEncrypt + aes::cipher::KeyInit,
    cbc::Encryptor<C>: KeyIvInit + BlockModeEncrypt,
{
    let cipher = cbc::Encryptor::<C>::new_from_slices(key, iv).map_err(|e| e.to_string())?;
    Ok(cipher.encrypt_padded_vec::<Pkcs7>(value))
}

fn open_cbc<C>(key: &[u8], iv: &[u8; BLOCK], sealed: &[u8]) -> Result<Vec<u8>, String>
where
    C: aes::cipher::BlockCipherDecrypt + aes::cipher::KeyInit,
    cbc::Decryptor<C>: KeyIvInit + BlockModeDecrypt,
{
    let cipher = cbc::Decryptor::<C>::new_from_slices(key, iv).map_err(|e| e.to_string())?;
    cipher.decrypt_padded_vec::<Pkcs7>(sealed).map_err(|_| "invalid padding on input".to_owned())
}

type Aes192Gcm = AesGcm<Aes192, U12>;

fn seal_gcm(key: &[u8], value: &[u8], about: &[u8]) -> Result<Vec<u8>, String> {
    let nonce: [u8; GCM_NONCE] = random()?;
    let payload = Payload { msg: value, aad: about };
    let sealed = match key.len() {
        16 => Aes128Gcm::new_from_slice(key).map(|c| c.encrypt(&nonce.into(), payload)),
        24 => Aes192Gcm::new_from_slice(key).map(|c| c.encrypt(&nonce.into(), payload)),
        _ => Aes256Gcm::new_from_slice(key).map(|c| c.encrypt(&nonce.into(), payload)),
    };
    let sealed = sealed.map_err(|e| e.to_string())?.map_err(|_| "the value cannot be encrypted".to_owned())?;
    Ok([&nonce[..], &sealed].concat())
}

fn open_gcm(key: &[u8], sealed: &[u8], about: &[u8]) -> Result<Vec<u8>, String> {
    let (nonce, sealed) = sealed.split_first_chunk::<GCM_NONCE>().ok_or(SHORT)?;
    let payload = Payload { msg: sealed, aad: about };
    let opened = match key.len() {
        16 => Aes128Gcm::new_from_slice(key).map(|c| c.decrypt(nonce.into(), payload)),
        24 => Aes192Gcm::new_from_slice(key).map(|c| c.decrypt(nonce.into(), payload)),
        _ => Aes256Gcm::new_from_slice(key).map(|c| c.decrypt(nonce.into(), payload)),
    };
    opened.map_err(|e| e.to_string())?.map_err(|_| "cipher: message authentication failed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Cipher> {
        let key = |n: usize| (0..n as u8).collect::<Vec<_>>();
        let mut ciphers: Vec<Cipher> = [16, 24, 32].into_iter().map(|n| Cipher::AesCbc(key(n))).collect();
        ciphers.extend([16, 24, 32].into_iter().map(|n| Cipher::AesGcm(key(n))));
        ciphers.push(Cipher::Secretbox([7; 32]));
        ciphers.push(Cipher::DerivedGcm(key(32)));
        ciphers
    }

    #[test]
    fn what_is_sealed_opens_and_what_was_touched_does_not() {
        for (n, cipher) in all().into_iter().enumerate() {
            for value in [&b""[..], b"x", &[0; 16], &[1; 1000]] {
                let sealed = cipher.encrypt(value, b"/registry/secrets/a").unwrap();
                assert_ne!(sealed, cipher.encrypt(value, b"/registry/secrets/a").unwrap(), "cipher {n}");
                assert_eq!(cipher.decrypt(&sealed, b"/registry/secrets/a").unwrap(), value, "cipher {n}");
                if !matches!(cipher, Cipher::AesCbc(_)) {
                    for at in [0, sealed.len() / 2, sealed.len() - 1] {
                        let mut touched = sealed.clone();
                        touched[at] ^= 1;
                        assert!(cipher.decrypt(&touched, b"/registry/secrets/a").is_err(), "cipher {n} at {at}");
                    }
                }
                if matches!(cipher, Cipher::AesGcm(_) | Cipher::DerivedGcm(_)) {
                    assert!(cipher.decrypt(&sealed, b"/registry/secrets/b").is_err(), "moved to another key");
                }
                for end in [0, 1, 11, 15] {
                    assert!(cipher.decrypt(&sealed[..end.min(sealed.len())], b"/registry/secrets/a").is_err());
                }
            }
        }
    }

    /// Against values that Go's library made.
    #[test]
    fn known_values_open() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|n| u8::from_str_radix(&text[n..n + 2], 16).unwrap()).collect()
        };
        // NIST SP 800-38A F.2.5 with a block of padding after it.
        let key = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let iv = hex("000102030405060708090a0b0c0d0e0f");
        let plain = hex("6bc1bee22e409f96e93d7e117393172a");
        let sealed = seal_cbc::<Aes256>(&key, iv[..].try_into().unwrap(), &plain).unwrap();
        assert_eq!(sealed[..16], hex("f58c4c04d6e5f1ba779eabfb5f7bfbd6")[..]);
        // RFC 5869's third case has no salt and no info, and so tests the second half alone.
        let prk = hex("19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04");
        assert_eq!(derive(&prk, b"").unwrap(), hex("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"));
    }
}

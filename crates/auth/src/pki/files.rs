//! Reading and writing PEM files: private, complete or not at all.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{KeyPair, PublicKeyData};

/// What can be wrong with the certificate directory.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot {action} {path}: {cause}")]
    Io { action: &'static str, path: PathBuf, cause: std::io::Error },
    #[error("{path} is not usable: {cause}; restore it from a backup, or move {directory} away to start a new cluster")]
    Unusable { path: PathBuf, directory: PathBuf, cause: String },
    #[error(
        "{missing} is missing although {present} is there; restore it from a backup, or move both away to make new ones"
    )]
    Half { missing: PathBuf, present: PathBuf },
    #[error("{key} does not belong to {certificate}: the public keys differ; restore the pair from a backup")]
    Mismatch { key: PathBuf, certificate: PathBuf },
    #[error("cannot make a certificate for {subject}: {cause}")]
    Sign { subject: String, cause: String },
}

impl PkiError {
    pub(super) fn unusable(path: &Path, cause: impl std::fmt::Display) -> Self {
        let directory = path.parent().unwrap_or(path).to_owned();
        Self::Unusable { path: path.to_owned(), directory, cause: cause.to_string() }
    }
}

pub(super) fn make_directory(path: &Path) -> Result<(), PkiError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|cause| PkiError::Io {
        action: "create the directory",
        path: path.to_owned(),
        cause,
    })
}

/// The file's text; `None` when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(PkiError::Io { action: "read", path: path.to_owned(), cause }),
    }
}

/// Writes a private file: whole and on disk, or not at all.
pub(super) fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    let temporary = path.with_extension("new");
    let attempt = || {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    attempt().map_err(|cause| {
        // Half of a file on a full disk takes room, and is nobody's.
        let _ = std::fs::remove_file(&temporary);
        PkiError::Io { action: "write", path: path.to_owned(), cause }
    })
}

/// `sa.key` and `sa.pub`: the key that signs service-account tokens.
pub(super) fn load_or_create_signing_key(directory: &Path) -> Result<String, PkiError> {
    let (key_path, public_path) = (directory.join("sa.key"), directory.join("sa.pub"));
    match (read(&key_path)?, read(&public_path)?) {
        (Some(pem), public) => {
            let public_pem = public_key_pem(&pem).map_err(|e| PkiError::unusable(&key_path, e))?;
            match public {
                // The public half follows from the private one; only a different one is a fault.
                None => write(&public_path, &public_pem)?,
                Some(found) if same_pem(&found, &public_pem) => {}
                Some(_) => return Err(PkiError::Mismatch { key: key_path, certificate: public_path }),
            }
            Ok(pem)
        }
        (None, Some(_)) => Err(PkiError::Half { missing: key_path, present: public_path }),
        (None, None) => {
            let key = KeyPair::generate()
                .map_err(|e| PkiError::Sign { subject: "service accounts".into(), cause: e.to_string() })?;
            let pem = key.serialize_pem();
            // The key first: what a crash leaves then can be completed.
            write(&key_path, &pem)?;
            write(&public_path, &key.public_key_pem())?;
            Ok(pem)
        }
    }
}

fn same_pem(a: &str, b: &str) -> bool {
    a.split_whitespace().eq(b.split_whitespace())
}

fn public_key_pem(private: &str) -> Result<String, String> {
    let key = crate::token::SigningKey::from_pem(private).map_err(|e| e.to_string())?;
    Ok(crate::pem::encode("PUBLIC KEY", &key.public_key().spki_der()))
}

/// Whether a key is the one that a certificate's public key belongs to.
pub(super) fn belongs(key: &KeyPair, certificate_der: &[u8]) -> Result<bool, String> {
    use x509_parser::prelude::FromDer;
    let (_, certificate) =
        x509_parser::certificate::X509Certificate::from_der(certificate_der).map_err(|e| e.to_string())?;
    Ok(certificate.public_key().raw == key.subject_public_key_info())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        std::fs::create_dir(&path).unwrap();
        write(&path, "text").expect_err("a directory is in its place");
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["a.key"]);
    }
}

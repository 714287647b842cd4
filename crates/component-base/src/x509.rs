//! Whom a certificate, or a request for one, names.

use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// What Kubernetes reads of a subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The user. Of several the last, as Go has it: all must take the same one for the name of who asks. Empty where there
    /// is none.
    pub common_name: String,
    /// The groups.
    pub organizations: Vec<String>,
}

impl Subject {
    /// What cannot be read is an error and not left out: somebody else might read it.
    pub fn of(name: &X509Name<'_>) -> Result<Self, String> {
        Ok(Self {
            common_name: texts(name.iter_common_name())?.pop().unwrap_or_default(),
            organizations: texts(name.iter_organization())?,
        })
    }

    pub fn of_certificate(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|e| format!("the certificate cannot be read: {e}"))?;
        Self::of(certificate.subject())
    }
}

fn texts<'a>(attributes: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Result<Vec<String>, String> {
    attributes.map(|a| a.as_str().map(str::to_owned).map_err(|e| format!("its subject cannot be read: {e}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name of attributes: the last number of `2.5.4.…`, the ASN.1 type and the text.
    fn subject(attributes: &[(u8, u8, &[u8])]) -> Result<Subject, String> {
        let wrap = |tag: u8, inner: Vec<u8>| [&[tag, inner.len() as u8][..], &inner].concat();
        let one = |(kind, tag, text): &(u8, u8, &[u8])| {
            let oid = vec![6, 3, 0x55, 4, *kind];
            wrap(0x31, wrap(0x30, [oid, wrap(*tag, text.to_vec())].concat()))
        };
        let der = wrap(0x30, attributes.iter().flat_map(one).collect());
        Subject::of(&X509Name::from_der(&der).unwrap().1)
    }

    #[test]
    fn the_last_common_name_counts() {
        let got = subject(&[(3, 12, b"system:admin"), (10, 19, b"a"), (3, 12, b"mallory"), (10, 12, b"b")]).unwrap();
        assert_eq!((got.common_name.as_str(), got.organizations), ("mallory", vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(subject(&[]), Ok(Subject::default()));
    }

    #[test]
    fn what_cannot_be_read_is_not_left_out() {
        // UTF-8 that is none; a number in place of text.
        assert!(subject(&[(3, 12, b"a"), (3, 12, b"\xff")]).is_err());
        assert!(subject(&[(3, 12, b"a"), (10, 2, b"\x01")]).is_err());
        assert!(Subject::of_certificate(b"rubbish").is_err());
    }
}

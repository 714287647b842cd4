//! Signs certificate requests, as upstream's cluster signer does (`pkg/controller/certificates/authority`). A certificate
//! says what was read of its request and judged: the request's own extensions and whatever else it holds do not get in.

use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use super::SigningRequest;
use crate::der::{self, element, sequence};
use crate::pem;
use crate::token::{Curve, sec1};

/// Clocks that lag a little accept what is signed now.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// What lives shorter is not shortened by [`BACKDATE`].
const SHORT: Duration = Duration::from_secs(8 * 3600);

/// Usages that are bits of the extension `keyUsage`, by their place.
const KEY_USAGES: [(&str, u32); 10] = [
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];
/// Usages that are identifiers in `extKeyUsage`, in the order in which they are written.
const EXTENDED_USAGES: [(&str, &[u32]); 13] = [
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];

enum Key {
    Rsa(RsaKeyPair),
    Ec { pair: EcdsaKeyPair, algorithm: &'static [u32] },
}

/// An authority's certificate and key, for requests.
pub struct RequestSigner {
    /// The authority's subject, as it stands in its certificate.
    issuer: Vec<u8>,
    key_id: Option<Vec<u8>>,
    not_after: Timestamp,
    key: Key,
}

impl std::fmt::Debug for RequestSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestSigner").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl RequestSigner {
    /// From an authority's certificate and its key: RSA or ECDSA, in PKCS#8, PKCS#1 or SEC 1.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, String> {
        let block = pem::decode(certificate)?.into_iter().find(|b| b.label == "CERTIFICATE");
        let block = block.ok_or("it holds no CERTIFICATE block")?;
        let (_, parsed) = X509Certificate::from_der(&block.der).map_err(|e| e.to_string())?;
        if !parsed.is_ca() {
            return Err("its certificate is not an authority's".to_owned());
        }
        let key = Key::from_pem(key)?;
        if key.public() != &*parsed.public_key().subject_public_key.data {
            return Err("the key does not belong to the certificate".to_owned());
        }
        let key_id = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let end = Timestamp::from_second(parsed.validity().not_after.timestamp());
        let not_after = end.map_err(|e| format!("its end is out of range: {e}"))?;
        Ok(Self { issuer: parsed.subject().as_raw().to_vec(), key_id, not_after, key })
    }

    /// Signs what has been judged, for `ttl` at most, and not beyond the authority's own end. Answers PEM.
    pub fn sign(
        &self,
        request: &SigningRequest,
        usages: &[String],
        ttl: Duration,
        now: Timestamp,
    ) -> Result<String, String> {
        let failed = "the system gives no random numbers";
        if now >= self.not_after {
            return Err(format!("the signer has expired: NotAfter={}", self.not_after));
        }
        let mut end = now + SignedDuration::try_from(ttl).map_err(|e| e.to_string())?;
        if ttl >= SHORT {
            end -= BACKDATE;
        }
        let mut serial = [0; 16];
        SystemRandom::new().fill(&mut serial).map_err(|_| failed)?;
        let algorithm = self.key.algorithm();
        let body = sequence(&[
            element(0xa0, &der::integer(&[2])),
            der::integer(&serial),
            algorithm.clone(),
            self.issuer.clone(),
            sequence(&[der::time(now - BACKDATE), der::time(end.min(self.not_after))]),
            subject(request),
            request.public_key.clone(),
            element(0xa3, &sequence(&self.extensions(request, usages)?)),
        ]);
        let signature = self.key.sign(&body).ok_or(failed)?;
        Ok(pem::encode("CERTIFICATE", &sequence(&[body, algorithm, der::bits(&signature)])))
    }

    fn extensions(&self, request: &SigningRequest, usages: &[String]) -> Result<Vec<Vec<u8>>, String> {
        let known = |usage: &str| {
            KEY_USAGES.iter().any(|(name, _)| *name == usage) || EXTENDED_USAGES.iter().any(|(name, _)| *name == usage)
        };
        let unknown: Vec<&String> = usages.iter().filter(|usage| !known(usage)).collect();
        if !unknown.is_empty() {
            return Err(format!("unrecognized usage values: {unknown:?}"));
        }
        let asked = |name: &str| usages.iter().any(|usage| usage == name);
        let mut out = Vec::new();
        let places = KEY_USAGES.iter().filter(|(name, _)| asked(name)).map(|(_, place)| *place);
        let bits = places.fold(0_u16, |bits, place| bits | 0x8000 >> place);
        if bits != 0 {
            // Named bits: trailing zeros are not written.
            let unused = bits.trailing_zeros() as u8;
            let bytes = if bits & 0xff == 0 { vec![(bits >> 8) as u8] } else { bits.to_be_bytes().to_vec() };
            let content = [&[unused % 8][..], &bytes].concat();
            out.push(extension(&[2, 5, 29, 15], true, &element(0x03, &content)));
        }
        let mut extended: Vec<Vec<u8>> =
            EXTENDED_USAGES.iter().filter(|(name, _)| asked(name)).map(|(_, oid)| der::oid(oid)).collect();
        extended.dedup();
        if !extended.is_empty() {
            out.push(extension(&[2, 5, 29, 37], false, &sequence(&extended)));
        }
        // No authority, whatever the request says.
        out.push(extension(&[2, 5, 29, 19], true, &sequence(&[])));
        if let Some(id) = &self.key_id {
            out.push(extension(&[2, 5, 29, 35], false, &sequence(&[element(0x80, id)])));
        }
        let mut names: Vec<Vec<u8>> = Vec::new();
        names.extend(request.dns_names.iter().map(|name| element(0x82, name.as_bytes())));
        names.extend(request.emails.iter().map(|email| element(0x81, email.as_bytes())));
        names.extend(request.ips.iter().map(|ip| match ip {
            IpAddr::V4(ip) => element(0x87, &ip.octets()),
            IpAddr::V6(ip) => element(0x87, &ip.octets()),
        }));
        names.extend(request.uris.iter().map(|uri| element(0x86, uri.as_bytes())));
        if !names.is_empty() {
            let is_all_there_is = request.common_name.is_empty() && request.organizations.is_empty();
            out.push(extension(&[2, 5, 29, 17], is_all_there_is, &sequence(&names)));
        }
        Ok(out)
    }
}

fn extension(oid: &[u32], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { element(0x01, &[0xff]) } else { Vec::new() };
    sequence(&[der::oid(oid), critical, der::octets(value)])
}

/// The groups as one set, then the name.
fn subject(request: &SigningRequest) -> Vec<u8> {
    let attribute = |oid: &[u32], text: &str| sequence(&[der::oid(oid), der::string(text)]);
    let mut parts = Vec::new();
    if !request.organizations.is_empty() {
        let mut set: Vec<Vec<u8>> = request.organizations.iter().map(|o| attribute(&[2, 5, 4, 10], o)).collect();
        // The elements of a set have an order of their own (X.690, 11.6).
        set.sort();
        parts.push(element(0x31, &set.concat()));
    }
    if !request.common_name.is_empty() {
        parts.push(element(0x31, &attribute(&[2, 5, 4, 3], &request.common_name)));
    }
    sequence(&parts)
}

impl Key {
    fn from_pem(text: &str) -> Result<Self, String> {
        const P256: &[u32] = &[1, 2, 840, 10_045, 4, 3, 2];
        const P384: &[u32] = &[1, 2, 840, 10_045, 4, 3, 3];
        let random = SystemRandom::new();
        let block = pem::decode(text)?.into_iter().find(|b| b.label.ends_with("PRIVATE KEY"));
        let block = block.ok_or("it holds no private key")?;
        match block.label.as_str() {
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(&block.der).map(Self::Rsa).map_err(|e| e.to_string()),
            "EC PRIVATE KEY" => {
                let (scalar, point) =
                    sec1(&block.der, Curve::P256).ok_or("its EC key is not on P-256; write it as PKCS#8")?;
                let signing = &ECDSA_P256_SHA256_ASN1_SIGNING;
                EcdsaKeyPair::from_private_key_and_public_key(signing, scalar, point, &random)
                    .map(|pair| Self::Ec { pair, algorithm: P256 })
                    .map_err(|e| e.to_string())
            }
            _ => {
                for (signing, algorithm) in
                    [(&ECDSA_P256_SHA256_ASN1_SIGNING, P256), (&ECDSA_P384_SHA384_ASN1_SIGNING, P384)]
                {
                    if let Ok(pair) = EcdsaKeyPair::from_pkcs8(signing, &block.der, &random) {
                        return Ok(Self::Ec { pair, algorithm });
                    }
                }
                let rsa = RsaKeyPair::from_pkcs8(&block.der);
                rsa.map(Self::Rsa).map_err(|e| format!("its key is neither RSA nor ECDSA on P-256 or P-384: {e}"))
            }
        }
    }

    fn public(&self) -> &[u8] {
        match self {
            Self::Rsa(pair) => pair.public_key().as_ref(),
            Self::Ec { pair, .. } => pair.public_key().as_ref(),
        }
    }

    /// How it signs, as an `AlgorithmIdentifier`.
    fn algorithm(&self) -> Vec<u8> {
        match self {
            Self::Rsa(_) => sequence(&[der::oid(&[1, 2, 840, 113_549, 1, 1, 11]), element(0x05, &[])]),
            Self::Ec { algorithm, .. } => sequence(&[der::oid(algorithm)]),
        }
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Self::Ec { pair, .. } => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
        }
    }
}

#[cfg(test)]
#[path = "request_signer_tests.rs"]
mod tests;

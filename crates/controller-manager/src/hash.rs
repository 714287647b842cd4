//! The hash in `pod-template-hash` and `controller-revision-hash`: stable, and written with upstream's alphabet, which
//! holds neither vowels (no words) nor look-alikes.

use kybern_api::core::v1::PodTemplateSpec;
use kybern_api::encode;

/// `k8s.io/apimachinery/pkg/util/rand`'s alphabet.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a, 32 bits, over the template's JSON and the number of collisions so far.
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let json = encode::pod_template(template).to_string();
    let mut bytes = json.into_bytes();
    if let Some(collisions) = collisions {
        bytes.extend_from_slice(&collisions.to_le_bytes());
    }
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_templates_have_equal_hashes() {
        let mut template = PodTemplateSpec::default();
        let first = template_hash(&template, None);
        assert_eq!(first, template_hash(&template.clone(), None));
        assert!(first.len() <= 10 && first.bytes().all(|b| ALPHABET.contains(&b)), "{first}");
        assert_ne!(first, template_hash(&template, Some(1)));
        template.metadata.get_or_insert_default().labels.get_or_insert_default().insert("a".into(), "b".into());
        assert_ne!(first, template_hash(&template, None));
    }
}

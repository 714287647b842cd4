//! Which API server this is among those of a cluster.

/// `apiserver-…`: upstream's, from the hash of the machine's name.
pub(super) fn server_id() -> String {
    of_host(&host())
}

/// The machine's name.
pub(super) fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

fn of_host(name: &str) -> String {
    let mut hashed = Vec::new();
    for part in [name, "kube-apiserver"] {
        hashed.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        hashed.extend(part.as_bytes());
    }
    let hash = ring::digest::digest(&ring::digest::SHA256, &hashed);
    format!("apiserver-{}", base32(&hash.as_ref()[..16]))
}

/// In lower case, without padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let digit = |five: &[u8]| {
        let number = five.iter().fold(0, |number, bit| number << 1 | bit) << (5 - five.len());
        char::from(ALPHABET[usize::from(number)])
    };
    bits.chunks(5).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_upstreams() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(base32(b"fo"), "mzxq");
        let id = of_host("x");
        assert_eq!(id.len(), "apiserver-".len() + 26);
    }
}

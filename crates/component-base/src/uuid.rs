//! Random UUIDs (RFC 9562, version 4): of objects, requests and tokens.

/// A new one. Ends the program where the kernel gives no random numbers.
pub fn v4() -> String {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).unwrap_or_else(|error| panic!("the kernel gives no random numbers: {error}"));
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::v4;

    #[test]
    fn they_are_of_version_4() {
        for _ in 0..100 {
            let uuid = v4();
            let at = |i: usize| uuid.as_bytes()[i];
            assert_eq!((uuid.len(), [8, 13, 18, 23].map(at), at(14)), (36, *b"----", b'4'));
            assert!(b"89ab".contains(&at(19)) && uuid != v4(), "{uuid}");
        }
    }
}

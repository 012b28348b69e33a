//! SHA-256, and comparing without telling where two values differ.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::model::Digest;

/// The SHA-256 digest of `bytes` (FIPS 180-4).
///
/// Fit to store of a secret only when the secret has full strength, as tokens do; what people choose or type goes
/// through `password` or an HMAC.
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Whether two values are equal, in a time that depends on their lengths only.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_digest() {
        // FIPS 180-2, appendix B.1.
        let expected = [
            0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96,
            0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad,
        ];
        assert_eq!(sha256(b"abc").as_bytes(), &expected);
    }

    proptest! {
        #[test]
        fn same_is_equality(a: Vec<u8>, b: Vec<u8>) {
            prop_assert_eq!(same(&a, &b), a == b);
            prop_assert!(same(&a, &a.clone()));
        }
    }
}

//! The text of personal API tokens: `np_`, 32 random bytes in base 62, and a checksum in base 62.
//!
//! The prefix lets secret scanners and the gateway know one on sight; the checksum lets both reject a mistyped or
//! invented one without a look-up. It is no protection: only the digest in the store decides.

use zeroize::Zeroizing;

use super::random;
use crate::model::Secret;

/// What every API token begins with.
pub const PREFIX: &str = "np_";

/// Characters that 32 bytes take: 62^43 is just above 2^256.
const RANDOM_LENGTH: usize = 43;

/// Characters that a CRC-32 takes: 62^6 is above 2^32.
const CHECKSUM_LENGTH: usize = 6;

/// Bytes in a token.
const LENGTH: usize = PREFIX.len() + RANDOM_LENGTH + CHECKSUM_LENGTH;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new token: 52 characters with 256 bits of randomness.
pub fn generate() -> Secret<String> {
    let random = Zeroizing::new(random::bytes::<32>());
    let mut text = String::with_capacity(LENGTH);
    text.push_str(PREFIX);
    push_base62::<RANDOM_LENGTH>(&mut text, random.as_slice());
    let checksum = crc32(text.as_bytes());
    push_base62::<CHECKSUM_LENGTH>(&mut text, &checksum.to_be_bytes());
    Secret::new(text)
}

/// Whether a credential claims to be an API token of ours, and so must never reach an upstream.
pub fn looks_like(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// Whether a text has a token's length, alphabet and checksum. Says nothing about whether it was ever issued.
pub fn is_well_formed(text: &str) -> bool {
    let Some(body) = text.strip_prefix(PREFIX).filter(|_| text.len() == LENGTH) else { return false };
    let Some((signed, checksum)) = text.split_at_checked(LENGTH - CHECKSUM_LENGTH) else { return false };
    if !body.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return false;
    }
    let mut expected = String::with_capacity(CHECKSUM_LENGTH);
    push_base62::<CHECKSUM_LENGTH>(&mut expected, &crc32(signed.as_bytes()).to_be_bytes());
    expected == checksum
}

/// Appends a big-endian number as `WIDTH` base-62 digits, which must be enough to hold it.
fn push_base62<const WIDTH: usize>(text: &mut String, number: &[u8]) {
    let mut number = Zeroizing::new(number.to_vec());
    let mut digits = Zeroizing::new([b'0'; WIDTH]);
    for digit in digits.iter_mut().rev() {
        // One step of long division by 62; the remainder is the next digit from the right.
        let mut remainder = 0_u32;
        for byte in number.iter_mut() {
            let part = remainder * 256 + u32::from(*byte);
            *byte = u8::try_from(part / 62).unwrap_or(u8::MAX);
            remainder = part % 62;
        }
        if let Some(&character) = usize::try_from(remainder).ok().and_then(|at| ALPHABET.get(at)) {
            *digit = character;
        }
    }
    text.extend(digits.iter().map(|&digit| char::from(digit)));
}

/// CRC-32 as in zlib and Ethernet (ISO 3309, reflected polynomial 0xEDB88320).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn base62<const WIDTH: usize>(number: &[u8]) -> String {
        let mut text = String::new();
        push_base62::<WIDTH>(&mut text, number);
        text
    }

    #[test]
    fn known_checksum() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn known_numbers() {
        assert_eq!(base62::<6>(&[0, 0, 0, 0]), "000000");
        assert_eq!(base62::<6>(&61_u32.to_be_bytes()), "00000z");
        assert_eq!(base62::<6>(&62_u32.to_be_bytes()), "000010");
        assert_eq!(base62::<6>(&u32::MAX.to_be_bytes()), "4gfFC3");
        // The largest number still has room: nothing of the 256 bits is lost.
        let largest = base62::<RANDOM_LENGTH>(&[0xff; 32]);
        assert!(largest.as_str() > base62::<RANDOM_LENGTH>(&[0xfe; 32]).as_str());
        assert_ne!(largest.as_bytes()[0], b'0');
    }

    #[test]
    fn tokens_are_well_formed_and_different() {
        let (a, b) = (generate(), generate());
        assert_ne!(a, b);
        for token in [&a, &b] {
            assert_eq!(token.expose().len(), 52);
            assert!(looks_like(token.expose()) && is_well_formed(token.expose()));
        }
    }

    #[test]
    fn others_are_not() {
        let token = generate();
        let token = token.expose();
        let (body, shorter) = (token.strip_prefix(PREFIX).unwrap(), token.get(..51).unwrap());
        let other_prefix = format!("NP_{body}");
        for bad in
            ["", "np_", "np", "Bearer", body, shorter, &other_prefix, &format!("{token}0"), &format!("{shorter}é"), &format!("é{token}")]
        {
            assert!(!is_well_formed(bad), "{bad:?}");
        }
        assert!(!looks_like("NP_x") && looks_like("np_"));
    }

    proptest! {
        #[test]
        fn any_changed_character_is_noticed(at in 3_usize..52, to in "[0-9A-Za-z_é]") {
            let token = generate();
            let mut changed: Vec<char> = token.expose().chars().collect();
            prop_assume!(changed[at].to_string() != to);
            changed[at] = to.chars().next().unwrap();
            prop_assert!(!is_well_formed(&changed.into_iter().collect::<String>()));
        }

        #[test]
        fn nothing_panics(text in ".*", tail in "np_.{43,52}") {
            let _: bool = is_well_formed(&text) | is_well_formed(&tail) | looks_like(&text);
        }

        #[test]
        fn numbers_keep_their_order(a: [u8; 32], b: [u8; 32]) {
            // The alphabet is in ASCII order, so a fixed width sorts like the number: a bijection onto its image.
            prop_assert_eq!(a.cmp(&b), base62::<RANDOM_LENGTH>(&a).cmp(&base62::<RANDOM_LENGTH>(&b)));
        }
    }
}

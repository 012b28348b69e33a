//! The master key: real randomness, or nothing.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);

/// What people write for a key when an example told them to change it.
const PLACEHOLDERS: [&str; 7] = ["changeme", "change-me", "change_me", "secret", "password", "example", "nullpass"];

const HOW: &str = "make one with `openssl rand -base64 32`";

/// 32 bytes in base64. Refused when it was visibly not drawn at random (requirement NP-4): a text, a placeholder, or
/// bytes that repeat or count. A random key is mistaken for one of these less than once in ten million.
pub(super) fn master_key(text: &str) -> Result<Vec<u8>, String> {
    let decoded = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).map(Zeroizing::new);
    let bytes = decoded.map_err(|_| format!("is not base64; {HOW}"))?;
    if bytes.len() != 32 {
        return Err(format!("is {} bytes long, but must be exactly 32; {HOW}", bytes.len()));
    }
    let lower = Zeroizing::new(text.to_ascii_lowercase());
    if PLACEHOLDERS.iter().any(|placeholder| lower.contains(placeholder)) {
        return Err(format!("is a placeholder, which anybody can guess; {HOW}"));
    }
    if bytes.iter().all(|b| b.is_ascii_graphic() || *b == b' ') {
        return Err(format!("is text, which can be guessed; {HOW}"));
    }
    let steps: BTreeSet<u8> = bytes.iter().zip(bytes.iter().skip(1)).map(|(a, b)| b.wrapping_sub(*a)).collect();
    if steps.len() == 1 || bytes.iter().collect::<BTreeSet<_>>().len() < 12 {
        return Err(format!("repeats itself, which can be guessed; {HOW}"));
    }
    Ok(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    // NP-4: a key that anybody could guess does not start.
    #[test]
    fn weak_keys_are_refused() {
        let weak = |bytes: &[u8]| master_key(&STANDARD.encode(bytes)).unwrap_err();
        assert!(weak(&[0; 32]).contains("repeats"));
        assert!(weak(&[0xff; 32]).contains("repeats"));
        assert!(weak(&(0..32).collect::<Vec<u8>>()).contains("repeats"));
        assert!(weak(&[1, 2, 3, 200].repeat(8)).contains("repeats"));
        assert!(weak(b"your-very-own-key-your-very-own!").contains("text"));
        assert!(weak(&[7; 31]).contains("31 bytes"));
        assert!(weak(&[7; 33]).contains("33 bytes"));
        assert!(master_key("your-secret-key").is_err());
        assert!(master_key("secretsecretsecretsecretsecretsecretsecretx=").is_err());
        assert!(master_key("not base64!").unwrap_err().contains("not base64"));
        assert!(master_key("").is_err());
    }

    #[test]
    fn a_random_key_is_taken_in_every_spelling_of_base64() {
        let key: Vec<u8> =
            (0..32u8).map(|i| i.wrapping_mul(i).wrapping_mul(167).wrapping_add(i.wrapping_mul(59)).wrapping_add(251)).collect();
        for text in [STANDARD.encode(&key), URL_SAFE.encode(&key), STANDARD.encode(&key).trim_end_matches('=').to_owned()] {
            assert_eq!(master_key(&text).as_deref(), Ok(&key[..]), "{text}");
        }
    }
}

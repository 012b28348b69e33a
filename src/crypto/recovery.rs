//! Recovery codes: what gets a person in whose authenticator is lost. Short enough to type, so they are kept as HMACs
//! under the user's data key and never as plain digests (contract, "At rest").

use zeroize::Zeroizing;

use super::random;
use crate::model::Secret;

/// Crockford's base 32 in lower case: no `i`, `l`, `o` or `u`, which look like digits or make words.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Characters in a code without its dash; each carries five bits, so a code has fifty.
const LENGTH: usize = 10;

/// Where the dash is.
const HALF: usize = LENGTH / 2;

/// `count` new codes of the form `xxxxx-xxxxx`, each already in the form that [`normalise`] gives.
pub fn generate(count: usize) -> Vec<Secret<String>> {
    (0..count).map(|_| written(random::bytes::<LENGTH>().map(|byte| byte % 32))).collect()
}

/// The one form of a code that a person typed in any case, with spaces and dashes anywhere, and with `o`, `i` and `l`
/// for the digits they look like. `None`: it can't be a code.
pub fn normalise(text: &str) -> Option<Secret<String>> {
    let mut values = Zeroizing::new([0_u8; LENGTH]);
    let mut places = values.iter_mut();
    for byte in text.bytes().filter(|byte| !matches!(byte, b'-' | b' ' | b'\t' | b'\r' | b'\n')) {
        *places.next()? = value(byte)?;
    }
    if places.next().is_some() {
        return None;
    }
    Some(written(*values))
}

/// A character's five bits.
fn value(byte: u8) -> Option<u8> {
    let byte = match byte.to_ascii_lowercase() {
        b'o' => b'0',
        b'i' | b'l' => b'1',
        other => other,
    };
    ALPHABET.iter().position(|&known| known == byte).and_then(|at| u8::try_from(at).ok())
}

/// The text of ten five-bit values.
fn written(values: [u8; LENGTH]) -> Secret<String> {
    let values = Zeroizing::new(values);
    let mut text = String::with_capacity(LENGTH + 1);
    for (place, value) in values.iter().enumerate() {
        if place == HALF {
            text.push('-');
        }
        text.extend(ALPHABET.get(usize::from(*value)).map(|&byte| char::from(byte)));
    }
    Secret::new(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn normal(text: &str) -> Option<String> {
        normalise(text).map(|code| code.expose().clone())
    }

    #[test]
    fn codes_are_different_and_normal() {
        let codes = generate(200);
        let texts: BTreeSet<_> = codes.iter().map(|code| code.expose().clone()).collect();
        assert_eq!(texts.len(), 200);
        for text in &texts {
            assert_eq!((text.len(), text.find('-')), (11, Some(5)));
            assert_eq!(normal(text).as_deref(), Some(text.as_str()));
        }
        // Every character of the alphabet turns up among two thousand.
        let used: BTreeSet<_> = texts.iter().flat_map(|text| text.bytes()).filter(|byte| *byte != b'-').collect();
        assert_eq!(used.len(), 32);
        assert!(generate(0).is_empty());
    }

    #[test]
    fn typing_is_forgiven() {
        for text in ["ab0d1-fgh1k", "AB0D1FGH1K", " abod i-fgh lk\n", "aBoDL--FGHiK"] {
            assert_eq!(normal(text).as_deref(), Some("ab0d1-fgh1k"), "{text:?}");
        }
        for text in ["", "-", "ab0d1-fgh1", "ab0d1-fgh1kk", "ab0d1-fgh1u", "ab0d1_fgh1k", "ab0d1-fgh1é", "ａb0d1-fgh1k"] {
            assert_eq!(normal(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn normalising_never_panics_and_is_idempotent(text in ".*") {
            if let Some(once) = normal(&text) {
                prop_assert_eq!(normal(&once), Some(once));
            }
        }

        #[test]
        fn likely_texts_are_normalised(text in "[0-9a-zA-Z -]{8,14}") {
            if let Some(once) = normal(&text) {
                prop_assert_eq!(normal(&once), Some(once));
            }
        }
    }
}

//! What must hold for whatever is presented as an API token or found as a sealed value: for the fuzzer, and for the tests
//! that replay its corpus.

use std::sync::LazyLock;

use super::api_token::{PREFIX, is_well_formed, looks_like};
use super::seal::{MasterKey, Purpose, StorageKey};
use crate::model::{Sealed, UserId};

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Reads a text as an API token, and makes a token of its bytes: a text is well formed exactly if another implementation of
/// the checksum agrees, and not if any one character is another.
///
/// # Panics
///
/// If something that must hold does not.
pub fn api_token(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        judge(text);
    }
    // Fewer than 43 digits of base 62 are always a number of 32 bytes.
    let digit = |at: usize| data.get(at).and_then(|byte| DIGITS.get(usize::from(*byte) % 62)).copied().unwrap_or(b'0');
    let signed: String = PREFIX.chars().chain(['0']).chain((0..42).map(|at| char::from(digit(at)))).collect();
    let token = format!("{signed}{}", checksum(signed.as_bytes()));
    judge(&token);
    assert!(is_well_formed(&token), "{token}");
    let (at, other) = (usize::from(data.first().copied().unwrap_or(0)) % token.len(), char::from(data.last().copied().unwrap_or(b'x')));
    let changed: String = token.chars().enumerate().map(|(place, c)| if place == at { other } else { c }).collect();
    assert!(changed == token || !is_well_formed(&changed), "{changed} for {token}");
    for longer in [format!("{token}{other}"), format!("{other}{token}"), token.chars().skip(1).collect()] {
        assert!(!is_well_formed(&longer), "{longer}");
    }
}

fn judge(text: &str) {
    let sound = text.len() == 52
        && text.strip_prefix("np_").is_some_and(|body| body.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        && text.split_at_checked(46).is_some_and(|(signed, sum)| checksum(signed.as_bytes()) == sum);
    assert_eq!(is_well_formed(text), sound, "{text:?}");
    assert_eq!(looks_like(text), text.starts_with("np_"));
}

/// CRC-32 by long division of the message's polynomial (ISO 3309), in base 62.
fn checksum(message: &[u8]) -> String {
    let bit = |byte: u8, at: u32| byte.reverse_bits() >> (7 - at) & 1;
    let mut bits: Vec<u8> = message.iter().flat_map(|byte| (0..8).map(move |at| bit(*byte, at))).collect();
    bits.extend([0; 32]);
    let mut rest = 0_u64;
    for (at, bit) in bits.into_iter().enumerate() {
        // The first 32 bits are inverted.
        rest = rest << 1 | u64::from(bit ^ u8::from(at < 32));
        if rest >> 32 & 1 == 1 {
            rest ^= 0x1_04C1_1DB7;
        }
    }
    let mut number = u32::try_from(rest).map_or(0, |rest| !rest.reverse_bits());
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = usize::try_from(number % 62).ok().and_then(|at| DIGITS.get(at)).copied().unwrap_or_default();
        number /= 62;
    }
    digits.into_iter().map(char::from).collect()
}

const PURPOSES: [Purpose; 6] =
    [Purpose::DataKey, Purpose::SigningKey, Purpose::SessionClient, Purpose::AuditClient, Purpose::Totp, Purpose::PendingPost];

static KEY: LazyLock<Option<StorageKey>> = LazyLock::new(|| {
    let master: Vec<u8> = (1..=32).collect();
    MasterKey::from_bytes(&master).ok().map(|master| StorageKey::new(&master))
});

/// Opens bytes as a sealed value, which they are not, and seals them: they come back as they were, for this purpose and this
/// owner, and not after any change. The first three bytes say for whom and what is changed.
///
/// # Panics
///
/// If something that must hold does not.
pub fn sealed(data: &[u8]) {
    let Some(key) = KEY.as_ref() else { return assert!(KEY.is_some(), "the key is good") };
    let Some((&[who, at, change], plain)) = data.split_first_chunk::<3>() else { return };
    let found = Sealed(plain.to_vec());
    let user = UserId::from_bytes([who; 16]);
    for purpose in PURPOSES {
        assert!(key.open(purpose, &[who], &found).is_err(), "nobody sealed this");
    }
    assert!(key.data_key(user, &found).is_err(), "nobody sealed this");

    let Some(purpose) = PURPOSES.get(usize::from(who) % PURPOSES.len()).copied() else { return };
    let mut sealed = key.seal(purpose, &[who], plain);
    let opened = |purpose, owner: &[u8], sealed: &Sealed| key.open(purpose, owner, sealed).ok().map(|plain| plain.to_vec());
    assert_eq!(opened(purpose, &[who], &sealed).as_deref(), Some(plain), "it does not come back");
    for other in PURPOSES.into_iter().filter(|other| *other != purpose) {
        assert_eq!(opened(other, &[who], &sealed), None, "{purpose:?} opens as {other:?}");
    }
    for owner in [&[who, at][..], &[who.wrapping_add(1)], &[]] {
        assert_eq!(opened(purpose, owner, &sealed), None, "it opens for {owner:?} too");
    }
    let mut shorter = sealed.clone();
    shorter.0.pop();
    assert_eq!(opened(purpose, &[who], &shorter), None, "its end is missing");
    let place = usize::from(at) % sealed.0.len();
    if let Some(byte) = sealed.0.get_mut(place) {
        *byte ^= change;
    }
    assert_eq!(opened(purpose, &[who], &sealed).is_some(), change == 0, "byte {place} was changed by {change:#x}");
}

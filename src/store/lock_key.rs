//! How the key of a lock becomes bytes, in every backend: a letter for what is counted, then for whom.

use std::net::IpAddr;

use super::Error;
use crate::model::{Digest, LockKey, UserId};

const ACCOUNT: u8 = b'a';
const ADDRESS: u8 = b'i';
const PAIR: u8 = b'b';
const DEVICE: u8 = b'd';
const SECOND_FACTOR: u8 = b's';
const PENDING: u8 = b'p';

/// The bytes of a key.
pub(super) fn encoded(key: LockKey) -> Vec<u8> {
    fn address(ip: IpAddr) -> Vec<u8> {
        match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        }
    }
    match key {
        LockKey::Account(digest) => [&[ACCOUNT], digest.as_bytes().as_slice()].concat(),
        LockKey::Address(ip) => [&[ADDRESS], address(ip).as_slice()].concat(),
        LockKey::Pair(digest, ip) => [&[PAIR], digest.as_bytes().as_slice(), &address(ip)].concat(),
        LockKey::Device(digest) => [&[DEVICE], digest.as_bytes().as_slice()].concat(),
        LockKey::SecondFactor(user) => [&[SECOND_FACTOR], user.as_bytes().as_slice()].concat(),
        LockKey::Pending(digest) => [&[PENDING], digest.as_bytes().as_slice()].concat(),
    }
}

/// The key that [`encoded`] made. [`Error::Corrupt`]: it did not make these bytes.
pub(super) fn decoded(bytes: &[u8]) -> Result<LockKey, Error> {
    let address = |bytes: &[u8]| match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(four), _) => Some(IpAddr::from(four)),
        (Err(_), Ok(sixteen)) => Some(IpAddr::from(sixteen)),
        (Err(_), Err(_)) => None,
    };
    let digest = |bytes: &[u8]| bytes.try_into().ok().map(Digest);
    let key = match bytes.split_first() {
        Some((&ACCOUNT, rest)) => digest(rest).map(LockKey::Account),
        Some((&ADDRESS, rest)) => address(rest).map(LockKey::Address),
        Some((&PAIR, rest)) => rest.split_at_checked(32).and_then(|(name, from)| Some(LockKey::Pair(digest(name)?, address(from)?))),
        Some((&DEVICE, rest)) => digest(rest).map(LockKey::Device),
        Some((&SECOND_FACTOR, rest)) => rest.try_into().ok().map(|id| LockKey::SecondFactor(UserId::from_bytes(id))),
        Some((&PENDING, rest)) => digest(rest).map(LockKey::Pending),
        Some(_) | None => None,
    };
    key.ok_or_else(|| Error::Corrupt("a lock without a name".to_owned()))
}

/// Whether only a right password or an owner's device can make a lock with this key. Anybody can make the others, for
/// addresses and accounts that do not exist.
pub(super) fn is_owned(key: &[u8]) -> bool {
    matches!(key.first(), Some(&(DEVICE | SECOND_FACTOR)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_back() {
        let digest = Digest([b'x'; 32]);
        let addresses = ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"].map(|text| text.parse::<IpAddr>().unwrap());
        let keys = [LockKey::Account(digest), LockKey::Device(digest), LockKey::Pending(digest), LockKey::SecondFactor(UserId::new())];
        let keys = keys.into_iter().chain(addresses.map(LockKey::Address));
        for key in keys.chain(addresses.map(|address| LockKey::Pair(digest, address))) {
            let bytes = encoded(key);
            assert_eq!(decoded(&bytes).unwrap(), key);
            assert_eq!(is_owned(&bytes), matches!(key, LockKey::Device(_) | LockKey::SecondFactor(_)));
        }
        for bad in [&b""[..], b"a", b"i123", b"b0123456789abcdef0123456789abcdef", b"z0123456789abcdef"] {
            assert!(matches!(decoded(bad), Err(Error::Corrupt(_))), "{bad:?}");
        }
    }
}

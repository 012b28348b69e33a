use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn storage() -> StorageKey {
    let master: Vec<u8> = (1..=32).collect();
    StorageKey::new(&MasterKey::from_bytes(&master).unwrap())
}

fn opened(result: Result<Zeroizing<Vec<u8>>, Error>) -> Option<Vec<u8>> {
    result.ok().map(|plain| plain.to_vec())
}

// The stored form must never change under a release. These values come from another implementation of RFC 5869 and
// RFC 2104, so they also show that the derivation is what it says.
#[test]
fn derivations_are_stable() {
    let key = storage();
    assert_eq!(key.check_value()[..4], [24, 86, 17, 2]);
    assert_eq!(key.hmac("test", b"data").0[..4], [98, 114, 140, 147]);
}

#[test]
fn the_sealed_form_is_stable() {
    let sealed = Sealed(vec![
        1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 67, 6, 204, 34, 104, 72, 216, 4, 141, 81, 92, 24, 239, 178, 200, 71, 225, 196, 145, 80,
        123,
    ]);
    assert_eq!(opened(storage().open(Purpose::Totp, b"owner", &sealed)).as_deref(), Some(&b"plain"[..]));
}

#[test]
fn every_purpose_has_its_own_name_key_and_hmac() {
    let key = storage();
    let names: BTreeSet<_> = Purpose::ALL.iter().map(|purpose| purpose.name()).collect();
    assert_eq!(names.len(), Purpose::ALL.len());
    assert!(names.iter().all(|name| !name.contains('\0')));
    for sealing in Purpose::ALL {
        // The keys that are derived once are those that would be derived now.
        let afresh = seal(&key.keys.cipher(sealing), VERSION, &bound(VERSION, sealing, &[b"owner"]), b"plain");
        assert!(key.open(sealing, b"owner", &afresh).is_ok());
        let sealed = key.seal(sealing, b"owner", b"plain");
        for opening in Purpose::ALL {
            assert_eq!(key.open(opening, b"owner", &sealed).is_ok(), opening == sealing, "{sealing:?} as {opening:?}");
        }
    }
    assert_ne!(key.hmac("a", b"x"), key.hmac("b", b"x"));
    assert_ne!(key.hmac("a", b"x"), key.hmac("a", b"y"));
    assert_eq!(key.hmac("a", b"x"), storage().hmac("a", b"x"));
}

#[test]
fn sealing_twice_differs() {
    let key = storage();
    assert_ne!(key.seal(Purpose::Totp, b"o", b"p"), key.seal(Purpose::Totp, b"o", b"p"));
    assert_eq!(key.seal(Purpose::Totp, b"o", b"").0.len(), 1 + NONCE + 16);
}

#[test]
fn another_master_key_opens_nothing_and_is_noticed() {
    let other = StorageKey::new(&MasterKey::from_bytes(&random::bytes::<32>()).unwrap());
    assert_ne!(other.check_value(), storage().check_value());
    assert_ne!(other.hmac("a", b"x"), storage().hmac("a", b"x"));
    let sealed = storage().seal(Purpose::SigningKey, b"kid", b"secret");
    assert!(matches!(other.open(Purpose::SigningKey, b"kid", &sealed), Err(Error::Damaged)));
}

#[test]
fn unknown_versions_are_named() {
    let mut sealed = storage().seal(Purpose::Totp, b"o", b"p");
    sealed.0[0] = 2;
    assert!(matches!(storage().open(Purpose::Totp, b"o", &sealed), Err(Error::Version(2))));
}

// NP-11: what is sealed for one user opens for no other, and dies with the user's data key.
#[test]
fn data_keys_belong_to_their_user() {
    let key = storage();
    let (ada, bob) = (UserId::new(), UserId::new());
    let wrapped = key.new_data_key(ada);
    assert!(key.data_key(bob, &wrapped).is_err());
    let ada_key = key.data_key(ada, &wrapped).unwrap();
    let bob_key = key.data_key(bob, &key.new_data_key(bob)).unwrap();
    let successor = key.data_key(ada, &key.new_data_key(ada)).unwrap();

    let sealed = ada_key.seal(Purpose::SessionClient, b"session", b"203.0.113.7");
    assert_eq!(opened(ada_key.open(Purpose::SessionClient, b"session", &sealed)).as_deref(), Some(&b"203.0.113.7"[..]));
    assert!(ada_key.open(Purpose::SessionClient, b"another", &sealed).is_err());
    assert!(ada_key.open(Purpose::AuditClient, b"session", &sealed).is_err());
    assert!(bob_key.open(Purpose::SessionClient, b"session", &sealed).is_err());
    assert!(successor.open(Purpose::SessionClient, b"session", &sealed).is_err());
    assert!(key.open(Purpose::SessionClient, b"session", &sealed).is_err());
    assert_ne!(ada_key.hmac("recovery", b"code"), bob_key.hmac("recovery", b"code"));
    assert_ne!(ada_key.hmac("recovery", b"code"), key.hmac("recovery", b"code"));
}

#[test]
fn a_wrapped_key_of_another_length_is_refused() {
    let (key, user) = (storage(), UserId::new());
    let short = key.seal(Purpose::DataKey, user.as_bytes(), &[1; 31]);
    assert!(matches!(key.data_key(user, &short), Err(Error::Damaged)));
}

#[test]
fn debug_shows_no_key() {
    let (key, user) = (storage(), UserId::new());
    let data = key.data_key(user, &key.new_data_key(user)).unwrap();
    assert_eq!(format!("{key:?}"), "StorageKey(..)");
    assert_eq!(format!("{data:?}"), format!("DataKey(.. of {user})"));
}

proptest! {
    #[test]
    fn what_was_sealed_opens(owner: Vec<u8>, plain: Vec<u8>) {
        let key = storage();
        let sealed = key.seal(Purpose::AuditClient, &owner, &plain);
        prop_assert_eq!(opened(key.open(Purpose::AuditClient, &owner, &sealed)), Some(plain));
    }

    #[test]
    fn another_owner_opens_nothing(owner: Vec<u8>, other: Vec<u8>, plain: Vec<u8>) {
        prop_assume!(owner != other);
        let key = storage();
        prop_assert!(key.open(Purpose::AuditClient, &other, &key.seal(Purpose::AuditClient, &owner, &plain)).is_err());
    }

    #[test]
    fn any_flipped_bit_is_noticed(plain: Vec<u8>, at: prop::sample::Index, bit in 0_u8..8) {
        let key = storage();
        let mut sealed = key.seal(Purpose::Totp, b"o", &plain);
        let at = at.index(sealed.0.len());
        sealed.0[at] ^= 1 << bit;
        prop_assert!(key.open(Purpose::Totp, b"o", &sealed).is_err());
    }

    #[test]
    fn arbitrary_bytes_do_not_open(bytes: Vec<u8>, cut in 0_usize..40) {
        let key = storage();
        prop_assert!(key.open(Purpose::Totp, b"o", &Sealed(bytes)).is_err());
        let mut sealed = key.seal(Purpose::Totp, b"o", b"some plain text").0;
        sealed.truncate(cut);
        prop_assert!(key.open(Purpose::Totp, b"o", &Sealed(sealed)).is_err());
    }
}

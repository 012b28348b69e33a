//! Values to store.

use std::collections::{BTreeMap, BTreeSet};

use nullpass::clock::Timestamp;
use nullpass::config::Algorithm;
use nullpass::model::{
    Action, Amr, ApiToken, ApiTokenId, AuditEvent, Digest, Email, EventId, Fitness, Generation, Kid, KnownToken, Outcome, Sealed, Secret,
    Session, SessionId, TokenName, TokenScope, TwoFactor, User, UserId,
};
use nullpass::store::SigningKeyRecord;
use nullpass::store::chain::ChainKey;

pub(crate) fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

pub(crate) fn bytes(number: u8) -> [u8; 16] {
    let mut bytes = [7; 16];
    bytes[15] = number;
    bytes
}

pub(crate) fn digest(number: u64) -> Digest {
    let mut bytes = [9; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    Digest(bytes)
}

pub(crate) fn email(number: u64) -> Email {
    Email::parse(&format!("user{number}@example.com")).unwrap()
}

pub(crate) fn user(id: UserId, email: Email) -> User {
    User {
        id,
        revision: 1,
        email,
        display_name: None,
        avatar: None,
        groups: BTreeSet::new(),
        attributes: BTreeMap::new(),
        password: Secret::from("$argon2id$not-a-hash"),
        password_changed_at: at(1),
        two_factor: TwoFactor::default(),
        disabled_at: None,
        data_key: Sealed(vec![1; 61]),
        created_at: at(1),
        updated_at: at(1),
    }
}

pub(crate) fn token(number: u64, generation: u32) -> KnownToken {
    KnownToken { digest: digest(number), generation: Generation(generation), expires_at: at(1000) }
}

pub(crate) fn session(id: SessionId, user: UserId, expires_at: Timestamp) -> Session {
    Session {
        id,
        user,
        created_at: at(1),
        auth_time: at(1),
        amr: Amr::PASSWORD,
        fitness: Fitness::Full,
        expires_at,
        last_seen_at: at(1),
        generation: Generation(0),
        successor_seen_at: None,
        tokens: vec![token(0, 0)],
        client: Sealed(vec![2; 120]),
        cookie: true,
    }
}

pub(crate) fn api_token(id: ApiTokenId, user: UserId, expires_at: Option<Timestamp>) -> ApiToken {
    ApiToken {
        id,
        user,
        name: TokenName::parse("backup").unwrap(),
        digest: digest(1),
        scope: TokenScope::default(),
        created_at: at(1),
        expires_at,
        last_used_at: None,
    }
}

pub(crate) fn chain_key() -> ChainKey {
    ChainKey::new(zeroize::Zeroizing::new([5; 32]))
}

pub(crate) fn event(id: EventId, at: Timestamp, action: Action, user: Option<UserId>) -> AuditEvent {
    AuditEvent {
        id,
        at,
        action,
        outcome: Outcome::Success,
        user,
        actor: None,
        client: None,
        request_id: None,
        details: BTreeMap::from([("field".to_owned(), "name".to_owned())]),
    }
}

pub(crate) fn signing_key(kid: &str, created_at: Timestamp) -> SigningKeyRecord {
    SigningKeyRecord {
        kid: Kid(kid.to_owned()),
        algorithm: Algorithm::EdDSA,
        private: Sealed(vec![1; 77]),
        public_jwk: Some("{}".to_owned()),
        created_at,
        retired_at: None,
        token_life: Some(3600),
    }
}

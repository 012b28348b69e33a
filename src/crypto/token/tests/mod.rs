//! Tokens as they are made, broken and tampered with, by every algorithm.

mod anything;
mod claims;
mod forged;
mod keys;

use std::sync::LazyLock;

use serde_json::{Map, json};

use super::*;
use crate::model::{Digest, Generation, SessionId, UserId};

const ALGORITHMS: [Algorithm; 4] = [Algorithm::EdDSA, Algorithm::ES256, Algorithm::RS256, Algorithm::HS256];
const ISSUER: &str = "https://app.example.com";
const AUDIENCE: &str = "nullpass";
const LEEWAY: Duration = Duration::from_secs(30);
const NOW: i64 = 1_700_000_000;

/// One key of each algorithm, made once: RSA keys take their time.
static KEYS: LazyLock<Vec<KeyMaterial>> = LazyLock::new(|| ALGORITHMS.into_iter().map(made).collect());

fn made(algorithm: Algorithm) -> KeyMaterial {
    SigningKeyPair::generate(algorithm, now()).unwrap().into()
}

fn now() -> Timestamp {
    Timestamp::from_secs(NOW)
}

fn key(algorithm: Algorithm) -> &'static KeyMaterial {
    KEYS.iter().find(|key| key.algorithm == algorithm).unwrap()
}

fn ring_of(keys: Vec<KeyMaterial>, active: Algorithm) -> Result<Keyring, Error> {
    Keyring::new(keys, active, ISSUER, AUDIENCE, LEEWAY)
}

fn ring(active: Algorithm) -> Keyring {
    ring_of(KEYS.clone(), active).unwrap()
}

fn session() -> SessionClaims {
    let user_id = UserId::from_bytes([7; 16]);
    SessionClaims {
        user_id,
        email: "ada@example.com".parse().unwrap(),
        iat: NOW,
        exp: NOW + 3600,
        iss: String::new(),
        aud: String::new(),
        sub: user_id,
        jti: "jti".to_owned(),
        sid: SessionId::from_bytes([8; 16]),
        amr: vec!["pwd".to_owned(), "otp".to_owned()],
        auth_time: NOW,
        generation: Generation(3),
    }
}

fn pending() -> PendingClaims {
    PendingClaims {
        sub: UserId::from_bytes([7; 16]),
        jti: "jti".to_owned(),
        iat: NOW,
        exp: NOW + 300,
        iss: String::new(),
        aud: String::new(),
        pwd: NOW * 1000 + 123,
        browser: Some(Digest([9; 32])),
    }
}

fn assertion(aud: &str) -> AssertionClaims {
    AssertionClaims {
        sub: UserId::from_bytes([7; 16]),
        email: "ada@example.com".parse().unwrap(),
        groups: vec!["staff".parse().unwrap()],
        iss: String::new(),
        aud: aud.to_owned(),
        iat: NOW,
        exp: NOW + 60,
        method: "GET".to_owned(),
        host: "app.example.com".to_owned(),
        path: "/a".to_owned(),
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// The parts of a token as JSON and text.
fn parts(token: &str) -> (Value, Value, String) {
    let [header, payload, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let json = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    (json(header), json(payload), signature.to_owned())
}

/// Signs any header and payload, with a key of ours: what nobody else can do, and more than we do.
fn signed(header: &Value, payload: &Value, with: &KeyMaterial) -> String {
    let key = Key::new(with.clone()).unwrap();
    let message = format!("{}.{}", part(header), part(payload));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key.encoding, jwt_algorithm(with.algorithm)).unwrap();
    format!("{message}.{signature}")
}

/// A good session token's header and payload, changed.
fn changed(algorithm: Algorithm, change: impl FnOnce(&mut Map<String, Value>, &mut Map<String, Value>)) -> String {
    let (mut header, mut payload, _) = parts(ring(algorithm).sign_session(&session()).unwrap().expose());
    change(header.as_object_mut().unwrap(), payload.as_object_mut().unwrap());
    signed(&header, &payload, key(algorithm))
}

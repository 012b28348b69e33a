//! What must hold for whatever is presented as a token: for the fuzzer, and for the tests that replay its corpus.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::key::{Key, alg_name, is_asymmetric, jwt_algorithm};
use super::{AssertionClaims, KeyMaterial, Keyring, MAX_BYTES, PendingClaims, SessionClaims, SigningKeyPair, install_provider, peek};
use crate::clock::Timestamp;
use crate::config::Algorithm;
use crate::model::{Digest, Generation, Kid, Secret, SessionId, UserId};

const ISSUER: &str = "https://app.example.com";
const AUDIENCE: &str = "nullpass";
const UPSTREAM: &str = "app";
const LEEWAY: Duration = Duration::from_secs(30);
const NOW: i64 = 1_700_000_000;

/// The algorithms that are quick enough. The keys of the first two are always the same, so that an input can hold a token.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::EdDSA, Algorithm::HS256, Algorithm::ES256];

/// The beginning of an Ed25519 key in PKCS #8 (RFC 8410, section 7), before its 32 bytes.
const ED25519: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

static KEYS: LazyLock<Vec<KeyMaterial>> = LazyLock::new(|| {
    let fixed = |kid: &str, algorithm, private| KeyMaterial {
        kid: Kid(kid.to_owned()),
        algorithm,
        private: Secret::new(private),
        public_jwk: None,
        created_at: Timestamp::from_secs(NOW),
        retired_at: None,
    };
    install_provider();
    let edwards = fixed("ed", Algorithm::EdDSA, [&ED25519[..], &[7; 32]].concat());
    let shared = fixed("hs", Algorithm::HS256, (0..32).collect());
    let curve = SigningKeyPair::generate(Algorithm::ES256, Timestamp::from_secs(NOW)).ok().map(KeyMaterial::from);
    [edwards, shared].into_iter().chain(curve).collect()
});

static RINGS: LazyLock<Vec<Keyring>> = LazyLock::new(|| {
    let ring = |algorithm| Keyring::new(KEYS.clone(), algorithm, ISSUER, AUDIENCE, LEEWAY).ok();
    ALGORITHMS.into_iter().filter_map(ring).collect()
});

/// What is known of a token that was taken.
#[derive(Debug)]
enum Taken {
    Session(SessionClaims),
    Pending(PendingClaims),
    Assertion(AssertionClaims),
}

/// Verifies a token. The first byte says what is done with the others: `r` presents them as they are, `m` changes a good
/// token by them, `s` signs them with a key of ours, which nobody else can. Never is anything taken that we did not sign and
/// would not have signed so, nothing is good for two purposes, and what is taken is known to be ours.
///
/// # Panics
///
/// If something that must hold does not.
pub fn token(data: &[u8]) {
    assert_eq!(RINGS.len(), ALGORITHMS.len(), "the keys are good");
    match data.split_first() {
        Some((b'r', text)) => {
            let Ok(text) = str::from_utf8(text) else { return };
            if let Some(taken) = verify(text) {
                assert_eq!(resigned(&taken, text).as_deref(), Some(text), "nobody signed this");
            }
        }
        Some((b'm', changes)) => changed(changes),
        Some((b's', parts)) => signed(parts),
        Some(_) | None => {}
    }
}

/// Presents a text for every purpose at every ring; they have the same keys, so they must agree.
fn verify(text: &str) -> Option<Taken> {
    let now = Timestamp::from_secs(NOW);
    let ring = RINGS.first()?;
    let taken = [
        ring.verify_session(text, now).ok().map(Taken::Session),
        ring.verify_pending(text, now).ok().map(Taken::Pending),
        ring.verify_assertion(text, UPSTREAM, now).ok().map(Taken::Assertion),
    ];
    let mut taken = taken.into_iter().flatten();
    let (first, second) = (taken.next()?, taken.next());
    assert!(second.is_none(), "{first:?} is also {second:?}");
    assert!(ring.is_ours(text), "it is taken, but would be passed on");
    assert!(text.len() <= MAX_BYTES);
    let (iat, exp) = match &first {
        Taken::Session(claims) => {
            assert_eq!(claims.sub, claims.user_id);
            assert_eq!((claims.iss.as_str(), claims.aud.as_str()), (ISSUER, AUDIENCE));
            assert_eq!(ring.read_session(text).ok().as_ref(), Some(claims));
            (claims.iat, claims.exp)
        }
        Taken::Pending(claims) => {
            assert_eq!((claims.iss.as_str(), claims.aud.as_str()), (ISSUER, "nullpass#pending"));
            let life = i128::from(claims.exp) - i128::from(claims.iat);
            assert!(life <= 300, "a pending login for {life} s");
            (claims.iat, claims.exp)
        }
        Taken::Assertion(claims) => {
            assert_eq!((claims.iss.as_str(), claims.aud.as_str()), (ISSUER, UPSTREAM));
            (claims.iat, claims.exp)
        }
    };
    assert!(NOW < exp.saturating_add(30) && iat <= NOW + 30 && iat <= exp, "out of its time: {iat} to {exp}");
    Some(first)
}

/// The same claims, signed by us with the key that the token names. Two of the algorithms sign the same thing alike.
fn resigned(taken: &Taken, text: &str) -> Option<String> {
    let (header, signature) = (text.split('.').next()?, text.rsplit('.').next()?);
    let at =
        KEYS.iter().position(|key| peek(header).is_some_and(|header| header.get("kid").and_then(Value::as_str) == Some(&key.kid.0)))?;
    let ring = RINGS.get(at)?;
    let token = match taken {
        Taken::Session(claims) => ring.sign_session(claims),
        Taken::Pending(claims) => ring.sign_pending(claims),
        Taken::Assertion(claims) => ring.sign_assertion(claims),
    };
    let token = token.ok()?.expose().clone();
    // Each ECDSA signature is another one.
    if at == 2 { token.rsplit_once('.').map(|(signed, _)| format!("{signed}.{signature}")) } else { Some(token) }
}

/// A good token of one of the kinds, changed in up to eight places: where, how and by what.
fn changed(changes: &[u8]) {
    let Some((which, changes)) = changes.split_first() else { return };
    let Some(ring) = RINGS.get(usize::from(which / 3) % RINGS.len()) else { return };
    let (user, now) = (UserId::from_bytes([7; 16]), NOW);
    let Ok(email) = "ada@example.com".parse() else { return };
    let (iss, aud, jti) = (String::new(), UPSTREAM.to_owned(), "jti".to_owned());
    let good = match which % 3 {
        0 => ring.sign_session(&SessionClaims {
            user_id: user,
            email,
            iat: now,
            exp: now + 3600,
            iss,
            aud,
            sub: user,
            jti,
            sid: SessionId::from_bytes([8; 16]),
            amr: vec!["pwd".to_owned()],
            auth_time: now,
            generation: Generation(3),
        }),
        1 => ring.sign_pending(&PendingClaims {
            sub: user,
            jti,
            iat: now,
            exp: now + 300,
            iss,
            aud,
            pwd: now,
            browser: Some(Digest([9; 32])),
        }),
        _ => ring.sign_assertion(&AssertionClaims {
            sub: user,
            email,
            groups: Vec::new(),
            iss,
            aud,
            iat: now,
            exp: now + 60,
            method: "GET".to_owned(),
            host: "app.example.com".to_owned(),
            path: "/".to_owned(),
        }),
    };
    let Ok(good) = good else { return assert!(which % 3 == 2, "it is not signed") };
    assert!(verify(good.expose()).is_some(), "what was signed is not taken");
    let mut bytes = good.expose().clone().into_bytes();
    for change in changes.chunks_exact(4).take(8) {
        let &[high, low, how, byte] = change else { continue };
        let at = usize::from(u16::from_be_bytes([high, low])) % (bytes.len() + 1);
        match how % 3 {
            0 => bytes.insert(at, byte),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            _ => {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
        }
    }
    let Ok(text) = String::from_utf8(bytes) else { return };
    let taken = verify(&text);
    assert!(taken.is_none() || text == *good.expose(), "{text} is taken for {}", good.expose());
}

/// A header and a payload in two lines, signed by a key of ours.
fn signed(parts: &[u8]) {
    let Some((which, parts)) = parts.split_first() else { return };
    let Some(material) = KEYS.get(usize::from(*which) % KEYS.len()) else { return };
    let mut lines = parts.splitn(2, |byte| *byte == b'\n');
    let (Some(header), Some(payload)) = (lines.next(), lines.next()) else { return };
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let Ok(key) = Key::new(material.clone()) else { return };
    let Ok(signature) = jsonwebtoken::crypto::sign(message.as_bytes(), &key.encoding, jwt_algorithm(material.algorithm)) else { return };
    let Some(taken) = verify(&format!("{message}.{signature}")) else { return };

    // Exactly our header, whoever reads it, and claims that mean the same to a reader that knows none of our types.
    let (header, payload) = (serde_json::from_slice::<Value>(header).ok(), serde_json::from_slice::<Value>(payload).ok());
    assert!(header.as_ref().is_some_and(Value::is_object) && payload.is_some(), "nothing that another reader can read");
    let (Some(Value::Object(header)), Some(payload)) = (header, payload) else { return };
    let typ = match &taken {
        Taken::Session(_) => "at+jwt",
        Taken::Pending(_) => "pending+jwt",
        Taken::Assertion(_) => "assertion+jwt",
    };
    let says = |name: &str| header.get(name).and_then(Value::as_str).unwrap_or_default();
    assert_eq!((says("alg"), says("typ"), says("kid")), (alg_name(material.algorithm), typ, material.kid.0.as_str()));
    assert_eq!(header.len(), 3, "the header says more: {header:?}");
    assert!(!matches!(taken, Taken::Assertion(_)) || is_asymmetric(material.algorithm), "others can make this assertion");
    let claims = match &taken {
        Taken::Session(claims) => serde_json::to_value(claims),
        Taken::Pending(claims) => serde_json::to_value(claims),
        Taken::Assertion(claims) => serde_json::to_value(claims),
    };
    let Ok(Value::Object(claims)) = claims else { return };
    for (name, value) in &claims {
        let same = match (payload.get(name), value) {
            (Some(Value::String(given)), Value::String(value)) => is_same(given, value),
            (Some(Value::Array(given)), Value::Array(value)) => given.len() == value.len(),
            (given, value) => given == Some(value),
        };
        assert!(same, "{name} is {value}, but {:?} was signed", payload.get(name));
    }
    assert!(payload.get("nbf").and_then(Value::as_i64).is_none_or(|nbf| nbf <= NOW + 30), "too early");
}

/// An address or an identifier may have been brought to its one form.
fn is_same(given: &str, value: &str) -> bool {
    let plain = |text: &str| text.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect::<String>();
    given == value || plain(given) == plain(value) || !given.is_ascii()
}

use std::sync::LazyLock;

use jsonwebtoken::{DecodingKey, EncodingKey};
use proptest::prelude::*;
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

#[test]
fn what_was_signed_is_read_back() {
    for algorithm in ALGORITHMS {
        let ring = ring(algorithm);
        let token = ring.sign_session(&session()).unwrap();
        let read = ring.verify_session(token.expose(), now()).unwrap();
        assert_eq!(read, SessionClaims { iss: ISSUER.to_owned(), aud: AUDIENCE.to_owned(), ..session() });
        let token = ring.sign_pending(&pending()).unwrap();
        let read = ring.verify_pending(token.expose(), now()).unwrap();
        assert_eq!(read, PendingClaims { iss: ISSUER.to_owned(), aud: "nullpass#pending".to_owned(), ..pending() });
        let token = ring.sign_assertion(&assertion("app")).unwrap();
        let read = ring.verify_assertion(token.expose(), "app", now()).unwrap();
        assert_eq!(read, AssertionClaims { iss: ISSUER.to_owned(), ..assertion("app") });
    }
}

// Contract, 4: the claims and the header that clients see.
#[test]
fn a_session_token_has_the_promised_form() {
    let (header, payload, _) = parts(ring(Algorithm::EdDSA).sign_session(&session()).unwrap().expose());
    assert_eq!(header, json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": key(Algorithm::EdDSA).kid.0 }));
    let user = session().user_id.to_string();
    assert_eq!(
        payload,
        json!({
            "userId": user, "sub": user, "email": "ada@example.com", "iat": NOW, "exp": NOW + 3600, "iss": ISSUER, "aud": AUDIENCE,
            "jti": "jti", "sid": session().sid.to_string(), "amr": ["pwd", "otp"], "auth_time": NOW, "gen": 3,
        })
    );
}

// JWT-1, NP-1: every kind of token is refused for every other purpose, even where the audiences are alike.
#[test]
fn no_token_serves_another_purpose() {
    for algorithm in ALGORITHMS {
        let ring = ring(algorithm);
        let tokens = [
            (TokenPurpose::Session, ring.sign_session(&session()).unwrap()),
            (TokenPurpose::PendingLogin, ring.sign_pending(&pending()).unwrap()),
            (TokenPurpose::Assertion, ring.sign_assertion(&assertion(AUDIENCE)).unwrap()),
            (TokenPurpose::Assertion, ring.sign_assertion(&assertion("nullpass#pending")).unwrap()),
        ];
        for (made_for, token) in &tokens {
            let token = token.expose();
            assert_eq!(ring.verify_session(token, now()).is_ok(), *made_for == TokenPurpose::Session, "{made_for:?}");
            assert_eq!(ring.verify_pending(token, now()).is_ok(), *made_for == TokenPurpose::PendingLogin, "{made_for:?}");
            let (_, payload, _) = parts(token);
            let asserted = ring.verify_assertion(token, payload["aud"].as_str().unwrap(), now());
            assert_eq!(asserted.is_ok(), *made_for == TokenPurpose::Assertion, "{made_for:?}");
        }
    }
    let typs: std::collections::BTreeSet<_> = TokenPurpose::ALL.iter().map(|purpose| purpose.typ()).collect();
    assert_eq!(typs.len(), TokenPurpose::ALL.len());
}

// JWT-1: the type alone, and the audience alone, is enough to refuse.
#[test]
fn type_and_audience_each_are_checked() {
    let ring = ring(Algorithm::EdDSA);
    for typ in ["JWT", "jwt", "AT+JWT", "application/at+jwt", "pending+jwt", "assertion+jwt", ""] {
        let token = changed(Algorithm::EdDSA, |header, _| drop(header.insert("typ".into(), json!(typ))));
        assert_eq!(ring.verify_session(&token, now()), Err(Invalid::Header), "{typ:?}");
    }
    for aud in
        [json!("nullpass#pending"), json!("Nullpass"), json!(""), json!(["nullpass"]), json!(["nullpass", "x"]), json!(null), json!(1)]
    {
        let token = changed(Algorithm::EdDSA, |_, payload| drop(payload.insert("aud".into(), aud.clone())));
        assert_eq!(ring.verify_session(&token, now()), Err(Invalid::Claims), "{aud}");
    }
    let token = ring.sign_assertion(&assertion("app")).unwrap();
    assert_eq!(ring.verify_assertion(token.expose(), "other", now()), Err(Invalid::Claims));
}

// Cross-cutting 9: `none`, and whatever the header says about how to verify, is refused.
#[test]
fn the_header_decides_nothing() {
    for algorithm in ALGORITHMS {
        let ring = ring(algorithm);
        for (name, value) in [
            ("jku", json!("https://evil.example/jwks")),
            ("jwk", serde_json::from_str(key(Algorithm::EdDSA).public_jwk.as_ref().unwrap()).unwrap()),
            ("x5u", json!("https://evil.example/cert")),
            ("x5c", json!(["AAAA"])),
            ("crit", json!(["exp"])),
            ("crit", json!([])),
            ("b64", json!(false)),
            ("zip", json!("DEF")),
            ("cty", json!("JWT")),
            ("x", json!(null)),
        ] {
            let token = changed(algorithm, |header, _| drop(header.insert(name.into(), value.clone())));
            assert_eq!(ring.verify_session(&token, now()), Err(Invalid::Header), "{algorithm:?} {name}");
        }
        for name in ["alg", "typ", "kid"] {
            let token = changed(algorithm, |header, _| drop(header.remove(name)));
            assert_eq!(ring.verify_session(&token, now()), Err(Invalid::Header), "{algorithm:?} without {name}");
            let token = changed(algorithm, |header, _| drop(header.insert(name.into(), json!(["x"]))));
            assert_eq!(ring.verify_session(&token, now()), Err(Invalid::Header), "{algorithm:?} {name} as a list");
        }
        for alg in ["none", "None", "NONE", "", "eddsa", "HS384", "RS512", "PS256", "ES384"] {
            let token = changed(algorithm, |header, _| drop(header.insert("alg".into(), json!(alg))));
            assert_eq!(ring.verify_session(&token, now()), Err(Invalid::Header), "{algorithm:?} as {alg:?}");
            // And without any signature.
            let (message, _) = token.rsplit_once('.').unwrap();
            assert!(ring.verify_session(&format!("{message}."), now()).is_err());
            assert!(ring.verify_session(message, now()).is_err());
        }
    }
}

// Cross-cutting 9: a header that names a thing twice means nothing.
#[test]
fn doubled_header_names_are_refused() {
    let ring = ring(Algorithm::HS256);
    let kid = &key(Algorithm::HS256).kid;
    let token = ring.sign_session(&session()).unwrap();
    let (_, rest) = token.expose().split_once('.').unwrap();
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"none","alg":"HS256","typ":"at+jwt","kid":"{kid}"}}"#));
    assert_eq!(ring.verify_session(&format!("{header}.{rest}"), now()), Err(Invalid::Header));
}

// Cross-cutting 9: the key fixes the algorithm. Each key's public half, used as an HMAC secret, signs nothing.
#[test]
fn algorithms_are_not_confused() {
    for named in ALGORITHMS {
        for used in ALGORITHMS {
            let (mut header, payload, _) = parts(ring(named).sign_session(&session()).unwrap().expose());
            // The other key's signature under this key's name, with either's algorithm.
            for alg in [named, used] {
                header["alg"] = json!(alg_name(alg));
                let token = signed(&header, &payload, key(used));
                assert_eq!(ring(named).verify_session(&token, now()).is_ok(), named == used, "{named:?} signed by {used:?} as {alg:?}");
            }
        }
    }
    for named in [Algorithm::EdDSA, Algorithm::ES256, Algorithm::RS256] {
        let public = key(named);
        let jwk: Value = serde_json::from_str(public.public_jwk.as_ref().unwrap()).unwrap();
        let mut secrets = vec![public.public_jwk.clone().unwrap().into_bytes()];
        secrets.extend(
            ["x", "y", "n"]
                .iter()
                .filter_map(|name| jwk[name].as_str())
                .flat_map(|text| [text.as_bytes().to_vec(), URL_SAFE_NO_PAD.decode(text).unwrap()]),
        );
        let (_, payload, _) = parts(ring(named).sign_session(&session()).unwrap().expose());
        for alg in ["HS256", alg_name(named)] {
            let message = format!("{}.{}", part(&json!({ "alg": alg, "typ": "at+jwt", "kid": public.kid })), part(&payload));
            for secret in &secrets {
                let signature =
                    jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_secret(secret), jsonwebtoken::Algorithm::HS256)
                        .unwrap();
                assert!(ring(named).verify_session(&format!("{message}.{signature}"), now()).is_err(), "{named:?} {alg}");
            }
        }
    }
}

// ENV-1: an unknown key is no key.
#[test]
fn unknown_keys_are_refused() {
    for algorithm in ALGORITHMS {
        let stranger = ring_of(vec![made(algorithm)], algorithm).unwrap().sign_session(&session()).unwrap();
        assert_eq!(ring(algorithm).verify_session(stranger.expose(), now()), Err(Invalid::UnknownKey));
        // Under the name of one of ours, the signature tells.
        let (mut header, payload, signature) = parts(stranger.expose());
        header["kid"] = json!(key(algorithm).kid.0);
        let token = format!("{}.{}.{signature}", part(&header), part(&payload));
        assert_eq!(ring(algorithm).verify_session(&token, now()), Err(Invalid::Signature));
        for kid in ["", "../../dev/null", "' OR 1=1", key(algorithm).kid.0.get(..15).unwrap()] {
            let token = changed(algorithm, |header, _| drop(header.insert("kid".into(), json!(kid))));
            assert_eq!(ring(algorithm).verify_session(&token, now()), Err(Invalid::UnknownKey), "{kid:?}");
        }
    }
}

// Cross-cutting 9: every claim must be there, and be what it should be.
#[test]
fn missing_and_odd_claims_are_refused() {
    let ring = ring(Algorithm::EdDSA);
    let names: Vec<String> = parts(ring.sign_session(&session()).unwrap().expose()).1.as_object().unwrap().keys().cloned().collect();
    assert_eq!(names.len(), 12);
    for name in &names {
        let without = changed(Algorithm::EdDSA, |_, payload| drop(payload.remove(name)));
        assert_eq!(ring.verify_session(&without, now()), Err(Invalid::Claims), "without {name}");
        for odd in [json!(null), json!({}), json!([]), json!(-1.5), json!(true)] {
            // An empty list of methods is a list of methods.
            if name != "amr" || odd != json!([]) {
                let token = changed(Algorithm::EdDSA, |_, payload| drop(payload.insert(name.clone(), odd.clone())));
                assert_eq!(ring.verify_session(&token, now()), Err(Invalid::Claims), "{name}: {odd}");
            }
        }
    }
    for (name, odd) in [
        ("iss", json!("https://evil.example")),
        ("iss", json!(format!("{ISSUER}/"))),
        ("iss", json!([ISSUER])),
        ("sub", json!(UserId::from_bytes([6; 16]))),
        ("userId", json!(UserId::from_bytes([6; 16]))),
        ("exp", json!("9999999999")),
        ("exp", json!(1e300)),
        ("exp", json!(-5)),
        ("exp", json!(u64::MAX)),
        ("exp", json!(NOW - 1)),
        ("nbf", json!("soon")),
        ("nbf", json!(1.5)),
    ] {
        let token = changed(Algorithm::EdDSA, |_, payload| drop(payload.insert(name.into(), odd.clone())));
        assert_eq!(ring.verify_session(&token, now()), Err(Invalid::Claims), "{name}: {odd}");
    }
}

#[test]
fn times_are_compared_with_the_callers_now() {
    let ring = ring(Algorithm::EdDSA);
    let token = ring.sign_session(&session()).unwrap();
    let at = |secs: i64| ring.verify_session(token.expose(), Timestamp::from_secs(NOW + secs)).map(|_| ());
    assert_eq!(at(-31), Err(Invalid::Early));
    assert_eq!(at(-30), Ok(()));
    assert_eq!(at(3600 + 29), Ok(()));
    assert_eq!(at(3600 + 30), Err(Invalid::Expired));
    assert_eq!(at(i64::MAX / 2000), Err(Invalid::Expired));

    let with_nbf = |nbf: i64| changed(Algorithm::EdDSA, |_, payload| drop(payload.insert("nbf".into(), json!(nbf))));
    assert!(ring.verify_session(&with_nbf(NOW + 30), now()).is_ok());
    assert_eq!(ring.verify_session(&with_nbf(NOW + 31), now()), Err(Invalid::Early));
}

// NP-1: a pending token lives five minutes, whoever signed it.
#[test]
fn pending_tokens_are_short_lived() {
    let ring = ring(Algorithm::EdDSA);
    let longer = ring.sign_pending(&PendingClaims { exp: NOW + 301, ..pending() }).unwrap();
    assert_eq!(ring.verify_pending(longer.expose(), now()), Err(Invalid::Claims));
    let unbound = PendingClaims { browser: None, ..pending() };
    let (_, payload, _) = parts(ring.sign_pending(&unbound).unwrap().expose());
    assert!(payload.get("browser").is_none());
}

#[test]
fn long_tokens_are_not_looked_at() {
    let ring = ring(Algorithm::EdDSA);
    let long = ring.sign_session(&SessionClaims { jti: "x".repeat(MAX_BYTES), ..session() }).unwrap();
    assert_eq!(ring.verify_session(long.expose(), now()), Err(Invalid::Malformed));
    assert!(ring.is_ours(long.expose()));
}

// Contract, 4: a rotation signs nobody out, and an HMAC key is never published.
#[test]
fn rotations_keep_old_tokens_good() {
    let old = ring(Algorithm::RS256).sign_session(&session()).unwrap();
    let mut keys = KEYS.clone();
    for key in &mut keys {
        key.retired_at = Some(now());
    }
    assert_eq!(ring_of(keys.clone(), Algorithm::EdDSA).map(drop), Err(Error::NoKey));
    let newer = KeyMaterial { created_at: Timestamp::from_secs(NOW + 9), ..made(Algorithm::EdDSA) };
    let newest = KeyMaterial { created_at: Timestamp::from_secs(NOW + 10), ..made(Algorithm::EdDSA) };
    keys.extend([newest.clone(), newer]);
    let ring = ring_of(keys, Algorithm::EdDSA).unwrap();
    assert!(ring.verify_session(old.expose(), now()).is_ok());
    assert_eq!(parts(ring.sign_session(&session()).unwrap().expose()).0["kid"], json!(newest.kid));

    let jwks = ring.jwks();
    let published = jwks["keys"].as_array().unwrap();
    assert_eq!(published.len(), 5, "three retired asymmetric keys and two new ones");
    assert_eq!(published[0]["kid"], json!(newest.kid));
    for jwk in published {
        assert_eq!(jwk["use"], "sig");
        assert!(jwk["kid"].is_string() && ["EdDSA", "ES256", "RS256"].contains(&jwk["alg"].as_str().unwrap()));
        for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            assert!(jwk.get(private).is_none());
        }
    }
}

// Contract, 4: assertions always use an asymmetric key.
#[test]
fn assertions_are_for_others_to_verify() {
    let ring = ring(Algorithm::HS256);
    assert!(ring.can_assert());
    let (header, payload, _) = parts(ring.sign_assertion(&assertion("app")).unwrap().expose());
    assert_ne!(header["alg"], "HS256");
    let forged =
        signed(&json!({ "alg": "HS256", "typ": "assertion+jwt", "kid": key(Algorithm::HS256).kid }), &payload, key(Algorithm::HS256));
    assert_eq!(ring.verify_assertion(&forged, "app", now()), Err(Invalid::Header));

    let alone = ring_of(vec![key(Algorithm::HS256).clone()], Algorithm::HS256).unwrap();
    assert!(!alone.can_assert());
    assert_eq!(alone.sign_assertion(&assertion("app")), Err(Error::NoKey));
    assert_eq!(alone.jwks(), json!({ "keys": [] }));
}

// What an upstream does: take the key out of the JWKS by `kid`, and verify with it alone.
#[test]
#[expect(clippy::disallowed_methods, reason = "verifies as others would")]
fn the_published_keys_verify() {
    for algorithm in [Algorithm::EdDSA, Algorithm::ES256, Algorithm::RS256] {
        let ring = ring(algorithm);
        let token = ring.sign_assertion(&assertion("app")).unwrap();
        let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(ring.jwks()).unwrap();
        let kid = jsonwebtoken::decode_header(token.expose()).unwrap().kid.unwrap();
        let public = DecodingKey::from_jwk(set.find(&kid).unwrap()).unwrap();
        let mut validation = Validation::new(jwt_algorithm(algorithm));
        validation.set_audience(&["app"]);
        validation.validate_exp = false;
        let read = jsonwebtoken::decode::<Value>(token.expose(), &public, &validation).unwrap();
        assert_eq!(read.claims["path"], "/a");
    }
}

#[test]
fn kids_are_thumbprints() {
    // RFC 8037, appendix A.3: the thumbprint of an Ed25519 key.
    let jwk: jsonwebtoken::jwk::Jwk =
        serde_json::from_value(json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" })).unwrap();
    assert_eq!(jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    for algorithm in [Algorithm::EdDSA, Algorithm::ES256, Algorithm::RS256] {
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_str(key(algorithm).public_jwk.as_ref().unwrap()).unwrap();
        let thumbprint = jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap();
        assert!(thumbprint.starts_with(&key(algorithm).kid.0) && key(algorithm).kid.0.len() == 16);
    }
    assert_eq!((key(Algorithm::HS256).kid.0.len(), key(Algorithm::HS256).public_jwk.as_ref()), (16, None));
}

#[test]
fn keys_that_do_not_fit_are_refused() {
    let bad = |key: KeyMaterial| ring_of(vec![key.clone()], key.algorithm).map(drop) == Err(Error::BadKey(key.kid));
    for good in KEYS.iter() {
        for algorithm in ALGORITHMS.into_iter().filter(|algorithm| *algorithm != good.algorithm) {
            assert!(bad(KeyMaterial { algorithm, ..good.clone() }), "{:?} as {algorithm:?}", good.algorithm);
            // A public half that somebody else put into the store is not believed.
            let public_jwk = key(algorithm).public_jwk.clone().or(Some("{}".to_owned()));
            assert!(bad(KeyMaterial { public_jwk, ..good.clone() }));
        }
        assert!(bad(KeyMaterial { private: Secret::default(), ..good.clone() }));
        assert!(bad(KeyMaterial { private: Secret::new(vec![1; 31]), ..good.clone() }));
        assert!(bad(KeyMaterial { public_jwk: Some("not JSON".to_owned()), ..good.clone() }));
        assert_eq!(ring_of(vec![good.clone(), good.clone()], good.algorithm).map(drop), Err(Error::BadKey(good.kid.clone())));
    }
    assert_eq!(ring_of(Vec::new(), Algorithm::EdDSA).map(drop), Err(Error::NoKey));
    assert_eq!(ring_of(vec![key(Algorithm::ES256).clone()], Algorithm::EdDSA).map(drop), Err(Error::NoKey));
}

// TOK-1 and contract, 4: what means to be ours is known on sight, good or not, and what is not passes.
#[test]
fn ours_are_known_on_sight() {
    let ring = ring(Algorithm::EdDSA);
    let kid = &key(Algorithm::ES256).kid.0;
    let good = ring.sign_session(&session()).unwrap();
    let (header, rest) = good.expose().split_once('.').unwrap();
    let (payload, _) = rest.split_once('.').unwrap();
    let foreign = part(&json!({ "alg": "RS256", "kid": "theirs" }));
    let ours = [
        good.expose().clone(),
        changed(Algorithm::EdDSA, |_, payload| drop(payload.insert("exp".into(), json!(1)))),
        format!("{header}.x.x"),
        format!("{header}=.{payload}=.=="),
        format!("{header}.."),
        format!("{header}.{payload}"),
        format!("{}.x", good.expose()),
        format!("{foreign}.{payload}.x"),
        format!("x.{payload}.x"),
        format!("{}.{}.x", part(&json!({ "kid": kid, "alg": "none" })), part(&json!({ "iss": "https://other.example" }))),
        ring_of(vec![made(Algorithm::RS256)], Algorithm::RS256).unwrap().sign_session(&session()).unwrap().expose().clone(),
    ];
    for token in &ours {
        assert!(ring.is_ours(token), "{token}");
    }
    for token in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "opaque",
        &format!("{foreign}.{}.x", part(&json!({ "iss": "https://other.example" }))),
        &format!("{foreign}.{}.x", part(&json!({ "iss": [ISSUER] }))),
        &format!("{}.{}.x", part(&json!([kid])), part(&json!(ISSUER))),
    ] {
        assert!(!ring.is_ours(token), "{token}");
    }
}

#[test]
fn nothing_secret_is_shown() {
    let shown = format!("{:?} {:?} {:?}", ring(Algorithm::HS256), KEYS, SigningKeyPair::generate(Algorithm::HS256, now()).unwrap());
    assert!(shown.contains("Secret(..)") && !shown.contains(&format!("{:?}", key(Algorithm::HS256).private.expose())));
}

#[test]
fn the_provider_can_be_installed_again() {
    install_provider();
    install_provider();
    assert!(rustls::crypto::CryptoProvider::get_default().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    // Cross-cutting 9: no bit of a token can be changed.
    #[test]
    fn any_flipped_bit_is_refused(algorithm in prop::sample::select(ALGORITHMS.to_vec()), at: prop::sample::Index, bit in 0_u8..7) {
        let ring = ring(algorithm);
        let mut token = ring.sign_session(&session()).unwrap().expose().clone().into_bytes();
        let at = at.index(token.len());
        token[at] ^= 1 << bit;
        prop_assert!(ring.verify_session(&String::from_utf8(token).unwrap(), now()).is_err());
    }

    #[test]
    fn any_cut_or_longer_token_is_refused(cut: prop::sample::Index, more in "[A-Za-z0-9_.=-]{1,8}") {
        let ring = ring(Algorithm::EdDSA);
        let token = ring.sign_session(&session()).unwrap();
        let token = token.expose();
        prop_assert!(ring.verify_session(token.get(..cut.index(token.len())).unwrap(), now()).is_err());
        for longer in [format!("{token}{more}"), format!("{more}{token}")] {
            prop_assert!(ring.verify_session(&longer, now()).is_err());
        }
    }

    #[test]
    fn nothing_panics(text in ".*", segments in prop::collection::vec("[A-Za-z0-9_=-]{0,40}", 0..5), header in ".*", payload in ".*") {
        let ring = ring(Algorithm::EdDSA);
        let json = format!("{}.{}.x", URL_SAFE_NO_PAD.encode(&header), URL_SAFE_NO_PAD.encode(&payload));
        for token in [text, segments.join("."), json] {
            prop_assert!(ring.verify_session(&token, now()).is_err());
            prop_assert!(ring.verify_pending(&token, now()).is_err());
            prop_assert!(ring.verify_assertion(&token, &token, now()).is_err());
            prop_assert!(!ring.is_ours(&token));
        }
    }

    #[test]
    fn any_payload_that_is_signed_is_read_or_refused(exp: i64, iat: i64, nbf: i64, at: i64) {
        let token = changed(Algorithm::HS256, |_, payload| {
            payload.extend([("exp".to_owned(), json!(exp)), ("iat".to_owned(), json!(iat)), ("nbf".to_owned(), json!(nbf))]);
        });
        let at = Timestamp::from_millis(at);
        if let Ok(claims) = ring(Algorithm::HS256).verify_session(&token, at) {
            prop_assert!(claims.iat <= claims.exp && Timestamp::from_secs(claims.iat) <= at.plus(LEEWAY));
            prop_assert!(at < Timestamp::from_secs(claims.exp).plus(LEEWAY));
        }
    }
}

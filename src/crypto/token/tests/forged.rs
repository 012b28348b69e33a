//! Tokens that somebody else made, or that say more than they may.

use jsonwebtoken::EncodingKey;

use super::*;

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

#[test]
fn long_tokens_are_not_looked_at() {
    let ring = ring(Algorithm::EdDSA);
    let long = ring.sign_session(&SessionClaims { jti: "x".repeat(MAX_BYTES), ..session() }).unwrap();
    assert_eq!(ring.verify_session(long.expose(), now()), Err(Invalid::Malformed));
    assert!(ring.is_ours(long.expose()));
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

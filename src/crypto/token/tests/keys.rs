//! The keys that sign: their names, how they change, and what is published of them.

use jsonwebtoken::DecodingKey;

use super::*;

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

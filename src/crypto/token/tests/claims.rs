//! What a token says, for which purpose and how long.

use super::*;

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

//! Whatever a token is made of, nothing panics and nothing that was changed is taken.

use proptest::prelude::*;

use super::*;

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

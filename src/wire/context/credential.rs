//! What stands in `Authorization`. Strict (requirement TOK-2): a server behind us may be lenient, and what it would
//! take for a token must never be something that we took for none; so what is nearly one is told apart.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::AUTHORIZATION;
use http::request::Parts;

use crate::model::Secret;

/// The request's credential. [`super::read`] has made sure that there is one at most.
#[derive(Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    /// No `Authorization`.
    None,
    /// `Bearer`, one space, token68 (RFC 6750, section 2.1; RFC 9110, section 11.2).
    Bearer(&'a str),
    /// `Bearer` and anything else, here without leading and trailing white space. Whoever knows our tokens says
    /// whether it was meant to be one: then it is refused, otherwise it belongs to the upstream.
    MalformedBearer(&'a [u8]),
    /// `Basic` (RFC 7617) in UTF-8.
    Basic {
        /// Up to the first colon.
        user: String,
        /// After it.
        password: Secret<String>,
    },
    /// `Basic` and anything else, as [`Credential::MalformedBearer`].
    MalformedBasic(&'a [u8]),
    /// Another scheme, or none: the whole value. It is the upstream's, unless there is a token of ours in it.
    Other(&'a [u8]),
}

/// Reads `Authorization`. The scheme is compared without case.
pub fn bearer(head: &Parts) -> Credential<'_> {
    let Some(value) = head.headers.get(AUTHORIZATION) else { return Credential::None };
    let value = value.as_bytes();
    // The scheme ends where a token ends, so that `Bearer\tx` and `Bearer,x` are malformed and not another scheme.
    let length = value.iter().take_while(|&&byte| is_tchar(byte)).count();
    let (scheme, rest) = value.split_at_checked(length).unwrap_or((value, &[]));
    let credential =
        rest.strip_prefix(b" ").filter(|credential| is_token68(credential)).and_then(|credential| str::from_utf8(credential).ok());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        credential.map_or(Credential::MalformedBearer(rest.trim_ascii()), Credential::Bearer)
    } else if scheme.eq_ignore_ascii_case(b"basic") {
        credential.and_then(basic).unwrap_or(Credential::MalformedBasic(rest.trim_ascii()))
    } else {
        Credential::Other(value)
    }
}

fn basic(credential: &str) -> Option<Credential<'_>> {
    // Clients differ about padding. Nothing depends on there being one spelling.
    const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
    let text = Secret::new(BASE64.decode(credential).ok()?);
    let text = str::from_utf8(text.expose()).ok()?;
    let (user, password) = text.split_once(':').filter(|_| !text.contains(char::is_control))?;
    Some(Credential::Basic { user: user.to_owned(), password: password.into() })
}

/// RFC 9110, section 5.6.2.
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9110, section 11.2.
fn is_token68(text: &[u8]) -> bool {
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    let body = text.get(..text.len().saturating_sub(padding)).unwrap_or_default();
    // Without a way out of the loop, so that the compiler checks sixteen bytes at a time: a token is long, and good.
    // From `-` to `9` are `-`, `.`, `/` and the digits.
    let is_body = |byte: u8| {
        (byte | 0x20).wrapping_sub(b'a') < 26 || byte.wrapping_sub(b'-') <= b'9' - b'-' || byte == b'+' || byte == b'_' || byte == b'~'
    };
    !body.is_empty() && body.iter().fold(true, |all, &byte| all & is_body(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(value: &[u8]) -> Parts {
        http::Request::builder().header(AUTHORIZATION, value).body(()).unwrap().into_parts().0
    }

    // TOK-2
    #[test]
    fn bearer_is_one_space_and_token68() {
        for value in ["Bearer abc.DEF-_~+/==", "bearer abc.DEF-_~+/==", "BEARER abc.DEF-_~+/=="] {
            assert_eq!(bearer(&head(value.as_bytes())), Credential::Bearer("abc.DEF-_~+/=="), "{value}");
        }
        for (value, rest) in [
            ("Bearer", ""),
            ("Bearer ", ""),
            ("Bearer\tabc", "abc"),
            ("Bearer  abc", "abc"),
            ("Bearer abc ", "abc"),
            ("Bearer abc def", "abc def"),
            ("Bearer abc,def", "abc,def"),
            ("Bearer,abc", ",abc"),
            ("Bearer:abc", ":abc"),
            ("Bearer \"abc\"", "\"abc\""),
            ("Bearer =", "="),
            ("Bearer ab=c", "ab=c"),
            ("Bearer token=abc", "token=abc"),
        ] {
            assert_eq!(bearer(&head(value.as_bytes())), Credential::MalformedBearer(rest.as_bytes()), "{value}");
        }
        assert_eq!(bearer(&head(b"Bearer \xff")), Credential::MalformedBearer(b"\xff"));
        for other in [&b"Bearerabc def"[..], b"Negotiate abc", b""] {
            assert_eq!(bearer(&head(other)), Credential::Other(other));
        }
        assert_eq!(bearer(&http::Request::new(()).into_parts().0), Credential::None);
    }

    #[test]
    fn basic_is_base64_of_two_texts() {
        let basic = |user: &str, password: &str| Credential::Basic { user: user.to_owned(), password: password.into() };
        assert_eq!(bearer(&head(b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")), basic("Aladdin", "open sesame"));
        assert_eq!(bearer(&head(b"basic QWxhZGRpbjpvcGVuIHNlc2FtZQ")), basic("Aladdin", "open sesame"));
        assert_eq!(bearer(&head(b"Basic dGVzdDoxMjPCow==")), basic("test", "123£"));
        assert_eq!(bearer(&head(b"Basic OmE6Yg==")), basic("", "a:b"));
        for value in ["Basic", "Basic  QTpi", "Basic QQ==", "Basic !", "Basic QTpiAA==", "Basic gTo=", "Basic\tQTpi", "Basic QTpi QTpi"] {
            assert!(matches!(bearer(&head(value.as_bytes())), Credential::MalformedBasic(_)), "{value}");
        }
        assert!(!format!("{:?}", basic("u", "hunter2")).contains("hunter2"));
    }

    #[test]
    fn token68_is_these_bytes_and_no_other() {
        for byte in 0..=u8::MAX {
            let allowed = byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
            for text in [vec![byte], [b"abc", &[byte][..], b"def"].concat(), [vec![b'a'; 40], vec![byte], vec![b'9'; 23]].concat()] {
                assert_eq!(is_token68(&text), allowed, "{text:?}");
            }
        }
        for padding in 0..4 {
            assert!(is_token68(&[&[b'a'; 33][..], &vec![b'='; padding]].concat()));
        }
        assert!(is_token68(b"a=") && is_token68(b"a==") && !is_token68(b"=") && !is_token68(b"") && !is_token68(b"=a"));
    }

    proptest! {
        #[test]
        fn only_token68_is_a_bearer_token(value in "(?i:bearer)[ \t,=]{0,2}[a-zA-Z0-9 =,._~+/\"-]{0,12}") {
            let expected = value.get(6..).and_then(|rest| rest.strip_prefix(' ')).filter(|token| {
                let body = token.trim_end_matches('=');
                !body.is_empty() && body.chars().all(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c))
            });
            match bearer(&head(value.as_bytes())) {
                Credential::Bearer(token) => prop_assert_eq!(Some(token), expected),
                Credential::MalformedBearer(_) => prop_assert_eq!(None, expected),
                Credential::Other(_) => prop_assert!(!value.get(6..7).is_some_and(|next| " \t,=\"/".contains(next)), "{}", value),
                other @ (Credential::None | Credential::Basic { .. } | Credential::MalformedBasic(_)) => prop_assert!(false, "{other:?}"),
            }
        }
    }
}

//! Signed tokens (JWT, RFC 7519): the only user of `jsonwebtoken`.
//!
//! The rules (RFC 8725): the key that a token names fixes the algorithm, whatever else the token says; each purpose has
//! its own `typ` and `aud`; a header holds `alg`, `typ` and `kid` and nothing else, so `jku`, `jwk`, `x5u`, `x5c`,
//! `crit`, `b64` and what is yet to be invented are refused; every claim is there and has its type. Start at
//! [`Keyring::verify_session`]; `claims` has what tokens say, `key` how keys are made and read.

mod claims;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod key;

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use jsonwebtoken::Validation;
use jsonwebtoken::errors::ErrorKind;
use serde::Deserialize;
use serde_json::{Value, json};

use self::claims::Claims;
use self::key::{Key, alg_name, is_asymmetric, jwt_algorithm};
use crate::clock::Timestamp;
use crate::config::Algorithm;
use crate::model::{Kid, Secret};

pub use self::claims::{AssertionClaims, PendingClaims, SessionClaims, TokenPurpose};
pub use self::key::{KeyMaterial, SigningKeyPair};

/// The longest token that is looked at, in bytes.
pub const MAX_BYTES: usize = 4096;

/// Base64url that forgives padding and loose bits, for seeing what a broken token was meant to be.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Makes aws-lc-rs the cryptography of tokens and of TLS in this process. The first call does it, the others nothing.
pub fn install_provider() {
    // Both say no when there is one already, and there can be no other: this is the only place that installs any.
    let _tokens = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let _tls = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The keys of the installation, and what they sign. It never changes: a rotation makes another one.
pub struct Keyring {
    /// Newest first.
    keys: Vec<Key>,
    active: Algorithm,
    issuer: String,
    audience: String,
    pending_audience: String,
    leeway: Duration,
}

impl Keyring {
    /// A ring that signs with the newest key of the `active` algorithm that is not retired, and verifies with all.
    ///
    /// `leeway` is the clock skew that is forgiven. Fails when there is no key to sign with, two have one name, or one
    /// can't be read.
    pub fn new(
        keys: Vec<KeyMaterial>,
        active: Algorithm,
        issuer: impl Into<String>,
        audience: impl Into<String>,
        leeway: Duration,
    ) -> Result<Self, Error> {
        install_provider();
        let mut keys = keys.into_iter().map(Key::new).collect::<Result<Vec<_>, _>>()?;
        keys.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.kid.cmp(&b.kid)));
        for (place, key) in keys.iter().enumerate() {
            if keys.iter().skip(place + 1).any(|other| other.kid == key.kid) {
                return Err(Error::BadKey(key.kid.clone()));
            }
        }
        let audience = audience.into();
        let pending_audience = format!("{audience}#pending");
        let ring = Self { keys, active, issuer: issuer.into(), audience, pending_audience, leeway };
        ring.signing_key()?;
        Ok(ring)
    }

    /// `iss` of every token.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The algorithm of new tokens.
    pub const fn active(&self) -> Algorithm {
        self.active
    }

    /// Whether there is a key for assertions, which others must be able to verify.
    pub fn can_assert(&self) -> bool {
        self.assertion_key().is_ok()
    }

    /// A session's token. `iss` and `aud` are set here, whatever `claims` says.
    pub fn sign_session(&self, claims: &SessionClaims) -> Result<Secret<String>, Error> {
        sign(self.signing_key()?, claims, &self.issuer, &self.audience)
    }

    /// A pending login's token. `iss` and `aud` are set here, whatever `claims` says.
    pub fn sign_pending(&self, claims: &PendingClaims) -> Result<Secret<String>, Error> {
        sign(self.signing_key()?, claims, &self.issuer, &self.pending_audience)
    }

    /// An assertion for the upstream `claims.aud`, with the active key or, when that is an HMAC key, the newest other
    /// one. `iss` is set here.
    pub fn sign_assertion(&self, claims: &AssertionClaims) -> Result<Secret<String>, Error> {
        sign(self.assertion_key()?, claims, &self.issuer, &claims.aud)
    }

    /// What a session's token says, if it is one of ours and `now` is within its time.
    pub fn verify_session(&self, token: &str, now: Timestamp) -> Result<SessionClaims, Invalid> {
        self.verify(token, &self.audience, now)
    }

    /// What a session's token says, if it is one of ours, whether or not its time is over: for knowing whose it was, and for
    /// nothing else.
    pub fn read_session(&self, token: &str) -> Result<SessionClaims, Invalid> {
        self.read(token, &self.audience).map(|(claims, _)| claims)
    }

    /// The same for a pending login's token.
    pub fn verify_pending(&self, token: &str, now: Timestamp) -> Result<PendingClaims, Invalid> {
        self.verify(token, &self.pending_audience, now)
    }

    /// The same for an assertion to the upstream `audience`.
    pub fn verify_assertion(&self, token: &str, audience: &str, now: Timestamp) -> Result<AssertionClaims, Invalid> {
        self.verify(token, audience, now)
    }

    /// The public keys, current and retired, for others to verify with (RFC 7517). HMAC keys are not among them.
    pub fn jwks(&self) -> Value {
        let keys: Vec<&Value> = self.keys.iter().filter_map(|key| key.jwk.as_ref()).collect();
        json!({ "keys": keys })
    }

    /// Whether a credential means to be a token of ours, good or not, and so must never reach an upstream: its first part
    /// names one of our keys, or its second us as the issuer. One that is cut short or has something behind it means to be
    /// one too: there may be a good one in it. Nothing is verified and nothing else may follow from it.
    pub fn is_ours(&self, token: &str) -> bool {
        let mut parts = token.split('.');
        let (Some(header), Some(payload)) = (parts.next(), parts.next()) else { return false };
        let text_of = |part: &str, name: &str| match peek(part)?.get_mut(name)?.take() {
            Value::String(text) => Some(text),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
        };
        text_of(header, "kid").is_some_and(|kid| self.key(&kid).is_some()) || text_of(payload, "iss").is_some_and(|iss| iss == self.issuer)
    }

    fn key(&self, kid: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.kid.0 == kid)
    }

    fn signing_key(&self) -> Result<&Key, Error> {
        self.keys.iter().find(|key| !key.retired && key.algorithm == self.active).ok_or(Error::NoKey)
    }

    fn assertion_key(&self) -> Result<&Key, Error> {
        if is_asymmetric(self.active) {
            return self.signing_key();
        }
        self.keys.iter().find(|key| !key.retired && is_asymmetric(key.algorithm)).ok_or(Error::NoKey)
    }

    fn verify<C: Claims>(&self, token: &str, audience: &str, now: Timestamp) -> Result<C, Invalid> {
        let (claims, nbf) = self.read::<C>(token, audience)?;
        let (iat, exp) = claims.times();
        if now >= Timestamp::from_secs(exp).plus(self.leeway) {
            return Err(Invalid::Expired);
        }
        let latest = now.plus(self.leeway);
        if Timestamp::from_secs(iat) > latest || nbf.is_some_and(|nbf| Timestamp::from_secs(nbf) > latest) {
            return Err(Invalid::Early);
        }
        Ok(claims)
    }

    /// The claims of a token of ours, and its `nbf`, before anybody looks at the clock.
    #[expect(clippy::disallowed_methods, reason = "the one place that verifies tokens")]
    fn read<C: Claims>(&self, token: &str, audience: &str) -> Result<(C, Option<i64>), Invalid> {
        if token.len() > MAX_BYTES {
            return Err(Invalid::Malformed);
        }
        let (header, _) = token.split_once('.').ok_or(Invalid::Malformed)?;
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| Invalid::Malformed)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| Invalid::Header)?;
        let key = self.key(&header.kid).ok_or(Invalid::UnknownKey)?;
        if header.typ != C::PURPOSE.typ() || header.alg != alg_name(key.algorithm) {
            return Err(Invalid::Header);
        }
        // A statement for others must be one that only we can make.
        if C::PURPOSE == TokenPurpose::Assertion && !is_asymmetric(key.algorithm) {
            return Err(Invalid::Header);
        }

        let mut validation = Validation::new(jwt_algorithm(key.algorithm));
        validation.set_audience(&[audience]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        // The library would read the clock itself; times are compared below, with the caller's `now`.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let Payload { nbf, claims } =
            jsonwebtoken::decode::<Payload<C>>(token, &key.decoding, &validation).map_err(|error| Invalid::of(error.kind()))?.claims;

        if claims.agree() { Ok((claims, nbf)) } else { Err(Invalid::Claims) }
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kids: Vec<&Kid> = self.keys.iter().map(|key| &key.kid).collect();
        f.debug_struct("Keyring").field("kids", &kids).field("active", &self.active).finish_non_exhaustive()
    }
}

/// All that a header of ours holds. Anything more, or twice, is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

/// The claims, and the one that we never write but honour (RFC 7519, section 4.1.5).
#[derive(Deserialize)]
struct Payload<C> {
    #[serde(default)]
    nbf: Option<i64>,
    #[serde(flatten)]
    claims: C,
}

#[expect(clippy::disallowed_methods, reason = "the one place that signs tokens")]
fn sign<C: Claims>(key: &Key, claims: &C, issuer: &str, audience: &str) -> Result<Secret<String>, Error> {
    let mut header = jsonwebtoken::Header::new(jwt_algorithm(key.algorithm));
    header.typ = Some(C::PURPOSE.typ().to_owned());
    header.kid = Some(key.kid.0.clone());
    let mut claims = claims.clone();
    claims.address(issuer, audience);
    jsonwebtoken::encode(&header, &claims, &key.encoding).map(Secret::new).map_err(|_| Error::Sign(key.kid.clone()))
}

/// A part of a token as JSON, as far as it can be made out.
fn peek(part: &str) -> Option<Value> {
    serde_json::from_slice(&LENIENT.decode(part).ok()?).ok()
}

/// Why a token is not taken. For logs and tests; whoever sent it learns only that it isn't.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Invalid {
    /// Too long, or not three parts in base64url.
    #[error("not a token")]
    Malformed,
    /// The header lacks something, holds something else, or says another purpose or algorithm.
    #[error("a header that is not ours")]
    Header,
    /// None of our keys has this name.
    #[error("an unknown key")]
    UnknownKey,
    /// The signature is not the key's.
    #[error("a wrong signature")]
    Signature,
    /// A claim is missing, has the wrong type, or says another issuer or audience.
    #[error("wrong claims")]
    Claims,
    /// Its time is over.
    #[error("expired")]
    Expired,
    /// Its time has not come, or it was signed in the future.
    #[error("not yet good")]
    Early,
}

impl Invalid {
    fn of(kind: &ErrorKind) -> Self {
        if matches!(kind, ErrorKind::InvalidSignature) {
            Self::Signature
        } else if matches!(kind, ErrorKind::InvalidToken | ErrorKind::Base64(_)) {
            Self::Malformed
        } else {
            Self::Claims
        }
    }
}

/// Why there is no ring, no key or no token.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no key to sign with.
    #[error("there is no signing key for this")]
    NoKey,
    /// A key can't be read, differs from the public half that was stored with it, or has another one's name.
    #[error("the signing key {0} can't be used")]
    BadKey(Kid),
    /// The cryptographic library made no key.
    #[error("no signing key could be made")]
    Generate,
    /// The cryptographic library did not sign.
    #[error("signing with the key {0} failed")]
    Sign(Kid),
}

#[cfg(test)]
mod tests;

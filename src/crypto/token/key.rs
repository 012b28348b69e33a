//! Signing keys: making them, and reading them into what signs and verifies.

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde_json::Value;
use zeroize::Zeroizing;

use super::Error;
use crate::clock::Timestamp;
use crate::config::Algorithm;
use crate::crypto::random;
use crate::model::{Kid, Secret};

/// Bytes of an HMAC secret: as many as the hash has (RFC 7518, section 3.2).
const HMAC_SECRET: usize = 32;

/// Characters of a `kid`: 12 bytes in base64url.
const KID: usize = 16;

/// A new key, to be sealed and stored.
#[derive(Clone, Debug)]
pub struct SigningKeyPair {
    /// Its name: the beginning of the JWK's thumbprint (RFC 7638), or random for an HMAC key.
    pub kid: Kid,
    /// The one algorithm it is for.
    pub algorithm: Algorithm,
    /// PKCS #8 in DER, or the HMAC secret.
    pub private: Secret<Vec<u8>>,
    /// The public key as a JWK in JSON; `None` for HMAC.
    pub public_jwk: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl SigningKeyPair {
    /// Makes a key. An RS256 key (2048 bits) takes some tenths of a second of a core: not for an async thread.
    pub fn generate(algorithm: Algorithm, now: Timestamp) -> Result<Self, Error> {
        super::install_provider();
        let private = Secret::new(match algorithm {
            Algorithm::EdDSA => Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).map_err(|_| Error::Generate)?.as_ref().to_vec(),
            Algorithm::ES256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .map_err(|_| Error::Generate)?
                .as_ref()
                .to_vec(),
            Algorithm::RS256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| Error::Generate)?;
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| Error::Generate)?;
                der.as_ref().to_vec()
            }
            Algorithm::HS256 => random::bytes::<HMAC_SECRET>().to_vec(),
        });
        let (kid, public_jwk) = match public_jwk(algorithm, &encoding_key(algorithm, &private).ok_or(Error::Generate)?) {
            Some(mut jwk) => {
                let thumbprint = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| Error::Generate)?;
                let kid = thumbprint.get(..KID).ok_or(Error::Generate)?.to_owned();
                jwk.common.key_id = Some(kid.clone());
                (kid, Some(serde_json::to_string(&jwk).map_err(|_| Error::Generate)?))
            }
            // An HMAC key has nothing public to be named by.
            None => (URL_SAFE_NO_PAD.encode(random::bytes::<12>()), None),
        };
        Ok(Self { kid: Kid(kid), algorithm, private, public_jwk, created_at: now })
    }
}

/// A stored key, opened.
#[derive(Clone, Debug)]
pub struct KeyMaterial {
    /// Its name in tokens.
    pub kid: Kid,
    /// The one algorithm it is used with.
    pub algorithm: Algorithm,
    /// PKCS #8 in DER, or the HMAC secret.
    pub private: Secret<Vec<u8>>,
    /// The public key as it was stored. It is not believed: the ring derives it from `private` and refuses a key where
    /// they differ, or who can write to the store could have a key of their own trusted.
    pub public_jwk: Option<String>,
    /// When it was made. The newest one that is not retired signs.
    pub created_at: Timestamp,
    /// Since when it only verifies.
    pub retired_at: Option<Timestamp>,
}

impl From<SigningKeyPair> for KeyMaterial {
    fn from(made: SigningKeyPair) -> Self {
        let SigningKeyPair { kid, algorithm, private, public_jwk, created_at } = made;
        Self { kid, algorithm, private, public_jwk, created_at, retired_at: None }
    }
}

/// A key ready for use.
pub(super) struct Key {
    pub(super) kid: Kid,
    pub(super) algorithm: Algorithm,
    pub(super) created_at: Timestamp,
    pub(super) retired: bool,
    pub(super) encoding: EncodingKey,
    pub(super) decoding: DecodingKey,
    /// What the JWKS shows; `None` for HMAC.
    pub(super) jwk: Option<Value>,
}

impl Key {
    pub(super) fn new(material: KeyMaterial) -> Result<Self, Error> {
        let KeyMaterial { kid, algorithm, private, public_jwk: stored, created_at, retired_at } = material;
        let bad = || Error::BadKey(kid.clone());
        let encoding = encoding_key(algorithm, &private).ok_or_else(bad)?;
        let (decoding, jwk) = match public_jwk(algorithm, &encoding) {
            Some(mut jwk) => {
                jwk.common.key_id = Some(kid.0.clone());
                (DecodingKey::from_jwk(&jwk).map_err(|_| bad())?, Some(serde_json::to_value(jwk).map_err(|_| bad())?))
            }
            None if is_asymmetric(algorithm) => return Err(bad()),
            None => (DecodingKey::from_secret(private.expose()), None),
        };
        if let Some(stored) = stored
            && (jwk.is_none() || serde_json::from_str::<Value>(&stored).ok() != jwk)
        {
            return Err(bad());
        }
        Ok(Self { kid, algorithm, created_at, retired: retired_at.is_some(), encoding, decoding, jwk })
    }
}

/// Whether others can verify what is signed with it.
pub(super) const fn is_asymmetric(algorithm: Algorithm) -> bool {
    match algorithm {
        Algorithm::EdDSA | Algorithm::ES256 | Algorithm::RS256 => true,
        Algorithm::HS256 => false,
    }
}

/// The library's name for an algorithm.
pub(super) const fn jwt_algorithm(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::HS256 => jsonwebtoken::Algorithm::HS256,
    }
}

/// The `alg` in headers (RFC 7518, section 3.1; RFC 8037, section 3.1).
pub(super) const fn alg_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::EdDSA => "EdDSA",
        Algorithm::ES256 => "ES256",
        Algorithm::RS256 => "RS256",
        Algorithm::HS256 => "HS256",
    }
}

/// What signs. `None`: these bytes are no key for the algorithm.
fn encoding_key(algorithm: Algorithm, private: &Secret<Vec<u8>>) -> Option<EncodingKey> {
    let private = private.expose();
    match algorithm {
        Algorithm::EdDSA => Some(EncodingKey::from_ed_der(private)),
        Algorithm::ES256 => Some(EncodingKey::from_ec_der(private)),
        // The library wants PKCS #1 and unwraps PKCS #8 in PEM only.
        Algorithm::RS256 => {
            let pem = Zeroizing::new(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(private)));
            EncodingKey::from_rsa_pem(pem.as_bytes()).ok()
        }
        Algorithm::HS256 if private.len() == HMAC_SECRET => Some(EncodingKey::from_secret(private)),
        Algorithm::HS256 => None,
    }
}

/// The public half, without its name. `None`: there is none (HMAC), or the private one is broken.
fn public_jwk(algorithm: Algorithm, encoding: &EncodingKey) -> Option<Jwk> {
    if !is_asymmetric(algorithm) {
        return None;
    }
    let mut jwk = Jwk::from_encoding_key(encoding, jwt_algorithm(algorithm)).ok()?;
    jwk.common.public_key_use = Some(PublicKeyUse::Signature);
    Some(jwk)
}

//! The values nullpass is about. Each is parsed once, at the border, and trusted from then on: a value of one of
//! these types has passed its rules. Nothing here does I/O, reads a clock or knows HTTP.

mod api_token;
mod audit;
mod id;
mod identity;
mod lock;
mod secret;
mod session;
pub mod text;
mod user;

pub use api_token::{ApiToken, TokenName, TokenScope};
pub use audit::{Action, AuditEvent, Outcome};
pub use id::{ApiTokenId, Digest, EventId, Kid, ParseIdError, SessionId, UserId};
pub use identity::{Identity, Slot};
pub use lock::{Lock, LockChange, LockKey, LockPolicy, LockUpdate};
pub use secret::Secret;
pub use session::{Amr, Fitness, Generation, KnownToken, Rotation, Session, SessionTouch};
pub use user::{AvatarUrl, DisplayName, Email, Group, InvalidValue, TotpState, TwoFactor, User};

/// Bytes sealed with AES-256-GCM by `crypto::seal`: key version, nonce, ciphertext and tag. Safe to store.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Sealed(#[serde(with = "base64_bytes")] pub Vec<u8>);

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// Bytes as unpadded base64url text inside records.
pub(crate) mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: impl AsRef<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<Vec<u8>>>(deserializer: D) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(serde::de::Error::custom)?;
        T::try_from(bytes).map_err(|_| serde::de::Error::custom("wrong length"))
    }
}
